"""How long a process may be silent, on a clock that the tests set."""

from __future__ import annotations

import itertools
import logging
import os
import random
import select
import socket
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Final

import httpx
import pytest
from prefect.utilities.math import clamped_poisson_interval

from bentos.runtime.worker_process import START_S
from flows.local import processes
from flows.local.servers.gate import Credentials
from flows.local.servers.prefect_client import PrefectClient, WorkerHeartbeats
from flows.local.supervision import liveness
from flows.local.supervision.liveness import BeatPipe, Liveness

_NO_SERVER: Final = httpx.ConnectError("the server is away")


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


class _Inline:
    """A thread that has ended when it was started."""

    def __init__(self, target: Callable[[], None], **_: object) -> None:
        self.start = target


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(liveness, "time", clock)
    monkeypatch.setattr(liveness, "threading", SimpleNamespace(Thread=_Inline))
    return clock


def _make(
    answers: Callable[[], bool | None],
    *,
    limit_s: float = 30.0,
    start_limit_s: float = 180.0,
    is_stopped: Callable[[], bool] = lambda: False,
    is_new: bool = False,
) -> Liveness:
    found = Liveness(
        answers,
        is_ready=lambda: True,
        is_stopped=is_stopped,
        limit_s=limit_s,
        start_limit_s=start_limit_s,
    )
    if not is_new:
        found.note_ready()
    return found


def _find_hung(clock: Clock, watched: Liveness, *, step_s: float, until_s: float) -> float | None:
    while clock.now_s < until_s:
        clock.now_s += step_s
        if watched.is_hung():
            return clock.now_s
    return None


@pytest.mark.parametrize(
    ("step_s", "latest_s"), [(0.5, 40.0), (5.2, 45.0), (10.2, 55.0), (60, 300)]
)
def test_a_silent_process_is_found_however_rarely_it_is_looked_at(
    clock: Clock, step_s: float, latest_s: float
) -> None:
    found_s = _find_hung(clock, _make(lambda: False), step_s=step_s, until_s=600.0)
    assert found_s is not None
    assert 30.0 < found_s <= latest_s


@pytest.mark.parametrize(
    ("is_new", "earliest_s", "latest_s"), [(False, 30.0, 40.0), (True, 180.0, 190.0)]
)
def test_a_process_that_has_not_answered_yet_has_the_limit_of_a_start(
    clock: Clock, *, is_new: bool, earliest_s: float, latest_s: float
) -> None:
    watched = _make(lambda: False, is_new=is_new)
    found_s = _find_hung(clock, watched, step_s=0.5, until_s=600.0)
    assert found_s is not None
    assert earliest_s < found_s < latest_s


def test_a_process_that_was_stopped_is_found_within_half_a_minute_whatever_its_limit(
    clock: Clock,
) -> None:
    watched = _make(lambda: False, limit_s=330.0, is_stopped=lambda: True)
    found_s = _find_hung(clock, watched, step_s=0.5, until_s=600.0)
    assert found_s is not None
    assert 30.0 < found_s < 40.0


@pytest.mark.parametrize(
    ("told", "earliest_s", "latest_s"),
    [
        ([False], 330.0, 345.0),
        ([None] + [False] * 59, 345.0, 365.0),
        ([False] * 5 + [None], 440.0, 480.0),
        ([False, None], 770.0, 800.0),
    ],
)
def test_answers_that_cannot_be_told_delay_the_end_of_a_silent_process_and_no_more(
    clock: Clock, told: list[bool | None], earliest_s: float, latest_s: float
) -> None:
    rounds = itertools.cycle(told)
    watched = _make(lambda: next(rounds), limit_s=330.0)
    found_s = _find_hung(clock, watched, step_s=0.5, until_s=2000.0)
    assert found_s is not None
    assert earliest_s < found_s < latest_s


def test_time_in_which_nothing_can_be_told_counts_neither_way(clock: Clock) -> None:
    answer: bool | None = False
    watched = _make(lambda: answer)
    assert _find_hung(clock, watched, step_s=0.5, until_s=25.0) is None
    answer = None
    assert _find_hung(clock, watched, step_s=0.5, until_s=4000.0) is None
    answer = False
    found_s = _find_hung(clock, watched, step_s=0.5, until_s=5000.0)
    assert found_s is not None
    # 30 s of silence and a minute of grace, less the silence before.
    assert 4060.0 < found_s < 4080.0


def test_an_answer_ends_the_grace_of_an_outage(clock: Clock) -> None:
    answer: bool | None = None
    watched = _make(lambda: answer)
    assert _find_hung(clock, watched, step_s=0.5, until_s=300.0) is None
    answer = True
    assert _find_hung(clock, watched, step_s=0.5, until_s=310.0) is None
    answer = False
    found_s = _find_hung(clock, watched, step_s=0.5, until_s=600.0)
    assert found_s is not None
    assert 330.0 < found_s < 350.0


def test_a_process_is_ready_from_its_first_ready_answer_on(clock: Clock) -> None:
    is_ready = False
    watched = Liveness(
        lambda: True,
        is_ready=lambda: is_ready,
        is_stopped=lambda: False,
        limit_s=30.0,
        start_limit_s=180.0,
    )
    assert _find_hung(clock, watched, step_s=0.5, until_s=100.0) is None
    assert watched.has_answered
    assert watched.ready_for_s == 0.0
    is_ready = True
    assert _find_hung(clock, watched, step_s=0.5, until_s=140.0) is None
    assert 30.0 <= watched.ready_for_s <= 40.0
    watched.reset()
    assert watched.ready_for_s == 0.0


def test_a_supervisor_that_was_stopped_itself_counts_a_quarter_of_a_minute(clock: Clock) -> None:
    is_answering = True
    watched = _make(lambda: is_answering)
    assert not watched.is_hung()
    clock.now_s += 3600.0
    is_answering = False  # its question ran out of time while it was stopped
    assert not watched.is_hung()
    assert not watched.is_hung()
    is_answering = True
    assert _find_hung(clock, watched, step_s=0.5, until_s=clock.now_s + 60.0) is None


def test_an_error_of_the_question_kills_nothing_and_is_logged(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> bool:
        msg = "a fault"
        raise RuntimeError(msg)

    with caplog.at_level(logging.ERROR):
        assert _find_hung(clock, _make(fail), step_s=5.0, until_s=600.0) is None
    assert "cannot be asked" in caplog.text


def test_a_pipe_tells_each_beat_once_and_blocks_no_writer() -> None:
    pipe = BeatPipe()
    try:
        assert not pipe.has_beaten()
        os.write(pipe.writer, b".")
        assert pipe.has_beaten()
        assert not pipe.has_beaten()
        while select.select([], [pipe.writer], [], 0)[1]:
            os.write(pipe.writer, b"." * 4096)
        with pytest.raises(BlockingIOError):
            os.write(pipe.writer, b".")
    finally:
        pipe.close()


def test_a_host_may_take_four_starts_of_a_worker_before_it_is_taken_for_hung() -> None:
    assert 4 * START_S < processes._SERVICE_START_S


class _Prefect:
    """A worker that sends heartbeats as Prefect's does, and a server that can be away."""

    def __init__(self, clock: Clock, *, down_from_s: float, down_s: float) -> None:
        self.clock, self.down = clock, (down_from_s, down_from_s + down_s)
        self.wall_offset_s = 0.0
        self.is_hung = self.has_ended = False
        self._last, self._failed, self._backoff = "none", 0, 0
        self._next_s = clamped_poisson_interval(30, 0.3)

    def is_away(self) -> bool:
        return self.down[0] <= self.clock.now_s < self.down[1]

    def step(self) -> None:
        if self.is_hung or self.has_ended or self.clock.now_s < self._next_s:
            return
        if self.is_away():
            self._failed += 1
            if self._failed == 3:
                self._failed, self._backoff = 0, self._backoff + 1
                self.has_ended = self._backoff == 4
        else:
            self._failed = self._backoff = 0
            self._last = f"{self.clock.now_s + self.wall_offset_s:.3f}"
        self._next_s = self.clock.now_s + clamped_poisson_interval(30 * 2**self._backoff, 0.3)

    def read(self) -> str:
        if self.is_away():
            raise _NO_SERVER
        return self._last


@pytest.mark.parametrize("down_s", [0, 60, 100, 180, 300, 480])
@pytest.mark.parametrize("jump_s", [0, 120, 3600, -3600])
def test_no_healthy_worker_is_killed_when_prefect_was_away_or_a_clock_jumped(
    clock: Clock, down_s: float, jump_s: float
) -> None:
    random.seed(1)
    for _ in range(40):
        clock.now_s = 0.0
        at_s = random.uniform(200, 300)
        prefect = _Prefect(clock, down_from_s=at_s, down_s=down_s)
        beats = WorkerHeartbeats(prefect.read, lambda: 1)
        beats.note_earlier()
        watched = _make(
            beats.has_beaten,
            limit_s=processes._WORKER_SILENT_S,
            start_limit_s=processes._WORKER_SILENT_S,
        )
        while clock.now_s < at_s + down_s + 600 and not prefect.has_ended:
            clock.now_s += 0.5
            if clock.now_s >= at_s:
                prefect.wall_offset_s = jump_s
            prefect.step()
            assert not watched.is_hung(), (clock.now_s, at_s)


def test_a_worker_without_a_heartbeat_is_found_in_six_minutes(clock: Clock) -> None:
    random.seed(1)
    prefect = _Prefect(clock, down_from_s=0.0, down_s=0.0)
    beats = WorkerHeartbeats(prefect.read, lambda: 1)
    beats.note_earlier()
    watched = _make(beats.has_beaten, limit_s=processes._WORKER_SILENT_S)
    while clock.now_s < 300.0:
        clock.now_s += 0.5
        prefect.step()
        assert not watched.is_hung()
    prefect.is_hung = True
    found_s = _find_hung(clock, watched, step_s=0.5, until_s=1200.0)
    assert found_s is not None
    assert 300.0 < found_s - 300.0 < 345.0


def test_a_worker_is_ready_with_its_own_first_heartbeat() -> None:
    found, start = "of an earlier platform", 1
    beats = WorkerHeartbeats(lambda: found, lambda: start)
    beats.note_earlier()
    assert not beats.has_started()
    found = "first"
    assert beats.has_started()
    assert beats.has_beaten()
    assert not beats.has_beaten()
    start = 2
    assert not beats.has_beaten()
    assert not beats.has_started()
    found = "second"
    assert beats.has_beaten()
    assert beats.has_started()


def test_a_server_that_is_slow_proves_nothing_against_its_worker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes the request, never answers
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        credentials = Credentials(user="ecg", password="secret")  # noqa: S106  of nothing

        def read() -> str | None:
            with PrefectClient(address, credentials=credentials, timeout_s=0.2) as prefect:
                return prefect.read_heartbeat("ecg", "local")

        with pytest.raises(httpx.ReadTimeout):
            read()
        known = iter(["first"])
        beats = WorkerHeartbeats(lambda: next(known, None) or read(), lambda: 1)
        beats.note_earlier()
        assert beats.has_beaten() is None
        assert not beats.has_started()


def test_liveness_asks_in_a_thread_of_its_own() -> None:
    asked_in: list[threading.Thread] = []
    is_asked = threading.Event()

    def answer() -> bool:
        asked_in.append(threading.current_thread())
        is_asked.set()
        return True

    watched = _make(answer, is_new=True)
    while not is_asked.wait(0.05):
        watched.is_hung()
    assert asked_in[0] is not threading.main_thread()
