"""Find beats that a pacemaker made: a spike, and a wide QRS complex that begins with it.

The spike is looked for in the second difference of the signal, in which it is tall and two
hundredths of a second wide at 360 Hz, as in the MIT-BIH records, whose recorder passed 0.1 to
100 Hz. A narrow QRS complex that a pacemaker made (of the atrium, or of the bundle of His), a
spike too small for the lead or more than 0.11 s before the R-peak, and what a low sampling rate or
a filter of the recorder takes away are not found.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.kernels.library import run_kernel
from ecg_lib.signal_path.readability.quality import find_spans

_BEFORE: Final = 100
_AFTER: Final = 146
"""Samples around the R-peak: 0.11 s for the spike to come first, and what follows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PacingConfig:
    """Limits of a beat with a spike, and of a stretch of such beats.

    Chosen on DS1 and the paced records. "Spike" is the greatest second difference of the beat.
    """

    max_burst: int = 8
    """Samples within 55 ms of the spike that have a quarter of its height."""
    max_before: float = 0.4
    """Greatest second difference of the eighth of a second before, in spikes."""
    max_after: float = 0.4
    """The same for the tenth of a second after it: no steep QRS complex follows."""
    min_slow: float = 0.4
    """Least range of the smoothed signal in the 0.2 s after, in ranges of the beat: it is wide."""
    max_base: float = 0.1
    """The same for the tenth of a second before the spike: it is what comes first."""
    min_over_noise: float = 10.0
    """Height of the spike over the median second difference around it."""
    window_s: float = 10.0
    min_beats: int = 3
    min_share: float = 0.3
    """A window has a pacemaker when this many of its beats, and this share, have spikes."""


def find_paced(
    signal_mv: NDArray[np.float64],
    r_peaks: NDArray[np.int64],
    *,
    is_readable: NDArray[np.bool_],
    config: PacingConfig | None = None,
) -> tuple[NDArray[np.bool_], tuple[tuple[int, int], ...]]:
    """Find the beats of a 360 Hz signal that seem to be paced.

    Parameters
    ----------
    signal_mv : ndarray of shape (n_samples,)
        One lead at 360 Hz in mV, not filtered.
    r_peaks : ndarray of int64, shape (n_beats,)
        The detector's R-peaks in it.
    is_readable : ndarray of bool, shape (n_beats,)
        Beats of which this is False are not judged.
    config : PacingConfig, optional

    Returns
    -------
    is_paced : ndarray of bool, shape (n_beats,)
        True for beats with a spike where there are enough of them.
    stretches : tuple of (int, int)
        First and last R-peak of the paced beats of each run of windows with a pacemaker.

    """
    config = config or PacingConfig()
    has_spike = np.empty(len(r_peaks), dtype=np.bool_)
    inside = (r_peaks >= _BEFORE + 1) & (r_peaks < len(signal_mv) - _AFTER - 1)
    asked, limits = is_readable & inside, _list_limits(config)
    run_kernel("find_spikes", signal_mv, r_peaks, len(r_peaks), asked, limits, has_spike)
    if not np.count_nonzero(has_spike):
        return has_spike, ()
    window = (r_peaks // int(config.window_s * FS_HZ)).astype(np.int64)
    n_windows = int(window[-1]) + 1
    judged = np.bincount(window[is_readable], minlength=n_windows)
    spiked = np.bincount(window[has_spike], minlength=n_windows)
    is_on = (spiked >= config.min_beats) & (spiked >= config.min_share * judged)
    is_paced = has_spike & is_on[window]
    stretches = []
    for first, last in find_spans(is_on):
        positions = r_peaks[is_paced & (window >= first) & (window < last)]
        stretches.append((int(positions[0]), int(positions[-1]) + 1))
    return is_paced, tuple(stretches)


@lru_cache(maxsize=8)
def _list_limits(config: PacingConfig) -> NDArray[np.float64]:
    """List the limits of a configuration in the order of the kernel."""
    return np.array(
        [
            config.max_burst,
            config.max_before,
            config.max_after,
            config.min_slow,
            config.max_base,
            config.min_over_noise,
        ],
        dtype=np.float64,
    )
