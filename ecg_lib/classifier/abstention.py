"""Find detections that cannot be given a class: most are made by movement of the electrodes.

The network says of each detection how likely it is a beat at all. Where that is doubtful, a class
would be a guess, and a guessed V is an alarm. Such detections have the quality ``noise``: no class,
no part in burden, runs or alarms, and the time around them counts as unreadable.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ecg_lib.signal_path.filtering import pad_ends
from ecg_lib.signal_path.preprocessing import PreparedBeats
from ecg_lib.signal_path.readability.findings import OK
from ecg_lib.signal_path.readability.quality import (
    Stretch,
    UnreadableReason,
    join_stretches,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AbstentionConfig:
    """Limits of what is read; saved in the bundle.

    Chosen on the development records under simulated movement: the networks of the folds have not
    seen the person, but the detector has, so that people bring more false detections than these.
    """

    min_beat_logit: float = -20.0
    """Least logit of being a beat that a detection with a class has."""
    min_neighbourhood_logit: float = -20.0
    """Least mean of it, clipped to 4 either way, over the detection and two on either side.

    At -20 neither limit rejects anything."""
    reach_s: float = 0.5
    """Seconds on either side that a detection without a class makes unreadable, at most."""


_CLIP = 4.0
_NEIGHBOURS = 5


def are_credible(
    beat_logits: NDArray[np.float64], *, config: AbstentionConfig
) -> NDArray[np.bool_]:
    """Return True for detections of one signal, in time order, that can be given a class.

    Parameters
    ----------
    beat_logits : ndarray of shape (n_beats,)
        Logits of being a beat.
    config : AbstentionConfig

    Returns
    -------
    ndarray of bool, shape (n_beats,)

    """
    if len(beat_logits) == 0:
        return np.zeros(0, dtype=np.bool_)
    is_beat = beat_logits >= config.min_beat_logit
    if config.min_neighbourhood_logit <= -_CLIP:  # less than the mean of any that are clipped
        return np.asarray(is_beat)
    clipped = pad_ends(beat_logits.clip(-_CLIP, _CLIP), _NEIGHBOURS // 2)
    around = np.convolve(clipped, np.ones(_NEIGHBOURS), mode="valid") / _NEIGHBOURS
    return np.asarray(is_beat & (around >= config.min_neighbourhood_logit))


def abstain(
    prepared: PreparedBeats, beat_logits: NDArray[np.float64], *, config: AbstentionConfig
) -> PreparedBeats:
    """Mark what cannot be read: its detections, its time and the quality of its seconds.

    Parameters
    ----------
    prepared : PreparedBeats
    beat_logits : ndarray of shape (n_beats,)
        Logits of being a beat.
    config : AbstentionConfig

    Returns
    -------
    PreparedBeats
        The same object when everything is credible.

    """
    is_doubted = ~are_credible(beat_logits, config=config) & (prepared.beat_quality == OK)
    if not np.count_nonzero(is_doubted):
        return prepared
    beat_quality = prepared.beat_quality.copy()
    beat_quality[is_doubted] = UnreadableReason.NOISE.value
    spans = _spans_of(prepared, is_doubted, reach_s=config.reach_s)
    rate = prepared.fs
    added = _subtract(spans, prepared.unreadable)
    per_second = prepared.quality_per_second.copy()
    middles = (np.arange(len(per_second)) + 0.5) * rate
    for start, stop in spans:
        per_second[(middles >= start) & (middles < stop)] = 0.0
    stretches = [*prepared.unreadable]
    stretches += [Stretch(start, stop, UnreadableReason.NOISE) for start, stop in added]
    return replace(
        prepared,
        beat_quality=beat_quality,
        unreadable=join_stretches(sorted(stretches)),
        quality_per_second=per_second,
        unreadable_s=prepared.unreadable_s + sum(stop - start for start, stop in added) / rate,
    )


def _spans_of(
    prepared: PreparedBeats, is_doubted: NDArray[np.bool_], *, reach_s: float
) -> list[tuple[int, int]]:
    """Find the time around doubted detections, up to half way to their neighbours, joined."""
    peaks = prepared.r_peaks
    last = round(prepared.duration_s * prepared.fs)
    reach = reach_s * prepared.fs
    gaps = np.concatenate([[peaks[0] + 2 * last], peaks[1:] - peaks[:-1], [3 * last - peaks[-1]]])
    reaches = np.minimum(gaps / 2, reach)
    before, after = reaches[:-1], reaches[1:]
    spans: list[tuple[int, int]] = []
    for index in is_doubted.nonzero()[0].tolist():
        start = max(0, round(peaks[index] - before[index]))
        stop = min(last, round(peaks[index] + after[index]))
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], stop)
        else:
            spans.append((start, stop))
    return spans


def _subtract(
    spans: list[tuple[int, int]], stretches: tuple[Stretch, ...]
) -> list[tuple[int, int]]:
    """Take the parts of spans that lie in no stretch."""
    left = spans
    for first, last, _ in stretches:
        cut = []
        for start, stop in left:
            if last <= start or first >= stop:
                cut.append((start, stop))
                continue
            cut += [(a, b) for a, b in ((start, first), (last, stop)) if b > a]
        left = cut
    return left
