"""The demo prints what is decided, and ends with a step that comes out otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecg_lib.operations.settings import Settings
from flows.local.demo.loop import summarize
from flows.local.demo.stage import Stage, StepError, expect


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


def test_a_step_that_comes_out_otherwise_says_what_and_why() -> None:
    expect("KEEP", "KEEP", "no column drifted")
    with pytest.raises(StepError, match="must come out as KEEP, it came out as RETRAIN: 3 columns"):
        expect("RETRAIN", "KEEP", "3 columns")


def test_waiting_ends_with_what_is_missing(stage: Stage) -> None:
    found = iter([None, "row"])
    assert stage.wait_for(lambda: next(found), "a row", limit_s=5.0) == "row"
    with pytest.raises(StepError, match="the last answer must be there after 0 s"):
        stage.wait_for(lambda: None, "the last answer", limit_s=0.0)
