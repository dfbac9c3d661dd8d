"""The client of a lead that streams, against a service whose connections break."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from bentos.client import ServiceProblemError, UnexpectedAnswerError, UnreachableError
from bentos.client.live_stream import Change, LiveBeat, LiveStream
from bentos.runtime.live_model import LoadedModel
from bentos.wire.live_messages import SUBPROTOCOL
from tests.bentos.conftest import LIVE_FS

pytestmark = pytest.mark.usefixtures("short_blocks")

FS = LIVE_FS
NOBODY = "http://127.0.0.1:1"
"""An address at which no service listens."""
FULL = 210_001
"""Samples that fill a buffer of 1050 s: the next ones must wait."""


class Relay:
    """Forwards connections to a service, until they are cut."""

    def __init__(self, url: str) -> None:
        self.target = url
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                host, _, port = self.target.removeprefix("http://").rpartition(":")
                try:
                    far = socket.create_connection((host, int(port)))
                except OSError:
                    near.close()
                    continue
                self._pairs.append((near, far))
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=(one, other), daemon=True).start()

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Break all connections."""
        while self._pairs:
            for one in self._pairs.pop():
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

    def close(self) -> None:
        self._listener.close()
        self.cut()


@pytest.fixture
def relay(service: Any) -> Iterator[Relay]:  # noqa: ANN401  of a conftest
    relay = Relay(service.url)
    yield relay
    relay.close()


def _finals(changes: list[Change]) -> list[LiveBeat]:
    final = [one for one in changes if one.is_final]
    for before, after in pairwise(final):
        assert before.stop == after.start
    return [beat for one in final for beat in one.beats]


def _missing(changes: list[Change]) -> int:
    """Count the samples that are missing."""
    stretches = [one for change in changes if change.is_final for one in change.unreadable]
    return sum(one["end_sample"] - one["start_sample"] for one in stretches)


@pytest.fixture(scope="module")
def unbroken(service: Any, signal: NDArray[np.float32]) -> list[LiveBeat]:  # noqa: ANN401  of a conftest
    with LiveStream(service.url, sampling_rate=FS) as stream:
        assert stream.write(signal) == len(signal)
        beats = _finals(stream.finish(180))
        assert (stream.written_to, stream.final_to) == (len(signal), len(signal))
        assert stream.read() == []
        assert stream.connections == 1
    assert len(beats) > 80
    return beats


def _wait_for_connection(stream: LiveStream) -> None:
    pause = threading.Event()
    while not stream.connections:  # the time limit of a test ends it
        pause.wait(0.02)


def _wait_for_final(stream: LiveStream) -> list[Change]:
    changes: list[Change] = []
    pause = threading.Event()
    for _ in range(3600):
        changes += stream.read()
        if any(one.is_final for one in changes):
            return changes
        pause.wait(0.05)
    pytest.fail("no beat became final")


def test_a_connection_that_breaks_changes_no_final_beat(
    relay: Relay, signal: NDArray[np.float32], unbroken: list[LiveBeat]
) -> None:
    with LiveStream(relay.url, sampling_rate=FS) as stream:
        stream.write(signal[: round(45 * FS)])
        changes = _wait_for_final(stream)
        relay.cut()
        stream.write(signal[round(45 * FS) :])
        changes += stream.finish(180)
        assert stream.connections == 2
        assert stream.lost_samples == 0
    assert _finals(changes) == unbroken


def test_a_service_that_starts_again_changes_no_final_beat(
    relay: Relay,
    service: Any,  # noqa: ANN401  of a conftest
    toy_model: LoadedModel,
    tmp_path: Path,
    signal: NDArray[np.float32],
    unbroken: list[LiveBeat],
) -> None:
    first = type(service)(tmp_path)
    first.runtime.live.use(toy_model)
    relay.target = first.url
    with LiveStream(relay.url, sampling_rate=FS) as stream:
        stream.write(signal[: round(45 * FS)])
        changes = _wait_for_final(stream)
        first.close()
        relay.target = service.url
        stream.write(signal[round(45 * FS) :])
        changes += stream.finish(180)
        assert stream.connections == 2
    assert _finals(changes) == unbroken


def test_a_gap_moves_the_clock(relay: Relay, signal: NDArray[np.float32]) -> None:
    with LiveStream(relay.url, sampling_rate=FS) as stream:
        stream.write(signal[:6000])
        stream.gap(2000)
        stream.write(signal[8000:12_000])
        changes = stream.finish(180)
        assert stream.written_to == 12_000
    assert _missing(changes) == 2000
    after = next(beat for beat in _finals(changes) if beat.position_sample >= 8000)
    assert after.rr_previous is None


def test_a_stream_without_room_drops_its_oldest_samples_and_reports_them_missing(
    service: Any,  # noqa: ANN401  of a conftest
    relay: Relay,
    signal: NDArray[np.float32],
) -> None:
    relay.target = NOBODY
    with LiveStream(relay.url, sampling_rate=FS, buffer_s=20.0, drops_oldest=True) as stream:
        for start in range(0, 10_000, 100):
            stream.write(signal[start : start + 100])
        assert stream.lost_samples == 6000
        relay.target = service.url
        changes = stream.finish(180)
        assert stream.final_to == 10_000
    assert _missing(changes) == 6000
    assert _finals(changes)[0].position_sample >= 6000


def test_a_write_without_room_waits_until_the_service_has_samples(
    relay: Relay, signal: NDArray[np.float32]
) -> None:
    long = np.resize(signal, FULL)
    target, relay.target = relay.target, NOBODY
    with (
        ThreadPoolExecutor(1) as pool,
        LiveStream(relay.url, sampling_rate=FS, buffer_s=1050.0) as stream,
    ):
        stream.write(long)
        waits = pool.submit(stream.write, signal[:100])
        with pytest.raises(TimeoutError):
            waits.result(0.3)
        assert stream.written_to == FULL
        relay.target = target
        assert waits.result(180) == 100
        assert stream.written_to == FULL + 100
        assert stream.lost_samples == 0


def test_a_write_without_room_gives_up_when_the_service_stays_away(
    relay: Relay, signal: NDArray[np.float32]
) -> None:
    relay.target = NOBODY
    long = np.resize(signal, FULL)
    with LiveStream(relay.url, sampling_rate=FS, buffer_s=1050.0, give_up_s=2.0) as stream:
        stream.write(long)
        with pytest.raises(UnreachableError, match="cannot be reached"):
            stream.write(signal[:100])
        assert stream.written_to == FULL


def test_closing_wakes_a_write_that_waits(relay: Relay) -> None:
    relay.target = NOBODY
    stream = LiveStream(relay.url, sampling_rate=FS, buffer_s=1050.0)
    stream.write(np.zeros(FULL))
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(stream.write, np.zeros(1))
        stream.close()
        with pytest.raises(ValueError, match="is finished"):
            waits.result(180)


def test_closing_wakes_a_finish_that_waits(relay: Relay) -> None:
    relay.target = NOBODY
    stream = LiveStream(relay.url, sampling_rate=FS)
    stream.write(np.zeros(10))
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(stream.finish, 180)
        stream.close()
        with pytest.raises(ValueError, match="is closed"):
            waits.result(180)


def test_a_stream_that_another_connection_replaced_raises(
    service: Any,  # noqa: ANN401  of a conftest
    signal: NDArray[np.float32],
) -> None:
    with LiveStream(service.url, sampling_rate=FS, session="one-session-of-two") as first:
        first.write(signal[:1000])
        _wait_for_connection(first)
        with LiveStream(service.url, sampling_rate=FS, session="one-session-of-two") as second:
            second.write(signal[:1000])
            _wait_for_connection(second)
            with pytest.raises(ServiceProblemError) as replaced:
                first.finish(180)
            second.finish(180)
        assert replaced.value.name == "stream-replaced"
        with pytest.raises(ServiceProblemError):
            first.write(signal[:10])
        first.read()  # what came before
        with pytest.raises(ServiceProblemError):
            first.read()


@pytest.mark.parametrize(
    ("path", "sampling_rate", "status", "name"),
    [
        ("", 50.0, 422, "sampling-rate-out-of-range"),
        ("", 1001.0, 422, "sampling-rate-out-of-range"),
        ("/nowhere", FS, 403, ""),
    ],
)
def test_a_refusal_of_the_service_is_raised(
    service: Any,  # noqa: ANN401  of a conftest
    path: str,
    sampling_rate: float,
    status: int,
    name: str,
) -> None:
    with (
        LiveStream(f"{service.url}{path}", sampling_rate=sampling_rate) as stream,
        pytest.raises(ServiceProblemError) as refused,
    ):
        stream.finish(180)
    assert (refused.value.status, refused.value.name) == (status, name)


def test_wrong_arguments_are_refused(service: Any) -> None:  # noqa: ANN401  of a conftest
    with pytest.raises(ValueError, match="http://"):
        LiveStream("ftp://127.0.0.1", sampling_rate=FS)
    with pytest.raises(ValueError, match="buffer_s must be at least 1050 at 200 Hz"):
        LiveStream(service.url, sampling_rate=FS, buffer_s=1049.0)
    with LiveStream(service.url, sampling_rate=FS) as stream:
        with pytest.raises(ValueError, match="of one lead"):
            stream.write(np.zeros((2, 5)))
        with pytest.raises(ValueError, match="at least one sample"):
            stream.gap(0)
        stream.write(np.zeros(500))
        stream.finish(180)
        with pytest.raises(ValueError, match="is finished"):
            stream.write(np.zeros(5))


BEAT: dict[str, Any] = {
    "position_sample": 5,
    "arrhythmia_type": None,
    "probability_v": None,
    "rr_previous": None,
    "quality": "unreadable",
    "rule": None,
}
"""A beat of the service that is faked below."""


@contextlib.contextmanager
def _serve(*scripts: list[dict[str, Any]]) -> Iterator[str]:
    """Answer each ``finish`` with the next script, and close the connection as a restart does."""
    left = list(scripts)

    def answer(connection: ServerConnection) -> None:
        connection.recv()
        connection.send(json.dumps({"type": "started", "send_from": 0}))
        try:
            while not isinstance(message := connection.recv(), str):
                pass
        except ConnectionClosed:
            return
        assert json.loads(message) == {"type": "finish"}
        for one in left.pop(0):
            connection.send(json.dumps(one))
        connection.close(1012)

    with serve(answer, "127.0.0.1", 0, subprotocols=[Subprotocol(SUBPROTOCOL)]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


def _final(stop: int, **more: Any) -> dict[str, Any]:  # noqa: ANN401  any JSON
    return {
        "type": "beats",
        "from": 0,
        "to": stop,
        "final": True,
        "beats": [BEAT | more],
        "unreadable": [],
        "findings": [],
        "signal_quality": None,
        "mark": {"block": 1, "position": stop},
        "needed_from": 0,
    }


def test_fields_that_a_later_service_adds_to_a_beat_are_ignored() -> None:
    script = [_final(500, added_later=1.0), {"type": "finished"}]
    with _serve(script) as url, LiveStream(url, sampling_rate=FS) as stream:
        stream.write(np.zeros(500))
        (change,) = stream.finish(180)
    assert change.beats == (LiveBeat(**BEAT),)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"type": "beats", "from": 0}, "KeyError: 'to'"),
        ({"type": "beats", "from": 0, "to": 5, "final": True}, "KeyError"),
        ([], "AttributeError"),
    ],
)
def test_an_answer_that_cannot_be_read_raises(answer: Any, reason: str) -> None:  # noqa: ANN401  any JSON
    with _serve([answer]) as url, LiveStream(url, sampling_rate=FS) as stream:
        stream.write(np.zeros(500))
        with pytest.raises(UnexpectedAnswerError, match=f"ended by .*{reason}"):
            stream.finish(180)


def test_a_failure_of_the_sending_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_stream: LiveStream) -> bytes:
        msg = "no memory for a message"
        raise MemoryError(msg)

    monkeypatch.setattr(LiveStream, "_take", fail)
    with _serve([]) as url, LiveStream(url, sampling_rate=FS) as stream:
        stream.write(np.zeros(500))
        with pytest.raises(UnexpectedAnswerError, match="ended by MemoryError: no memory"):
            stream.finish(180)


def test_a_break_after_the_last_beats_ends_the_stream() -> None:
    """No stream can start at the mark of an end, so the client must not connect again."""
    with _serve([_final(500)]) as url, LiveStream(url, sampling_rate=FS) as stream:
        stream.write(np.zeros(500))
        (change,) = stream.finish(180)
        assert (change.stop, stream.final_to, stream.connections) == (500, 500, 1)
