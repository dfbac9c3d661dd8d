"""Read the lead that has a say in the classes beside the one that is analysed."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import InvalidSignalError
from ecg_lib.records.files.lead import Lead, RecordingFile

_FILE: Final = "second_lead.f32"
_DTYPE: Final = np.dtype("<f4")


class SecondLead(NamedTuple):
    """A lead that has a say in the classes."""

    signal_mv: NDArray[np.float32] | None
    """None when there is none, or it cannot be used."""
    warnings: tuple[str, ...] = ()
    """Why it is not used."""


def warn_unheard(lead: Lead | None, *, helped_beats: int, is_read: bool) -> tuple[str, ...]:
    """Warn of a second lead that was read and had no say, as none of its beats can be read."""
    if lead is None or not is_read or helped_beats:
        return ()
    return (f"lead {lead.name} has no say in the classes: it has no beat that can be read",)


def read_second_lead(
    opened: RecordingFile, lead: Lead | None, *, n_samples: int, directory: Path
) -> SecondLead:
    """Read the second lead; one that cannot be used is left out with a warning.

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
        return SecondLead(None)
    path = directory / _FILE
    n_read = 0
    try:
        with path.open("wb") as file:
            for block in opened.blocks(lead):
                file.write(block.astype(_DTYPE, copy=False).tobytes())
                n_read += len(block)
        if n_read != n_samples:
            reason = f"it has {n_read} samples, not {n_samples}"
            return SecondLead(None, (f"lead {lead.name} has no say in the classes: {reason}",))
        return SecondLead(np.memmap(path, dtype=_DTYPE, mode="r"))
    except InvalidSignalError as error:
        return SecondLead(None, (f"lead {lead.name} has no say in the classes: {error}",))
    finally:
        path.unlink(missing_ok=True)
