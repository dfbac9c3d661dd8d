"""A retraining that did not help holds the next one until a reader has labelled something."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from ecg_lib.operations.drift.decision import DriftAction, DriftDecision
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import FeedbackRow
from ecg_lib.operations.releases import CURRENT, Release, write_release
from ecg_lib.operations.settings import Settings
from flows.evaluation.retraining_outcome import hold_useless_retraining, note_outcome

STARTED = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def log(settings: Settings) -> Iterator[PredictionLog]:
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    yield log
    log.close()


def _serve(settings: Settings, bundle_hash: str) -> None:
    write_release(
        settings.serving_dir / CURRENT,
        Release(
            bento_tag="ecg:1",
            model_tag="ecg_bundle:1",
            bundle_hash=bundle_hash,
            code_hash="c",
            model_version="1",
            released_at="2026-01-01T00:00:00+00:00",
        ),
    )


def _note(settings: Settings, *, is_promoted: bool) -> None:
    verdict: dict[str, Any] = {"is_promoted": is_promoted, "reasons": ["gain on new people: none"]}
    with disable_run_logger():
        note_outcome.fn(settings, "d1", verdict, started_at=STARTED)


def _hold(log: PredictionLog, action: DriftAction = DriftAction.RETRAIN) -> DriftDecision:
    decision = DriftDecision(
        action=action, reasons=("drift",), is_breach=True, is_conclusive=True, figures={}
    )
    return hold_useless_retraining(decision, log, bundle_hash="bundle")


def _label(log: PredictionLog, at: datetime) -> None:
    row = FeedbackRow(
        feedback_id=at.isoformat(),
        created_at=at,
        prediction_id="p",
        annotator=None,
        labels={0: "N"},
    )
    log.add_feedback([row])


def test_a_retraining_that_did_not_help_is_repeated_only_with_new_labels(
    settings: Settings, log: PredictionLog
) -> None:
    _serve(settings, "bundle")
    assert _hold(log).action is DriftAction.RETRAIN
    _note(settings, is_promoted=False)
    _label(log, STARTED - timedelta(microseconds=1))
    held = _hold(log)
    assert held.action is DriftAction.KEEP
    reason, *others = held.reasons
    assert reason == (
        "RETRAIN is due but held: the retraining of 2026-03-01 12:00 did not help "
        "(gain on new people: none) and nothing was labelled since"
    )
    assert others == ["drift"]
    # A label that came while the retraining ran was not trained on.
    _label(log, STARTED)
    assert _hold(log).action is DriftAction.RETRAIN


def test_other_actions_other_models_and_a_retraining_that_helped_hold_nothing(
    settings: Settings, log: PredictionLog
) -> None:
    _note(settings, is_promoted=False)  # nothing is served: it replaces nothing
    _serve(settings, "another")
    _note(settings, is_promoted=False)
    assert _hold(log).action is DriftAction.RETRAIN
    _serve(settings, "bundle")
    _note(settings, is_promoted=True)
    assert _hold(log).action is DriftAction.RETRAIN
    assert _hold(log, DriftAction.ROLLBACK).action is DriftAction.ROLLBACK
