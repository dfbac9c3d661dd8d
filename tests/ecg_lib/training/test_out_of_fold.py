"""Calibration, threshold, rules and figures of out-of-fold predictions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ecg_lib.classifier.rule_guard import RuleGuardConfig, apply_rules
from ecg_lib.records.annotations import Annotations
from ecg_lib.signal_path.features import FEATURE_NAMES
from ecg_lib.training.out_of_fold import choose_rules, count_whole_records

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
