"""Keep the state of a sweep: its plan, directory and MLflow runs, so that it can be resumed."""

from __future__ import annotations

import fcntl
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ecg_lib.operations.settings import Profile, Settings
from ecg_lib.records.atomic_files import write_whole
from flows.data.databases import Role
from flows.data.dataset_versions import TRAINING, DatasetVersion, hash_code
from flows.data.training_data import (
    FULL_VIEWS,
    QUICK_VIEWS,
    ViewPlan,
)
from flows.doors.ledger import read_git_commit
from flows.doors.registry import Registry, RunKind
from flows.training.fitting import (
    FinalFit,
)

if TYPE_CHECKING:
    from ecg_lib.evaluation.beat_scoring import BeatCounts
    from ecg_lib.training.cross_validation import FoldOutput, Recipe
    from ecg_lib.training.out_of_fold import OutOfFold


_STATE: Final = "sweep.json"
_LOCK: Final = ".lock"
_HELD: Final[dict[Path, TextIO]] = {}
"""Locks of the sweeps that this process works on; they fall with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """Size of a sweep."""

    n_trials: int = 6
    search_folds: int = 3
    search_beats: int = 15_000
    search_epochs: int = 3
    confirm_folds: int = 3
    confirm_epochs: int = 5
    confirm_beats: int | None = 30_000
    """Training beats of each fold and of the final fit; all when None."""
    n_seeds: int = 1
    """Seeds that the folds of the chosen recipe are fitted with, to see how far figures move."""
    views: ViewPlan = field(default=QUICK_VIEWS)


PLANS: Final = {
    Profile.QUICK: SweepPlan(),
    Profile.FULL: SweepPlan(
        n_trials=40,
        search_beats=30_000,
        confirm_folds=5,
        confirm_beats=80_000,
        n_seeds=5,
        views=FULL_VIEWS,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A running sweep; kept on disk, so that it can be resumed after a kill."""

    name: str
    run_id: str
    """MLflow run of the sweep."""
    directory: Path
    seed: int
    plan: SweepPlan
    tags: dict[str, str]


class Confirmed(NamedTuple):
    """A recipe with its fits of the full budget."""

    trial: int
    recipe: Recipe
    folds: list[FoldOutput]
    final: FinalFit


class Judged(NamedTuple):
    """A confirmed recipe with its figures."""

    confirmed: Confirmed
    out_of_fold: OutOfFold
    metrics: dict[str, Any]
    by_record: dict[str, BeatCounts]


@task(cache_policy=NO_CACHE)
def open_sweep(
    version: DatasetVersion,
    plan: SweepPlan,
    seed: int | None,
    registry: Registry,
    settings: Settings,
) -> Sweep:
    """Resume the unfinished sweep of these parameters, or start one."""
    logger = get_run_logger()
    root = settings.home / "sweeps"
    tags = {
        "ecg.data_source": version.data_source.value,
        "ecg.dataset_version": version.version,
        "mlflow.source.git.commit": read_git_commit(),
    }
    key = _key_of(version, plan, seed)
    earlier = sorted(root.glob(f"{key}-*"), key=lambda path: int(path.name.partition("-")[2]))
    for directory in earlier:
        if not (directory / _STATE).exists():
            continue  # another run makes it, or was killed before it had begun
        if not _hold(directory):
            logger.info("sweep %s is under way in another run", directory.name)
            continue
        state = json.loads((directory / _STATE).read_text(encoding="utf-8"))
        if state["candidate_run_id"] is None:
            logger.info("resuming sweep %s", directory.name)
            registry.end_cut_off(state["run_id"])
            return Sweep(
                name=directory.name,
                run_id=state["run_id"],
                directory=directory,
                seed=state["seed"],
                plan=plan,
                tags=tags,
            )
        _let_go(directory)
    number = _take_number(root, key, after=len(earlier))
    seed = number - 1 if seed is None else seed
    name = f"{key}-{number}"
    run_id = registry.start_run(name, kind=RunKind.SWEEP, tags={**tags, "ecg.sweep": name})
    registry.log(run_id, params={"seed": seed, **flatten(asdict(plan))})
    registry.log_dataset(
        run_id,
        version=version.version,
        data_source=version.data_source.value,
        description={"records": [record.name for record in version.records_of(Role.DEVELOPMENT)]},
    )
    sweep = Sweep(name=name, run_id=run_id, directory=root / name, seed=seed, plan=plan, tags=tags)
    _write_state(sweep, candidate_run_id=None)
    logger.info("started sweep %s on dataset %s (%s)", name, version.version, version.data_source)
    return sweep


def _take_number(root: Path, key: str, *, after: int) -> int:
    """Make and hold the directory of a new sweep; another run may make one at the same time."""
    root.mkdir(parents=True, exist_ok=True)
    number = after + 1
    while True:
        directory = root / f"{key}-{number}"
        try:
            directory.mkdir()
        except FileExistsError:
            number += 1
            continue
        if _hold(directory):
            return number
        number += 1


def _hold(directory: Path) -> bool:
    """Lock a sweep for this process; False when another process works on it."""
    lock = (directory / _LOCK).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return False
    _HELD[directory] = lock
    return True


def _let_go(directory: Path) -> None:
    _HELD.pop(directory).close()


def _key_of(version: DatasetVersion, plan: SweepPlan, seed: int | None) -> str:
    text = json.dumps([version.version, asdict(plan), seed, hash_code(TRAINING)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _write_state(sweep: Sweep, *, candidate_run_id: str | None) -> None:
    sweep.directory.mkdir(parents=True, exist_ok=True)
    state = {
        "run_id": sweep.run_id,
        "seed": sweep.seed,
        "candidate_run_id": candidate_run_id,
    }
    write_whole(sweep.directory / _STATE, json.dumps(state))


def kept_fold(sweep: Sweep, recipe: Recipe, name: str) -> Path:
    """Return the path where a fit of a recipe is kept."""
    return sweep.directory / f"{_hash_recipe(recipe)}-{name}.npz"


def _hash_recipe(recipe: Recipe) -> str:
    return hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode()).hexdigest()[:12]


@task(cache_policy=NO_CACHE)
def close_sweep(sweep: Sweep, candidate_run_id: str, registry: Registry) -> None:
    """Record the candidate of the sweep and end it."""
    _write_state(sweep, candidate_run_id=candidate_run_id)
    registry.log(sweep.run_id, tags={"ecg.candidate": candidate_run_id})
    registry.end_run(sweep.run_id)
    _let_go(sweep.directory)
