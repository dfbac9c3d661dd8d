"""Slices of the traffic: one device that differs, and many that do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ecg_lib.operations.drift.comparison import ComparisonConfig
from ecg_lib.operations.drift.observation import (
    NUMERICAL_COLUMNS,
    ObservedBeats,
    ObservedStrip,
    gather_strips,
)
from ecg_lib.operations.drift.slices import (
    SliceDrift,
    compare_slices,
    count_groups,
    find_unfamiliar,
)

QUICK = ComparisonConfig(n_draws=3, n_permutations=199)


def draw(
    rng: np.random.Generator,
    n_people: int,
    *,
    name: str = "p",
    shift: float = 0.0,
    n_strips: int = 4,
    **slices: str,
) -> list[ObservedStrip]:
    strips = []
    for number in range(n_people):
        level = rng.normal(shift, 1.0, len(NUMERICAL_COLUMNS))
        for _ in range(n_strips):
            observed = {
                column: (one + rng.normal(0, 0.5, 12)).tolist()
                for column, one in zip(NUMERICAL_COLUMNS, level, strict=True)
            }
            observed |= {"arrhythmia_type": ["N"] * 12, "rule": ["none"] * 12}
            strips.append(ObservedStrip(f"{name}{number}", 10.0, observed, slices))
    return strips


def compare(
    reference: ObservedBeats, strips: list[ObservedStrip], *, min_groups: int = 5
) -> dict[str, SliceDrift]:
    found = compare_slices(
        reference, gather_strips(strips), min_groups=min_groups, min_strips=20, config=QUICK
    )
    return {f"{one.dimension} {one.value}": one for one in found}


def reference(rng: np.random.Generator) -> ObservedBeats:
    return gather_strips(draw(rng, 22, name="r", n_strips=10))


def test_the_device_that_differs_is_found_among_others() -> None:
    rng = np.random.default_rng(0)
    known = reference(rng)
    strips = [
        *draw(rng, 20, name="a", device="H1", site="north"),
        *draw(rng, 20, name="b", device="H2", site="north"),
        *draw(rng, 8, name="c", device="H3", site="south", shift=3.0),
    ]
    found = compare(known, strips)
    assert {name for name, one in found.items() if one.is_drifted} == {"device H3", "site south"}
    device = found["device H3"]
    assert (device.n_groups, device.n_strips) == (8, 32)
    assert device.distance > 0.8
    assert device.column in NUMERICAL_COLUMNS
    assert device.column != "amplitude_mv"
    # Five slices: the least of the p-values is multiplied by five.
    assert len(found) == 5
    assert device.p_adjusted == pytest.approx(5 * device.p_value)
    assert device.p_value == pytest.approx(1 / 200)


def test_slices_of_the_same_population_are_rarely_named() -> None:
    n_named = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        known = reference(rng)
        strips = [
            strip
            for number in range(6)
            for strip in draw(rng, 6, name=f"d{number}-", device=f"H{number}")
        ]
        n_named += any(one.is_drifted for one in compare(known, strips).values())
    assert n_named <= 4  # P(more) < 0.003 at the level of 0.05


def test_a_gain_that_changed_is_not_a_slice_that_drifted() -> None:
    rng = np.random.default_rng(1)
    known = reference(rng)
    strips = draw(rng, 20, name="a", device="H1")
    other = [
        replace_observed(strip, amplitude_mv=[9.0] * 12)
        for strip in draw(rng, 20, name="b", device="H2")
    ]
    assert not any(one.is_drifted for one in compare(known, strips + other).values())


def replace_observed(strip: ObservedStrip, **columns: list[float]) -> ObservedStrip:
    return strip._replace(observed={**strip.observed, **columns})


@pytest.mark.parametrize(
    ("n_people", "n_strips", "is_compared"), [(5, 4, True), (4, 9, False), (6, 3, False)]
)
def test_a_slice_needs_groups_and_strips(
    n_people: int, n_strips: int, *, is_compared: bool
) -> None:
    rng = np.random.default_rng(0)
    known = reference(rng)
    strips = draw(rng, 10, name="a", lead="II") + draw(
        rng, n_people, name="b", n_strips=n_strips, lead="V1"
    )
    assert ("lead V1" in compare(known, strips)) is is_compared


def test_a_dimension_with_one_value_is_all_traffic_and_not_a_slice() -> None:
    rng = np.random.default_rng(0)
    known, strips = reference(rng), draw(rng, 10, lead="II")
    assert compare(known, strips) == {}
    stated_by_some = strips + draw(rng, 10, name="q")
    assert set(compare(known, stated_by_some)) == {"lead II"}


def test_values_of_no_group_in_common_are_counted() -> None:
    rng = np.random.default_rng(0)
    beats = gather_strips(
        draw(rng, 3, name="a", lead="II") + draw(rng, 2, name="b", lead="V1") + draw(rng, 1)
    )
    assert count_groups(beats) == {"lead": {"II": 3, "V1": 2}}


@pytest.mark.parametrize(
    ("min_share", "found"), [(0.3, ("lead V1 (3 of 10 groups)",)), (0.301, ())]
)
def test_a_value_is_unfamiliar_when_much_traffic_has_it(
    min_share: float, found: tuple[str, ...]
) -> None:
    groups = {"lead": {"II": 7, "V1": 3}, "device": {"H1": 10}}
    familiar = {"lead": frozenset({"II"})}
    assert find_unfamiliar(groups, familiar, n_groups=10, min_share=min_share) == found


def test_the_same_traffic_gets_the_same_slices() -> None:
    rng = np.random.default_rng(0)
    known = reference(rng)
    strips = draw(rng, 10, name="a", lead="II") + draw(rng, 10, name="b", lead="V1")
    assert compare(known, strips) == compare(known, strips)
    assert replace(QUICK, seed=1) != QUICK
