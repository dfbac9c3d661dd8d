"""Keep the state of a sweep: its plan, directory and MLflow runs, so that it can be resumed."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from pydantic import TypeAdapter

from ecg_lib.errors import EcgError
from ecg_lib.operations.settings import Profile, Settings
from ecg_lib.records.atomic_files import write_whole
from flows.data.databases import Role
from flows.data.dataset_versions import TRAINING, DatasetVersion, hash_code
from flows.data.training_data import (
    DEMO_VIEWS,
    FULL_VIEWS,
    QUICK_VIEWS,
    ViewPlan,
)
from flows.doors.ledger import read_git_commit
from flows.doors.registry import KnownRun, Registry, RunEnd, RunKind
from flows.doors.ui.tracking import describe_experiment, describe_run
from flows.training.fitting import (
    FinalFit,
)
from flows.training.workers.presence import has_workers

if TYPE_CHECKING:
    from ecg_lib.evaluation.beat_scoring import BeatCounts
    from ecg_lib.training.cross_validation import FoldOutput, Recipe
    from ecg_lib.training.out_of_fold import OutOfFold


class SweepSize(StrEnum):
    """How much a sweep does."""

    AS_SET = "as set"
    """As ECG_PROFILE says."""
    QUICK = "quick"
    FULL = "full"


_SWEEPS: Final = "sweeps"
_STATE: Final = "sweep.json"
_LOCK: Final = ".lock"
_HAS_DATA: Final = "has_shared_data"
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
    n_workers: int = 1
    """Flow runs that trials are drawn for: as many together as they have processes."""
    n_seeds: int = 1
    """Seeds that the folds of the chosen recipe are fitted with, to see how far figures move."""
    views: ViewPlan = field(default=QUICK_VIEWS)


PLANS: Final = {
    Profile.QUICK: SweepPlan(),
    Profile.FULL: SweepPlan(
        n_trials=40,
        search_beats=30_000,
        confirm_folds=5,
        confirm_beats=100_000,
        n_seeds=5,
        views=FULL_VIEWS,
    ),
    Profile.DEMO: SweepPlan(
        n_trials=1,
        search_beats=2_000,
        search_epochs=1,
        confirm_epochs=5,
        confirm_beats=None,
        views=DEMO_VIEWS,
    ),
}


def plan_of(size: SweepSize, settings: Settings) -> SweepPlan:
    """Return the plan of a size."""
    return PLANS[settings.profile if size is SweepSize.AS_SET else Profile(size.value)]


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

    @property
    def study(self) -> str:
        """Name of its study."""
        return study_of(self.name, self.run_id)


def study_of(name: str, run_id: str) -> str:
    """Return the name of the study of a sweep; another machine may have a sweep of this name."""
    return f"{name}-{run_id[:8]}"


class SweepError(EcgError):
    """A sweep cannot be worked on."""


class UnfinishedSweeps(NamedTuple):
    """MLflow runs of the sweeps that are not over."""

    open: set[str]
    """Of sweeps that a process works on."""
    resumable: set[str]
    """Of sweeps that were interrupted and that the same parameters would resume."""


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
    root = settings.home / _SWEEPS
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
        state = _read_state(directory)
        if state is None:
            logger.warning("sweep %s has a torn state and is not resumed", directory.name)
        elif _is_unfinished(state):
            if registry.reopen_run(state["run_id"]):
                logger.info("resuming sweep %s", directory.name)
                if not has_workers(directory):
                    registry.end_cut_off(state["run_id"])
                return Sweep(
                    name=directory.name,
                    run_id=state["run_id"],
                    directory=directory,
                    seed=state["seed"],
                    plan=plan,
                    tags=tags,
                )
            logger.warning("sweep %s is not resumed, as its run was deleted", directory.name)
            _write_state(directory, {**state, "is_given_up": True})
        _let_go(directory)
    number = _take_number(root, key, after=len(earlier))
    directory = root / f"{key}-{number}"
    try:
        return _start_sweep(
            directory,
            version=version,
            plan=plan,
            seed=number - 1 if seed is None else seed,
            tags=tags,
            registry=registry,
            settings=settings,
        )
    except BaseException:
        _let_go(directory)
        raise


def _start_sweep(
    directory: Path,
    *,
    version: DatasetVersion,
    plan: SweepPlan,
    seed: int,
    tags: dict[str, str],
    registry: Registry,
    settings: Settings,
) -> Sweep:
    name = directory.name
    run_id = registry.start_run(name, kind=RunKind.SWEEP, tags={**tags, "ecg.sweep": name})
    registry.log(run_id, params={"seed": seed, **flatten(asdict(plan))})
    registry.log_dataset(
        run_id,
        version=version.version,
        data_source=version.data_source.value,
        description={"records": [record.name for record in version.records_of(Role.DEVELOPMENT)]},
    )
    describe_experiment(registry, settings)
    describe_run(
        registry,
        settings,
        run_id,
        about=f"Sweep of {plan.n_trials} trials. Its best recipe becomes the candidate, a run "
        "below this one; `sweep/history.svg` shows the trials.",
        lines={"Dataset version": f"`{version.version}`", "Commit": f"`{read_git_commit()}`"},
    )
    state = {
        "run_id": run_id,
        "seed": seed,
        "candidate_run_id": None,
        "dataset_version": version.version,
        "training_code": hash_code(TRAINING),
    }
    _write_state(directory, state)
    get_run_logger().info(
        "started sweep %s on dataset %s (%s)", name, version.version, version.data_source
    )
    return Sweep(name=name, run_id=run_id, directory=directory, seed=seed, plan=plan, tags=tags)


def describe_sweep(sweep: Sweep, *, data: str | None = None) -> dict[str, Any]:
    """Describe a sweep in its study, for workers that did not open it.

    Args:
        sweep: The sweep.
        data: Hash of its data in the store, if they are shared.
    """
    return {
        "data": data,
        "name": sweep.name,
        "run_id": sweep.run_id,
        "seed": sweep.seed,
        "plan": asdict(sweep.plan),
        "tags": sweep.tags,
        "training_code": hash_code(TRAINING),
    }


def read_sweep(described: dict[str, Any], settings: Settings) -> Sweep:
    """Read the description of a sweep.

    Raises:
        SweepError: If other code trains here: its trials would not be comparable.
    """
    if described["training_code"] != hash_code(TRAINING):
        raise SweepError(
            f"sweep {described['name']} must be worked on by the code that opened it, "
            "this training code differs; start this worker from the same version"
        )
    return Sweep(
        name=described["name"],
        run_id=described["run_id"],
        directory=settings.home / _SWEEPS / described["name"],
        seed=described["seed"],
        plan=TypeAdapter(SweepPlan).validate_python(described["plan"]),
        tags=described["tags"],
    )


def take_lead(sweep: Sweep, registry: Registry) -> bool:
    """Lead a sweep whose lead has ended; False while another run leads it, or when it is over.

    The lead is the lock of its directory, so it does not go to a machine without that.

    Raises:
        SweepError: If the sweep was given up, or its MLflow run was deleted: nothing leads it.
    """
    if not is_here(sweep) or not _hold(sweep.directory):
        return False
    state = _read_state(sweep.directory)
    if state is None or state["candidate_run_id"] is not None:
        _let_go(sweep.directory)
        return False
    if _is_unfinished(state) and registry.reopen_run(sweep.run_id):
        get_run_logger().info("the run that led sweep %s has ended: this one leads it", sweep.name)
        return True
    _let_go(sweep.directory)
    raise SweepError(
        f"sweep {sweep.name} must have its MLflow run to be worked on, the run was deleted or "
        "the sweep given up; start another one with train-sweep"
    )


def is_here(sweep: Sweep) -> bool:
    """Check whether this machine has the directory of a sweep, and not one of the same name."""
    state = _read_state(sweep.directory)
    return state is not None and state["run_id"] == sweep.run_id


def settle_sweeps(
    runs: Iterable[KnownRun], registry: Registry, settings: Settings, *, datasets: set[str]
) -> UnfinishedSweeps:
    """End the runs of sweeps that no process works on; a killed process left them open.

    A sweep that has its candidate is finished. Any other is ended as killed. It can be resumed as
    long as its dataset version is there and the training code is the same; after that it is given
    up.

    Args:
        runs: All runs of the registry.
        registry: Where they are ended.
        settings: Where the sweeps are.
        datasets: Dataset versions that there are.
    """
    found = UnfinishedSweeps(set(), set())
    known = list(runs)
    with_open_runs = {run.parent_run_id for run in known if run.is_open}
    for run in known:
        if run.kind != RunKind.SWEEP:
            continue
        is_open = run.is_open or run.run_id in with_open_runs
        directory = _find_directory(run, settings)
        if directory is None:
            if is_open and has_shared_runs(settings):
                found.open.add(run.run_id)  # perhaps of another machine that uses this server
            elif is_open:
                _end_killed(run, registry)
            continue
        state = _read_state(directory)
        if not is_open and (state is None or not _is_unfinished(state)):
            continue
        if has_workers(directory) or not _hold(directory):
            found.open.add(run.run_id)
            continue
        try:
            # Read again: its process may have ended only now.
            if _settle(run, directory, registry, datasets, is_open=is_open):
                found.resumable.add(run.run_id)
        finally:
            _let_go(directory)
    for path in (settings.home / _SWEEPS).glob(f"*/{_STATE}"):
        _give_up_lost(path.parent, {run.run_id for run in known})
    return found


def _find_directory(run: KnownRun, settings: Settings) -> Path | None:
    """Find the directory of a sweep; None when it is lost, or on another machine."""
    directory = settings.home / _SWEEPS / (run.sweep or "none")
    if directory.name != run.sweep or not directory.is_dir():
        return None
    state = _read_state(directory)
    if state is None:  # a sweep of another machine may have the same name
        return None if has_shared_runs(settings) else directory
    return directory if state["run_id"] == run.run_id else None


def has_shared_runs(settings: Settings) -> bool:
    """Check whether runs in MLflow may be of another machine: it has a server or database."""
    return settings.mlflow_tracking_uri is not None or settings.mlflow_store_url is not None


def _give_up_lost(directory: Path, run_ids: set[str]) -> None:
    """Give up a sweep whose run was deleted: nothing resumes it."""
    state = _read_state(directory)
    if state is None or not _is_unfinished(state) or state["run_id"] in run_ids:
        return
    if _hold(directory):
        _write_state(directory, {**state, "is_given_up": True})
        _let_go(directory)


def _settle(
    run: KnownRun, directory: Path, registry: Registry, datasets: set[str], *, is_open: bool
) -> bool:
    """End the run of a sweep that this process holds; return whether it would be resumed."""
    state = _read_state(directory)
    if state is not None and state["candidate_run_id"] is not None:
        registry.end_cut_off(run.run_id)
        registry.log(run.run_id, tags={"ecg.candidate": state["candidate_run_id"]})
        registry.end_run(run.run_id)
        return False
    if is_open:
        _end_killed(run, registry)
    if state is None or not _is_unfinished(state):
        return False
    code = hash_code(TRAINING)
    # Earlier code noted no code; its sweeps have the dataset in their runs.
    is_same_code = state.get("training_code", code) == code
    if is_same_code and state.get("dataset_version", run.dataset_version) in datasets:
        return True
    _write_state(directory, {**state, "is_given_up": True})
    return False


def _end_killed(run: KnownRun, registry: Registry) -> None:
    registry.end_cut_off(run.run_id)
    if run.is_open:
        registry.end_run(run.run_id, RunEnd.KILLED)


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
    if (lock := _HELD.pop(directory, None)) is not None:
        lock.close()


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


def _read_state(directory: Path) -> dict[str, Any] | None:
    """Read the state of a sweep; None when there is none, or it is torn."""
    try:
        state = json.loads((directory / _STATE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    is_whole = isinstance(state, dict) and {"run_id", "seed", "candidate_run_id"} <= set(state)
    return state if is_whole else None


def _is_unfinished(state: dict[str, Any]) -> bool:
    return state["candidate_run_id"] is None and not state.get("is_given_up", False)


def _write_state(directory: Path, state: dict[str, Any]) -> None:
    write_whole(directory / _STATE, json.dumps(state))


def kept_fold(sweep: Sweep, recipe: Recipe, name: str) -> Path:
    """Return the path where a fit of a recipe is kept."""
    return sweep.directory / f"{_hash_recipe(recipe)}-{name}.npz"


def _hash_recipe(recipe: Recipe) -> str:
    return hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode()).hexdigest()[:12]


def note_shared_data(sweep: Sweep, *, has_data: bool) -> None:
    """Note whether data of a sweep may be in the store; only the run that leads it does."""
    state = _read_state(sweep.directory)
    if state is not None:
        _write_state(sweep.directory, {**state, _HAS_DATA: has_data})


def settle_shared_data(settings: Settings, remove: Callable[[str], bool]) -> None:
    """Remove the data of sweeps that are over.

    Args:
        settings: Where the sweeps are.
        remove: Removes the data of a sweep, by its MLflow run; False if it could not.
    """
    for path in (settings.home / _SWEEPS).glob(f"*/{_STATE}"):
        directory = path.parent
        if not _has_left_data(directory) or not _hold(directory):
            continue
        try:
            state = _read_state(directory)
            if state is not None and remove(state["run_id"]):
                _write_state(directory, {**state, _HAS_DATA: False})
        finally:
            _let_go(directory)


def _has_left_data(directory: Path) -> bool:
    state = _read_state(directory)
    return state is not None and bool(state.get(_HAS_DATA)) and not _is_unfinished(state)


@task(cache_policy=NO_CACHE)
def close_sweep(sweep: Sweep, candidate_run_id: str, registry: Registry) -> None:
    """Record the candidate of the sweep and end it."""
    state = _read_state(sweep.directory) or {"run_id": sweep.run_id, "seed": sweep.seed}
    _write_state(sweep.directory, {**state, "candidate_run_id": candidate_run_id})
    registry.log(sweep.run_id, tags={"ecg.candidate": candidate_run_id})
    registry.end_cut_off(sweep.run_id)
    registry.end_run(sweep.run_id)


def let_go(sweep: Sweep) -> None:
    """Let other processes work on the sweep; one that has no candidate is then resumed."""
    _let_go(sweep.directory)
