"""Observed strips, sent to the log of a released bundle."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client

from ecg_lib.operations.drift.observation import OBSERVED_COLUMNS, ObservedBeats
from ecg_lib.operations.drift.traffic_log import add_requests
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import PredictionRow, RequestRow
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings

ROOT = Path(__file__).parents[4]
Observed = dict[str, list[Any]]
Serve = Callable[[Settings, Release], None]
NOW = datetime.now(UTC)
MINUTE = timedelta(minutes=1)
TAG = "ecg:2"
PATIENT = "patient"


def _observed_of(beats: ObservedBeats, strip: int) -> Observed:
    return _for_log({name: beats.columns[name][beats.strip == strip] for name in OBSERVED_COLUMNS})


def _for_log(columns: dict[str, Any]) -> Observed:
    return {
        name: [None if value != value else value for value in values.tolist()]  # noqa: PLR0124
        for name, values in columns.items()
    }


def send(
    settings: Settings,
    strips: list[Observed],
    *,
    ago: timedelta,
    bundle_hash: str,
    tag: str = TAG,
    name: str = "p",
    is_drawn: bool = False,
) -> None:
    """Write answers into the log as the service does."""
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    log.add_predictions(
        [
            PredictionRow(
                prediction_id=f"{name}-{index}",
                created_at=NOW - ago + index * timedelta(milliseconds=1),
                patient_key=strip[PATIENT][0],
                bundle_hash=bundle_hash,
                bento_tag=tag,
                duration_s=10.0,
                response={
                    "beat_predictions": [{"arrhythmia_type": t} for t in strip["arrhythmia_type"]],
                    "drawn_for_review": is_drawn,
                },
                observed={key: values for key, values in strip.items() if key != PATIENT},
            )
            for index, strip in enumerate(strips)
        ]
    )
    log.close()


def read_events(name: str, resource: str) -> list[dict[str, Any]]:
    """Ask the server for events; they arrive a moment after they were sent."""
    body = {
        "filter": {
            "event": {"name": [name]},
            "resource": {"id": [resource]},
            "occurred": {"since": (NOW - 60 * MINUTE).isoformat()},
        }
    }
    with get_client(sync_client=True) as client:
        for _ in range(50):
            found = client.request("POST", "/events/filter", json=body).json()["events"]
            if found:
                return list(found)
            time.sleep(0.2)
    return []


def note(settings: Settings, rows: list[RequestRow]) -> None:
    """Write where requests came from, as the service does."""
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    add_requests(log, rows)
    log.close()
