"""Progress of a task: a bar in the Prefect UI and a line in its log."""

from __future__ import annotations

import time
from typing import cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

_INTERVAL_S = 2.0


class ProgressBar:
    """A progress artifact that is updated every two seconds at most.

    Parameters
    ----------
    description : str
        What is in progress.

    """

    def __init__(self, description: str) -> None:
        self._description = description
        self._artifact = cast(
            "UUID", create_progress_artifact(progress=0.0, description=description)
        )
        self._noted_s = time.monotonic()

    def update(self, done: float, total: float) -> None:
        """Note that `done` of `total` is done."""
        is_last = done >= total
        if not is_last and time.monotonic() - self._noted_s < _INTERVAL_S:
            return
        self._noted_s = time.monotonic()
        percent = 100 * done / total if total else 100.0
        update_progress_artifact(self._artifact, progress=percent)
        get_run_logger().info("%s: %.0f %%", self._description, percent)
