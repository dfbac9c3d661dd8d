"""Calibration, threshold, rules and figures of out-of-fold predictions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from ecg_lib.classifier.abstention import AbstentionConfig
from ecg_lib.classifier.rule_guard import RuleGuardConfig, apply_rules
from ecg_lib.records.annotations import Annotations
from ecg_lib.signal_path.features import FEATURE_NAMES
from ecg_lib.training.cross_validation import FoldOutput
from ecg_lib.training.datasets import MOVED, STRIPS_10_S, BeatDataset
from ecg_lib.training.out_of_fold import (
    RecordCalls,
    choose_abstention,
    choose_rules,
    choose_run_threshold,
    count_whole_records,
    judge_folds,
    judge_runs,
    read_out_of_fold,
)
from ecg_lib.training.views import WHOLE, View

PREMATURE_AND_WIDE = {
    "rr_prev_ratio": -0.5,
    "rr_next_ratio": 0.2,
    "qrs_width_s": 0.14,
    "qrs_similarity": 0.2,
}


@pytest.mark.parametrize(("n_right", "is_silent"), [(0, True), (1, True), (5, False)])
def test_rules_that_would_lower_f1_are_silenced(n_right: int, *, is_silent: bool) -> None:
    probability = np.array([0.9] * 10 + [0.4] * 6 + [0.1] * 50)
    is_v = np.zeros(66, dtype=np.bool_)
    is_v[:10] = True
    is_v[10 : 10 + n_right] = True
    features = np.zeros((66, len(FEATURE_NAMES)), dtype=np.float32)
    for name, value in PREMATURE_AND_WIDE.items():
        features[10:16, FEATURE_NAMES.index(name)] = value
    config = choose_rules(probability, features, threshold=0.5, is_v=is_v, n_missed=2)
    assert config == RuleGuardConfig(band_logit=0.0 if is_silent else RuleGuardConfig().band_logit)
    guarded = apply_rules(probability, features, threshold=0.5, config=config)
    assert (guarded.rule != "").sum() == (0 if is_silent else 6)


def test_predictions_are_matched_at_the_sampling_rate_of_their_record() -> None:
    beats = np.array([400, 800, 1200])
    truth = Annotations(samples=beats, symbols=np.array(["N", "V", "N"]))
    table = pa.table(
        {
            "record": ["slow"] * 3 + ["fast"] * 3,
            "view": ["0 deg, whole"] * 6,
            "position": np.tile(beats + 30, 2),  # 234 ms at 128 Hz, 83 ms at 360 Hz
            "is_v": [False, True, False] * 2,
            "is_readable": [True] * 6,
        }
    )
    counts = count_whole_records(
        table,
        {"slow": truth, "fast": truth},
        fs={"slow": 128.0, "fast": 360.0},
        subjects={"slow": "Ann", "fast": "Bob"},
    )
    assert (counts["Ann"].found, counts["Ann"].extra) == (0, 3)
    assert (counts["Bob"].found, counts["Bob"].v_true) == (3, 1)


# Abstention, chosen on predictions that are written down.


def _dataset(labels: str, *, views: tuple[View, ...], view: list[int]) -> BeatDataset:
    """Make detections one second apart: a letter of `labels` for each, ``-`` for no beat.

    Each view begins at zero.
    """
    n = len(labels)
    of_view = np.array(view, dtype=np.int16)
    position = np.concatenate([360 * np.arange(count) + 180 for count in np.bincount(of_view)])
    return BeatDataset(
        windows=np.broadcast_to(np.zeros((1, 360, 2), dtype=np.float32), (n, 360, 2)),
        features=np.zeros((n, len(FEATURE_NAMES)), dtype=np.float32),
        record_names=("a",),
        subjects=("A",),
        fs=(360.0,),
        views=views,
        record=np.zeros(n, dtype=np.int16),
        view=of_view,
        position=position.astype(np.int64),
        label=np.array(list(labels)),
        is_readable=np.ones(n, dtype=np.bool_),
        shapes=(),
    )


def test_what_is_read_is_judged_strip_by_strip_and_view_by_view() -> None:
    """A bad neighbour in the strip before, or in another view, does not speak here."""
    dataset = _dataset("N" * 40, views=(WHOLE, STRIPS_10_S), view=[0] * 20 + [1] * 20)
    beat_logits = np.full(40, 4.0)
    beat_logits[[9, 29]] = -4.0  # last beats of the first ten seconds
    config = AbstentionConfig(min_neighbourhood_logit=3.0)
    read = read_out_of_fold(dataset, np.arange(40), beat_logits, config=config)
    assert np.flatnonzero(~read[:20]).tolist() == [7, 8, 9, 10, 11]
    assert np.flatnonzero(~read[20:]).tolist() == [7, 8, 9]


CLEAN = "N" * 900 + "V" * 100
SHAKEN = "".join(f"{CLEAN[at : at + 20]}-" for at in range(0, 1000, 20))
"""The same with 50 false detections in it."""


class _Predictions(NamedTuple):
    dataset: BeatDataset
    rows: NDArray[np.int64]
    logits: NDArray[np.float64]
    beat_logits: NDArray[np.float64]


def _predict(clean: str = CLEAN, shaken: str = SHAKEN, *, false_logit: float) -> _Predictions:
    """Predict all beats right; false detections are called V, and are beats by their logit."""
    dataset = _dataset(
        clean + shaken, views=(WHOLE, MOVED), view=[0] * len(clean) + [1] * len(shaken)
    )
    is_beat = dataset.label != "-"
    return _Predictions(
        dataset,
        np.arange(len(dataset)),
        np.where((dataset.label == "V") | ~is_beat, 3.0, -3.0),
        np.where(is_beat, 5.0, false_logit),
    )


@pytest.mark.parametrize(("false_logit", "limit"), [(-1.2, -1.0), (0.3, 0.5), (2.6, 3.0)])
def test_the_least_limit_that_rejects_false_alarms_is_chosen(
    false_logit: float, limit: float
) -> None:
    made = _predict(false_logit=false_logit)
    config = choose_abstention(*made, n_missed=0)
    assert config == AbstentionConfig(min_beat_logit=limit, min_neighbourhood_logit=-20.0)
    read = read_out_of_fold(made.dataset, made.rows, made.beat_logits, config=config)
    assert read.tolist() == (made.dataset.label != "-").tolist()


def test_a_stretch_of_false_detections_is_rejected_by_its_neighbourhood() -> None:
    """Most of them look like beats; a limit of their own would have to be that of all beats."""
    made = _predict(shaken=CLEAN + "-" * 50, false_logit=-4.0)
    made.beat_logits[2000::2] = 5.0
    config = choose_abstention(*made, n_missed=0)
    assert config.min_neighbourhood_logit > -20
    read = read_out_of_fold(made.dataset, made.rows, made.beat_logits, config=config)
    assert read[:1998].all()
    assert not read[2003:].any()


def test_without_false_alarms_nothing_is_rejected() -> None:
    assert choose_abstention(*_predict(shaken=CLEAN, false_logit=0.0), n_missed=0) == (
        AbstentionConfig(min_beat_logit=-20.0, min_neighbourhood_logit=-20.0)
    )


def test_without_movement_there_are_no_limits() -> None:
    dataset = _dataset(SHAKEN, views=(WHOLE,), view=[0] * len(SHAKEN))
    logits = np.where(dataset.label == "N", -3.0, 3.0)
    beat_logits = np.where(dataset.label == "-", -5.0, 5.0)
    rows = np.arange(len(dataset))
    config = choose_abstention(dataset, rows, logits, beat_logits, n_missed=0)
    assert config == AbstentionConfig(min_beat_logit=-20.0, min_neighbourhood_logit=-20.0)


@pytest.mark.parametrize(("n_lost", "is_limited"), [(5, True), (6, False)])
def test_at_most_one_in_200_clean_beats_is_given_up(n_lost: int, *, is_limited: bool) -> None:
    """Of 1000; the limit that would reject the false alarms costs so many."""
    made = _predict(false_logit=-1.2)
    made.beat_logits[20 : 20 * (n_lost + 1) : 20] = -1.3
    config = choose_abstention(*made, n_missed=0)
    assert config.min_beat_logit == (-1.0 if is_limited else -20.0)


@pytest.mark.parametrize(("n_v", "is_limited"), [(2000, True), (400, False)])
def test_at_most_a_thousandth_of_v_f1_is_given_up(n_v: int, *, is_limited: bool) -> None:
    """One V beat of 2000 costs a quarter of that, one of 400 more than all of it."""
    made = _predict("N" * 900 + "V" * n_v, false_logit=-1.2)
    made.beat_logits[950] = -1.3
    config = choose_abstention(*made, n_missed=0)
    assert config.min_beat_logit == (-1.0 if is_limited else -20.0)


def test_folds_are_judged_with_the_abstention_that_they_choose() -> None:
    made = _predict(false_logit=-1.2)
    logits = made.logits + np.random.default_rng(0).normal(0, 2.0, len(made.rows))
    parts = made.rows % 2
    outputs = [
        FoldOutput(rows, logits[rows], made.beat_logits[rows], (0.5,), 10)
        for rows in (np.flatnonzero(parts == fold) for fold in (0, 1))
    ]
    judged = judge_folds(made.dataset, outputs, n_missed=3)
    assert judged.config.abstention.min_beat_logit == -1.0
    np.testing.assert_array_equal(judged.rows, made.rows)
    np.testing.assert_array_equal(judged.logits, logits)
    np.testing.assert_array_equal(judged.beat_logits, made.beat_logits)
    np.testing.assert_array_equal(judged.fold, parts)
    np.testing.assert_array_equal(judged.dataset.is_readable, made.dataset.label != "-")
    assert made.dataset.is_readable.all()
    assert judged.n_missed == 3
    is_served = made.dataset.view[made.rows] != made.dataset.views.index(MOVED)
    table = judged.table()
    assert 0 < table.num_rows < len(made.rows)
    assert table.column("beat_logit").to_pylist() == made.beat_logits[is_served].tolist()
    assert table.column("logit").to_pylist() == logits[is_served].tolist()
    assert str(MOVED) not in table.column("view").to_pylist()


def test_a_v_beat_that_is_not_read_is_missed() -> None:
    made = _predict("N" * 900 + "V" * 2000, false_logit=-1.2)
    logits = made.logits + np.random.default_rng(0).normal(0, 2.0, len(made.rows))
    made.beat_logits[950] = -1.3
    output = FoldOutput(made.rows, logits, made.beat_logits, (0.5,), 10)
    judged = judge_folds(made.dataset, [output], n_missed=3)
    assert judged.config.abstention.min_beat_logit == -1.0
    assert not judged.dataset.is_readable[950]
    assert judged.n_missed == 4


# The limit of runs, chosen on predictions that are written down.


def _rows(*rows: tuple[float, str]) -> RecordCalls:
    """Make a record of rows of V calls, each of one probability, with an N before each."""
    probability: list[float] = []
    label = ""
    for mean, row in rows:
        probability += [0.0, *[mean] * len(row)]
        label += "N" + row
    p = np.array(probability)
    return RecordCalls(
        positions=180 * np.arange(len(p)),
        is_readable=np.ones(len(p), dtype=np.bool_),
        is_v=p >= 0.4,
        probability_v=p,
        label=np.array(list(label)),
        fs=360.0,
    )


def test_the_least_limit_that_rejects_false_runs_is_chosen() -> None:
    records = [_rows((0.88, "VVV"), (0.85, "VVVV"), (0.62, "NNN")), _rows((0.61, "NNNNN"))]
    assert choose_run_threshold(records, threshold=0.4) == 0.65


def test_a_false_run_weighs_as_much_as_four_missed() -> None:
    false = _rows((0.72, "NNN"))
    sure = _rows(*[(0.9, "VVV")] * 20)
    for n_lost, limit in ((3, 0.75), (5, 0.0)):
        lost = _rows(*[(0.7, "VVV")] * n_lost)
        assert choose_run_threshold([false, sure, lost], threshold=0.4) == limit


@pytest.mark.parametrize(
    ("hours", "limit"),
    [(0.1, 0.85), (10.0, 0.85), (19.9, 0.85), (20.1, 0.75), (29.9, 0.75), (30.1, 0.0)],
)
def test_no_database_has_more_than_one_false_run_in_ten_hours(hours: float, limit: float) -> None:
    """Or more than one in less time, and whatever the F0.5 of all runs says."""
    found = [_rows(*[(mean, "VVV")] * 100) for mean in (0.7, 0.83, 0.9)]
    noisy = _rows((0.72, "NNN"), (0.81, "NNN"), (0.9, "NNN"), (0.0, "N"))
    noisy.positions[-1] = round(hours * 3600 * 360)
    records = [*found, noisy._replace(database="another")]
    assert choose_run_threshold(records, threshold=0.4) == limit


def test_false_runs_that_no_limit_rejects_make_it_no_stricter() -> None:
    found = [_rows(*[(mean, "VVV")] * 100) for mean in (0.7, 0.83)]
    sure = _rows((0.96, "NNN"), (0.97, "NNN"), (0.98, "NNN"))._replace(database="another")
    assert choose_run_threshold([*found, sure], threshold=0.4) == 0.0
    doubtful = _rows((0.96, "NNN"), (0.97, "NNN"), (0.72, "NNN"))._replace(database="another")
    assert choose_run_threshold([*found, doubtful], threshold=0.4) == 0.75


def test_a_run_is_true_when_three_in_a_row_of_it_are_v_or_f() -> None:
    sure = _rows(*[(0.9, "VVV")] * 20)
    assert choose_run_threshold([sure, _rows((0.5, "NVFVN"))], threshold=0.4) == 0.0
    assert choose_run_threshold([sure, _rows((0.5, "VVNVV"))], threshold=0.4) == 0.55


def test_sure_runs_are_runs_whatever_the_limit() -> None:
    records = [_rows((0.95, "VVV"), (0.95, "NNN")), _rows((0.6, "NNN"))]
    means, is_true = judge_runs(records, threshold=0.4)
    assert means.tolist() == [1.0, 1.0, pytest.approx(0.6)]
    assert is_true.tolist() == [True, False, False]


def test_without_a_run_there_is_no_limit() -> None:
    assert choose_run_threshold([_rows((0.9, "VV"))], threshold=0.4) == 0.0
    assert choose_run_threshold([], threshold=0.4) == 0.0
