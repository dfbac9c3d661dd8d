"""A web server on this machine that knows ranges and fails on demand."""

from __future__ import annotations

import hashlib
import re
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

from flows.doors.archives.download import DownloadLimits, PublishedFile

ROOT = Path(__file__).parents[3]
QUICK = DownloadLimits(read_timeout_s=5.0, attempts=3, backoff_s=0.01, max_wait_s=5.0)


def bytes_of(seed: int, size: int) -> bytes:
    return hashlib.shake_128(seed.to_bytes(4, "big")).digest(size)


CONTENTS = {
    "900.hea": b"900 2 360 65000\n",
    "900.dat": bytes_of(1, 195_000),
    "900.atr": bytes_of(2, 4_001),
    "901.dat": bytes_of(3, 200_000),
}


def publish(contents: dict[str, bytes]) -> dict[str, PublishedFile]:
    return {
        name: PublishedFile(hashlib.sha256(content).hexdigest(), len(content))
        for name, content in contents.items()
    }


FILES = publish(CONTENTS)
ONLY_DAT = {"900.dat": FILES["900.dat"]}


@dataclass(frozen=True)
class Request:
    """A request to the server, and how much of a body it sent."""

    name: str
    headers: dict[str, str]
    sent: list[int] = field(default_factory=list)

    @property
    def byte_range(self) -> str | None:
        return self.headers.get("range")

    @property
    def n_sent(self) -> int:
        return sum(self.sent)


class Handler(BaseHTTPRequestHandler):
    """Serve `contents` with ranges, unless a fault waits for the file asked for."""

    protocol_version = "HTTP/1.1"
    request_seen: Request

    @property
    def owner(self) -> Server:
        return cast("Server", self.server)

    def do_HEAD(self) -> None:
        content = self.owner.contents.get(self.path.rsplit("/", 1)[-1], b"")
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.request_seen = Request(name, headers)
        self.owner.requests.append(self.request_seen)
        faults = self.owner.faults[name]
        if faults:
            faults.popleft()(self, name)
        else:
            self.serve(name)

    def serve(self, name: str) -> None:
        content = self.owner.contents.get(name)
        if content is None:
            self.refuse(404)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", self.request_seen.byte_range or "")
        if_range = self.request_seen.headers.get("if-range", self.owner.etag)
        start = int(wanted[1]) if wanted and if_range == self.owner.etag else 0
        if start and start >= len(content):
            self.refuse(416)
            return
        self.begin(206 if start else 200, len(content) - start)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.send(content[start:])

    def begin(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", self.owner.etag)

    def send(self, body: bytes) -> None:
        # Noted first: the client may be done before this thread goes on.
        self.request_seen.sent.append(len(body))
        self.wfile.write(body)

    def refuse(self, status: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


Fault = Callable[[Handler, str], None]


class Server(ThreadingHTTPServer):
    """A web server on a free port of this machine."""

    daemon_threads = True

    def __init__(self, contents: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents = contents
        self.etag = '"one"'
        self.requests: list[Request] = []
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.is_over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/mitdb/1.0.0/"

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        if not isinstance(sys.exception(), ConnectionError):  # clients that hang up are the point
            super().handle_error(request, client_address)


@contextmanager
def served(contents: dict[str, bytes]) -> Iterator[Server]:
    with Server(contents) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.is_over.set()
            server.shutdown()
            thread.join()


def answer(status: int, **headers: str) -> Fault:
    return lambda handler, _: handler.refuse(status, **headers)


def send_wrong_bytes(handler: Handler, name: str) -> None:
    content = handler.owner.contents[name]
    handler.begin(200, len(content))
    handler.end_headers()
    handler.send(content[:-1] + bytes([content[-1] ^ 1]))


def drop_after(n_bytes: int) -> Fault:
    """Announce all, send `n_bytes`, hang up."""

    def fault(handler: Handler, name: str) -> None:
        handler.begin(200, len(handler.owner.contents[name]))
        handler.end_headers()
        handler.send(handler.owner.contents[name][:n_bytes])
        handler.close_connection = True

    return fault


def stall_after(n_bytes: int) -> Fault:
    """Announce all, send `n_bytes`, then nothing until the server ends."""

    def fault(handler: Handler, name: str) -> None:
        handler.begin(200, len(handler.owner.contents[name]))
        handler.end_headers()
        handler.send(handler.owner.contents[name][:n_bytes])
        handler.owner.is_over.wait()
        handler.close_connection = True

    return fault


def ignore_range(handler: Handler, name: str) -> None:
    handler.begin(200, len(handler.owner.contents[name]))
    handler.end_headers()
    handler.send(handler.owner.contents[name])


def send_without_end(handler: Handler, _: str) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while not handler.owner.is_over.is_set():
        handler.wfile.write(b"10000\r\n")
        handler.send(bytes(65536))
        handler.wfile.write(b"\r\n")


def read_all(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}
