"""Decide whether a challenger replaces the champion; each gate gives its reason.

Both are compared on out-of-fold predictions, paired by subject. Two networks of one recipe differ
by their seed alone, and by chance one of them scores higher: the spread of seeds, and of the choice
of a threshold, is in the interval of a gain, beside that of people. This module knows neither
MLflow nor files.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ecg_lib.classifier.bundle import DataSource
from ecg_lib.evaluation.beat_scoring import BeatCounts, add_up
from ecg_lib.evaluation.bootstrap import Interval, bootstrap_interval, paired_bootstrap


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionPolicy:
    """Limits of the gates."""

    min_v_f1: float = 0.80
    """Least out-of-fold V-F1, end to end."""
    min_qrs_sensitivity: float = 0.99
    min_qrs_predictivity: float = 0.99
    max_microseconds_per_beat: float = 120.0
    """Longest accepted time of the network for one beat on one core, in batches."""
    min_difference: float = 0.0
    """The challenger's V-F1 must exceed the champion's by more than this."""
    min_lower_bound: float = -0.005
    """Least lower bound of the interval of that difference."""
    confidence: float = 0.90
    n_resamples: int = 2000
    seed: int = 0
    seed_sd: float = 0.009
    """Standard deviation of V-F1 over the seeds of one recipe, known before.

    ``ecg run train-sweep -p seeds=5``, and then ``ecg evaluate``, measure it: ``oof_v_f1`` of
    ``seeds`` in the JSON report. This is that of bundle cb5956911ff0, out of fold on DS1
    (``docs/evaluation/ds1-2026-11-25-cb5956911ff0.json``).
    """
    min_new_people: int = 5
    """Least number of held-out new people that a gain is shown on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Facts about a model that hold whichever code made it; all that a champion needs."""

    name: str
    data_source: DataSource
    dataset_version: str
    counts: Mapping[str, BeatCounts]
    """Out-of-fold, end to end, whole recordings, by subject; nested where that is possible."""
    n_folds: int
    """With more folds each judged network was trained on more people."""
    seed_f1: tuple[float, ...] = ()
    """V-F1 of the recipe with each seed it was fitted with, where more than one was."""
    threshold_gap: float = 0.0
    """V-F1 with the threshold of all predictions, less that of nested thresholds: how far the
    choice of the threshold alone moves it."""
    is_nested: bool = True
    """Whether the threshold that calls the beats of a person was chosen without this person's."""
    own_counts: Mapping[str, BeatCounts] | None = None
    """As `counts`, with the threshold that the model is served with; None when it is the same."""

    @property
    def as_served(self) -> Mapping[str, BeatCounts]:
        """Counts with the threshold that the model is served with."""
        return self.counts if self.own_counts is None else self.own_counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenger(Contender):
    """Facts about a candidate for promotion."""

    microseconds_per_beat: float
    runtime_difference: float
    """Greatest difference of a probability between training and serving runtime."""
    golden_failures: tuple[str, ...] = ()
    """Golden requests whose answer differs from the stored one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPeople:
    """Scores of both models on people of the site that neither was trained on, by person."""

    challenger: Mapping[str, BeatCounts]
    champion: Mapping[str, BeatCounts] | None
    """None when this code cannot run the champion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One condition of a promotion."""

    name: str
    is_passed: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionDecision:
    """Results of all gates, and whether they allow the promotion."""

    gates: tuple[Gate, ...]

    @property
    def is_promoted(self) -> bool:
        """True when every gate is passed."""
        return all(gate.is_passed for gate in self.gates)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Reasons of the failed gates, or of all gates when every one passed."""
        wanted = [gate for gate in self.gates if not gate.is_passed] or list(self.gates)
        return tuple(f"{gate.name}: {gate.reason}" for gate in wanted)


SITE_PREFIX = "site:"
"""Start of the names of people of the site, who come and go: they are not in the common set."""

_LEAST_COMMON = 2
"""Least number of people that both models are compared on; half of the champion's, if more."""

_NEW_PEOPLE = "gain on new people"

_PRIOR_SEEDS = 5
"""Seeds that :attr:`PromotionPolicy.seed_sd` was measured with."""

MAX_RUNTIME_DIFFERENCE = 1e-4
"""Largest accepted difference of a probability between training and serving runtime."""


def decide_promotion(
    challenger: Challenger,
    champion: Contender | None,
    *,
    new_people: NewPeople | None = None,
    policy: PromotionPolicy | None = None,
) -> PromotionDecision:
    """Compare a challenger with the limits and with the champion.

    A challenger that was trained on labelled traffic must lose nothing on the people that both
    models were judged on, and gain on people of the site that were held out. Another must be better
    on the people that both were judged on.

    Parameters
    ----------
    challenger : Challenger
    champion : Contender, optional
        None when there is none yet.
    new_people : NewPeople, optional
        None when the challenger was not trained on labelled traffic.
    policy : PromotionPolicy, optional

    Returns
    -------
    PromotionDecision

    """
    policy = policy or PromotionPolicy()
    gates = [*_absolute_gates(challenger, policy)]
    if champion is not None:
        gates += _gates_against(challenger, champion, new_people, policy)
    return PromotionDecision(gates=tuple(gates))


def _absolute_gates(challenger: Challenger, policy: PromotionPolicy) -> list[Gate]:
    # People of the site have few beats, chosen by how they look: limits are for the common set.
    common = [one for name, one in challenger.counts.items() if not name.startswith(SITE_PREFIX)]
    subjects = common or list(challenger.counts.values())
    gross = add_up(subjects)
    f1 = bootstrap_interval(
        subjects, lambda counts: counts.v_f1, seed=policy.seed, n_resamples=policy.n_resamples
    )
    failures = challenger.golden_failures
    speed = challenger.microseconds_per_beat
    difference = challenger.runtime_difference
    return [
        Gate(
            name="V-F1",
            is_passed=f1.estimate >= policy.min_v_f1,
            reason=f"{f1.estimate:.4f} (95 % interval {f1.low:.3f} to {f1.high:.3f}), "
            f"at least {policy.min_v_f1:.2f} required",
        ),
        Gate(
            name="QRS detection",
            is_passed=gross.qrs_sensitivity >= policy.min_qrs_sensitivity
            and gross.qrs_predictivity >= policy.min_qrs_predictivity,
            reason=f"Se {gross.qrs_sensitivity:.4f}, +P {gross.qrs_predictivity:.4f}, at least "
            f"{policy.min_qrs_sensitivity:.2f} and {policy.min_qrs_predictivity:.2f} required",
        ),
        Gate(
            name="speed",
            is_passed=speed <= policy.max_microseconds_per_beat,
            reason=f"{speed:.0f} us a beat, at most {policy.max_microseconds_per_beat:.0f} allowed",
        ),
        Gate(
            name="same answer in training and serving",
            is_passed=difference <= MAX_RUNTIME_DIFFERENCE,
            reason=f"probabilities differ by up to {difference:.1e}, "
            f"at most {MAX_RUNTIME_DIFFERENCE:.0e} allowed",
        ),
        Gate(
            name="golden requests",
            is_passed=not failures,
            reason=f"failed: {', '.join(failures)}" if failures else "all answered as expected",
        ),
    ]


def _gates_against(
    challenger: Challenger,
    champion: Contender,
    new_people: NewPeople | None,
    policy: PromotionPolicy,
) -> list[Gate]:
    is_downgrade = (
        challenger.data_source is DataSource.SIMULATED
        and champion.data_source is not DataSource.SIMULATED
    )
    data_gate = Gate(
        name="training data",
        is_passed=not is_downgrade,
        reason=f"challenger on {challenger.data_source} data, champion on {champion.data_source}"
        + ("; a simulated model never replaces a real one" if is_downgrade else ""),
    )
    if is_downgrade:
        return [data_gate]
    if (
        champion.data_source is DataSource.SIMULATED
        and challenger.data_source is not DataSource.SIMULATED
    ):
        reason = (
            "a challenger trained on real data replaces a simulated champion without comparison"
        )
        return [data_gate, Gate(name="better than champion", is_passed=True, reason=reason)]
    if new_people is None:
        return [data_gate, _gate_common(challenger, champion, policy, is_gain_needed=True)]
    if why := _find_obstacle(new_people, champion.name, policy):
        # A gain must be shown somewhere: as long as new people cannot show it, the common set must.
        common = _gate_common(challenger, champion, policy, is_gain_needed=True)
        return [
            data_gate,
            common,
            Gate(name=_NEW_PEOPLE, is_passed=True, reason=f"not judged: {why}"),
        ]
    common = _gate_common(challenger, champion, policy, is_gain_needed=False)
    spread = find_spread(challenger, champion, policy)
    return [data_gate, common, _gate_new_people(new_people, champion.name, policy, spread=spread)]


def _gate_common(
    challenger: Challenger, champion: Contender, policy: PromotionPolicy, *, is_gain_needed: bool
) -> Gate:
    """Compare both on the same beats of the same people."""
    name = "better than champion" if is_gain_needed else "no loss on the common set"
    people = sorted(one for one in champion.counts if not one.startswith(SITE_PREFIX))
    # A gain must not be one of the threshold; a loss is one of the model as it would be served.
    ours, theirs = (
        one.counts if is_gain_needed else one.as_served for one in (challenger, champion)
    )
    ours_of = {one: ours.get(one, BeatCounts()) for one in people}
    beats = {one: (ours_of[one].beats, theirs[one].beats) for one in people}
    fewer = [one for one, (mine, other) in beats.items() if mine < other]
    if fewer:
        mine, other = beats[fewer[0]]
        reason = (
            f"cannot be compared: the challenger is scored on fewer beats of {len(fewer)} of "
            f"{len(people)} subjects (subject {fewer[0]}: {mine} of {other})"
        )
        return Gate(name=name, is_passed=False, reason=reason)
    more = [one for one, (mine, other) in beats.items() if mine > other]
    changed = [
        one for one in people if one not in more and _truth(ours_of[one]) != _truth(theirs[one])
    ]
    subjects = [one for one in people if one not in more and one not in changed]
    needed = max(_LEAST_COMMON, len(people) / 2)
    if len(subjects) < needed:
        reason = (
            f"cannot be compared: {len(subjects)} subjects have the same beats and classes in "
            f"dataset {challenger.dataset_version} and {champion.dataset_version}, {needed:g} are "
            "needed"
        )
        return Gate(name=name, is_passed=False, reason=reason)
    # Without a gain to show, this spread would ask one of an equal model.
    spread = find_spread(challenger, champion, policy) if is_gain_needed else 0.0
    difference = _compare(ours, theirs, subjects, policy, spread=spread)
    is_gain = not is_gain_needed or difference.estimate > policy.min_difference
    wanted = f"more than {policy.min_difference:+.4f} and " if is_gain_needed else ""
    reason = (
        f"V-F1 {difference.estimate:+.4f} against {champion.name} "
        f"({policy.confidence:.0%} interval {difference.low:+.4f} to {difference.high:+.4f}); "
        f"{wanted}a lower bound above {policy.min_lower_bound:+.4f} required"
    )
    if spread:
        reason += f"; seeds and thresholds alone move it by {spread:.4f}"
    if is_gain_needed and (
        in_sample := [one.name for one in (challenger, champion) if not one.is_nested]
    ):
        reason += f"; the threshold of {' and '.join(in_sample)} was chosen on these beats"
    if len(challenger.counts) > len(subjects):
        reason += f"; on the {len(subjects)} of {len(challenger.counts)} subjects that both have"
    if changed:
        reason += f"; {', '.join(changed)} left out, annotated otherwise since"
    if more:
        reason += f"; {', '.join(more)} left out, with more beats than the champion was scored on"
    if challenger.n_folds != champion.n_folds:
        seen = "fewer" if challenger.n_folds < champion.n_folds else "more"
        reason += (
            f"; {challenger.n_folds} folds against {champion.n_folds}, so the challenger's "
            f"judged networks were trained on {seen} people"
        )
    is_passed = is_gain and difference.low > policy.min_lower_bound
    return Gate(name=name, is_passed=is_passed, reason=reason)


def find_spread(challenger: Contender, champion: Contender, policy: PromotionPolicy) -> float:
    """Return the standard deviation of the difference in V-F1 that is not of people.

    It is that of the seeds of both, and of the choice of their thresholds, which hardly moves the
    figures of a good network and much those of a poor one.
    """
    both = (challenger, champion)
    return math.hypot(
        *(estimate_seed_sd(one.seed_f1, known_sd=policy.seed_sd) for one in both),
        *(one.threshold_gap for one in both),
    )


def estimate_seed_sd(seed_f1: Sequence[float], *, known_sd: float) -> float:
    """Estimate the standard deviation of V-F1 over seeds, of a few and of what was known before.

    The variances are pooled by their degrees of freedom, as two or three seeds tell little alone.

    Parameters
    ----------
    seed_f1 : sequence of float
        Of one recipe with each of its seeds; none or one adds nothing.
    known_sd : float
        See :attr:`PromotionPolicy.seed_sd`.

    >>> round(estimate_seed_sd([0.90, 0.91, 0.92], known_sd=0.004), 5)
    0.00663

    """
    if len(seed_f1) < 2:
        return known_sd
    freedom, known_freedom = len(seed_f1) - 1, _PRIOR_SEEDS - 1
    own = freedom * statistics.variance(seed_f1)
    return math.sqrt((own + known_freedom * known_sd**2) / (freedom + known_freedom))


def _truth(counts: BeatCounts) -> tuple[int, ...]:
    """Return what the annotations alone decide."""
    return counts.beats, counts.v_beats, counts.n_beats


def _people_of(new_people: NewPeople) -> list[str]:
    return sorted(set(new_people.challenger) & set(new_people.champion or ()))


def _find_obstacle(new_people: NewPeople, champion: str, policy: PromotionPolicy) -> str | None:
    """Find why new people cannot judge both models; None when they can."""
    ask = "label strips that were drawn for review"
    if new_people.champion is None:
        return f"this code cannot run {champion}"
    people = _people_of(new_people)
    if len(people) < policy.min_new_people:
        return f"{len(people)} held-out people, {policy.min_new_people} needed: {ask}"
    if not any(new_people.challenger[one].v_beats for one in people):
        return f"no V beat among {len(people)} held-out people: {ask}"
    return None


def _gate_new_people(
    new_people: NewPeople, champion: str, policy: PromotionPolicy, *, spread: float
) -> Gate:
    """Ask for a gain on held-out people of the site."""
    people, theirs = _people_of(new_people), new_people.champion or {}
    n_v = sum(new_people.challenger[one].v_beats for one in people)
    difference = _compare(new_people.challenger, theirs, people, policy, spread=spread)
    reason = (
        f"V-F1 {difference.estimate:+.4f} against {champion} on {len(people)} held-out people with "
        f"{n_v} V beats ({policy.confidence:.0%} interval {difference.low:+.4f} to "
        f"{difference.high:+.4f}); a lower bound above 0 required"
    )
    if spread:
        reason += f"; seeds and thresholds alone move it by {spread:.4f}"
    return Gate(name=_NEW_PEOPLE, is_passed=difference.low > 0, reason=reason)


def _compare(
    ours: Mapping[str, BeatCounts],
    theirs: Mapping[str, BeatCounts],
    people: Sequence[str],
    policy: PromotionPolicy,
    *,
    spread: float,
) -> Interval:
    return paired_bootstrap(
        [ours[one] for one in people],
        [theirs[one] for one in people],
        lambda counts: counts.v_f1,
        seed=policy.seed,
        n_resamples=policy.n_resamples,
        confidence=policy.confidence,
        spread=spread,
    )
