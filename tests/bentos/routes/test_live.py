"""Leads that stream, over real WebSockets: what is told, resumed and refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from bentos.routes import live
from bentos.runtime.live_model import LoadedModel
from bentos.wire.live_messages import MAX_MESSAGE_BYTES, SUBPROTOCOL
from ecg_lib.classifier.live.live_lead import LiveConfig
from ecg_lib.operations.keys.api_keys import Scope, add_api_key, hash_api_key
from ecg_lib.signal_path.r_peaks.matching import match_beats
from tests.bentos.conftest import LIVE_FS

pytestmark = pytest.mark.usefixtures("short_blocks")

FS = LIVE_FS
SESSION = "a-session-of-one-lead"


class Socket:
    """One connection, and all that came over it."""

    def __init__(self, url: str, **options: Any) -> None:  # noqa: ANN401  of websockets
        address = url.replace("http://", "ws://") + "/api/v1/live/"
        options = {"proxy": None, "compression": None, "max_size": 2**24} | options
        self.connection: ClientConnection = connect(address, **options)
        self.messages: list[dict[str, Any]] = []

    def say(self, **message: Any) -> None:  # noqa: ANN401  any JSON
        self.connection.send(json.dumps(message))

    def start(self, **fields: Any) -> dict[str, Any]:  # noqa: ANN401  any JSON
        self.say(**{"type": "start", "session": SESSION, "sampling_rate": FS} | fields)
        return self.hear("started")

    def send(self, samples: NDArray[Any], position: int, *, piece: int = 20_000) -> None:
        dtype = "<i2" if samples.dtype == np.int16 else "<f4"
        for start in range(0, len(samples), piece):
            part = samples[start : start + piece].astype(dtype)
            self.connection.send(struct.pack("<Q", position + start) + part.tobytes())

    def hear(self, kind: str) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(self.connection.recv(timeout=180))
            self.messages.append(message)
            if message["type"] == kind:
                return message

    def hear_close(self) -> tuple[int, str]:
        with pytest.raises(ConnectionClosed) as closed:
            self._hear_all()
        received = closed.value.rcvd
        assert received is not None
        return received.code, received.reason

    def _hear_all(self) -> None:
        while True:
            self.messages.append(json.loads(self.connection.recv(timeout=180)))

    def finish(self) -> list[dict[str, Any]]:
        self.say(type="finish")
        self.hear("finished")
        assert self.hear_close()[0] == 1000
        return self.finals

    @property
    def finals(self) -> list[dict[str, Any]]:
        return [one for one in self.messages if one["type"] == "beats" and one["final"]]

    def close(self) -> None:
        self.connection.close()


@pytest.fixture
def opened(service: Any) -> Iterator[Callable[..., Socket]]:  # noqa: ANN401  of a conftest
    with contextlib.ExitStack() as stack:

        def open_socket(url: str = service.url, **options: Any) -> Socket:  # noqa: ANN401  of websockets
            return stack.enter_context(contextlib.closing(Socket(url, **options)))

        yield open_socket


def _beats_of(finals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [beat for one in finals for beat in one["beats"]]


@pytest.fixture(scope="module")
def unbroken(service: Any, signal: NDArray[np.float32]) -> list[dict[str, Any]]:  # noqa: ANN401  of a conftest
    with contextlib.closing(Socket(service.url)) as socket:
        socket.start()
        socket.send(signal, 0)
        return socket.finish()


def test_a_replayed_recording_gives_the_beats_of_its_analysis(
    service: Any,  # noqa: ANN401  of a conftest
    signal: NDArray[np.float32],
    unbroken: list[dict[str, Any]],
) -> None:
    whole = service.runtime.live.current.classifier.classify(signal, fs=FS)
    beats = _beats_of(unbroken)
    positions = np.array([beat["position_sample"] for beat in beats])
    match = match_beats(whole.r_peaks, positions, tolerance=1)
    assert (match.of_reference >= 0).mean() >= 0.999
    assert (match.of_detected >= 0).mean() >= 0.999
    is_v = np.array([beat["arrhythmia_type"] == "V" for beat in beats])
    found = match.of_reference >= 0
    assert (is_v[match.of_reference[found]] == whole.is_v[found]).mean() >= 0.999
    assert unbroken[0]["from"] == 0
    assert unbroken[-1]["to"] == len(signal)
    assert all(a["to"] == b["from"] for a, b in pairwise(unbroken))


def test_beats_come_within_a_second_of_signal_and_are_final_later(
    opened: Callable[..., Socket], signal: NDArray[np.float32]
) -> None:
    socket = opened(subprotocols=[SUBPROTOCOL])
    assert socket.connection.subprotocol == SUBPROTOCOL
    started = socket.start()
    assert (started["send_from"], started["mark"]) == (0, {"block": 0, "position": 0})
    assert (started["final_after_s"], started["history_s"]) == (40, 60)
    assert LiveConfig().final_after_s == 300
    assert started["model"]["bento_tag"] == "ecg:toy"
    piece = round(0.25 * FS)
    for second in range(12):
        for quarter in range(4):
            start = round(second * FS) + quarter * piece
            socket.send(signal[start : start + piece], start)
        if second >= 3:
            told = socket.hear("beats")
            assert not told["final"]
            assert told["received_to"] - told["to"] == round(0.25 * FS)
            assert told["needed_from"] == 0
    told = [one for one in socket.messages if one["type"] == "beats"]
    held: set[int] = set()
    for one in told:
        held = {p for p in held if not one["from"] <= p < one["to"]}
        held |= {beat["position_sample"] for beat in one["beats"]}
    assert 8 <= len(held) <= 40
    assert all(0 <= one["signal_quality"] <= 1 for one in told)


def test_a_broken_stream_resumes_from_the_mark_and_repeats_no_final_beat(
    opened: Callable[..., Socket],
    signal: NDArray[np.float32],
    unbroken: list[dict[str, Any]],
) -> None:
    first = opened()
    first.start()
    first.send(signal[: round(45 * FS)], 0)
    while not first.finals:
        first.hear("beats")
    first.connection.socket.close()  # without a closing frame
    mark = first.finals[-1]["mark"]
    assert mark["block"] == 1
    second = opened()
    started = second.start(mark=mark)
    assert started["send_from"] == 0  # the history would begin before the stream
    second.send(signal, 0)
    finals = first.finals + second.finish()
    assert [(one["from"], one["to"]) for one in finals] == [
        (one["from"], one["to"]) for one in unbroken
    ]
    assert _beats_of(finals) == _beats_of(unbroken)


def test_samples_that_come_twice_count_once(
    opened: Callable[..., Socket],
    signal: NDArray[np.float32],
    unbroken: list[dict[str, Any]],
) -> None:
    socket = opened()
    socket.start()
    socket.send(signal[:9000], 0)
    socket.send(signal[:4000], 0)
    socket.send(signal[8000:], 8000)
    assert _beats_of(socket.finish()) == _beats_of(unbroken)


def test_samples_that_the_client_has_lost_are_missing(
    opened: Callable[..., Socket], signal: NDArray[np.float32]
) -> None:
    socket = opened()
    begin = round(20 * FS)
    started = socket.start(position=begin)
    assert started["send_from"] == begin
    socket.send(signal[begin : begin + 8000], begin)
    finals = socket.finish()
    assert finals[0]["unreadable"][0] == {
        "start_sample": 0,
        "end_sample": begin,
        "reason": "missing",
    }
    assert all(beat["position_sample"] >= begin for beat in _beats_of(finals))


def test_int16_is_read_in_units_of_the_client(
    opened: Callable[..., Socket], signal: NDArray[np.float32]
) -> None:
    counts = np.round(signal[:6000] * 1000).astype(np.int16)
    counts[3000:3400] = -(2**15)
    as_counts, as_mv = opened(), opened()
    as_counts.start(encoding="int16", units_per_mv=1000)
    as_counts.send(counts, 0)
    samples_mv = counts.astype(np.float32) / 1000
    samples_mv[3000:3400] = np.nan
    as_mv.start(session=SESSION + "-2")
    as_mv.send(samples_mv, 0)
    finals = as_counts.finish()
    assert _beats_of(finals) == _beats_of(as_mv.finish())
    assert {"start_sample": 3000, "end_sample": 3400, "reason": "missing"} in finals[0][
        "unreadable"
    ]


def test_a_declared_gap_moves_the_clock(
    opened: Callable[..., Socket], signal: NDArray[np.float32]
) -> None:
    socket = opened()
    socket.start()
    socket.send(signal[:6000], 0)
    socket.say(type="gap", position=6000, samples=1500)
    socket.say(type="gap", position=6000, samples=1500)  # twice is once
    socket.send(signal[7500:12_000], 7500)
    finals = socket.finish()
    assert finals[-1]["to"] == 12_000
    (stretch,) = [stretch for one in finals for stretch in one["unreadable"]]
    assert stretch == {"start_sample": 6000, "end_sample": 7500, "reason": "missing"}
    after = next(beat for beat in _beats_of(finals) if beat["position_sample"] >= 7500)
    assert after["rr_previous"] is None
    assert all(one["findings"] == [] for one in finals)


def test_an_undeclared_gap_is_refused(
    opened: Callable[..., Socket], signal: NDArray[np.float32]
) -> None:
    socket = opened()
    socket.start()
    socket.send(signal[:2000], 0)
    socket.send(signal[2001:4000], 2001)
    code, reason = socket.hear_close()
    assert code == 4422
    assert reason.startswith("undeclared-gap: the next sample must have the position 2000")
    problem = socket.messages[-1]["problem"]
    assert (problem["type"], problem["status"]) == ("/problems/undeclared-gap", 422)


def test_a_later_connection_of_a_session_takes_it_over(
    opened: Callable[..., Socket], signal: NDArray[np.float32]
) -> None:
    first, other = opened(), opened()
    first.start()
    other.start(session=SESSION + "-other")
    second = opened()
    second.start()
    assert first.hear_close()[0] == 4409
    second.send(signal[:2000], 0)
    second.finish()
    other.send(signal[:2000], 0)
    other.finish()


def _start(**fields: Any) -> str:  # noqa: ANN401  any JSON
    return json.dumps({"type": "start", "session": SESSION, "sampling_rate": 360} | fields)


BAD = {
    "not JSON": ("{", 4400),
    "a list": ("[]", 4422),
    "an unknown type": ('{"type": "hello"}', 4422),
    "a gap first": ('{"type": "gap", "position": 0, "samples": 5}', 4422),
    "a finish first": ('{"type": "finish"}', 4422),
    "an unknown field": (_start(lead="II"), 4422),
    "a short session": (_start(session="short"), 4422),
    "a low rate": (_start(sampling_rate=99), 4422),
    "a high rate": (_start(sampling_rate=1001), 4422),
    "NaN": (_start(sampling_rate=float("nan")), 4400),
    "int16 without a unit": (_start(encoding="int16"), 4422),
    "float32 with a unit": (_start(units_per_mv=200), 4422),
    "a mark of no stream": (_start(mark={"block": 1}), 4422),
    "bytes": (b"12345678", 4422),
}


@pytest.mark.parametrize(("message", "expected"), BAD.values(), ids=BAD)
def test_a_wrong_first_message_is_refused(
    opened: Callable[..., Socket], message: str | bytes, expected: int
) -> None:
    socket = opened()
    socket.connection.send(message)
    code, reason = socket.hear_close()
    (told,) = socket.messages
    assert (code, told["type"]) == (expected, "problem")
    assert reason.startswith(told["problem"]["type"].removeprefix("/problems/"))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (_start(sampling_rate=200), "invalid-request"),
        (_start(session="another-session-name"), "invalid-request"),
        ('{"type": "gap", "position": 0, "samples": 0}', "invalid-request"),
        ('{"type": "gap", "position": 0, "samples": 1e20}', "invalid-request"),
        ('{"type": "gap", "position": 0, "samples": 99999999}', "invalid-request"),
        ('{"type": "gap", "position": 1, "samples": 5}', "undeclared-gap"),
        (struct.pack("<Q", 0), "invalid-request"),
        (struct.pack("<Qfb", 0, 1.0, 1), "invalid-request"),
        (struct.pack("<Qf", 0, float("inf")), "invalid-request"),
        (struct.pack("<Qf", 0, 1e5), "invalid-request"),
        (struct.pack("<Qf", 1, 1.0), "undeclared-gap"),
        (struct.pack("<Qf", 2**64 - 1, 1.0), "undeclared-gap"),
    ],
)
def test_a_wrong_message_later_is_refused(
    opened: Callable[..., Socket], message: str | bytes, expected: str
) -> None:
    socket = opened()
    socket.start()
    socket.connection.send(message)
    code, reason = socket.hear_close()
    assert (code, reason.partition(":")[0]) == (4422, expected)


def test_a_message_that_is_too_large_is_refused(opened: Callable[..., Socket]) -> None:
    socket = opened()
    socket.start()
    with contextlib.suppress(ConnectionClosed):
        socket.connection.send(bytes(MAX_MESSAGE_BYTES + 8))
    assert socket.hear_close()[0] == 1009


def test_a_connection_without_messages_is_closed(
    opened: Callable[..., Socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "IDLE_S", 0.3)
    silent, started = opened(), opened()
    started.start()
    assert silent.hear_close()[0] == 4408
    assert started.hear_close() == (
        4408,
        "stream-idle: a message must come within 0.3 s; declare a gap while nothing is recorded",
    )


def test_a_flood_of_messages_is_refused(
    opened: Callable[..., Socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MESSAGES_AT_ONCE", 20)
    monkeypatch.setattr(live, "MESSAGES_PER_S", 0.0)
    socket = opened()
    socket.start()
    with contextlib.suppress(ConnectionClosed):
        socket.send(np.zeros(40, dtype=np.float32), 0, piece=1)
    assert socket.hear_close()[0] == 4429


def test_a_client_that_reads_nothing_is_dropped(
    service: Any,  # noqa: ANN401  of a conftest
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its samples stay in its own buffers: the service reads nothing while it must send."""
    monkeypatch.setattr(live, "SEND_S", 0.1)
    start = {"type": "start", "session": SESSION, "sampling_rate": FS}
    received = []

    async def receive() -> dict[str, Any]:
        received.append(1)
        if len(received) == 1:
            return {"type": "websocket.connect"}
        return {"type": "websocket.receive", "text": json.dumps(start)}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            await asyncio.sleep(3600)

    scope = {"type": "websocket", "app": live_app(service), "headers": [], "subprotocols": []}
    scope |= {"path": "/", "query_string": b"", "ecg.caller": live.Caller(name="me")}
    before = service.runtime.streams.n_open
    asyncio.run(live.stream_lead(WebSocket(scope, receive, send)))
    assert len(received) == 2
    assert service.runtime.streams.n_open == before
    refusals = {
        sample.labels["problem"]: sample.value
        for sample in service.samples()
        if sample.name == "ecg_refusals_total"
    }
    assert refusals["stream-stalled"] == 1


def live_app(service: Any) -> Any:  # noqa: ANN401  of a conftest
    class App:
        class state:  # noqa: N801  Starlette's name
            runtime = service.runtime

    return App


def test_a_process_that_ends_closes_its_streams_and_refuses_new_ones(
    toy_model: LoadedModel,
    tmp_path: Path,
    service: Any,  # noqa: ANN401  of a conftest
    opened: Callable[..., Socket],
) -> None:
    ending = type(service)(tmp_path)
    try:
        ending.runtime.live.use(toy_model)
        socket = opened(ending.url)
        socket.start()
        ending.runtime.is_draining = True
        code, reason = socket.hear_close()
        assert code == 1012
        assert "connect again" in reason
        with pytest.raises(InvalidStatus) as refused:
            opened(ending.url)
        assert refused.value.response.status_code == 503
    finally:
        ending.close()


def test_the_client_is_told_when_another_model_takes_over(
    toy_model: LoadedModel,
    service: Any,  # noqa: ANN401  of a conftest
    opened: Callable[..., Socket],
    signal: NDArray[np.float32],
) -> None:
    socket = opened()
    socket.start()
    try:
        other = type(toy_model)(
            classifier=toy_model.classifier,
            bundle=toy_model.bundle,
            info=toy_model.info | {"version": "2"},
        )
        service.runtime.live.use(other)
        socket.send(signal[:1000], 0)
        assert socket.hear("model")["model"]["version"] == "2"
    finally:
        service.runtime.live.use(toy_model)


@pytest.fixture(scope="module")
def guarded(
    service: Any,  # noqa: ANN401  of a conftest
    toy_model: LoadedModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Any, dict[str, str]]]:
    home = tmp_path_factory.mktemp("guarded")
    scopes = {"own": (), "other": (), "label": (Scope.LABEL,)}
    for name, allowed in scopes.items():
        add_api_key(home / "keys", name, scopes=allowed)
    guarded = type(service)(
        home,
        api_keys_file=home / "keys",
        live_leads=3,
        allowed_origins=("https://ward.example",),
    )
    guarded.runtime.live.use(toy_model)
    yield guarded, {name: name for name in scopes}
    guarded.close()


def _status_of(url: str, **headers: str) -> int:
    try:
        Socket(url, additional_headers=headers).close()
    except InvalidStatus as refused:
        problem = json.loads(refused.response.body)
        return int(problem["status"])
    return 101


def test_a_key_with_the_right_scope_is_needed(guarded: tuple[Any, dict[str, str]]) -> None:
    service, keys = guarded
    assert _status_of(service.url) == 401
    assert _status_of(service.url, **{"X-API-Key": "wrong"}) == 401
    assert _status_of(service.url, **{"X-API-Key": keys["label"]}) == 403
    assert _status_of(service.url, **{"X-API-Key": keys["own"]}) == 101


def test_pages_of_other_sites_are_refused(guarded: tuple[Any, dict[str, str]]) -> None:
    service, keys = guarded
    key = {"X-API-Key": keys["own"]}
    assert _status_of(service.url, **key, Origin="https://evil.example") == 403
    assert _status_of(service.url, **key, Origin="null") == 403
    assert _status_of(service.url, **key, Origin="https://ward.example") == 101
    assert _status_of(service.url, **key, Origin=service.url) == 101


def test_removing_a_key_ends_its_streams(
    guarded: tuple[Any, dict[str, str]], opened: Callable[..., Socket]
) -> None:
    service, keys = guarded
    socket = opened(service.url, additional_headers={"X-API-Key": keys["own"]})
    socket.start()
    accepted = service.runtime.api_keys
    try:
        service.runtime.api_keys = tuple(
            key for key in accepted if key.hash != hash_api_key(keys["own"].encode())
        )
        assert socket.hear_close() == (4401, "api-key-required: the API key is no longer valid")
    finally:
        service.runtime.api_keys = accepted


def test_two_keys_may_use_one_session_name(
    guarded: tuple[Any, dict[str, str]],
    opened: Callable[..., Socket],
    signal: NDArray[np.float32],
) -> None:
    service, keys = guarded
    own, other = (
        opened(service.url, additional_headers={"X-API-Key": keys[name]})
        for name in ("own", "other")
    )
    own.start()
    other.start()
    own.send(signal[:2000], 0)
    own.finish()
    other.finish()


def test_more_leads_than_a_process_may_serve_are_refused(
    guarded: tuple[Any, dict[str, str]], opened: Callable[..., Socket]
) -> None:
    service, keys = guarded
    key = {"X-API-Key": keys["own"]}
    deadline = time.monotonic() + 180
    while service.runtime.streams.n_open and time.monotonic() < deadline:
        time.sleep(0.05)  # streams of earlier tests are closing
    sockets = [opened(service.url, additional_headers=key) for _ in range(3)]
    assert _status_of(service.url, **key) == 503
    sockets[0].close()
    while service.runtime.streams.n_open == 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _status_of(service.url, **key) == 101


def test_the_metrics_count_leads_and_their_final_beats(
    opened: Callable[..., Socket],
    service: Any,  # noqa: ANN401  of a conftest
    signal: NDArray[np.float32],
) -> None:
    def value(name: str, **labels: str) -> float:
        return sum(
            sample.value
            for sample in service.samples()
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    before = value("ecg_live_beats_total")
    socket = opened()
    socket.start()
    assert value("ecg_live_leads") >= 1
    socket.send(signal[:6000], 0)
    beats = _beats_of(socket.finish())
    assert value("ecg_live_beats_total") - before == len(beats) > 20
    assert value("ecg_requests_total", route="/api/v1/live/", status="101") > 0


def test_other_paths_accept_no_websocket(service: Any) -> None:  # noqa: ANN401  of a conftest
    with pytest.raises(InvalidStatus) as refused:
        connect(service.url.replace("http", "ws") + "/api/v1/predictions/", proxy=None)
    assert refused.value.response.status_code == 403
