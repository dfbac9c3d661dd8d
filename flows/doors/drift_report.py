"""Evidently's drift report: traffic beside the reference, as a page and as figures.

The only module that knows Evidently. It shows and does not decide: its distances take beats for
independent, and the decision is that of :mod:`ecg_lib.operations.drift.decision`.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecg_lib.operations.drift.observation import (
    CATEGORICAL_COLUMNS,
    NUMERICAL_COLUMNS,
    OBSERVED_COLUMNS,
)

MIN_ROWS = 100
"""Least number of beats on either side."""

_EVIDENCE = "-decision"
"""End of the names of reports that are kept: a decision was made by them."""

_NUMERICAL_METHOD = "wasserstein"
_CATEGORICAL_METHOD = "jensenshannon"
_MAX_DISTANCE = 0.1

Columns = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """A report that has been written."""

    html: Path
    summary: Path
    """JSON beside the page."""
    distances: dict[str, float]
    """Evidently's distance of each column: normed Wasserstein or Jensen-Shannon."""
    left_out: tuple[str, ...]
    """Columns without a value on one side."""


def write_drift_report(
    reference: Columns,
    current: Columns,
    *,
    directory: Path,
    name: str,
    n_kept: int,
    is_evidence: bool = False,
) -> DriftReport:
    """Write Evidently's report of traffic against the reference.

    Parameters
    ----------
    reference, current : mapping of str to ndarray
        :data:`ecg_lib.operations.drift.observation.OBSERVED_COLUMNS`, one value for each beat.
    directory : Path
        Made when it is missing.
    name : str
        Of the files, without suffix; later names sort later.
    n_kept : int
        Pages that are kept, the newest; one has 4 MB.
    is_evidence : bool
        Whether a decision was made by this report; such reports stay.

    Returns
    -------
    DriftReport

    Raises
    ------
    ValueError
        If a side lacks a column or has fewer than :data:`MIN_ROWS` beats.

    """
    for side, columns in (("reference", reference), ("current", current)):
        missing = sorted(set(OBSERVED_COLUMNS) - set(columns))
        if missing:
            raise ValueError(f"{side} must have all observed columns, lacks {missing}")
        n_rows = len(columns[OBSERVED_COLUMNS[0]])
        if n_rows < MIN_ROWS:
            raise ValueError(f"{side} must have at least {MIN_ROWS} beats, got {n_rows}")
    # Evidently refuses columns without a value.
    left_out = tuple(
        column
        for column in NUMERICAL_COLUMNS
        if not all(np.isfinite(side[column].astype(float)).any() for side in (reference, current))
    )
    kept = [column for column in OBSERVED_COLUMNS if column not in left_out]
    name += _EVIDENCE if is_evidence else ""
    directory.mkdir(parents=True, exist_ok=True)
    html, summary = directory / f"{name}.html", directory / f"{name}.json"
    metrics = _run_evidently(reference, current, kept, html)
    distances = {
        metric["config"]["column"]: float(metric["value"])
        for metric in metrics
        if metric["config"]["type"].endswith(":ValueDrift")
    }
    content = {
        "distances": distances,
        "methods": {"numerical": _NUMERICAL_METHOD, "categorical": _CATEGORICAL_METHOD},
        "max_distance": _MAX_DISTANCE,
        "left_out": left_out,
        "reference_beats": len(reference["rule"]),
        "current_beats": len(current["rule"]),
    }
    summary.write_text(json.dumps(content, indent=2), encoding="utf-8")
    _remove_old(directory, n_kept)
    return DriftReport(html=html, summary=summary, distances=distances, left_out=left_out)


def _run_evidently(
    reference: Columns, current: Columns, names: list[str], html: Path
) -> list[dict[str, Any]]:
    os.environ.setdefault("DO_NOT_TRACK", "true")  # read by Evidently when it is imported
    # Evidently uses what NumPy, pandas and litestar have deprecated, once for each column.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pandas as pd
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset, DataSummaryPreset

        definition = DataDefinition(
            numerical_columns=[name for name in names if name in NUMERICAL_COLUMNS],
            categorical_columns=[name for name in names if name in CATEGORICAL_COLUMNS],
        )
        datasets = [
            Dataset.from_pandas(
                pd.DataFrame({name: side[name] for name in names}), data_definition=definition
            )
            for side in (current, reference)
        ]
        report = Report(
            [
                DataDriftPreset(
                    num_method=_NUMERICAL_METHOD,
                    cat_method=_CATEGORICAL_METHOD,
                    threshold=_MAX_DISTANCE,
                ),
                DataSummaryPreset(),
            ]
        )
        snapshot = report.run(*datasets)
        snapshot.save_html(str(html))
        return list(snapshot.dict()["metrics"])


def _remove_old(directory: Path, n_kept: int) -> None:
    pages = [page for page in directory.glob("*.html") if not page.stem.endswith(_EVIDENCE)]
    for page in sorted(pages)[:-n_kept]:
        page.unlink(missing_ok=True)
        page.with_suffix(".json").unlink(missing_ok=True)
