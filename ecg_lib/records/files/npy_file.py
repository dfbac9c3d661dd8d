"""Recordings in NumPy files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, UnsupportedRecordError
from ecg_lib.records.files.lead import (
    Lead,
    check_samples,
    mark_nines,
    missing_rate,
    unnamed_leads,
)
from ecg_lib.records.limits import MAX_SIGNALS, MIN_DURATION_S, MIN_FS_HZ
from ecg_lib.records.signal_names import UNIT_TO_MV

NPY_MAGIC: Final = b"\x93NUMPY"

_NPY_HEADER_BYTES: Final = 65_536


_NPY_SAMPLES_AT_ONCE: Final = 2**20

_LEAST_SAMPLES: Final = round(MIN_DURATION_S * MIN_FS_HZ)
"""Fewest samples of a recording: an array of 12 rows and 5000 columns holds one lead per row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NpyFile:
    """A NumPy array of numbers, shape ``(n_samples,)`` or ``(n_samples, n_leads)``.

    An array of at most 64 rows and at least 1000 columns holds one lead per row; a warning says so.

    NaN is a missing sample, and so is the least number of signed integers of 16 bits or more, and
    a number of nines alone (-999) of 9.9 mV or more, far from those around it.
    """

    values: NDArray[np.generic]
    fs: float
    scale_to_mv: float
    has_unit: bool
    kind: str = "npy"
    start_clock_s: float | None = None
    others: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def open(
        cls, path: Path, *, fs: float | None, unit: str | None, is_part: bool = False
    ) -> NpyFile:
        """Open a file, or the beginning of one; its samples are mapped, not read."""
        if fs is None:
            raise missing_rate("a NumPy file")
        values, warnings = _map_array(path, is_part=is_part)
        if not 1 <= values.shape[1] <= MAX_SIGNALS:
            msg = (
                f"the NumPy file must have 1 to {MAX_SIGNALS} leads, as columns, "
                f"got shape {values.shape}"
            )
            raise CorruptRecordError(msg)
        return cls(
            values=values,
            fs=fs,
            scale_to_mv=UNIT_TO_MV[unit or "mV"],
            has_unit=unit is not None,
            warnings=warnings,
        )

    @property
    def leads(self) -> tuple[Lead, ...]:
        """One lead is called MLII, several are numbered."""
        n_samples, count = self.values.shape
        return tuple(
            Lead(name, self.fs, n_samples, is_named=False, has_unit=self.has_unit)
            for name in unnamed_leads(count)
        )

    def blocks(self, lead: Lead) -> Iterator[NDArray[np.float32]]:
        """See :class:`RecordingFile`."""
        column = self.leads.index(lead)
        for start in range(0, len(self.values), _NPY_SAMPLES_AT_ONCE):
            samples = self.values[start : start + _NPY_SAMPLES_AT_ONCE, column]
            with np.errstate(invalid="ignore"):  # a signalling NaN
                numbers = samples.astype(np.float64)
            if samples.dtype.kind == "i" and samples.dtype.itemsize > 1:
                least = -(1 << (8 * samples.dtype.itemsize - 1))
                numbers[samples == least] = np.nan
            yield check_samples(mark_nines(numbers, numbers * self.scale_to_mv))


_NPY_HEADER: Final = re.compile(
    rb"\{'descr': '(?P<dtype>[<>=|]?[iu][1248]|[<>=]?f[248])', "
    rb"'fortran_order': (?P<order>True|False), "
    rb"'shape': \((?P<rows>\d{1,12}),(?: ?(?P<columns>\d{1,12}),?)?\),? ?\}\s*"
)

_DTYPE: Final = re.compile(rb"'descr': *(?:'(?P<plain>[^']{1,40})'|(?P<fields>\[))")
_FIELD: Final = re.compile(rb"\('(\w{1,40})', *'")
_SHAPE: Final = re.compile(rb"'shape': *\((?P<shape>[\d, ]{0,80})\)")

_NO_NUMBERS: Final = {
    "O": "Python objects, which are never unpickled",
    "c": "complex numbers",
    "b": "truth values",
    "U": "text",
    "S": "text",
    "M": "dates",
    "m": "times",
    "V": "bytes without a type",
}
_MAX_FIELDS: Final = 8


def _map_array(path: Path, *, is_part: bool) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """Map the numbers of a NumPy file, shape ``(n_samples, n_leads)``; also return warnings.

    Not by NumPy itself, which evaluates the header as Python's literals, takes archives, and
    raises whatever comes up.
    """
    with path.open("rb") as file:
        start = file.read(12)
        width = 2 if start[6:7] == b"\x01" else 4
        size = int.from_bytes(start[8 : 8 + width], "little")
        file.seek(8 + width)
        text = file.read(min(size, _NPY_HEADER_BYTES))
    header = _NPY_HEADER.fullmatch(text)
    if not start.startswith(NPY_MAGIC) or header is None:
        raise _explain_header(text if start.startswith(NPY_MAGIC) else b"")
    dtype = np.dtype(header["dtype"].decode())
    rows, columns = int(header["rows"]), int(header["columns"] or 1)
    offset = 8 + width + size
    if offset > path.stat().st_size:
        msg = "the NumPy file must hold samples, it ends within its header"
        raise CorruptRecordError(msg)
    is_turned = rows <= MAX_SIGNALS < _LEAST_SAMPLES <= columns
    order: Literal["C", "F"] = "F" if header["order"] == b"True" else "C"
    if is_turned:
        # The same numbers, in the other order.
        rows, columns, order = columns, rows, "C" if order == "F" else "F"
    shape = (rows, columns)
    if is_part and columns > 0:
        if order == "F" and columns > 1:
            msg = "the beginning of a NumPy file of several leads must be stored row by row"
            raise CorruptRecordError(msg)
        room = (path.stat().st_size - offset) // (columns * dtype.itemsize)
        shape = (min(rows, room), columns)
    if shape[0] * shape[1] == 0 or path.stat().st_size - offset < (
        shape[0] * shape[1] * dtype.itemsize
    ):
        msg = f"the NumPy file must hold samples of shape {shape}, it is shorter or empty"
        raise CorruptRecordError(msg)
    said = (f"the array has {columns} rows of {rows} numbers: each row is read as a lead",)
    mapped = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order=order)
    return mapped, said if is_turned else ()


def _explain_header(text: bytes) -> CorruptRecordError | UnsupportedRecordError:
    """Describe the array of a header that is not read."""
    must = "the NumPy file must hold numbers of shape (n_samples,) or (n_samples, n_leads)"
    shape, dtype = _SHAPE.search(text), _DTYPE.search(text)
    if shape is None or dtype is None:
        return CorruptRecordError(must)
    if dtype["fields"]:
        names = [name.decode() for name in _FIELD.findall(text)]
        fields = ", ".join(names[:_MAX_FIELDS]) + ", ..." * (len(names) > _MAX_FIELDS)
        msg = f"{must}, it is a structured array ({fields}); save the field of the signal alone"
        return UnsupportedRecordError(msg)
    kind = dtype["plain"].decode("latin-1").lstrip("<>=|")[:1]
    if kind in _NO_NUMBERS:
        msg = f"{must}, it holds {_NO_NUMBERS[kind]}; save it with astype(float)"
        return UnsupportedRecordError(msg)
    found = shape["shape"].decode().replace(" ", "").strip(",").replace(",", ", ")
    return UnsupportedRecordError(f"{must}, its shape is ({found}); save one recording alone")
