"""Find stretches that look like ventricular flutter or fibrillation.

The ventricles then make waves of about 150 to 500 a minute without a rest between them: the signal
is nearly a sine, and no QRS complex stands out of it. Four measures of each window say so, and
all must agree:

* the leakage of a narrow band-stop filter at the mean frequency of the signal (Kuo & Dillman 1978,
  Computers in Cardiology 347-349; written out in Amann et al. 2005, DOI 10.1186/1475-925X-4-60):
  a signal and itself half a period later cancel out in flutter, and do not where there are QRS
  complexes;
* that mean frequency itself;
* the ratio of steep to usual slopes, which a QRS complex makes large (after the slope measures of
  Jekova & Krasteva 2004, DOI 10.1088/0967-3334/25/5/007);
* the autocorrelation at the period of such waves, against that at longer periods. A pulse wave
  (pleth or arterial pressure) of 100 a minute has harmonics in the band of flutter, but repeats far
  better after a whole beat.

Deviations: windows overlap, a stretch is the union of its windows, and runs of fast, wide beats
shorter than four seconds are left to the classifier, for they are V beats.

What is found is a suspicion. In one lead, a test tone of 3 to 8 Hz and ventricular tachycardia that
is wide, lasts, and is faster than 150/min are flutter to the eye as well; a tremor that hides the
QRS complexes cannot be told from it; and fibrillation finer than the noise of the amplifier is a
flat line.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.filtering import Bands
from ecg_lib.signal_path.kernels.library import run_kernel

_DECIMATION = 4  # 90 Hz: three times the band
_RATE_HZ = FS_HZ / _DECIMATION
_AT_ONCE = 1000

_WAVE_S: Final = (0.1, 0.43)
"""Periods of 600 and 140 waves a minute, with room around flutter."""

_CLEAR_REPEAT: Final = 0.8
_MAX_LATER_GAIN: Final = 0.3
"""Autocorrelation from which a longer period is clear, and by how much it may then exceed that at
the period of a wave. No window of the flutter of 207 exceeds both limits, nor of noise between 2.5
and 8 Hz. Not in :class:`FlutterConfig`, which bundles store: they hold for all of them."""

_NO_ENERGY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class FlutterConfig:
    """Limits of the detector.

    Chosen on DS1 and the paced records: one patient with flutter (207), and 25 without, in whose
    signals nothing must be found, with the noise of the MIT-BIH Noise Stress Test Database in
    them or without. How much of another patient's fibrillation is found is not known.
    """

    band_hz: tuple[float, float] = (1.0, 30.0)
    window_s: float = 3.0
    step_s: float = 0.5
    max_leakage: float = 0.6
    """Kuo & Dillman's limit for low waves is 0.625."""
    mean_frequency_hz: tuple[float, float] = (2.6, 9.0)
    """It lies above the rate of the waves, by a tenth for a sine and by more for other shapes."""
    max_slope_ratio: float = 6.0
    """98th percentile of the slope over its median."""
    min_range_mv: float = 0.05
    """A smaller range is the noise of a straight line."""
    min_duration_s: float = 4.0
    max_gap_s: float = 2.0
    """A gap between two stretches that is not longer belongs to them."""


def find_flutter(
    signal_mv: NDArray[np.floating],
    *,
    config: FlutterConfig | None = None,
    bands: Bands | None = None,
) -> tuple[tuple[int, int], ...]:
    """Find the stretches of a 360 Hz signal that look like ventricular flutter or fibrillation.

    Parameters
    ----------
    signal_mv : ndarray of shape (n_samples,)
        One lead at 360 Hz in mV, raw or with more than the band of the configuration left in it.
    config : FlutterConfig, optional
    bands : Bands, optional
        Those of the signal, where others need them too.

    Returns
    -------
    tuple of (int, int)
        First sample and first sample after each stretch, in time order; the edges are right to
        about a second and a half, half a window.

    """
    config = config or FlutterConfig()
    width, step = int(config.window_s * _RATE_HZ), int(config.step_s * _RATE_HZ)
    if len(signal_mv) < _DECIMATION * width:
        return ()
    waves = (bands or Bands(signal_mv)).band(*config.band_hz)
    is_flutter = np.empty((len(waves) // _DECIMATION - width) // step + 1, dtype=np.bool_)
    run_kernel("find_flutter", waves, len(waves), width, step, _list_limits(config), is_flutter)
    starts = is_flutter.nonzero()[0] * step
    if len(starts):
        coarse = waves[: len(waves) // _DECIMATION * _DECIMATION].reshape(-1, _DECIMATION).mean(1)
        starts = starts[~_repeat_later(coarse, starts, width)]
    return _join((starts * _DECIMATION).tolist(), width * _DECIMATION, len(signal_mv), config)


def _repeat_later(
    waves: NDArray[np.float64], starts: NDArray[np.int64], width: int
) -> NDArray[np.bool_]:
    """Return which windows repeat much better after a longer period than that of flutter."""
    lags = np.arange(1, width // 2)
    fastest, slowest = (int(period_s * _RATE_HZ) for period_s in _WAVE_S)
    later = np.empty(len(starts), dtype=np.bool_)
    for first in range(0, len(starts), _AT_ONCE):
        windows = sliding_window_view(waves, width)[starts[first : first + _AT_ONCE]]
        windows = windows - windows.mean(axis=1, keepdims=True)
        spectra = np.fft.rfft(windows, 2 * width, axis=1)
        products = np.fft.irfft(np.abs(spectra) ** 2, axis=1)[:, lags]
        energy = np.cumsum(windows**2, axis=1)
        head, tail = energy[:, width - 1 - lags], energy[:, -1:] - energy[:, lags - 1]
        likeness = products / np.sqrt(head * tail + _NO_ENERGY)
        middle = likeness[:, 1:-1]
        is_peak = (middle >= likeness[:, :-2]) & (middle > likeness[:, 2:])
        peaks = np.where(is_peak, middle, -1.0)
        # The first peak is that of a lag of two samples.
        of_waves = peaks[:, fastest - 2 : slowest - 1].max(axis=1)
        of_beats = peaks[:, slowest - 1 :].max(axis=1)
        later[first : first + _AT_ONCE] = (of_beats > _CLEAR_REPEAT) & (
            of_beats - of_waves > _MAX_LATER_GAIN
        )
    return later


@lru_cache(maxsize=8)
def _list_limits(config: FlutterConfig) -> NDArray[np.float64]:
    """List the limits of a configuration in the order of the kernel."""
    return np.array(
        [
            _RATE_HZ,
            config.max_leakage,
            *config.mean_frequency_hz,
            config.max_slope_ratio,
            config.min_range_mv,
        ]
    )


def _join(
    starts: list[int], width: int, n_samples: int, config: FlutterConfig
) -> tuple[tuple[int, int], ...]:
    """Unite the windows that overlap or nearly touch, and drop what is short."""
    stretches: list[tuple[int, int]] = []
    gap, shortest = config.max_gap_s * FS_HZ, config.min_duration_s * FS_HZ
    for start in starts:
        stop = min(start + width, n_samples)
        if stretches and start - stretches[-1][1] <= gap:
            stretches[-1] = (stretches[-1][0], stop)
        else:
            stretches.append((start, stop))
    return tuple((start, stop) for start, stop in stretches if stop - start >= shortest)
