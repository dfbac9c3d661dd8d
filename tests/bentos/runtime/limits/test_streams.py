"""The table of sessions, over the workers of a host, and the connections that cost too much."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from pathlib import Path

import pytest
import uvicorn
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from bentos.runtime.limits import connections, sessions, streams
from bentos.runtime.limits.connections import GuardedWebSocket
from bentos.runtime.limits.sessions import Sessions
from bentos.runtime.limits.streams import Batches, Streams
from bentos.wire.problems import ProblemError


def test_the_latest_connection_holds_a_session_over_all_workers(tmp_path: Path) -> None:
    one, other = Sessions(tmp_path / "table"), Sessions(tmp_path / "table")
    first = one.claim("mine")
    neighbour = other.claim("yours")
    assert one.holds("mine", first)
    second = other.claim("mine")
    assert not one.holds("mine", first)
    assert one.holds("mine", second)
    one.release("mine", first)  # the earlier one takes nothing with it
    assert other.holds("mine", second)
    assert not other.holds("mine", first)
    assert one.holds("yours", neighbour)
    assert (tmp_path / "table").stat().st_mode & 0o777 == 0o600


def test_a_session_that_is_pushed_out_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_SLOTS", 8)
    table = Sessions()
    claimed = {f"session {number}": table.claim(f"session {number}") for number in range(20)}
    assert all(table.holds(name, connection) for name, connection in claimed.items())
    for name, connection in claimed.items():
        table.release(name, connection)
    again = table.claim("session 0")
    assert table.holds("session 0", again)
    assert not table.holds("session 0", claimed["session 0"])


def test_a_process_carries_so_many_leads() -> None:
    carried = Streams(2)
    carried.enter()
    carried.enter()
    with pytest.raises(ProblemError, match="has 2 live leads") as refused:
        carried.enter()
    assert (refused.value.kind.status, refused.value.retry_after_s) == (503, 5)
    carried.leave()
    carried.enter()
    carried.close()


def test_windows_are_analysed_in_one_batch_and_short_ones_first() -> None:
    analysed: list[tuple[str, str]] = []

    def analyze(name: str) -> str:
        analysed.append((name, threading.current_thread().name))
        return name.upper()

    async def run() -> list[str]:
        batches = Batches()
        waiting = [
            asyncio.ensure_future(batches.run(partial(analyze, name), is_long=is_long, waits=True))
            for name, is_long in (("block", True), ("look", False), ("other look", False))
        ]
        await asyncio.sleep(0)
        assert analysed == []  # more may come
        results = list(await asyncio.gather(*waiting))
        batches.close()
        return results

    assert asyncio.run(run()) == ["BLOCK", "LOOK", "OTHER LOOK"]
    assert [name for name, _ in analysed] == ["look", "other look", "block"]
    assert {thread for _, thread in analysed} == {"live_0"}


def test_a_window_that_does_not_wait_starts_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "GATHER_S", 3600.0)

    async def run() -> list[int]:
        batches = Batches()
        waits = asyncio.ensure_future(batches.run(lambda: 1, waits=True))
        await asyncio.sleep(0)
        results = [await batches.run(lambda: 2), await waits]
        batches.close()
        return results

    assert asyncio.run(run()) == [2, 1]


def test_work_that_comes_while_a_batch_runs_is_part_of_it() -> None:
    async def run() -> int:
        batches, may_end = Batches(), threading.Event()
        first = asyncio.ensure_future(batches.run(lambda: may_end.wait(180)))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(batches.run(lambda: 2, waits=True))
        await asyncio.sleep(0)
        may_end.set()
        assert await first
        result = await second
        batches.close()
        return result

    assert asyncio.run(run()) == 2


def test_a_result_does_not_wait_for_a_long_window_after_it() -> None:
    async def run() -> bool:
        batches, may_end = Batches(), threading.Event()
        block = asyncio.ensure_future(
            batches.run(lambda: may_end.wait(180), is_long=True, waits=True)
        )
        await batches.run(lambda: None, waits=True)
        may_end.set()
        is_first = await block
        batches.close()
        return is_first

    assert asyncio.run(run())


def test_no_batch_starts_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "GATHER_S", 0.01)
    failures: list[object] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, failure: failures.append(failure))
        batches = Batches()
        waiting = asyncio.ensure_future(batches.run(lambda: 1, waits=True))
        await asyncio.sleep(0)
        waiting.cancel()
        batches.close()
        await asyncio.sleep(0.1)

    asyncio.run(run())
    assert failures == []


def test_an_error_of_a_window_is_raised_to_its_stream_alone() -> None:
    async def run() -> list[object]:
        batches = Batches()
        results = await asyncio.gather(
            batches.run(lambda: 1 / 0, waits=True),
            batches.run(lambda: "fine", waits=True),
            return_exceptions=True,
        )
        batches.close()
        return list(results)

    failed, fine = asyncio.run(run())
    assert isinstance(failed, ZeroDivisionError)
    assert fine == "fine"


def test_a_stream_that_has_ended_is_not_analysed() -> None:
    analysed: list[int] = []

    async def run() -> None:
        batches = Batches()
        ended = asyncio.ensure_future(batches.run(lambda: analysed.append(1), waits=True))
        await asyncio.sleep(0)
        ended.cancel()
        await asyncio.sleep(0)
        await batches.run(lambda: analysed.append(2))
        batches.close()

    asyncio.run(run())
    assert analysed == [2]


class Transport:
    """Notes what is done with it."""

    def __init__(self) -> None:
        self.is_aborted = self.is_closed = self.is_paused = False
        self.written = b""

    def abort(self) -> None:
        self.is_aborted = True

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def get_extra_info(self, _name: str) -> None:
        """Know nothing of the connection."""


async def _open_socket() -> tuple[GuardedWebSocket, Transport]:
    async def app(_scope: object, _receive: object, _send: object) -> None:
        """Serve nothing."""

    socket = GuardedWebSocket(uvicorn.Config(app), ServerState(), {})
    transport = Transport()
    socket.transport = transport  # type: ignore[assignment]  # a part of one
    return socket, transport


@pytest.mark.parametrize("takes_again", [False, True])
def test_a_client_that_takes_nothing_for_long_is_dropped(
    takes_again: bool,  # noqa: FBT001  a parameter
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "_STALLED_S", 0.05)

    async def stall() -> bool:
        socket, transport = await _open_socket()
        socket.pause_writing()
        if takes_again:
            socket.resume_writing()
        await asyncio.sleep(0.3)
        return transport.is_aborted

    assert asyncio.run(stall()) is not takes_again


def test_a_client_that_pings_too_often_is_dropped() -> None:
    async def ping() -> list[bool]:
        socket, transport = await _open_socket()
        dropped = []
        for _ in range(61):
            socket.handle_ping()
            dropped.append(transport.is_aborted)
        return dropped

    assert asyncio.run(ping()) == [False] * 60 + [True]


HEAD = (
    "GET /api/v1/live/ HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def _frame(data: bytes, *, opcode: Opcode = Opcode.BINARY, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin=fin).serialize(mask=True)


async def _hand_over(*frames: bytes, head: str = HEAD) -> tuple[GuardedWebSocket, Transport]:
    socket, transport = await _open_socket()
    socket.connection_made(transport)  # type: ignore[arg-type]  # a part of one
    socket.data_received(f"{head}\r\n".encode())
    if socket.handshake_initiated and socket.conn.handshake_exc is None:
        await socket.send({"type": "websocket.accept"})
    for frame in frames:
        socket.data_received(frame)
    return socket, transport


@pytest.mark.parametrize(("n_empty", "is_aborted"), [(1023, False), (1024, True)])
def test_a_message_in_too_many_fragments_is_refused(
    n_empty: int,
    is_aborted: bool,  # noqa: FBT001  a parameter
) -> None:
    first = _frame(b"", fin=False)
    others = [_frame(b"", opcode=Opcode.CONT, fin=False)] * n_empty
    _, transport = asyncio.run(_hand_over(first, *others))
    assert transport.is_aborted is is_aborted


def test_a_frame_that_is_not_one_closes_the_connection() -> None:
    socket, transport = asyncio.run(_hand_over(b"\xff\xff\xff"))
    assert transport.is_closed
    assert socket.conn.close_sent is not None
    assert socket.conn.close_sent.code == 1002


@pytest.mark.parametrize(
    "wrong",
    [b"\xff\xff\xff", _frame(b"\xff", opcode=Opcode.TEXT), _frame(b"\x01", opcode=Opcode.CLOSE)],
    ids=["no frame", "bad UTF-8", "bad close"],
)
def test_a_client_is_gone_after_a_wrong_frame_even_if_the_application_is_at_work(
    wrong: bytes,
) -> None:
    async def answer() -> None:
        socket, _ = await _hand_over(wrong)
        with pytest.raises(ClientDisconnected):
            await socket.send({"type": "websocket.send", "text": "beats of an earlier message"})

    asyncio.run(answer())


def test_a_text_that_is_not_utf_8_closes_the_connection_without_an_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts = _frame(b"\xc3", opcode=Opcode.TEXT, fin=False), _frame(b"\xa9", opcode=Opcode.CONT)
    socket, _ = asyncio.run(_hand_over(*parts))  # one character in two fragments
    assert socket.conn.close_sent is None
    socket, transport = asyncio.run(_hand_over(_frame(b"\xff", opcode=Opcode.TEXT)))
    assert transport.is_closed
    assert socket.conn.close_sent is not None
    assert socket.conn.close_sent.code == 1007
    assert caplog.records == []


def test_connections_that_clients_do_not_end_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_MOST_CLOSING", 2)
    monkeypatch.setattr(GuardedWebSocket, "closing", {})

    async def close() -> tuple[list[bool], int]:
        opened = [await _hand_over() for _ in range(4)]
        for socket, _ in opened[:3]:
            await socket.send({"type": "websocket.close", "code": 4422, "reason": "wrong"})
        aborted = [transport.is_aborted for _, transport in opened]
        for socket, _ in opened:
            socket.connection_lost(None)
        return aborted, len(GuardedWebSocket.closing)

    assert asyncio.run(close()) == ([True, False, False, False], 0)


def test_a_head_that_the_web_socket_library_refuses_is_answered() -> None:
    _, transport = asyncio.run(_hand_over(head=f"{HEAD}X-Long: {'x' * 9000}\r\n"))
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    assert transport.is_closed


def test_reading_pauses_when_messages_wait() -> None:
    async def count() -> tuple[list[bool], bool]:
        socket, transport = await _hand_over()
        paused = []
        for _ in range(9):
            socket.data_received(_frame(b"samples"))
            paused.append(transport.is_paused)
        while not socket.queue.empty():
            await socket.receive()
        return paused, transport.is_paused

    paused, is_paused = asyncio.run(count())
    assert paused == [False] * 7 + [True] * 2  # the connection itself is the first
    assert not is_paused


def test_reading_pauses_at_a_large_message() -> None:
    _, transport = asyncio.run(_hand_over(_frame(bytes(4097))))
    assert transport.is_paused
    _, transport = asyncio.run(_hand_over(_frame(bytes(4096))))
    assert not transport.is_paused
