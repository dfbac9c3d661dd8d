"""Measure what monitoring stores of each beat, and gather it into strips and groups.

The drift reference of a bundle and the prediction log both take their columns from
:func:`observe_beats`, so that reference and traffic are measured in the same way.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import ClassifiedBeats
from ecg_lib.signal_path.features import FEATURE_NAMES
from ecg_lib.signal_path.filtering import median
from ecg_lib.signal_path.preprocessing import PreparedBeats
from ecg_lib.signal_path.readability.quality import UnreadableReason
from ecg_lib.signal_path.template import CENTRE

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

DERIVED_COLUMNS: Final = ("rr_irregularity",)
"""Columns of floats that are computed of the others when strips are gathered, so that bundles and
logs of earlier code have them too."""

COMPARED_COLUMNS: Final = (*NUMERICAL_COLUMNS, *DERIVED_COLUMNS, *CATEGORICAL_COLUMNS)

STRETCH: Final = "stretch"
"""Key of the stretch that each beat of a long strip is in."""

STRETCH_S: Final = 10.0
"""Length of the stretches, which is that of the strips of the reference."""

POINTS_DOWN: Final = "points_down"
"""Key of the direction of each R-peak: True below the baseline. It is logged, and compared with
earlier traffic instead of the reference, which lacks it."""

LONGEST_WHOLE_S: Final = 1.5 * STRETCH_S
"""Longer strips are observed in stretches."""

REFERENCE_KEYS: Final = ("subject", "strip", "strip_s")
"""Key columns of the drift reference; `strip_s` is the length of the strip in seconds."""


def observe_beats(classified: ClassifiedBeats) -> dict[str, NDArray[np.generic]]:
    """Measure the readable beats of one strip, by one lead alone as those of the reference.

    Parameters
    ----------
    classified : ClassifiedBeats

    Returns
    -------
    dict of ndarray
        :data:`OBSERVED_COLUMNS`, each of shape ``(n_classed_beats,)``; ``rr_prev_s`` of the
        first beat is NaN. Of a strip longer than :data:`LONGEST_WHOLE_S` also :data:`STRETCH`,
        and the heart rate and readable share are those of the stretch.

    """
    classified = classified.of_one_lead
    prepared = classified.prepared
    keep = classified.has_class
    rr_s = prepared.rr_prev_s[keep]
    is_long = prepared.duration_s > LONGEST_WHOLE_S
    stretch = np.zeros(len(rr_s), dtype=np.int64)
    readable = np.array([prepared.readable_s / prepared.duration_s])
    if is_long:
        stretch = (prepared.r_peaks[keep] / (STRETCH_S * prepared.fs)).astype(np.int64)
        readable = _readable_shares(prepared, fs=prepared.fs)
    similarity = prepared.features[:, FEATURE_NAMES.index("qrs_similarity")]
    rule = classified.rule[keep]
    observed: dict[str, NDArray[np.generic]] = {
        "rr_prev_s": rr_s,
        "heart_rate_bpm": 60 / _median_of_each(rr_s, stretch),
        "qrs_width_ms": prepared.qrs_width_s[keep] * 1e3,
        "template_correlation": similarity[keep].astype(np.float64),
        "amplitude_mv": prepared.amplitude_mv[keep],
        "readable_share": readable[stretch],
        "probability_v": classified.probability_v[keep],
        "arrhythmia_type": np.where(classified.is_v[keep], "V", "N"),
        "rule": np.where(rule == "", "none", rule),
    }
    return observed | ({STRETCH: stretch} if is_long else {})


def observe_polarity(classified: ClassifiedBeats) -> dict[str, NDArray[np.bool_]]:
    """Return the direction of the R-peak of each beat that :func:`observe_beats` has a row of.

    Parameters
    ----------
    classified : ClassifiedBeats

    Returns
    -------
    dict of ndarray
        :data:`POINTS_DOWN`, shape ``(n_classed_beats,)``.

    """
    classified = classified.of_one_lead
    at_peak = classified.prepared.windows[classified.has_class, CENTRE, 0]
    return {POINTS_DOWN: at_peak < 0}


class Piece(NamedTuple):
    """A piece of a recording."""

    signal_mv: NDArray[np.float32]
    fs: float


def cut_pieces(
    signal_mv: NDArray[np.float32], *, fs: float, seed: str, n_pieces: int = 24
) -> Iterator[Piece]:
    """Cut pieces of :data:`STRETCH_S` out of a recording, at random places of equal parts.

    Parameters
    ----------
    signal_mv : ndarray of shape (n_samples,)
    fs : float
        Its rate in Hz.
    seed : str
        Such as the name of the recording.
    n_pieces : int
        Fewer of a recording that is not so long; none of one that is shorter than a piece.

    """
    length = round(STRETCH_S * fs)
    n_cut = min(n_pieces, len(signal_mv) // length)
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    bounds = np.linspace(0, len(signal_mv), n_cut + 1).astype(np.int64)
    for first, stop in itertools.pairwise(bounds.tolist()):
        start = first + int(rng.integers(max(stop - first - length, 0) + 1))
        start = min(start, len(signal_mv) - length)
        yield Piece(np.array(signal_mv[start : start + length]), fs)


def _readable_shares(prepared: PreparedBeats, *, fs: float) -> NDArray[np.float64]:
    """Return the readable share of each stretch; the last may be shorter."""
    ends_s = np.minimum(
        np.arange(1, int(prepared.duration_s // STRETCH_S) + 2) * STRETCH_S, prepared.duration_s
    )
    starts_s = np.arange(len(ends_s)) * STRETCH_S
    lost_s = np.zeros(len(ends_s))
    for part in prepared.unreadable:
        if part.reason != UnreadableReason.FLUTTER:  # has no beats to read, but can be read
            overlap = np.minimum(ends_s, part.stop / fs) - np.maximum(starts_s, part.start / fs)
            lost_s += np.maximum(overlap, 0)
    shares = 1 - lost_s / np.maximum(ends_s - starts_s, 1 / fs)
    return np.asarray(shares.clip(0, 1), dtype=np.float64)


def _median_of_each(values: NDArray[np.float64], part: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return for each value the median of its part; NaN where none is known."""
    medians = np.full(len(values), np.nan)
    for one in set(part.tolist()):
        known = values[(part == one) & np.isfinite(values)]
        if len(known):
            medians[part == one] = median(known)
    return medians


OUTPUT_COLUMNS: Final = ("probability_v", *CATEGORICAL_COLUMNS)
"""Columns that the classifier decides."""

INPUT_COLUMNS: Final = tuple(name for name in COMPARED_COLUMNS if name not in OUTPUT_COLUMNS)
"""Columns measured on the signal, independent of the classifier."""

HARMLESS_COLUMNS: Final = ("amplitude_mv",)
"""Columns of the input that the classes do not depend on: the gain of the lead drops out."""


class ObservedStrip(NamedTuple):
    """One prediction, or a piece of a recording."""

    group: str
    """The patient, or the client when the patient is not known."""
    duration_s: float
    observed: Mapping[str, Sequence[Any]]
    """Columns of :func:`~ecg_lib.operations.drift.observation.observe_beats`; None for NaN."""
    slices: Mapping[str, str] = MappingProxyType({})
    """Value of each dimension that traffic is cut by, such as the lead."""
    n_wanted: int | None = 1
    """At most so many of its stretches are taken, spread evenly over it; None for all."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObservedBeats:
    """Observed beats, the strips they come from and the groups of those."""

    columns: dict[str, NDArray[np.generic]]
    """:data:`COMPARED_COLUMNS`, each of shape ``(n_beats,)``."""
    strip: NDArray[np.int64]
    """Strip of each beat."""
    group: NDArray[np.str_]
    """Group of each strip, shape ``(n_strips,)``."""
    strip_s: NDArray[np.float64]
    """Length of each strip in seconds."""
    slices: dict[str, NDArray[np.str_]] = field(default_factory=dict)
    """By dimension the value of each strip, an empty text where it is not known."""
    points_down: NDArray[np.float64] | None = None
    """Share of the R-peaks of each strip that point down, shape ``(n_strips,)``; NaN where the log
    of earlier code does not tell, None in a reference."""

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
        """Number of patients and of clients that named none."""
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
            slices={name: values[keep] for name, values in self.slices.items()},
            points_down=None if self.points_down is None else self.points_down[keep],
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
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in OBSERVED_COLUMNS}
    columns |= {name: columns[name].astype(np.str_) for name in CATEGORICAL_COLUMNS}
    strip = np.array([strips[key] for key in keys], dtype=np.int64)
    return ObservedBeats(
        columns=_derive(columns, strip),
        strip=strip,
        group=np.array([subject for subject, _, _ in strips], dtype=np.str_),
        strip_s=np.array([length_s for _, _, length_s in strips], dtype=np.float64),
    )


def gather_strips(strips: Iterable[ObservedStrip]) -> ObservedBeats:
    """Gather the beats of predictions; skip predictions without a readable beat.

    A strip that was observed in stretches becomes as many strips as are wanted of it.
    """
    pieces: list[_Gathered] = []
    for strip in strips:
        values = {
            name: np.array(
                strip.observed[name], dtype=np.float64 if name in NUMERICAL_COLUMNS else np.str_
            )  # None becomes NaN
            for name in OBSERVED_COLUMNS
        }
        n_beats = len(values["rule"])
        down = np.array(strip.observed.get(POINTS_DOWN, (np.nan,) * n_beats), dtype=np.float64)
        if STRETCH not in strip.observed:
            if n_beats:
                pieces.append(_Gathered(strip, strip.duration_s, values, float(down.mean())))
            continue
        stretch = np.array(strip.observed[STRETCH], dtype=np.int64)
        for one in _spread(np.unique(stretch), strip.n_wanted):
            is_in = stretch == one
            of_piece = {name: v[is_in] for name, v in values.items()}
            pieces.append(_Gathered(strip, STRETCH_S, of_piece, float(down[is_in].mean())))
    columns: dict[str, NDArray[np.generic]] = {}
    for name in OBSERVED_COLUMNS:
        kind = np.float64 if name in NUMERICAL_COLUMNS else np.str_
        none: NDArray[np.generic] = np.zeros(0, dtype=kind)
        columns[name] = np.concatenate([none, *(one.columns[name] for one in pieces)])
    index = np.repeat(np.arange(len(pieces)), [len(one.columns["rule"]) for one in pieces])
    dimensions = dict.fromkeys(name for one in pieces for name in one.strip.slices)
    return ObservedBeats(
        columns=_derive(columns, index),
        strip=index,
        group=np.array([one.strip.group for one in pieces], dtype=np.str_),
        strip_s=np.array([one.length_s for one in pieces], dtype=np.float64),
        slices={
            name: np.array([one.strip.slices.get(name, "") for one in pieces], dtype=np.str_)
            for name in dimensions
        },
        points_down=np.array([one.points_down for one in pieces], dtype=np.float64),
    )


class _Gathered(NamedTuple):
    """A strip, or a stretch of one, with its columns."""

    strip: ObservedStrip
    length_s: float
    columns: dict[str, NDArray[np.generic]]
    points_down: float


def _spread(values: NDArray[np.int64], n_wanted: int | None) -> NDArray[np.int64]:
    """Take at most so many values, evenly spread; None for all."""
    n_taken = len(values) if n_wanted is None else min(n_wanted, len(values))
    places = (np.arange(n_taken) + 0.5) * (len(values) / max(n_taken, 1))
    return values[places.astype(np.int64)]


def _derive(
    columns: dict[str, NDArray[np.generic]], strip: NDArray[np.int64]
) -> dict[str, NDArray[np.generic]]:
    """Add :data:`DERIVED_COLUMNS`."""
    irregularity = _measure_irregularity(
        columns["rr_prev_s"].astype(np.float64), columns["arrhythmia_type"] == "N", strip
    )
    return columns | {"rr_irregularity": irregularity}


_MIN_CHANGES = 3
"""Least number of changes of the RR interval that an irregularity is measured on."""


def _measure_irregularity(
    rr_s: NDArray[np.float64], is_n: NDArray[np.bool_], strip: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Measure how much the RR interval changes from beat to beat, relative to it, in each strip.

    The median of the absolute change over the median interval, between beats called N only, so
    that ectopic beats and their pauses do not count; NaN with fewer than three such changes. In
    atrial fibrillation the intervals have no pattern (Moody & Mark, Comput Cardiol 1983:227-230),
    and it is many times that of a sinus rhythm.
    """
    is_same = np.r_[False, strip[1:] == strip[:-1]]
    follows_n = np.r_[False, is_n[:-1]] & is_same & is_n & np.isfinite(rr_s)
    both = np.r_[False, follows_n[:-1]] & follows_n
    change = np.where(both, np.abs(np.diff(rr_s, prepend=np.nan)), np.nan)
    measured = np.full(len(rr_s), np.nan)
    bounds = np.flatnonzero(np.r_[True, ~is_same[1:], True]) if len(rr_s) else np.zeros(1, int)
    for first, stop in itertools.pairwise(bounds.tolist()):
        changes = change[first:stop][both[first:stop]]
        if len(changes) >= _MIN_CHANGES:
            intervals = rr_s[first:stop][follows_n[first:stop]]
            measured[first:stop] = median(changes) / median(intervals)
    return measured
