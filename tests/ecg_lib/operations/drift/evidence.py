"""Evidence for the decision, made by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ecg_lib.evaluation.bootstrap import Interval
from ecg_lib.operations.drift.comparison import ColumnDrift, Comparison
from ecg_lib.operations.drift.decision import (
    DriftAction,
    DriftDecision,
    DriftEvidence,
    DriftPolicy,
    PastCheck,
    decide_action,
)
from ecg_lib.operations.drift.live_performance import LabelledPerformance
from ecg_lib.operations.drift.observation import COMPARED_COLUMNS

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RELEASED = NOW - timedelta(days=10)
HOUR = timedelta(hours=1)


def compare(*drifted: str, distance: float = 0.5, **sizes: int) -> Comparison:
    """A comparison in which some columns drifted."""
    return replace(
        Comparison(
            columns=tuple(
                ColumnDrift(
                    column=name,
                    distance=distance if name in drifted else 0.02,
                    p_value=0.002 if name in drifted else 0.6,
                    p_adjusted=0.018 if name in drifted else 1.0,
                    is_drifted=name in drifted,
                    reference="before",
                    current="after",
                )
                for name in COMPARED_COLUMNS
            ),
            n_strips=200,
            n_beats=2400,
            n_groups=200,
            n_reference_groups=22,
            left_out=(),
        ),
        **sizes,
    )


def past(ago: timedelta, **changes: Any) -> PastCheck:  # noqa: ANN401
    """An earlier check that found no drift."""
    check = PastCheck(
        created_at=NOW - ago,
        bundle_hash="b",
        bento_tag="ecg:1",
        action=DriftAction.KEEP,
        is_conclusive=True,
        is_breach=False,
        newest_at=NOW - ago - HOUR,
    )
    return replace(check, **changes)


def label(estimate: float, low: float, high: float, **changes: Any) -> LabelledPerformance:  # noqa: ANN401
    return LabelledPerformance(
        f1=Interval(estimate, low, high),
        sensitivity=estimate,
        predictivity=estimate,
        expected_f1=0.95,
        n_strips=40,
        n_partly=0,
        n_beats=480,
        n_v=60,
        n_groups=40,
    )._replace(**changes)


def decide(
    evidence: DriftEvidence, *history: PastCheck, policy: DriftPolicy | None = None
) -> DriftDecision:
    return decide_action(
        evidence, history=history, bundle_hash="b", released_at=RELEASED, now=NOW, policy=policy
    )


NOISE = ("qrs_width_ms", "template_correlation", "probability_v")
QUIET = DriftEvidence(traffic=compare())
NOISY = DriftEvidence(traffic=compare(*NOISE))
