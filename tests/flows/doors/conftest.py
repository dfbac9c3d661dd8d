"""A file server for the tests of downloads."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.flows.doors.file_server import CONTENTS, Server, served


@pytest.fixture
def server() -> Iterator[Server]:
    with served(dict(CONTENTS)) as running:
        yield running


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def closed_url() -> Iterator[str]:
    with socket.socket() as deaf:  # bound, so that nobody else gets the port, but not listening
        deaf.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{deaf.getsockname()[1]}/"
