"""A flow run that cannot be started is one readable error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.local.flow_runs import FlowRunError, run_and_follow


class _Closed(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()

    do_POST = do_GET  # noqa: N815  the name that http.server calls

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def closed_server() -> Iterator[str]:
    """A server that accepts no login."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Closed)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/api"
    server.shutdown()
    thread.join()
    server.server_close()


def _follow(url: str) -> None:
    with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}):
        run_and_follow("pipeline", report=print)


def test_a_server_with_another_login_is_named(closed_server: str) -> None:
    with pytest.raises(FlowRunError, match="401: the login is not that of this server"):
        _follow(closed_server)


def test_a_server_that_does_not_run_is_named() -> None:
    with pytest.raises(FlowRunError, match=r"Prefect must be running at http://127.0.0.1:1/api"):
        _follow("http://127.0.0.1:1/api")


class _Busy(_Closed):
    """Its database is busy for the first two requests; then it knows no deployment."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(503 if self.asked <= 2 else 404)
        self.end_headers()


def test_a_server_that_is_busy_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.local.flow_runs._POLL_S", 0.01)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Busy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with pytest.raises(FlowRunError, match="there must be a deployment pipeline/pipeline"):
            _follow(f"http://127.0.0.1:{server.server_address[1]}/api")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert _Busy.asked == 3
