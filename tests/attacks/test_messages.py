"""Requests that two programs may read differently, that never end, or that grow when read."""

from __future__ import annotations

import gzip
import json
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from bentos.runtime.limits import bodies, connections

POST = (
    b"POST /api/v1/predictions/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
)
INNER = b"GET /api/v1/model/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

SMUGGLED = [
    b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n{}\n" + INNER,
    b"Content-Length: 3, 4\r\n\r\n{}\n" + INNER,
    b"Content-Length: +3\r\n\r\n{}\n" + INNER,
    b"Content-Length: -1\r\n\r\n" + INNER,
    b"Content-Length: 0x3\r\n\r\n{}\n" + INNER,
    b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER,
    b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n" + INNER,
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + INNER,
    b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + INNER,
    b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\n{}\n" + INNER,
    b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + INNER,
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + INNER,
    b" Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER,
    b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + INNER,
    b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n" + INNER,
    b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + INNER,
    b"Transfer-Encoding: chunked\r\n\r\n0\n\n" + INNER,
    b"Content-Length: 3\rX: y\r\n\r\n{}\n" + INNER,
    b"X: a\x00b\r\nContent-Length: 0\r\n\r\n" + INNER,
    b"Content-Length: 99999999999999999999\r\n\r\n" + INNER,
]


@pytest.mark.parametrize("rest", SMUGGLED)
def test_no_second_request_hides_in_a_first(keyed: Any, rest: bytes) -> None:  # noqa: ANN401  of a conftest
    got = keyed.send(POST + rest, timeout_s=1.0)
    assert b" 200 OK" not in got
    assert b" 201 " not in got
    assert b"bundle_hash" not in got
    assert got.count(b"HTTP/1.1 ") == 1, got
    assert b"HTTP/1.1 400" in got or b"HTTP/1.1 401" in got


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("X-API-Key", "alice", "wrong"),
        ("X-API-Key", "wrong", "alice"),
        ("x-api-key", "alice", "alice"),
        ("Host", "127.0.0.1", "evil.example"),
        ("Host", "evil.example", "127.0.0.1"),
        ("Origin", "http://127.0.0.1", "https://evil.example"),
        ("Content-Type", "application/json", "text/plain"),
        ("Content-Encoding", "gzip", "deflate"),
    ],
)
def test_a_header_that_is_there_twice_is_rejected(
    keyed: Any,  # noqa: ANN401  of a conftest
    name: str,
    first: str,
    second: str,
) -> None:
    host = "" if name == "Host" else "Host: 127.0.0.1\r\n"
    key = "" if name.lower() == "x-api-key" else "X-API-Key: alice\r\n"
    got = keyed.send(
        f"GET /api/v1/model/ HTTP/1.1\r\n{host}{key}{name}: {first}\r\n{name}: {second}\r\n"
        "Connection: close\r\n\r\n".encode()
    )
    assert got.startswith(b"HTTP/1.1 400 ")
    assert b"/problems/repeated-header" in got


def chunked(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)


FLOODS = {
    "one long header": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000,
    "a header of 4 MiB": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "
    + b"a" * 2**22
    + b"\r\n\r\n",
    "many headers": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    + b"".join(b"X-%d: %d\r\n" % (n, n) for n in range(10_000)),
    "a long path": b"GET /" + b"a" * 100_000,
    "a long query": b"GET /health?" + b"a=b&" * 30_000,
    "a long method": b"G" * 100_000,
    "a long name": b"GET /health HTTP/1.1\r\n" + b"a" * 100_000,
    "a folded header": b"GET /health HTTP/1.1\r\nX: a" + b"\r\n b" * 30_000,
    "empty lines": b"\r\n" * 100_000,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_the_head_of_a_request_is_bounded(keyed: Any, flood: bytes) -> None:  # noqa: ANN401  of a conftest
    got = keyed.send(flood, timeout_s=5.0)
    assert b" 200 " not in got
    # A client that goes on sending may see the reset before the answer.
    assert got[:12] in {b"HTTP/1.1 431", b"HTTP/1.1 400", b""}


@pytest.mark.parametrize("size", [1000, 16_000, 30_000])
def test_a_head_within_the_limit_is_answered(keyed: Any, size: int) -> None:  # noqa: ANN401  of a conftest
    got = keyed.send(
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nX: "
        + b"a" * size
        + b"\r\n\r\n"
    )
    assert got.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "tail",
    [
        b"0\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(20_000)),
        b"0\r\nX: " + b"a" * 200_000,
        b"1;" + b"a" * 200_000,
    ],
    ids=["trailers", "a long trailer", "a chunk extension"],
)
def test_what_surrounds_a_body_in_chunks_is_bounded(keyed: Any, tail: bytes) -> None:  # noqa: ANN401  of a conftest
    head = POST + b"X-API-Key: alice\r\nTransfer-Encoding: chunked\r\n\r\n"
    start = time.monotonic()
    got = keyed.send(head + tail, timeout_s=5.0)
    assert b" 201 " not in got
    assert time.monotonic() - start < 4


SLOW = {
    "nothing": b"",
    "half a request line": b"GET /hea",
    "half a header": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
    "empty lines": b"\r\n\r\n",
    "half a request after a whole one": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /",
}


@pytest.mark.parametrize("sent", SLOW.values(), ids=SLOW)
def test_a_request_that_does_not_come_is_not_waited_for(
    keyed: Any,  # noqa: ANN401  of a conftest
    monkeypatch: pytest.MonkeyPatch,
    sent: bytes,
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.2)
    monkeypatch.setattr(connections, "_CHECK_S", 0.05)
    start = time.monotonic()
    got = keyed.send(sent, timeout_s=5.0)
    assert time.monotonic() - start < 3
    assert got.endswith(b'"status":408}')


def test_an_empty_line_does_not_keep_an_idle_connection_open(
    keyed: Any,  # noqa: ANN401  of a conftest
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.2)
    monkeypatch.setattr(connections, "_CHECK_S", 0.05)
    with socket.create_connection(keyed.address, timeout=5.0) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        time.sleep(0.3)  # an idle connection may stay longer than that
        connection.sendall(b"\r\n")
        got = b""
        while piece := connection.recv(65536):
            got += piece
    assert got.endswith(b'"status":408}')


def test_a_new_connection_takes_the_place_of_the_one_that_is_idle_longest(
    keyed: Any,  # noqa: ANN401  of a conftest
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keyed.protocol, "registry", connections.Connections(3))
    idle = [socket.create_connection(keyed.address, timeout=5.0) for _ in range(3)]
    while len(keyed.protocol.registry) < 3:
        time.sleep(0.01)
    got = keyed.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200 ")
    assert idle[0].recv(1) == b""

    for connection in idle:
        connection.close()


def bomb(size: int) -> bytes:
    return gzip.compress(b'{"signal_data": [' + b"0," * (size // 2) + b"0]}", 9, mtime=0)


@cache
def gzip_bomb() -> bytes:
    return bomb(2**28)


@cache
def deflate_bomb() -> bytes:
    return zlib.compress(b" " * 2**28)


@pytest.mark.parametrize(
    ("encoding", "body", "status", "name"),
    [
        ("gzip", gzip_bomb, 413, "body-too-large"),
        ("deflate", deflate_bomb, 413, "body-too-large"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-4], 400, "malformed-encoding"),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"x", 400, "malformed-encoding"),
        ("gzip", gzip.compress(b"{}", mtime=0) * 2, 400, "malformed-encoding"),
        ("gzip", b"{}", 400, "malformed-encoding"),
        ("deflate", b"{}", 400, "malformed-encoding"),
        ("gzip", b"", 400, "malformed-encoding"),
        (
            "gzip, gzip",
            gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0),
            415,
            "content-encoding-unsupported",
        ),
        ("br", b"{}", 415, "content-encoding-unsupported"),
        ("zstd", b"{}", 415, "content-encoding-unsupported"),
        ("compress", b"{}", 415, "content-encoding-unsupported"),
        ("<script>", b"{}", 415, "content-encoding-unsupported"),
        ("gzip", gzip.compress(b"{", mtime=0), 400, "malformed-json"),
    ],
    ids=range(14),
)
@pytest.mark.parametrize("path", ["/api/v1/predictions/", "/api/v1/feedback/"])
def test_a_compressed_body_is_read_within_limits(
    keyed: Any,  # noqa: ANN401  of a conftest
    path: str,
    encoding: str,
    body: bytes | Callable[[], bytes],
    status: int,
    name: str,
) -> None:
    content = body if isinstance(body, bytes) else body()
    answered = keyed.ask(
        "POST", path, "alice",
        headers={"Content-Type": "application/json", "Content-Encoding": encoding}, content=content,
    )  # fmt: skip
    assert (answered.status_code, answered.json()["type"]) == (status, f"/problems/{name}")
    assert encoding != "<script>" or "script" not in answered.text.replace("'<script>'", "")


def test_other_requests_are_answered_while_a_bomb_is_read(
    keyed: Any,  # noqa: ANN401  of a conftest
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces = 0
    expand = bodies._expand

    def slow(*arguments: Any) -> Iterator[bytes]:  # noqa: ANN401  those of `_expand`
        nonlocal pieces
        for piece in expand(*arguments):
            pieces += 1
            time.sleep(0.05)
            yield piece

    monkeypatch.setattr(bodies, "_expand", slow)
    head = POST + b"X-API-Key: alice\r\nContent-Encoding: gzip\r\n"
    body = bomb(2**25)
    with socket.create_connection(keyed.address, timeout=30.0) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        while not pieces:
            time.sleep(0.01)
        assert keyed.ask("GET", "/health").status_code == 200
        assert pieces < 60  # of 64
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "deflate", "identity"])
def test_a_compressed_strip_is_answered(keyed: Any, strip: dict[str, Any], encoding: str) -> None:  # noqa: ANN401  of a conftest
    body = json.dumps(strip).encode()
    packed = {"deflate": zlib.compress(body), "identity": body}.get(encoding, gzip.compress(body))
    answered = keyed.ask(
        "POST", "/api/v1/predictions/", "alice",
        headers={"Content-Type": "application/json", "Content-Encoding": encoding}, content=packed,
    )  # fmt: skip
    assert answered.status_code == 201


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 100_000, 400),
        (b'{"signal_data":' * 1000, 400),
        (b'{"signal_data": [' + b"1," * 2_000_000 + b"1]}", 422),
        (b'{"signal_data": [1e999]}', 422),
        (b'{"signal_data": [NaN]}', 422),
        (b'{"signal_data": [' + b"9" * 100_000 + b"]}", 400),
        (b"{" + b",".join(b'"a%d":1' % n for n in range(40_000)) + b"}", 422),
        (b'{"signal_data": "' + b"a" * 1_000_000 + b'"}', 422),
        (b"\xff\xfe{}", 400),
        (b"\x00", 400),
        (b"", 400),
        (b" " * 16 * 2**20 + b"{}", 413),
    ],
    ids=range(12),
)
def test_a_body_that_is_meant_to_hurt_is_rejected_soon(
    keyed: Any,  # noqa: ANN401  of a conftest
    body: bytes,
    status: int,
) -> None:
    for _ in range(2):  # a long one is read by a process, which may have to start first
        start = time.monotonic()
        answered = keyed.ask(
            "POST", "/api/v1/predictions/", "alice",
            headers={"Content-Type": "application/json"}, content=body,
        )  # fmt: skip
        assert answered.status_code == status
        assert len(answered.content) < 5000
    assert time.monotonic() - start < 3
