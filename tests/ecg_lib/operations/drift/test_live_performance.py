"""Performance on traffic: counts worked out by hand, and simulated calibrated beats."""

from __future__ import annotations

import numpy as np
import pytest

from ecg_lib.evaluation.beat_scoring import BeatCounts
from ecg_lib.evaluation.bootstrap import Interval, bootstrap_interval
from ecg_lib.operations.drift.comparison import ColumnDrift, Comparison
from ecg_lib.operations.drift.live_performance import (
    ReviewedStrip,
    count_reviewed,
    estimate_performance,
    expect_f1,
    measure_performance,
)
from ecg_lib.operations.drift.observation import (
    NUMERICAL_COLUMNS,
    ObservedBeats,
    ObservedStrip,
    gather_strips,
)


def review(group: str, called: str, truth: str) -> ReviewedStrip:
    """One letter for each beat; ``-`` is an unreadable beat, ``.`` one without a label."""
    return ReviewedStrip(
        group,
        [None if letter == "-" else letter for letter in called],
        {index: letter for index, letter in enumerate(truth) if letter != "."},
    )


def test_reviewed_beats_are_counted() -> None:
    reviewed = count_reviewed([review("a", "NNVV-", "NVVNV")], min_share=0.8)
    counts = reviewed.counts["a"]
    assert (counts.v_true, counts.v_false, counts.v_beats, counts.n_true) == (1, 1, 3, 1)
    assert counts.abstained == 1


def test_strips_of_a_patient_are_one_group() -> None:
    strips = [review("a", "NV", "NV"), review("a", "NV", "NV"), review("b", "N", "N")]
    reviewed = count_reviewed(strips, min_share=0.8)
    assert set(reviewed.counts) == {"a", "b"}
    assert reviewed.counts["a"].v_true == 2
    assert reviewed.n_strips == 3


def test_strips_of_which_single_beats_were_corrected_do_not_count() -> None:
    reviewed = count_reviewed([review("a", "NNNNN", "..V..")], min_share=0.8)
    assert (reviewed.n_strips, reviewed.n_partly, reviewed.counts) == (0, 1, {})


def test_labels_of_beats_that_do_not_exist_do_not_count() -> None:
    reviewed = count_reviewed([ReviewedStrip("a", ["N"], {5: "V"})], min_share=0.8)
    assert reviewed.n_partly == 1


def test_the_expected_f1_is_that_of_the_reference_where_as_many_beats_are_v() -> None:
    reference = BeatCounts(v_beats=100, v_true=90, v_false=9, n_beats=900, n_true=891)
    assert expect_f1(reference, reference) == pytest.approx(reference.v_f1)


def test_the_expected_f1_is_lower_where_v_is_rare() -> None:
    reference = BeatCounts(v_beats=100, v_true=90, v_false=9, n_beats=900, n_true=891)
    labelled = BeatCounts(v_beats=10, n_beats=990)
    # 9 of 10 found, and one in a hundred of 990 wrong.
    assert expect_f1(reference, labelled) == pytest.approx(2 * 9 / (9 + 9.9 + 10))


def test_labelled_performance_has_an_interval_over_groups() -> None:
    strips = [review(str(i), "NNNNVV", "NNNNVV") for i in range(20)]
    strips += [review(str(i), "NNNNNN", "NNNNVV") for i in range(20, 25)]
    labelled = measure_performance(count_reviewed(strips, min_share=0.8), reference=None)
    assert labelled.f1.estimate == pytest.approx(2 * 40 / (40 + 50))
    assert labelled.f1.low < labelled.f1.estimate < labelled.f1.high
    assert (labelled.n_beats, labelled.n_v, labelled.n_groups) == (150, 50, 25)
    assert labelled.expected_f1 is None


def test_without_v_there_is_no_f1() -> None:
    reviewed = count_reviewed([review("a", "NN", "NN")], min_share=0.8)
    assert np.isnan(measure_performance(reviewed, reference=None).f1.estimate)


def test_every_count_of_a_reviewed_strip_is_worked_out() -> None:
    reviewed = count_reviewed([review("a", "NNVV-NV", "NVVNVNN")], min_share=0.8)
    assert reviewed.counts["a"] == BeatCounts(
        beats=7,
        found=7,
        v_beats=3,
        v_found=3,
        v_true=1,
        v_false=2,
        n_beats=4,
        n_true=2,
        n_wrong=2,
        v_wrong=1,
        abstained=1,
    )
    assert (reviewed.n_strips, reviewed.n_partly) == (1, 0)


@pytest.mark.parametrize(("truth", "n_strips"), [("NNNN.", 1), ("NNN..", 0), (".....", 0)])
def test_four_labels_of_five_beats_are_a_review(truth: str, n_strips: int) -> None:
    reviewed = count_reviewed([review("a", "NNNNN", truth)], min_share=0.8)
    assert (reviewed.n_strips, reviewed.n_partly) == (n_strips, 1 - n_strips)


def test_strips_that_do_not_count_are_counted_and_the_rest_go_on() -> None:
    strips = [
        review("a", "NNNNN", "..V.."),
        review("b", "NNNNN", "..V.."),
        review("c", "NV", "NV"),
    ]
    reviewed = count_reviewed(strips, min_share=0.8)
    assert (reviewed.n_strips, reviewed.n_partly, set(reviewed.counts)) == (1, 2, {"c"})


def test_labels_outside_the_strip_are_left_out_and_the_others_count() -> None:
    labels = {-1: "V", 0: "V", 1: "N", 2: "V"}
    reviewed = count_reviewed([ReviewedStrip("a", ["V", "N"], labels)], min_share=1.0)
    assert reviewed.counts["a"].beats == 2
    assert reviewed.counts["a"].v_true == 1


def test_the_promise_is_compared_at_the_labelled_share_of_v() -> None:
    strips = [review(str(i), "NNNNVV", "NNNNVV") for i in range(5)]
    reference = BeatCounts(v_beats=100, v_true=90, v_false=9, n_beats=900, n_true=891)
    labelled = measure_performance(count_reviewed(strips, min_share=0.8), reference=reference)
    assert labelled.expected_f1 == pytest.approx(2 * 9 / (9 + 0.2 + 10))
    assert (labelled.sensitivity, labelled.predictivity) == (1.0, 1.0)
    assert (labelled.n_strips, labelled.n_partly) == (5, 0)
    assert labelled.f1 == (1.0, 1.0, 1.0)


def test_the_interval_of_the_labels_is_one_of_90_percent_by_its_seed() -> None:
    strips = [
        review(str(n), "V" * (n % 7) + "N" * (20 - n % 7), "V" * (5 + n % 4) + "N" * (15 - n % 4))
        for n in range(30)
    ]
    reviewed = count_reviewed(strips, min_share=0.8)
    counts = list(reviewed.counts.values())

    def interval(confidence: float, seed: int) -> Interval:
        return bootstrap_interval(counts, lambda c: c.v_f1, seed=seed, confidence=confidence)

    assert measure_performance(reviewed, reference=None).f1 == interval(0.90, 0)
    assert measure_performance(reviewed, reference=None, seed=3).f1 == interval(0.90, 3)
    # The groups are so unlike that neither another share nor another seed gives the same.
    others = [(share, seed) for share in (0.85, 0.90, 0.95) for seed in (0, 1, 3)]
    assert len({interval(*one) for one in others}) == 9


def test_as_many_false_as_true_v_have_an_f1() -> None:
    reviewed = count_reviewed([review("a", "VV", "VN")], min_share=0.8)
    assert measure_performance(reviewed, reference=None).f1.estimate == pytest.approx(2 / 3)


def test_false_v_alone_have_an_f1_of_zero() -> None:
    labelled = measure_performance(
        count_reviewed([review("a", "NV", "NN")], min_share=0.8), reference=None
    )
    assert labelled.f1.estimate == 0
    assert np.isnan(expect_f1(BeatCounts(v_beats=1, v_true=1, n_beats=1, n_true=1), BeatCounts()))


def _observe(strips: dict[str, list[float]], *, readable: float = 1.0) -> ObservedBeats:
    """One strip for each group, of beats with these probabilities; V from 0.5 on."""
    return gather_strips(
        ObservedStrip(
            group,
            10.0,
            {name: [1.0] * len(values) for name in NUMERICAL_COLUMNS}
            | {
                "probability_v": values,
                "readable_share": [readable] * len(values),
                "arrhythmia_type": ["V" if value >= 0.5 else "N" for value in values],
                "rule": ["none"] * len(values),
            },
        )
        for group, values in strips.items()
    )


def _drift(**distances: float) -> Comparison:
    return Comparison(
        columns=tuple(
            ColumnDrift(
                column=column,
                distance=distance,
                p_value=1.0,
                p_adjusted=1.0,
                is_drifted=False,
                reference="",
                current="",
            )
            for column, distance in distances.items()
        ),
        n_strips=1,
        n_beats=1,
        n_groups=1,
        n_reference_groups=1,
        left_out=(),
    )


def test_the_estimate_is_the_sum_of_probabilities_less_what_it_is_usually_too_high() -> None:
    beats = _observe({"a": [0.9, 0.7, 0.4]})
    found = estimate_performance(beats, drift=_drift(), refused_share=0.0)
    summed = 2 * 1.6 / (2 + 2.0)
    assert found.f1.estimate == pytest.approx(summed * 0.98)
    assert found.f1.low == pytest.approx(summed * 0.92)
    assert found.f1.high == pytest.approx(summed + 0.04)
    assert found.distance == 0


def test_a_shift_of_the_shape_lowers_the_estimate_and_its_lower_bound() -> None:
    beats = _observe({"a": [0.9, 0.7, 0.4]})
    drift = _drift(qrs_width_ms=0.5, template_correlation=0.3, rr_irregularity=0.9)
    found = estimate_performance(beats, drift=drift, refused_share=0.0)
    assert found.distance == 0.5
    assert found.f1.estimate == pytest.approx(0.8 * (1 - 0.02 - 0.1))
    assert found.f1.low == pytest.approx(0.8 * (1 - 0.08 - 0.2))


@pytest.mark.parametrize(
    ("refused_share", "readable", "expected"),
    [(0.0, 1.0, 2.0), (0.5, 1.0, 4.0), (0.5, 0.5, 8.0), (1.0, 1.0, 100.0)],
)
def test_beats_that_are_refused_or_unreadable_count_as_missed(
    refused_share: float, readable: float, expected: float
) -> None:
    beats = _observe({"a": [0.9, 0.7, 0.4]}, readable=readable)
    found = estimate_performance(beats, drift=_drift(), refused_share=refused_share)
    summed = 2 * 1.6 / (2 + expected)
    assert found.f1.estimate == pytest.approx(0.98 * summed)
    # Nothing is known of what cannot be read.
    assert found.f1.low == pytest.approx(0.92 * summed * 2 / expected)


def test_the_interval_of_the_estimate_is_over_groups() -> None:
    good, bad = [0.99] * 5 + [0.01] * 5, [0.55] * 5 + [0.45] * 5
    alike = _observe({str(n): good + bad for n in range(20)})
    apart = _observe({str(n): good if n % 2 else bad for n in range(20)})
    of_alike, of_apart = (
        estimate_performance(one, drift=_drift(), refused_share=0.0).f1 for one in (alike, apart)
    )
    assert of_alike.estimate == pytest.approx(of_apart.estimate)
    assert of_apart.high - of_apart.low > of_alike.high - of_alike.low + 0.1


def test_the_estimate_without_any_v_is_not_a_number_or_nothing() -> None:
    none = estimate_performance(_observe({"a": [0.0]}), drift=_drift(), refused_share=0.0)
    assert np.isnan(none.f1).all()
    not_called = estimate_performance(
        _observe({"a": [0.25, 0.25]}), drift=_drift(), refused_share=0.0
    )
    assert (not_called.f1.estimate, not_called.f1.low) == (0, 0)


def test_missed_beats_and_false_detections_are_counted() -> None:
    strip = ReviewedStrip(
        "a", ["V", "N", "V", None], {0: "V", 1: "N"}, ("V", "N"), false_detections=(2, 3)
    )
    counts = count_reviewed([strip], min_share=1.0).counts["a"]
    assert (counts.v_beats, counts.v_true, counts.v_false) == (2, 1, 1)
    assert (counts.beats, counts.found, counts.extra, counts.n_beats) == (4, 2, 2, 2)


def test_false_detections_outside_the_strip_are_left_out_and_the_others_count() -> None:
    strip = ReviewedStrip("a", ["V", "N", "V"], {1: "N"}, false_detections=(-1, 0, 3))
    counts = count_reviewed([strip], min_share=0.5).counts["a"]
    assert (counts.extra, counts.v_false) == (1, 1)
