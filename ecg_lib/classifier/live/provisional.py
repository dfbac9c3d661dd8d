"""The provisional beats of a stream that were told, so that only changes are told again."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from ecg_lib.classifier.live.beats import LiveBeats, clip
from ecg_lib.signal_path.readability.findings import Finding
from ecg_lib.signal_path.readability.quality import Stretch


class Told:
    """The beats and stretches that were given of the signal that is not final.

    Parameters
    ----------
    start : int
        Where that signal begins.

    """

    def __init__(self, start: int) -> None:
        self.start = self.stop = start
        self._beats: list[tuple[int, str]] = []
        self._unreadable: tuple[Stretch, ...] = ()
        self._findings: tuple[Finding, ...] = ()

    def update(self, found: LiveBeats, *, within: int) -> LiveBeats:
        """Return the part of what is found from where it differs from what was given, and note it.

        A beat of the same class within some samples of one that was given is the same.
        """
        n_before = sum(position < found.start for position, _ in self._beats)
        given = self._beats[n_before:]
        labels = np.where(found.has_class, np.where(found.is_v, "V", "N"), found.quality).tolist()
        beats = list(zip(found.r_peaks.tolist(), labels, strict=True))
        n_same = 0
        for (old, old_label), (new, new_label) in zip(given, beats, strict=False):
            if abs(old - new) > within or old_label != new_label:
                break
            n_same += 1
        # Position by position: of the first two that differ either may come first.
        changed = [position for position, _ in (*given[n_same:][:1], *beats[n_same:][:1])]
        changed += _find_changed(self._unreadable, found.unreadable, found.start, self.stop)
        changed += _find_changed(self._findings, found.findings, found.start, self.stop)
        start = max(found.start, min([self.stop, *changed]))
        self._beats = [*self._beats[: n_before + n_same], *beats[n_same:]]
        unreadable = clip(found.unreadable, start, found.stop)
        findings = clip(found.findings, start, found.stop)
        self._unreadable = _join(clip(self._unreadable, self.start, start), unreadable)
        self._findings = _join(clip(self._findings, self.start, start), findings)
        self.stop = found.stop
        rest = slice(n_same, None)
        return found._replace(
            start=start,
            r_peaks=found.r_peaks[rest],
            is_v=found.is_v[rest],
            has_class=found.has_class[rest],
            probability_v=found.probability_v[rest],
            rr_prev_s=found.rr_prev_s[rest],
            quality=found.quality[rest],
            rule=found.rule[rest],
            unreadable=unreadable,
            findings=findings,
        )

    def settle(self, position: int) -> None:
        """Forget what is before a position."""
        self.start, self.stop = position, max(position, self.stop)
        self._beats = [beat for beat in self._beats if beat[0] >= position]
        self._unreadable = clip(self._unreadable, position, self.stop)
        self._findings = clip(self._findings, position, self.stop)


_Span = TypeVar("_Span", Stretch, Finding)


def _join(before: tuple[_Span, ...], after: tuple[_Span, ...]) -> tuple[_Span, ...]:
    """Join what the place between both has parted."""
    joined = list(before)
    for span in after:
        parted = [
            place
            for place, one in enumerate(joined)
            if one.stop == span.start and one == span._replace(start=one.start, stop=one.stop)
        ]
        if parted:
            joined[parted[0]] = joined[parted[0]]._replace(stop=span.stop)
        else:
            joined.append(span)
    return tuple(joined)


def _find_changed(
    given: tuple[_Span, ...], found: tuple[_Span, ...], start: int, stop: int
) -> list[int]:
    """Find the begins of spans that only one of both has, between two positions."""
    return [span.start for span in set(clip(given, start, stop)) ^ set(clip(found, start, stop))]
