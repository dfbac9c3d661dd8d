"""Group the beats of a strip by shape, so that a reader can mark all beats of one shape at once.

All beats that have a class are grouped, conducted ones too: whether a shape is ventricular is what
the reader says. The forms of recordings are of V beats alone (:mod:`ecg_lib.rhythm.morphology`).
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.signal_path.kernels.library import run_kernel
from ecg_lib.signal_path.template import ShapeBlock

FORMS: Final = string.ascii_uppercase
"""Names of the forms, by index."""

NO_FORM: Final = -1

_LEAST_SAMENESS: Final = 0.5
"""Half way between the same and another shape, as the template compares them."""


def group_beats(shapes: Iterable[ShapeBlock], *, has_class: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Find the form of each beat.

    The beat that is like most beats without a form starts a form of these, until none is like
    another. In signals of several blocks, beats are first compared with the forms of the block
    before, of which each block holds some beats.

    Parameters
    ----------
    shapes : iterable of ShapeBlock
        See :class:`ecg_lib.signal_path.features.BeatFeatures`, in time order.
    has_class : ndarray of bool, shape (n_beats,)
        Beats that are grouped.

    Returns
    -------
    ndarray of int64, shape (n_beats,)
        0 for the most frequent form and upwards, :data:`NO_FORM` for a beat without one.

    """
    form = np.full(len(has_class), NO_FORM, dtype=np.int64)
    n_forms = 0
    for rows, columns, sameness in shapes:
        _join_known(form, rows, columns, sameness, has_class)
        n_forms = run_kernel(
            "group_shapes",
            sameness,
            *sameness.shape,
            rows.start - columns.start,
            _LEAST_SAMENESS,
            n_forms,
            has_class[rows] & (form[rows] == NO_FORM),
            form[rows],
        )
    return _number_by_size(form, n_forms)


def _join_known(
    form: NDArray[np.int64],
    rows: slice,
    columns: slice,
    sameness: NDArray[np.float32],
    has_class: NDArray[np.bool_],
) -> None:
    """Give beats of a block the form of earlier blocks that they are like."""
    of_columns = form[columns]
    formed = of_columns[of_columns != NO_FORM]
    if len(formed) == 0:
        return
    known = np.unique(formed)
    fit = np.stack([sameness[:, of_columns == one].mean(axis=1) for one in known], axis=1)
    is_due = has_class[rows] & (form[rows] == NO_FORM) & (fit.max(axis=1) >= _LEAST_SAMENESS)
    form[is_due.nonzero()[0] + rows.start] = known[fit.argmax(axis=1)][is_due]


def _number_by_size(form: NDArray[np.int64], n_forms: int) -> NDArray[np.int64]:
    """Number the forms by their beats, the most frequent first; there are as many as letters."""
    sizes = np.bincount(form[form != NO_FORM], minlength=n_forms)
    number = np.full(n_forms + 1, NO_FORM)  # the last is that of beats without one
    for index, one in enumerate(np.argsort(-sizes, kind="stable")[: len(FORMS)].tolist()):
        number[one] = index
    return number[form]


def name_forms(form: NDArray[np.int64]) -> list[str | None]:
    """Name the form of each beat by a letter.

    >>> name_forms(np.array([0, -1, 1]))
    ['A', None, 'B']
    """
    return [None if one == NO_FORM else FORMS[one] for one in form.tolist()]
