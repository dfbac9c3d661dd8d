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
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.filtering import Bands, measure_slope, median
from ecg_lib.signal_path.kernels.library import run_kernel
from ecg_lib.signal_path.r_peaks.candidate_features import Candidates, Envelopes
from ecg_lib.signal_path.r_peaks.fast_rhythm import find_hidden
from ecg_lib.signal_path.r_peaks.hum_at_ends import are_hum, are_near_ends
from ecg_lib.signal_path.r_peaks.verifier import BeatVerifier, load_verifier

SMOOTH_BAND_HZ: Final = (1.0, 30.0)
"""The band in which shapes are compared and R-peaks are placed."""


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
    rules_logit: float = 1.0
    """Added to the logit of a candidate that the rules accept. More of it misses fewer V beats,
    less takes fewer artefacts for beats; the network of the classifier rejects artefacts
    later, and no later step finds a beat that is missed."""
    peak_search_s: float = 0.09
    polarity_beats: int = 61
    polarity_ratio: float = 1.8
    """How much taller a deflection against the dominant polarity must be to be the R-peak."""

    def __post_init__(self) -> None:
        for name in (
            "steep_window_s",
            "slow_window_s",
            "refractory_s",
            "level_bin_s",
            "peak_search_s",
        ):
            if getattr(self, name) * FS_HZ < 1:
                msg = f"{name} must be at least a sample at 360 Hz, got {getattr(self, name)}"
                raise ValueError(msg)
        if min(self.level_bins, self.polarity_beats) < 1:
            msg = (
                "level_bins and polarity_beats must be at least 1, got "
                f"{self.level_bins} and {self.polarity_beats}"
            )
            raise ValueError(msg)


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
    logits = (verifier or load_verifier()).judge(candidates, envelopes, by_rules)
    accepted = logits + config.rules_logit * by_rules > 0
    position = candidates.position[accepted]
    r_peaks = _find_extrema(envelopes.smooth, position, config)
    hidden = find_hidden(envelopes.steep, envelopes.smooth, position=position, r_peaks=r_peaks)
    is_hum = _are_hum(signal, envelopes.smooth, candidates, accepted, config)
    if len(hidden) or np.count_nonzero(is_hum):
        position = np.sort(np.append(position[~is_hum], hidden))
        r_peaks = _find_extrema(envelopes.smooth, position, config)
    # Each beat is moved to the extremum of its complex once.
    return r_peaks if (r_peaks[1:] > r_peaks[:-1]).all() else np.unique(r_peaks)


def _are_hum(
    signal: NDArray[np.floating],
    smooth: NDArray[np.float64],
    candidates: Candidates,
    accepted: NDArray[np.bool_],
    config: DetectionConfig,
) -> NDArray[np.bool_]:
    """Return True for accepted candidates that are made by hum at the ends of the signal."""
    position = candidates.position[accepted]
    if not np.count_nonzero(are_near_ends(position, n_samples=len(signal))):
        return np.zeros(len(position), dtype=np.bool_)
    reach = int(config.peak_search_s * FS_HZ)
    span = np.empty(len(position))
    run_kernel("span_around", smooth, len(smooth), position, len(position), -reach, reach, span)
    return are_hum(
        np.asarray(signal, dtype=np.float64),
        position,
        candidates.slope[accepted],
        band_hz=config.steep_band_hz,
        usual_span=median(span),
    )


def find_candidates(
    signal: NDArray[np.floating], *, config: DetectionConfig, bands: Bands | None = None
) -> tuple[Candidates, Envelopes]:
    """Find the local maxima of the slope energy, with their height over the local level.

    The level is the median, over about half a minute, of the greatest value in each two seconds.
    Two seconds hold a QRS complex at any rate above 30/min, so it is the height of a usual beat,
    and neither one artefact nor one giant PVC moves it.

    Parameters
    ----------
    signal : ndarray of shape (n_samples,)
        One lead at 360 Hz.
    config : DetectionConfig
    bands : Bands, optional
        Those of the signal, where others need them too.

    """
    bands = bands or Bands(signal)
    window = int(config.steep_window_s * FS_HZ)
    slope, steep = bands.slope(*config.steep_band_hz, window=window)
    # Nobody else asks for this one, so it is not kept.
    slow_window = int(config.slow_window_s * FS_HZ)
    slow = measure_slope(bands.band(*config.slow_band_hz), window=slow_window).average

    position = _find_maxima(steep, distance=int(config.refractory_s * FS_HZ))
    height, steepest, steep_level, slow_level = np.empty((4, len(position)))
    run_kernel(
        "measure_heights",
        steep,
        slope,
        slow,
        len(steep),
        position,
        len(position),
        window,
        int(config.level_bin_s * FS_HZ),
        config.level_bins,
        config.slow_weight,
        height,
        steepest,
        steep_level,
        slow_level,
    )
    candidates = Candidates(position, height, steepest)
    smooth = bands.band(*SMOOTH_BAND_HZ)
    return candidates, Envelopes(steep, slow, smooth, steep_level, slow_level)


def accept_by_rules(candidates: Candidates, *, config: DetectionConfig) -> NDArray[np.bool_]:
    """Accept candidates by height, slope and gap alone, shape ``(n,)``."""
    accepted = np.empty(len(candidates.position), dtype=np.bool_)
    run_kernel(
        "accept_by_rules",
        candidates.position,
        candidates.height,
        candidates.slope,
        len(accepted),
        _list_rules(config),
        accepted,
    )
    return accepted


@lru_cache(maxsize=8)
def _list_rules(config: DetectionConfig) -> NDArray[np.float64]:
    """List the constants of the rules in the order of the kernel."""
    gaps = [value for pair in config.gap_thresholds for value in pair]
    return np.array(
        [
            config.strong,
            int(config.t_wave_s * FS_HZ),
            int(config.p_wave_s * FS_HZ),
            config.t_wave_slope,
            config.t_wave_s,
            config.next_beat_s,
            config.longest_gap_s,
            len(config.gap_thresholds),
            *gaps,
        ],
        dtype=np.float64,
    )


def _find_maxima(envelope: NDArray[np.float64], *, distance: int) -> NDArray[np.int64]:
    """Local maxima, without those that a higher one within `distance` rules out.

    As ``scipy.signal.find_peaks``, whose import costs a service a second: the highest one rules
    out its neighbours, then the highest of those that are left, and so on.
    """
    position = np.empty(len(envelope) // distance + 2, dtype=np.int64)
    count = run_kernel("find_maxima", envelope, len(envelope), distance, position)
    return position[:count].copy()


def _find_extrema(
    smooth: NDArray[np.float64], position: NDArray[np.int64], config: DetectionConfig
) -> NDArray[np.int64]:
    """Find the extremum of the complex of each beat, in the polarity of the neighbourhood."""
    if len(position) == 0:
        return position
    placed = np.empty_like(position)
    run_kernel(
        "find_extrema",
        smooth,
        len(smooth),
        position,
        len(position),
        int(config.peak_search_s * FS_HZ),
        config.polarity_beats,
        config.polarity_ratio,
        placed,
    )
    return placed
