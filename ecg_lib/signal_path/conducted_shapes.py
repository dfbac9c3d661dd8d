"""Find conducted beats whose shape differs from that of the template.

The conducted beats of one recording may have several shapes: with intermittent pre-excitation or
bundle branch block, or when an electrode or the body moves. Compared with the template of one of
them, all the others look like ventricular beats. What tells them from ventricular beats is the
rhythm: whole stretches of them go on with the sinus rhythm. Accelerated idioventricular rhythm does
so too, but its complexes are wide.

Constants were chosen on DS1 and the development part of svdb, out of fold: stretches of 5 to 8
beats, widths of 0.145 to 0.16 s and rates of 0.16 to 0.3 give the same V-F1 to three digits.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.signal_path.filtering import filter_rank
from ecg_lib.signal_path.template import Block

_LEAST_BEATS: Final = 8
_LEAST_STRETCH: Final = 8
"""Beats in a row that one stretch of the shape has at least."""
_NARROW_S: Final = 0.15
"""Widest QRS complex, by :func:`ecg_lib.signal_path.template.measure_qrs_width`."""
_RHYTHM_BEATS: Final = 11
"""Beats around each beat whose median RR interval is the rhythm."""
_SAME_INTERVAL: Final = 0.15
"""Greatest difference of an interval to the rhythm, as a natural logarithm."""
_LEAST_ON_TIME: Final = 0.8
"""Share of beats with the interval of the rhythm before and after them."""

_MAJORITY: Final = 1.5
"""A shape with this many times the beats of the template needs no narrow complexes, as noise and P
waves can widen what is measured. It must have the rate of the template."""
_SAME_RATE: Final = 0.2
"""Greatest difference of the median intervals, as a natural logarithm."""
_LEAST_ON_TIME_OF_MAJORITY: Final = 0.6


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
    width: NDArray[np.float64],
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
    width : ndarray of float64, shape (n,)
        QRS widths in seconds.

    Returns
    -------
    list of ConductedShape
        They have no beat in common.

    """
    is_left = ~is_template
    if is_left.sum() < _LEAST_BEATS:
        return []
    is_on_time = _find_on_time(rr_prev, rr_next, median_rr_s=block.median_rr_s)
    template_rr = _median_of_known(rr_prev[is_template])
    found = []
    while is_left.sum() >= _LEAST_BEATS:
        beat = int(np.argmax(np.where(is_left, block.score, -np.inf)))
        members = (block.sameness[beat] > 0.5) & is_left
        is_left &= ~members
        if members.sum() < _LEAST_BEATS:
            continue
        on_time = float(is_on_time[members].mean())
        has_stretch = _measure_longest(members) >= _LEAST_STRETCH
        is_narrow = float(np.median(width[members])) <= _NARROW_S
        is_majority = members.sum() >= _MAJORITY * is_template.sum()
        has_rate = abs(np.log(_median_of_known(rr_prev[members]) / template_rr)) <= _SAME_RATE
        if (has_stretch and is_narrow and on_time >= _LEAST_ON_TIME) or (
            is_majority and has_rate and on_time >= _LEAST_ON_TIME_OF_MAJORITY
        ):
            found.append(ConductedShape(beat, members))
    return found


def assign_shapes(
    is_template: NDArray[np.bool_], shapes: list[ConductedShape]
) -> NDArray[np.int64]:
    """Assign each beat to the conducted shape that it is compared with.

    A conducted beat is compared with its own shape, another one with that of the nearest conducted
    beat, the earlier of two.

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
    at = np.arange(len(owner))
    place = np.searchsorted(conducted, at)
    before = conducted[np.maximum(place - 1, 0)]
    after = conducted[np.minimum(place, len(conducted) - 1)]
    nearest = np.where(np.abs(after - at) < np.abs(at - before), after, before)
    return np.asarray(np.where(owner >= 0, owner, owner[nearest]))


def _find_on_time(
    rr_prev: NDArray[np.float64], rr_next: NDArray[np.float64], *, median_rr_s: float
) -> NDArray[np.bool_]:
    """Find beats whose intervals before and after are those of the rhythm around them."""
    filled = np.where(np.isfinite(rr_prev), rr_prev, median_rr_s)
    rhythm = filter_rank(filled, size=_RHYTHM_BEATS)
    before, after = np.log(rr_prev / rhythm), np.log(rr_next / rhythm)
    # An unknown interval, NaN, is not that of the rhythm.
    return np.asarray((np.abs(before) < _SAME_INTERVAL) & (np.abs(after) < _SAME_INTERVAL))


def _median_of_known(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def _measure_longest(is_member: NDArray[np.bool_]) -> int:
    """Measure the longest stretch of members."""
    edges = np.flatnonzero(np.diff(is_member.astype(np.int8), prepend=0, append=0))
    return int((edges[1::2] - edges[::2]).max())
