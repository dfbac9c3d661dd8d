"""The provisional beats of a stream that were reported, so that only changes are reported."""

from __future__ import annotations

from bisect import bisect_left
from operator import itemgetter
from typing import Final

import numpy as np

from ecg_lib.classifier.live.beats import LiveBeats, Span, clip
from ecg_lib.signal_path.readability.findings import Finding
from ecg_lib.signal_path.readability.quality import Stretch

_position_of: Final = itemgetter(0)


class ReportedBeats:
    """The beats, stretches and findings that were reported and are not final.

    Parameters
    ----------
    start : int
        First sample that is not final.

    """

    def __init__(self, start: int) -> None:
        self.start = self.stop = start
        self._beats: list[tuple[int, str]] = []
        self._unreadable: tuple[Stretch, ...] = ()
        self._findings: tuple[Finding, ...] = ()

    def update(self, found: LiveBeats, *, within: int) -> LiveBeats:
        """Return `found` from the first difference to the reported beats on, and note it.

        Parameters
        ----------
        found : LiveBeats
        within : int
            Distance in samples within which two beats of the same class are the same.

        """
        n_before = bisect_left(self._beats, found.start, key=_position_of)
        reported = self._beats[n_before:]
        labels = np.where(found.has_class, np.where(found.is_v, "V", "N"), found.quality).tolist()
        beats = list(zip(found.r_peaks.tolist(), labels, strict=True))
        n_same = 0
        for (old, old_label), (new, new_label) in zip(reported, beats, strict=False):
            if abs(old - new) > within or old_label != new_label:
                break
            n_same += 1
        # Of the first two beats that differ, either may come first.
        changed = [position for position, _ in (*reported[n_same:][:1], *beats[n_same:][:1])]
        changed += _find_changed(self._unreadable, found.unreadable, found.start, self.stop)
        changed += _find_changed(self._findings, found.findings, found.start, self.stop)
        start = max(found.start, min([self.stop, *changed]))
        self._beats[n_before + n_same :] = beats[n_same:]
        unreadable = clip(found.unreadable, start, found.stop)
        findings = clip(found.findings, start, found.stop)
        self._unreadable = _join(clip(self._unreadable, self.start, start), unreadable)
        self._findings = _join(clip(self._findings, self.start, start), findings)
        self.stop = found.stop
        changes = found.select(slice(n_same, None))
        return changes._replace(start=start, unreadable=unreadable, findings=findings)

    def settle(self, position: int) -> None:
        """Forget everything before a position."""
        self.start, self.stop = position, max(position, self.stop)
        self._beats = [beat for beat in self._beats if beat[0] >= position]
        self._unreadable = clip(self._unreadable, position, self.stop)
        self._findings = clip(self._findings, position, self.stop)


def _join(before: tuple[Span, ...], after: tuple[Span, ...]) -> tuple[Span, ...]:
    """Join spans that were split between `before` and `after`."""
    joined = list(before)
    for span in after:
        split = [
            place
            for place, one in enumerate(joined)
            if one.stop == span.start and one == span._replace(start=one.start, stop=one.stop)
        ]
        if split:
            joined[split[0]] = joined[split[0]]._replace(stop=span.stop)
        else:
            joined.append(span)
    return tuple(joined)


def _find_changed(
    reported: tuple[Span, ...], found: tuple[Span, ...], start: int, stop: int
) -> list[int]:
    """Find the starts of spans between two positions that only one of both has."""
    return [span.start for span in set(clip(reported, start, stop)) ^ set(clip(found, start, stop))]
