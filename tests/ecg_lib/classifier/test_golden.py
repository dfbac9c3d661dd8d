from __future__ import annotations

import json

import numpy as np

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.classifier.golden import check_golden


def test_a_bundle_answers_its_own_golden_requests(toy_bundle: Bundle) -> None:
    assert check_golden(BeatClassifier.load(toy_bundle), toy_bundle.golden.read_text()) == ()


def test_golden_requests_know_pvcs_and_refuse_what_is_no_ecg(toy_bundle: Bundle) -> None:
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
