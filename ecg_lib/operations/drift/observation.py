"""Measure what monitoring stores of each beat, and gather it into strips and groups.

The drift reference of a bundle and the prediction log both take their columns from
:func:`observe_beats`, so that reference and traffic are measured in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import ClassifiedBeats
from ecg_lib.signal_path.features import FEATURE_NAMES

NUMERICAL_COLUMNS: Final = (
    "rr_prev_s",
    "heart_rate_bpm",
    "qrs_width_ms",
    "template_correlation",
    "amplitude_mv",
    "readable_share",
    "probability_v",
)
"""Columns of floats; the heart rate and readable share are those of the whole strip."""

CATEGORICAL_COLUMNS: Final = ("arrhythmia_type", "rule")
"""``N`` or ``V``; the rule that fired or ``none``."""

OBSERVED_COLUMNS: Final = NUMERICAL_COLUMNS + CATEGORICAL_COLUMNS

REFERENCE_KEYS: Final = ("subject", "strip", "strip_s")
"""Key columns of the drift reference; `strip_s` is the length of the strip in seconds."""


def observe_beats(classified: ClassifiedBeats) -> dict[str, NDArray[np.generic]]:
    """Measure the readable beats of one strip.

    Returns
    -------
    dict of ndarray
        :data:`OBSERVED_COLUMNS`, each of shape ``(n_classed_beats,)``; ``rr_prev_s`` of the
        first beat is NaN.

    """
    prepared = classified.prepared
    keep = classified.has_class
    n_kept = int(keep.sum())
    rr_s = prepared.rr_prev_s[keep]
    known = rr_s[np.isfinite(rr_s)]
    rate = 60 / float(np.median(known)) if len(known) else float("nan")
    similarity = prepared.features[:, FEATURE_NAMES.index("qrs_similarity")]
    rule = classified.rule[keep]
    return {
        "rr_prev_s": rr_s,
        "heart_rate_bpm": np.full(n_kept, rate),
        "qrs_width_ms": prepared.qrs_width_s[keep] * 1e3,
        "template_correlation": similarity[keep].astype(np.float64),
        "amplitude_mv": prepared.amplitude_mv[keep],
        "readable_share": np.full(n_kept, prepared.readable_s / prepared.duration_s),
        "probability_v": classified.probability_v[keep],
        "arrhythmia_type": np.where(classified.is_v[keep], "V", "N"),
        "rule": np.where(rule == "", "none", rule),
    }


OUTPUT_COLUMNS: Final = ("probability_v", *CATEGORICAL_COLUMNS)
"""Columns that the classifier decides."""

INPUT_COLUMNS: Final = tuple(name for name in OBSERVED_COLUMNS if name not in OUTPUT_COLUMNS)
"""Columns measured on the signal, independent of the classifier."""


class ObservedStrip(NamedTuple):
    """One prediction."""

    group: str
    """The patient, or the prediction when the patient is not known."""
    duration_s: float
    observed: Mapping[str, Sequence[Any]]
    """Columns of :func:`~ecg_lib.operations.drift.observation.observe_beats`; None for NaN."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObservedBeats:
    """Observed beats, the strips they come from and the groups of those."""

    columns: dict[str, NDArray[np.generic]]
    """:data:`OBSERVED_COLUMNS`, each of shape ``(n_beats,)``."""
    strip: NDArray[np.int64]
    """Strip of each beat."""
    group: NDArray[np.str_]
    """Group of each strip, shape ``(n_strips,)``."""
    strip_s: NDArray[np.float64]
    """Length of each strip in seconds."""

    @property
    def n_beats(self) -> int:
        """Number of beats."""
        return len(self.strip)

    @property
    def n_strips(self) -> int:
        """Number of strips."""
        return len(self.group)

    @property
    def n_groups(self) -> int:
        """Number of patients, or of predictions without one."""
        return len(np.unique(self.group))

    def select(self, keep: NDArray[np.bool_]) -> ObservedBeats:
        """Return the strips for which `keep` is True, with their beats."""
        beats = keep[self.strip]
        new_index = np.cumsum(keep) - 1
        return ObservedBeats(
            columns={name: values[beats] for name, values in self.columns.items()},
            strip=new_index[self.strip[beats]],
            group=self.group[keep],
            strip_s=self.strip_s[keep],
        )


def read_reference(table: pa.Table) -> ObservedBeats:
    """Read the drift reference of a bundle; its groups are subjects."""
    keys = list(
        zip(
            table["subject"].to_pylist(),
            table["strip"].to_pylist(),
            table["strip_s"].to_pylist(),
            strict=True,
        )
    )
    strips = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    return ObservedBeats(
        columns={name: table[name].to_numpy(zero_copy_only=False) for name in OBSERVED_COLUMNS},
        strip=np.array([strips[key] for key in keys], dtype=np.int64),
        group=np.array([subject for subject, _, _ in strips], dtype=np.str_),
        strip_s=np.array([length_s for _, _, length_s in strips], dtype=np.float64),
    )


def gather_strips(strips: Iterable[ObservedStrip]) -> ObservedBeats:
    """Gather the beats of predictions; skip predictions without a readable beat."""
    kept = [strip for strip in strips if len(strip.observed["rule"])]
    lengths = [len(strip.observed["rule"]) for strip in kept]
    columns: dict[str, NDArray[np.generic]] = {}
    for name in OBSERVED_COLUMNS:
        values = [value for strip in kept for value in strip.observed[name]]
        kind = np.float64 if name in NUMERICAL_COLUMNS else np.str_
        columns[name] = np.array(values, dtype=kind)  # None becomes NaN
    return ObservedBeats(
        columns=columns,
        strip=np.repeat(np.arange(len(kept)), lengths),
        group=np.array([strip.group for strip in kept], dtype=np.str_),
        strip_s=np.array([strip.duration_s for strip in kept], dtype=np.float64),
    )
