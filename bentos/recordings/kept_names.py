"""Names of leads as the service keeps them: a heading of a text may be the name of a person."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.files.lead import Lead, RecordingFile
from ecg_lib.records.signal_names import is_usual_name, lead_of

_TEXT: Final = "csv"


@dataclass(frozen=True)
class KeptNames:
    """A file whose leads have no names that may identify a patient; otherwise the file itself.

    Of a text file, a lead whose name has other words than those of leads and devices is called by
    the lead that it spells, or by its place; so are other signals.
    """

    opened: RecordingFile

    @property
    def kind(self) -> str:
        """Kind of the file."""
        return self.opened.kind

    @cached_property
    def leads(self) -> tuple[Lead, ...]:
        """The leads, in the order of the file."""
        leads = self.opened.leads
        if self.kind != _TEXT:
            return leads
        taken = {lead.name for lead in leads}
        kept: list[Lead] = []
        for place, lead in enumerate(leads, start=1):
            spelled = (lead_of(lead.label or lead.name) or "").upper()
            name, label = lead.name, lead.label
            if not (is_usual_name(name) and is_usual_name(label)):
                is_free = spelled and spelled not in taken and is_usual_name(spelled)
                name, label = (spelled if is_free else _name_place(place, taken)), ""
                taken.add(name)
            kept.append(lead._replace(name=name, label=label))
        return tuple(kept)

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the signals that are not in volts."""
        others = self.opened.others
        if self.kind != _TEXT:
            return others
        return tuple(
            name if is_usual_name(name) else f"signal{place}"
            for place, name in enumerate(others, start=1)
        )

    @property
    def start_clock_s(self) -> float | None:
        """Time of day at which it begins."""
        return self.opened.start_clock_s

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of the file, which name no leads."""
        return self.opened.warnings

    def blocks(self, lead: Lead) -> Iterator[NDArray[np.float32]]:
        """See :class:`ecg_lib.records.files.lead.RecordingFile`."""
        return self.opened.blocks(self.opened.leads[self.leads.index(lead)])

    def name_in_file(self, name: str | None) -> str | None:
        """Give the file's own name of a lead that a client names as it is kept."""
        for own, kept in zip(self.opened.leads, self.leads, strict=True):
            if name == kept.name:
                return own.name
        return name

    def keep(self, lead: Lead) -> Lead:
        """Give the lead of the file the name that is kept."""
        return self.leads[self.opened.leads.index(lead)]


def _name_place(place: int, taken: set[str]) -> str:
    name = f"lead{place}"
    while name in taken:
        name += "_"
    return name
