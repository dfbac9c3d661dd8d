"""Read and write WFDB records that are trusted, as a whole.

The only door to ``wfdb``. A record is checked when it is read: the files that the header names
must be there and whole, and the samples must have the checksums that it states. Files that people
send, of other formats too, are for :mod:`ecg_lib.records.files.opening`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import (
    CorruptRecordError,
    RecordError,
    RecordNotFoundError,
    UnknownLeadError,
)
from ecg_lib.records.annotations import (
    NOTE,
    SYMBOL_OF_CODE,
    Annotations,
    decode_annotations,
    subject_of,
)
from ecg_lib.records.signal_names import UNIT_TO_MV, preferred_lead

ANNOTATION_EXTENSION = "atr"
"""Extension of the reference annotations of a WFDB record."""

WFDB_LEADS_UNIT = "mV"


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
    person : str, optional
        The person that the record is of, where a table names the persons of a database.

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
    person: str | None = None

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
        return self.person or subject_of(self.name)

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
            return preferred_lead(self.leads)
        if lead not in self.leads:
            msg = f"record {self.name} has the leads {', '.join(self.leads)}, not {lead!r}"
            raise UnknownLeadError(msg)
        return lead

    def signal_mv(self, lead: str | None = None) -> NDArray[np.float32]:
        """Return the samples of one lead in mV, shape ``(n_samples,)``; see :meth:`choose_lead`."""
        return self.signals_mv[:, self.leads.index(self.choose_lead(lead))]


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
    unknown = [unit for unit in units if unit not in UNIT_TO_MV]
    if unknown:
        msg = f"units of record {name} must be one of {', '.join(UNIT_TO_MV)}, got {unknown[0]!r}"
        raise CorruptRecordError(msg)
    scale = np.array([UNIT_TO_MV[unit] for unit in units])
    return np.asarray(physical * scale, dtype=np.float32)


def _read_annotations(stem: Path) -> Annotations:
    """Read the reference annotations.

    Not by ``wfdb.rdann``, which takes a file without its end mark for whole, and never returns
    from some garbled ones.
    """
    path = stem.with_suffix(f".{ANNOTATION_EXTENSION}")
    _require(path)
    samples: list[int] = []
    symbols: list[str] = []
    for sample, code in decode_annotations(path.read_bytes(), name=path.name):
        if code == NOTE and sample == 0:
            continue  # describes the file
        if code not in SYMBOL_OF_CODE:
            msg = f"{path.name} has the annotation code {code}, which is none of WFDB"
            raise CorruptRecordError(msg)
        samples.append(sample)
        symbols.append(SYMBOL_OF_CODE[code])
    return Annotations(
        samples=np.array(samples, dtype=np.int64), symbols=np.array(symbols, dtype="U1")
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
        _write_annotations(record.annotations, directory / record.name, fs=record.fs)
    return directory / f"{record.name}.hea"


def _write_annotations(annotations: Annotations, stem: Path, *, fs: float) -> None:
    import wfdb  # noqa: PLC0415  see read_wfdb

    if len(annotations.samples) == 0:
        # wfdb refuses to write an empty file; this is its end mark.
        stem.with_name(f"{stem.name}.{ANNOTATION_EXTENSION}").write_bytes(b"\x00\x00")
        return
    wfdb.wrann(
        stem.name,
        ANNOTATION_EXTENSION,
        annotations.samples,
        symbol=annotations.symbols.tolist(),
        fs=fs,
        write_dir=str(stem.parent),
    )
