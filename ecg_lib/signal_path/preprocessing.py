"""The one way from samples to the input of the network.

Training, evaluation, the HTTP service and the command line all call :func:`prepare_beats`;
nothing else in the project filters a signal, finds R-peaks for it or cuts a window.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import InvalidSignalError, SignalTooShortError
from ecg_lib.records.limits import FS_HZ, check_sampling_rate
from ecg_lib.signal_path.features import BeatFeatures, extract_beats
from ecg_lib.signal_path.filtering import BandPassConfig, Bands, resample, robust_scale
from ecg_lib.signal_path.kernels.library import run_kernel
from ecg_lib.signal_path.r_peaks.detection import (
    SMOOTH_BAND_HZ,
    DetectionConfig,
    detect_r_peaks,
)
from ecg_lib.signal_path.r_peaks.verifier import BeatVerifier
from ecg_lib.signal_path.readability.findings import (
    Finding,
    FindingsConfig,
    are_paced,
    are_readable,
    have_class,
    judge_signal,
)
from ecg_lib.signal_path.readability.missing import (
    EDGE_S,
    are_near,
    are_remnants,
    bridge_missing,
    cut_out,
)
from ecg_lib.signal_path.readability.plausibility import (
    measure_deflections,
    measure_qrs_hz,
    measure_stray_line,
    measure_t_peak,
)
from ecg_lib.signal_path.readability.quality import (
    QualityConfig,
    Stretch,
    UnreadableReason,
    measure_rail_share,
    measure_slope_energy,
)
from ecg_lib.signal_path.template import BeatConfig, ShapeBlock

MIN_DURATION_S = 2.0
"""Shortest signal in seconds that can be prepared; what is served must be longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessingConfig:
    """All constants between a signal and the network; saved in the bundle."""

    band_pass: BandPassConfig = field(default_factory=BandPassConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    findings: FindingsConfig = field(default_factory=FindingsConfig)
    beats: BeatConfig = field(default_factory=BeatConfig)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedBeats:
    """The beats of one signal, in time order; every array has one row for each R-peak."""

    r_peaks: NDArray[np.int64]
    """Positions in samples of the given signal."""

    windows: NDArray[np.float32]
    """Shape ``(n_beats, 360, 2)``, see :class:`ecg_lib.signal_path.features.BeatFeatures`."""

    features: NDArray[np.float32]
    """Shape ``(n_beats, len(FEATURE_NAMES))``."""

    rr_prev_s: NDArray[np.float64]
    rr_next_s: NDArray[np.float64]
    qrs_width_s: NDArray[np.float64]
    amplitude_mv: NDArray[np.float64]
    """Peak-to-peak amplitude of the QRS complex in mV, within 0.1 s of the R-peak."""

    qrs_hz: NDArray[np.float64]
    """Mean frequency of the QRS complex."""

    t_peak_s: NDArray[np.float64]
    """Seconds from the R-peak to the T wave of the usual beat, the same for all."""

    stray_line_hz: NDArray[np.float64]
    """A line in the spectrum where hum cannot be, the same for all; NaN when there is none."""

    deflection: NDArray[np.float64]
    """The steepest deflection since the beat before that is not a beat, against a usual beat."""

    beat_quality: NDArray[np.str_]
    """One of :data:`ecg_lib.signal_path.readability.findings.BEAT_QUALITIES` for each beat."""

    shapes: tuple[ShapeBlock, ...]
    """Which beats are of one shape, see :class:`ecg_lib.signal_path.features.BeatFeatures`."""

    unreadable: tuple[Stretch, ...]
    """Stretches in which beats cannot be read, in samples of the given signal."""

    findings: tuple[Finding, ...]
    """The suspected events, in samples of the given signal."""

    quality_per_second: NDArray[np.float64]
    """See :class:`ecg_lib.signal_path.readability.findings.Judgement`."""

    fs: float
    """Sampling rate of the given signal in Hz."""

    duration_s: float
    """Length of the signal in seconds."""

    unreadable_s: float
    """Seconds of it that cannot be read: flat, clipped, noise or missing."""

    flutter_s: float
    """Seconds of it that are suspected to be flutter."""

    missing_s: float
    """Seconds of it that are missing, which `unreadable_s` counts too."""

    @property
    def is_readable(self) -> NDArray[np.bool_]:
        """See :func:`ecg_lib.signal_path.readability.findings.are_readable`."""
        return are_readable(self.beat_quality)

    @property
    def is_paced(self) -> NDArray[np.bool_]:
        """See :func:`ecg_lib.signal_path.readability.findings.are_paced`."""
        return are_paced(self.beat_quality)

    @property
    def has_class(self) -> NDArray[np.bool_]:
        """See :func:`ecg_lib.signal_path.readability.findings.have_class`."""
        return have_class(self.beat_quality)

    @property
    def readable_s(self) -> float:
        """Seconds of the signal that can be read."""
        return self.duration_s - self.unreadable_s

    def __len__(self) -> int:
        return len(self.r_peaks)


def prepare_beats(
    signal_mv: NDArray[np.floating],
    *,
    fs: float,
    r_peaks: NDArray[np.int64] | None = None,
    config: PreprocessingConfig | None = None,
    verifier: BeatVerifier | None = None,
    measures_plausibility: bool = True,
) -> PreparedBeats:
    """Resample, filter, scale, find R-peaks, judge quality, cut windows and compute features.

    Parameters
    ----------
    signal_mv : ndarray of shape (n_samples,)
        One lead in mV; NaN marks a missing sample (see
        :mod:`ecg_lib.signal_path.readability.missing`).
    fs : float
        Its sampling rate in Hz, 100 to 1000.
    r_peaks : ndarray of int64, optional
        R-peaks in samples of `signal_mv`, to use instead of the detector's (for evaluation with
        reference R-peaks).
    config : PreprocessingConfig, optional
    verifier : BeatVerifier, optional
        The detector's network, see :func:`ecg_lib.signal_path.r_peaks.detection.detect_r_peaks`.
    measures_plausibility : bool
        False where nobody asks for doubts about the rate or the unit: what
        :mod:`ecg_lib.signal_path.readability.plausibility` alone needs is then NaN.

    Returns
    -------
    PreparedBeats

    Raises
    ------
    InvalidSamplingRateError
        If `fs` is out of range.
    NonFiniteSignalError
        If a sample is infinite.
    InvalidSignalError
        If the signal has more than one dimension.
    SignalTooShortError
        If the signal is shorter than two seconds.

    """
    config = config or PreprocessingConfig()
    check_sampling_rate(fs)
    if np.ndim(signal_mv) != 1:
        msg = f"signal must be one-dimensional, one lead, got shape {np.shape(signal_mv)}"
        raise InvalidSignalError(msg)
    duration_s = len(signal_mv) / fs
    if duration_s < MIN_DURATION_S:
        msg = f"signal must last at least {MIN_DURATION_S:g} s, got {duration_s:.2f} s"
        raise SignalTooShortError(msg)
    bridged, gaps = bridge_missing(np.asarray(signal_mv), fs=fs)
    resampled = resample(bridged, fs=fs)
    detection, band_pass = config.detection, config.band_pass
    bands = Bands(
        resampled.signal,
        expected=(
            (*detection.steep_band_hz, 2),
            (*detection.slow_band_hz, 2),
            (*SMOOTH_BAND_HZ, 2),
            (band_pass.low_hz, band_pass.high_hz, band_pass.order),
        ),
    )
    missing = tuple(
        (round(start * resampled.ratio), round(stop * resampled.ratio)) for start, stop in gaps
    )
    peaks = (
        detect_r_peaks(resampled.signal, config=config.detection, verifier=verifier, bands=bands)
        if r_peaks is None
        else resampled.from_source(r_peaks)
    )
    if r_peaks is None:
        peaks = peaks[~are_near(peaks, missing)]
    if r_peaks is None and missing:
        energy = measure_slope_energy(resampled.signal, bands=bands)
        peaks = peaks[~are_remnants(peaks, energy, missing)]
    judged = judge_signal(
        resampled.signal,
        peaks,
        rail_share=measure_rail_share(bridged, fs=fs, config=config.quality),
        quality=config.quality,
        config=config.findings,
        bands=bands,
        missing=missing,
    )
    beat_quality = judged.beat_quality
    is_cut = are_near(peaks, missing, margin=round(EDGE_S * FS_HZ))
    beat_quality[is_cut] = UnreadableReason.MISSING.value
    filtered = bands.band(band_pass.low_hz, band_pass.high_hz, order=band_pass.order)
    beats = extract_beats(
        robust_scale(filtered), peaks, config=config.beats, breaks=_part_by(peaks, missing)
    )
    last = len(signal_mv)
    plausibility = (
        _measure_plausibility(resampled.signal, filtered, judged.energy, peaks, beats, fs=fs)
        if measures_plausibility
        else _Plausibility(*(np.full(len(peaks), np.nan) for _ in _Plausibility._fields))
    )

    def to_source(position: int) -> int:
        return min(round(position / resampled.ratio), last)

    unreadable = cut_out(
        tuple(
            Stretch(to_source(start), to_source(stop), reason)
            for start, stop, reason in judged.unreadable
        ),
        gaps,
    )
    missing_s = sum(stop - start for start, stop in gaps) / fs
    judged_s = cut_out(judged.unreadable, missing)
    flutter_s = _seconds_of(judged_s, UnreadableReason.FLUTTER)
    bridged_s = _seconds_of(judged_s, UnreadableReason.MISSING)
    return PreparedBeats(
        r_peaks=np.minimum(resampled.to_source(peaks), last - 1) if r_peaks is None else r_peaks,
        windows=beats.windows,
        features=beats.features,
        rr_prev_s=beats.rr_prev_s,
        rr_next_s=beats.rr_next_s,
        qrs_width_s=beats.qrs_width_s,
        amplitude_mv=plausibility.amplitude_mv,
        qrs_hz=plausibility.qrs_hz,
        t_peak_s=plausibility.t_peak_s,
        stray_line_hz=plausibility.stray_line_hz,
        deflection=plausibility.deflection,
        beat_quality=beat_quality,
        shapes=beats.shapes,
        unreadable=unreadable,
        findings=tuple(
            Finding(kind, to_source(start), to_source(stop))
            for kind, start, stop in judged.findings
        ),
        quality_per_second=judged.per_second,
        fs=float(fs),
        duration_s=duration_s,
        unreadable_s=_seconds_of(judged_s) - flutter_s - bridged_s + missing_s,
        flutter_s=flutter_s,
        missing_s=missing_s,
    )


class _Plausibility(NamedTuple):
    """Input of :mod:`ecg_lib.signal_path.readability.plausibility`, a row for each beat."""

    amplitude_mv: NDArray[np.float64]
    qrs_hz: NDArray[np.float64]
    t_peak_s: NDArray[np.float64]
    stray_line_hz: NDArray[np.float64]
    deflection: NDArray[np.float64]


def _measure_plausibility(
    signal_mv: NDArray[np.float64],
    filtered_mv: NDArray[np.float64],
    energy: NDArray[np.float64],
    peaks: NDArray[np.int64],
    beats: BeatFeatures,
    *,
    fs: float,
) -> _Plausibility:
    shapes = beats.windows[:, :, 0]
    return _Plausibility(
        amplitude_mv=_measure_amplitude(filtered_mv, peaks),
        qrs_hz=measure_qrs_hz(shapes),
        t_peak_s=measure_t_peak(shapes, beats.rr_prev_s),
        stray_line_hz=np.full(len(peaks), measure_stray_line(signal_mv, fs=fs)),
        deflection=measure_deflections(energy, peaks),
    )


def _part_by(peaks: NDArray[np.int64], missing: tuple[tuple[int, int], ...]) -> NDArray[np.bool_]:
    """Tell after which beats something is missing before the next one comes."""
    breaks = np.zeros(max(0, len(peaks) - 1), dtype=np.bool_)
    for start, _ in missing:
        place = int(np.searchsorted(peaks, start))
        if 0 < place < len(peaks):
            breaks[place - 1] = True
    return breaks


def _seconds_of(stretches: tuple[Stretch, ...], reason: UnreadableReason | None = None) -> float:
    lengths = (s.stop - s.start for s in stretches if reason is None or s.reason is reason)
    return sum(lengths) / FS_HZ


def _measure_amplitude(
    filtered_mv: NDArray[np.float64], peaks: NDArray[np.int64]
) -> NDArray[np.float64]:
    half, span = round(0.1 * FS_HZ), np.empty(len(peaks))
    run_kernel("span_around", filtered_mv, len(filtered_mv), peaks, len(peaks), -half, half, span)
    return span
