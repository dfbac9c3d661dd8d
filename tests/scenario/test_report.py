"""The scenario fails when anything is not as it must be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ecg_lib.classifier.bundle import Bundle
from tests.scenario.report import (
    Champion,
    Outcome,
    describe_champion,
    find_faults,
    write_result,
    write_table,
)

CHAMPION = Champion(
    network="n", folds="f", config="c", out_of_fold="o", figures="g", v_f1=0.99, recipe="r"
)


def _outcome(**changes: Any) -> Outcome:  # noqa: ANN401  fields of any type
    fields: dict[str, Any] = {
        "undisturbed": CHAMPION,
        "champion": CHAMPION,
        "version": "2",
        "bento_tag": "ecg:b",
        "served": {"a": "ecg:b", "b": "ecg:b"},
        "released": "ecg:b",
        "answered": ["1", "2"],
        "failed": [],
        "tried_again": 1,
        "logged": ["1", "2", "3"],
        "cut_off": [4],
        "trials": {"COMPLETE": 1, "PRUNED": 1, "FAIL": 1},
        "done_recipes": ["x", "y"],
        "n_trials": 2,
        "by_model": {"1": 1, "2": 1},
        "starts": {"a": 2, "b": 1},
        "ended_connections": 12,
        "frozen_s": 10.0,
        "slowest_s": 0.5,
        "logged_after_s": 0.1,
        "taken_after_s": {"a": 1.0, "b": 2.0},
        "seconds": {"disturbed pipeline": 60.0},
    }
    return Outcome(**{**fields, **changes})


def test_a_run_that_lost_nothing_has_no_fault() -> None:
    assert find_faults(_outcome()) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"champion": replace(CHAMPION, network="m")}, "undisturbed run, others: network"),
        ({"champion": replace(CHAMPION, v_f1=0.98)}, "undisturbed run, others: v_f1"),
        ({"released": "ecg:a"}, "the store must name ecg:b, it names ecg:a"),
        ({"served": {"a": "ecg:b", "b": None}}, "b must serve ecg:b, it serves None"),
        ({"answered": []}, "none was"),
        ({"answered": ["1", "1"]}, "an id of its own"),
        ({"logged": ["1"]}, "must be in the log, 1 of 2 are not"),
        ({"logged": ["1", "2", "2"]}, "must be in the log once, 1 are more often"),
        ({"failed": ["ReadTimeout"]}, "no request may fail: ['ReadTimeout']"),
        ({"cut_off": []}, "a trial must be cut off"),
        ({"done_recipes": ["x"]}, "2 trials must have a result, 1 have"),
        ({"done_recipes": ["x", "x"]}, "each recipe must have one result"),
        ({"trials": {"COMPLETE": 2, "RUNNING": 1}}, "no trial may stay open"),
    ],
)
def test_what_is_not_as_it_must_be_is_a_fault(changes: dict[str, Any], fault: str) -> None:
    (found,) = find_faults(_outcome(**changes))
    assert fault in found


def test_table_and_file_name_both_champions_and_no_prediction() -> None:
    outcome = _outcome(answered=["one-id", "2"])
    table = "\n".join(write_table(outcome))
    assert table.count(CHAMPION.hash[:16]) == 2
    assert "requests answered / failed" in table
    written = write_result(outcome, about={"machine": "m"}, faults=["x"])
    assert "one-id" not in written
    content = json.loads(written)
    assert (content["n_answered"], content["n_logged"], content["faults"]) == (2, 3, ["x"])


def test_champions_differ_by_content_and_not_by_name_or_speed(
    toy_bundle: Bundle, make_toy_bundle: Callable[..., Bundle]
) -> None:
    one = describe_champion(toy_bundle, {"seed": "0"})
    assert one == describe_champion(make_toy_bundle("other"), {"seed": "0"})
    assert one.hash != describe_champion(toy_bundle, {"seed": "1"}).hash
    assert one.hash != describe_champion(make_toy_bundle(threshold=0.4), {"seed": "0"}).hash
    assert one.hash != describe_champion(make_toy_bundle(steepness=9.0), {"seed": "0"}).hash
