"""Measure how often the promotion gate lets chance, and a better recipe, through.

The folds of a small recipe are fitted to DS1 with several seeds. Each seed is judged as a
candidate, and each ordered pair of them by the gate "better than champion": networks that differ by
their seed alone are equal, so any promotion among them is false. The bundle that ships, on the
people of DS1, is the better recipe. "Before" is the interval of people alone, on calls of a
threshold that was chosen on them.

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
    import pyarrow as pa

    from ecg_lib.evaluation.beat_scoring import BeatCounts
    from flows.data.dataset_versions import DatasetVersion
    from flows.data.prepared_views import PreparedViews

N_FOLDS: Final = 5
STRIDE: Final = 1000
"""Between two seeds, whose folds have the seeds next to them."""


EPOCHS: Final = 3
MAX_BEATS: Final = 15_000


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
    """Whether the gate knows the V-F1 of all seeds of a recipe."""


def main() -> None:
    """Fit, judge all pairs, and print the tables."""
    from flows.data.prepared_views import PreparedViews

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6, help="of the small recipe")
    parser.add_argument("--home", type=Path, help="directory that keeps the fits")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as draft:
        home = arguments.home or Path(draft)
        os.environ["ECG_HOME"] = str(home)
        home.mkdir(parents=True, exist_ok=True)
        version = make_version(home)
        views = PreparedViews(version=version, datasets_dir=home / "datasets")
        small = list(judge_seeds(views, home, arguments.seeds))
        print_tables({"small": small, "shipped": [judge_shipped(views)]})


def judge_seeds(views: PreparedViews, home: Path, n_seeds: int) -> Iterator[Candidate]:
    """Fit the small recipe with each seed, and count its out-of-fold calls."""
    from ecg_lib.training.cross_validation import Recipe
    from ecg_lib.training.fitting import TrainingConfig
    from flows.training.seed_spread import predict_seeds

    data, fits = home / "beats", home / "small"
    fits.mkdir(exist_ok=True)
    if not data.exists():
        cut(views, data)
    for predicted in predict_seeds(
        [STRIDE * number for number in range(n_seeds)],
        n_folds=N_FOLDS,
        recipe=Recipe(training=TrainingConfig(epochs=EPOCHS), max_beats=MAX_BEATS),
        version=views.version,
        data=data,
        keep=lambda name: fits / f"{name}.npz",
        on_fit=lambda done, of: _tell(f"fit {done} of {of}"),
    ):
        yield count(predicted.table(), views)


def judge_shipped(views: PreparedViews) -> Candidate:
    """Count the out-of-fold calls of the bundle that ships, of the people of DS1."""
    from flows.release.load_released import read_reference

    bundle = read_reference()
    v_beats = {name: one["v_beats"] for name, one in bundle.metrics["by_subject"].items()}
    return count(bundle.read_out_of_fold(), views, v_beats=v_beats)


def count(
    table: pa.Table, views: PreparedViews, *, v_beats: dict[str, int] | None = None
) -> Candidate:
    """Count calls by subject, with the threshold of all predictions and with nested ones."""
    from ecg_lib.training.cross_validation import call_nested
    from ecg_lib.training.out_of_fold import count_whole_records

    version = views.version
    score = partial(
        count_whole_records,
        table,
        views.read_development_annotations(),
        fs=version.fs,
        subjects=version.subjects,
    )
    stated = score()
    v_beats = v_beats or {name: one.v_beats for name, one in stated.items()}
    return Candidate(stated, score(is_v=call_nested(table, v_beats=v_beats)))


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
            "now, with the figures of all seeds known",
            is_nested=True,
            has_spread=True,
            is_spread_measured=True,
        ),
    )
    small, shipped = candidates["small"], candidates["shipped"]
    kinds = {
        "seeds of one recipe": ("small", "small", list(itertools.permutations(small, 2))),
        "the bundle that ships against them": (
            "shipped",
            "small",
            list(itertools.product(shipped, small)),
        ),
        "they against it": ("small", "shipped", list(itertools.product(small, shipped))),
    }
    _say("| Gate | " + " | ".join(kinds) + " |\n" + "|---" * (len(kinds) + 1) + "|")
    for rule in rules:
        cells = []
        for ours, theirs, pairs in kinds.values():
            seeds = (f1[ours], f1[theirs])
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
    policy = PromotionPolicy() if rule.has_spread else PromotionPolicy(seed_sd=0.0)
    decision = decide_promotion(challenger, champion, policy=policy)
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
