"""The configuration of a worker's server."""

from __future__ import annotations

from pathlib import Path

from bentos.routes.app import make_app
from bentos.worker import make_config
from ecg_lib.operations.settings import Settings


def test_a_busy_service_ends_no_stream_for_a_late_pong(tmp_path: Path) -> None:
    config = make_config(make_app(), Settings(home=tmp_path))
    assert config.ws_ping_interval is None
