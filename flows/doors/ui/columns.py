"""Names of the columns of MLflow's run list."""

from __future__ import annotations

from typing import Final

V_F1: Final = "V-F1"
"""Metric of candidates, their sweeps and the reference: out of fold, at the full budget."""

V_F1_OF_SEARCH: Final = "V-F1 in search"
"""Metric of trials, of few beats, epochs and folds: it compares with that of other trials."""

STATE: Final = "state"
"""Tag of a trial: ``complete`` or ``pruned``."""

PREFECT_RUN: Final = "ecg.prefect_run"
"""Tag of a run: the flow run that made it."""
