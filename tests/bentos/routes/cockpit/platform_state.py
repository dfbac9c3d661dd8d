"""The log and the reports of a platform, for the tests of the operations page."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from ecg_lib.operations.prediction_rows import DecisionRow, DriftCheckRow

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAGE = "20260301T120000000000Z-decision"
REPORT = "20260301T120000000000Z-evidently-decision"
EVALUATION = "0123456789ab-out-of-fold-quick"
VERDICT = "<!doctype html><style>h1{color:red}</style><h1>RETRAIN</h1>"

Serve = Callable[..., Any]


def check_row(action: str, *, at: datetime = NOW, report: str | None = None) -> DriftCheckRow:
    return DriftCheckRow(
        check_id=str(uuid.uuid4()),
        created_at=at,
        bundle_hash="b" * 64,
        action=action,
        summary={
            "bento_tag": "ecg:toy",
            "is_conclusive": True,
            "is_breach": action == "RETRAIN",
            "reasons": ["rr_irregularity moved"],
            "report": report,
        },
    )


def add_drift(service: Any) -> DriftCheckRow:  # noqa: ANN401  a conftest's class
    """Store a check that kept, and a later one that asked for a retraining."""
    service.runtime.log.add_drift_check(check_row("KEEP", at=NOW - timedelta(hours=1)))
    row = check_row("RETRAIN", report=f"{PAGE}.html")
    service.runtime.log.add_drift_check(
        row,
        DecisionRow(
            decision_id=row.check_id,
            created_at=NOW,
            deployment="pipeline/ecg",
            parameters={},
            state="asked",
            run_id="run-1",
        ),
    )
    return row


def write_pages(service: Any) -> None:  # noqa: ANN401  a conftest's class
    directory = service.runtime.settings.reports_dir / "drift"
    directory.mkdir(parents=True)
    (directory / f"{PAGE}.html").write_text(VERDICT)
    (directory / f"{REPORT}.html").write_text("<script>let shown</script>")


def settle(service: Any) -> None:  # noqa: ANN401  a conftest's class
    """Wait until the log has all that was answered."""
    deadline = time.monotonic() + 180
    while len(service.runtime.spool):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read(service: Any, **headers: str) -> dict[str, Any]:  # noqa: ANN401  a conftest's class
    answered = service.http.get("/api/v1/ops/", headers=headers)
    assert answered.status_code == 200, answered.text
    found: dict[str, Any] = answered.json()
    return found
