from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.classifier.golden import check_golden


def test_a_bundle_answers_its_own_golden_requests(toy_bundle: Bundle) -> None:
    assert check_golden(BeatClassifier.load(toy_bundle), toy_bundle.golden.read_text()) == ()


def test_golden_requests_find_pvcs_and_reject_noise(toy_bundle: Bundle) -> None:
    answers = {
        request["name"]: request["answer"]
        for request in json.loads(toy_bundle.golden.read_text())["requests"]
    }
    assert answers["flat 11"] == {"refused": True}
    assert answers["noise_only 11"] == {"refused": True}
    assert set(answers["normal 11"]["arrhythmia_type"]) == {"N"}
    assert answers["run 11"]["arrhythmia_type"].count("V") == 5


def test_another_classifier_is_told_by_name_and_difference(toy_bundle: Bundle) -> None:
    class Other(BeatClassifier):
        def predict_logits(self, windows: np.ndarray, features: np.ndarray) -> np.ndarray:
            return super().predict_logits(windows, features) + 0.5

    failures = check_golden(Other.load(toy_bundle), toy_bundle.golden.read_text())
    assert any(
        failure.startswith("normal 11: probability_v must be the same") for failure in failures
    )


def without_requests(requests: list[dict[str, Any]]) -> object:
    del requests[:]
    return {"requests": requests}


def without_v(requests: list[dict[str, Any]]) -> object:
    return {
        "requests": [one for one in requests if "V" not in one["answer"].get("arrhythmia_type", ())]
    }


def too_few(requests: list[dict[str, Any]]) -> object:
    return {"requests": requests[:4]}


@pytest.mark.parametrize(
    "rewrite",
    [
        without_requests,
        without_v,
        too_few,
        lambda _: {},
        lambda _: [],
        lambda _: {"requests": None},
        lambda _: {"requests": [{"name": "x"}]},
        lambda requests: {"requests": [{**one, "answer": {}} for one in requests]},
    ],
)
def test_golden_requests_that_show_nothing_are_a_failure(
    toy_bundle: Bundle, rewrite: Callable[[list[dict[str, Any]]], object]
) -> None:
    requests = json.loads(toy_bundle.golden.read_text())["requests"]
    classifier = BeatClassifier.load(toy_bundle)
    (failure,) = check_golden(classifier, json.dumps(rewrite(requests)))
    assert "golden requests" in failure


def test_an_emptied_file_of_golden_requests_is_a_failure(toy_bundle: Bundle) -> None:
    assert len(check_golden(BeatClassifier.load(toy_bundle), "")) == 1
