from __future__ import annotations

from typing import Any

import pytest

from ecg_lib.operations.learning.review_queue import weigh_doubt


def beat(index: int, kind: str | None = "N", confidence: float = 0.99, **more: Any) -> Any:  # noqa: ANN401  JSON
    return {
        "beat_index": index,
        "arrhythmia_type": kind,
        "confidence": confidence,
        "rule": None,
        **more,
    }


def weigh(*beats: Any, alike: list[float | None] | None = None) -> Any:  # noqa: ANN401  JSON
    observed = {} if alike is None else {"template_correlation": alike}
    return weigh_doubt({"beat_predictions": list(beats)}, observed)


def test_doubt_is_twice_the_probability_of_the_other_class() -> None:
    sure = weigh(beat(0), beat(1, confidence=0.8))
    assert sure.score == pytest.approx(0.4)
    assert sure.reasons == ()
    unsure = weigh(beat(0), beat(1, "V", confidence=0.75))
    assert unsure.score == pytest.approx(0.5)
    assert unsure.reasons == ("beat 1 is V with a probability of 0.75",)
    assert weigh(beat(0, confidence=0.3)).score == 1.0


def test_a_rule_that_changed_a_class_is_a_doubt() -> None:
    found = weigh(beat(0), beat(1), beat(2, rule="band"))
    assert (found.score, len(found.reasons)) == (0.75, 1)


def test_a_beat_that_is_n_in_another_shape_is_a_doubt_and_a_v_beat_is_not() -> None:
    found = weigh(beat(0), beat(1), alike=[0.9, 0.2])
    assert found.score == pytest.approx(0.75)
    assert found.reasons == ("beat 1 is N in a shape unlike the others",)
    assert weigh(beat(0), beat(1, "V"), alike=[0.8, 0.2]).score == pytest.approx(0.02)
    assert weigh(beat(0), alike=[None]).score == pytest.approx(0.02)


def test_reasons_come_with_the_strongest_first() -> None:
    found = weigh(beat(0, confidence=0.55), beat(1, rule="band"), alike=[0.99, -1.0])
    assert [reason.split()[1] for reason in found.reasons] == ["1", "0", "rule"]
    assert found.score == 1.0


def test_rows_without_beats_or_of_earlier_code_have_no_doubt() -> None:
    assert weigh_doubt({}, {}) == (0.0, ())
    assert weigh(beat(0, None)) == (0.0, ())
    assert weigh_doubt({"beat_predictions": [{"arrhythmia_type": "N"}]}, {}) == (0.0, ())
