"""The flows of a rollout on a real Prefect server: the decision ROLLBACK, and an approval."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import resume_flow_run

from ecg_lib.operations.learning.rollout.candidate import Plan, Stage, read_candidate
from ecg_lib.operations.learning.rollout.comparison import Comparison, ComparisonRow
from ecg_lib.operations.learning.rollout.comparison_log import (
    add_comparisons,
)
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import CANDIDATE_ID
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import read_ledger
from flows.doors.release_history import EventKind
from flows.monitoring.evidence import open_log
from flows.release.release_service import release_service
from flows.release.rollout.approval import (
    Answer,
    ApprovalError,
    RejectedError,
    ask,
    wait_for_approval,
)
from flows.release.rollout.look import look_at_candidate
from flows.release.rollout.rollback_champion import rollback_champion
from flows.release.rollout.steps import Rollout, start_rollout
from flows.release.rollout.watch_rollout import watch_rollout
from flows.release.transaction import SupersededError, release_model

pytestmark = pytest.mark.slow

Make = Callable[..., Release]
PLAN = Plan(stages=(Stage(share=0.0, min_hours=0, min_strips=1, min_groups=1),))


@pytest.fixture
def settings(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Settings:  # noqa: ANN401
    """A home whose service port is closed."""
    home = tmp_path / "home"
    monkeypatch.setenv("ECG_HOME", str(home))
    monkeypatch.setenv("ECG_SERVICE_PORT", "9")
    return Settings(home=home, service_port=9)


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def compare(settings: Settings, candidate_id: str, *, v: int) -> None:
    settings.home.mkdir(parents=True, exist_ok=True)
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    found = Comparison(
        beats={"NN": 10 - v, "NV": v},
        v_champion=0,
        v_candidate=v,
        judged_champion=10,
        judged_candidate=10,
        runs_champion=0,
        runs_candidate=0,
        disagreements=(),
    )
    add_comparisons(
        log,
        [
            ComparisonRow(
                prediction_id=str(number),
                created_at=datetime.now(UTC),
                candidate_id=candidate_id,
                stage=0,
                answered_by="champion",
                traffic_group=f"patient {number}",
                duration_s=10.0,
                comparison=found,
            )
            for number in range(40)
        ],
    )
    log.close()


def test_a_bad_candidate_is_taken_back_and_the_rollback_is_asked_of_prefect(
    settings: Settings, client: SyncPrefectClient, make_stored: Make
) -> None:
    flow_id = client.create_flow_from_name("rollback-champion")
    client.create_deployment(flow_id, "rollback-champion", enforce_parameter_schema=False)
    completed = watch_rollout(return_state=True)
    assert completed.name == "NoCandidate"
    release_model(settings, make_stored("1"), why="the first")
    candidate = start_rollout(settings, make_stored("2"), plan=PLAN, why="better")
    compare(settings, candidate.id, v=9)

    found = watch_rollout()
    assert (found["verdict"], found["bento_tag"]) == ("taken back", "ecg:2-a")
    assert read_candidate(settings.serving_dir / "candidate.json") is None
    log = PredictionLog(settings.monitoring_database_url)
    (check,) = log.read_drift_checks(are_decisions=True)
    assert (check.action, check.summary[CANDIDATE_ID]) == ("ROLLBACK", candidate.id)
    (decision,) = log.read_open_decisions()
    log.close()
    assert (decision.state, decision.deployment) == ("asked", "rollback-champion/rollback-champion")
    assert decision.run_id is not None
    parameters = client.read_flow_run(decision.run_id).parameters  # type: ignore[arg-type]  # a text does
    assert parameters["decided_against"] == "ecg:2-a"
    assert "share of V" in parameters["reason"]

    # The run that was asked for changes nothing that is served.
    state = rollback_champion(**parameters, return_state=True)
    assert state.name == "CandidateTakenBack"
    kinds = [entry.event.kind.value for entry in read_ledger(settings.ledger_dir).entries]
    assert kinds == ["taken back", "candidate", "release"]


def test_a_decision_of_a_look_by_a_person_is_asked_of_prefect_by_the_next_flow_run(
    settings: Settings, client: SyncPrefectClient, make_stored: Make
) -> None:
    flow_id = client.create_flow_from_name("rollback-champion")
    client.create_deployment(flow_id, "rollback-champion", enforce_parameter_schema=False)
    release_model(settings, make_stored("1"), why="the first")
    candidate = start_rollout(settings, make_stored("2"), plan=PLAN, why="better")
    compare(settings, candidate.id, v=9)
    with open_log(settings) as log:
        look = look_at_candidate(settings, log, now=datetime.now(UTC), advances=True)
        assert look.verdict.value == "taken back"
        (decision,) = log.read_open_decisions()
        assert (decision.state, decision.run_id) == ("waiting", None)
        assert watch_rollout(return_state=True).name == "NoCandidate"
        (decision,) = log.read_open_decisions()
    assert decision.state == "asked"
    assert decision.run_id is not None


def test_a_good_candidate_is_released_by_the_flow(
    settings: Settings, prefect_server: None, make_stored: Make
) -> None:
    release_model(settings, make_stored("1"), why="the first")
    candidate = start_rollout(settings, make_stored("2"), plan=PLAN, why="better")
    compare(settings, candidate.id, v=0)
    waiting = watch_rollout(advances=False)
    assert waiting["verdict"] == "waits"
    assert watch_rollout()["verdict"] == "released"
    assert read_ledger(settings.ledger_dir).latest.release.bento_tag == "ecg:2-a"  # type: ignore[union-attr]


@flow(name="approval-test")
def release_with_approval(settings: Settings, release: Release) -> None:
    wait_for_approval(settings, release, what="release it", hours=0.05)


@pytest.mark.parametrize(
    ("given", "kind", "error"),
    [
        ({"approve": True, "who": "Grace", "comment": "seen"}, "approved", None),
        ({"approve": False, "who": "Grace", "comment": "too early"}, "rejected", RejectedError),
    ],
)
def test_a_person_answers_the_form_and_the_ledger_has_it(
    settings: Settings,
    client: SyncPrefectClient,
    make_stored: Make,
    given: dict[str, Any],
    kind: str,
    error: type[Exception] | None,
) -> None:
    name = f"approval {kind}"

    def answer() -> None:
        deadline_s = time.monotonic() + 180
        wanted = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
        while time.monotonic() < deadline_s:
            runs = client.read_flow_runs(flow_run_filter=wanted)
            if runs and runs[0].state is not None and runs[0].state.is_paused():
                resume_flow_run(runs[0].id, run_input=given)
                return
            time.sleep(0.1)

    thread = threading.Thread(target=answer)
    thread.start()
    named = release_with_approval.with_options(flow_run_name=name)
    state = named(settings, make_stored("2"), return_state=True)
    thread.join()
    if error is None:
        assert state.is_completed()
    else:
        with pytest.raises(error, match="too early"):
            state.result()
    event = read_ledger(settings.ledger_dir).entries[0].event
    assert (event.kind.value, event.who, event.why) == (kind, "Grace", given["comment"])
    assert event.release.bento_tag == "ecg:2-a"


def test_without_an_answer_in_time_nothing_is_released(
    settings: Settings, prefect_server: None, make_stored: Make
) -> None:
    @flow(name="approval-timeout")
    def run() -> Answer:
        def pause(**_: object) -> None:
            msg = "nobody came"
            raise FlowPauseTimeout(msg)

        return ask(make_stored("2"), what="release it", hours=24, pause=pause)

    answer = run()
    assert answer == Answer(EventKind.EXPIRED, None, "no answer within 24 h")
    assert not issubclass(ApprovalError, RejectedError)


@pytest.mark.parametrize("rollout", [Rollout.AT_ONCE, Rollout.GRADUAL])
def test_an_approval_after_another_release_was_made_changes_nothing(
    settings: Settings,
    prefect_server: None,
    make_stored: Make,
    monkeypatch: pytest.MonkeyPatch,
    rollout: Rollout,
) -> None:
    release_model(settings, make_stored("1"), why="the first")

    def approve_late(*_: object, **__: object) -> None:
        release_model(settings, make_stored("3"), why="urgent")

    monkeypatch.setattr("flows.release.release_service.wait_for_approval", approve_late)
    state = release_service(
        release=make_stored("2").model_dump(),
        rollout=rollout,
        needs_approval=True,
        return_state=True,
    )
    with pytest.raises(SupersededError, match="decided against ecg:1-a, but ecg:3-a is served now"):
        state.result()  # type: ignore[attr-defined]  return_state
    assert read_ledger(settings.ledger_dir).latest.release.bento_tag == "ecg:3-a"  # type: ignore[union-attr]
    assert read_candidate(settings.serving_dir / "candidate.json") is None
