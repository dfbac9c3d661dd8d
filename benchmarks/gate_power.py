"""Measure how often the promotion gate lets chance, and a better recipe, through.

The folds of a small recipe are fitted to DS1 with several seeds, and those of a larger one with
some. Each seed is judged as a candidate, and each ordered pair of them by the gate "better than
champion": networks that differ by their seed alone are equal, so any promotion among them is false.
"Before" is the interval of people alone, on calls of a threshold that was chosen on them.

Needs ECG_MITDB_DIR. With --home the fits are kept, and not made again. Reads DS1 alone.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from ecg_lib.evaluation.beat_scoring import BeatCounts
    from flows.data.dataset_versions import DatasetVersion
    from flows.data.prepared_views import PreparedViews

N_FOLDS: Final = 5
STRIDE: Final = 1000
"""Between two seeds, whose folds have the seeds next to them."""


class Size(NamedTuple):
    """A recipe that is fitted with some seeds."""

    name: str
    epochs: int
    max_beats: int
    n_seeds: int


class Candidate(NamedTuple):
    """A recipe with one seed, as the gate has it."""

    stated: dict[str, BeatCounts]
    """By subject, with the threshold of all predictions."""
    nested: dict[str, BeatCounts]


class Rule(NamedTuple):
    """A way to judge a pair."""

    name: str
    is_nested: bool
    has_spread: bool
    """Whether the spread of seeds and thresholds is in the interval."""
    is_spread_measured: bool = False
    """Whether the gate is told the V-F1 of all seeds of a recipe."""


def main() -> None:
    """Fit, judge all pairs, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6, help="of the small recipe")
    parser.add_argument("--better", type=int, default=1, help="of the larger recipe")
    parser.add_argument("--home", type=Path, help="directory that keeps the fits")
    arguments = parser.parse_args()
    sizes = (
        Size("small", 3, 15_000, arguments.seeds),
        Size("more", 6, 40_000, arguments.better),
    )
    with tempfile.TemporaryDirectory() as draft:
        home = arguments.home or Path(draft)
        os.environ["ECG_HOME"] = str(home)
        print_tables({size.name: list(judge(size, home)) for size in sizes})


def judge(size: Size, home: Path) -> Iterator[Candidate]:
    """Fit a recipe with each seed, and count its out-of-fold calls."""
    from ecg_lib.training.cross_validation import Recipe, call_nested
    from ecg_lib.training.fitting import TrainingConfig
    from ecg_lib.training.out_of_fold import count_whole_records
    from flows.data.prepared_views import PreparedViews
    from flows.training.seed_spread import predict_seeds

    version = make_version(home)
    data, fits = home / "beats", home / size.name
    fits.mkdir(exist_ok=True)
    views = PreparedViews(version=version, datasets_dir=home / "datasets")
    if not data.exists():
        cut(views, data)
    annotations = views.read_development_annotations()
    for predicted in predict_seeds(
        [STRIDE * number for number in range(size.n_seeds)],
        n_folds=N_FOLDS,
        recipe=Recipe(training=TrainingConfig(epochs=size.epochs), max_beats=size.max_beats),
        version=version,
        data=data,
        keep=lambda name: fits / f"{name}.npz",
        on_fit=lambda done, of: _tell(f"{size.name}: fit {done} of {of}"),
    ):
        count = partial(
            count_whole_records,
            predicted.table(),
            annotations,
            fs=version.fs,
            subjects=version.subjects,
        )
        stated = count()
        v_beats = {name: one.v_beats for name, one in stated.items()}
        yield Candidate(stated, count(is_v=call_nested(predicted.table(), v_beats=v_beats)))


def make_version(home: Path) -> DatasetVersion:
    """Prepare DS1."""
    from ecg_lib.classifier.bundle import DataSource
    from flows.data.databases import MITDB, Role
    from flows.data.dataset_versions import PreparedRecord
    from flows.data.dataset_versions import make_version as describe
    from flows.data.prepared_views import records_dir
    from flows.data.records.preparation import prepare_all
    from flows.data.records.sources import of_directory

    if "ECG_MITDB_DIR" not in os.environ:
        sys.exit("ECG_MITDB_DIR must be the directory of the MIT-BIH records")
    records = of_directory(MITDB, Path(os.environ["ECG_MITDB_DIR"]))
    of_part = [name for name in records.names if MITDB.roles[name] is Role.DEVELOPMENT]
    target = records_dir(home / "datasets")
    target.mkdir(parents=True, exist_ok=True)
    done = prepare_all(records._replace(names=tuple(of_part)), target)
    return describe(
        data_source=DataSource.MITDB,
        source_directory=records.directory,
        records=[one for one in done if isinstance(one, PreparedRecord)],
        broken=[],
        other_directories={},
    )


def cut(views: PreparedViews, data: Path) -> None:
    """Cut the beats of whole records and strips."""
    from ecg_lib.training.datasets import join_records
    from flows.data.databases import Role
    from flows.data.training_data import ViewPlan, cut_beats
    from flows.doors.parallel import run_in_processes

    plan = ViewPlan(training_views=())
    records = views.version.records_of(Role.DEVELOPMENT)
    parts = run_in_processes([partial(cut_beats, views, one, plan) for one in records])
    join_records(list(parts)).save(data)


def print_tables(candidates: dict[str, list[Candidate]]) -> None:
    """Print the V-F1 of each seed, and how many pairs pass by each rule."""
    f1 = {name: [_f1(one.nested) for one in of] for name, of in candidates.items()}
    for name, of in candidates.items():
        stated = [_f1(one.stated) for one in of]
        _say(
            f"{name}: V-F1 of {len(of)} seeds {', '.join(f'{one:.4f}' for one in stated)}, "
            f"standard deviation {statistics.pstdev(stated):.4f}; nested "
            f"{', '.join(f'{one:.4f}' for one in f1[name])}"
        )
    rules = (
        Rule("before: people alone", is_nested=False, has_spread=False),
        Rule("nested alone", is_nested=True, has_spread=False),
        Rule("now", is_nested=True, has_spread=True),
        Rule(
            "now, told the figures of all seeds",
            is_nested=True,
            has_spread=True,
            is_spread_measured=True,
        ),
    )
    small, more = candidates["small"], candidates["more"]
    kinds = {
        "small against small": ("small", "small", list(itertools.permutations(small, 2))),
        "more against small": ("more", "small", list(itertools.product(more, small))),
        "small against more": ("small", "more", list(itertools.product(small, more))),
    }
    _say("| Gate | " + " | ".join(kinds) + " |\n" + "|---" * (len(kinds) + 1) + "|")
    for rule in rules:
        cells = []
        for ours, theirs, pairs in kinds.values():
            seeds = (tuple(f1[ours]), tuple(f1[theirs]))
            n_passed = sum(is_passed(one, other, seeds, rule) for one, other in pairs)
            cells.append(f"{n_passed} of {len(pairs)}")
        _say(f"| {rule.name} | " + " | ".join(cells) + " |")


def is_passed(
    ours: Candidate,
    theirs: Candidate,
    seeds: tuple[Sequence[float], Sequence[float]],
    rule: Rule,
) -> bool:
    """Ask the gate whether one candidate is better than another."""
    from ecg_lib.classifier.bundle import DataSource
    from ecg_lib.operations.learning.promotion import Challenger, PromotionPolicy, decide_promotion

    challenger, champion = (
        Challenger(
            name=name,
            data_source=DataSource.MITDB,
            dataset_version="",
            counts=one.nested if rule.is_nested else one.stated,
            n_folds=N_FOLDS,
            seed_f1=tuple(seed_f1) if rule.is_spread_measured else (),
            threshold_gap=_f1(one.stated) - _f1(one.nested) if rule.has_spread else 0.0,
            microseconds_per_beat=0.0,
            runtime_difference=0.0,
        )
        for name, one, seed_f1 in zip(
            ("challenger", "champion"), (ours, theirs), seeds, strict=True
        )
    )
    decision = decide_promotion(challenger, champion, policy=PromotionPolicy(seed_sd=rule.seed_sd))
    return {gate.name: gate.is_passed for gate in decision.gates}["better than champion"]


def _f1(counts: dict[str, BeatCounts]) -> float:
    from ecg_lib.evaluation.beat_scoring import add_up

    return add_up(list(counts.values())).v_f1


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
