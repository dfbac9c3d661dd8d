"""Traffic against reference: a simulated population whose drift is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.drift.comparison import (
    Comparison,
    ComparisonConfig,
    compare_beats,
    match_lengths,
)
from ecg_lib.operations.drift.observation import (
    COMPARED_COLUMNS,
    DERIVED_COLUMNS,
    INPUT_COLUMNS,
    OBSERVED_COLUMNS,
    OUTPUT_COLUMNS,
    ObservedBeats,
    ObservedStrip,
    gather_strips,
    read_reference,
)
from ecg_lib.operations.drift.permutation import StripCounts, adjust_p_values, deal_strips

QUICK = ComparisonConfig(n_draws=10, n_permutations=299)
BEATS = 12


def draw_population(
    rng: np.random.Generator, n_strips: list[int], *, shift: float = 0.0, v_shift: float = 0.0
) -> ObservedBeats:
    """Patients differ more from each other than the strips of one, as in life."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in OBSERVED_COLUMNS}
    measured = [name for name in INPUT_COLUMNS if name not in DERIVED_COLUMNS]
    for count in n_strips:
        patient = rng.normal(shift, 1.0, len(measured))
        v_share = rng.beta(0.3, 3)
        for strip in patient + rng.normal(0, 0.5, (count, len(measured))):
            for name, level in zip(measured, strip, strict=True):
                columns[name].append(level + rng.normal(0, 1, BEATS))
            probability = np.clip(rng.normal(v_share + v_shift, 0.1, BEATS), 0, 1)
            columns["probability_v"].append(probability)
            columns["arrhythmia_type"].append(np.where(rng.random(BEATS) < probability, "V", "N"))
            columns["rule"].append(np.full(BEATS, "none"))
    total = sum(n_strips)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return ObservedBeats(
        columns=joined | {"rr_irregularity": joined["rr_prev_s"]},
        strip=np.repeat(np.arange(total), BEATS),
        group=np.repeat([f"patient {i}" for i in range(len(n_strips))], n_strips),
        strip_s=np.full(total, 10.0),
    )


def replay(
    beats: ObservedBeats, n_strips: int, rng: np.random.Generator, *, is_named: bool
) -> ObservedBeats:
    """Send strips of the reference again, with their patients or without."""
    chosen = np.zeros(beats.n_strips, dtype=np.bool_)
    chosen[rng.permutation(beats.n_strips)[:n_strips]] = True
    traffic = beats.select(chosen)
    if is_named:
        return traffic
    return replace(traffic, group=np.array([f"prediction {i}" for i in range(traffic.n_strips)]))


def count_alarms(comparisons: list[Comparison]) -> int:
    return sum(bool(found.drifted(COMPARED_COLUMNS)) for found in comparisons)


@pytest.mark.parametrize("is_named", [True, False])
def test_replayed_reference_does_not_count_as_drift(*, is_named: bool) -> None:
    alarms = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        reference = draw_population(rng, [30] * 22)
        traffic = replay(reference, 150, rng, is_named=is_named)
        alarms.append(compare_beats(reference, traffic, config=replace(QUICK, seed=seed)))
    assert count_alarms(alarms) == 0


@pytest.mark.parametrize("n_strips", [[1] * 80, [20] * 12, [1] * 30 + [40] * 5])
def test_new_patients_of_the_same_population_are_rarely_drift(n_strips: list[int]) -> None:
    # No least distance: what is tested is the level of the test, 0.05 for any column at all.
    level = replace(QUICK, min_ks_distance=0.0, min_variation_distance=0.0)
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        reference, traffic = draw_population(rng, [30] * 22), draw_population(rng, n_strips)
        found.append(compare_beats(reference, traffic, config=replace(level, seed=seed)))
    assert count_alarms(found) <= 5  # P(more) < 0.02 at the level


def test_a_shift_of_all_patients_is_found() -> None:
    rng = np.random.default_rng(0)
    reference = draw_population(rng, [30] * 22)
    found = compare_beats(reference, draw_population(rng, [1] * 100, shift=1.5), config=QUICK)
    assert found.drifted(INPUT_COLUMNS) == INPUT_COLUMNS
    assert found.drifted(OUTPUT_COLUMNS) == ()


def test_more_pvcs_are_found_in_the_output() -> None:
    rng = np.random.default_rng(0)
    reference = draw_population(rng, [30] * 22)
    found = compare_beats(reference, draw_population(rng, [1] * 100, v_shift=0.5), config=QUICK)
    assert found.drifted(COMPARED_COLUMNS) == ("probability_v", "arrhythmia_type")


def test_one_unusual_patient_does_not_count_as_drift_however_many_strips_come() -> None:
    rng = np.random.default_rng(0)
    reference = draw_population(rng, [30] * 22)
    found = compare_beats(reference, draw_population(rng, [200], shift=3.0), config=QUICK)
    assert max(drift.distance for drift in found.columns) > 0.7
    assert found.drifted(COMPARED_COLUMNS) == ()


def test_a_shift_too_small_to_matter_does_not_count_as_drift_however_certain() -> None:
    rng = np.random.default_rng(0)
    reference = draw_population(rng, [1] * 1000)
    traffic = draw_population(rng, [1] * 1000, shift=0.2)
    found = compare_beats(reference, traffic, config=QUICK)
    certain = [drift for drift in found.columns if drift.p_adjusted < 0.05]
    assert len(certain) >= 4
    assert not any(drift.is_drifted for drift in certain)


def test_distances_are_those_of_the_definition() -> None:
    def strip(group: str, rr: list[float], kind: list[str]) -> ObservedStrip:
        n = len(rr)
        observed = {name: [0.5] * n for name in COMPARED_COLUMNS} | {
            "rr_prev_s": rr, "arrhythmia_type": kind, "rule": ["none"] * n,
        }  # fmt: skip
        return ObservedStrip(group, 10.0, observed)

    reference = gather_strips([strip("a", [1, 2], ["N", "N"]), strip("b", [3, 4], ["N", "V"])])
    traffic = gather_strips([strip("c", [3, 3, 5, 5], ["V", "V", "V", "N"])])
    found = {d.column: d for d in compare_beats(reference, traffic, config=QUICK).columns}
    assert found["rr_prev_s"].distance == pytest.approx(0.5)
    assert found["arrhythmia_type"].distance == pytest.approx(0.5)
    assert found["qrs_width_ms"].distance == 0
    assert found["arrhythmia_type"].reference == "N 75.0%, V 25.0%"


def test_groups_weigh_alike_however_many_strips_they_have() -> None:
    rng = np.random.default_rng(0)
    reference = draw_population(rng, [30] * 22)
    few, many = draw_population(rng, [1] * 30), draw_population(rng, [300], shift=3.0)
    both = ObservedBeats(
        columns={n: np.concatenate([few.columns[n], many.columns[n]]) for n in COMPARED_COLUMNS},
        strip=np.concatenate([few.strip, many.strip + few.n_strips]),
        group=np.concatenate([few.group, np.full(many.n_strips, "loud")]),
        strip_s=np.concatenate([few.strip_s, many.strip_s]),
    )
    assert compare_beats(reference, both, config=QUICK).drifted(COMPARED_COLUMNS) == ()


def test_the_same_traffic_gets_the_same_answer() -> None:
    rng = np.random.default_rng(0)
    reference, traffic = draw_population(rng, [5] * 10), draw_population(rng, [1] * 30)
    first = compare_beats(reference, traffic, config=QUICK)
    assert first == compare_beats(reference, traffic, config=QUICK)


def test_strips_are_compared_with_strips_of_their_length() -> None:
    rng = np.random.default_rng(0)
    short = draw_population(rng, [10] * 10)
    longer = draw_population(rng, [10] * 10, shift=5.0)
    reference = ObservedBeats(
        columns={
            n: np.concatenate([short.columns[n], longer.columns[n]]) for n in COMPARED_COLUMNS
        },
        strip=np.concatenate([short.strip, longer.strip + short.n_strips]),
        group=np.concatenate([short.group, longer.group]),
        strip_s=np.concatenate([short.strip_s, np.full(longer.n_strips, 60.0)]),
    )
    traffic = replace(draw_population(rng, [1] * 40), strip_s=np.full(40, 11.0))
    assert compare_beats(reference, traffic, config=QUICK).drifted(COMPARED_COLUMNS) == ()
    traffic = replace(traffic, strip_s=np.full(40, 60.0))
    assert compare_beats(reference, traffic, config=QUICK).drifted(INPUT_COLUMNS) == INPUT_COLUMNS


def test_strips_of_other_lengths_are_left_out_and_named() -> None:
    rng = np.random.default_rng(0)
    reference, traffic = draw_population(rng, [5] * 10), draw_population(rng, [1] * 30)
    traffic.strip_s[:4] = [30.0, 60.0, 300.0, 30.0]
    found = compare_beats(reference, traffic, config=QUICK)
    assert found.n_strips == 26
    assert found.left_out == (
        "4 strips of 30 to 300 s: the reference has no strips of such a length",
    )


def test_columns_without_a_value_are_left_out_and_named() -> None:
    rng = np.random.default_rng(0)
    reference, traffic = draw_population(rng, [5] * 10), draw_population(rng, [1] * 30)
    traffic.columns["heart_rate_bpm"][:] = np.nan
    found = compare_beats(reference, traffic, config=QUICK)
    assert [drift.column for drift in found.columns] == [
        name for name in COMPARED_COLUMNS if name != "heart_rate_bpm"
    ]
    assert found.left_out == ("heart_rate_bpm: no value in the traffic",)


def test_groups_without_a_value_have_no_voice_in_that_column() -> None:
    rng = np.random.default_rng(0)
    reference, traffic = draw_population(rng, [5] * 10), draw_population(rng, [1] * 30)
    before = {d.column: d for d in compare_beats(reference, traffic, config=QUICK).columns}
    traffic.columns["amplitude_mv"][: 10 * BEATS] = np.nan
    after = {d.column: d for d in compare_beats(reference, traffic, config=QUICK).columns}
    rest = traffic.select(np.arange(30) >= 10)
    alone = {d.column: d for d in compare_beats(reference, rest, config=QUICK).columns}
    assert after["amplitude_mv"].distance == pytest.approx(alone["amplitude_mv"].distance)
    assert after["rr_prev_s"].distance == pytest.approx(before["rr_prev_s"].distance)


def test_no_traffic_has_no_columns() -> None:
    reference = draw_population(np.random.default_rng(0), [5] * 10)
    found = compare_beats(reference, gather_strips([]), config=QUICK)
    assert (found.columns, found.n_strips, found.n_groups) == ((), 0, 0)


def test_an_empty_reference_is_refused() -> None:
    traffic = draw_population(np.random.default_rng(0), [1] * 5)
    with pytest.raises(ValueError, match="reference must have at least one strip"):
        match_lengths(gather_strips([]), traffic, max_ratio=1.5)


def test_strips_without_a_readable_beat_are_left_out() -> None:
    empty = ObservedStrip("a", 10.0, {name: [] for name in COMPARED_COLUMNS})
    assert gather_strips([empty]).n_strips == 0


def test_missing_numbers_of_the_log_become_nan() -> None:
    observed = {name: [1.0, 1.0] for name in COMPARED_COLUMNS} | {"rr_prev_s": [None, 0.8]}
    beats = gather_strips([ObservedStrip("a", 10.0, observed)])
    assert np.isnan(beats.columns["rr_prev_s"][0])
    assert beats.columns["rr_prev_s"][1] == 0.8


def test_the_reference_of_a_bundle_has_its_subjects_as_groups(toy_bundle: Bundle) -> None:
    table = toy_bundle.read_drift_reference()
    beats = read_reference(table)
    assert beats.n_groups == len(set(table["subject"].to_pylist()))
    assert beats.n_beats == table.num_rows
    assert set(beats.strip_s) == {10.0}


def test_strips_of_one_name_and_two_lengths_are_two_strips() -> None:
    keys = {"subject": ["a", "a"], "strip": ["a:0", "a:0"], "strip_s": [10.0, 60.0]}
    values = {name: ["x", "x"] if name == "rule" else [1.0, 1.0] for name in COMPARED_COLUMNS}
    assert read_reference(pa.table(keys | values)).n_strips == 2


def test_p_values_are_corrected_as_holm_did() -> None:
    # The figures are those of p.adjust of R.
    p_values = np.array([0.01, 0.02, 0.03, 0.04, 0.05])
    assert adjust_p_values(p_values).tolist() == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])


def test_the_usual_limits_are_those_chosen_on_ds1() -> None:
    assert ComparisonConfig() == ComparisonConfig(
        alpha=0.05,
        min_ks_distance=0.15,
        min_variation_distance=0.05,
        max_length_ratio=1.5,
        n_draws=10,
        n_permutations=999,
        seed=0,
    )


@pytest.mark.parametrize(
    ("length_s", "is_kept"), [(15.0, True), (15.01, False), (10 / 1.5, True), (6.66, False)]
)
def test_a_strip_may_be_half_as_long_again_as_its_reference(
    length_s: float, *, is_kept: bool
) -> None:
    rng = np.random.default_rng(0)
    reference = draw_population(rng, [1] * 4)
    traffic = replace(draw_population(rng, [1]), strip_s=np.array([length_s]))
    matched = match_lengths(reference, traffic, max_ratio=1.5)
    assert matched.current.n_strips == int(is_kept)
    assert len(matched.left_out) == int(not is_kept)
    assert matched.length.tolist() == ([10.0] if is_kept else [])
    assert matched.reference.n_strips == (4 if is_kept else 0)


def _strips(groups: dict[str, list[list[float]]]) -> ObservedBeats:
    """One strip for each list of RR intervals; all other columns are alike."""
    return gather_strips(
        [
            ObservedStrip(
                group,
                10.0,
                {name: [0.5] * len(rr) for name in COMPARED_COLUMNS}
                | {
                    "rr_prev_s": rr,
                    "arrhythmia_type": ["V" if value > 1 else "N" for value in rr],
                    "rule": ["none"] * len(rr),
                },
            )
            for group, strips in groups.items()
            for rr in strips
        ]
    )


def test_figures_of_a_column_are_quartiles_and_shares_to_a_digit() -> None:
    reference = _strips({"a": [[0.5, 0.6, 0.7, 0.8, 0.9]], "b": [[0.5, 0.6, 0.7, 0.8, 1.2]]})
    traffic = _strips({"c": [[0.8, 0.9, 1.5, 1.6]]})
    found = {d.column: d for d in compare_beats(reference, traffic, config=QUICK).columns}
    assert found["rr_prev_s"].reference == "0.7 (0.6 to 0.8)"
    assert found["rr_prev_s"].current == "1.2 (0.875 to 1.52)"
    assert found["arrhythmia_type"].reference == "N 90.0%, V 10.0%"
    assert found["arrhythmia_type"].current == "N 50.0%, V 50.0%"
    assert found["arrhythmia_type"].distance == pytest.approx(0.4)
    assert found["rr_prev_s"].distance == pytest.approx(0.6)


def test_p_values_are_those_of_every_exchange() -> None:
    """Three groups of traffic apart from three of the reference: 2 of 20 exchanges are as far."""
    reference = _strips({name: [[0.5, 0.6]] for name in "abc"})
    traffic = _strips({name: [[0.9, 1.0]] for name in "def"})
    config = ComparisonConfig(n_draws=3, n_permutations=2000)
    found = {d.column: d for d in compare_beats(reference, traffic, config=config).columns}
    assert found["rr_prev_s"].distance == pytest.approx(1.0)
    assert found["rr_prev_s"].p_value == pytest.approx(0.1, abs=0.02)
    assert found["rr_prev_s"].p_adjusted == pytest.approx(9 * found["rr_prev_s"].p_value)
    assert found["rule"].p_value == 1.0
    assert found["rule"].p_adjusted == 1.0
    assert not found["rr_prev_s"].is_drifted


def test_a_permutation_counts_itself_among_those_as_far() -> None:
    reference = _strips({f"a{n}": [[0.5, 0.6]] for n in range(20)})
    traffic = _strips({f"b{n}": [[0.9, 1.0]] for n in range(20)})
    found = compare_beats(reference, traffic, config=replace(QUICK, n_permutations=99))
    p_value = next(d.p_value for d in found.columns if d.column == "rr_prev_s")
    assert p_value == pytest.approx(1 / 100)


@pytest.mark.parametrize(("limit", "is_drifted"), [(0.7, True), (0.7001, False)])
def test_a_numerical_column_drifts_from_its_least_distance_on(
    limit: float, *, is_drifted: bool
) -> None:
    rr = [0.41, 0.42, 0.43, 0.44, 0.45, 0.46, 0.47, 0.91, 0.92, 0.93]
    reference = _strips({f"a{n}": [rr] for n in range(20)})
    traffic = _strips({f"b{n}": [[0.9] * 10] for n in range(20)})
    config = replace(QUICK, min_ks_distance=limit)
    found = {d.column: d for d in compare_beats(reference, traffic, config=config).columns}
    assert found["rr_prev_s"].distance == pytest.approx(0.7, abs=1e-6)
    assert found["rr_prev_s"].is_drifted is (is_drifted and found["rr_prev_s"].distance >= limit)


@pytest.mark.parametrize(("limit", "is_drifted"), [(0.19, True), (0.21, False)])
def test_a_categorical_column_drifts_from_its_least_distance_on(
    limit: float, *, is_drifted: bool
) -> None:
    reference = _strips({f"a{n}": [[0.5] * 10] for n in range(20)})
    traffic = _strips({f"b{n}": [[0.5] * 8 + [1.5] * 2] for n in range(20)})
    config = replace(QUICK, min_variation_distance=limit)
    found = {d.column: d for d in compare_beats(reference, traffic, config=config).columns}
    assert found["arrhythmia_type"].distance == pytest.approx(0.2, abs=1e-5)
    assert found["arrhythmia_type"].is_drifted is is_drifted


def test_values_missing_on_both_sides_are_named_together() -> None:
    rng = np.random.default_rng(0)
    reference, traffic = draw_population(rng, [2] * 5), draw_population(rng, [1] * 5)
    reference.columns["amplitude_mv"][:] = np.nan
    traffic.columns["amplitude_mv"][:] = np.nan
    found = compare_beats(reference, traffic, config=replace(QUICK, n_draws=2))
    assert found.left_out == ("amplitude_mv: no value in the reference and the traffic",)
    assert (found.n_beats, found.n_groups, found.n_reference_groups) == (60, 5, 5)


def test_strips_are_dealt_as_a_patient_of_the_traffic_has_them() -> None:
    subjects = StripCounts.of(
        np.array(["a"] * 6 + ["b"] * 3), np.array([10.0] * 4 + [60.0] * 2 + [10.0] * 3)
    )
    traffic = StripCounts.of(np.array(["x", "x", "x"]), np.array([10.0, 10.0, 60.0]))
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(50):
        strips, starts = deal_strips(subjects, traffic, rng)
        of_a, of_b = np.split(strips, starts[1:])
        assert starts.tolist() == [0, 3]
        assert sorted(of_a)[2] in {4, 5}
        assert set(of_a[:2]) <= {0, 1, 2, 3}
        assert len(set(of_b)) == 2
        assert set(of_b) <= {6, 7, 8}
        seen |= set(strips.tolist())
    assert seen == set(range(9))


def test_a_subject_without_a_strip_of_the_length_gets_none() -> None:
    subjects = StripCounts.of(np.array(["a", "a", "b"]), np.array([10.0, 10.0, 60.0]))
    traffic = StripCounts.of(np.array(["x", "y"]), np.array([10.0, 300.0]))
    rng = np.random.default_rng(0)
    for _ in range(20):
        strips, starts = deal_strips(subjects, traffic, rng)
        assert starts.tolist() == [0]
        assert strips.tolist() in ([0], [1])


def test_strips_are_put_in_the_order_of_their_groups() -> None:
    counts = StripCounts.of(np.array(["b", "a", "b", "a"]), np.array([10.0, 10.0, 20.0, 10.0]))
    assert counts.order.tolist() == [1, 3, 0, 2]
    assert counts.starts.tolist() == [0, 2]
    assert [{k: v.tolist() for k, v in one.items()} for one in counts.by_length] == [
        {10.0: [1, 3]},
        {10.0: [0], 20.0: [2]},
    ]


def test_a_p_value_is_never_above_one() -> None:
    assert adjust_p_values(np.array([0.9, 0.6])).tolist() == [1.0, 1.0]
    assert adjust_p_values(np.array([0.04, 0.01])).tolist() == [0.04, 0.02]
