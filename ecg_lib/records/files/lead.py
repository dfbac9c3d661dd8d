"""The contract of a recording file, and the choice of its lead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import (
    InvalidSignalError,
    MissingDetailError,
    RecordError,
    RecordTooLongError,
    UnknownLeadError,
    UnsupportedRecordError,
)
from ecg_lib.records.limits import (
    MAX_ABS_MV,
    MAX_DURATION_S,
    MAX_FS_HZ,
    MAX_SIGNALS,
    MIN_DURATION_S,
    MIN_FS_HZ,
)
from ecg_lib.records.signal_names import (
    PREFERRED_LEAD,
    SignalKind,
    find_ecg,
    find_named,
    kind_of,
    lead_of,
)

UNITS: Final = ("mV", "uV", "V")


MAX_NAME: Final = 64


class Lead(NamedTuple):
    """A lead of a file, with what is known before it is read."""

    name: str
    fs: float
    n_samples: int | None
    """None for text, whose rows are not counted yet."""
    label: str = ""
    """The name in the file, where `name` is shorter or has a number added."""
    is_named: bool = True
    """False where the file names no lead, and `name` stands for its place."""
    has_unit: bool = True
    """False where neither the file nor the caller states a unit, so that mV is assumed."""


class RecordingFile(Protocol):
    """A file that was opened and checked."""

    @property
    def kind(self) -> str:
        """``wfdb``, ``edf``, ``csv``, ``npy``, or that of a device's export (``dicom``, ...)."""
        ...

    @property
    def leads(self) -> tuple[Lead, ...]:
        """The signals in volts that can be analysed."""
        ...

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the signals that are not in volts."""
        ...

    @property
    def start_clock_s(self) -> float | None:
        """Time of day at which it begins, in seconds since midnight."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """Assumptions about the file, and deviations from its format."""
        ...

    def blocks(self, lead: Lead) -> Iterator[NDArray[np.float32]]:
        """Read a lead block by block, in mV, NaN where a sample is missing."""
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


def choose_lead(
    leads: tuple[Lead, ...], name: str | None = None, *, others: Sequence[str] = ()
) -> Lead:
    """Choose a lead: by name, or the one that is an ECG by its name.

    See :func:`ecg_lib.records.signal_names.find_ecg` for what is taken when no name is given.

    Parameters
    ----------
    leads : tuple of Lead
        Signals in volts.
    name : str, optional
        Name of the lead, in the spelling of any device.
    others : sequence of str
        Names of the signals of the recording that are not in volts.

    Raises
    ------
    UnknownLeadError
        If there is none of that name, or none that is clearly an ECG; lists those that exist.

    """
    labels = [lead.label or lead.name for lead in leads]
    known = ", ".join(lead.name[:MAX_NAME] for lead in leads[:MAX_SIGNALS])
    if name is None:
        place = find_ecg(labels)
        of_ecg = [other[:MAX_NAME] for other in others if kind_of(other) is SignalKind.ECG]
        if of_ecg and (place is None or kind_of(labels[place]) is not SignalKind.ECG):
            msg = (
                f"the ECG must be in V, mV or uV, {', '.join(of_ecg)} is not; lead must name "
                f"another signal to analyse that instead: {known}"
            )
            raise UnknownLeadError(msg)
        if place is None:
            msg = f"no signal is an ECG by its name, lead must name the one that is: {known}"
            raise UnknownLeadError(msg)
        return leads[place]
    place = find_named([lead.name for lead in leads], name)
    if place is None:
        place = find_named(labels, name)
    if place is None:
        msg = f"lead must be one of those of the recording: {known}"
        raise UnknownLeadError(msg)
    if kind_of(labels[place]) is SignalKind.OTHER:
        msg = f"lead must be an ECG, {name[:MAX_NAME]} is another signal; there are: {known}"
        raise UnknownLeadError(msg)
    return leads[place]


_BIN_S: Final = 2.0
_FLAT_MV: Final = 0.01
"""Bins that span less are flat, as for :mod:`ecg_lib.signal_path.readability.quality`."""

_LEAST_USABLE_BINS: Final = 3
"""Five seconds must be readable, see :data:`ecg_lib.classifier.beat_classifier.MIN_READABLE_S`."""

_MAX_TRIED: Final = 16
"""Leads that are tried; one without a signal is read to its end."""

Blocks = Callable[[Lead], Iterable[NDArray[np.float32]]]


class ChosenLeads(NamedTuple):
    """The lead to analyse, and the second lead of the classification."""

    first: Lead
    second: Lead | None = None
    passed_over: tuple[tuple[Lead, str], ...] = ()
    """Leads before the first in the order of preference, and why they are not used."""
    unused: tuple[tuple[Lead, str], ...] = ()
    """Leads before the second in the order of preference, and why they are not used."""

    def describe(self, name_of: Callable[[Lead], str] = lambda lead: lead.name) -> tuple[str, ...]:
        """Describe the leads that are not used, with the names that `name_of` gives them."""
        first = name_of(self.first)
        return (
            *(
                f"lead {name_of(lead)} {problem}, lead {first} is analysed instead"
                for lead, problem in self.passed_over
            ),
            *(
                f"lead {name_of(lead)} is not used in the classification: it {problem}"
                for lead, problem in self.unused
            ),
        )


def choose_usable_leads(
    opened: RecordingFile, name: str | None = None, *, blocks: Blocks | None = None
) -> ChosenLeads:
    """Choose the leads of a recording by their names, and pass over those without a signal.

    A lead that is named is taken as it is, without a second one. Otherwise the first lead is that
    of :func:`choose_lead`, or the next ECG lead with a signal; if none has one, the preferred lead,
    which the analysis rejects. The second lead is that of :func:`choose_second_lead` among those
    with a signal and other samples than the first.

    Parameters
    ----------
    opened : RecordingFile
    name : str, optional
        Name of the lead, in the spelling of any device.
    blocks : callable, optional
        Gives the samples of a lead in mV; those of `opened` when left out. Of a lead with a signal,
        little more than the beginning is read.

    Raises
    ------
    UnknownLeadError
        See :func:`choose_lead`.

    """
    preferred = choose_lead(opened.leads, name, others=opened.others)
    if name is not None:
        return ChosenLeads(preferred)
    read = blocks or opened.blocks
    passed_over: list[tuple[Lead, str]] = []
    first: Lead | None = preferred
    while first is not None and (problem := explain_no_signal(read(first), fs=first.fs)):
        passed_over.append((first, problem))
        first = _choose_next(opened.leads, without=passed_over)
    if first is None:
        return ChosenLeads(preferred)
    second, unused = choose_usable_second_lead(
        _leave_out(opened.leads, passed_over), first, blocks=read
    )
    return ChosenLeads(first, second, tuple(passed_over), unused)


def choose_usable_second_lead(
    leads: tuple[Lead, ...], first: Lead, *, blocks: Blocks
) -> tuple[Lead | None, tuple[tuple[Lead, str], ...]]:
    """Choose the second lead like :func:`choose_second_lead`, with a signal and other samples.

    Returns
    -------
    second : Lead or None
    unused : tuple of (Lead, str)
        Leads before it in the order of preference, and why they are not used.

    """
    unused: list[tuple[Lead, str]] = []
    while len(unused) < _MAX_TRIED:
        second = choose_second_lead(_leave_out(leads, unused), first)
        if second is None:
            break
        problem = explain_no_signal(blocks(second), fs=second.fs)
        if not problem and _are_equal(blocks(first), blocks(second)):
            problem = "is a copy of the analysed lead"
        if not problem:
            return second, tuple(unused)
        unused.append((second, problem))
    return None, tuple(unused)


def _leave_out(leads: tuple[Lead, ...], tried: Sequence[tuple[Lead, str]]) -> tuple[Lead, ...]:
    without = [lead for lead, _ in tried]
    return tuple(lead for lead in leads if lead not in without)


def _choose_next(leads: tuple[Lead, ...], *, without: list[tuple[Lead, str]]) -> Lead | None:
    left = [
        lead
        for lead in _leave_out(leads, without)
        if kind_of(lead.label or lead.name) is SignalKind.ECG
    ]
    place = find_ecg([lead.label or lead.name for lead in left])
    return None if place is None or len(without) >= _MAX_TRIED else left[place]


def explain_no_signal(blocks: Iterable[NDArray[np.float32]], *, fs: float) -> str:
    """Return why a lead has no signal: ``is flat or disconnected`` or ``has no samples``.

    Empty if it has one, or if it cannot be read: its analysis then raises the error.

    >>> explain_no_signal([np.zeros(2500, dtype=np.float32)], fs=250.0)
    'is flat or disconnected'

    """
    width = max(1, round(_BIN_S * fs))
    n_usable, n_bins, is_missing = 0, 0, True
    rest = np.zeros(0, dtype=np.float32)
    try:
        for block in blocks:
            samples = np.concatenate([rest, block])
            count = len(samples) // width
            bins, rest = samples[: count * width].reshape(count, width), samples[count * width :]
            is_missing = is_missing and bool(np.isnan(block).all())
            spans = np.fmax.reduce(bins, axis=1) - np.fmin.reduce(bins, axis=1)
            n_usable, n_bins = n_usable + int((spans >= _FLAT_MV).sum()), n_bins + count
            if n_usable >= _LEAST_USABLE_BINS:
                return ""
    except (InvalidSignalError, RecordError):
        return ""
    if n_usable >= min(n_bins, _LEAST_USABLE_BINS):
        return ""
    return "has no samples" if is_missing else "is flat or disconnected"


def _are_equal(
    blocks: Iterable[NDArray[np.float32]], others: Iterable[NDArray[np.float32]]
) -> bool:
    """Return whether two leads of one length have the same samples; reads until they differ."""
    try:
        return all(
            np.array_equal(one, other, equal_nan=True)
            for one, other in zip(blocks, others, strict=False)
        )
    except (InvalidSignalError, RecordError):
        return False


_SECOND: Final = ("v1", "v5", "cm5", "v2")
"""Leads that see most of what the first one does not, in order."""


def list_other_leads(opened: RecordingFile, read: str) -> str:
    """List the other ECG leads with a signal, for the error of a lead that cannot be read.

    Empty if there are none.
    """
    others = [
        lead
        for lead in opened.leads
        if lead.name != read and kind_of(lead.label or lead.name) is not SignalKind.OTHER
    ]
    listed = [
        lead.name[:MAX_NAME]
        for lead in others[:_MAX_TRIED]
        if not explain_no_signal(opened.blocks(lead), fs=lead.fs)
    ]
    if not listed:
        return ""
    return f"; that is lead {read[:MAX_NAME]}, lead may name another: {', '.join(listed)}"


def choose_second_lead(leads: tuple[Lead, ...], first: Lead) -> Lead | None:
    """Choose the second lead of the classification.

    V1, else V5 or V2, else the next that is an ECG by its name and not the first one again, of the
    rate and length of the first; None when there is none.
    """
    fitting = [
        lead
        for lead in leads
        if lead != first
        and (lead.fs, lead.n_samples) == (first.fs, first.n_samples)
        and kind_of(lead.label or lead.name) is SignalKind.ECG
    ]
    different = [
        lead for lead in fitting if _spelled(lead) is None or _spelled(lead) != _spelled(first)
    ]
    of_lead = {_spelled(lead): lead for lead in reversed(different)}
    usual = (of_lead[name] for name in _SECOND if name in of_lead)
    return next(usual, different[0] if different else None)


def _spelled(lead: Lead) -> str | None:
    """Name the lead that a name spells; MLII and MV1 are II and V1 with other electrodes."""
    name = lead_of(lead.label or lead.name)
    return None if name is None else re.sub(r"^m(?:l(?=i)|(?=v\d))", "", name)


def no_leads(kind: str, others: Sequence[str]) -> UnsupportedRecordError:
    """Make the error for a file without a signal in volts; unknown names are left out."""
    named = [name[:MAX_NAME] for name in others if kind_of(name) is not SignalKind.UNKNOWN]
    among = f" among {', '.join(named)}" if named else ""
    msg = f"{kind} must have a signal in V, mV or uV, there is none{among}"
    return UnsupportedRecordError(msg)


def leads_of_usual_rate(leads: tuple[Lead, ...]) -> tuple[Lead, ...]:
    """Leave out signals whose rate is not that of an ECG; all stay, to be refused, if none is."""
    return tuple(lead for lead in leads if MIN_FS_HZ <= lead.fs <= MAX_FS_HZ) or leads


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Give each of several equal names a number; the first stays as it is.

    >>> unique_names(["ABP", "II", "ABP"])
    ('ABP', 'II', 'ABP (2)')

    """
    taken: set[str] = set()
    unique = []
    for name in names:
        candidate, number = name, 2
        while candidate in taken:
            candidate, number = f"{name} ({number})", number + 1
        taken.add(candidate)
        unique.append(candidate)
    return tuple(unique)


def missing_rate(what: str) -> MissingDetailError:
    """Make the error for a file that does not state its sampling rate."""
    msg = f"sampling_rate must be given for {what}, which does not state it"
    return MissingDetailError(msg, detail="sampling_rate")


def unnamed_leads(count: int) -> tuple[str, ...]:
    """Name leads that the file does not name: MLII when there is one, else lead1, lead2, ..."""
    return (PREFERRED_LEAD,) if count == 1 else tuple(f"lead{n}" for n in range(1, count + 1))


_NINES: Final = (999.0, 9999.0, 99_999.0, 999_999.0, 9_999_999.0)
"""Numbers that programs write for a missing sample, as they are or with a minus."""

_FAR: Final = 20.0
"""How many times as far as all other samples around it such a number must be."""

_NO_SAMPLE_MV: Final = 9.9
"""No sample of an ECG is as far from zero."""


def mark_nines(
    samples: NDArray[np.float64], samples_mv: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Take numbers of nines alone that no sample can be for missing ones.

    Parameters
    ----------
    samples : array of float64
        As they stand in the file.
    samples_mv : array of float64
        The same in mV.

    Returns
    -------
    array of float64
        The samples in mV, NaN where they are missing.

    >>> numbers = np.array([0.5, -999.0, 1.2])
    >>> mark_nines(numbers, numbers), mark_nines(numbers, numbers / 1000)
    (array([0.5, nan, 1.2]), array([ 0.0005, -0.999 ,  0.0012]))

    """
    are_nines = np.isin(np.abs(samples), _NINES) & (np.abs(samples_mv) > _NO_SAMPLE_MV)
    if not are_nines.any():
        return samples_mv
    greatest = np.nanmax(np.abs(samples[~are_nines]), initial=0.0)
    return np.where(are_nines & (np.abs(samples) > _FAR * greatest), np.nan, samples_mv)


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
