"""Limits of what is read and analysed: sampling rate, duration, amplitude, number of signals."""

from __future__ import annotations

from typing import Final

from ecg_lib.errors import InvalidSamplingRateError

MAX_DURATION_S: Final = 14 * 24 * 3600.0
"""The longest recording of patch monitors."""


MIN_DURATION_S: Final = 10.0


MAX_ABS_MV: Final = 1e4
"""No electrode gives 10 V: samples beyond it are counts of a converter, not mV."""


MAX_SIGNALS: Final = 64


FS_HZ = 360.0
"""Sampling rate, in Hz, of every signal after :func:`resample`."""


MIN_FS_HZ = 100.0
"""Lowest accepted sampling rate: the pass band ends at 40 Hz, and the QRS needs some room."""


MAX_FS_HZ = 1000.0
"""Highest accepted sampling rate."""


def check_sampling_rate(fs: float) -> None:
    """Refuse a sampling rate that the analysis was not made for.

    Raises
    ------
    InvalidSamplingRateError
        If `fs` (Hz) is not between 100 and 1000.

    """
    if not MIN_FS_HZ <= fs <= MAX_FS_HZ:
        msg = f"fs must be between {MIN_FS_HZ:g} and {MAX_FS_HZ:g} Hz, got fs={fs!r}"
        raise InvalidSamplingRateError(msg)
