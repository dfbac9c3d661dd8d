"""The conditions that a run of the scenario must meet, and the table that it prints."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ecg_lib.classifier.bundle import Bundle

_MEASURED: Final = ("microseconds_per_beat",)
"""Figures of a bundle that depend on the machine and its load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """The content of a champion, without names of runs, versions and times."""

    network: str
    """SHA-256 of the ONNX graph."""
    folds: str
    """SHA-256 of the networks of the folds, together."""
    config: str
    """SHA-256 of the configuration, with calibration and threshold."""
    out_of_fold: str
    """SHA-256 of the prediction of every development beat."""
    figures: str
    """SHA-256 of the figures except for speed."""
    v_f1: float
    recipe: str
    """SHA-256 of the parameters of the MLflow run."""

    @property
    def hash(self) -> str:
        """A hash of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def describe_champion(bundle: Bundle, params: dict[str, str]) -> Champion:
    """Describe a champion by its bundle and the parameters of its run."""
    figures = {name: one for name, one in bundle.metrics.items() if name not in _MEASURED}
    return Champion(
        network=_hash(bundle.network.read_bytes()),
        folds=_hash(
            *(bundle.fold_network(fold).read_bytes() for fold in sorted(set(bundle.folds.values())))
        ),
        config=_hash((bundle.directory / "config.json").read_bytes()),
        out_of_fold=_hash(
            json.dumps(bundle.read_out_of_fold().to_pydict(), sort_keys=True, default=str).encode()
        ),
        figures=_hash(json.dumps(figures, sort_keys=True).encode()),
        v_f1=bundle.metrics["oof_v_f1"],
        recipe=_hash(json.dumps(params, sort_keys=True).encode()),
    )


def _hash(*contents: bytes) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


@dataclass(slots=True, kw_only=True)
class Outcome:
    """The outcome of a run of the scenario."""

    undisturbed: Champion
    champion: Champion
    version: str
    """Version of the champion in the registry."""
    bento_tag: str
    served: dict[str, str | None]
    """Bento tag that each replica serves in the end."""
    released: str | None
    """Bento tag that the pointer of the store names."""
    answered: list[str]
    failed: list[str]
    tried_again: int
    logged: list[str]
    cut_off: list[int]
    """Trials whose worker was killed."""
    trials: dict[str, int]
    """Trials of the study by state."""
    done_recipes: list[str]
    """Recipe of each trial that has a result."""
    n_trials: int
    by_model: dict[str, int]
    starts: dict[str, int]
    """How often each machine was started."""
    ended_connections: int
    frozen_s: float
    slowest_s: float
    logged_after_s: float
    """From the last answer until all were in the log."""
    taken_after_s: dict[str, float]
    """From the end of the pipeline until a replica served the champion."""
    seconds: dict[str, float] = field(default_factory=dict)


def find_faults(outcome: Outcome) -> list[str]:
    """List what is not as it must be."""
    checks = (
        *_check_release(outcome),
        *_check_predictions(outcome),
        *_check_trials(outcome),
    )
    return [fault for is_met, fault in checks if not is_met]


def _check_release(outcome: Outcome) -> Iterator[tuple[bool, str]]:
    ours, theirs = asdict(outcome.champion), asdict(outcome.undisturbed)
    differing = ", ".join(name for name, one in ours.items() if one != theirs[name])
    yield not differing, f"the champion must be that of the undisturbed run, others: {differing}"
    wanted, released = outcome.bento_tag, outcome.released
    yield released == wanted, f"the store must name {wanted}, it names {released}"
    for name, tag in outcome.served.items():
        yield tag == wanted, f"{name} must serve {wanted}, it serves {tag}"


def _check_predictions(outcome: Outcome) -> Iterator[tuple[bool, str]]:
    answered, logged = set(outcome.answered), Counter(outcome.logged)
    lost, twice = len(answered - set(logged)), sum(count > 1 for count in logged.values())
    yield bool(answered), "requests must be answered, none was"
    yield len(answered) == len(outcome.answered), "each answer must have an id of its own"
    yield not lost, f"each answer must be in the log, {lost} of {len(answered)} are not"
    yield not twice, f"each answer must be in the log once, {twice} are more often"
    yield not outcome.failed, f"no request may fail: {outcome.failed[:1]}"


def _check_trials(outcome: Outcome) -> Iterator[tuple[bool, str]]:
    done, wanted = outcome.done_recipes, outcome.n_trials
    yield bool(outcome.cut_off), "a trial must be cut off by the kill of its worker, none was"
    yield len(done) == wanted, f"{wanted} trials must have a result, {len(done)} have"
    yield len(set(done)) == len(done), "each recipe must have one result, some have several"
    is_over = set(outcome.trials) <= {"COMPLETE", "PRUNED", "FAIL"}
    yield is_over, f"no trial may stay open, there are {outcome.trials}"


def write_table(outcome: Outcome) -> list[str]:
    """Write the figures as lines of a table."""
    rows: list[tuple[str, Any]] = [
        *((f"{name}, s", f"{seconds:.0f}") for name, seconds in outcome.seconds.items()),
        ("starts of machines", _count(outcome.starts)),
        ("connections of PostgreSQL that were ended", outcome.ended_connections),
        ("S3 server without an answer, s", f"{outcome.frozen_s:.0f}"),
        ("trials by state", _count(outcome.trials)),
        ("trials cut off and run again", len(outcome.cut_off)),
        ("requests answered / failed", f"{len(outcome.answered)} / {len(outcome.failed)}"),
        ("attempts sent to the other replica", outcome.tried_again),
        ("answers by model version", _count(outcome.by_model)),
        ("slowest answer, s", f"{outcome.slowest_s:.1f}"),
        ("rows in the log", len(outcome.logged)),
        ("rows whose answer did not arrive", len({*outcome.logged} - {*outcome.answered})),
        ("last row after the last answer, s", f"{outcome.logged_after_s:.1f}"),
        ("champion taken after the pipeline's end, s", _count(outcome.taken_after_s)),
        ("out-of-fold V-F1", f"{outcome.champion.v_f1:.4f}"),
        ("champion, undisturbed", outcome.undisturbed.hash[:16]),
        ("champion, disturbed", outcome.champion.hash[:16]),
        *((f"served by {name}", tag) for name, tag in outcome.served.items()),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def _count(counts: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in sorted(counts.items())
    )


def write_result(outcome: Outcome, *, about: dict[str, Any], faults: list[str]) -> str:
    """Write the result as JSON, with counts in place of ids."""
    lists = ("answered", "failed", "logged", "done_recipes")
    fields = {name: one for name, one in asdict(outcome).items() if name not in lists}
    counts = {f"n_{name}": len(getattr(outcome, name)) for name in lists}
    content = {"about": about, "faults": faults, **fields, **counts}
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
