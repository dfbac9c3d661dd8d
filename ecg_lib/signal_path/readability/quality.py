"""Judge a signal second by second, and find the stretches in which no ECG can be read.

Three things make a stretch unreadable: it is flat (the electrode is off), it is clipped (the
amplifier is at its rail), or it is noise: nothing stands out of it as QRS complexes do, or what
stands out is never twice of one shape. Limits were chosen on DS1 and the paced records, where
they call less than 0.1 % of the time outside ventricular flutter unreadable; the signals that they
must refuse are the noise records of the MIT-BIH Noise Stress Test Database, hum, and random walks.

Where the heart makes no beats that could be read (flutter, asystole) is for
:mod:`ecg_lib.signal_path.readability.findings`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.filtering import Bands, filter_rank
from ecg_lib.signal_path.kernels.library import run_kernel


class UnreadableReason(StrEnum):
    """Why a stretch cannot be read."""

    FLAT = "flat"
    CLIPPED = "clipped"
    NOISE = "noise"
    FLUTTER = "flutter"
    """The signal may be good but has no beats: see ``readability/flutter.py``."""
    MISSING = "missing"
    """The file marks the samples as missing: see ``readability/missing.py``."""


class Stretch(NamedTuple):
    """A part of the signal in which beats cannot be read."""

    start: int
    """First sample."""

    stop: int
    """First sample after it."""

    reason: UnreadableReason


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityConfig:
    """Limits of the signal quality."""

    bin_s: float = 2.0
    """Time step of the judgement; two seconds hold a QRS complex."""
    flat_range_mv: float = 0.01
    """A bin that spans less than this is flat."""
    clipped_run_s: float = 0.03
    """Samples this long at the greatest or least value of the signal are at the rail."""
    clipped_share: float = 0.2
    """Share of a bin at the rail that makes it clipped."""
    smooth_bins: int = 5
    tone_prominence: float = 1.6
    """Below this ratio of the tallest to the median slope energy there is a tone, not ECG."""
    noise_prominence: float = 2.9
    """Below this ratio no QRS complexes stand out."""
    clear_prominence: float = 7.0
    """Above this ratio QRS complexes stand out whatever their shapes."""
    same_shape: float = 0.7
    """Between both, beats must resemble their neighbours this much."""
    fast_rr_s: float = 0.4
    """When four of five RR intervals are shorter, QRS complexes fill so much of the time that
    little stands out: the limit is then that of a tone, and the beats must resemble each other
    even more. Maxima that are picked out of hum resemble each other too, but come at random."""
    fast_same_shape: float = 0.95


class Quality(NamedTuple):
    """What :func:`assess_quality` finds."""

    unreadable: tuple[Stretch, ...]
    """In time order, without overlap; flat, clipped or noise."""
    per_second: NDArray[np.float64]
    """Of each second begun, 0 to 1: one minus the limit of noise over the prominence.

    The prominence is how many times the greatest slope of a second and its neighbours is the
    usual one; 0 is a signal in which nothing stands out, and every second that cannot be read.
    """


def assess_quality(
    signal_mv: NDArray[np.floating],
    r_peaks: NDArray[np.int64],
    *,
    energy: NDArray[np.float64] | None = None,
    rail_share: NDArray[np.float64] | None = None,
    config: QualityConfig | None = None,
    bands: Bands | None = None,
) -> Quality:
    """Judge a 360 Hz signal second by second, and find where no ECG can be read.

    Parameters
    ----------
    signal_mv : ndarray of shape (n_samples,)
        One lead at 360 Hz in mV, not yet filtered.
    r_peaks : ndarray of int64
        The detector's R-peaks in it.
    energy : ndarray of shape (n_samples,), optional
        :func:`measure_slope_energy` of it; measured when left out.
    rail_share : ndarray, optional
        :func:`measure_rail_share` of the signal before it was resampled, which rounds the rail
        off; measured on `signal_mv` when left out.
    config : QualityConfig, optional
    bands : Bands, optional
        Those of the signal, where others need them too.

    Returns
    -------
    Quality

    """
    config = config or QualityConfig()
    bands = bands or Bands(signal_mv)
    samples = bands.signal
    if energy is None:
        energy = measure_slope_energy(samples, bands=bands)
    width = int(config.bin_s * FS_HZ)
    edges = np.arange(0, max(1, len(samples) // width)) * width
    is_flat = _range_of_bins(samples, edges) < config.flat_range_mv
    if rail_share is None:
        rail_share = measure_rail_share(samples, fs=FS_HZ, config=config)
    # Rounding may make one bin of difference between both time bases.
    rail_share = rail_share[np.minimum(np.arange(len(edges)), len(rail_share) - 1)]
    is_clipped = rail_share > config.clipped_share
    medians = np.maximum(_median_of_bins(energy, edges), 1e-12)
    is_noise = _is_noise(bands, energy, medians, edges, r_peaks, config)
    reasons: list[UnreadableReason | None] = [
        UnreadableReason.FLAT
        if flat
        else UnreadableReason.CLIPPED
        if clipped
        else UnreadableReason.NOISE
        if noise
        else None
        for flat, clipped, noise in zip(is_flat, is_clipped, is_noise, strict=True)
    ]
    per_second = _grade_seconds(energy, medians, config)
    bin_of_second = np.minimum(np.arange(len(per_second)) // config.bin_s, len(edges) - 1)
    per_second[(is_flat | is_clipped | is_noise)[bin_of_second.astype(np.int64)]] = 0.0
    return Quality(_merge(reasons, edges, len(samples)), per_second)


def measure_slope_energy(
    signal_mv: NDArray[np.floating], *, bands: Bands | None = None
) -> NDArray[np.float64]:
    """Average the slope of the 5 to 18 Hz band, that of QRS complexes, over 0.1 s.

    Parameters
    ----------
    signal_mv : ndarray of shape (n_samples,)
        One lead at 360 Hz in mV.
    bands : Bands, optional
        Those of the signal, where others need them too.

    Returns
    -------
    ndarray of shape (n_samples,)
        In mV a sample; to be read only.

    """
    return (bands or Bands(signal_mv)).slope(5.0, 18.0, window=int(0.1 * FS_HZ)).average


def find_spans(is_there: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Find where True follows True: the first place of each span, and the first after it.

    >>> find_spans(np.array([True, True, False, True]))
    [(0, 2), (3, 4)]

    """
    edges = np.flatnonzero(np.diff(is_there, prepend=False, append=False))
    return [(start, stop) for start, stop in edges.reshape(-1, 2).tolist()]


def is_inside(positions: NDArray[np.int64], stretches: tuple[Stretch, ...]) -> NDArray[np.bool_]:
    """Return True for positions inside one of the stretches, shape of `positions`."""
    inside = np.zeros(len(positions), dtype=np.bool_)
    for start, stop, _ in stretches:
        inside |= (positions >= start) & (positions < stop)
    return inside


def _range_of_bins(samples: NDArray[np.float64], edges: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(np.maximum.reduceat(samples, edges) - np.minimum.reduceat(samples, edges))


def measure_rail_share(
    signal_mv: NDArray[np.floating], *, fs: float, config: QualityConfig | None = None
) -> NDArray[np.float64]:
    """Measure the share of each bin that stays at the extreme values of the whole signal.

    Parameters
    ----------
    signal_mv : ndarray of shape (n_samples,)
        One lead as it came, not resampled.
    fs : float
        Its sampling rate in Hz.
    config : QualityConfig, optional

    Returns
    -------
    ndarray of shape (n_bins,)

    """
    config = config or QualityConfig()
    samples = np.asarray(signal_mv, dtype=np.float64)
    n_bins = max(1, int(len(samples) / (config.bin_s * fs)))
    edges = (np.arange(n_bins) * config.bin_s * fs).astype(np.int64)
    run = max(2, int(config.clipped_run_s * fs))
    at_rail = [
        (start, stop)
        for rail in (samples.min(), samples.max())
        if np.count_nonzero(is_there := samples == rail) >= run
        for start, stop in find_spans(is_there)
        if stop - start >= run
    ]
    if not at_rail:
        return np.zeros(n_bins)
    counts = np.zeros(len(samples))
    for start, stop in at_rail:
        counts[start:stop] += 1.0
    return np.asarray(np.add.reduceat(counts, edges) / np.diff(edges, append=len(samples)))


def _median_of_bins(values: NDArray[np.float64], edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """Median of each bin; all but the last have one width."""
    medians = np.empty(len(edges))
    width = int(edges[1]) if len(edges) > 1 else len(values)
    run_kernel("median_of_bins", values, len(values), width, len(edges), medians)
    return medians


def _grade_seconds(
    energy: NDArray[np.float64], medians: NDArray[np.float64], config: QualityConfig
) -> NDArray[np.float64]:
    """Grade each second by the tallest slope in it and its neighbours: three hold a QRS complex."""
    seconds = np.arange(0, len(energy), int(FS_HZ))
    tallest = np.maximum.reduceat(energy, seconds)
    around = np.concatenate([tallest[:1], tallest, tallest[-1:]])
    tallest = np.maximum(np.maximum(around[:-2], around[2:]), tallest)
    bins = np.minimum(np.arange(len(seconds)) // config.bin_s, len(medians) - 1)
    prominence = np.maximum(tallest / medians[bins.astype(np.int64)], 1e-12)
    return np.asarray(np.minimum(np.maximum(1 - config.noise_prominence / prominence, 0.0), 1.0))


def _is_noise(
    bands: Bands,
    energy: NDArray[np.float64],
    medians: NDArray[np.float64],
    edges: NDArray[np.int64],
    r_peaks: NDArray[np.int64],
    config: QualityConfig,
) -> NDArray[np.bool_]:
    prominence = np.maximum.reduceat(energy, edges) / medians
    size = min(config.smooth_bins, len(edges))
    prominence = filter_rank(prominence, size=size)
    is_tone = prominence < config.tone_prominence
    is_low = prominence < config.noise_prominence
    is_unclear = prominence < config.clear_prominence
    if not np.count_nonzero(is_unclear & ~is_tone):
        return np.asarray(is_low)
    likeness = _likeness_of_bins(bands, edges, r_peaks)
    is_fast = (_longest_rr_of_bins(edges, r_peaks, len(bands.signal)) < config.fast_rr_s) & (
        likeness >= config.fast_same_shape
    )
    return np.asarray(is_tone | (is_low & ~is_fast) | (is_unclear & (likeness < config.same_shape)))


def _longest_rr_of_bins(
    edges: NDArray[np.int64], r_peaks: NDArray[np.int64], n_samples: int
) -> NDArray[np.float64]:
    """RR interval that four of five around each bin do not exceed, in seconds.

    Infinite without beats.
    """
    if len(r_peaks) < 4:
        return np.full(len(edges), np.inf)
    rr_s = (r_peaks[1:] - r_peaks[:-1]) / FS_HZ
    size = min(9, len(rr_s))
    longest = filter_rank(rr_s, size=size, rank=int(0.8 * size))
    middle = edges + (edges[1] - edges[0] if len(edges) > 1 else n_samples) / 2
    return np.asarray(np.interp(middle, (r_peaks[1:] + r_peaks[:-1]) / 2, longest))


def _likeness_of_bins(
    bands: Bands, edges: NDArray[np.int64], r_peaks: NDArray[np.int64]
) -> NDArray[np.float64]:
    """How much the beats around each bin resemble their three likest of twenty neighbours."""
    if len(r_peaks) < 4:
        return np.ones(len(edges))
    band, of_beats = bands.band(0.5, 40.0), np.empty(len(r_peaks))
    half, reach = int(0.15 * FS_HZ), 10
    run_kernel("likeness_of_beats", band, len(band), r_peaks, len(r_peaks), half, reach, of_beats)
    usual = filter_rank(of_beats, size=min(9, len(of_beats)))
    middle = edges + (edges[1] - edges[0] if len(edges) > 1 else len(bands.signal)) / 2
    return np.asarray(np.interp(middle, r_peaks, usual))


def _merge(
    reasons: list[UnreadableReason | None], edges: NDArray[np.int64], n_samples: int
) -> tuple[Stretch, ...]:
    stops = [*edges[1:].tolist(), n_samples]
    bins = zip(edges.tolist(), stops, reasons, strict=True)
    return join_stretches(
        Stretch(start, stop, reason) for start, stop, reason in bins if reason is not None
    )


def join_stretches(stretches: Iterable[Stretch]) -> tuple[Stretch, ...]:
    """Join stretches of one reason that touch; they are in time order."""
    joined: list[Stretch] = []
    for stretch in stretches:
        last = joined[-1] if joined else None
        if last is not None and last.stop == stretch.start and last.reason == stretch.reason:
            joined[-1] = last._replace(stop=stretch.stop)
        else:
            joined.append(stretch)
    return tuple(joined)
