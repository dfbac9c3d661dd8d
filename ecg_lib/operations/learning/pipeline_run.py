"""The latest run of the pipeline as a file: how far it came, and why it did or did not promote.

The pipeline writes it and the service shows it, without Prefect. A run that was killed leaves the
stage that it was in.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from ecg_lib.records.atomic_files import write_durably

FILE: Final = "pipeline.json"
"""In the directory of :attr:`ecg_lib.operations.settings.Settings.serving_dir`."""


class PipelineRun(BaseModel):
    """A run of the pipeline."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    flow_run_id: str | None
    """Run of Prefect."""
    why: str
    """Why it was started."""
    started_at: datetime
    stage: str
    """The stage that runs, or that ran last."""
    stages: dict[str, float] = {}
    """Seconds of each stage that has ended."""
    finished_at: datetime | None = None
    """None while it runs, and when it was killed."""
    failure: str | None = None
    """Why it failed; None when it runs or ended well."""
    is_promoted: bool | None = None
    """Whether the candidate became champion; None before the gates."""
    version: str | None = None
    """Model version that is champion after the gates."""
    reasons: tuple[str, ...] = ()
    """Reasons of the gates."""


def write_pipeline_run(path: Path, run: PipelineRun) -> None:
    """Write a run, whole or not at all."""
    write_durably(path, run.model_dump_json(indent=2))


def read_pipeline_run(path: Path) -> PipelineRun | None:
    """Read the latest run; None when there was none.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it does not hold a run.

    """
    try:
        return PipelineRun.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
