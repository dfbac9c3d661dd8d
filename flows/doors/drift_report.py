"""Evidently's drift report: traffic beside the reference, as a page and as figures.

The only module that knows Evidently. It shows and does not decide, and says what the verdict says:
its distances, limits and flags are those of :mod:`ecg_lib.operations.drift.comparison`, it calls
the whole drifted when the check does, and it shows as many beats of each patient or client, as they
weigh equally in the comparison.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.operations.drift.comparison import ColumnDrift, Comparison
from ecg_lib.operations.drift.observation import (
    CATEGORICAL_COLUMNS,
    COMPARED_COLUMNS,
    HARMLESS_COLUMNS,
    ObservedBeats,
)

MIN_ROWS: Final = 100
"""Least number of beats on either side."""

EVIDENCE: Final = "-decision"
"""End of the names of reports that are kept: a decision was made by them."""

PAGE: Final = "-evidently"
"""End of the names of Evidently's pages, beside those of the verdict."""

MAX_ROWS: Final = 20_000
"""Largest number of beats that are shown of a side: the page holds them."""

_METHOD: Final = "ecg_group_permutation"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """A report that has been written."""

    html: Path
    summary: Path
    """JSON beside the page."""
    distances: dict[str, float]
    """Distance of each column, as the verdict has it."""
    detected: tuple[str, ...]
    """Columns of which the page says that they drifted."""
    is_detected: bool
    """Whether the page says that the whole drifted."""


def write_drift_report(
    reference: ObservedBeats,
    current: ObservedBeats,
    comparison: Comparison,
    *,
    is_drift: bool,
    directory: Path,
    name: str,
    n_kept: int,
    is_evidence: bool = False,
) -> DriftReport:
    """Write Evidently's report of traffic against the reference.

    Parameters
    ----------
    reference, current : ObservedBeats
        The beats that were compared.
    comparison : Comparison
        Their comparison; its columns are shown.
    is_drift : bool
        Whether the check found drift.
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
        If a side has fewer than :data:`MIN_ROWS` beats, or nothing was compared.

    """
    for side, beats in (("reference", reference), ("current", current)):
        if beats.n_beats < MIN_ROWS:
            msg = f"{side} must have at least {MIN_ROWS} beats, got {beats.n_beats}"
            raise ValueError(msg)
    if not comparison.columns:
        raise ValueError("the comparison must have at least one column, got none")
    name += PAGE + (EVIDENCE if is_evidence else "")
    directory.mkdir(parents=True, exist_ok=True)
    html, summary = directory / f"{name}.html", directory / f"{name}.json"
    metrics = _run_evidently(
        balance_beats(reference), balance_beats(current), comparison, html, is_drift=is_drift
    )
    distances = {
        metric["config"]["column"]: float(metric["value"])
        for metric in metrics
        if metric["config"]["type"].endswith(":ValueDrift")
    }
    (counted,) = (
        metric for metric in metrics if metric["config"]["type"].endswith(":DriftedColumnsCount")
    )
    detected = tuple(drift.column for drift in comparison.columns if _is_shown(drift))
    report = DriftReport(
        html=html,
        summary=summary,
        distances=distances,
        detected=detected,
        is_detected=counted["value"]["share"] >= counted["config"]["drift_share"],
    )
    content = {
        "distances": distances,
        "detected": detected,
        "is_detected": report.is_detected,
        "reference_groups": reference.n_groups,
        "current_groups": current.n_groups,
    }
    summary.write_text(json.dumps(content, indent=2), encoding="utf-8")
    _remove_old(directory, n_kept)
    return report


def balance_beats(beats: ObservedBeats) -> dict[str, NDArray[np.generic]]:
    """Take as many beats of each group, spread evenly over its strips; few beats come again."""
    _, group = np.unique(beats.group, return_inverse=True)
    group_of_beat = group[beats.strip]
    present = np.unique(group_of_beat)
    n_each = max(min(beats.n_beats, MAX_ROWS) // len(present), 1)
    rows = []
    for one in present:
        of_group = np.flatnonzero(group_of_beat == one)
        places = (np.arange(n_each) + 0.5) * (len(of_group) / n_each)
        rows.append(of_group[places.astype(np.int64)])
    chosen = np.concatenate(rows)
    return {name: values[chosen] for name, values in beats.columns.items()}


def _is_shown(drift: ColumnDrift) -> bool:
    return bool(drift.is_drifted and drift.column not in HARMLESS_COLUMNS)


def _run_evidently(
    reference: Mapping[str, NDArray[np.generic]],
    current: Mapping[str, NDArray[np.generic]],
    comparison: Comparison,
    html: Path,
    *,
    is_drift: bool,
) -> list[dict[str, Any]]:
    found = {drift.column: drift for drift in comparison.columns}
    names = [name for name in COMPARED_COLUMNS if name in found]
    n_shown = sum(_is_shown(drift) for drift in comparison.columns)
    # Drift of the whole needs another share of columns than the verdict does, which knows which.
    share = (n_shown if is_drift and n_shown else n_shown + 1) / len(names)
    os.environ.setdefault("DO_NOT_TRACK", "true")  # read by Evidently when it is imported
    # Evidently uses what NumPy, pandas and litestar have deprecated, once for each column.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pandas as pd
        from evidently import DataDefinition, Dataset, Report
        from evidently.legacy.calculations.stattests import StatTest, register_stattest
        from evidently.legacy.core import ColumnType
        from evidently.presets import DataDriftPreset, DataSummaryPreset

        def look_up(
            reference_values: pd.Series[Any], _current: object, _kind: object, _threshold: float
        ) -> tuple[float, bool]:
            drift = found[str(reference_values.name)]
            return drift.distance, _is_shown(drift)

        register_stattest(
            StatTest(
                name=_METHOD,
                display_name="distance by patient or client, judged by permutation",
                allowed_feature_types=[ColumnType.Numerical, ColumnType.Categorical],
            ),
            look_up,
        )
        definition = DataDefinition(
            numerical_columns=[name for name in names if name not in CATEGORICAL_COLUMNS],
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
                    method=_METHOD,
                    per_column_threshold={name: drift.least for name, drift in found.items()},
                    drift_share=share,
                ),
                DataSummaryPreset(),
            ]
        )
        snapshot = report.run(*datasets)
        snapshot.save_html(str(html))
        return list(snapshot.dict()["metrics"])


def _remove_old(directory: Path, n_kept: int) -> None:
    for page in sorted(directory.glob(f"*{PAGE}.html"))[:-n_kept]:
        page.unlink(missing_ok=True)
        page.with_suffix(".json").unlink(missing_ok=True)
