"""The latest drift check as a file, which the metrics of the service show.

All checks are in the monitoring database. The service reads its metrics every second and must not
wait for a database, so ``monitor-drift`` writes the latest check to a file too.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from ecg_lib.operations.prediction_rows import DriftCheckRow
from ecg_lib.records.atomic_files import write_durably

FILE: Final = "drift.json"
"""In the directory of :attr:`ecg_lib.operations.settings.Settings.serving_dir`."""

ACTIONS: Final = ("KEEP", "RETRAIN", "ROLLBACK")


class LastCheck(BaseModel):
    """The latest drift check."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    check_id: str
    created_at: datetime
    bundle_hash: str
    bento_tag: str
    action: str
    is_breach: bool


def write_last_check(path: Path, row: DriftCheckRow) -> None:
    """Write the latest check, whole or not at all."""
    check = LastCheck(
        check_id=row.check_id,
        created_at=row.created_at,
        bundle_hash=row.bundle_hash,
        bento_tag=row.summary["bento_tag"],
        action=row.action,
        is_breach=row.summary["is_breach"],
    )
    write_durably(path, check.model_dump_json(indent=2))


def read_last_check(path: Path) -> LastCheck | None:
    """Read the latest check; None before the first one.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it does not hold a check.

    """
    try:
        return LastCheck.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
