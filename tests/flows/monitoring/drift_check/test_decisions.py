"""The run that a check asks for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ecg_lib.operations.drift.decision import DriftAction, DriftDecision
from ecg_lib.operations.prediction_rows import DriftCheckRow
from flows.monitoring.outbox import make_decision
from flows.pipeline import pipeline

CHECK = DriftCheckRow(
    check_id="c",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    bundle_hash="b",
    action="RETRAIN",
    summary={"bento_tag": "ecg:2"},
)


def _decide(action: DriftAction) -> DriftDecision:
    return DriftDecision(
        action=action, reasons=("noise",), is_breach=True, is_conclusive=True, figures={}
    )


@pytest.mark.parametrize(
    ("trained_on", "wanted"),
    [
        (["mitdb"], {"reason": "noise", "databases": ["mitdb"]}),
        (["svdb", "mitdb"], {"reason": "noise", "databases": ["mitdb", "svdb"]}),
        ([], {"reason": "noise"}),
        (["mitdb", "the ward"], {"reason": "noise"}),
        (["simulated"], {"reason": "noise"}),
        (["mitdb", "site"], {"reason": "noise", "databases": ["mitdb"]}),
        (["site"], {"reason": "noise"}),
    ],
)
def test_a_model_is_trained_again_on_the_databases_of_the_served_one(
    trained_on: list[str], wanted: dict[str, Any]
) -> None:
    row = make_decision(CHECK, _decide(DriftAction.RETRAIN), trained_on=trained_on)
    assert row is not None
    assert row.deployment == "pipeline/pipeline"
    assert row.parameters == wanted
    pipeline.validate_parameters(row.parameters)


def test_a_rollback_names_what_it_was_decided_against_and_no_databases() -> None:
    row = make_decision(CHECK, _decide(DriftAction.ROLLBACK), trained_on=["mitdb"])
    assert row is not None
    assert row.deployment == "rollback-champion/rollback-champion"
    assert row.parameters == {"reason": "noise", "decided_against": "ecg:2"}


def test_a_model_that_is_kept_asks_for_nothing() -> None:
    assert make_decision(CHECK, _decide(DriftAction.KEEP), trained_on=["mitdb"]) is None


def test_a_retrained_model_is_released_as_the_settings_say() -> None:
    wanted = _decide(DriftAction.RETRAIN)
    row = make_decision(CHECK, wanted, trained_on=["mitdb"], rollout="gradual")
    assert row is not None
    assert row.parameters["rollout"] == "gradual"
    at_once = make_decision(CHECK, wanted, trained_on=["mitdb"], rollout="at_once")
    assert at_once is not None
    assert "rollout" not in at_once.parameters
