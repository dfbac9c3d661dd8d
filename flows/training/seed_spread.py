"""Measure how far the figures of a recipe move with the seed, by fitting its folds with others.

Each seed is judged like the first, with its own calibration and threshold. The bundle stays that of
the first seed whatever the others reach: picking the best of several seeds would be luck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ecg_lib.records.annotations import Annotations
from flows.data.dataset_versions import DatasetVersion
from flows.data.training_data import load_training_data
from flows.training.fitting import fit_fold, fit_processes, load_fold

if TYPE_CHECKING:
    from ecg_lib.training.cross_validation import Recipe
    from ecg_lib.training.out_of_fold import OutOfFold

SEED_FIGURES: Final = (
    "oof_v_f1", "oof_v_f1_strict", "oof_v_se", "oof_v_ppv", "oof_v_f1_after_5min",
    "oof_strips_10s_v_f1", "oof_accuracy", "oof_ece",
)  # fmt: skip

_STRIDE: Final = 1000  # the folds of a seed have the seeds next to it


def measure_seeds(
    *,
    first: Mapping[str, Any],
    n_seeds: int,
    seed: int,
    n_folds: int,
    recipe: Recipe,
    version: DatasetVersion,
    annotations: Mapping[str, Annotations],
    data: Path,
    keep: Callable[[str], Path],
    on_fit: Callable[[int, int], None],
) -> list[dict[str, float]]:
    """Fit the folds of a recipe with other seeds and judge each.

    Args:
        first: The figures of the first seed.
        n_seeds: Number of seeds, the first among them.
        seed: The first seed.
        n_folds: Number of folds.
        recipe: What is fitted.
        version: Dataset.
        annotations: Annotations of its development records, by record.
        data: Its training beats.
        keep: Gives the file of a fit by its name.
        on_fit: Called with the number of fits done and of all fits.

    Returns:
        The seed and the figures of each, as the bundle's metrics hold them.
    """
    seeds = [seed + _STRIDE * number for number in range(1, n_seeds)]
    others = judge_seeds(
        seeds,
        n_folds=n_folds,
        recipe=recipe,
        version=version,
        annotations=annotations,
        data=data,
        keep=keep,
        on_fit=on_fit,
    )
    return [
        {"seed": one, **{name: metrics[name] for name in SEED_FIGURES}}
        for one, metrics in zip((seed, *seeds), (first, *others), strict=True)
    ]


def judge_seeds(
    seeds: Sequence[int],
    *,
    n_folds: int,
    recipe: Recipe,
    version: DatasetVersion,
    annotations: Mapping[str, Annotations],
    data: Path,
    keep: Callable[[str], Path],
    on_fit: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """Fit the folds of a recipe with each seed, and compute the out-of-fold figures of each.

    Args:
        seeds: As those of sweeps.
        n_folds: Number of folds.
        recipe: What is fitted.
        version: Dataset.
        annotations: Annotations of its development records, by record.
        data: Its training beats.
        keep: Gives the file of a fit by its name; fits whose file is there are not made again.
        on_fit: Called with the number of fits done and of all fits.

    Returns:
        Metrics of each seed, see :func:`ecg_lib.training.out_of_fold.measure`.
    """
    from ecg_lib.training.out_of_fold import measure

    return [
        measure(
            out_of_fold,
            annotations,
            duration_s=version.duration_s,
            databases=version.development_databases,
        )[0]
        for out_of_fold in predict_seeds(
            seeds,
            n_folds=n_folds,
            recipe=recipe,
            version=version,
            data=data,
            keep=keep,
            on_fit=on_fit,
        )
    ]


def predict_seeds(
    seeds: Sequence[int],
    *,
    n_folds: int,
    recipe: Recipe,
    version: DatasetVersion,
    data: Path,
    keep: Callable[[str], Path],
    on_fit: Callable[[int, int], None],
) -> Iterator[OutOfFold]:
    """Fit the folds of a recipe with each seed, and yield the judged predictions of each.

    Args:
        seeds: As those of sweeps.
        n_folds: Number of folds.
        recipe: What is fitted.
        version: Dataset.
        data: Its training beats.
        keep: Gives the file of a fit by its name; fits whose file is there are not made again.
        on_fit: Called with the number of fits done and of all fits.
    """
    from ecg_lib.training.out_of_fold import judge_folds

    files = {
        (one, fold): keep(f"seed-{one}-fold-{fold}") for one in seeds for fold in range(n_folds)
    }
    waiting = {at: path for at, path in files.items() if not path.exists()}
    n_done = len(files) - len(waiting)
    with fit_processes() as pool:
        jobs = [
            pool.submit(
                fit_fold,
                name=f"fold {fold} of seed {one}",
                fold=fold,
                n_folds=n_folds,
                recipe=recipe,
                seed=one,
                version=version,
                data=data,
                keep=path,
            )
            for (one, fold), path in waiting.items()
        ]
        for done in as_completed(jobs):
            done.result()
            n_done += 1
            on_fit(n_done, len(files))
    dataset = load_training_data(data)
    for one in seeds:
        folds = [load_fold(files[one, fold]) for fold in range(n_folds)]
        yield judge_folds(
            dataset, folds, n_missed=version.n_missed_v, databases=version.development_databases
        )
