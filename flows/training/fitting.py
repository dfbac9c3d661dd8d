"""Run the fits of a sweep, each in its own process with one thread, two at a time.

One thread, because a network this small gains nothing from a second one, and because a fit then
gives the same weights every time.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.operations.settings import Settings
from ecg_lib.records.atomic_files import replacing
from flows.data.dataset_versions import DatasetVersion
from flows.data.training_data import SCORING_VIEWS, load_training_data
from flows.doors.parallel import N_PROCESSES
from flows.doors.registry import Registry, RunEnd
from flows.doors.ui.columns import STATE, V_F1_OF_SEARCH

if TYPE_CHECKING:
    import optuna

    from ecg_lib.training.cross_validation import FoldOutput, Recipe


class TrialResult(NamedTuple):
    """Result of a trial."""

    scores: tuple[float, ...]
    """V-F1 of all folds so far, after each fold."""
    is_pruned: bool


class FinalFit(NamedTuple):
    """A network fitted to all development subjects."""

    network: Path
    """ONNX graph."""
    loss: tuple[float, ...]
    probe_rows: NDArray[np.int64]
    """Some rows of the dataset, and the logits of the network where it was trained."""
    probe_logits: NDArray[np.float64]


@contextmanager
def fit_processes() -> Iterator[ProcessPoolExecutor]:
    """Open the processes that fits run in; fits not begun at its end are dropped.

    They end with this process, even if it is killed.
    """
    # Not joblib: its workers end when TensorFlow keeps memory, and a new one imports it again.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(N_PROCESSES, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Watch the parent: a fit of a killed flow would take a core for minutes."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _use_one_thread() -> None:
    """Limit TensorFlow to one thread; it must not be imported yet."""
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"


def run_trial(
    *,
    run_id: str,
    params: Mapping[str, Any],
    earlier: Sequence[optuna.trial.FrozenTrial],
    seed: int,
    n_folds: int,
    base: Recipe,
    version: DatasetVersion,
    data: Path,
    settings: Settings,
) -> TrialResult:
    """Run one trial fold by fold, until it ends or is pruned, and end its MLflow run.

    Args:
        run_id: MLflow run of the trial.
        params: Parameters that the study drew.
        earlier: The finished trials that the pruner may compare with. A trial that runs beside
            this one is not among them, so that timing decides nothing.
        seed: Seed of the networks; that of each fold differs.
        n_folds: Number of folds.
        base: Recipe of everything that is not searched.
        version: Dataset.
        data: Its training beats.
        settings: Where MLflow is.

    Returns:
        The scores, and whether it was pruned.
    """
    _use_one_thread()
    from ecg_lib.training.cross_validation import predict_fold, score_quickly
    from ecg_lib.training.views import WHOLE
    from flows.training.figures import draw_losses
    from flows.training.workers.search_space import replay_trial, suggest_recipe

    registry = Registry(settings)
    dataset = load_training_data(data)
    missed_v = {record.name: record.missed_v or 0 for record in version.records}
    trial = replay_trial(params, earlier)
    recipe = suggest_recipe(trial, base)
    registry.log(run_id, params={**params, "seed": seed})
    registry.log_dataset(
        run_id,
        version=version.version,
        data_source=version.data_source.value,
        description={"folds": n_folds, "max_beats": base.max_beats},
    )
    outputs: list[FoldOutput] = []
    scores: list[float] = []
    started_s = time.monotonic()
    try:
        for fold in range(n_folds):
            output = predict_fold(
                dataset,
                folds=version.folds[n_folds],
                fold=fold,
                predicted_views=(WHOLE,),
                scoring_views=SCORING_VIEWS,
                recipe=recipe,
                seed=seed + fold,
                weights=version.weights,
            )
            outputs.append(output)
            registry.log_curve(run_id, f"fold{fold}_loss", output.loss)
            rows = np.concatenate([output.rows for output in outputs])
            logits = np.concatenate([output.logits for output in outputs])
            best = score_quickly(dataset, rows, logits, view=WHOLE, missed_v=missed_v)
            scores.append(best.f1)
            trial.report(best.f1, fold)
            if fold + 1 < n_folds and trial.should_prune():
                break
    except BaseException:
        registry.end_run(run_id, RunEnd.FAILED)
        raise
    is_pruned = len(scores) < n_folds
    registry.log_curve(run_id, "v_f1_so_far", scores)
    metrics = {"seconds": time.monotonic() - started_s}
    if not is_pruned:
        metrics["search_v_f1"] = metrics[V_F1_OF_SEARCH] = scores[-1]
    registry.log(run_id, metrics=metrics, tags={STATE: "pruned" if is_pruned else "complete"})
    registry.log_text(run_id, draw_losses([output.loss for output in outputs]), "loss.svg")
    registry.end_run(run_id)
    return TrialResult(tuple(scores), is_pruned)


def fit_fold(
    *,
    name: str,
    fold: int,
    n_folds: int,
    recipe: Recipe,
    seed: int,
    version: DatasetVersion,
    data: Path,
    keep: Path,
) -> str:
    """Fit without one fold and predict it; keep output and ONNX graph; return the name."""
    _use_one_thread()
    from ecg_lib.training.cross_validation import predict_fold
    from ecg_lib.training.fitting import export_onnx

    output = predict_fold(
        load_training_data(data),
        folds=version.folds[n_folds],
        fold=fold,
        predicted_views=SCORING_VIEWS,
        scoring_views=SCORING_VIEWS,
        recipe=recipe,
        seed=seed + fold,
        weights=version.weights,
    )
    export_onnx(output.model, keep.with_suffix(".onnx"))
    with replacing(keep) as draft, draft.open("wb") as file:
        np.savez(
            file,
            rows=output.rows,
            logits=output.logits,
            beat_logits=output.beat_logits,
            loss=np.array(output.loss),
            n_training_beats=output.n_training_beats,
        )
    return name


def load_fold(path: Path) -> FoldOutput:
    """Load the output that :func:`fit_fold` kept."""
    from ecg_lib.training.cross_validation import FoldOutput

    with np.load(path) as kept:
        return FoldOutput(
            kept["rows"],
            kept["logits"],
            kept["beat_logits"],
            tuple(kept["loss"].tolist()),
            int(kept["n_training_beats"]),
        )


def fit_all(
    *,
    name: str,
    subjects: set[str],
    recipe: Recipe,
    seed: int,
    weights: Mapping[str, float],
    data: Path,
    keep: Path,
    n_probe: int = 2048,
) -> str:
    """Fit to all subjects; keep the ONNX graph and some logits beside it; return the name."""
    _use_one_thread()
    from ecg_lib.training.cross_validation import fit_subjects
    from ecg_lib.training.fitting import export_onnx, predict_logits

    dataset = load_training_data(data)
    fitted = fit_subjects(
        dataset,
        subjects=subjects,
        scoring_views=SCORING_VIEWS,
        recipe=recipe,
        seed=seed,
        weights=weights,
    )
    rows = np.arange(0, len(dataset), max(1, len(dataset) // n_probe))[:n_probe]
    logits = predict_logits(fitted.model, dataset.windows[rows], dataset.features[rows])[:, 0]
    export_onnx(fitted.model, keep.with_suffix(".onnx"))
    with replacing(keep) as draft, draft.open("wb") as file:
        np.savez(file, loss=np.array(fitted.loss), rows=rows, logits=logits)
    return name


def load_final(path: Path) -> FinalFit:
    """Load the fit that :func:`fit_all` kept."""
    with np.load(path) as kept:
        return FinalFit(
            path.with_suffix(".onnx"), tuple(kept["loss"].tolist()), kept["rows"], kept["logits"]
        )
