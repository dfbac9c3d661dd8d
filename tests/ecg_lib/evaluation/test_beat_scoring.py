"""Scoring by hand: every kind of right and wrong, once, and the sums that must hold."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_lib.evaluation.beat_scoring import (
    CALLS,
    IN_FLUTTER,
    NO_BEAT,
    TRUTHS,
    BeatCounts,
    add_up,
    by_subject,
    label_beats,
    score_beats,
    tabulate_beats,
)
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.noise import LEARNING_PERIOD_S


def _score(
    truth: str,
    found: str,
    *,
    unreadable: tuple[int, ...] = (),
    start_s: float = 0.0,
    stop_s: float = float("inf"),
) -> BeatCounts:
    """Score symbols against calls, one a second at 100 Hz; ``.`` is nothing there."""
    here = [index for index, symbol in enumerate(truth) if symbol != "."]
    detected = [index for index, call in enumerate(found) if call != "."]
    annotations = Annotations(
        samples=np.array(here, dtype=np.int64) * 100,
        symbols=np.array([truth[index] for index in here], dtype="U1"),
    )
    return score_beats(
        annotations,
        detections=np.array(detected, dtype=np.int64) * 100,
        is_v=np.array([found[index] == "V" for index in detected], dtype=np.bool_),
        is_readable=np.array([index not in unreadable for index in detected], dtype=np.bool_),
        fs=100.0,
        start_s=start_s,
        stop_s=stop_s,
    )


def test_a_perfect_classifier_has_nothing_against_it() -> None:
    counts = _score("NNVASN", "NNVNNN")
    assert counts == BeatCounts(
        beats=6, found=6, v_beats=1, v_found=1, v_true=1, n_beats=5, n_true=5, s_beats=2
    )
    assert counts.v_f1 == counts.v_f1_strict == counts.accuracy == 1
    assert counts.qrs_sensitivity == counts.qrs_predictivity == 1
    assert counts.v_false_positive_rate == 0


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        ("V", "V", {"v_true": 1}),
        ("V", "N", {"v_wrong": 1}),
        ("V", ".", {"v_found": 0, "found": 0}),  # a missed V
        ("N", "V", {"v_false": 1, "n_wrong": 1}),
        ("A", "V", {"v_false": 1, "n_wrong": 1, "s_wrong": 1}),
        ("A", "N", {"n_true": 1}),
        (".", "V", {"extra": 1, "v_false": 1}),  # an extra detection called V
        (".", "N", {"extra": 1, "other_true": 1}),
        ("F", "V", {"v_false_fq": 1}),  # EC57: neither right nor wrong
        ("F", "N", {"other_true": 1}),
        ("/", "V", {"v_false_fq": 1}),
        ("Q", "V", {"v_false_fq": 1}),
        ("E", "V", {"v_true": 1}),
        ("!", "V", {"extra": 1, "v_false": 1}),  # a flutter wave is not a beat
        ("+", ".", {}),
    ],
)
def test_each_outcome_counts_as_ec57_says(truth: str, found: str, expected: dict[str, int]) -> None:
    is_beat = truth not in ".!+"
    usual = {
        "beats": int(is_beat),
        "found": int(is_beat),
        "v_beats": int(truth in "VE"),
        "v_found": int(truth in "VE"),
        "n_beats": int(truth in "NA"),
        "s_beats": int(truth == "A"),
    }
    assert _score(truth, found) == BeatCounts(**(usual | expected))


def test_figures_of_a_mixed_record_are_those_on_paper() -> None:
    #                 v1 fn, fn n1 fp n1 fq fp      (the last: no beat)
    counts = _score("VVVNNAF.", "VN.NVNVV")
    assert (counts.v_beats, counts.v_true, counts.v_false, counts.v_false_fq) == (3, 1, 2, 1)
    assert counts.v_sensitivity == 1 / 3
    assert counts.v_predictivity == 1 / 3
    assert counts.v_f1 == 2 / (2 + 2 + 2)
    assert counts.v_f1_strict == 2 / (2 + 3 + 2)
    assert counts.v_false_positive_rate == 2 / (2 + 2)
    assert counts.accuracy == 3 / 5
    assert counts.accuracy_with_detection == 3 / (3 + 3 + 1)
    assert counts.qrs_sensitivity == 6 / 7
    assert counts.qrs_predictivity == 6 / 7


def test_a_double_detection_is_one_beat_and_one_extra() -> None:
    annotations = Annotations(samples=np.array([100]), symbols=np.array(["V"]))
    counts = score_beats(
        annotations, detections=np.array([99, 110]), is_v=np.array([True, True]), fs=100.0
    )
    assert (counts.v_true, counts.v_false, counts.extra) == (1, 1, 1)


@pytest.mark.parametrize(("offset", "is_found"), [(15, True), (-15, True), (16, False)])
def test_150_ms_decide_in_samples_of_the_record(offset: int, *, is_found: bool) -> None:
    annotations = Annotations(samples=np.array([100]), symbols=np.array(["V"]))
    counts = score_beats(
        annotations, detections=np.array([100 + offset]), is_v=np.array([True]), fs=100.0
    )
    assert (counts.v_true, counts.v_false) == ((1, 0) if is_found else (0, 1))


def test_a_v_beat_that_cannot_be_read_is_missed() -> None:
    counts = _score("VNV", "VNN", unreadable=(0, 1))
    assert (counts.v_beats, counts.v_found, counts.v_true, counts.v_wrong) == (2, 2, 0, 1)
    assert (counts.n_true, counts.abstained) == (0, 2)
    assert counts.v_f1 == 0


def test_an_unreadable_extra_detection_is_not_a_false_v() -> None:
    assert _score(".", "V", unreadable=(0,)) == BeatCounts(extra=1)


def test_beats_and_detections_in_flutter_are_left_out_and_counted_apart() -> None:
    counts = _score("N[VV]V", "NVVVVV")
    assert counts == BeatCounts(
        beats=2, found=2, v_beats=1, v_found=1, v_true=1, n_beats=1, n_true=1, in_flutter=6
    )


def test_a_beat_at_the_edge_of_flutter_is_scored_with_its_detection() -> None:
    annotations = Annotations(samples=np.array([100, 105]), symbols=np.array(["V", "["]))
    counts = score_beats(annotations, detections=np.array([105]), is_v=np.array([True]), fs=100.0)
    assert counts == BeatCounts(beats=1, found=1, v_beats=1, v_found=1, v_true=1)


def test_the_learning_period_is_left_out() -> None:
    assert LEARNING_PERIOD_S == 300
    counts = _score("VVVV", "VNVV", start_s=2.0)
    assert (counts.v_beats, counts.v_true) == (2, 2)
    assert _score("VVVV", "VNVV", stop_s=2.0).v_wrong == 1
    assert _score(".V", "V.", start_s=1.0) == BeatCounts(beats=1, v_beats=1)
    assert _score("V.", ".V", start_s=1.0) == BeatCounts(extra=1, v_false=1)


def test_a_pair_over_the_start_counts_by_its_annotation() -> None:
    annotations = Annotations(samples=np.array([100, 300]), symbols=np.array(["V", "V"]))
    detections = np.array([105, 295])

    def score(start_s: float) -> BeatCounts:
        return score_beats(
            annotations, detections=detections, is_v=np.ones(2, bool), fs=100.0, start_s=start_s
        )

    assert score(1.02) == BeatCounts(beats=1, found=1, v_beats=1, v_found=1, v_true=1)
    assert score(2.98) == score(1.02)


@pytest.mark.parametrize(("stop_s", "n_extra"), [(1.0, 0), (1.01, 1)])
def test_an_extra_detection_at_the_stop_belongs_to_what_follows(
    stop_s: float, n_extra: int
) -> None:
    assert _score("..", ".V", stop_s=stop_s) == BeatCounts(extra=n_extra, v_false=n_extra)
    assert _score("..", ".V", start_s=stop_s) == BeatCounts(extra=1 - n_extra, v_false=1 - n_extra)


def test_flutter_before_the_start_is_not_counted() -> None:
    assert _score("[V]N", "NVNN", start_s=3.0).in_flutter == 0


def test_a_record_without_beats_has_only_extra_detections() -> None:
    assert _score("....", ".V..") == BeatCounts(extra=1, v_false=1)
    assert _score("", "") == BeatCounts()


def test_figures_without_a_denominator_are_nan() -> None:
    nothing = BeatCounts()
    for name in ("qrs_sensitivity", "v_sensitivity", "v_predictivity", "v_f1", "accuracy"):
        assert np.isnan(getattr(nothing, name))


_RECORD = st.integers(0, 30).flatmap(
    lambda n: st.tuples(
        st.text("NAVF/.!", min_size=n, max_size=n), st.text("NV.", min_size=n, max_size=n)
    )
)


@settings(max_examples=200, deadline=None)
@given(record=_RECORD, unreadable=st.sets(st.integers(0, 30)))
def test_the_counts_add_up(record: tuple[str, str], unreadable: set[int]) -> None:
    truth, found = record
    counts = _score(truth, found, unreadable=tuple(unreadable))
    detections = len(found.replace(".", ""))
    beats = sum(symbol in "NAVF/" for symbol in truth)
    assert counts.beats == beats
    assert counts.found + counts.extra == detections
    assert counts.v_beats + counts.n_beats + sum(s in "F/" for s in truth) == beats
    assert counts.v_true + counts.v_wrong <= counts.v_found <= counts.v_beats
    assert counts.n_true + counts.n_wrong <= counts.n_beats
    assert counts.n_wrong <= counts.v_false <= counts.n_wrong + counts.extra
    called_v = sum(c == "V" for i, c in enumerate(found) if i not in unreadable)
    assert counts.v_true + counts.v_false + counts.v_false_fq == called_v
    called_n = sum(c == "N" for i, c in enumerate(found) if i not in unreadable)
    assert counts.n_true + counts.v_wrong + counts.other_true == called_n


@settings(max_examples=50, deadline=None)
@given(record=_RECORD, cut_s=st.integers(0, 30))
def test_two_parts_of_a_record_add_up_to_the_whole(record: tuple[str, str], cut_s: int) -> None:
    truth, found = record
    parts = [_score(truth, found, stop_s=cut_s), _score(truth, found, start_s=cut_s)]
    assert add_up(parts) == _score(truth, found)


def test_adding_up_nothing_gives_nothing() -> None:
    assert add_up([]) == BeatCounts()
    one = BeatCounts(**{field.name: index for index, field in enumerate(fields(BeatCounts))})
    assert add_up([one, one, BeatCounts()]) == one + one
    assert (one + one).in_flutter == 2 * one.in_flutter


# The rules of bxb at close quarters: who is paired with whom.


def _score_at(
    beats: list[tuple[int, str]],
    detections: list[tuple[int, str]],
    *,
    unreadable: tuple[int, ...] = (),
    start_s: float = 0.0,
    stop_s: float = float("inf"),
) -> BeatCounts:
    """Score beats and calls at samples of 360 Hz."""
    return score_beats(
        Annotations(
            samples=np.array([at for at, _ in beats], dtype=np.int64),
            symbols=np.array([symbol for _, symbol in beats], dtype="U1"),
        ),
        detections=np.array([at for at, _ in detections], dtype=np.int64),
        is_v=np.array([call == "V" for _, call in detections], dtype=np.bool_),
        is_readable=np.array([at not in unreadable for at, _ in detections], dtype=np.bool_),
        fs=360.0,
        start_s=start_s,
        stop_s=stop_s,
    )


@pytest.mark.parametrize("offset", [-54, 54])
def test_150_ms_sharp_is_a_match_and_a_sample_more_is_none(offset: int) -> None:
    assert _score_at([(1000, "V")], [(1000 + offset, "V")]).v_true == 1
    further = offset + (1 if offset > 0 else -1)
    assert _score_at([(1000, "V")], [(1000 + further, "V")]) == BeatCounts(
        beats=1, v_beats=1, extra=1, v_false=1
    )


def test_of_two_detections_the_nearer_is_the_beat() -> None:
    counts = _score_at([(1000, "V")], [(980, "N"), (1010, "V")])
    assert (counts.v_true, counts.extra, counts.other_true) == (1, 1, 1)


def test_of_two_detections_equally_near_the_later_is_the_beat() -> None:
    counts = _score_at([(1000, "V")], [(990, "V"), (1010, "N")])
    assert (counts.v_wrong, counts.v_false, counts.extra) == (1, 1, 1)


def test_of_two_beats_equally_near_the_later_is_detected() -> None:
    counts = _score_at([(1000, "N"), (1040, "V")], [(1020, "V")])
    assert (counts.found, counts.v_true, counts.v_false) == (1, 1, 0)
    assert counts.beats == 2


def test_a_detection_between_a_couplet_is_that_of_the_nearer_beat() -> None:
    counts = _score_at([(1000, "N"), (1050, "V")], [(1010, "V")])
    assert (counts.v_false, counts.v_found) == (1, 0)


def test_an_extra_detection_does_not_take_the_beat_of_the_next() -> None:
    """A T wave called a beat 120 ms before a PVC, and the PVC itself."""
    counts = _score_at([(1000, "N"), (1300, "V")], [(1000, "N"), (1257, "V"), (1300, "V")])
    assert (counts.found, counts.v_true, counts.v_false, counts.extra) == (2, 1, 1, 1)


def test_the_first_beat_after_five_minutes_counts_and_the_last_before_does_not() -> None:
    border = 300 * 360
    beats = [(border - 1, "V"), (border + 400, "V")]
    detections = [(border, "V"), (border + 399, "N")]
    counts = _score_at(beats, detections, start_s=LEARNING_PERIOD_S)
    # The first detection lies behind the border, but its beat does not.
    assert counts == BeatCounts(beats=1, found=1, v_beats=1, v_found=1, v_wrong=1)
    on_it = _score_at([(border, "V")], [(border - 5, "V")], start_s=LEARNING_PERIOD_S)
    assert on_it == BeatCounts(beats=1, found=1, v_beats=1, v_found=1, v_true=1)
    alone = _score_at([], [(border - 1, "V"), (border, "V")], start_s=LEARNING_PERIOD_S)
    assert alone == BeatCounts(extra=1, v_false=1)


def test_the_first_and_the_last_sample_of_a_record_count() -> None:
    counts = _score_at([(0, "V"), (3599, "V")], [(0, "V"), (3599, "N")], stop_s=10.0)
    assert (counts.v_beats, counts.v_true, counts.v_wrong) == (2, 1, 1)
    assert _score_at([(3600, "V")], [(3600, "V")], stop_s=10.0) == BeatCounts()


def test_a_v_beat_in_what_cannot_be_read_is_missed_and_its_neighbour_is_not() -> None:
    counts = _score_at([(1000, "V"), (1400, "V")], [(1000, "V"), (1400, "V")], unreadable=(1000,))
    assert (counts.v_true, counts.v_found, counts.abstained) == (1, 2, 1)
    assert counts.v_sensitivity == 0.5


def test_an_extra_detection_in_flutter_is_not_a_false_v() -> None:
    beats = [(1000, "["), (1200, "!"), (1400, "!"), (1600, "]"), (2000, "V")]
    counts = _score_at(beats, [(1200, "V"), (1300, "N"), (2000, "V")])
    assert counts == BeatCounts(beats=1, found=1, v_beats=1, v_found=1, v_true=1, in_flutter=2)


def test_the_false_positive_rate_is_that_of_bxb() -> None:
    """VFP / (VTN + VFP), where VTN holds F, Q and no beat that were not called V."""
    #                NF called N, N called V, nothing called N
    counts = _score("NFN.", "NNVN")
    assert counts.v_false_positive_rate == 1 / (3 + 1)


def test_the_beat_by_beat_table_counts_each_beat_and_detection_once() -> None:
    truth, found = "NASVVFQV.N.", "VNNVN.VVVNN"
    samples = [index for index, symbol in enumerate(truth) if symbol != "."]
    detected = [index for index, call in enumerate(found) if call != "."]
    table = tabulate_beats(
        Annotations(
            samples=np.array(samples, dtype=np.int64) * 100,
            symbols=np.array([truth[index] for index in samples]),
        ),
        detections=np.array(detected, dtype=np.int64) * 100,
        is_v=np.array([found[index] == "V" for index in detected]),
        is_readable=np.array([index != 7 for index in detected]),
        fs=100.0,
    )
    assert dict(zip(TRUTHS, table.tolist(), strict=True)) == {
        #     N  V  unreadable  missed
        "N": [1, 1, 0, 0],
        "S": [2, 0, 0, 0],
        "V": [1, 1, 1, 0],
        "F": [0, 0, 0, 1],
        "Q": [0, 1, 0, 0],
        "O": [1, 1, 0, 0],
    }
    assert CALLS == ("N", "V", "unreadable", "missed")


def test_the_learning_period_begins_the_score_at_300_seconds() -> None:
    assert LEARNING_PERIOD_S == 300.0


def test_the_score_begins_at_the_first_sample_unless_told_otherwise() -> None:
    counts = score_beats(
        Annotations(samples=np.array([0]), symbols=np.array(["V"])),
        detections=np.array([0]),
        is_v=np.array([True]),
        fs=100.0,
    )
    assert counts == BeatCounts(beats=1, found=1, v_beats=1, v_found=1, v_true=1)
    table = tabulate_beats(
        Annotations(samples=np.array([0]), symbols=np.array(["V"])),
        detections=np.array([0]),
        is_v=np.array([True]),
        fs=100.0,
    )
    assert table.sum() == table[TRUTHS.index("V"), CALLS.index("V")] == 1


def test_the_strict_figure_counts_true_beats_twice_as_f1_does() -> None:
    counts = BeatCounts(v_beats=10, v_true=8, v_false=1, v_false_fq=3)
    assert counts.v_f1 == 16 / 19
    assert counts.v_f1_strict == 16 / 22


def test_the_table_of_a_part_counts_what_begins_in_it() -> None:
    samples = np.array([0, 100, 200, 300])
    table = tabulate_beats(
        Annotations(samples=samples, symbols=np.array(["N", "V", "V", "N"])),
        detections=np.array([0, 100, 300]),
        is_v=np.array([False, True, False]),
        fs=100.0,
        start_s=1.0,
        stop_s=3.0,
    )
    assert table[TRUTHS.index("V")].tolist() == [0, 1, 0, 1]
    assert table.sum() == 2


def test_records_of_one_person_are_added_up() -> None:
    one = BeatCounts(beats=1, v_true=1)
    subjects = by_subject({"201": one, "202": one, "100": one})
    assert set(subjects.values()) == {one, one + one}
    assert len(subjects) == 2


def test_labels_are_the_classes_of_the_annotations() -> None:
    annotations = Annotations(
        samples=np.array([100, 300, 500, 700, 800]),
        symbols=np.array(["N", "V", "[", "]", "F"]),
    )
    labels = label_beats(annotations, np.array([115, 200, 284, 320, 600, 800]), fs=100.0)
    assert labels.tolist() == ["N", "-", "-", "-", "!", "F"]
    assert (NO_BEAT, IN_FLUTTER) == ("-", "!")
