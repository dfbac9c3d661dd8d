"""The rules, each condition at its limit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecg_lib.classifier.rule_guard import (
    CATALOGUE,
    IN_FORCE,
    Rule,
    RuleGuardConfig,
    apply_rules,
    propose_changes,
)
from ecg_lib.signal_path.features import FEATURE_NAMES

CONDUCTED = {"qrs_similarity": 0.99, "beat_similarity": 0.99, "qrs_width_ratio": 0.0}
VENTRICULAR = {
    "rr_prev_ratio": np.log(0.7),
    "rr_next_ratio": 0.2,
    "qrs_width_s": 0.14,
    "qrs_similarity": 0.2,
}


def _features(**values: float) -> NDArray[np.float32]:
    row = np.zeros((1, len(FEATURE_NAMES)), dtype=np.float32)
    for name, value in values.items():
        row[0, FEATURE_NAMES.index(name)] = value
    return row


def _apply(
    probability: float, features: NDArray[np.float32], *, threshold: float = 0.5
) -> tuple[bool, str]:
    is_v, rule = apply_rules(np.array([probability]), features, threshold=threshold)
    return bool(is_v[0]), str(rule[0])


def test_no_rule_makes_a_v_beat_normal() -> None:
    assert _apply(0.6, _features(**CONDUCTED)) == (True, Rule.NONE)


def test_a_premature_and_wide_beat_is_v() -> None:
    assert _apply(0.4, _features(**VENTRICULAR)) == (True, Rule.PREMATURE_AND_WIDE)


@pytest.mark.parametrize(
    "change",
    [
        {"rr_prev_ratio": np.log(0.82)},
        {"rr_next_ratio": -0.01},
        {"qrs_width_s": 0.11},
        {"qrs_similarity": 0.61},
    ],
)
def test_every_condition_of_a_ventricular_beat_counts(change: dict[str, float]) -> None:
    assert _apply(0.4, _features(**(VENTRICULAR | change))) == (False, Rule.NONE)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_a_sure_answer_is_left_alone(threshold: float) -> None:
    at = np.log(threshold / (1 - threshold))

    def probability(logit: float) -> float:
        return float(1 / (1 + np.exp(-logit)))

    ventricular = _features(**VENTRICULAR)
    assert _apply(probability(at - 2.01), ventricular, threshold=threshold) == (False, "")
    assert _apply(probability(at - 1.99), ventricular, threshold=threshold)[0] is True


def test_a_rule_that_agrees_with_the_network_does_not_name_itself() -> None:
    assert _apply(0.4, _features(**CONDUCTED)) == (False, "")
    assert _apply(0.6, _features(**VENTRICULAR)) == (True, "")


def test_a_probability_at_the_threshold_is_v() -> None:
    nothing = _features(qrs_similarity=0.8)
    assert _apply(0.3, nothing, threshold=0.3) == (True, "")
    assert _apply(np.nextafter(0.3, 0), nothing, threshold=0.3) == (False, "")


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_certainty_does_not_divide_by_zero(probability: float) -> None:
    assert _apply(probability, _features(**CONDUCTED)) == (probability == 1.0, "")


@pytest.mark.parametrize(("band", "found"), [(20.71, False), (20.74, True)])
def test_a_certain_answer_lies_20_logits_from_an_even_one(band: float, found: bool) -> None:  # noqa: FBT001
    # 0 and 1 count as 1e-9 and 1 - 1e-9: log(1e-9) is -20.723.
    config = RuleGuardConfig(band_logit=band)
    of_n = propose_changes(np.zeros(1), _features(**VENTRICULAR), threshold=0.5, config=config)
    of_v = propose_changes(np.ones(1), _features(**CONDUCTED), threshold=0.5, config=config)
    assert (of_n.any(), of_v.any()) == (found, found)


def test_limits_come_from_the_configuration() -> None:
    is_v, _ = apply_rules(
        np.array([0.4]),
        _features(**VENTRICULAR),
        threshold=0.5,
        config=RuleGuardConfig(band_logit=0.0),
    )
    assert is_v.tolist() == [False]


def test_no_beats_have_no_classes() -> None:
    is_v, rule = apply_rules(
        np.zeros(0), np.zeros((0, len(FEATURE_NAMES)), np.float32), threshold=0.5
    )
    assert len(is_v) == len(rule) == 0


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.floats(0.01, 0.99))
def test_a_class_differs_from_the_networks_only_where_a_rule_is_named(
    seed: int, threshold: float
) -> None:
    rng = np.random.default_rng(seed)
    probability = rng.random(200)
    features = rng.normal(0.3, 0.6, (200, len(FEATURE_NAMES))).astype(np.float32)
    is_v, rule = apply_rules(probability, features, threshold=threshold)
    np.testing.assert_array_equal(is_v != (probability >= threshold), rule != "")
    assert set(rule) <= {kind.value for kind in Rule}


WIDE = {"qrs_width_s": 0.14, "qrs_similarity": 0.2}
EXAMPLES: dict[Rule, tuple[bool, dict[str, float], list[dict[str, float]]]] = {
    Rule.PREMATURE_AND_WIDE: (True, VENTRICULAR, []),
    Rule.COMPENSATORY_PAUSE: (
        True,
        {"rr_prev_ratio": np.log(0.6), "rr_next_ratio": np.log(1.4), **WIDE},
        [
            {"rr_prev_ratio": np.log(0.95), "rr_next_ratio": np.log(1.05)},
            {"rr_next_ratio": np.log(1.2)},
            {"qrs_width_s": 0.1},
            {"qrs_similarity": 0.85},
        ],
    ),
    Rule.INTERPOLATED: (
        True,
        {"rr_prev_ratio": np.log(0.45), "rr_next_ratio": np.log(0.55), **WIDE},
        [{"rr_next_ratio": np.log(0.8)}, {"qrs_width_s": 0.1}, {"qrs_similarity": 0.7}],
    ),
    Rule.VENTRICULAR_ESCAPE: (
        True,
        {"rr_prev_ratio": np.log(1.4), **WIDE},
        [{"rr_prev_ratio": np.log(1.1)}, {"qrs_width_s": 0.1}, {"qrs_similarity": 0.7}],
    ),
    Rule.CONDUCTED_SHAPE: (
        False,
        {"qrs_similarity": 0.98},
        [{"qrs_similarity": 0.94}, {"rr_prev_ratio": np.log(0.8)}],
    ),
    Rule.CONDUCTED_WIDTH: (
        False,
        {"qrs_similarity": 0.92, "qrs_width_s": 0.09},
        [{"qrs_similarity": 0.85}, {"qrs_width_s": 0.13}, {"qrs_width_ratio": 0.2}],
    ),
    Rule.CONDUCTED_P_WAVE: (
        False,
        {"qrs_similarity": 0.92, "p_similarity": 0.95},
        [{"qrs_similarity": 0.85}, {"p_similarity": 0.8}, {"rr_prev_ratio": np.log(0.8)}],
    ),
}


def _proposes(rule: Rule, probability: float, features: NDArray[np.float32]) -> bool:
    changes = propose_changes(np.array([probability]), features, threshold=0.5)
    return bool(changes[0, CATALOGUE.index(rule)])


@pytest.mark.parametrize("rule", EXAMPLES)
def test_each_rule_finds_its_example_and_nothing_beside_it(rule: Rule) -> None:
    is_v, example, others = EXAMPLES[rule]
    against, agreed = (0.4, 0.6) if is_v else (0.6, 0.4)
    assert _proposes(rule, against, _features(**example))
    assert not _proposes(rule, agreed, _features(**example))
    assert not _proposes(rule, 0.01 if is_v else 0.99, _features(**example))
    for change in others:
        assert not _proposes(rule, against, _features(**(example | change))), change


def test_a_beat_of_a_run_is_of_the_shape_of_a_v_beat_beside_it() -> None:
    row = {"rr_prev_ratio": np.log(0.7), "qrs_similarity": 0.2}
    alike = _features(**row, similarity_to_previous=0.95, similarity_to_next=0.95)
    unlike = _features(**row)
    for features, found in ((alike, [True, False, True]), (unlike, [False, False, False])):
        changes = propose_changes(
            np.array([0.4, 0.9, 0.4]), np.concatenate([features] * 3), threshold=0.5
        )
        assert changes[:, CATALOGUE.index(Rule.RUN)].tolist() == found
    assert not _proposes(Rule.RUN, 0.4, alike)


def test_what_is_in_force_is_what_its_rules_propose() -> None:
    rng = np.random.default_rng(1)
    probability = rng.random(5000)
    features = rng.normal(0.2, 0.6, (5000, len(FEATURE_NAMES))).astype(np.float32)
    proposed = propose_changes(probability, features, threshold=0.5)
    assert proposed.shape == (5000, len(CATALOGUE))
    assert (proposed.sum(axis=0) > 0).all()
    guarded = apply_rules(probability, features, threshold=0.5)
    columns = [CATALOGUE.index(rule) for rule in IN_FORCE]
    np.testing.assert_array_equal(guarded.rule != "", proposed[:, columns].any(axis=1))
    silent = RuleGuardConfig(band_logit=0.0)
    assert (apply_rules(probability, features, threshold=0.5, config=silent).rule == "").all()
    of_silent = propose_changes(probability, features, threshold=0.5, config=silent)
    np.testing.assert_array_equal(of_silent, proposed)
    nothing = propose_changes(probability[:0], features[:0], threshold=0.5)
    assert nothing.shape == (0, len(CATALOGUE))


def test_the_usual_limits_are_those_of_the_sources() -> None:
    assert RuleGuardConfig() == RuleGuardConfig(
        band_logit=2.0, premature_rr_ratio=0.8, wide_qrs_s=0.12, wide_similarity=0.6
    )
    assert IN_FORCE == (Rule.PREMATURE_AND_WIDE,)
    assert len(CATALOGUE) == 8
    assert Rule.NONE not in CATALOGUE


LIMITS: list[tuple[Rule, str, float, float]] = [
    # rule, feature, a value that the rule takes, and one just beyond its limit
    (Rule.PREMATURE_AND_WIDE, "rr_prev_ratio", np.log(0.799), np.log(0.801)),
    (Rule.PREMATURE_AND_WIDE, "rr_next_ratio", 0.001, 0.0),
    (Rule.PREMATURE_AND_WIDE, "qrs_width_s", 0.1201, 0.1199),
    (Rule.PREMATURE_AND_WIDE, "qrs_similarity", 0.599, 0.601),
    (Rule.COMPENSATORY_PAUSE, "rr_next_ratio", np.log(1.301), np.log(1.299)),
    (Rule.COMPENSATORY_PAUSE, "rr_next_ratio", np.log(1.499), np.log(1.501)),
    (Rule.COMPENSATORY_PAUSE, "qrs_width_s", 0.1201, 0.1199),
    (Rule.COMPENSATORY_PAUSE, "qrs_similarity", 0.799, 0.801),
    (Rule.INTERPOLATED, "rr_next_ratio", np.log(0.401), np.log(0.399)),
    (Rule.INTERPOLATED, "rr_next_ratio", np.log(0.699), np.log(0.701)),
    (Rule.INTERPOLATED, "qrs_similarity", 0.599, 0.601),
    (Rule.VENTRICULAR_ESCAPE, "rr_prev_ratio", np.log(1.201), np.log(1.199)),
    (Rule.VENTRICULAR_ESCAPE, "qrs_similarity", 0.599, 0.601),
    (Rule.CONDUCTED_SHAPE, "qrs_similarity", 0.951, 0.949),
    (Rule.CONDUCTED_SHAPE, "rr_prev_ratio", np.log(0.901), np.log(0.899)),
    (Rule.CONDUCTED_WIDTH, "qrs_similarity", 0.901, 0.899),
    (Rule.CONDUCTED_WIDTH, "qrs_width_s", 0.1199, 0.1201),
    (Rule.CONDUCTED_WIDTH, "qrs_width_ratio", np.log(1.099), np.log(1.101)),
    (Rule.CONDUCTED_P_WAVE, "qrs_similarity", 0.901, 0.899),
    (Rule.CONDUCTED_P_WAVE, "p_similarity", 0.901, 0.899),
    (Rule.CONDUCTED_P_WAVE, "rr_prev_ratio", np.log(0.901), np.log(0.899)),
]


@pytest.mark.parametrize(("rule", "feature", "within", "beyond"), LIMITS)
def test_each_limit_of_a_rule_decides_on_both_of_its_sides(
    rule: Rule, feature: str, within: float, beyond: float
) -> None:
    is_v, example, _ = EXAMPLES[rule]
    probability = 0.4 if is_v else 0.6
    assert _proposes(rule, probability, _features(**(example | {feature: within})))
    assert not _proposes(rule, probability, _features(**(example | {feature: beyond})))


@pytest.mark.parametrize(
    ("first_ratio", "found"), [(0.899, True), (0.901, False)], ids=["early", "on time"]
)
def test_a_compensated_beat_is_early(first_ratio: float, *, found: bool) -> None:
    beat = _features(
        rr_prev_ratio=np.log(first_ratio), rr_next_ratio=np.log(2 - first_ratio), **WIDE
    )
    assert _proposes(Rule.COMPENSATORY_PAUSE, 0.4, beat) is found


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, True),
        ({"rr_prev_ratio": np.log(0.899)}, True),
        ({"rr_prev_ratio": np.log(0.901)}, False),
        ({"qrs_similarity": 0.599}, True),
        ({"qrs_similarity": 0.601}, False),
        ({"similarity_to_previous": 0.901}, True),
        ({"similarity_to_previous": 0.899}, False),
        ({"similarity_to_previous": 0.0, "similarity_to_next": 0.99}, False),
    ],
    ids=str,
)
def test_each_condition_of_a_run_counts(change: dict[str, float], *, found: bool) -> None:
    row = {"rr_prev_ratio": np.log(0.7), "qrs_similarity": 0.2, "similarity_to_previous": 0.95}
    beats = np.concatenate([_features(), _features(**(row | change)), _features()])
    changes = propose_changes(np.array([0.9, 0.4, 0.2]), beats, threshold=0.5)
    assert changes[:, CATALOGUE.index(Rule.RUN)].tolist() == [False, found, False]


@pytest.mark.parametrize(("similarity", "found"), [(0.901, True), (0.899, False)])
def test_a_beat_before_a_v_beat_of_its_shape_is_of_the_run(
    similarity: float, *, found: bool
) -> None:
    row = _features(rr_prev_ratio=np.log(0.7), qrs_similarity=0.2, similarity_to_next=similarity)
    beats = np.concatenate([_features(), row, _features()])
    changes = propose_changes(np.array([0.2, 0.4, 0.9]), beats, threshold=0.5)
    assert changes[:, CATALOGUE.index(Rule.RUN)].tolist() == [False, found, False]


def test_both_rr_intervals_are_counted_in_usual_ones() -> None:
    """An interpolated beat at the middle has two halves, not a half twice over."""
    halves = {"rr_prev_ratio": np.log(0.3), "rr_next_ratio": np.log(0.7), **WIDE}
    assert _proposes(Rule.INTERPOLATED, 0.4, _features(**halves))


def test_the_band_is_that_of_the_configuration() -> None:
    def change(config: RuleGuardConfig) -> list[bool]:
        probability = 1 / (1 + np.exp(np.array([0.99, 1.01])))
        rows = np.concatenate([_features(**VENTRICULAR)] * 2)
        return apply_rules(probability, rows, threshold=0.5, config=config).is_v.tolist()

    assert change(RuleGuardConfig(band_logit=1.0)) == [True, False]
    assert change(RuleGuardConfig()) == [True, True]
    probability = np.array([0.4])
    narrow = RuleGuardConfig(band_logit=0.1)
    changes = propose_changes(probability, _features(**VENTRICULAR), threshold=0.5, config=narrow)
    assert not changes.any()


@pytest.mark.parametrize(
    ("config", "feature", "at_limit", "found"),
    [
        (RuleGuardConfig(wide_qrs_s=0.125), "qrs_width_s", 0.125, True),
        (RuleGuardConfig(wide_similarity=0.5), "qrs_similarity", 0.5, False),
        (RuleGuardConfig(premature_rr_ratio=1.0), "rr_prev_ratio", 0.0, True),
    ],
)
def test_a_beat_at_a_limit_of_the_configuration(
    config: RuleGuardConfig, feature: str, at_limit: float, *, found: bool
) -> None:
    """At limits that single precision holds exactly."""
    beat = _features(**(VENTRICULAR | {feature: at_limit}))
    is_v, _ = apply_rules(np.array([0.4]), beat, threshold=0.5, config=config)
    assert is_v.tolist() == [found]


def test_a_rule_proposes_nothing_for_a_beat_that_the_threshold_calls_v() -> None:
    ventricular = _features(**VENTRICULAR)
    at_threshold = propose_changes(np.array([0.5]), ventricular, threshold=0.5)
    assert not at_threshold[0, CATALOGUE.index(Rule.PREMATURE_AND_WIDE)]
    below = propose_changes(np.array([np.nextafter(0.5, 0)]), ventricular, threshold=0.5)
    assert below[0, CATALOGUE.index(Rule.PREMATURE_AND_WIDE)]


def test_a_narrow_beat_and_one_of_a_run_at_a_limit_of_the_configuration() -> None:
    """At limits that single precision holds exactly, which both exclude."""
    config = RuleGuardConfig(wide_qrs_s=0.125, wide_similarity=0.5)

    def proposes(rule: Rule, calls: list[float], **of_second: float) -> bool:
        beats = np.concatenate([_features(), _features(**of_second)])
        changes = propose_changes(np.array(calls), beats, threshold=0.5, config=config)
        return bool(changes[1, CATALOGUE.index(rule)])

    def narrow(width_s: float) -> bool:
        return proposes(Rule.CONDUCTED_WIDTH, [0.1, 0.6], qrs_similarity=0.92, qrs_width_s=width_s)

    def of_run(similarity: float) -> bool:
        beat = {"rr_prev_ratio": np.log(0.7), "similarity_to_previous": 0.95}
        return proposes(Rule.RUN, [0.9, 0.4], qrs_similarity=similarity, **beat)

    assert (narrow(0.124), narrow(0.125)) == (True, False)
    assert (of_run(0.499), of_run(0.5)) == (True, False)


def test_a_beat_at_the_edge_of_the_band_is_left_alone() -> None:
    distance = float(np.log(0.25) - np.log1p(-0.25))  # 0.25, from the even 0.5
    beat = _features(**VENTRICULAR)

    def found(band: float) -> bool:
        config = RuleGuardConfig(band_logit=band)
        return bool(propose_changes(np.array([0.25]), beat, threshold=0.5, config=config).any())

    assert not found(abs(distance))
    assert found(np.nextafter(abs(distance), 2))
