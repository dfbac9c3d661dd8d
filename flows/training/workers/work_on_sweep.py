"""Flow ``work-on-sweep``: share the trials of a sweep that another flow run has started."""

from __future__ import annotations

from typing import Any, Final

from prefect import flow, get_run_logger

from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.records.atomic_files import require_room
from flows.data.dataset_versions import list_versions
from flows.data.shared_versions import list_all_versions, open_version
from flows.doors.registry import Registry, RunKind
from flows.doors.ui.run_names import name_run
from flows.training.sweep import Sweep, SweepError, let_go, read_sweep, study_of
from flows.training.train_sweep import cut_training_beats, finish_sweep
from flows.training.workers.search import take_trials
from flows.training.workers.shared_data import fetch_data

NEWEST: Final = "newest"
"""Name for the newest sweep, where one may be given."""


@flow(name="work-on-sweep")
def work_on_sweep(sweep: str = NEWEST) -> str | None:
    """Take trials of a sweep that is under way, until all have ended.

    The run of `train-sweep` confirms the best recipes and builds the candidate. If it ends while
    trials run, a worker that has its ECG_HOME takes the lead and does this. Workers leave when all
    trials have ended. If the run of `train-sweep` ends after that, no worker takes the lead: run
    it again with the same parameters. On another machine, a worker needs the same MLflow server
    and ECG_STUDY_URL, and the dataset version or the same ECG_STORE_URL, where it finds the beats.

    Args:
        sweep: Name of the sweep, or its run in MLflow, or `newest`.

    Returns:
        The MLflow run of the candidate if this run had to build it.

    Raises:
        SweepError: If no such sweep is under way, other code trains here, a trial has no retry
            left, or the MLflow run of the sweep was deleted.
        DatasetError: If the dataset version is neither on this machine nor in the store.
    """
    settings = read_settings()
    require_room(settings.home)
    registry = Registry(settings)
    found, shared = find_sweep(sweep, registry, settings)
    name_run(f"share of sweep {found.name}")
    logger = get_run_logger()
    name = found.tags["ecg.dataset_version"]
    is_here = name in list_versions(settings.datasets_dir)
    if is_here or (shared is None and name in list_all_versions(settings)):
        version = open_version(settings, name)
        data = cut_training_beats(version, found.plan.views, settings)
    else:  # beats that the run that leads has cut
        version, data = fetch_data(found, shared, settings)
    try:
        share = take_trials(found, version, data, registry, settings, is_leading=False)
        if share.is_leading:
            return finish_sweep(found, version, data, registry, settings)
    finally:
        let_go(found)
    logger.info(
        "sweep %s: %d trials were run here; the run that leads it builds the candidate",
        found.name,
        share.n_trials,
    )
    name_run(f"share of sweep {found.name}: {share.n_trials} trials")
    return None


def find_sweep(wanted: str, registry: Registry, settings: Settings) -> tuple[Sweep, str | None]:
    """Find a sweep that is under way, by its name or its MLflow run, or the newest.

    Returns:
        The sweep, and the hash of its data in the store if they are shared.
    """
    import optuna

    from flows.training.workers.search_space import open_storage

    for run in registry.list_runs():
        if run.kind == RunKind.SWEEP and run.is_open and wanted in {NEWEST, run.sweep, run.run_id}:
            break
    else:
        which = "sweep" if wanted == NEWEST else f"sweep {wanted}"
        raise SweepError(
            f"there must be a sweep under way to work on, found no {which}; "
            "start one with train-sweep"
        )
    try:
        study = optuna.load_study(
            study_name=study_of(run.sweep, run.run_id),
            storage=open_storage(settings.study_storage_url),
        )
        described: dict[str, Any] = study.user_attrs["sweep"]
    except KeyError as error:
        raise SweepError(
            f"the study of sweep {run.sweep} must be in the storage of ECG_STUDY_URL, it is not: "
            "its run has only begun, or uses another storage"
        ) from error
    return read_sweep(described, settings), described.get("data")
