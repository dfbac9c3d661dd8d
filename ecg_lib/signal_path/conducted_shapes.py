"""Find conducted beats whose shape differs from that of the template.

The conducted beats of one recording may have several shapes: with intermittent pre-excitation or
bundle branch block, or when an electrode or the body moves. Compared with the template of one of
them, all the others look like ventricular beats. What tells them from ventricular beats is the
rhythm: whole stretches of them go on at the rate of the sinus rhythm, with narrow complexes. One of
more than 0.15 s is never taken for conducted, as an accelerated idioventricular rhythm goes on like
this too; nor is a narrow one of another rate, as in a fascicular tachycardia. A narrow ventricular
rhythm at the rate of the sinus rhythm cannot be told from it here. Stretches of fewer than eight
beats alone, as in a short strip, tell too little.

A shape is as wide as its average beat, and its rhythm is that of its intervals to beats of a known
shape: where QRS complexes are low, noise and P waves make single beats look wide, and a P wave that
was taken for a beat seems to break the rhythm.

Constants were chosen on DS1 and the development part of svdb, out of fold. Stretches of 5 to 12
beats, widths of 0.14 and 0.15 s and shares of 0.2 and 0.3 give the same V-F1 of DS1; at 0.16 s a
ventricular tachycardia of record 205 is lost, at a share of 0.1 record 108 gains nothing.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.signal_path.filtering import filter_rank
from ecg_lib.signal_path.template import Block, measure_qrs_width

_LEAST_STRETCH: Final = 8
"""Beats in a row that one stretch of the shape has at least."""
_NARROW_S: Final = 0.15
"""Widest QRS complex of a shape's average beat, by
:func:`ecg_lib.signal_path.template.measure_qrs_width`."""
_RHYTHM_BEATS: Final = 11
"""Beats around each beat whose median RR interval is the rhythm."""
_SAME_INTERVAL: Final = 0.15
"""Greatest difference of an interval to the rhythm, as a share of it."""
_MOST_OFF_TIME: Final = 0.2
"""Greatest share of beats with another interval than that of the rhythm. Only intervals to beats of
the template, or of a shape that may be conducted, count."""
_SAME_RATE: Final = 0.2
"""Greatest difference of the median interval to that of the template, as a share of it."""


class ConductedShape(NamedTuple):
    """Beats of one shape in a block that are conducted beats."""

    beat: int
    """The beat whose neighbours in shape they are."""
    members: NDArray[np.bool_]
    """Shape ``(n_beats,)``."""


def find_conducted_shapes(
    block: Block,
    *,
    is_template: NDArray[np.bool_],
    rr_prev: NDArray[np.float64],
    rr_next: NDArray[np.float64],
    windows: NDArray[np.float32],
) -> list[ConductedShape]:
    """Find the conducted shapes of a block besides that of its template.

    Parameters
    ----------
    block : Block
        Of n beats.
    is_template : ndarray of bool, shape (n,)
        True for the beats of the shape of the template.
    rr_prev, rr_next : ndarray of float64, shape (n,)
        RR intervals before and after each beat in seconds, NaN where unknown.
    windows : ndarray of float32, shape (n, n_samples)
        The beats.

    Returns
    -------
    list of ConductedShape
        They have no beat in common.

    """
    is_left = ~is_template
    if is_left.sum() < _LEAST_STRETCH:
        return []
    template_rr = _median_of_known(rr_prev[is_template])
    candidates = []
    while is_left.sum() >= _LEAST_STRETCH:
        beat = int(np.argmax(np.where(is_left, block.score, -np.inf)))
        members = (block.sameness[beat] > 0.5) & is_left
        is_left &= ~members
        if members.sum() < _LEAST_STRETCH or _measure_longest(members) < _LEAST_STRETCH:
            continue
        rr = _median_of_known(rr_prev[members])
        if (
            abs(rr - template_rr) <= _SAME_RATE * template_rr
            and _measure_average_width(block.sameness[beat] * members, windows) <= _NARROW_S
        ):
            candidates.append(ConductedShape(beat, members))
    if not candidates:
        return []
    is_known = is_template.copy()
    for shape in candidates:
        is_known |= shape.members
    after_known = np.concatenate([[False], is_known[:-1]])
    before_known = np.concatenate([is_known[1:], [False]])
    is_off_before, is_off_after = _find_off_time(rr_prev, rr_next, median_rr_s=block.median_rr_s)
    is_off_time = (is_off_before & after_known) | (is_off_after & before_known)
    is_judged = after_known | before_known
    return [
        shape
        for shape in candidates
        if float(is_off_time[shape.members & is_judged].mean()) <= _MOST_OFF_TIME
    ]


def assign_shapes(
    is_template: NDArray[np.bool_], shapes: list[ConductedShape]
) -> NDArray[np.int64]:
    """Assign each beat to the conducted shape that it is compared with.

    A conducted beat is compared with its own shape, and so is another beat when the conducted beats
    before and after it have the same shape. All others are compared with the template.

    Parameters
    ----------
    is_template : ndarray of bool, shape (n,)
        True for the beats of the shape of the template, of which there is at least one.
    shapes : list of ConductedShape

    Returns
    -------
    ndarray of int64, shape (n,)
        0 for the template, and k for the k-th of the shapes.

    """
    owner = np.where(is_template, 0, -1)
    for number, shape in enumerate(shapes, 1):
        owner[shape.members] = number
    conducted = np.flatnonzero(owner >= 0)
    place = np.searchsorted(conducted, np.arange(len(owner)))
    before = np.concatenate([[0], owner[conducted]])[place]
    after = np.concatenate([owner[conducted], [0]])[place]
    between = np.where(before == after, before, 0)
    return np.asarray(np.where(owner >= 0, owner, between))


def _find_off_time(
    rr_prev: NDArray[np.float64], rr_next: NDArray[np.float64], *, median_rr_s: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find beats whose interval before, and those whose interval after, is not the rhythm's."""
    filled = np.where(np.isfinite(rr_prev), rr_prev, median_rr_s)
    rhythm = filter_rank(filled, size=_RHYTHM_BEATS)
    # An unknown interval, NaN, is not that of the rhythm.
    before, after = (~(np.abs(rr - rhythm) <= _SAME_INTERVAL * rhythm) for rr in (rr_prev, rr_next))
    return before, after


def _median_of_known(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def _measure_average_width(weights: NDArray[np.floating], windows: NDArray[np.float32]) -> float:
    average = (weights / weights.sum()) @ windows
    return float(measure_qrs_width(average[None])[0])


def _measure_longest(is_member: NDArray[np.bool_]) -> int:
    """Measure the longest stretch of members."""
    edges = np.flatnonzero(np.diff(is_member.astype(np.int8), prepend=0, append=0))
    return int((edges[1::2] - edges[::2]).max())
