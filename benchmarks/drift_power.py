"""Measure the power and the false alarms of the drift check, before and after traffic was grouped.

Windows of traffic are drawn from development records only (DS1, and the development part of svdb,
where the model was developed with it): a number of people, with strips in random order. Each is
checked twice, on separate strips of the same people, as a decision needs two checks in a row. A
check without a shift, of the same people, is the first of the release, to which the direction of
R-peaks is compared.
"Before" is the check as it was: each strip without a patient was a group of its own, one column
never sufficed, refused strips were not counted and a gain that changed counted. The people of svdb
are the other population of a reference that lacks them.

    ECG_MITDB_DIR=DIR ECG_SVDB_DIR=DIR python benchmarks/drift_power.py

Where a database is not set, simulated patients take its place, which the table says.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from drift_traffic import NONE, POPULATION, SHIFTS, Heard, hear_all
from numpy.typing import NDArray

from ecg_lib.classifier.bundle import read_bundle
from ecg_lib.evaluation.beat_scoring import BeatCounts, add_up
from ecg_lib.operations.drift.comparison import Comparison, ComparisonConfig, compare_beats
from ecg_lib.operations.drift.decision import (
    DriftAction,
    DriftEvidence,
    DriftPolicy,
    PastCheck,
    decide_action,
)
from ecg_lib.operations.drift.group_shares import (
    GroupVolume,
    Polarity,
    measure_polarity,
    measure_refusals,
)
from ecg_lib.operations.drift.live_performance import EstimatedPerformance, estimate_performance
from ecg_lib.operations.drift.observation import (
    DERIVED_COLUMNS,
    INPUT_COLUMNS,
    ObservedBeats,
    ObservedStrip,
    gather_strips,
    read_reference,
)
from ecg_lib.operations.drift.slices import find_unfamiliar
from flows.release.load_released import REFERENCE

N_STRIPS: Final = 360
"""Requests of a window."""
N_PEOPLE: Final = (1, 2, 5, 8, 20, 50)
N_UNSEEN: Final = (5, 8)
N_SHIFTED: Final = (5, 8, 20)
QUICK: Final = ComparisonConfig(n_draws=2, n_permutations=199)
FULL: Final = ComparisonConfig(n_draws=4)
"""Fewer deals of strips than the check itself has, for speed."""
THINNED: Final = 3
"""Of the 180 strips of each person of the reference every third is taken, for speed."""
CLEARLY_NONE: Final = 0.3
"""Windows with all adjusted p-values above this at the quick look are not looked at again."""
MIN_V: Final = 10
"""V beats of a window on which the estimate without labels is judged."""
NOW: Final = datetime(2026, 1, 2, tzinfo=UTC)
FAMILIAR: Final = {"lead": frozenset({"MLII", "V5"}), "rate": frozenset({"360 Hz"})}
"""As the check has them of a model of MIT-BIH. A model that was developed with the other population
has met its lead and rate too, in all windows but those of that population."""
OF_POPULATION: Final = {"lead": frozenset({"ECG1"}), "rate": frozenset({"128 Hz"})}


class Case(NamedTuple):
    """Windows of one kind."""

    shift: str
    n_people: int
    client: str
    is_before: bool
    n_windows: int


class Outcome(NamedTuple):
    """Result of the check of one window."""

    action: DriftAction
    is_alarm: bool
    is_harmless: bool
    """Whether a gain that changed is noted."""
    is_turned: bool
    """Whether leads that were reversed are noted."""
    is_unfamiliar: bool
    """Whether the lead or rate is said to be new, where it is stated."""
    estimated: EstimatedPerformance | None
    """Performance without labels; None where nothing is concluded."""
    summed: float
    """V-F1 as the sum of the probabilities alone gives it."""
    true: float
    """The true V-F1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Strips of one kind of traffic."""

    beats: ObservedBeats
    strip_of: NDArray[np.int64]
    """Index into `beats` of each strip; -1 where there are no beats."""
    person: NDArray[np.str_]
    is_refused: NDArray[np.bool_]
    counts: tuple[BeatCounts, ...]
    slices: tuple[dict[str, str], ...]


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=200, help="without a shift")
    parser.add_argument("--shifted", type=int, default=10, help="windows of each shift")
    arguments = parser.parse_args()
    started_s = time.monotonic()
    mitdb, svdb = (
        Path(os.environ[name]) if name in os.environ else None
        for name in ("ECG_MITDB_DIR", "ECG_SVDB_DIR")
    )
    bundle = read_bundle(REFERENCE)
    heard = hear_all(bundle, (NONE, *SHIFTS), mitdb=mitdb, svdb=svdb)
    pools = {name: make_pool(strips) for name, strips in heard.items()}
    whole = read_reference(bundle.read_drift_reference())
    reference = whole.select(np.arange(whole.n_strips) % THINNED == 0)
    cases = list(list_cases(arguments.windows, arguments.shifted))
    with ProcessPoolExecutor(
        os.cpu_count(), initializer=_share, initargs=(pools, reference)
    ) as processes:
        jobs = [(case, seed) for case in cases for seed in range(case.n_windows)]
        outcomes: dict[Case, list[Outcome]] = {case: [] for case in cases}
        for (case, _), outcome in zip(
            jobs, processes.map(_check_one, jobs, chunksize=5), strict=True
        ):
            outcomes[case].append(outcome)
            if len(outcomes[case]) == case.n_windows:
                sys.stderr.write(f"{case}: {_describe(outcomes[case])}\n")
    _write(f"DS1: {'records' if mitdb else 'simulated patients'}; ")
    _write(f"other population: {'svdb, development part' if svdb else 'simulated patients'}\n\n")
    print_tables(outcomes, pools)
    _write(f"\n{time.monotonic() - started_s:.0f} s\n")


def list_cases(n_windows: int, n_shifted: int) -> Iterator[Case]:
    """List the kinds of windows."""
    for n_people in N_PEOPLE:
        # A name and a client of one's own make the same groups, so the windows are the same.
        yield Case(NONE.name, n_people, "named", False, n_windows)
        yield Case(NONE.name, n_people, "one client", False, n_windows)
        yield Case(NONE.name, n_people, "named", True, n_windows // 10)
        yield Case(NONE.name, n_people, "a client each", True, n_windows // 10)
    for n_people in N_UNSEEN:
        yield Case(NONE.name, n_people, "unseen", False, n_windows // 4)
    for shift in (*SHIFTS, POPULATION):
        for n_people in N_SHIFTED:
            yield Case(shift.name, n_people, "named", False, n_shifted)
        yield Case(shift.name, 20, "named", True, n_shifted // 2)


def make_pool(heard: Sequence[Heard]) -> Pool:
    """Gather strips."""
    has_beats = np.array([h.observed is not None and len(h.observed["rule"]) > 0 for h in heard])
    return Pool(
        beats=gather_strips(
            ObservedStrip(h.person, h.duration_s, h.observed)  # type: ignore[arg-type]  # arrays are sequences
            for h, has in zip(heard, has_beats, strict=True)
            if has
        ),
        strip_of=np.where(has_beats, np.cumsum(has_beats) - 1, -1),
        person=np.array([h.person for h in heard]),
        is_refused=np.array([h.observed is None for h in heard]),
        counts=tuple(h.counts for h in heard),
        slices=tuple(h.slices for h in heard),
    )


_shared: dict[str, tuple[Mapping[str, Pool], ObservedBeats]] = {}


def _share(pools: Mapping[str, Pool], reference: ObservedBeats) -> None:
    _shared["traffic"] = pools, reference


def _check_one(job: tuple[Case, int]) -> Outcome:
    case, seed = job
    pools, reference = _shared["traffic"]
    pool = pools[case.shift]
    rng = np.random.default_rng([seed, case.n_people, *case.shift.encode()])
    people = np.unique(pool.person)
    if case.shift == POPULATION.name:  # new to a reference that lacks its people
        reference = reference.select(~np.isin(reference.group, people))
    if case.client == "unseen":  # half of the people make the reference, the others the traffic
        people = rng.permutation(people)
        reference = reference.select(np.isin(reference.group, people[: len(people) // 2]))
        people = people[len(people) // 2 :]
    chosen = rng.permutation(people)[: case.n_people]
    if case.n_people > len(people):  # some come twice, as two people
        chosen = np.concatenate([people, rng.choice(people, case.n_people - len(people))])
    strips = [rng.permutation(np.flatnonzero(pool.person == one)) for one in chosen]
    n_each = max(N_STRIPS // case.n_people, 1)
    # Of few people there are not so many strips: they come again.
    windows = [[np.resize(of_one[part::2], n_each) for of_one in strips] for part in range(2)]
    usual = PastCheck(
        created_at=NOW - timedelta(hours=2),
        bundle_hash="",
        bento_tag="",
        action=DriftAction.KEEP,
        is_conclusive=True,
        is_breach=False,
        newest_at=None,
        polarity=find_usual(pools[NONE.name], chosen, part=1),
    )
    first = check(case, pool, reference, windows[0], (usual,))
    if not first.is_breach:
        return first.outcome
    past = replace(usual, created_at=NOW - timedelta(hours=1), is_breach=True, polarity=None)
    return check(case, pool, reference, windows[1], (past, usual)).outcome


def find_usual(pool: Pool, people: Sequence[str], *, part: int) -> Polarity | None:
    """Count the directions of R-peaks of people in every other strip without a shift."""
    strips = [
        (int(pool.strip_of[one]), f"group {number}")
        for number, person in enumerate(people)
        for one in np.flatnonzero(pool.person == person)[part::2]
        if pool.strip_of[one] >= 0
    ]
    return measure_polarity(take_strips(pool.beats, strips))


class Checked(NamedTuple):
    """A check of one window."""

    outcome: Outcome
    is_breach: bool


def check(
    case: Case,
    pool: Pool,
    reference: ObservedBeats,
    window: Sequence[NDArray[np.int64]],
    history: tuple[PastCheck, ...],
) -> Checked:
    """Check a window as the flow does."""
    names = [
        "client" if case.client == "one client" else f"group {number}"
        for number in range(len(window))
    ]
    answered: list[tuple[int, str]] = []
    volumes: dict[str, GroupVolume] = {}
    for name, strips in zip(names, window, strict=True):
        n_refused = int(pool.is_refused[strips].sum())
        known = volumes.get(name, GroupVolume(0, 0))
        volumes[name] = GroupVolume(
            known.answered + len(strips) - n_refused, known.refused + n_refused
        )
        answered += [(int(pool.strip_of[one]), name) for one in strips if pool.strip_of[one] >= 0]
    if case.is_before and case.client == "a client each":
        answered = [(strip, f"prediction {n}") for n, (strip, _) in enumerate(answered)]
    current = take_strips(pool.beats, answered)
    policy = DriftPolicy()
    traffic = compare_quickly(reference, current, policy)
    if case.is_before:
        is_breach = was_breach(traffic) and current.n_strips >= policy.min_strips
        is_second = any(past.is_breach for past in history)
        action = DriftAction.RETRAIN if is_breach and is_second else DriftAction.KEEP
        outcome = Outcome(
            action=action,
            is_alarm=False,
            is_harmless=False,
            is_turned=False,
            is_unfamiliar=False,
            estimated=None,
            summed=0.0,
            true=0.0,
        )
        return Checked(outcome, is_breach)
    refused = measure_refusals(volumes)
    estimate = None
    if current.n_beats:
        estimate = estimate_performance(
            current, drift=traffic, refused_share=refused.share if refused else 0.0
        )
    evidence = DriftEvidence(
        traffic=traffic, refused=refused, estimate=estimate, polarity=measure_polarity(current)
    )
    decision = decide_action(
        evidence,
        history=history,
        bundle_hash="",
        released_at=NOW - timedelta(days=9),
        now=NOW,
        policy=policy,
    )
    true = add_up([pool.counts[one] for strips in window for one in strips])
    is_judged = true.v_beats >= MIN_V and case.n_people >= policy.min_groups
    outcome = Outcome(
        action=decision.action,
        is_alarm=bool(decision.alarms),
        is_harmless=any(reason.startswith("harmless: ampl") for reason in decision.reasons),
        is_turned=any("R-peaks" in reason for reason in decision.reasons),
        is_unfamiliar=is_new(pool, window, policy, is_population=case.shift == POPULATION.name),
        estimated=estimate if is_judged else None,
        summed=sum_probabilities(current),
        true=true.v_f1,
    )
    return Checked(outcome, decision.is_breach)


def sum_probabilities(current: ObservedBeats) -> float:
    """Estimate V-F1 by the sum of the probabilities alone."""
    probability = current.columns["probability_v"].astype(np.float64)
    is_v = current.columns["arrhythmia_type"] == "V"
    whole = float(is_v.sum() + probability.sum())
    return 2 * float(probability[is_v].sum()) / whole if whole else float("nan")


def is_new(
    pool: Pool, window: Sequence[NDArray[np.int64]], policy: DriftPolicy, *, is_population: bool
) -> bool:
    """Return whether the leads and rates are said to be new, when each request states them."""
    familiar = FAMILIAR
    if not is_population:
        familiar = {name: known | OF_POPULATION[name] for name, known in FAMILIAR.items()}
    groups: dict[str, Counter[str]] = {"lead": Counter(), "rate": Counter()}
    for strips in window:
        for name, values in groups.items():
            values.update({pool.slices[one][name] for one in strips})
    return bool(
        find_unfamiliar(
            groups, familiar, n_groups=len(window), min_share=policy.min_unfamiliar_share
        )
    )


def take_strips(beats: ObservedBeats, strips: Sequence[tuple[int, str]]) -> ObservedBeats:
    """Take strips, each under the name of its group; one may come twice."""
    bounds = np.searchsorted(beats.strip, np.arange(beats.n_strips + 1))
    lengths = [int(bounds[one + 1] - bounds[one]) for one, _ in strips]
    none = np.zeros(0, dtype=np.int64)
    rows = np.concatenate([none, *(np.arange(bounds[i], bounds[i + 1]) for i, _ in strips)])
    return ObservedBeats(
        columns={name: values[rows] for name, values in beats.columns.items()},
        strip=np.repeat(np.arange(len(strips)), lengths),
        group=np.array([name for _, name in strips], dtype=np.str_),
        strip_s=beats.strip_s[[one for one, _ in strips]],
        points_down=None
        if beats.points_down is None
        else beats.points_down[[one for one, _ in strips]],
    )


def compare_quickly(
    reference: ObservedBeats, current: ObservedBeats, policy: DriftPolicy
) -> Comparison:
    """Compare; with few exchanges where these show clearly that there is nothing."""
    if current.n_groups < policy.min_groups:  # concludes nothing, whatever the columns are
        return Comparison(
            columns=(),
            n_strips=current.n_strips,
            n_beats=current.n_beats,
            n_groups=current.n_groups,
            n_reference_groups=reference.n_groups,
            left_out=(),
        )
    quick = compare_beats(reference, current, config=QUICK)
    if all(drift.p_adjusted > CLEARLY_NONE for drift in quick.columns):
        return quick
    return compare_beats(reference, current, config=FULL)


def was_breach(traffic: Comparison) -> bool:
    """Decide as before: two of nine columns, of which one of the input, whatever they are."""
    drifted = [
        drift.column
        for drift in traffic.columns
        if drift.is_drifted and drift.column not in DERIVED_COLUMNS
    ]
    is_too_little = traffic.n_groups < DriftPolicy().min_groups
    return (
        not is_too_little and len(drifted) >= 2 and any(name in INPUT_COLUMNS for name in drifted)
    )


def print_tables(outcomes: Mapping[Case, Sequence[Outcome]], pools: Mapping[str, Pool]) -> None:
    """Print false actions, power, and the estimate without labels."""
    _write("| People | " + " | ".join(map(str, N_PEOPLE)) + " |\n")
    _write("|---" * (len(N_PEOPLE) + 1) + "|\n")
    rows = {
        "named, before": partial(_Key, "named", True),
        "anonymous, before": partial(_Key, "a client each", True),
        "named, or a client each": partial(_Key, "named", False),
        "anonymous, all behind one client": partial(_Key, "one client", False),
    }
    by_key = {_Key(c.client, c.is_before, c.shift, c.n_people): v for c, v in outcomes.items()}
    for label, key in rows.items():
        cells = [_count_actions(by_key[key(NONE.name, n)]) for n in N_PEOPLE]
        _write(f"| {label} | " + " | ".join(cells) + " |\n")
    for n_people in N_UNSEEN:
        unseen = by_key[_Key("unseen", False, NONE.name, n_people)]
        _write(f"\n{n_people} people whom a reference of the other half lacks: ")
        _write(f"{_count_actions(unseen)}\n")
    _write("\n| Shift | V-F1 | refused | before, 20 people | ")
    _write(" | ".join(f"{n} people" for n in N_SHIFTED))
    _write(" |\n" + "|---" * (len(N_SHIFTED) + 4) + "|\n")
    for shift in (*SHIFTS, POPULATION):
        before = by_key[_Key("named", True, shift.name, 20)]
        cells = [_describe(by_key[_Key("named", False, shift.name, n)]) for n in N_SHIFTED]
        pool = pools[shift.name]
        _write(f"| {shift.name} | {add_up(pool.counts).v_f1:.2f} | {pool.is_refused.mean():.0%} | ")
        _write(f"{_describe(before)} | " + " | ".join(cells) + " |\n")
    _write("\n| Traffic | true V-F1 | sum alone | mean error | largest | inside |\n")
    _write("|---" * 6 + "|\n")
    for shift in (NONE, *SHIFTS, POPULATION):
        found = [
            (one.estimated.f1, one.summed, one.true)
            for n in N_SHIFTED
            for one in by_key[_Key("named", False, shift.name, n)]
            if one.estimated is not None
        ]
        if not found:
            continue
        errors = np.array([interval.estimate - true for interval, _, true in found])
        above = float(np.mean([summed - true for _, summed, true in found]))
        covered = sum(interval.low <= true <= interval.high for interval, _, true in found)
        _write(
            f"| {shift.name} | {np.mean([true for *_, true in found]):.2f} | {above:+.2f} | "
            f"{errors.mean():+.2f} | {errors[np.abs(errors).argmax()]:+.2f} | "
            f"{covered / len(found):.0%} of {len(found)} |\n"
        )


class _Key(NamedTuple):
    client: str
    is_before: bool
    shift: str
    n_people: int


def _count_actions(outcomes: Sequence[Outcome]) -> str:
    n_actions = sum(one.action is not DriftAction.KEEP for one in outcomes)
    n_alarms = sum(one.is_alarm for one in outcomes)
    n_turned = sum(one.is_turned for one in outcomes)
    alarms = f", {n_alarms} alarms" if n_alarms else ""
    turned = f", {n_turned} notes on the polarity" if n_turned else ""
    return f"{n_actions} of {len(outcomes)}{alarms}{turned}"


def _describe(outcomes: Sequence[Outcome]) -> str:
    """Describe the share of windows with each outcome."""
    words: Counter[str] = Counter()
    for one in outcomes:
        if one.action is not DriftAction.KEEP:
            words[one.action.value] += 1
        if one.is_alarm:
            words["alarm"] += 1
        if one.is_harmless:
            words["gain noted"] += 1
        if one.is_turned:
            words["polarity noted"] += 1
        if one.is_unfamiliar:
            words["new if stated"] += 1
        is_noted = one.is_alarm or one.is_harmless or one.is_turned
        if one.action is DriftAction.KEEP and not is_noted:
            words["nothing"] += 1
    return ", ".join(f"{word} {n / len(outcomes):.0%}" for word, n in sorted(words.items()))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
