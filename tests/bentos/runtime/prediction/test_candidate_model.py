"""A candidate in one process: no request fails or waits because of it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from bentos.runtime.live_model import LoadedModel
from bentos.runtime.prediction.answer import Question, answer
from bentos.runtime.prediction.rollout import candidate_model
from bentos.runtime.prediction.rollout.candidate_model import OpenCandidate
from bentos.runtime.prediction.rollout.shadow import Shadow
from bentos.runtime.spool import decode_row, encode_comparison
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import SignalTooShortError
from ecg_lib.operations.keys.signatures import make_key, sign_release
from ecg_lib.operations.learning.rollout.candidate import (
    Bounds,
    Candidate,
    EndKind,
    Plan,
    Stage,
    read_halt,
    write_candidate,
    write_halt,
)
from ecg_lib.operations.learning.rollout.comparison import ComparisonRow
from ecg_lib.operations.learning.rollout.comparison_log import read_compared
from ecg_lib.operations.releases import Release, bento_source
from ecg_lib.operations.settings import Settings
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class FailingClassifier:
    """Raises whatever it is asked."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def classify(self, *_: object, **__: object) -> Any:  # noqa: ANN401  raises
        raise self.error


def make_release(bundle: Bundle, version: str, *, code_hash: str) -> Release:
    return Release(
        bento_tag=f"ecg:{version}",
        model_tag=f"ecg_bundle:{version}",
        bundle_hash=bundle.hash,
        code_hash=code_hash,
        model_version=version,
        released_at=NOW.isoformat(),
    )


@dataclass
class Trying:
    """A service with a served release, and what is needed to try another."""

    service: Any
    champion: Release
    candidate: Release
    settings: Settings

    def write(self, **changes: Any) -> Candidate:  # noqa: ANN401  any field
        candidate = Candidate(
            **{
                "id": "one",
                "release": self.candidate,
                "champion": self.champion,
                "plan": Plan(
                    stages=(Stage(share=0.999999, min_hours=0, min_strips=1, min_groups=1),),
                    bounds=Bounds(max_failures=3),
                ),
                "started_at": NOW,
                "stage_since": NOW,
                "who": "Ada",
                "why": "better",
                "is_noted": True,
                **changes,
            }
        )
        write_candidate(self.settings.serving_dir / "candidate.json", candidate)
        return candidate

    def wait(self, is_there: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + 180
        while not is_there():
            assert time.monotonic() < deadline_s, self.service.runtime.trial.candidate.problem
            time.sleep(0.02)

    @property
    def model(self) -> Any:  # noqa: ANN401  a CandidateModel
        return self.service.runtime.trial.candidate

    def load(self, **changes: Any) -> Candidate:  # noqa: ANN401  any field
        candidate = self.write(**changes)
        self.wait(lambda: self.model.current is not None)
        return candidate

    def replace_classifier(self, error: Exception) -> None:
        opened: OpenCandidate = self.model.current
        broken = replace(opened.model, classifier=FailingClassifier(error))
        self.model.current = replace(opened, model=broken)


@pytest.fixture
def trying(
    start_service: Callable[..., Any],
    make_toy_bundle: Callable[..., Bundle],
    toy_model: LoadedModel,
) -> Iterator[Trying]:
    service = start_service()
    settings: Settings = service.runtime.settings
    code_hash = service.runtime.live.code_hash
    bundle = make_toy_bundle("candidate", threshold=0.4)
    champion = make_release(toy_model.bundle, "1", code_hash=code_hash)
    candidate = make_release(bundle, "2", code_hash=code_hash)
    make_key(settings)
    for release, of_release in ((champion, toy_model.bundle), (candidate, bundle)):
        bento_source(settings.bentoml_home, release).mkdir(parents=True)
        stored = settings.bentoml_home / "models" / "ecg_bundle" / release.model_version
        shutil.copytree(of_release.directory, stored / "bundle")
        sign_release(settings, release, why="a test")
    info = {**toy_model.info, "bento_tag": "ecg:1", "version": "1"}
    service.runtime.live.use(replace(toy_model, release=champion, info=info))
    yield Trying(service, champion, candidate, settings)
    service.close()


def tag_of(answered: Any) -> str:  # noqa: ANN401  a response
    assert answered.status_code == 201, answered.text
    tag: str = answered.json()["model"]["bento_tag"]
    return tag


def test_the_answer_and_the_log_say_which_model_answered(
    trying: Trying, make_request: Callable[..., dict[str, Any]]
) -> None:
    assert tag_of(trying.service.predict(**make_request(patient_id="p"))) == "ecg:1"
    trying.load()
    answered = trying.service.predict(**make_request(patient_id="p"))
    assert tag_of(answered) == "ecg:2"
    assert answered.json()["model"]["version"] == "2"
    name = answered.json()["prediction_id"]
    runtime = trying.service.runtime
    trying.wait(lambda: runtime.log.get_prediction(name) is not None)
    row = runtime.log.get_prediction(name)
    assert (row.bento_tag, row.bundle_hash) == ("ecg:2", trying.candidate.bundle_hash)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ValueError("a broken network"), "failed"),
        (SignalTooShortError("only for the candidate"), "refused"),
    ],
)
def test_a_candidate_that_fails_or_refuses_fails_no_request(
    trying: Trying,
    make_request: Callable[..., dict[str, Any]],
    error: Exception,
    failure: str,
) -> None:
    candidate = trying.load()
    trying.replace_classifier(error)
    for number in range(6):
        assert tag_of(trying.service.predict(**make_request(patient_id=f"p{number}"))) == "ecg:1"
    runtime = trying.service.runtime
    halt = read_halt(trying.settings.serving_dir / "candidate-halt.json")
    if failure == "failed":
        # Three errors end it in all workers; the requests after them never met it.
        assert halt is not None
        assert halt.candidate_id == candidate.id
        assert "3 errors in one worker, the last: failed: ValueError" in halt.reason
        assert trying.model.current is None
        expected = 3
    else:
        assert halt is None
        expected = 6
    trying.wait(
        lambda: (
            sum(one.refused for one in read_compared(runtime.log, "one").groups.values())
            == expected
        )
    )
    assert read_compared(runtime.log, "one").failed == (3 if failure == "failed" else 0)


def test_an_error_on_a_strip_that_the_champion_refuses_counts_and_what_both_refuse_does_not(
    trying: Trying,
) -> None:
    trying.load()
    runtime, flat = trying.service.runtime, {"signal_data": [0.0] * 3600, "sampling_rate": 360.0}
    trying.replace_classifier(SignalTooShortError("only for the candidate"))
    for number in range(3):
        refused = trying.service.predict(**flat, patient_id=f"p{number}")
        assert refused.status_code == 422
    assert trying.model.current is not None
    trying.replace_classifier(ValueError("a broken network"))
    for number in range(3):
        refused = trying.service.predict(**flat, patient_id=f"p{number}")
        assert refused.status_code == 422
    trying.wait(lambda: trying.model.current is None)
    halt = read_halt(trying.settings.serving_dir / "candidate-halt.json")
    assert halt is not None
    assert "3 errors in one worker, the last: failed: ValueError" in halt.reason
    trying.wait(lambda: read_compared(runtime.log, "one").failed == 3)
    groups = read_compared(runtime.log, "one").groups.values()
    assert sum(one.refused for one in groups) == 3


class SlowClassifier:
    """Waits until it is let go, then answers as another one."""

    def __init__(self, classifier: Any, let_go: threading.Event) -> None:  # noqa: ANN401  of a model
        self.classifier = classifier
        self.let_go = let_go

    def classify(self, *given: object, **options: object) -> Any:  # noqa: ANN401  as the other
        self.let_go.wait(0.7)
        return self.classifier.classify(*given, **options)


def replace_by_slow(trying: Trying, let_go: threading.Event) -> None:
    opened: OpenCandidate = trying.model.current
    slow = SlowClassifier(opened.model.classifier, let_go)
    trying.model.current = replace(opened, model=replace(opened.model, classifier=slow))


def test_three_slow_answers_of_a_candidate_end_it_also_while_it_computes(
    trying: Trying, make_request: Callable[..., dict[str, Any]]
) -> None:
    trying.load()
    # Ten seconds of signal in 100 ms: the candidate may take 400 ms.
    for _ in range(64):
        trying.model.pace.note_champion(0.1, duration_s=10.0)
    let_go = threading.Event()
    replace_by_slow(trying, let_go)
    request = make_request(patient_id="p")
    for _ in range(2):
        assert tag_of(trying.service.predict(**request)) == "ecg:2"
    assert trying.model.current is not None
    # The third never ends by itself: the watcher ends the candidate meanwhile.
    trying.model.current.model.classifier.let_go = hanging = threading.Event()
    hanging.wait = lambda _: threading.Event.wait(hanging, 30)  # type: ignore[method-assign]  # longer
    asked = threading.Thread(target=trying.service.predict, kwargs=request)
    asked.start()
    trying.wait(lambda: trying.model.current is None)
    assert asked.is_alive()
    assert tag_of(trying.service.predict(**request)) == "ecg:1"
    hanging.set()
    asked.join()
    halt = read_halt(trying.settings.serving_dir / "candidate-halt.json")
    assert halt is not None
    assert "3 errors in one worker, the last: slow: " in halt.reason
    assert "at most 0.40 s" in halt.reason
    samples = {sample.name: sample.value for sample in trying.service.samples()}
    assert samples["ecg_rollout_slow_answers_total"] == 3


def test_an_answer_that_is_slow_and_fails_is_one_error(
    trying: Trying, make_request: Callable[..., dict[str, Any]]
) -> None:
    trying.load()
    for _ in range(64):
        trying.model.pace.note_champion(0.1, duration_s=10.0)
    trying.replace_classifier(ValueError("a broken network"))
    replace_by_slow(trying, threading.Event())
    for _ in range(2):
        assert tag_of(trying.service.predict(**make_request(patient_id="p"))) == "ecg:1"
    assert trying.model.current is not None


def test_a_late_error_of_a_candidate_that_has_ended_does_not_end_its_successor(
    trying: Trying,
) -> None:
    plan = Plan(bounds=Bounds(max_failures=1))
    ended = trying.load(id="ended", plan=plan)
    trying.write(id="successor", plan=plan)
    trying.wait(lambda: trying.model.current.candidate.id == "successor")
    trying.model.note_failure(ended, "failed: ValueError")
    assert trying.model.current is not None
    trying.model.note_failure(trying.model.current.candidate, "failed: ValueError")
    assert trying.model.current is None


def test_slow_answers_count_for_an_hour(trying: Trying, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate, now_s = trying.load(), [0.0]
    monkeypatch.setattr(candidate_model, "monotonic", lambda: now_s[0])
    for at_s in (0.0, 3599.0, 3600.0):  # the first has expired at the third
        now_s[0] = at_s
        trying.model._note_slow(candidate, "slow: 3.00 s for an answer, at most 0.25 s")
        assert trying.model.current is not None
    trying.model._note_slow(candidate, "slow: 3.00 s for an answer, at most 0.25 s")
    assert trying.model.current is None


def test_the_champion_answers_all_long_strips(trying: Trying) -> None:
    trying.load()
    long = simulate_strip(StripKind.ISOLATED_PVC, duration_s=200.0, fs=360.0, seed=3)
    request = {
        "signal_data": long.signal_mv().round(4).tolist(),
        "sampling_rate": 360.0,
        "patient_id": "p",
    }
    assert tag_of(trying.service.predict(**request)) == "ecg:1"


def test_an_answer_stands_whatever_following_it_up_raises(
    trying: Trying, make_request: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trying.load()

    def fail(*_: object) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    monkeypatch.setattr(Shadow, "_add", fail)
    assert tag_of(trying.service.predict(**make_request(patient_id="p"))) == "ecg:2"
    refused = trying.service.predict(signal_data=[0.0] * 3600, sampling_rate=360.0)
    assert refused.status_code == 422


def test_what_both_models_refuse_is_refused_as_ever(trying: Trying) -> None:
    trying.load()
    refused = trying.service.predict(signal_data=[0.0] * 3600, sampling_rate=360.0)
    assert refused.status_code == 422


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"champion": "other"}, "it was made against ecg:other, ecg:1 is served"),
        ({"release": "code"}, "other code"),
        ({"release": "unsigned"}, "cannot be loaded"),
    ],
)
def test_what_may_not_be_tried_is_not_and_says_why(
    trying: Trying,
    make_request: Callable[..., dict[str, Any]],
    changes: dict[str, str],
    problem: str,
) -> None:
    releases = {
        "other": trying.champion.model_copy(update={"bento_tag": "ecg:other"}),
        "code": trying.candidate.model_copy(update={"code_hash": "0" * 64}),
        "unsigned": trying.candidate.model_copy(update={"model_version": "3"}),
    }
    trying.write(**{name: releases[value] for name, value in changes.items()})
    trying.wait(lambda: problem in (trying.model.problem or ""))
    assert trying.model.current is None
    assert tag_of(trying.service.predict(**make_request(patient_id="p"))) == "ecg:1"
    halt = read_halt(trying.settings.serving_dir / "candidate-halt.json")
    # One that could not be loaded may be tried again.
    assert (halt is not None and halt.kind) == (
        EndKind.STOPPED if problem == "cannot be loaded" else False
    )


def test_a_halt_that_cannot_be_read_ends_the_trial_until_it_can_be(
    trying: Trying, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = trying.load()
    path = trying.settings.serving_dir / "candidate-halt.json"
    path.mkdir()
    trying.wait(lambda: "candidate-halt.json cannot be read" in (trying.model.problem or ""))
    assert trying.model.current is None
    path.rmdir()
    trying.wait(lambda: trying.model.current is not None)

    def fail(_: object) -> None:
        msg = "a fault that nobody thought of"
        raise RuntimeError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(candidate_model, "read_candidate", fail)
        trying.write(stage_since=NOW + timedelta(hours=1))
        trying.wait(lambda: "nobody thought of" in (trying.model.problem or ""))
        assert trying.model.current is None
    trying.wait(lambda: trying.model.current is not None)
    write_halt(path, candidate.id, reason="3 errors in one worker", at=NOW)
    trying.wait(lambda: trying.model.problem == "3 errors in one worker")
    assert trying.model.current is None


def test_a_torn_file_is_reported_and_a_removed_one_ends_the_trial(
    trying: Trying, make_request: Callable[..., dict[str, Any]]
) -> None:
    trying.load()
    path = trying.settings.serving_dir / "candidate.json"
    path.write_text("{")
    trying.wait(lambda: "damaged" in (trying.model.problem or ""))
    assert trying.model.current is None
    trying.write()
    trying.wait(lambda: trying.model.current is not None)
    path.unlink()
    trying.wait(lambda: trying.model.current is None)
    assert trying.model.problem is None
    assert tag_of(trying.service.predict(**make_request(patient_id="p"))) == "ecg:1"


def test_a_release_ends_the_trial_at_once(trying: Trying, toy_model: LoadedModel) -> None:
    trying.load()
    released = trying.champion.model_copy(update={"bento_tag": "ecg:9"})
    runtime = trying.service.runtime
    info = {**toy_model.info, "bento_tag": "ecg:9"}
    model = replace(toy_model, release=released, info=info)
    assert runtime.trial.find(model) is None
    runtime.live.use(model)
    trying.wait(lambda: "ecg:9 is served" in (trying.model.problem or ""))


def test_without_a_candidate_there_is_no_thread_no_process_and_no_row(
    service: Any,  # noqa: ANN401  the class of the conftest
    make_request: Callable[..., dict[str, Any]],
) -> None:
    assert service.predict(**make_request(patient_id="p")).status_code == 201
    assert "shadow" not in {thread.name for thread in threading.enumerate()}
    samples = {sample.name: sample.value for sample in service.samples()}
    assert samples["ecg_rollout_stage"] == -1
    assert samples["ecg_rollout_share"] == 0


def test_strips_that_come_while_the_queue_is_full_are_dropped_and_counted(
    trying: Trying,
    make_request: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trying.load()
    opened: OpenCandidate = trying.model.current
    model = trying.service.runtime.live.current
    is_open, asked = threading.Event(), threading.Event()

    def wait(_self: Shadow, _waiting: object) -> None:
        asked.set()
        is_open.wait(30)

    monkeypatch.setattr(Shadow, "_compare", wait)
    dropped: list[str] = []
    shadow = Shadow(
        trying.settings,
        note=lambda _: None,
        note_failure=lambda *_: None,
        count_uncompared=dropped.append,
    )
    question = Question(body=orjson.dumps(make_request(patient_id="p")), patient_key=b"k" * 32)
    made = answer(model, question, observe=trying.service.runtime._stage)
    started_s = time.monotonic()
    shadow.offer(opened, model, question, made)
    assert asked.wait(30)
    for _ in range(100):
        shadow.offer(opened, model, question, made)
    assert time.monotonic() - started_s < 5  # nobody waits for the other model
    assert dropped == ["dropped"] * 36  # of 100, 64 wait
    is_open.set()
    shadow.close()


def test_a_share_of_zero_compares_nothing(
    trying: Trying, make_request: Callable[..., dict[str, Any]]
) -> None:
    trying.load()
    settings = trying.settings.model_copy(update={"shadow_share": 0.0})
    noted: list[ComparisonRow] = []
    shadow = Shadow(
        settings, note=noted.append, note_failure=lambda *_: None, count_uncompared=lambda _: None
    )
    question = Question(body=orjson.dumps(make_request(patient_id="p")), patient_key=b"k" * 32)
    model = trying.service.runtime.live.current
    made = answer(model, question, observe=trying.service.runtime._stage)
    for _ in range(20):
        shadow.offer(trying.model.current, model, question, replace(made, failure="failed: x"))
    shadow.close()
    assert noted == []


def test_a_comparison_survives_the_spool() -> None:
    row = ComparisonRow(
        prediction_id="p",
        created_at=NOW,
        candidate_id="one",
        stage=1,
        answered_by="candidate",
        traffic_group="patient a",
        duration_s=10.0,
        failure="failed: ValueError",
    )
    assert decode_row(encode_comparison(row)) == row
