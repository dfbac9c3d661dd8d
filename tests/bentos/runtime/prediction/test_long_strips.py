"""Tests of the processes that answer long strips."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
import pytest

from bentos.runtime.live_model import LoadedModel
from bentos.runtime.prediction import long_strips
from bentos.runtime.prediction.answer import Answer, Question, RefusedSignalError, answer
from bentos.runtime.prediction.long_strips import LongStrips, Stage
from bentos.runtime.spool import decode_row
from bentos.wire.problems import ProblemError
from ecg_lib.operations.prediction_rows import RequestRow
from ecg_lib.operations.settings import Settings
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip

STRIP = {
    "signal_data": simulate_strip(StripKind.ISOLATED_PVC, duration_s=240.0, fs=360.0, seed=3)
    .signal_mv()
    .round(4)
    .tolist(),
    "sampling_rate": 360.0,
    "patient_id": "p1",
}
QUESTION = Question(body=orjson.dumps(STRIP), owner="alice", patient_key=b"k" * 32)
OWN_FIELDS = ("prediction_id", "timestamp", "processing_time_ms")


class Asked:
    """Long strips, and where each was computed."""

    def __init__(self, strips: LongStrips, model: LoadedModel) -> None:
        self.strips = strips
        self.model = model
        self.here: list[str] = []
        self.elsewhere: list[Stage] = []

    def ask(self, question: Question = QUESTION) -> Answer:
        self.here, self.elsewhere = [], []

        def observe(name: str) -> Any:  # noqa: ANN401  a context manager
            self.here.append(name)
            return nullcontext()

        return self.strips.answer(
            self.model,
            question,
            observe=observe,
            note=self.elsewhere.append,
        )

    def ask_elsewhere(self) -> Answer:
        """Ask, and make sure that another process answers."""
        made = self.ask()
        assert self.elsewhere
        assert self.here == []
        return made


@pytest.fixture
def open_strips(toy_model: LoadedModel, tmp_path: Path) -> Iterator[Callable[..., Asked]]:
    opened: list[LongStrips] = []

    def start(**given: float) -> Asked:
        opened.append(LongStrips(Settings(home=tmp_path), **given))
        return Asked(opened[-1], toy_model)

    assert children() == []  # each test counts its own
    yield start
    for one in opened:
        one.close()


def children() -> list[psutil.Process]:
    return [
        one for one in psutil.Process().children() if long_strips._MODULE in " ".join(one.cmdline())
    ]


def content(made: Answer) -> dict[str, Any]:
    """Read an answer, without what differs between two of the same strip."""
    answered: dict[str, Any] = orjson.loads(made.body)
    return {name: value for name, value in answered.items() if name not in OWN_FIELDS}


def assert_near(found: Any, wanted: Any) -> None:  # noqa: ANN401  any JSON
    """Assert that two answers are equal apart from rounding, as threads of BLAS differ."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert_near(found[name], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_near(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    else:
        assert found == wanted


def test_another_process_gives_the_same_answer_row_and_counts(
    open_strips: Callable[..., Asked], toy_model: LoadedModel
) -> None:
    asked = open_strips()
    first, second = asked.ask_elsewhere(), asked.ask_elsewhere()
    names = [stage.name for stage in asked.elsewhere]
    assert names == ["parse", "prepare", "network", "rules", "answer"]
    assert all(stage.seconds > 0 for stage in asked.elsewhere)
    ends_s = [stage.started_at_s + stage.seconds for stage in asked.elsewhere]
    assert ends_s == sorted(ends_s)
    assert abs(ends_s[-1] - time.time()) < 60
    here = answer(toy_model, QUESTION, observe=lambda _: nullcontext())
    assert_near(content(first), content(here))
    assert_near(content(second), content(here))
    assert second.counts == here.counts
    lines = [made.row.splitlines() for made in (here, second)]
    assert [len(one) for one in lines] == [2, 2]
    assert orjson.loads(lines[1][1])["request"]["slices"] == {
        "lead": "MLII", "rate": "360 Hz", "key": "alice",
    }  # fmt: skip
    rows = [orjson.loads(prediction)["prediction"] for prediction, _ in lines]
    for row in rows:
        del row["prediction_id"], row["created_at"], row["response"]
    assert_near(rows[1], rows[0])
    assert rows[0]["owner"] == "alice"
    assert len(rows[0]["patient_key"]) == 64
    (child,) = children()
    assert child.nice() == min(19, os.nice(0) + 10)
    # Linux applies priorities within a session.
    assert os.getsid(child.pid) == os.getsid(0)


def test_problems_are_those_of_the_worker(open_strips: Callable[..., Asked]) -> None:
    asked = open_strips()
    asked.ask_elsewhere()
    wrong = orjson.dumps({**STRIP, "sampling_rate": "fast"})
    with pytest.raises(ProblemError) as elsewhere:
        asked.ask(Question(body=wrong, patient_key=b"k" * 32))
    assert asked.here == []
    with pytest.raises(ProblemError) as here:
        answer(
            asked.model,
            Question(body=wrong, patient_key=b"k" * 32),
            observe=lambda _: nullcontext(),
        )
    assert elsewhere.value.describe() == here.value.describe()


def test_a_process_that_is_killed_while_it_waits_costs_no_answer(
    open_strips: Callable[..., Asked],
) -> None:
    asked = open_strips()
    wanted = content(asked.ask_elsewhere())
    (child,) = children()
    child.kill()
    psutil.wait_procs([child], timeout=60)
    assert_near(content(asked.ask_elsewhere()), wanted)
    (other,) = children()
    assert other.pid != child.pid


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_strip_whose_process_fails_is_not_computed_by_the_worker(
    open_strips: Callable[..., Asked],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    fault: signal.Signals,
) -> None:
    asked = open_strips()
    asked.ask_elsewhere()
    (child,) = children()
    child.suspend()
    threading.Timer(0.5, child.send_signal, [fault]).start()
    short = Settings(home=tmp_path, answer_limit_s=2.0)
    with monkeypatch.context() as patch:
        patch.setattr(asked.strips, "_settings", short)
        with pytest.raises(ProblemError) as failed:
            asked.ask()
    assert (failed.value.kind.status, failed.value.retry_after_s) == (503, 1)
    assert asked.here == []
    assert children() == []
    asked.ask()  # and none is started so soon after a failure
    assert asked.here
    monkeypatch.setattr(asked.strips, "_not_before", 0.0)
    asked.ask_elsewhere()


def test_many_strips_take_no_more_threads(open_strips: Callable[..., Asked]) -> None:
    asked = open_strips()
    asked.ask_elsewhere()
    before = threading.active_count()
    for _ in range(5):
        asked.ask()
    assert asked.elsewhere
    assert threading.active_count() == before


def test_a_system_without_threads_keeps_answering(
    open_strips: Callable[..., Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = open_strips()

    def fail(_: threading.Thread) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        asked.ask()
    assert asked.here
    assert children() == []
    monkeypatch.setattr(asked.strips, "_not_before", 0.0)
    asked.ask_elsewhere()


def test_a_process_ends_when_no_strip_comes(open_strips: Callable[..., Asked]) -> None:
    asked = open_strips(idle_s=0.5)
    asked.ask_elsewhere()
    (child,) = children()
    _, alive = psutil.wait_procs([child], timeout=60)
    assert alive == []
    asked.ask_elsewhere()  # and another one starts


def test_closing_ends_the_processes(open_strips: Callable[..., Asked]) -> None:
    asked = open_strips()
    asked.ask_elsewhere()
    asked.strips.close()
    assert children() == []
    asked.ask()
    assert asked.here
    assert children() == []


def test_a_process_ends_with_its_worker(open_strips: Callable[..., Asked]) -> None:
    asked = open_strips()
    asked.ask_elsewhere()
    (child,) = children()
    asked.strips._free[0]._connection.close()  # as the end of a process does
    _, alive = psutil.wait_procs([child], timeout=60)
    assert alive == []


def test_a_long_strip_that_is_refused_comes_with_its_row_from_either_process(
    open_strips: Callable[..., Asked],
) -> None:
    noise = np.random.default_rng(0).standard_normal(240 * 360).round(3).tolist()
    question = Question(
        body=orjson.dumps({"signal_data": noise}), owner="alice", client="c", patient_key=b"k" * 32
    )
    asked = open_strips()
    with pytest.raises(RefusedSignalError, match="no ECG") as here:
        answer(asked.model, question, observe=lambda _: nullcontext())
    with pytest.raises(RefusedSignalError, match="no ECG") as elsewhere:
        asked.ask(question)
    assert asked.elsewhere
    for refused in (here, elsewhere):
        row = decode_row(refused.value.row)
        assert isinstance(row, RequestRow)
        assert (row.refused, row.duration_s) == ("signal-unreadable", 240.0)
        assert (row.client, row.owner) == ("c", "alice")
