"""The limits of slices, met exactly and missed by a hair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ecg_lib.operations.drift.comparison import ComparisonConfig
from ecg_lib.operations.drift.observation import COMPARED_COLUMNS, ObservedBeats
from ecg_lib.operations.drift.slices import (
    SliceDrift,
    compare_slices,
    count_groups,
    find_unfamiliar,
)

QUICK = ComparisonConfig(n_draws=1, n_permutations=99)


def observe(
    strips: Sequence[tuple[str, str, Sequence[float]]], *, amplitude: float = 0.5
) -> ObservedBeats:
    """Strips with a group, a lead and RR intervals; beats above 1 s are called V."""
    rr = np.array([one for _, _, values in strips for one in values])
    columns: dict[str, np.ndarray] = {name: np.full(len(rr), 0.5) for name in COMPARED_COLUMNS}
    columns |= {
        "rr_prev_s": rr,
        "amplitude_mv": np.full(len(rr), amplitude),
        "arrhythmia_type": np.where(rr > 1, "V", "N"),
        "rule": np.full(len(rr), "none"),
    }
    return ObservedBeats(
        columns=columns,
        strip=np.repeat(np.arange(len(strips)), [len(values) for _, _, values in strips]),
        group=np.array([group for group, _, _ in strips]),
        strip_s=np.full(len(strips), 10.0),
        slices={"lead": np.array([lead for _, lead, _ in strips])},
    )


PLAIN = [0.5, 0.6, 0.7, 0.8]
MOVED = [0.7, 0.8, 0.9, 1.2]
REFERENCE = observe([(f"a{n}", "", PLAIN) for n in range(20)])


def traffic(n_moved: int, *, strips: int = 1, values: Sequence[float] = MOVED) -> ObservedBeats:
    """Ten groups of lead I like the reference, and some of lead V1 that moved."""
    plain = [(f"b{n}", "I", PLAIN) for n in range(10)]
    return observe(plain + [(f"c{n // strips}", "V1", values) for n in range(n_moved * strips)])


def compare(
    current: ObservedBeats, config: ComparisonConfig = QUICK, **limits: int
) -> dict[str, SliceDrift]:
    found = compare_slices(
        REFERENCE, current, config=config, **({"min_groups": 1, "min_strips": 1} | limits)
    )
    return {drift.value: drift for drift in found}


@pytest.mark.parametrize(("limit", "is_there"), [(6, True), (7, False)])
def test_a_slice_has_as_many_groups_and_strips_as_are_asked_for(
    limit: int, *, is_there: bool
) -> None:
    assert ("V1" in compare(traffic(6), min_groups=limit)) is is_there
    assert ("V1" in compare(traffic(6), min_strips=limit)) is is_there
    two = compare(traffic(3, strips=2), min_strips=limit)
    assert ("V1" in two) is is_there
    if is_there:
        assert (two["V1"].n_groups, two["V1"].n_strips) == (3, 6)


def test_a_slice_tells_the_column_that_moved_and_the_least_likely_comes_first() -> None:
    found = compare(traffic(10))
    assert list(found) == ["V1", "I"]
    moved, plain = found["V1"], found["I"]
    assert (moved.dimension, moved.column) == ("lead", "arrhythmia_type")
    assert moved.distance == pytest.approx(0.25)  # five times its limit; the RR interval 3.3 times
    assert moved.is_drifted
    assert (plain.p_value, plain.p_adjusted, plain.is_drifted) == (1.0, 1.0, False)
    assert moved.p_adjusted == pytest.approx(2 * moved.p_value)


def test_of_slices_that_are_as_unlikely_the_farthest_comes_first() -> None:
    """All beats of lead V2 became V, and a quarter of those of V1, which has more groups."""
    plain = [(f"b{n}", "I", PLAIN) for n in range(10)]
    near = [(f"c{n}", "V1", MOVED) for n in range(10)]
    far = [(f"d{n}", "V2", [1.1, 1.2, 1.3, 1.4]) for n in range(9)]
    found = compare(observe([*plain, *near, *far]))
    assert list(found) == ["V2", "V1", "I"]
    assert found["V2"].p_value == found["V1"].p_value
    assert found["V2"].distance > found["V1"].distance


def test_one_value_alone_or_a_value_that_is_not_stated_has_no_slice() -> None:
    assert compare(observe([(f"b{n}", "I", PLAIN) for n in range(10)])) == {}
    unnamed = [(f"c{n}", "", MOVED) for n in range(10)]
    assert set(compare(observe([("b0", "I", PLAIN), *unnamed]))) == {"I"}


@pytest.mark.parametrize("is_of_reference", [True, False])
def test_a_column_without_a_value_on_one_side_is_left_out(*, is_of_reference: bool) -> None:
    reference = observe([(f"a{n}", "", PLAIN) for n in range(20)])
    current = traffic(10)
    side = reference if is_of_reference else current
    side.columns["heart_rate_bpm"] = np.full(side.n_beats, np.nan)
    found = compare_slices(reference, current, min_groups=1, min_strips=1, config=QUICK)
    assert {drift.value: drift.column for drift in found}["V1"] == "arrhythmia_type"


def test_a_column_with_some_values_is_compared() -> None:
    """The first beat of each strip has no interval before it."""
    nan = float("nan")
    reference = observe([(f"a{n}", "", [nan, 0.5, 0.6, 0.7]) for n in range(20)])
    plain = [(f"b{n}", "I", [nan, 0.5, 0.6, 0.7]) for n in range(10)]
    faster = [(f"c{n}", "V1", [nan, 0.2, 0.3, 0.4]) for n in range(10)]
    found = compare_slices(
        reference, observe(plain + faster), min_groups=1, min_strips=1, config=QUICK
    )
    assert (found[0].value, found[0].column) == ("V1", "rr_prev_s")
    assert found[0].distance == pytest.approx(1.0)


def test_a_gain_that_moved_is_harmless_in_a_slice() -> None:
    louder = observe([(f"b{n}", "I" if n % 2 else "V1", PLAIN) for n in range(20)], amplitude=5.0)
    assert [drift.distance for drift in compare(louder).values()] == [0.0, 0.0]


def test_a_slice_drifts_at_its_least_distance_and_up_to_the_level() -> None:
    found = compare(traffic(10))["V1"]
    exact = replace(QUICK, min_variation_distance=found.distance, min_ks_distance=1.0)
    assert compare(traffic(10), exact)["V1"].is_drifted
    above = float(np.nextafter(found.distance, 1))
    far = replace(exact, min_variation_distance=above)
    assert not compare(traffic(10), far)["V1"].is_drifted
    level = replace(QUICK, alpha=found.p_adjusted)
    assert compare(traffic(10), level)["V1"].is_drifted
    below = replace(QUICK, alpha=float(np.nextafter(found.p_adjusted, 0)))
    assert not compare(traffic(10), below)["V1"].is_drifted


def test_the_median_of_the_draws_counts_in_a_slice() -> None:
    """With 9 exchanges each p-value is a number of tenths, and so is the median of three."""
    rng = np.random.default_rng(2)

    def draw(name: str, n: int) -> list[tuple[str, str, list[float]]]:
        leads = ("I", "V1")
        return [(f"{name}{k}", leads[k % 2], rng.normal(0.8, 0.1, 4).tolist()) for k in range(n)]

    reference, current = observe(draw("a", 8)), observe(draw("b", 16))
    p_values = [
        drift.p_value
        for seed in range(6)
        for drift in compare_slices(
            reference, current, min_groups=1, min_strips=1,
            config=ComparisonConfig(n_draws=3, n_permutations=9, seed=seed),
        )
    ]  # fmt: skip
    tenths = 10 * np.array(p_values)
    np.testing.assert_allclose(tenths, tenths.round())
    assert len(set(p_values)) > 2


@pytest.mark.parametrize(("n_values", "n_found"), [(39, 39), (40, 40), (41, 40)])
def test_the_forty_largest_slices_are_compared(n_values: int, n_found: int) -> None:
    strips = [(f"b{n}", f"lead {n}", PLAIN) for n in range(n_values)]
    found = compare(observe([*strips, ("c", f"lead {n_values - 1}", PLAIN)]))
    assert len(found) == n_found
    assert f"lead {n_values - 1}" in found  # it has two groups


def test_groups_of_each_value_are_counted() -> None:
    beats = observe([("a", "I", [0.5]), ("a", "I", [0.5]), ("b", "I", [0.5]), ("c", "", [0.5])])
    assert count_groups(beats) == {"lead": {"I": 2}}


@pytest.mark.parametrize(("count", "is_told"), [(20, True), (19, False)])
def test_a_new_value_is_told_from_its_least_share_of_the_groups_on(
    count: int, *, is_told: bool
) -> None:
    groups = {"lead": {"aVR": count, "II": 80}, "device": {"new": count}}
    familiar = {"lead": frozenset({"II"}), "device": frozenset[str]()}
    found = find_unfamiliar(groups, familiar, n_groups=100, min_share=0.2)
    assert found == ((f"lead aVR ({count} of 100 groups)",) if is_told else ())


def test_a_dimension_with_one_value_does_not_hide_the_next() -> None:
    current = traffic(10)
    slices = {"device": np.full(current.n_strips, "one")} | current.slices
    assert set(compare(replace(current, slices=slices))) == {"I", "V1"}
