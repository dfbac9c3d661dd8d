"""The leads of a recording that are analysed: choose them, and read the second one."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import require_readable
from ecg_lib.errors import (
    InvalidSignalError,
    MissingDetailError,
    RecordError,
    UnreadableSignalError,
)
from ecg_lib.recordings.signal_file import DTYPE
from ecg_lib.records.files.lead import (
    MAX_NAME,
    ChosenLeads,
    Lead,
    RecordingFile,
    choose_usable_leads,
)
from ecg_lib.signal_path.preprocessing import prepare_beats

_SECOND_LEAD: Final = "second_lead.f32"
_MAX_V: Final = 0.01
"""Largest absolute value of an ECG in volts."""
_BEGINNING_S: Final = 300.0


def choose_leads(opened: RecordingFile, name: str | None = None) -> ChosenLeads:
    """Choose the leads of a recording, see :func:`ecg_lib.records.files.lead.choose_usable_leads`.

    Raises
    ------
    UnknownLeadError
        If there is no lead of that name, or none that is an ECG by its name.
    MissingDetailError
        If a lead is passed over because its unit is not stated, see :func:`require_unit`.

    """
    leads = choose_usable_leads(opened, name)
    for lead, _ in leads.passed_over:
        if not lead.has_unit:
            require_unit(_read_beginning(opened, lead), lead=lead, opened=opened)
    return leads


def _read_beginning(opened: RecordingFile, lead: Lead) -> NDArray[np.float32]:
    blocks, n_left = [np.zeros(0, dtype=np.float32)], round(_BEGINNING_S * lead.fs)
    for block in opened.blocks(lead):
        blocks.append(block[:n_left])
        n_left -= len(blocks[-1])
        if n_left == 0:
            break
    return np.concatenate(blocks)


def require_unit(signal_mv: NDArray[np.floating], *, lead: Lead, opened: RecordingFile) -> None:
    """Ask for the unit of a lead that states none, if it shows beats in volts and not in mV.

    Not where other leads state one: a unit is given for the whole file, and must not contradict it.

    Parameters
    ----------
    signal_mv : ndarray of shape (n_samples,)
        The lead, read as mV.
    lead : Lead
    opened : RecordingFile
        Where the lead is from.

    Raises
    ------
    MissingDetailError
        If no lead states a unit, no sample is beyond 0.01, and the beginning shows beats in volts.

    """
    if any(one.has_unit for one in opened.leads):
        return
    beginning = np.asarray(signal_mv[: round(_BEGINNING_S * lead.fs)], dtype=np.float64)
    if not np.nanmax(np.abs(beginning), initial=0.0) <= _MAX_V:
        return
    try:
        require_readable(prepare_beats(beginning * 1e3, fs=lead.fs))
    except (UnreadableSignalError, InvalidSignalError):
        return
    msg = (
        f"unit must be given: lead {lead.name[:MAX_NAME]} states none, and shows no beats in mV, "
        "but beats in volts"
    )
    raise MissingDetailError(msg, detail="unit")


class SecondLead(NamedTuple):
    """The second lead of the classification."""

    lead: Lead | None = None
    signal_mv: NDArray[np.float32] | None = None
    """None when there is none, or it cannot be used."""
    problem: str = ""
    """Why it cannot be used."""

    def outcome(self, *, is_used: bool) -> tuple[str | None, tuple[str, ...]]:
        """Return the name of the lead if it was used, else the warning that it was not."""
        if self.lead is None or is_used:
            return (None if self.lead is None else self.lead.name), ()
        problem = self.problem or "it has no beat that can be read"
        return None, (f"lead {self.lead.name} is not used in the classification: {problem}",)


def read_second_lead(
    opened: RecordingFile, lead: Lead | None, *, n_samples: int, directory: Path
) -> SecondLead:
    """Read the second lead; what is wrong with it does not stop the analysis of the first.

    Parameters
    ----------
    opened : RecordingFile
    lead : Lead or None
    n_samples : int
        Length of the first lead.
    directory : Path
        Where the lead lies as long as it is needed: in a file without a name, so that a day takes
        no memory.

    """
    if lead is None:
        return SecondLead()
    path = directory / _SECOND_LEAD
    n_read = 0
    try:
        with path.open("wb") as file:
            for block in opened.blocks(lead):
                file.write(block.astype(DTYPE, copy=False).tobytes())
                n_read += len(block)
        if n_read != n_samples:
            return SecondLead(lead, problem=f"it has {n_read} samples, not {n_samples}")
        return SecondLead(lead, np.memmap(path, dtype=DTYPE, mode="r"))
    except (InvalidSignalError, RecordError) as error:
        return SecondLead(lead, problem=str(error))
    finally:
        path.unlink(missing_ok=True)
