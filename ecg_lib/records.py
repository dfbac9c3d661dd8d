"""Read and write recordings: WFDB, EDF, CSV and NPY.

The only door to ``wfdb`` and ``edfio``. A record is checked when it is read: the files that the
header names must be there and whole, and the samples must have the checksums that it states.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecg_lib.annotations import Annotations, subject_of
from ecg_lib.errors import (
    CorruptRecordError,
    RecordError,
    RecordNotFoundError,
    UnknownLeadError,
)

PREFERRED_LEAD = "MLII"
"""The lead that the classifier is trained on (modified limb lead II)."""

ANNOTATION_EXTENSION = "atr"
"""Extension of the reference annotations of a WFDB record."""

WFDB_LEADS_UNIT = "mV"

_DEFAULT_FS_HZ = 360.0

_NOTE, _SKIP, _AUX = 22, 59, 63
"""Codes of WFDB annotation files: a comment, a distance of more than ten bits, a text."""

_UNIT_TO_MV = {"mV": 1.0, "uV": 1e-3, "µV": 1e-3, "V": 1e3}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Record:
    """One recording.

    Parameters
    ----------
    name : str
        Name of the record, without directory or extension.
    fs : float
        Sampling rate in Hz.
    leads : tuple of str
        Names of the leads, in the order of the columns.
    signals_mv : ndarray of float32, shape (n_samples, n_leads)
        Samples in mV; NaN where the file marks a sample as invalid.
    annotations : Annotations, optional
        Reference annotations, when the record has them.
    comments : tuple of str
        Comment lines of the header.

    Raises
    ------
    ValueError
        If the shape does not fit the leads, or `fs` is not positive.

    """

    name: str
    fs: float
    leads: tuple[str, ...]
    signals_mv: NDArray[np.float32]
    annotations: Annotations | None = None
    comments: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.signals_mv.ndim != 2 or self.signals_mv.shape[1] != len(self.leads):
            msg = (
                "signals_mv must have one column for each lead, "
                f"got shape {self.signals_mv.shape} for leads {self.leads}"
            )
            raise ValueError(msg)
        if not self.fs > 0:
            msg = f"fs must be positive, got fs={self.fs!r}"
            raise ValueError(msg)

    @property
    def subject(self) -> str:
        """The person that the record is of."""
        return subject_of(self.name)

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.signals_mv) / self.fs

    def choose_lead(self, lead: str | None = None) -> str:
        """Name the lead to analyse: `lead`, or MLII, or else the first one.

        Raises
        ------
        UnknownLeadError
            If the record has no lead of that name.

        """
        if lead is None:
            return PREFERRED_LEAD if PREFERRED_LEAD in self.leads else self.leads[0]
        if lead not in self.leads:
            msg = f"record {self.name} has the leads {', '.join(self.leads)}, not {lead!r}"
            raise UnknownLeadError(msg)
        return lead

    def signal_mv(self, lead: str | None = None) -> NDArray[np.float32]:
        """Return the samples of one lead in mV, shape ``(n_samples,)``; see :meth:`choose_lead`."""
        return self.signals_mv[:, self.leads.index(self.choose_lead(lead))]


def read_record(path: Path, *, with_annotations: bool = False, fs: float | None = None) -> Record:
    """Read a recording by the extension of its file.

    Parameters
    ----------
    path : Path
        ``.hea`` or ``.dat`` or no extension (WFDB), ``.edf``, ``.csv`` or ``.npy``.
    with_annotations : bool
        Also read the reference annotations; WFDB only.
    fs : float, optional
        Sampling rate in Hz for files that do not state one; 360 when left out.

    Raises
    ------
    RecordNotFoundError
        If a file is missing.
    CorruptRecordError
        If a file is not what its extension or header says.

    """
    suffix = path.suffix.lower()
    if suffix == ".edf":
        return read_edf(path)
    if suffix == ".csv":
        return read_csv(path, fs=fs)
    if suffix == ".npy":
        return read_npy(path, fs=fs)
    return read_wfdb(path, with_annotations=with_annotations)


def read_wfdb(path: Path, *, with_annotations: bool = False) -> Record:
    """Read a WFDB record and check it against its header.

    Parameters
    ----------
    path : Path
        The record, with or without ``.hea`` or ``.dat``.
    with_annotations : bool
        Also read the ``.atr`` file, which must then exist.

    Raises
    ------
    RecordNotFoundError
        If the header, a signal file or the wanted annotation file is missing.
    CorruptRecordError
        If a file is cut off or garbled, or a signal does not have the checksum of its header.

    """
    import wfdb  # noqa: PLC0415  imports pandas and soundfile: half a second

    stem = path.with_suffix("") if path.suffix in {".hea", ".dat", ".atr"} else path
    _require(stem.with_suffix(".hea"))
    try:
        header = wfdb.rdheader(str(stem))
        for file_name in header.file_name or ():
            _require(stem.parent / file_name)
        wfdb_record = wfdb.rdrecord(str(stem), physical=False)
        if wfdb_record.d_signal is None:
            msg = f"record {stem.name} has no signal"
            raise CorruptRecordError(msg)
        _check_checksums(stem.name, wfdb_record.d_signal, header.checksum)
        return Record(
            name=stem.name,
            fs=float(wfdb_record.fs),
            leads=tuple(wfdb_record.sig_name),
            signals_mv=_to_millivolt(stem.name, wfdb_record.dac(), tuple(wfdb_record.units)),
            annotations=_read_annotations(stem) if with_annotations else None,
            comments=tuple(wfdb_record.comments),
        )
    except RecordError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        OSError,
        TypeError,
        ValueError,
        wfdb.io.header.HeaderSyntaxError,
    ) as error:  # what wfdb raises on headers that make no sense
        msg = f"record {stem.name} cannot be read: {error}"
        raise CorruptRecordError(msg) from error


def _require(path: Path) -> None:
    if not path.is_file():
        msg = f"file {path.name} is missing"
        raise RecordNotFoundError(msg)


def _check_checksums(
    name: str, digital: NDArray[np.int64], expected: list[int | None] | None
) -> None:
    """Compare the 16-bit sum of each signal with the header (WFDB header(5))."""
    for index, stated in enumerate(expected or ()):
        if stated is None:
            continue
        found = int(digital[:, index].sum()) % 65536
        if found != stated % 65536:
            msg = (
                f"signal {index} of record {name} must have checksum {stated % 65536}, got {found}"
            )
            raise CorruptRecordError(msg)


def _to_millivolt(
    name: str, physical: NDArray[np.float64], units: tuple[str, ...]
) -> NDArray[np.float32]:
    unknown = [unit for unit in units if unit not in _UNIT_TO_MV]
    if unknown:
        msg = f"units of record {name} must be one of {', '.join(_UNIT_TO_MV)}, got {unknown[0]!r}"
        raise CorruptRecordError(msg)
    scale = np.array([_UNIT_TO_MV[unit] for unit in units])
    return np.asarray(physical * scale, dtype=np.float32)


def _read_annotations(stem: Path) -> Annotations:
    """Read an annotation file in MIT format (WFDB annot(5)).

    Not by ``wfdb.rdann``, which takes a file without its end mark for whole, and never returns
    from some garbled ones.
    """
    import wfdb  # noqa: PLC0415  see read_wfdb

    path = stem.with_suffix(f".{ANNOTATION_EXTENSION}")
    _require(path)
    symbol_of_code = {label.label_store: label.symbol for label in wfdb.io.annotation.ann_labels}
    samples: list[int] = []
    symbols: list[str] = []
    for sample, code in _decode_annotations(path):
        if code == _NOTE and sample == 0:
            continue  # describes the file
        if code not in symbol_of_code:
            msg = f"{path.name} has the annotation code {code}, which is none of WFDB"
            raise CorruptRecordError(msg)
        samples.append(sample)
        symbols.append(symbol_of_code[code])
    return Annotations(
        samples=np.array(samples, dtype=np.int64), symbols=np.array(symbols, dtype="U1")
    )


def _decode_annotations(path: Path) -> Iterator[tuple[int, int]]:
    """Give the sample and code of each annotation: six bits of code, ten of distance."""
    content = path.read_bytes()
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
    msg = f"{path.name} has no end mark: it is cut off or garbled"
    raise CorruptRecordError(msg)


def read_edf(path: Path) -> Record:
    """Read an EDF or EDF+ file; its signals must share one sampling rate.

    Signals in other units than volts (respiration, say) are left out.

    Raises
    ------
    RecordNotFoundError
        If there is no such file.
    CorruptRecordError
        If it is not an EDF file, or has no signal in volts, or several sampling rates.

    """
    import edfio  # noqa: PLC0415  only where an EDF file is read

    _require(path)
    try:
        edf = edfio.read_edf(path)
        signals = [s for s in edf.signals if s.physical_dimension in _UNIT_TO_MV]
        columns = [s.data * _UNIT_TO_MV[s.physical_dimension] for s in signals]
    except (ValueError, LookupError, OSError) as error:
        msg = f"{path.name} is not a readable EDF file: {error}"
        raise CorruptRecordError(msg) from error
    rates = {signal.sampling_frequency for signal in signals}
    if len(rates) != 1:
        msg = (
            f"the ECG signals of {path.name} must share one sampling rate, got {sorted(rates)}"
            if rates
            else f"{path.name} has no signal in V, mV or uV"
        )
        raise CorruptRecordError(msg)
    return Record(
        name=path.stem,
        fs=float(rates.pop()),
        leads=tuple(_edf_lead(signal.label) for signal in signals),
        signals_mv=np.stack(columns, axis=1).astype(np.float32),
    )


def _edf_lead(label: str) -> str:
    """``ECG II`` is lead ``II`` (EDF+ standard texts)."""
    return re.sub(r"^E[CK]G\s+", "", label.strip()) or label


def read_csv(path: Path, *, fs: float | None = None) -> Record:
    """Read a CSV file of samples in mV: one column for each lead, names in the first row.

    A column called ``time`` or ``time_s`` (seconds) gives the sampling rate and is no lead. A
    file without a header row has one lead called MLII.

    Raises
    ------
    RecordNotFoundError
        If there is no such file.
    CorruptRecordError
        If a row has another number of cells than the first, a cell is not a number, a lead has
        no column or several, or time does not go forwards.

    """
    _require(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (csv.Error, UnicodeDecodeError) as error:
        msg = f"{path.name} is not a readable CSV file: {error}"
        raise CorruptRecordError(msg) from error
    if not rows:
        msg = f"{path.name} is empty"
        raise CorruptRecordError(msg)
    has_header = not all(_is_number(cell) for cell in rows[0])
    names = [cell.strip() for cell in rows[0]] if has_header else []
    body = rows[1:] if has_header else rows
    for number, row in enumerate(body, start=2 if has_header else 1):
        if len(row) != len(rows[0]) or not all(_is_number(cell) for cell in row):
            msg = f"row {number} of {path.name} must hold {len(rows[0])} numbers, got {row!r:.80}"
            raise CorruptRecordError(msg)
    if not body:
        msg = f"{path.name} has no samples"
        raise CorruptRecordError(msg)
    values = np.array(body, dtype=np.float64)
    if not has_header:
        names = [PREFERRED_LEAD] if values.shape[1] == 1 else _numbered_leads(values.shape[1])
    time_columns = [index for index, name in enumerate(names) if name.lower() in {"time", "time_s"}]
    if time_columns and len(values) > 1:
        lasts_s = float(values[-1, time_columns[0]] - values[0, time_columns[0]])
        if not 0 < lasts_s < np.inf:
            msg = f"time must go forwards in {path.name}, got {lasts_s!r} s from first to last row"
            raise CorruptRecordError(msg)
        fs = (len(values) - 1) / lasts_s
    kept = [index for index in range(values.shape[1]) if index not in time_columns]
    leads = tuple(names[index] for index in kept)
    if not leads or len(set(leads)) < len(leads):
        msg = f"each lead of {path.name} must have one column, got the leads {leads}"
        raise CorruptRecordError(msg)
    return Record(
        name=path.stem,
        fs=_DEFAULT_FS_HZ if fs is None else fs,
        leads=leads,
        signals_mv=values[:, kept].astype(np.float32),
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbered_leads(count: int) -> list[str]:
    return [f"lead{index}" for index in range(1, count + 1)]


def read_npy(path: Path, *, fs: float | None = None) -> Record:
    """Read a NumPy array of samples in mV, shape ``(n_samples,)`` or ``(n_samples, n_leads)``.

    Raises
    ------
    RecordNotFoundError
        If there is no such file.
    CorruptRecordError
        If it is not an array of numbers of one or two dimensions.

    """
    _require(path)
    try:
        # Not np.load, which takes archives too; a length that the file does not have is refused.
        values = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError) as error:
        msg = f"{path.name} is not a readable NumPy file: {error}"
        raise CorruptRecordError(msg) from error
    if values.ndim not in {1, 2} or values.dtype.kind not in "iuf" or values.size == 0:
        msg = (
            f"{path.name} must hold numbers of shape (n_samples,) or (n_samples, n_leads), "
            f"got {values.dtype} of shape {values.shape}"
        )
        raise CorruptRecordError(msg)
    columns = values[:, None] if values.ndim == 1 else values
    count = columns.shape[1]
    return Record(
        name=path.stem,
        fs=_DEFAULT_FS_HZ if fs is None else fs,
        leads=(PREFERRED_LEAD,) if count == 1 else tuple(_numbered_leads(count)),
        signals_mv=columns.astype(np.float32),
    )


def write_wfdb(record: Record, directory: Path) -> Path:
    """Write a record as WFDB format 16 with 2000 units per mV, and its annotations if any.

    Returns
    -------
    Path
        The header file.

    """
    import wfdb  # noqa: PLC0415  see read_wfdb

    directory.mkdir(parents=True, exist_ok=True)
    digital = np.rint(np.clip(record.signals_mv * 2000.0, -32000, 32000)).astype(np.int64)
    count = len(record.leads)
    wfdb.wrsamp(
        record.name,
        fs=record.fs,
        units=[WFDB_LEADS_UNIT] * count,
        sig_name=list(record.leads),
        d_signal=digital,
        fmt=["16"] * count,
        adc_gain=[2000.0] * count,
        baseline=[0] * count,
        comments=list(record.comments),
        write_dir=str(directory),
    )
    if record.annotations is not None:
        write_annotations(
            directory / record.name,
            extension=ANNOTATION_EXTENSION,
            samples=record.annotations.samples,
            symbols=record.annotations.symbols,
            fs=record.fs,
        )
    return directory / f"{record.name}.hea"


def write_annotations(
    stem: Path,
    *,
    extension: str,
    samples: NDArray[np.int64],
    symbols: NDArray[np.str_],
    fs: float,
) -> Path:
    """Write a WFDB annotation file.

    Parameters
    ----------
    stem : Path
        Directory and record name.
    extension : str
        Annotator name, letters only.
    samples : ndarray of int64, shape (n_annotations,)
        Ascending positions in samples of the record.
    symbols : ndarray of str, shape (n_annotations,)
        WFDB annotation codes.
    fs : float
        Sampling rate in Hz.

    Returns
    -------
    Path
        The file written. A record without annotations gives a file with the end mark alone.

    """
    import wfdb  # noqa: PLC0415  see read_wfdb

    stem.parent.mkdir(parents=True, exist_ok=True)
    target = stem.parent / f"{stem.name}.{extension}"
    if len(samples) == 0:
        target.write_bytes(b"\x00\x00")  # wfdb refuses to write an empty file; this is its end mark
        return target
    wfdb.wrann(
        stem.name,
        extension,
        np.asarray(samples, dtype=np.int64),
        symbol=[str(symbol) for symbol in symbols],
        fs=fs,
        write_dir=str(stem.parent),
    )
    return target
