"""Heads of requests that do not end, sent to the gate's server over a socket."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from flows.local.servers import gate
from flows.local.servers.bounded_requests import BOUNDED, BoundedProtocol
from flows.local.servers.gate import Credentials, Gate

LOGIN = base64.b64encode(b"ecg:s3cret").decode()
HEAD_S = 0.3


class _Quick(BoundedProtocol):
    head_s = HEAD_S


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request after longer than a head may take, and echo what a WebSocket sends."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await receive()
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        return
    await asyncio.sleep(2 * HEAD_S)
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def port() -> Iterator[int]:
    """Port of a server whose gate checks the login."""
    with _serve(app_authenticates=False) as number:
        yield number


@pytest.fixture
def open_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Port of a server that checks the login itself, as Prefect's does in the first message."""
    monkeypatch.setattr(gate, "FIRST_MESSAGE_S", HEAD_S)
    with _serve(app_authenticates=True) as number:
        yield number


@contextmanager
def _serve(*, app_authenticates: bool) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = int(listener.getsockname()[1])
        app = Gate(
            _app,
            credentials=Credentials(user="ecg", password="s3cret"),  # noqa: S106  of this test
            port=number,
            app_authenticates=app_authenticates,
        )
        config = uvicorn.Config(
            app, **(BOUNDED | {"http": _Quick}), log_config=None, lifespan="off"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield number
        server.should_exit = True
        thread.join()


def _request(port: int) -> bytes:
    head = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Basic {LOGIN}\r\n\r\n"
    return head.encode()


def test_the_servers_wait_ten_seconds_for_a_head() -> None:
    assert BOUNDED["http"] is BoundedProtocol
    assert BoundedProtocol.head_s == 10.0


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_does_not_end_is_not_waited_for(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10.0) as client:
        client.sendall(sent)
        assert _is_closed(client)


def test_a_head_that_comes_a_byte_at_a_time_is_not_waited_for(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10.0) as client:
        client.settimeout(HEAD_S / 10)
        started_s = time.monotonic()
        with pytest.raises(ConnectionError):  # noqa: PT012  until the server closes
            for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 1000:
                client.sendall(bytes([byte]))
                try:
                    if client.recv(1) == b"":
                        raise ConnectionResetError
                except TimeoutError:
                    continue
        assert time.monotonic() - started_s < 10.0


def test_a_slow_answer_and_the_next_request_are_waited_for(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10.0) as client:
        for _ in range(2):
            client.sendall(_request(port))
            assert _read_answer(client).startswith(b"HTTP/1.1 200")
        client.sendall(_request(port)[:40])
        assert _is_closed(client)


def test_a_websocket_stays_open(port: int) -> None:
    headers = {"Authorization": f"Basic {LOGIN}"}
    with connect(f"ws://127.0.0.1:{port}/", additional_headers=headers, proxy=None) as client:
        time.sleep(2 * HEAD_S)  # longer than a head may take
        client.send("still here")
        assert client.recv(timeout=10.0) == "still here"


def test_a_websocket_without_a_login_and_without_a_message_is_closed(open_port: int) -> None:
    with (
        connect(f"ws://127.0.0.1:{open_port}/", proxy=None) as client,
        pytest.raises(ConnectionClosed),
    ):
        client.recv(timeout=60.0)


def test_a_websocket_that_sent_its_first_message_stays_open(open_port: int) -> None:
    with connect(f"ws://127.0.0.1:{open_port}/", proxy=None) as client:
        client.send("a login")
        assert client.recv(timeout=10.0) == "a login"
        time.sleep(2 * HEAD_S)
        client.send("still here")
        assert client.recv(timeout=10.0) == "still here"


def test_a_message_of_a_websocket_is_bounded(open_port: int) -> None:
    with connect(f"ws://127.0.0.1:{open_port}/", proxy=None, max_size=None) as client:
        client.send("x" * 2**20)
        assert len(client.recv(timeout=60.0)) == 2**20
        with pytest.raises(ConnectionClosed):  # noqa: PT012  it may be closed during the sending
            client.send("x" * 5 * 2**20)
            client.recv(timeout=60.0)


def _read_answer(client: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"ok"):
        part = client.recv(4096)
        assert part, answer
        answer += part
    return answer


def _is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True
