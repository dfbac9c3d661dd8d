"""Read and write WFDB annotation files (WFDB annot(5))."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.annotations import SYMBOL_OF_CODE

_RESOLUTION: Final = re.compile(rb"## time resolution: (\d+(?:\.\d+)?)")
_BEGINNING_BYTES: Final = 4096

_WRITTEN: Final = frozenset("NV/Q~![]")
_CODE_OF_SYMBOL: Final = {
    symbol: code for code, symbol in SYMBOL_OF_CODE.items() if symbol in _WRITTEN
}


def find_time_resolution(content: bytes) -> float | None:
    """Find the ticks a second that an annotation file states; None when they are samples."""
    found = _RESOLUTION.search(content, 0, _BEGINNING_BYTES)
    return float(found[1]) if found else None


def encode_annotations(samples: NDArray[np.int64], symbols: NDArray[np.str_]) -> bytes:
    """Encode annotations in MIT format.

    ``wfdb.wrann`` takes seconds for the beats of a day.

    Parameters
    ----------
    samples : ndarray of int64, shape (n_annotations,)
        Ascending positions.
    symbols : ndarray of str, shape (n_annotations,)
        ``N``, ``V``, ``Q`` (unclassifiable), ``/`` (paced), ``~`` (change of signal quality),
        ``[``, ``!`` and ``]`` (flutter: its beginning, waves and end).

    Raises
    ------
    KeyError
        If a symbol is another.

    """
    steps = np.diff(samples, prepend=0)
    names, places = np.unique(symbols, return_inverse=True)
    codes = np.array([_CODE_OF_SYMBOL[name] for name in names.tolist()], dtype=np.int64)[places]
    is_far = steps > 1023
    words = np.zeros((len(samples), 4), dtype=np.int64)  # skip, high and low half of it, beat
    words[:, 0] = 59 << 10
    words[:, 1], words[:, 2] = steps >> 16, steps & 0xFFFF
    words[:, 3] = codes << 10 | np.where(is_far, 0, steps)
    is_written = np.stack([is_far, is_far, is_far, np.ones_like(is_far)], axis=1)
    return words[is_written].astype("<u2").tobytes() + b"\x00\x00"
