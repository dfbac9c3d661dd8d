"""The contract of a recording file, and the choice of its lead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import (
    InvalidSignalError,
    MissingDetailError,
    RecordTooLongError,
    UnknownLeadError,
)
from ecg_lib.records.limits import (
    MAX_ABS_MV,
    MAX_DURATION_S,
    MAX_SIGNALS,
    MIN_DURATION_S,
    PREFERRED_LEAD,
    preferred_lead,
)

UNITS: Final = ("mV", "uV", "V")


MAX_NAME: Final = 64


class Lead(NamedTuple):
    """A lead of a file, with what is known before it is read."""

    name: str
    fs: float
    n_samples: int | None
    """None for text, whose rows are not counted yet."""


class RecordingFile(Protocol):
    """A file that was opened and checked."""

    @property
    def kind(self) -> str:
        """``wfdb``, ``edf``, ``csv``, ``npy``, or that of a device's export (``dicom``, ...)."""
        ...

    @property
    def leads(self) -> tuple[Lead, ...]:
        """The leads that can be analysed."""
        ...

    @property
    def start_clock_s(self) -> float | None:
        """Time of day at which it begins, in seconds since midnight."""
        ...

    def blocks(self, lead: Lead) -> Iterator[NDArray[np.float32]]:
        """Read a lead block by block, in mV, NaN where a sample is invalid."""
        ...


def rate_contradiction(stated_hz: float) -> MissingDetailError:
    """Make the error for a sampling rate that differs from the one the file states."""
    msg = f"the file states {stated_hz:g} Hz; sampling_rate must be that or left out"
    return MissingDetailError(msg, detail="sampling_rate")


def check_duration(duration_s: float) -> None:
    """Refuse a recording that is too short or too long.

    Raises
    ------
    RecordTooLongError, InvalidSignalError

    """
    refuse_too_long(duration_s)
    if duration_s < MIN_DURATION_S:
        msg = f"a recording must last at least {MIN_DURATION_S:g} s, got {duration_s:.1f} s"
        raise InvalidSignalError(msg)


def refuse_too_long(duration_s: float) -> None:
    """Refuse a recording that is too long, as soon as it is.

    Raises
    ------
    RecordTooLongError

    """
    if duration_s > MAX_DURATION_S:
        msg = f"a recording must last at most 14 days, got {duration_s / 86_400:.2f} days"
        raise RecordTooLongError(msg)


def choose_lead(leads: tuple[Lead, ...], name: str | None = None) -> Lead:
    """Choose a lead by name; without one MLII, or else the first.

    Raises
    ------
    UnknownLeadError
        If there is none of that name; says which there are.

    """
    by_name = {lead.name: lead for lead in leads}
    if name is None:
        return by_name[preferred_lead(tuple(by_name))]
    if name not in by_name:
        known = ", ".join(lead[:MAX_NAME] for lead in list(by_name)[:MAX_SIGNALS])
        msg = f"lead must be one of those of the recording: {known}"
        raise UnknownLeadError(msg)
    return by_name[name]


def missing_rate(what: str) -> MissingDetailError:
    """Make the error for a file that does not state its sampling rate."""
    msg = f"sampling_rate must be given for {what}, which does not state it"
    return MissingDetailError(msg, detail="sampling_rate")


def unnamed_leads(count: int) -> tuple[str, ...]:
    """Name leads that the file does not name: MLII when there is one, else lead1, lead2, ..."""
    return (PREFERRED_LEAD,) if count == 1 else tuple(f"lead{n}" for n in range(1, count + 1))


def check_samples(samples_mv: NDArray[np.floating]) -> NDArray[np.float32]:
    """Check amplitudes, and return the samples as float32; missing ones stay NaN."""
    with np.errstate(invalid="ignore"):
        # Not fmax.reduce, in which a signalling NaN hides all other samples.
        is_beyond = np.abs(samples_mv) > MAX_ABS_MV
    if is_beyond.any():
        msg = (
            f"samples must be in the unit that is given (mV when none is), at most {MAX_ABS_MV:g} "
            "mV; these are more"
        )
        raise InvalidSignalError(msg)
    checked = samples_mv.astype(np.float32)
    checked[np.isnan(checked)] = np.nan
    return checked
