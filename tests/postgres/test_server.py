"""The PostgreSQL server of the tests."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.doors.addresses import PROJECT_DIR
from tests.postgres.server import _version_of, find_programs

SERVE = """
from tests.postgres.server import find_programs, serving
import time
with serving(find_programs()) as server:
    print(server.port, server.directory, flush=True)
    time.sleep(600)
"""


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_a_server_ends_with_tests_that_are_killed() -> None:
    if find_programs() is None:
        pytest.skip("there is no PostgreSQL server here: initdb was not found")
    with subprocess.Popen(
        [sys.executable, "-c", SERVE],
        cwd=PROJECT_DIR,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port, place = process.stdout.readline().split()
        assert _listens(int(port))
        process.kill()
    deadline_s = time.monotonic() + 60
    while _listens(int(port)) or Path(place).exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_the_newest_version_is_not_that_of_the_highest_first_digit() -> None:
    places = [Path(f"/usr/lib/postgresql/{name}/bin") for name in ("9.6", "15", "13")]
    assert max(places, key=_version_of) == places[1]
