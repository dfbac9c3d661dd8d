"""The demo prints what is decided, and ends with a step that comes out otherwise."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from ecg_lib.operations.learning.rollout.candidate import Candidate, Plan
from ecg_lib.operations.learning.rollout.candidate import Stage as RolloutStage
from ecg_lib.operations.prediction_rows import DriftCheckRow
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from flows.local.demo.loop import summarize
from flows.local.demo.stage import Stage, StepError, expect
from flows.monitoring.evidence import open_log
from flows.release.rollout.look import Look, Verdict, store_decision


@pytest.fixture
def printed() -> list[str]:
    return []


@pytest.fixture
def stage(tmp_path: Path, printed: list[str]) -> Stage:
    return Stage(
        settings=Settings(home=tmp_path),
        check=lambda: None,
        say=printed.append,
        log_file=tmp_path / "demo.log",
    )


def test_lines_that_tell_what_is_decided_are_printed_and_all_are_kept(
    stage: Stage, printed: list[str]
) -> None:
    for line in (
        "monitor-drift RETRAIN: 4 columns",
        "train-sweep Fits: 25 %",
        "gate speed: passed",
    ):
        stage.follow(line)
    assert [line.strip() for line in printed] == [
        "monitor-drift RETRAIN: 4 columns", "gate speed: passed"
    ]  # fmt: skip
    assert stage.log_file.read_text().splitlines()[1] == "train-sweep Fits: 25 %"


def test_the_summary_names_what_was_reached_and_what_was_not(
    stage: Stage, printed: list[str]
) -> None:
    stage.end_step("KEEP", "healthy traffic", "http://127.0.0.1:1/run")
    stage.end_step("RETRAIN", "new population", "http://127.0.0.1:1/other")
    printed.clear()
    summarize(stage)
    text = "\n".join(printed)
    assert text.index("KEEP") < text.index("RETRAIN")
    assert "http://127.0.0.1:1/other" in text
    assert "not reached: promoted, ROLLBACK" in text


def _release(version: str) -> Release:
    return Release(
        bento_tag=f"ecg:{version}",
        model_tag=f"ecg_bundle:{version}",
        bundle_hash="0" * 64,
        code_hash="0" * 64,
        model_version=version,
        released_at="2026-01-01T00:00:00.000+00:00",
    )


@pytest.mark.parametrize("decided_on", ["this", "another"])
def test_the_decision_on_the_candidate_is_read_and_not_the_latest_drift_check(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    decided_on: str,
) -> None:
    now = datetime.now(UTC)
    candidate = Candidate(
        id="this",
        release=_release("2"),
        champion=_release("1"),
        plan=Plan(stages=(RolloutStage(share=0.5, min_hours=0, min_strips=1, min_groups=1),)),
        started_at=now,
        stage_since=now,
        who="a test",
        why="better",
    )
    retrain = DriftCheckRow(
        check_id="1", created_at=now, bundle_hash="h", action="RETRAIN", summary={}
    )
    look = Look(
        verdict=Verdict.TAKEN_BACK,
        reasons=("share of V",),
        candidate=candidate.model_copy(update={"id": decided_on}),
    )

    def watch(_: Stage, name: str) -> UUID:
        assert name == "watch-rollout"
        with open_log(stage.settings) as log:
            log.add_drift_check(retrain, decision=None)
            store_decision(log, look, now=now)
        return UUID(int=1)

    monkeypatch.setattr(Stage, "run_flow", watch)
    monkeypatch.setattr(Stage, "link_run", lambda _, run_id: f"link {run_id.int}")
    if decided_on == "another":
        with pytest.raises(StepError, match="must take ecg:2 back, it decided nothing on it"):
            stage.check_rollout(candidate)
    else:
        check, link = stage.check_rollout(candidate)
        assert (check.action, check.summary["reasons"], link) == (
            "ROLLBACK", ["share of V"], "link 1"
        )  # fmt: skip


def test_a_step_that_comes_out_otherwise_says_what_and_why() -> None:
    expect("KEEP", "KEEP", "no column drifted")
    with pytest.raises(StepError, match="must come out as KEEP, it came out as RETRAIN: 3 columns"):
        expect("RETRAIN", "KEEP", "3 columns")


def test_waiting_ends_with_what_is_missing(stage: Stage) -> None:
    found = iter([None, "row"])
    assert stage.wait_for(lambda: next(found), "a row", limit_s=5.0) == "row"
    with pytest.raises(StepError, match="the last answer must be there after 0 s"):
        stage.wait_for(lambda: None, "the last answer", limit_s=0.0)
