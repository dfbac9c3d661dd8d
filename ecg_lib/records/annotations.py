"""The beat symbols of WFDB annotations with their meaning, and the use of each record.

The mapping is that of ANSI/AAMI EC57:2012 (table 3), the split by subject that of de Chazal et
al. 2004, DOI 10.1109/TBME.2004.827359.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError


class AamiClass(StrEnum):
    """The five beat classes of EC57."""

    N = "N"
    """Any beat that is none of the others: normal, bundle branch block, escape."""
    S = "S"
    """Supraventricular ectopic beat (SVEB)."""
    V = "V"
    """Ventricular ectopic beat (VEB): PVC, ventricular escape, R-on-T PVC."""
    F = "F"
    """Fusion of a ventricular and a normal beat."""
    Q = "Q"
    """Paced beat, fusion of a paced and a normal beat, or a beat that cannot be classified."""


class BeatType(StrEnum):
    """The two classes that the product reports: ventricular ectopic or not."""

    N = "N"
    V = "V"


_SYMBOLS_OF_CLASS: Final = {
    AamiClass.N: "NLRejBn",
    AamiClass.S: "AaJS",
    AamiClass.V: "VEr",
    AamiClass.F: "F",
    AamiClass.Q: "/fQ?",
}

CLASS_OF_SYMBOL: Final[dict[str, AamiClass]] = {
    symbol: aami for aami, symbols in _SYMBOLS_OF_CLASS.items() for symbol in symbols
}
"""AAMI class of each WFDB beat symbol; a symbol that is not here is not a beat.

Flutter waves (``!``) and the marks of a flutter episode (``[`` and ``]``) are not beats.
"""

DS1: Final = tuple(
    "101 106 108 109 112 114 115 116 118 119 122 124 "
    "201 203 205 207 208 209 215 220 223 230".split()
)
"""Development records of MIT-BIH (de Chazal et al. 2004)."""

DS2: Final = tuple(
    "100 103 105 111 113 117 121 123 200 202 210 212 "
    "213 214 219 221 222 228 231 232 233 234".split()
)
"""Records of the final figure (de Chazal et al. 2004); 202 is the same subject as 201 in DS1."""

PACED: Final = ("102", "104", "107", "217")
"""Records with a pacemaker, which EC57 leaves out of the figures."""

_SUBJECT_OF_RECORD: Final = {"202": "201"}

SHARED_SUBJECT: Final = frozenset({"201", "202"})
"""The records of one man, of which one is in DS1 and one in DS2."""


def subject_of(record_name: str) -> str:
    """Name the person that a record is of; records 201 and 202 are one man."""
    return _SUBJECT_OF_RECORD.get(record_name, record_name)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Annotations:
    """The annotations of a record, in time order.

    Parameters
    ----------
    samples : ndarray of int64, shape (n_annotations,)
        Positions in samples of the record.
    symbols : ndarray of str, shape (n_annotations,)
        WFDB annotation codes.

    Raises
    ------
    ValueError
        If both differ in length, or `samples` is not ascending.

    """

    samples: NDArray[np.int64]
    symbols: NDArray[np.str_]

    def __post_init__(self) -> None:
        if len(self.samples) != len(self.symbols):
            msg = (
                "samples and symbols must have one length, "
                f"got {len(self.samples)} and {len(self.symbols)}"
            )
            raise ValueError(msg)
        if np.any(np.diff(self.samples) < 0):
            msg = "annotation samples must be in ascending order"
            raise ValueError(msg)

    @property
    def is_beat(self) -> NDArray[np.bool_]:
        """True where the annotation is a beat, shape ``(n_annotations,)``."""
        return np.isin(self.symbols, list(CLASS_OF_SYMBOL))

    @property
    def beat_samples(self) -> NDArray[np.int64]:
        """Positions of the beats."""
        return self.samples[self.is_beat]

    @property
    def beat_classes(self) -> NDArray[np.str_]:
        """AAMI class of each beat, one of ``N S V F Q``."""
        symbols = self.symbols[self.is_beat]
        return np.array([CLASS_OF_SYMBOL[symbol].value for symbol in symbols], dtype="U1")

    @property
    def flutter_episodes(self) -> tuple[tuple[int, int], ...]:
        """First and last sample of each ventricular flutter or fibrillation (``[`` to ``]``).

        An episode without an end lasts to the last annotation.
        """
        episodes: list[tuple[int, int]] = []
        start: int | None = None
        for sample, symbol in zip(self.samples.tolist(), self.symbols.tolist(), strict=True):
            if symbol == "[":
                start = sample
            elif symbol == "]" and start is not None:
                episodes.append((start, sample))
                start = None
        if start is not None:
            episodes.append((start, int(self.samples[-1])))
        return tuple(episodes)

    def is_in_flutter(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which positions lie inside a flutter episode, shape of `positions`."""
        inside = np.zeros(len(positions), dtype=np.bool_)
        for first, last in self.flutter_episodes:
            inside |= (positions >= first) & (positions <= last)
        return inside


def count_classes(classes: Iterable[str]) -> dict[AamiClass, int]:
    """Count beats of each AAMI class, with a zero for classes that do not occur."""
    counts = Counter(classes)
    return {aami: counts[aami.value] for aami in AamiClass}


SYMBOL_OF_CODE: Final[dict[int, str]] = dict(
    zip(
        (0, *range(1, 15), 16, *range(18, 42)),
        ' NLRaVFJASEj/Q~|sT*D"=pB^t+u?![]en@xf()r',
        strict=True,
    )
)
"""Symbol of each annotation code (``ecgcodes.h`` of WFDB)."""

NOTE: Final = 22
"""Code of a comment."""

_SKIP, _AUX = 59, 63
"""Codes of a distance of more than ten bits, and of a text."""


def decode_annotations(content: bytes, *, name: str) -> Iterator[tuple[int, int]]:
    """Yield the sample and code of each annotation: six bits of code, ten of distance.

    Parameters
    ----------
    content : bytes
        The file.
    name : str
        Its name, for messages.

    Raises
    ------
    CorruptRecordError
        At the end, if the end mark is missing.

    """
    words = np.frombuffer(content[: len(content) // 2 * 2], dtype="<u2").astype(np.int64).tolist()
    sample = index = 0
    while index < len(words):
        code, value = words[index] >> 10, words[index] & 1023
        if words[index] == 0:
            return
        index += 1
        if code == _SKIP:
            if index + 2 > len(words):
                break
            distance = (words[index] << 16) + words[index + 1]
            sample += distance - (1 << 32 if distance >> 31 else 0)
            index += 2
        elif code == _AUX:
            index += (value + 1) // 2
        elif code < _SKIP:
            sample += value
            if code != 0:
                yield sample, code
    msg = f"{name} has no end mark: it is cut off or garbled"
    raise CorruptRecordError(msg)
