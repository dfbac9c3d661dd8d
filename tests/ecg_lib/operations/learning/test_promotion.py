"""The promotion decision: each gate alone, on hand-made counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ecg_lib.classifier.bundle import DataSource
from ecg_lib.evaluation.beat_scoring import BeatCounts
from ecg_lib.operations.learning.promotion import (
    Challenger,
    NewPeople,
    PromotionDecision,
    PromotionPolicy,
    decide_promotion,
    estimate_seed_sd,
    find_spread,
)

POLICY = PromotionPolicy(n_resamples=300, seed_sd=0.0)
"""Without a spread of seeds, which has tests of its own."""


def _counts(*, v_true: int = 95, v_false: int = 2, **other: int) -> BeatCounts:
    usual = {"beats": 1000, "found": 1000, "v_beats": 100, "v_found": 100, "n_beats": 900}
    return BeatCounts(**(usual | {"v_true": v_true, "v_false": v_false} | other))


def _subjects(n: int = 12, **changes: int) -> dict[str, BeatCounts]:
    return {f"s{index:02d}": _counts(**changes) for index in range(n)}


def _challenger(**changes: Any) -> Challenger:  # noqa: ANN401
    good = Challenger(
        name="version 2",
        data_source=DataSource.MITDB,
        dataset_version="d1",
        counts=_subjects(),
        n_folds=5,
        microseconds_per_beat=20.0,
        runtime_difference=1e-6,
    )
    return replace(good, **changes)


def _decide(challenger: Challenger, champion: Challenger | None = None) -> PromotionDecision:
    return decide_promotion(challenger, champion, policy=POLICY)


def _failed(decision: PromotionDecision) -> list[str]:
    return [gate.name for gate in decision.gates if not gate.is_passed]


def test_a_good_first_model_is_promoted_with_all_its_reasons() -> None:
    decision = _decide(_challenger())
    assert decision.is_promoted
    assert len(decision.reasons) == len(decision.gates) == 5
    assert decision.reasons[0].startswith("V-F1: 0.9")


@pytest.mark.parametrize(
    ("changes", "gate", "words"),
    [
        ({"counts": _subjects(v_true=60, v_false=20)}, "V-F1", "at least 0.80 required"),
        ({"counts": _subjects(found=989)}, "QRS detection", "Se 0.9890"),
        ({"counts": _subjects(extra=20)}, "QRS detection", "+P 0.9804"),
        ({"microseconds_per_beat": 120.5}, "speed", "at most 120 allowed"),
        ({"microseconds_per_beat": float("nan")}, "speed", "nan us a beat"),
        (
            {"runtime_difference": 1.1e-4},
            "same answer in training and serving",
            "at most 1e-04 allowed",
        ),
        ({"runtime_difference": float("nan")}, "same answer in training and serving", "nan"),
        ({"golden_failures": ("run 11", "flat 12")}, "golden requests", "failed: run 11, flat 12"),
    ],
)
def test_each_gate_alone_stops_a_promotion_and_says_why(
    changes: dict[str, Any], gate: str, words: str
) -> None:
    decision = _decide(_challenger(**changes))
    assert not decision.is_promoted
    assert _failed(decision) == [gate]
    (reason,) = decision.reasons
    assert reason.startswith(f"{gate}: ")
    assert words in reason


def test_limits_themselves_pass() -> None:
    at_limit = _challenger(
        counts=_subjects(v_true=80, v_false=20, found=990, extra=10),
        microseconds_per_beat=120.0,
        runtime_difference=1e-4,
    )
    assert _decide(at_limit).is_promoted


def test_a_better_challenger_replaces_the_champion() -> None:
    decision = _decide(_challenger(), _challenger(name="version 1", counts=_subjects(v_true=90)))
    assert decision.is_promoted
    assert "against version 1" in decision.reasons[-1]


@pytest.mark.parametrize("v_true", [95, 96, 99])
def test_a_challenger_that_is_not_better_does_not(v_true: int) -> None:
    decision = _decide(_challenger(), _challenger(counts=_subjects(v_true=v_true)))
    assert _failed(decision) == ["better than champion"]


def test_better_on_average_but_worse_for_some_subjects_is_not_enough() -> None:
    ours = _subjects(11) | {"bad": _counts(v_true=60)}
    theirs = _subjects(11, v_true=91) | {"bad": _counts(v_true=95)}
    decision = _decide(_challenger(counts=ours), _challenger(counts=theirs))
    assert _failed(decision) == ["better than champion"]
    assert "+0.0" in decision.reasons[0]
    lenient = replace(POLICY, min_lower_bound=-0.1)
    assert decide_promotion(
        _challenger(counts=ours), _challenger(counts=theirs), policy=lenient
    ).is_promoted


def test_subjects_are_paired_by_name_not_by_order() -> None:
    ours = {"a": _counts(v_true=95), "b": _counts(v_true=65)}
    theirs = {"b": _counts(v_true=64), "a": _counts(v_true=94)}
    policy = replace(POLICY, min_lower_bound=0.0)
    assert decide_promotion(
        _challenger(counts=ours), _challenger(counts=theirs), policy=policy
    ).is_promoted


def test_the_least_difference_is_a_parameter() -> None:
    champion = _challenger(counts=_subjects(v_true=94))
    asked = replace(POLICY, min_difference=0.02)
    assert decide_promotion(_challenger(), champion, policy=POLICY).is_promoted
    assert not decide_promotion(_challenger(), champion, policy=asked).is_promoted


def test_other_subjects_cannot_be_compared() -> None:
    champion = _challenger(counts=_subjects() | {"another": _counts()}, dataset_version="d0")
    decision = _decide(_challenger(), champion)
    assert _failed(decision) == ["better than champion"]
    assert (
        "scored on fewer beats of 1 of 13 subjects (subject another: 0 of 1000)"
        in (decision.reasons[0])
    )


def test_a_challenger_of_more_people_is_compared_on_those_that_both_have() -> None:
    champion = _challenger(counts=_subjects(11, v_true=91), dataset_version="d0")
    more = _challenger(counts=_subjects(11, v_true=95) | {"of another": _counts(v_true=70)})
    better = _decide(more, champion)
    assert better.is_promoted
    assert "on the 11 of 12 subjects that both have" in better.reasons[-1]
    worse = _challenger(counts=_subjects(11, v_true=90) | {"of another": _counts(v_true=99)})
    assert _failed(_decide(worse, champion)) == ["better than champion"]


def test_simulated_never_replaces_real_however_good_it_is() -> None:
    simulated = _challenger(
        data_source=DataSource.SIMULATED, counts=_subjects(v_true=100, v_false=0)
    )
    decision = _decide(simulated, _challenger(counts=_subjects(v_true=85)))
    assert _failed(decision) == ["training data"]
    assert "a simulated model never replaces a real one" in decision.reasons[0]


def test_real_replaces_simulated_without_comparison_but_through_the_other_gates() -> None:
    champion = _challenger(
        data_source=DataSource.SIMULATED, counts={"sim001": _counts(v_true=100, v_false=0)}
    )
    assert _decide(_challenger(), champion).is_promoted
    slow = _decide(_challenger(microseconds_per_beat=500.0), champion)
    assert _failed(slow) == ["speed"]


def test_simulated_replaces_simulated_by_comparison() -> None:
    ours = _challenger(data_source=DataSource.SIMULATED)
    worse = replace(ours, counts=_subjects(v_true=90))
    assert _decide(ours, worse).is_promoted
    assert not _decide(worse, ours).is_promoted


def test_the_same_evidence_gives_the_same_decision() -> None:
    champion = _challenger(counts=_subjects(v_true=94))
    assert _decide(_challenger(), champion) == _decide(_challenger(), champion)


def test_a_comparison_of_other_numbers_of_folds_says_so() -> None:
    champion = _challenger(name="version 1", counts=_subjects(v_true=80))
    equal = _decide(_challenger(), champion)
    assert "folds" not in str(equal.reasons)
    fewer = _decide(_challenger(n_folds=3), champion)
    assert "3 folds against 5" in fewer.reasons[-1]
    assert "trained on fewer people" in fewer.reasons[-1]
    assert "trained on more people" in _decide(_challenger(n_folds=8), champion).reasons[-1]


def test_the_usual_limits_are_those_of_the_documentation() -> None:
    assert PromotionPolicy() == PromotionPolicy(
        min_v_f1=0.80,
        min_qrs_sensitivity=0.99,
        min_qrs_predictivity=0.99,
        max_microseconds_per_beat=120.0,
        min_difference=0.0,
        min_lower_bound=-0.005,
        confidence=0.90,
        n_resamples=2000,
        seed=0,
        seed_sd=0.009,
        min_new_people=5,
    )
    assert decide_promotion(_challenger(), None) == decide_promotion(
        _challenger(), None, policy=PromotionPolicy(n_resamples=2000)
    )


@pytest.mark.parametrize(
    ("changes", "is_promoted"),
    [
        ({"counts": _subjects(v_true=80, v_false=20)}, True),
        ({"counts": _subjects(v_true=80, v_false=21)}, False),
        ({"counts": _subjects(found=990)}, True),
        ({"counts": _subjects(found=989)}, False),
        ({"counts": _subjects(found=990, extra=10)}, True),
        ({"counts": _subjects(found=990, extra=11)}, False),
        ({"microseconds_per_beat": 120.0}, True),
        ({"microseconds_per_beat": 120.01}, False),
        ({"runtime_difference": 1e-4}, True),
        ({"runtime_difference": 1.01e-4}, False),
    ],
)
def test_each_limit_decides_on_both_of_its_sides(
    changes: dict[str, Any], *, is_promoted: bool
) -> None:
    assert _decide(_challenger(**changes)).is_promoted is is_promoted


def test_the_gates_give_their_figures() -> None:
    champion = _challenger(name="version 1", counts=_subjects(v_true=90), n_folds=3)
    reasons = _decide(_challenger(), champion).reasons
    assert reasons == (
        "V-F1: 0.9645 (95 % interval 0.964 to 0.964), at least 0.80 required",
        "QRS detection: Se 1.0000, +P 1.0000, at least 0.99 and 0.99 required",
        "speed: 20 us a beat, at most 120 allowed",
        (
            "same answer in training and serving: probabilities differ by up to 1.0e-06, "
            "at most 1e-04 allowed"
        ),
        "golden requests: all answered as expected",
        "training data: challenger on mitdb data, champion on mitdb",
        (
            "better than champion: V-F1 +0.0270 against version 1 "
            "(90% interval +0.0270 to +0.0270); more than +0.0000 and a lower bound above "
            "-0.0050 required; 5 folds against 3, "
            "so the challenger's judged networks were trained on more people"
        ),
    )


def test_the_seed_and_the_number_of_resamples_of_the_policy_are_used() -> None:
    counts = {f"s{index}": _counts(v_true=70 + 3 * index) for index in range(9)}
    theirs = {f"s{index}": _counts(v_true=69 + 3 * index - index % 4) for index in range(9)}
    mixed, champion = _challenger(counts=counts), _challenger(counts=theirs)

    def decide(**changes: Any) -> tuple[str, ...]:  # noqa: ANN401
        policy = replace(POLICY, min_v_f1=0.5, **changes)
        reasons = decide_promotion(mixed, champion, policy=policy).reasons
        return (reasons[0], reasons[-1])

    usual = decide()
    for changes in ({"seed": 1}, {"n_resamples": 30}):
        other = decide(**changes)
        assert other[0] != usual[0]
        assert other[1] != usual[1]
    assert decide(confidence=0.5)[0] == usual[0]
    assert decide(confidence=0.5)[1] != usual[1]


def test_a_difference_at_its_limits_is_not_enough() -> None:
    champion = _challenger(counts=_subjects(v_true=90))
    gain = _counts().v_f1 - _counts(v_true=90).v_f1
    for limit in ("min_difference", "min_lower_bound"):
        at_limit = replace(POLICY, **{limit: gain})
        below = replace(POLICY, **{limit: gain - 1e-6})
        assert not decide_promotion(_challenger(), champion, policy=at_limit).is_promoted
        assert decide_promotion(_challenger(), champion, policy=below).is_promoted


def test_a_simulated_challenger_is_not_compared_with_a_real_champion() -> None:
    simulated = _challenger(data_source=DataSource.SIMULATED)
    decision = _decide(simulated, _challenger())
    assert [gate.name for gate in decision.gates][5:] == ["training data"]
    real = _decide(_challenger(), _challenger(data_source=DataSource.SIMULATED))
    assert [(gate.name, gate.is_passed) for gate in real.gates][5:] == [
        ("training data", True),
        ("better than champion", True),
    ]
    assert "without comparison" in real.reasons[-1]


@pytest.mark.parametrize(("beats", "is_compared"), [(999, False), (1000, True), (1001, True)])
def test_a_challenger_that_is_scored_on_fewer_beats_of_anybody_is_not_compared(
    beats: int, *, is_compared: bool
) -> None:
    better = _subjects(v_true=99) | {"s03": _counts(v_true=99, beats=beats)}
    decision = _decide(_challenger(counts=better), _challenger())
    assert decision.is_promoted is is_compared
    reason = decision.gates[-1].reason
    assert ("fewer beats of 1 of 12 subjects (subject s03: 999 of 1000)" in reason) is (
        not is_compared
    )
    # With more beats a person is left out, as the champion was not judged on them.
    assert ("s03 left out" in reason) is (beats == 1001)


def test_the_first_of_those_with_fewer_beats_is_named_with_its_counts() -> None:
    fewer = {"s03": _counts(beats=700), "s07": _counts(beats=800)}
    decision = _decide(_challenger(counts=_subjects() | fewer), _challenger())
    assert "fewer beats of 2 of 12 subjects (subject s03: 700 of 1000)" in decision.reasons[0]


@pytest.mark.parametrize(("n_people", "is_promoted"), [(1, False), (2, True)])
def test_two_people_are_the_least_that_models_are_compared_on(
    n_people: int, *, is_promoted: bool
) -> None:
    better = _challenger(counts=_subjects(n_people, v_true=99))
    decision = _decide(better, _challenger(counts=_subjects(n_people)))
    assert decision.is_promoted is is_promoted
    assert ("dataset d1 and d1, 2 are needed" in decision.gates[-1].reason) is not is_promoted


@pytest.mark.parametrize(("n_changed", "is_compared"), [(6, True), (7, False)])
def test_people_who_were_annotated_otherwise_since_are_left_out(
    n_changed: int, *, is_compared: bool
) -> None:
    # The same beats of which other ones are V: half of the people must be as they were.
    changed = {f"s{n:02d}": _counts(v_true=99, v_beats=101) for n in range(n_changed)}
    decision = _decide(_challenger(counts=_subjects(v_true=99) | changed), _challenger())
    assert decision.is_promoted is is_compared
    reason = decision.gates[-1].reason
    if is_compared:
        assert "s00, s01, s02, s03, s04, s05 left out, annotated otherwise since" in reason
    else:
        assert "cannot be compared: 5 subjects have the same beats and classes" in reason


def test_people_of_the_site_that_are_gone_do_not_prevent_a_comparison() -> None:
    champion = _challenger(counts=_subjects() | {"site:1": _counts()})
    challenger = _challenger(counts=_subjects(v_true=99) | {"site:2": _counts(v_true=1)})
    assert _decide(challenger, champion).is_promoted


def test_people_of_the_site_are_not_in_the_absolute_limits() -> None:
    counts = _subjects() | {f"site:{n}": _counts(v_true=0, found=500) for n in range(12)}
    assert _decide(_challenger(counts=counts)).is_promoted


def _people(n: int, **changes: int) -> dict[str, BeatCounts]:
    usual = {"beats": 100, "found": 100, "v_beats": 20, "v_found": 20, "n_beats": 80}
    return {f"site:{index}": BeatCounts(**{**usual, **changes}) for index in range(n)}


def _decide_with(challenger: Challenger, new_people: NewPeople) -> PromotionDecision:
    return decide_promotion(
        challenger, _challenger(name="version 1"), new_people=new_people, policy=POLICY
    )


def test_a_gain_on_new_people_without_a_loss_on_the_common_set_is_promoted() -> None:
    gain = NewPeople(challenger=_people(5, v_true=18), champion=_people(5, v_true=12))
    decision = _decide_with(_challenger(), gain)
    assert decision.is_promoted
    assert [gate.name for gate in decision.gates[-2:]] == [
        "no loss on the common set",
        "gain on new people",
    ]
    # F1 is 2 TP / (TP + FP + V): 36 / 38 against 24 / 32.
    assert "V-F1 +0.1974 against version 1 on 5 held-out people with 100 V beats" in (
        decision.gates[-1].reason
    )
    loss = _challenger(counts=_subjects(v_true=93))
    assert _failed(_decide_with(loss, gain)) == ["no loss on the common set"]


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (_people(4, v_true=18), _people(4, v_true=12), "4 held-out people, 5 needed: label"),
        ({}, {}, "0 held-out people, 5 needed"),
        (_people(6, v_beats=0), _people(6, v_beats=0, v_false=3), "no V beat among 6"),
        (_people(5, v_true=18), None, "this code cannot run version 1"),
    ],
)
def test_as_long_as_new_people_cannot_judge_a_gain_on_the_common_set_is_needed(
    ours: dict[str, BeatCounts], theirs: dict[str, BeatCounts] | None, words: str
) -> None:
    new_people = NewPeople(challenger=ours, champion=theirs)
    better = _decide_with(_challenger(counts=_subjects(v_true=99)), new_people)
    assert better.is_promoted
    assert better.gates[-1].reason.startswith("not judged: ")
    assert words in better.gates[-1].reason
    alike = _decide_with(_challenger(), new_people)
    assert _failed(alike) == ["better than champion"]


@pytest.mark.parametrize(("n_common", "is_judged"), [(5, True), (4, False)])
def test_new_people_are_those_that_both_models_were_scored_on(
    n_common: int, *, is_judged: bool
) -> None:
    own = {"site:ours": _counts(v_true=100)}
    ours, theirs = _people(n_common, v_true=18) | own, _people(n_common, v_true=12)
    new_people = NewPeople(challenger=ours, champion=theirs | {"site:theirs": _counts()})
    words = f"on {n_common} held-out" if is_judged else f"not judged: {n_common} held-out people"
    assert words in _decide_with(_challenger(), new_people).gates[-1].reason


@pytest.mark.parametrize(("v_beats", "is_judged"), [(0, False), (1, True)])
def test_one_v_beat_of_one_new_person_is_enough_to_judge(v_beats: int, *, is_judged: bool) -> None:
    one = {"site:0": _counts(v_beats=v_beats, v_true=0)}
    people = _people(5, v_beats=0) | one
    decision = _decide_with(_challenger(), NewPeople(challenger=people, champion=people))
    assert ("with 1 V beats" in decision.gates[-1].reason) is is_judged
    assert ("not judged: no V beat among 5" in decision.gates[-1].reason) is not is_judged


def test_without_a_gain_on_new_people_nothing_is_promoted() -> None:
    alike = NewPeople(challenger=_people(5, v_true=12), champion=_people(5, v_true=12))
    decision = _decide_with(_challenger(counts=_subjects(v_true=99)), alike)
    assert _failed(decision) == ["gain on new people"]
    assert "a lower bound above 0 required" in decision.reasons[0]


def test_a_gain_on_one_person_alone_is_not_a_gain() -> None:
    ours = _people(5, v_true=12) | {"site:0": _counts(v_true=100)}
    theirs = _people(5, v_true=12) | {"site:0": _counts(v_true=99)}
    decision = _decide_with(_challenger(), NewPeople(challenger=ours, champion=theirs))
    assert _failed(decision) == ["gain on new people"]


WITH_SEEDS = PromotionPolicy(seed_sd=0.01)


@pytest.mark.parametrize(("seed_sd", "is_promoted"), [(0.013, True), (0.0145, False)])
def test_a_gain_that_seeds_alone_could_make_is_none(seed_sd: float, *, is_promoted: bool) -> None:
    # All people gain 0.0270. At 0.0137 = (0.0270 + 0.005) / (1.645 * sqrt 2) seeds explain it.
    champion = _challenger(name="version 1", counts=_subjects(v_true=90))
    policy = PromotionPolicy(seed_sd=seed_sd)
    decision = decide_promotion(_challenger(), champion, policy=policy)
    assert decision.is_promoted is is_promoted
    spread = f"seeds and thresholds alone move it by {2**0.5 * seed_sd:.4f}"
    assert spread in decision.gates[-1].reason


def test_the_spread_of_seeds_widens_the_interval_and_not_the_difference() -> None:
    champion = _challenger(name="version 1", counts=_subjects(v_true=90))
    reason = decide_promotion(_challenger(), champion, policy=WITH_SEEDS).reasons[-1]
    assert "V-F1 +0.0270 against version 1 (90% interval +0.00" in reason
    low = float(reason.split("interval ")[1].split(" ")[0])
    high = float(reason.split(" to ")[1].split(")")[0])
    assert low == pytest.approx(0.0270 - 1.645 * 0.01414, abs=0.0015)
    assert high == pytest.approx(0.0270 + 1.645 * 0.01414, abs=0.0015)


def test_an_equal_model_loses_nothing_by_the_spread_of_seeds() -> None:
    gain = NewPeople(challenger=_people(5, v_true=18), champion=_people(5, v_true=12))
    decision = decide_promotion(
        _challenger(), _challenger(name="version 1"), new_people=gain, policy=WITH_SEEDS
    )
    assert decision.is_promoted
    assert "+0.0000 to +0.0000" in decision.gates[-2].reason


@pytest.mark.parametrize(("seed_sd", "is_promoted"), [(0.08, True), (0.09, False)])
def test_a_gain_on_new_people_must_exceed_what_seeds_make(
    seed_sd: float, *, is_promoted: bool
) -> None:
    # All gain 0.1974, which is 1.645 * sqrt 2 * 0.0849.
    gain = NewPeople(challenger=_people(5, v_true=18), champion=_people(5, v_true=12))
    policy = PromotionPolicy(seed_sd=seed_sd)
    decision = decide_promotion(
        _challenger(), _challenger(name="version 1"), new_people=gain, policy=policy
    )
    assert decision.is_promoted is is_promoted
    assert "seeds and thresholds alone move it by" in decision.gates[-1].reason


def test_the_spread_is_that_of_both_models() -> None:
    alike = (0.90, 0.90, 0.90, 0.90, 0.90)
    wide = (0.86, 0.88, 0.90, 0.92, 0.94)
    quiet, noisy = _challenger(seed_f1=alike), _challenger(seed_f1=wide)
    unknown = _challenger()
    policy = PromotionPolicy(seed_sd=0.01)
    assert find_spread(unknown, unknown, policy) == pytest.approx(2**0.5 * 0.01)
    # Five seeds weigh as much as the five that were known: (0 + 0.01^2) / 2, (0.001 + 0.0001) / 2.
    assert find_spread(quiet, quiet, policy) == pytest.approx(0.01)
    assert find_spread(noisy, noisy, policy) == pytest.approx((2 * 0.00055) ** 0.5)
    assert find_spread(quiet, noisy, policy) == pytest.approx((0.00005 + 0.00055) ** 0.5)


@pytest.mark.parametrize("seed_f1", [(), (0.5,)])
def test_one_seed_says_nothing_about_the_spread(seed_f1: tuple[float, ...]) -> None:
    assert estimate_seed_sd(seed_f1, known_sd=0.009) == 0.009


def test_two_seeds_count_a_fifth() -> None:
    # One degree of freedom of 0.0002 and four of 0.0001.
    assert estimate_seed_sd((0.90, 0.92), known_sd=0.01) == pytest.approx(0.00012**0.5)


def test_a_threshold_that_was_chosen_on_what_it_is_judged_on_is_named() -> None:
    champion = _challenger(name="version 1", counts=_subjects(v_true=90), is_nested=False)
    reason = _decide(_challenger(), champion).reasons[-1]
    assert reason.endswith("; the threshold of version 1 was chosen on these beats")
    assert "threshold" not in _decide(_challenger(), replace(champion, is_nested=True)).reasons[-1]


@pytest.mark.parametrize(("gap", "is_promoted"), [(0.013, True), (0.0145, False), (-0.0145, False)])
def test_a_gain_that_the_choice_of_the_thresholds_could_make_is_none(
    gap: float, *, is_promoted: bool
) -> None:
    # As with seeds: at 0.0137 = (0.0270 + 0.005) / (1.645 * sqrt 2) the thresholds explain it.
    champion = _challenger(name="version 1", counts=_subjects(v_true=90), threshold_gap=gap)
    decision = _decide(_challenger(threshold_gap=gap), champion)
    assert decision.is_promoted is is_promoted


def test_seeds_and_thresholds_of_both_models_add_up() -> None:
    ours, theirs = _challenger(threshold_gap=0.02), _challenger(threshold_gap=-0.03)
    policy = PromotionPolicy(seed_sd=0.01)
    squares = 2 * 0.01**2 + 0.02**2 + 0.03**2
    assert find_spread(ours, theirs, policy) == pytest.approx(squares**0.5)


@pytest.mark.parametrize(("v_true", "is_promoted"), [(95, True), (93, False)])
def test_a_loss_is_judged_with_the_threshold_that_a_model_is_served_with(
    v_true: int, *, is_promoted: bool
) -> None:
    # A nested threshold moves the figures of both by chance; what is served is what may lose.
    gain = NewPeople(challenger=_people(5, v_true=18), champion=_people(5, v_true=12))
    ours = _challenger(counts=_subjects(v_true=80), own_counts=_subjects(v_true=v_true))
    decision = _decide_with(ours, gain)
    assert decision.is_promoted is is_promoted
    assert _failed(decision) == ([] if is_promoted else ["no loss on the common set"])


def test_a_gain_is_judged_with_nested_thresholds() -> None:
    champion = _challenger(counts=_subjects(v_true=90))
    flattered = _challenger(counts=_subjects(v_true=90), own_counts=_subjects(v_true=99))
    assert _failed(_decide(flattered, champion)) == ["better than champion"]
