"""Find stretches in which the heart seems to stand still: a quiet line without beats.

Not every line without beats is one. A line that does not move at all is that of an electrode which
is off, and so is one that drifts by as much as a QRS complex is tall while the electrode settles;
both are for :mod:`ecg_lib.signal_path.readability.quality`. What is left is a suspicion: in one
lead, an electrode that touches and leads nothing looks the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.filtering import quantile
from ecg_lib.signal_path.kernels.library import run_kernel

_BIN_S: Final = 2.0
_MIN_BEATS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AsystoleConfig:
    """Limits of the detector; the shares were chosen on DS1 and the paced records."""

    min_s: float = 3.0
    """Time without a beat that asks for a look.

    Kusumoto et al. 2019 (ACC/AHA/HRS guideline on bradycardia), DOI 10.1161/CIR.0000000000000628.
    It is measured between the edges of the complexes, so RR intervals are 0.2 s longer.
    """
    quiet_share: float = 0.12
    """Slope energy below this share of a tall beat's is quiet; from 0.08 to 0.16 the same is found.
    """
    max_drift: float = 0.75
    """A quiet line spans at most this share of a QRS complex in any two seconds."""


class QuietStretches(NamedTuple):
    """Long stretches without a QRS complex, as (first sample, first sample after it)."""

    asystole: tuple[tuple[int, int], ...]
    """Those in which the line is at rest."""
    drifting: tuple[tuple[int, int], ...]
    """Those in which it drifts as after a movement of the electrode: nothing can be read."""


def find_asystole(
    signal_mv: NDArray[np.float64],
    r_peaks: NDArray[np.int64],
    *,
    energy: NDArray[np.float64],
    is_readable: NDArray[np.bool_],
    config: AsystoleConfig | None = None,
) -> QuietStretches:
    """Find the stretches of a 360 Hz signal in which no beat comes for three seconds.

    Parameters
    ----------
    signal_mv : ndarray of shape (n_samples,)
        One lead at 360 Hz in mV, not filtered.
    r_peaks : ndarray of int64, shape (n_beats,)
        The detector's R-peaks in it.
    energy : ndarray of shape (n_samples,)
        :func:`ecg_lib.signal_path.readability.quality.measure_slope_energy` of it.
    is_readable : ndarray of bool, shape (n_beats,)
        False for detections where the signal is flat, clipped or noise: they do not count.
    config : AsystoleConfig, optional

    Returns
    -------
    QuietStretches
        Both kinds in time order; none where fewer than three beats can be read.

    """
    config = config or AsystoleConfig()
    beats = r_peaks[is_readable]
    if len(beats) < _MIN_BEATS:
        return QuietStretches((), ())
    greatest = np.empty(len(beats))
    run_kernel("max_around", energy, len(energy), beats, len(beats), -36, 36, 4, greatest)
    # Not the median: noise that is taken for beats is more frequent than beats are.
    limit = config.quiet_share * quantile(greatest, 0.9)
    shortest = config.min_s * FS_HZ
    quiet = np.empty((int(len(energy) / shortest) + 2, 2), dtype=np.int64)
    count = run_kernel("find_quiet", energy, len(energy), limit, shortest, quiet)
    if count == 0:
        return QuietStretches((), ())
    complexes = signal_mv[np.clip(beats[:, None] + np.arange(-36, 37, 2), 0, len(energy) - 1)]
    most_mv = config.max_drift * float(np.median(np.ptp(complexes, axis=1)))
    asystole: list[tuple[int, int]] = []
    drifting: list[tuple[int, int]] = []
    for start, stop in quiet[:count].tolist():
        is_at_rest = _greatest_range(signal_mv[start:stop]) <= most_mv
        (asystole if is_at_rest else drifting).append((start, stop))
    return QuietStretches(tuple(asystole), tuple(drifting))


def _greatest_range(samples: NDArray[np.float64]) -> float:
    edges = np.arange(0, len(samples), int(_BIN_S * FS_HZ))
    ranges = np.maximum.reduceat(samples, edges) - np.minimum.reduceat(samples, edges)
    return float(ranges.max())
