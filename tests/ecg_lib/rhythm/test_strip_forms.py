"""Forms of the beats of a strip: by hand-made sameness, and of simulated patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.rhythm.strip_forms import FORMS, group_beats, name_forms
from ecg_lib.signal_path.preprocessing import prepare_beats
from ecg_lib.signal_path.template import ShapeBlock


def _block(kinds: str, *, rows: slice | None = None, columns: slice | None = None) -> ShapeBlock:
    """Beats of one letter are of one shape."""
    every = np.array(list(kinds))
    rows, columns = rows or slice(0, len(kinds)), columns or slice(0, len(kinds))
    alike = every[rows][:, None] == every[columns][None, :]
    return ShapeBlock(rows, columns, np.where(alike, 0.9, 0.1).astype(np.float32))


def _group(kinds: str, *, without_class: Sequence[int] = ()) -> str:
    has_class = np.ones(len(kinds), dtype=np.bool_)
    has_class[list(without_class)] = False
    return _letters(group_beats([_block(kinds)], has_class=has_class))


def _letters(form: NDArray[np.int64]) -> str:
    return "".join(name or "-" for name in name_forms(form))


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("nnnn", "AAAA"),
        ("vnvnn", "BABAA"),
        ("nvn", "A-A"),  # a beat that looks like no other
        ("nvw", "---"),
        ("n", "-"),
        ("", ""),
        ("vvnn", "AABB"),  # as many of both: the first seen
    ],
)
def test_beats_of_one_shape_have_one_letter_and_the_most_frequent_is_a(
    kinds: str, expected: str
) -> None:
    assert _group(kinds) == expected


def test_beats_without_a_class_are_in_no_form() -> None:
    assert _group("nvnvnv", without_class=[1]) == "A-ABAB"
    assert _group("nvnv", without_class=[1]) == "A-A-"


@pytest.mark.parametrize(("sameness", "expected"), [(0.5, "AA"), (0.499, "--")])
def test_half_the_sameness_makes_one_form(sameness: float, expected: str) -> None:
    pair = np.array([[1.0, sameness], [sameness, 1.0]], dtype=np.float32)
    block = ShapeBlock(slice(0, 2), slice(0, 2), pair)
    assert _letters(group_beats([block], has_class=np.ones(2, dtype=np.bool_))) == expected


def test_a_form_goes_on_in_the_next_block_and_a_new_one_has_a_letter_of_its_own() -> None:
    kinds = "nvnvnnww"
    blocks = [
        _block(kinds, rows=slice(0, 4), columns=slice(0, 5)),
        _block(kinds, rows=slice(4, 8), columns=slice(2, 8)),
    ]
    form = group_beats(blocks, has_class=np.ones(8, dtype=np.bool_))
    assert _letters(form) == "ABABAACC"


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(0, 40), offset=st.integers(0, 5))
def test_forms_are_those_of_numpy(seed: int, n: int, offset: int) -> None:
    rng = np.random.default_rng(seed)
    sameness = rng.random((n, n + offset)).astype(np.float32)
    has_class = rng.random(n) < 0.8
    block = ShapeBlock(slice(offset, offset + n), slice(0, offset + n), sameness)
    form = group_beats([block], has_class=np.append(np.zeros(offset, dtype=np.bool_), has_class))
    waiting, members = np.flatnonzero(has_class), []
    while len(waiting):
        alike = sameness[waiting][:, waiting + offset] >= 0.5
        of_one = alike[alike.sum(axis=1).argmax()]
        if of_one.sum() < 2:
            break
        members.append(waiting[of_one] + offset)
        waiting = waiting[~of_one]
    members.sort(key=len, reverse=True)
    expected = np.full(offset + n, -1)
    for number, of_form in enumerate(members[: len(FORMS)]):
        expected[of_form] = number
    np.testing.assert_array_equal(form, expected)


def test_there_are_no_more_forms_than_letters() -> None:
    kinds = "".join(2 * chr(200 + number) for number in range(27)) + chr(200)
    form = group_beats([_block(kinds)], has_class=np.ones(len(kinds), dtype=np.bool_))
    assert sorted(set(name_forms(form)) - {None}) == list(FORMS)
    assert (form == -1).sum() == 2


@pytest.mark.parametrize("seed", range(4))
def test_ventricular_and_conducted_beats_of_a_simulated_strip_have_different_forms(
    seed: int,
) -> None:
    record = simulate_strip(StripKind.BIGEMINY, seed=seed, fs=360.0)
    beats = prepare_beats(record.signal_mv(), fs=360.0)
    form = group_beats(beats.shapes, has_class=beats.is_readable)
    assert record.annotations is not None
    nearest = np.abs(record.annotations.beat_samples[None] - beats.r_peaks[:, None]).argmin(axis=1)
    is_v = np.asarray(record.annotations.beat_classes)[nearest] == "V"
    of_v, of_n = set(form[is_v].tolist()), set(form[~is_v].tolist())
    assert not (of_v & of_n) - {-1}
    assert (form >= 0).mean() > 0.7
