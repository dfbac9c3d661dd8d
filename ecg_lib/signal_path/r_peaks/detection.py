"""Find R-peaks without losing ventricular beats, and match them to annotations.

The well-known detectors look for steep, narrow complexes and drop many PVCs, which are slow and
wide. This one measures every candidate on two scales, a steep one (5 to 18 Hz, the
conducted QRS) and a slow one (3 to 10 Hz, the PVC), relative to the level of its neighbourhood,
accepts the strong ones, and then asks more of candidates that the rhythm does not need than of
those that fill a gap. What these rules take for beats is the context in which a small network
(:mod:`ecg_lib.signal_path.r_peaks.verifier`) then judges every candidate. Polarity and gain play no
part.

The structure (band-pass, slope energy, adaptive level, T-wave slope test, search-back) is that of
Pan & Tompkins 1985, DOI 10.1109/TBME.1985.325532. Deviations: two scales, a level from both sides
in time (this is not a real-time detector), thresholds that depend on the gap, a learned verdict,
and an R-peak placed by the polarity that dominates the neighbourhood. Constants were chosen on
DS1 and the paced records.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.block_filter import pad_ends
from ecg_lib.signal_path.filtering import Bands
from ecg_lib.signal_path.r_peaks.candidate_features import Candidates, Envelopes, measure_candidates
from ecg_lib.signal_path.r_peaks.fast_rhythm import find_hidden
from ecg_lib.signal_path.r_peaks.hum_at_ends import are_hum
from ecg_lib.signal_path.r_peaks.verifier import BeatVerifier, load_verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionConfig:
    """Constants of the detector; heights are relative to the local level."""

    steep_band_hz: tuple[float, float] = (5.0, 18.0)
    slow_band_hz: tuple[float, float] = (3.0, 10.0)
    steep_window_s: float = 0.10
    slow_window_s: float = 0.16
    slow_weight: float = 0.7
    refractory_s: float = 0.26
    level_bin_s: float = 2.0
    level_bins: int = 17
    strong: float = 0.45
    gap_thresholds: tuple[tuple[float, float], ...] = ((1.15, 0.4), (1.4, 0.3), (1.78, 0.15))
    """(gap over the local RR interval, height that a candidate inside it needs), in order."""
    longest_gap_s: float = 1.8
    """A gap that is searched whatever the local RR interval."""
    t_wave_s: float = 0.36
    t_wave_slope: float = 0.5
    """A candidate this soon after a beat needs this share of its slope, or it is a T wave."""
    p_wave_s: float = 0.28
    """A beat this soon before a much steeper one is its P wave: no ventricle is ready so early."""
    next_beat_s: float = 0.24
    rules_logit: float = 1.5
    """Added to the logit of a candidate that the rules accept. At 2 the fewest V beats are missed,
    at 0 the fewest artefacts are taken for beats; the network of the classifier rejects artefacts
    later, and no later step finds a beat that is missed."""
    peak_search_s: float = 0.09
    polarity_beats: int = 61
    polarity_ratio: float = 1.8
    """How much taller a deflection against the dominant polarity must be to be the R-peak."""


def detect_r_peaks(
    signal: NDArray[np.floating],
    *,
    config: DetectionConfig | None = None,
    verifier: BeatVerifier | None = None,
    bands: Bands | None = None,
) -> NDArray[np.int64]:
    """Find the R-peaks of a 360 Hz signal.

    Parameters
    ----------
    signal : ndarray of shape (n_samples,)
        One lead at 360 Hz in any unit, raw or band-passed, at least a second long.
    config : DetectionConfig, optional
    verifier : BeatVerifier, optional
        The network that judges candidates; the committed one when left out. Figures on the
        records that it was fitted on come from networks that have not seen the subject.
    bands : Bands, optional
        Those of the signal, where others need them too.

    Returns
    -------
    ndarray of int64, shape (n_beats,)
        Sample positions, ascending.

    Notes
    -----
    A position is the extremum of the QRS complex in the 1 to 30 Hz band, the convention of the
    MIT-BIH annotations; of two deflections it is the one whose polarity dominates in the
    neighbouring beats, unless the other is much taller.

    """
    config = config or DetectionConfig()
    candidates, envelopes = find_candidates(signal, config=config, bands=bands)
    if len(candidates.position) == 0:
        return candidates.position
    by_rules = accept_by_rules(candidates, config=config)
    logits = (verifier or load_verifier()).logits(
        measure_candidates(candidates, envelopes, by_rules)
    )
    accepted = logits + config.rules_logit * by_rules > 0
    position = candidates.position[accepted]
    hidden = find_hidden(
        envelopes.steep,
        envelopes.smooth,
        position=position,
        r_peaks=_find_extrema(envelopes.smooth, position, config),
    )
    position = position[~_are_hum(signal, envelopes.smooth, candidates, accepted, config)]
    return _place_r_peaks(envelopes.smooth, np.sort(np.append(position, hidden)), config)


def _are_hum(
    signal: NDArray[np.floating],
    smooth: NDArray[np.float64],
    candidates: Candidates,
    accepted: NDArray[np.bool_],
    config: DetectionConfig,
) -> NDArray[np.bool_]:
    """Return True for accepted candidates that are made by hum at the ends of the signal."""
    position = candidates.position[accepted]
    reach = int(config.peak_search_s * FS_HZ)
    around = pad_ends(smooth, reach)[position[:, None] + np.arange(2 * reach + 1)]
    return are_hum(
        np.asarray(signal, dtype=np.float64),
        position,
        candidates.slope[accepted],
        band_hz=config.steep_band_hz,
        usual_span=float(np.median(np.ptp(around, axis=1))) if len(position) else 0.0,
    )


def find_candidates(
    signal: NDArray[np.floating], *, config: DetectionConfig, bands: Bands | None = None
) -> tuple[Candidates, Envelopes]:
    """Find the local maxima of the slope energy, with their height over the local level.

    Parameters
    ----------
    signal : ndarray of shape (n_samples,)
        One lead at 360 Hz.
    config : DetectionConfig
    bands : Bands, optional
        Those of the signal, where others need them too.

    """
    bands = bands or Bands(signal)
    steep_slope = np.abs(np.gradient(bands.band(*config.steep_band_hz)))
    window = int(config.steep_window_s * FS_HZ)
    steep = average_slope(steep_slope, window)
    slow_slope = np.abs(np.gradient(bands.band(*config.slow_band_hz)))
    slow = average_slope(slow_slope, int(config.slow_window_s * FS_HZ))

    position = _find_maxima(steep, distance=int(config.refractory_s * FS_HZ))
    steep_level = _local_level(steep, position, config)
    slow_level = _local_level(slow, position, config)
    slow_height = ndimage.maximum_filter1d(slow, window)[position] / slow_level
    candidates = Candidates(
        position.astype(np.int64),
        np.maximum(steep[position] / steep_level, config.slow_weight * slow_height),
        ndimage.maximum_filter1d(steep_slope, window)[position],
    )
    smooth = bands.band(1.0, 30.0)
    return candidates, Envelopes(steep, slow, smooth, steep_level, slow_level)


def average_slope(slope: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Average over a window: a running sum, which rounding may leave below zero on a still line.

    Parameters
    ----------
    slope : ndarray of shape (n_samples,)
        Absolute slope, in mV a sample.
    window : int
        In samples.

    Returns
    -------
    ndarray of shape (n_samples,)
        In mV a sample, never negative.

    """
    return np.asarray(np.maximum(ndimage.uniform_filter1d(slope, window), 0.0))


def accept_by_rules(candidates: Candidates, *, config: DetectionConfig) -> NDArray[np.bool_]:
    """Accept candidates by height, slope and gap alone, shape ``(n,)``."""
    accepted = candidates.height >= config.strong
    _reject_waves(candidates, accepted, config)
    for gap, height in config.gap_thresholds:
        _fill_gaps(candidates, accepted, config, gap=gap, height=height)
    return accepted


def _find_maxima(envelope: NDArray[np.float64], *, distance: int) -> NDArray[np.int64]:
    """Local maxima, without those that a higher one within `distance` rules out.

    As ``scipy.signal.find_peaks``, whose import costs a service a second: the highest one rules
    out its neighbours, then the highest of those that are left, and so on. All that are the highest
    of their neighbourhood are taken at once, so three rounds do for a day.
    """
    change = np.diff(envelope)
    turns = np.flatnonzero(change)
    is_rise = change[turns] > 0
    tops = np.flatnonzero(is_rise[:-1] & ~is_rise[1:])
    position = (turns[tops] + 1 + turns[tops + 1]) // 2  # the middle of a plateau
    # Ranks, as of equal heights one must win.
    rank = np.empty(len(position), dtype=np.int64)
    rank[np.argsort(envelope[position])] = np.arange(len(position))
    is_kept = np.zeros(len(position), dtype=np.bool_)
    left = np.arange(len(position))
    while len(left):
        here, mine = position[left], rank[left]
        is_beaten = np.zeros(len(left), dtype=np.bool_)
        reach = 1
        while (is_near := here[reach:] - here[:-reach] < distance).any():
            is_lower = mine[reach:] < mine[:-reach]
            is_beaten[reach:] |= is_near & is_lower
            is_beaten[:-reach] |= is_near & ~is_lower
            reach += 1
        is_kept[left[~is_beaten]] = True
        taken = here[~is_beaten]
        after = np.searchsorted(taken, here)
        since = here - np.concatenate([[-distance], taken])[after]
        until = np.concatenate([taken, [len(envelope) + distance]])[after] - here
        left = left[np.minimum(since, until) >= distance]
    return position[is_kept]


def _local_level(
    envelope: NDArray[np.float64], position: NDArray[np.int64], config: DetectionConfig
) -> NDArray[np.float64]:
    """Median, over about half a minute, of the greatest value in each two seconds.

    Two seconds hold a QRS complex at any rate above 30/min, so the median is the height of a
    usual beat, and neither one artefact nor one giant PVC moves it.
    """
    width = int(config.level_bin_s * FS_HZ)
    n_bins = max(1, len(envelope) // width)
    edges = np.arange(n_bins) * width
    greatest = np.maximum.reduceat(envelope, edges)
    size = min(n_bins, config.level_bins)
    level = ndimage.median_filter(greatest, size=size, mode="nearest")
    level = np.maximum(level, np.finfo(np.float64).tiny)
    return np.asarray(np.interp(position, edges + width / 2, level))


def _reject_waves(
    candidates: Candidates, accepted: NDArray[np.bool_], config: DetectionConfig
) -> None:
    """Take back candidates that are the T wave of a beat or the P wave of the next (in place)."""
    position, slope = candidates.position.tolist(), candidates.slope.tolist()
    t_reach, p_reach = int(config.t_wave_s * FS_HZ), int(config.p_wave_s * FS_HZ)
    last = -1
    for index in np.flatnonzero(accepted).tolist():
        distance = position[index] - position[last]
        if last >= 0 and distance < t_reach and slope[index] < config.t_wave_slope * slope[last]:
            accepted[index] = False
            continue
        if last >= 0 and distance < p_reach and slope[last] < config.t_wave_slope * slope[index]:
            accepted[last] = False
        last = index


def _fill_gaps(
    candidates: Candidates,
    accepted: NDArray[np.bool_],
    config: DetectionConfig,
    *,
    gap: float,
    height: float,
) -> None:
    """Accept the tallest candidate in each RR interval that is too long, twice (in place)."""
    position = candidates.position / FS_HZ
    for _ in range(2):
        beats = np.flatnonzero(accepted)
        if len(beats) < 3:
            return
        rr_s = np.diff(position[beats])
        size = min(9, len(rr_s))
        local_rr_s = ndimage.median_filter(np.minimum(rr_s, 2.0), size=size, mode="nearest")
        is_long = rr_s > np.minimum(gap * local_rr_s, config.longest_gap_s)
        found = []
        for index in np.flatnonzero(is_long & (np.diff(beats) > 1)).tolist():
            before, after = beats[index], beats[index + 1]
            inside = np.arange(before + 1, after)
            since_s = position[inside] - position[before]
            is_beat = candidates.height[inside] > height
            is_beat &= (since_s > config.t_wave_s) | (
                candidates.slope[inside] > config.t_wave_slope * candidates.slope[before]
            )
            is_beat &= position[after] - position[inside] > config.next_beat_s
            if is_beat.any():
                inside = inside[is_beat]
                found.append(inside[np.argmax(candidates.height[inside])])
        if not found:
            return
        accepted[found] = True


def _place_r_peaks(
    smooth: NDArray[np.float64], position: NDArray[np.int64], config: DetectionConfig
) -> NDArray[np.int64]:
    """Move each beat to the extremum of its complex, once."""
    return np.unique(_find_extrema(smooth, position, config))


def _find_extrema(
    smooth: NDArray[np.float64], position: NDArray[np.int64], config: DetectionConfig
) -> NDArray[np.int64]:
    """Find the extremum of the complex of each beat, in the polarity of the neighbourhood."""
    if len(position) == 0:
        return position
    reach = int(config.peak_search_s * FS_HZ)
    padded = pad_ends(smooth, 3 * reach)
    around = padded[position[:, None] + np.arange(6 * reach + 1)]  # (n_beats, 6 reach + 1)
    inside = slice(2 * reach, 4 * reach + 1)
    highest, lowest = around[:, inside].argmax(axis=1), around[:, inside].argmin(axis=1)
    around -= np.median(around, axis=1, keepdims=True)
    up = np.maximum(around[:, inside].max(axis=1), 1e-9)
    down = np.maximum(-around[:, inside].min(axis=1), 1e-9)
    size = min(config.polarity_beats, len(position))
    is_upright = ndimage.median_filter(np.log(up / down), size=size, mode="nearest") > 0
    ratio = config.polarity_ratio
    take_up = np.where(is_upright, down < ratio * up, up > ratio * down)
    placed = position - reach + np.where(take_up, highest, lowest)
    return np.asarray(np.clip(placed, 0, len(smooth) - 1), dtype=np.int64)
