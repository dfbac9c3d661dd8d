"""The comparison of two models in another process: whose fault is which."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson
import psutil
import pytest

from bentos.runtime.live_model import LoadedModel
from bentos.runtime.prediction.answer import Answer, Question, answer
from bentos.runtime.prediction.long_strips import store_of
from bentos.runtime.prediction.process import LoadedModels
from bentos.runtime.prediction.rollout import shadow as shadow_module
from bentos.runtime.prediction.rollout.candidate_model import OpenCandidate
from bentos.runtime.prediction.rollout.shadow import Shadow, ShadowOutcome, ShadowTask
from bentos.runtime.prediction.rollout.shadow_process import perform
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import SignalTooShortError
from ecg_lib.operations.learning.rollout.candidate import Candidate, Plan
from ecg_lib.operations.learning.rollout.comparison import Comparison, ComparisonRow
from ecg_lib.operations.prediction_rows import RequestRow
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from tests.bentos.conftest import load_toy

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SAME = Comparison(
    beats={"NN": 9},
    v_champion=0,
    v_candidate=0,
    judged_champion=9,
    judged_candidate=9,
    runs_champion=0,
    runs_candidate=0,
    disagreements=(),
)
COMPARED = ShadowOutcome(comparison=SAME, ms=5.0)
FAILED = ShadowOutcome(failure="failed: ValueError")
REFUSED = ShadowOutcome(failure="refused: signal-unreadable")


def make_release(version: str) -> Release:
    return Release(
        bento_tag=f"ecg:{version}",
        model_tag=f"ecg_bundle:{version}",
        bundle_hash=version * 64,
        code_hash="c" * 64,
        model_version=version,
        released_at=NOW.isoformat(),
    )


@dataclass
class Watched:
    """A shadow, and what it told."""

    opened: OpenCandidate
    champion: LoadedModel
    question: Question
    rows: list[ComparisonRow] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    uncompared: list[str] = field(default_factory=list)
    shadow: Any = None

    def answer(self) -> Answer:
        return answer(self.champion, self.question, observe=lambda _: nullcontext())

    def offer(self, **changes: Any) -> None:  # noqa: ANN401  any field
        """Offer an answer, and wait for what comes of it."""
        before = len(self.rows) + len(self.uncompared)
        made = replace(self.answer(), **changes)
        self.shadow.offer(self.opened, self.champion, self.question, made)
        self.wait(lambda: len(self.rows) + len(self.uncompared) > before)

    def wait(self, is_there: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + 180
        while not is_there():
            assert time.monotonic() < deadline_s
            time.sleep(0.02)


@pytest.fixture
def watch(
    toy_model: LoadedModel,
    make_toy_bundle: Callable[..., Bundle],
    make_request: Callable[..., dict[str, Any]],
    settings: Settings,
) -> Iterator[Callable[..., Watched]]:
    candidate = Candidate(
        id="one",
        release=make_release("2"),
        champion=make_release("1"),
        plan=Plan(),
        started_at=NOW,
        stage_since=NOW,
        who="Ada",
        why="better",
    )
    model = load_toy(make_toy_bundle("candidate", threshold=0.4), version="2", bento_tag="ecg:2")
    begun = []

    def begin(**options: float) -> Watched:
        watched = Watched(
            OpenCandidate(candidate=candidate, model=model),
            toy_model,
            Question(body=orjson.dumps(make_request(patient_id="p")), patient_key=b"k" * 32),
        )
        watched.shadow = Shadow(
            settings,
            note=watched.rows.append,
            note_failure=lambda _, failure: watched.failures.append(failure),
            count_uncompared=watched.uncompared.append,
            **options,
        )
        begun.append(watched.shadow)
        return watched

    yield begin
    for one in begun:
        one.close()


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"))


@dataclass
class ScriptedProcess:
    """Takes the place of the other process; answers by model, once each in turn, or raises."""

    champion: list[ShadowOutcome | Exception]
    candidate: list[ShadowOutcome | Exception]
    has_ended: bool = False

    def wait_until_ready(self) -> None:
        """Be ready."""

    def ask(self, task: ShadowTask, *, within_s: float) -> ShadowOutcome:
        assert within_s == 60.0
        if task.question is None:
            return ShadowOutcome()
        result = (self.candidate if task.is_candidate else self.champion).pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    def kill(self) -> None:
        self.has_ended = True

    interrupt = kill


@pytest.fixture
def script(
    watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Watched]:
    """Begin with a process whose champion answers once before what is scripted."""

    def begin(
        *, champion: list[ShadowOutcome | Exception], candidate: list[ShadowOutcome | Exception]
    ) -> Watched:
        process = ScriptedProcess([ShadowOutcome(ms=5.0), *champion], candidate)
        monkeypatch.setattr(shadow_module, "AnswerProcess", lambda *_: process)
        return watch()

    return begin


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        (signal.SIGSTOP, "failed: no answer within 2 s"),
        (signal.SIGKILL, "failed: its process has ended"),
    ],
)
def test_a_process_that_hangs_or_ends_on_the_candidate_is_a_failure_of_the_candidate(
    watch: Callable[..., Watched],
    monkeypatch: pytest.MonkeyPatch,
    fault: signal.Signals,
    failure: str,
) -> None:
    watched = watch(within_s=30.0)
    watched.offer()
    assert [row.failure for row in watched.rows] == [None]  # the process is healthy
    monkeypatch.setattr(watched.shadow, "_within_s", 2.0)
    (child,) = [
        one
        for one in psutil.Process().children()
        if shadow_module._MODULE in " ".join(one.cmdline())
    ]
    child.suspend()
    threading.Timer(0.3, child.send_signal, [fault]).start()
    watched.offer()
    assert (watched.failures, watched.uncompared) == ([failure], [])
    assert (watched.rows[1].failure, watched.rows[1].comparison) == (failure, None)


def test_a_process_that_never_answered_does_not_count_against_the_candidate(
    script: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = script(champion=[], candidate=[])
    process = ScriptedProcess([EOFError()], [])
    monkeypatch.setattr(shadow_module, "AnswerProcess", lambda *_: process)
    watched.offer()
    assert (watched.failures, watched.uncompared, watched.rows) == ([], ["dropped"], [])


def test_closing_while_the_candidate_is_asked_does_not_count_against_it(
    script: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = script(champion=[], candidate=[EOFError()])
    ask = Shadow._exchange

    def close_and_ask(shadow: Shadow, task: ShadowTask) -> ShadowOutcome:
        shadow._is_closed = task.is_candidate and task.question is not None
        return ask(shadow, task)

    monkeypatch.setattr(Shadow, "_exchange", close_and_ask)
    watched.offer()
    assert (watched.failures, watched.uncompared) == ([], ["dropped"])


@pytest.mark.parametrize(
    ("answered_by", "champion", "candidate", "row", "failures", "uncompared"),
    [
        pytest.param("champion", [], [COMPARED], (None, False), [], [], id="both answer"),
        pytest.param("champion", [], [FAILED], ("failed: ValueError", False),
                     ["failed: ValueError"], [], id="the candidate fails in shadow"),
        pytest.param("champion", [], [REFUSED], ("refused: signal-unreadable", False), [], [],
                     id="the candidate refuses in shadow"),
        pytest.param("candidate", [FAILED], [], None, [], ["champion_failed"],
                     id="the champion fails after an answer of the candidate"),
        pytest.param("candidate", [REFUSED], [], (None, True), [], [],
                     id="the champion refuses what the candidate answered"),
        pytest.param("candidate", [EOFError()], [], None, [], ["dropped"],
                     id="the process ends on the champion"),
    ],
)  # fmt: skip
def test_each_model_answers_for_its_own_faults(
    script: Callable[..., Watched],
    answered_by: str,
    champion: list[ShadowOutcome | Exception],
    candidate: list[ShadowOutcome | Exception],
    row: tuple[str | None, bool] | None,
    failures: list[str],
    uncompared: list[str],
) -> None:
    watched = script(champion=champion, candidate=candidate)
    watched.offer(is_by_candidate=answered_by == "candidate")
    assert [(one.failure, one.champion_refused) for one in watched.rows] == [row] * (
        row is not None
    )
    assert (watched.failures, watched.uncompared) == (failures, uncompared)


def test_an_error_of_the_champion_while_times_are_taken_leaves_the_comparison(
    script: Callable[..., Watched],
) -> None:
    watched = script(champion=[FAILED], candidate=[COMPARED] * 4)
    for _ in range(4):
        watched.offer()
    assert [row.comparison for row in watched.rows] == [SAME] * 4
    assert [row.ms_candidate for row in watched.rows] == [None] * 4
    assert watched.failures == []


def test_the_times_of_every_fourth_strip_are_those_of_their_models(
    script: Callable[..., Watched],
) -> None:
    watched = script(champion=[ShadowOutcome(ms=7.0)], candidate=[COMPARED] * 4)
    for _ in range(4):
        watched.offer()
    times = [(row.ms_champion, row.ms_candidate) for row in watched.rows]
    assert times == [(None, None)] * 3 + [(7.0, 5.0)]


@pytest.mark.parametrize(
    ("candidate", "row", "failures"),
    [
        ([ShadowOutcome(ms=5.0)], (None, True), []),
        ([FAILED], ("failed: ValueError", False), ["failed: ValueError"]),
        ([REFUSED], None, []),
    ],
)
def test_the_candidate_is_asked_for_what_the_champion_refused(
    script: Callable[..., Watched],
    candidate: list[ShadowOutcome | Exception],
    row: tuple[str | None, bool] | None,
    failures: list[str],
) -> None:
    watched = script(champion=[], candidate=[*candidate, COMPARED])
    refused = RequestRow(
        request_id="r",
        created_at=NOW,
        bundle_hash="1" * 64,
        bento_tag="ecg:1",
        duration_s=10.0,
        patient_key="a",
    )
    watched.shadow.offer_refused(watched.opened, watched.champion, watched.question, refused)
    watched.offer()  # the rows come in order
    first = watched.rows[0]
    if row is not None:
        watched.wait(lambda: len(watched.rows) == 2)
        assert (first.prediction_id, first.traffic_group) == ("r", "patient a")
        assert (first.duration_s, first.answered_by) == (10.0, "champion")
        assert (first.failure, first.champion_refused) == row
    else:
        assert first.comparison == SAME
    assert watched.failures == failures


def test_a_system_without_threads_compares_later(
    script: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = script(champion=[], candidate=[COMPARED] * 2)

    def fail(_: threading.Thread) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    made = watched.answer()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        watched.shadow.offer(watched.opened, watched.champion, watched.question, made)
    assert watched.rows == []
    watched.offer()
    watched.wait(lambda: len(watched.rows) == 2)  # that which waited too


def test_a_strip_that_cannot_be_noted_does_not_end_the_comparisons(
    script: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = script(champion=[], candidate=[COMPARED])

    def fail(_: ComparisonRow) -> None:
        msg = "no room"
        raise OSError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(watched.shadow, "_note", fail)
        watched.offer()
    assert watched.uncompared == ["dropped"]
    watched.offer(failure="refused: x")
    assert [row.failure for row in watched.rows] == ["refused: x"]


class Failing:
    """Raises whatever it is asked."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def classify(self, *_: object, **__: object) -> Any:  # noqa: ANN401  raises
        raise self.error


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ValueError("a broken network"), "failed: ValueError"),
        (SignalTooShortError("too short"), "refused: signal-too-short"),
    ],
)
def test_the_process_tells_errors_and_refusals_of_the_model_that_it_asked(
    watch: Callable[..., Watched], error: Exception, failure: str
) -> None:
    watched, loaded = watch(), LoadedModels()
    loaded._models = [replace(watched.champion, classifier=Failing(error))]  # type: ignore[arg-type]  # as of a broken model
    asked = ShadowTask(
        model=store_of(watched.champion), is_candidate=False, question=watched.question
    )
    assert perform(loaded, asked).failure == failure


def test_the_process_tells_that_a_model_cannot_be_loaded(watch: Callable[..., Watched]) -> None:
    stored = replace(store_of(watch().champion), bundle_hash="0" * 64)
    found = perform(LoadedModels(), ShadowTask(model=stored, is_candidate=True))
    assert (found.unloadable, found.failure) == ("ValueError", None)
