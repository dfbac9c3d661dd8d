"""Group V beats into forms by the shape of their QRS complex.

Beats of one focus look alike. A form counts if enough beats have it: single beats that look like
no other are more often artefacts or fusion beats than foci.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.filtering import unit_rows

SHAPE_BEFORE_S: Final = 0.16
SHAPE_AFTER_S: Final = 0.24
"""Part of a beat that is compared, around its R-peak: a wide QRS complex with its ST segment."""

OTHER: Final = -1
"""Label of beats without a form that counts."""

_SHIFTS: Final = (0, -4, 4, -8, 8, -12, 12)
_MARGIN: Final = 12
_SURVEYED: Final = 2000
_PAIRED: Final = 600
_MOST_FORMS: Final = 12
_MOST_TRIES: Final = 40
_FOUNDERS: Final = 3
"""Least number of beats to start a form; whether it counts is decided when all are assigned."""
_ASSIGNED_AT_ONCE: Final = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class MorphologyConfig:
    """Limits of the grouping; chosen on simulated patients and DS1."""

    same_form: float = 0.85
    """Least correlation of two beats of one form."""
    one_form: float = 0.90
    """Least correlation at which two forms are joined."""
    min_beats: int = 5
    min_share: float = 0.02
    """A form counts if it has this many beats and this share of the V beats."""


class Morphologies(NamedTuple):
    """Forms of V beats, the most frequent first."""

    labels: NDArray[np.int64]
    """Form of each beat, 0 upwards, or :data:`OTHER`."""
    examples: NDArray[np.int64]
    """Index of the beat that is most similar to each form."""

    @property
    def n_forms(self) -> int:
        """Number of forms that count."""
        return len(self.examples)


def cut_shapes(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut the compared part out of beat windows, shape ``(n_beats, n_samples)``, centred on R."""
    centre = windows.shape[1] // 2
    first = centre - round(SHAPE_BEFORE_S * FS_HZ)
    return windows[:, first : centre + round(SHAPE_AFTER_S * FS_HZ)]


def group_shapes(
    shapes: NDArray[np.float32], *, config: MorphologyConfig | None = None
) -> Morphologies:
    """Group beats of one recording by shape.

    The beat that resembles most beats without a form starts a form, until none is left; similar
    forms are joined. Gain does not matter, polarity does. With more than 2000 beats, evenly spaced
    ones define the forms and all beats are assigned to them.

    Parameters
    ----------
    shapes : ndarray of float32, shape (n_beats, n_samples)
        From :func:`cut_shapes`, in time order.
    config : MorphologyConfig, optional

    """
    config = config or MorphologyConfig()
    none_found = Morphologies(np.full(len(shapes), OTHER), np.zeros(0, dtype=np.int64))
    if len(shapes) < config.min_beats:
        return none_found
    step = -(-len(shapes) // _SURVEYED)
    forms = _join_alike(_found_forms(shapes[::step], config), config)
    if len(forms) == 0:
        return none_found
    fit = np.concatenate(
        [
            _fit(shapes[start : start + _ASSIGNED_AT_ONCE], forms)
            for start in range(0, len(shapes), _ASSIGNED_AT_ONCE)
        ]
    )  # (n_beats, n_forms)
    best = fit.argmax(axis=1)
    best[fit.max(axis=1) < config.same_form - 0.1] = OTHER
    sizes = np.bincount(best[best >= 0], minlength=len(forms))
    needed = max(config.min_beats, config.min_share * len(shapes))
    kept = [form for form in np.argsort(-sizes, kind="stable").tolist() if sizes[form] >= needed]
    labels = np.full(len(shapes), OTHER)
    for label, form in enumerate(kept):
        labels[best == form] = label
    examples = [int(np.where(best == form, fit[:, form], -2.0).argmax()) for form in kept]
    return Morphologies(labels, np.array(examples, dtype=np.int64))


def _found_forms(shapes: NDArray[np.float32], config: MorphologyConfig) -> NDArray[np.float32]:
    left = shapes
    forms: list[NDArray[np.float32]] = []
    for _ in range(_MOST_TRIES):
        if len(left) < _FOUNDERS or len(forms) == _MOST_FORMS:
            break
        step = -(-len(left) // _PAIRED)
        sample = _core(left[::step])
        alike = unit_rows(sample) @ unit_rows(sample).T >= config.same_form
        founder = int(alike.sum(axis=1).argmax())
        if not alike[founder].any():
            break  # flat beats do not correlate even with themselves
        form = sample[alike[founder]].mean(axis=0)
        for _ in range(2):
            is_member = _fit(left, form[None])[:, 0] >= config.same_form
            if not is_member.any():
                break
            form = _align(left[is_member], form).mean(axis=0)
        if is_member.sum() >= _FOUNDERS:
            forms.append(form)
        is_member[founder * step] = True  # otherwise it would start the same form again
        left = left[~is_member]
    return np.array(forms, dtype=np.float32)


def _join_alike(forms: NDArray[np.float32], config: MorphologyConfig) -> NDArray[np.float32]:
    """Keep each form that differs from the earlier (larger) ones."""
    kept: list[NDArray[np.float32]] = []
    for form in forms:
        padded = np.pad(form, _MARGIN, mode="edge")[None]
        if not kept or _fit(padded, np.array(kept)).max() < config.one_form:
            kept.append(form)
    return np.array(kept, dtype=np.float32)


def _core(shapes: NDArray[np.float32], shift: int = 0) -> NDArray[np.float32]:
    return shapes[:, _MARGIN + shift : shapes.shape[1] - _MARGIN + shift]


def _fit(shapes: NDArray[np.float32], forms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Correlate each beat with each form at the best shift, shape ``(n_beats, n_forms)``."""
    targets = unit_rows(forms).T
    return np.asarray(
        np.max([unit_rows(_core(shapes, shift)) @ targets for shift in _SHIFTS], axis=0)
    )


def _align(shapes: NDArray[np.float32], form: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shift each beat to where it fits a form best."""
    target = unit_rows(form[None])[0]
    fits = np.stack([unit_rows(_core(shapes, shift)) @ target for shift in _SHIFTS], axis=1)
    start = _MARGIN + np.array(_SHIFTS)[fits.argmax(axis=1)]
    columns = start[:, None] + np.arange(shapes.shape[1] - 2 * _MARGIN)
    return np.asarray(np.take_along_axis(shapes, columns, axis=1))
