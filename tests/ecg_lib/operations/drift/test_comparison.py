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
    INPUT_COLUMNS,
    OBSERVED_COLUMNS,
    OUTPUT_COLUMNS,
    ObservedBeats,
    ObservedStrip,
    gather_strips,
    read_reference,
)
from ecg_lib.operations.drift.permutation import adjust_p_values

QUICK = ComparisonConfig(n_draws=10, n_permutations=299)
BEATS = 12


def draw_population(
    rng: np.random.Generator, n_strips: list[int], *, shift: float = 0.0, v_shift: float = 0.0
) -> ObservedBeats:
    """Patients differ more from each other than the strips of one, as in life."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in OBSERVED_COLUMNS}
    for count in n_strips:
        patient = rng.normal(shift, 1.0, len(INPUT_COLUMNS))
        v_share = rng.beta(0.3, 3)
        for strip in patient + rng.normal(0, 0.5, (count, len(INPUT_COLUMNS))):
            for name, level in zip(INPUT_COLUMNS, strip, strict=True):
                columns[name].append(level + rng.normal(0, 1, BEATS))
            probability = np.clip(rng.normal(v_share + v_shift, 0.1, BEATS), 0, 1)
            columns["probability_v"].append(probability)
            columns["arrhythmia_type"].append(np.where(rng.random(BEATS) < probability, "V", "N"))
            columns["rule"].append(np.full(BEATS, "none"))
    total = sum(n_strips)
    return ObservedBeats(
        columns={name: np.concatenate(parts) for name, parts in columns.items()},
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
    return sum(bool(found.drifted(OBSERVED_COLUMNS)) for found in comparisons)


@pytest.mark.parametrize("is_named", [True, False])
def test_replayed_reference_is_no_drift(*, is_named: bool) -> None:
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
    assert found.drifted(OBSERVED_COLUMNS) == ("probability_v", "arrhythmia_type")


def test_one_unusual_patient_is_no_drift_however_many_strips_come() -> None:
    rng = np.random.default_rng(0)
    reference = draw_population(rng, [30] * 22)
    found = compare_beats(reference, draw_population(rng, [200], shift=3.0), config=QUICK)
    assert max(drift.distance for drift in found.columns) > 0.7
    assert found.drifted(OBSERVED_COLUMNS) == ()


def test_a_shift_too_small_to_matter_is_no_drift_however_certain() -> None:
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
        observed = {name: [0.5] * n for name in OBSERVED_COLUMNS} | {
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
        columns={n: np.concatenate([few.columns[n], many.columns[n]]) for n in OBSERVED_COLUMNS},
        strip=np.concatenate([few.strip, many.strip + few.n_strips]),
        group=np.concatenate([few.group, np.full(many.n_strips, "loud")]),
        strip_s=np.concatenate([few.strip_s, many.strip_s]),
    )
    assert compare_beats(reference, both, config=QUICK).drifted(OBSERVED_COLUMNS) == ()


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
            n: np.concatenate([short.columns[n], longer.columns[n]]) for n in OBSERVED_COLUMNS
        },
        strip=np.concatenate([short.strip, longer.strip + short.n_strips]),
        group=np.concatenate([short.group, longer.group]),
        strip_s=np.concatenate([short.strip_s, np.full(longer.n_strips, 60.0)]),
    )
    traffic = replace(draw_population(rng, [1] * 40), strip_s=np.full(40, 11.0))
    assert compare_beats(reference, traffic, config=QUICK).drifted(OBSERVED_COLUMNS) == ()
    traffic = replace(traffic, strip_s=np.full(40, 60.0))
    assert compare_beats(reference, traffic, config=QUICK).drifted(INPUT_COLUMNS) == INPUT_COLUMNS


def test_strips_of_other_lengths_are_left_out_and_named() -> None:
    rng = np.random.default_rng(0)
    reference, traffic = draw_population(rng, [5] * 10), draw_population(rng, [1] * 30)
    traffic.strip_s[:4] = [30.0, 60.0, 300.0, 30.0]
    found = compare_beats(reference, traffic, config=QUICK)
    assert found.n_strips == 26
    assert found.left_out == (
        "4 strips of 30 to 300 s, as the reference has none of such a length",
    )


def test_columns_without_a_value_are_left_out_and_named() -> None:
    rng = np.random.default_rng(0)
    reference, traffic = draw_population(rng, [5] * 10), draw_population(rng, [1] * 30)
    traffic.columns["heart_rate_bpm"][:] = np.nan
    found = compare_beats(reference, traffic, config=QUICK)
    assert [drift.column for drift in found.columns] == [
        name for name in OBSERVED_COLUMNS if name != "heart_rate_bpm"
    ]
    assert found.left_out == ("heart_rate_bpm, as there is no value in the traffic",)


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
    empty = ObservedStrip("a", 10.0, {name: [] for name in OBSERVED_COLUMNS})
    assert gather_strips([empty]).n_strips == 0


def test_missing_numbers_of_the_log_become_nan() -> None:
    observed = {name: [1.0, 1.0] for name in OBSERVED_COLUMNS} | {"rr_prev_s": [None, 0.8]}
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
    values = {name: ["x", "x"] if name == "rule" else [1.0, 1.0] for name in OBSERVED_COLUMNS}
    assert read_reference(pa.table(keys | values)).n_strips == 2


def test_p_values_are_corrected_as_holm_did() -> None:
    # The figures are those of p.adjust of R.
    p_values = np.array([0.01, 0.02, 0.03, 0.04, 0.05])
    assert adjust_p_values(p_values).tolist() == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
