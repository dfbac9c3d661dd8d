"""The limits of the comparison, met exactly and missed by a hair, and its figures by value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ecg_lib.operations.drift.comparison import (
    ColumnDrift,
    Comparison,
    ComparisonConfig,
    compare_beats,
    match_lengths,
)
from ecg_lib.operations.drift.observation import COMPARED_COLUMNS, ObservedBeats

QUICK = ComparisonConfig(n_draws=1, n_permutations=99)


def observe(
    groups: dict[str, Sequence[float]],
    *,
    rule: str = "none",
    strip_s: float = 10.0,
) -> ObservedBeats:
    """One strip for each group; beats above 1 s are called V, other columns are alike."""
    rr = np.array([one for values in groups.values() for one in values])
    columns: dict[str, np.ndarray] = {name: np.full(len(rr), 0.5) for name in COMPARED_COLUMNS}
    columns |= {
        "rr_prev_s": rr,
        "arrhythmia_type": np.where(rr > 1, "V", "N"),
        "rule": np.full(len(rr), rule),
    }
    return ObservedBeats(
        columns=columns,
        strip=np.repeat(np.arange(len(groups)), [len(values) for values in groups.values()]),
        group=np.array(list(groups)),
        strip_s=np.full(len(groups), strip_s),
    )


def find(
    reference: ObservedBeats, traffic: ObservedBeats, config: ComparisonConfig, name: str
) -> ColumnDrift:
    found = compare_beats(reference, traffic, config=config)
    return next(drift for drift in found.columns if drift.column == name)


REFERENCE = observe({f"a{n}": [0.5, 0.6, 0.7, 0.8] for n in range(20)})
MOVED = observe({f"b{n}": [0.7, 0.8, 0.9, 1.2] for n in range(20)})


def test_a_column_drifts_at_its_least_distance_and_not_below_it() -> None:
    distance = find(REFERENCE, MOVED, QUICK, "rr_prev_s").distance
    assert distance == pytest.approx(0.5)
    exact = replace(QUICK, alpha=0.5, min_ks_distance=distance)
    assert find(REFERENCE, MOVED, exact, "rr_prev_s").is_drifted
    above = replace(exact, min_ks_distance=float(np.nextafter(distance, 1)))
    assert not find(REFERENCE, MOVED, above, "rr_prev_s").is_drifted


def test_a_column_drifts_up_to_the_level_and_not_above_it() -> None:
    p_adjusted = find(REFERENCE, MOVED, QUICK, "rr_prev_s").p_adjusted
    assert p_adjusted == pytest.approx(0.1)
    assert find(REFERENCE, MOVED, replace(QUICK, alpha=p_adjusted), "rr_prev_s").is_drifted
    below = replace(QUICK, alpha=float(np.nextafter(p_adjusted, 0)))
    assert not find(REFERENCE, MOVED, below, "rr_prev_s").is_drifted


def test_the_least_distance_that_mattered_is_told() -> None:
    found = compare_beats(REFERENCE, MOVED, config=QUICK)
    least = {drift.column: drift.least for drift in found.columns}
    assert least["rr_prev_s"] == 0.15
    assert least["arrhythmia_type"] == least["rule"] == 0.05


def test_a_drift_of_earlier_code_has_no_least_distance() -> None:
    drift = ColumnDrift(
        column="rule", distance=0.1, p_value=1.0, p_adjusted=1.0, is_drifted=False,
        reference="", current="",
    )  # fmt: skip
    assert drift.least == 0.0
    assert drift.effect is None


def test_columns_that_drifted_are_those_named_that_drifted() -> None:
    drift = ColumnDrift(
        column="rule", distance=0.1, p_value=1.0, p_adjusted=1.0, is_drifted=True,
        reference="", current="",
    )  # fmt: skip
    still = replace(drift, column="rr_prev_s", is_drifted=False)
    found = Comparison(
        columns=(drift, still), n_strips=1, n_beats=1, n_groups=1, n_reference_groups=1,
        left_out=(),
    )  # fmt: skip
    assert found.drifted(["rule", "rr_prev_s"]) == ("rule",)
    assert found.drifted(["rr_prev_s", "amplitude_mv"]) == ()


def test_the_median_of_the_draws_counts() -> None:
    """With 9 exchanges each p-value is a number of tenths, and so is the median of three."""
    rng = np.random.default_rng(3)
    reference, traffic = (
        observe({f"{side}{n}": rng.normal(0.8, 0.1, 4).tolist() for n in range(8)}) for side in "ab"
    )
    p_values = [
        find(reference, traffic, ComparisonConfig(n_draws=3, n_permutations=9, seed=seed),
             "rr_prev_s").p_value
        for seed in range(8)
    ]  # fmt: skip
    tenths = 10 * np.array(p_values)
    np.testing.assert_allclose(tenths, tenths.round())
    assert len(set(p_values)) > 1


def test_a_strip_is_matched_with_the_nearest_length_of_the_reference() -> None:
    reference = observe({f"a{n}": [0.5] for n in range(3)})
    reference = replace(reference, strip_s=np.array([10.0, 12.0, 60.0]))
    traffic = observe({f"b{n}": [0.5] for n in range(3)})
    traffic = replace(traffic, strip_s=np.array([13.0, 50.0, 9.0]))
    matched = match_lengths(reference, traffic, max_ratio=1.5)
    assert matched.length.tolist() == [12.0, 60.0, 10.0]
    assert matched.left_out == ()
    far = match_lengths(reference, replace(traffic, strip_s=np.array([13.0, 30.0, 9.0])),
                        max_ratio=1.5)  # fmt: skip
    assert far.length.tolist() == [12.0, 10.0]
    assert far.reference.strip_s.tolist() == [10.0, 12.0]
    assert far.current.strip_s.tolist() == [13.0, 9.0]
    assert far.left_out == ("1 strips of 30 to 30 s: the reference has no strips of such a length",)


def test_quartiles_are_told_to_three_digits() -> None:
    reference = observe({"a": np.linspace(0, 1, 101).tolist()})
    drift = find(reference, reference, QUICK, "rr_prev_s")
    assert drift.reference == drift.current == "0.5 (0.25 to 0.75)"


def test_the_effect_is_the_shift_of_the_median_group_in_interquartile_ranges() -> None:
    reference = observe({"a": [0.0, 0.1, 0.2], "b": [0.2, 0.3, 0.4], "c": [0.6, 0.9, 1.0]})
    traffic = observe({"d": [0.5, 0.5, 2.0], "e": [0.6, 0.6, 0.0], "f": [0.9, 0.9, 3.0]})
    # Medians of groups: 0.1, 0.3, 0.9 and 0.5, 0.6, 0.9; quartiles of all beats 0.2 and 0.6.
    assert find(reference, traffic, QUICK, "rr_prev_s").effect == pytest.approx(0.3 / 0.4)
    assert find(traffic, reference, QUICK, "rr_prev_s").effect == pytest.approx(-0.3 / 0.4)


def test_the_spread_of_an_effect_is_that_between_the_quartiles() -> None:
    reference = observe({"a": np.linspace(0, 1, 101).tolist()})
    traffic = observe({"b": [1.25]})
    assert find(reference, traffic, QUICK, "rr_prev_s").effect == pytest.approx(1.5)


def test_without_a_spread_there_is_no_effect() -> None:
    assert find(observe({"a": [0.5, 0.5]}), MOVED, QUICK, "rr_prev_s").effect is None


def test_a_missing_value_does_not_count_in_the_effect() -> None:
    nan = float("nan")
    reference = observe({"a": [0.0, 0.5, 1.0]})
    traffic = observe({"b": [nan, 0.75, nan], "c": [nan, nan]})
    assert find(reference, traffic, QUICK, "rr_prev_s").effect == pytest.approx(0.5)


def test_the_effect_on_categories_is_the_greatest_change_and_groups_weigh_alike() -> None:
    reference = observe({"a": [0.5] * 4, "b": [0.5, 1.5]})  # 0 and a half are V: a quarter
    traffic = observe({"c": [1.5], "d": [0.5] * 7 + [1.5]})  # all and an eighth
    effect = find(reference, traffic, QUICK, "arrhythmia_type").effect
    assert abs(effect or 0.0) == pytest.approx(0.5625 - 0.25)


def test_the_effect_on_categories_has_the_sign_of_the_change() -> None:
    plain, fired = observe({"a": [0.5] * 4}), observe({"b": [0.5] * 4}, rule="escape")
    mixed = replace(plain, columns=plain.columns | {"rule": np.array(["x", "y", "none", "none"])})
    # The share of `none` falls from 1 to 0.5, those of x and y rise from 0 to 0.25.
    assert find(plain, mixed, QUICK, "rule").effect == pytest.approx(-0.5)
    assert find(mixed, plain, QUICK, "rule").effect == pytest.approx(0.5)
    assert abs(find(plain, fired, QUICK, "rule").effect or 0.0) == pytest.approx(1.0)
    # A category of one side alone: `escape` comes from nothing, or goes altogether.
    both = replace(plain, columns=plain.columns | {"rule": np.array(["x", "y", "x", "y"])})
    assert find(both, fired, QUICK, "rule").effect == pytest.approx(1.0)
    assert find(fired, both, QUICK, "rule").effect == pytest.approx(-1.0)


def test_the_default_config_is_used_when_none_is_given() -> None:
    reference, traffic = observe({"a": [0.5, 0.6]}), observe({"b": [0.5, 0.6]})
    assert compare_beats(reference, traffic) == compare_beats(
        reference, traffic, config=ComparisonConfig(n_draws=10, n_permutations=999, seed=0)
    )


def test_the_draws_depend_on_the_seed_that_is_zero_when_left_out() -> None:
    rng = np.random.default_rng(5)
    reference, traffic = (
        observe({f"{side}{n}": rng.normal(0.8, 0.1, 4).tolist() for n in range(8)}) for side in "ab"
    )
    config = ComparisonConfig(n_draws=2, n_permutations=99)
    found = [
        find(reference, traffic, replace(config, seed=seed), "rr_prev_s").p_value
        for seed in range(6)
    ]
    assert find(reference, traffic, config, "rr_prev_s").p_value == found[0]
    assert len(set(found)) > 1
