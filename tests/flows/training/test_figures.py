"""Figures of runs: whole SVG, with what they are of."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np

from ecg_lib.evaluation.beat_scoring import BeatCounts
from flows.training.figures import (
    draw_history,
    draw_importances,
    draw_losses,
    draw_precision_recall,
    draw_records,
    draw_reliability,
)

SVG = "{http://www.w3.org/2000/svg}"


def _parse(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314  our own


def _words(root: ET.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


def test_the_threshold_is_marked_where_it_cuts_the_curve() -> None:
    rng = np.random.default_rng(0)
    is_v = rng.random(5000) < 0.2
    probabilities = np.clip(np.where(is_v, 0.8, 0.2) + 0.15 * rng.standard_normal(5000), 0, 1)
    root = _parse(draw_precision_recall(probabilities, is_v, n_missed=10, threshold=0.5))
    assert "threshold 0.500" in _words(root)
    (dot,) = root.iter(f"{SVG}circle")
    called = probabilities >= 0.5
    sensitivity = (called & is_v).sum() / (is_v.sum() + 10)
    assert float(dot.attrib["cx"]) == np.round(18 + (sensitivity - 0.5) / 0.5 * 116, 2)


def test_a_threshold_that_nothing_reaches_is_not_marked() -> None:
    root = _parse(
        draw_precision_recall(np.full(9, 0.3), np.ones(9, bool), n_missed=0, threshold=0.9)
    )
    assert not list(root.iter(f"{SVG}circle"))


def test_reliability_has_a_point_for_each_bin_with_beats() -> None:
    probabilities = np.array([0.05, 0.06, 0.55, 0.95])
    root = _parse(draw_reliability(probabilities, np.array([False, False, True, True]), n_bins=10))
    assert len(list(root.iter(f"{SVG}circle"))) == 3


def test_the_history_shows_each_trial_and_the_best_so_far() -> None:
    root = _parse(draw_history([0.80, None, 0.90, 0.85]))
    fills = [dot.attrib["fill"] for dot in root.iter(f"{SVG}circle")]
    assert len(fills) == 4
    assert fills[1] != fills[0] == fills[2] == fills[3]  # the pruned one
    best = list(root.iter(f"{SVG}polyline"))[-1].attrib["points"].split()
    heights = [float(point.partition(",")[2]) for point in best]
    assert heights == sorted(heights, reverse=True)  # it never falls
    assert best[-1].startswith(f"{18 + 3 / 5 * 116:.2f},")  # up to the last trial
    assert {"0", "1", "2", "3", "4", "5"} <= set(_words(root))
    _parse(draw_history([]))
    _parse(draw_history([None, None]))


def test_the_most_important_parameter_has_the_longest_bar_and_is_first() -> None:
    root = _parse(draw_importances({"dropout": 0.2, "width": 0.7, "noise": 0.0}, n_trials=9))
    words = _words(root)
    assert "Importance of parameters (PED-ANOVA, 9 complete trials)" in words
    assert [word for word in words if word in {"dropout", "width", "noise"}] == [
        "width", "dropout", "noise",
    ]  # fmt: skip
    lengths = [float(bar.attrib["width"]) for bar in root.iter(f"{SVG}rect")]
    assert lengths == [56.0, 16.0, 0.3]


def test_each_fold_has_a_curve_and_no_epoch_is_not_an_error() -> None:
    root = _parse(draw_losses([[0.5, 0.3, 0.2], [0.6, 0.4, 0.3]]))
    assert {"fold 0", "fold 1"} <= set(_words(root))
    assert [len(p.attrib["points"].split()) for p in root.iter(f"{SVG}polyline")][-2:] == [3, 3]
    _parse(draw_losses([]))


def test_each_record_has_its_errors_as_bars_the_worst_first() -> None:
    counts = {
        "101": BeatCounts(v_beats=5, v_true=5),
        "106": BeatCounts(v_beats=9, v_true=4, v_false=2),
    }
    root = _parse(draw_records(counts))
    hints = [hint.text for hint in root.iter(f"{SVG}title")]
    assert hints == ["106: 5", "106: 2", "101: 0", "101: 0"]
    _parse(draw_records({}))
