"""Flow ``train-sweep``: search recipes on few beats, confirm the best on all, make a candidate.

Trials are cheap: fewer beats and epochs, three folds by subject, pruned fold by fold. The best
recipe is then trained with the full budget in five other folds, whose out-of-fold predictions
give calibration, threshold, figures, gates and drift reference, and once more on all subjects.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from ecg_lib.settings import Profile, Settings, read_settings
from flows.dataset_versions import DatasetVersion, Role, hash_training_code, load_version
from flows.fitting import (
    FinalFit,
    fit_all,
    fit_fold,
    in_processes,
    load_final,
    load_fold,
    run_trial,
)
from flows.git_commit import read_git_commit
from flows.progress import ProgressBar
from flows.registry import ELIGIBLE, Registry, RunKind
from flows.training_data import (
    FULL_VIEWS,
    QUICK_VIEWS,
    ViewPlan,
    find_training_data,
    load_annotations,
)

if TYPE_CHECKING:
    import optuna

    from ecg_lib.cross_validation import FoldOutput, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """How much a sweep does."""

    n_trials: int = 6
    search_folds: int = 3
    search_beats: int = 20_000
    search_epochs: int = 3
    confirm_folds: int = 5
    confirm_epochs: int = 5
    confirm_beats: int | None = 50_000
    """Training beats of each fold and of the final fit; all when None."""
    views: ViewPlan = field(default=QUICK_VIEWS)


PLANS: Final = {
    Profile.QUICK: SweepPlan(),
    Profile.FULL: SweepPlan(
        n_trials=40,
        search_beats=40_000,
        search_epochs=4,
        confirm_epochs=8,
        confirm_beats=None,
        views=FULL_VIEWS,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A sweep that is under way; kept on disk, so that it goes on after a kill."""

    name: str
    run_id: str
    """MLflow run of the sweep."""
    directory: Path
    seed: int
    plan: SweepPlan
    tags: dict[str, str]


@flow(name="train-sweep")
def train_sweep(
    dataset_version: str | None = None,
    profile: Profile | None = None,
    n_trials: Annotated[int | None, Field(ge=1, le=1000)] = None,
    seed: Annotated[int | None, Field(ge=0)] = None,
) -> str:
    """Search for the best recipe on the development records and train a candidate with it.

    A sweep that was killed goes on with the next run of the same parameters, where it was.

    Args:
        dataset_version: Dataset to train on; the latest when left out.
        profile: How much to do, `quick` or `full`; ECG_PROFILE when left out.
        n_trials: Number of trials; that of the profile when left out.
        seed: Seed of the search, of the networks and of the choice of beats; when left out, the
            number of sweeps that ended with these parameters, so that a retraining is a new try.

    Returns:
        The MLflow run of the candidate.
    """
    settings = read_settings()
    version = load_version(settings.datasets_dir, dataset_version)
    plan = PLANS[profile or settings.profile]
    plan = replace(plan, n_trials=n_trials or plan.n_trials)
    registry = Registry(settings)
    sweep = open_sweep(version, plan, seed, registry, settings)
    data = cut_training_beats(version, plan.views, settings)
    recipe = search_recipe(sweep, version, data, registry, settings)
    folds, final = confirm_recipe(sweep, version, data, recipe)
    run_id = build_candidate(sweep, version, data, recipe, folds, final, registry)
    close_sweep(sweep, run_id, registry)
    return run_id


@task(cache_policy=NO_CACHE)
def open_sweep(
    version: DatasetVersion,
    plan: SweepPlan,
    seed: int | None,
    registry: Registry,
    settings: Settings,
) -> Sweep:
    """Find the sweep of these parameters that did not end, or start one."""
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
        state = json.loads((directory / "sweep.json").read_text(encoding="utf-8"))
        if state["candidate_run_id"] is None:
            logger.info("going on with sweep %s", directory.name)
            return Sweep(
                name=directory.name,
                run_id=state["run_id"],
                directory=directory,
                seed=state["seed"],
                plan=plan,
                tags=tags,
            )
    seed = len(earlier) if seed is None else seed
    name = f"{key}-{len(earlier) + 1}"
    run_id = registry.start_run(name, kind=RunKind.SWEEP, tags={**tags, "ecg.sweep": name})
    registry.log(run_id, params={"seed": seed, **_flat(asdict(plan))})
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


def _key_of(version: DatasetVersion, plan: SweepPlan, seed: int | None) -> str:
    text = json.dumps([version.version, asdict(plan), seed, hash_training_code()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
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
    draft = sweep.directory / ".sweep.json"
    draft.write_text(json.dumps(state), encoding="utf-8")
    draft.replace(sweep.directory / "sweep.json")


@task(cache_policy=NO_CACHE)
def cut_training_beats(version: DatasetVersion, views: ViewPlan, settings: Settings) -> Path:
    """Cut the labelled beats of the development records in all views."""
    from ecg_lib.datasets import BeatDataset

    directory = find_training_data(version, views, settings)
    data = BeatDataset.load(directory)
    get_run_logger().info(
        "%d beats of %d records, %d of them V",
        len(data),
        len(data.record_names),
        int(data.is_v.sum()),
    )
    return directory


@task(cache_policy=NO_CACHE)
def search_recipe(
    sweep: Sweep, version: DatasetVersion, data: Path, registry: Registry, settings: Settings
) -> Recipe:
    """Run the trials that the study still lacks and return the best recipe."""
    from joblib import delayed

    from ecg_lib.cross_validation import Recipe
    from ecg_lib.training import TrainingConfig
    from flows.search_space import best_recipe, count_done, open_study

    logger = get_run_logger()
    plan = sweep.plan
    base = Recipe(training=TrainingConfig(epochs=plan.search_epochs), max_beats=plan.search_beats)
    study = open_study(sweep.name, storage_url=settings.study_storage_url, seed=sweep.seed)
    bar = ProgressBar("Trials")
    n_done = count_done(study)
    jobs = [
        delayed(run_trial)(
            study_name=sweep.name,
            job=len(study.trials) + job,
            seed=sweep.seed,
            n_folds=plan.search_folds,
            base=base,
            version=version,
            data=data,
            parent_run_id=sweep.run_id,
            tags=sweep.tags,
            settings=settings,
        )
        for job in range(plan.n_trials - n_done)
    ]
    for trial in in_processes(jobs):
        scores = ", ".join(f"{score:.4f}" for score in trial.scores)
        logger.info("trial %d: %s, V-F1 %s", trial.number, trial.state, scores)
        n_done += 1
        bar.update(n_done, plan.n_trials)
    _show_trials(study, sweep)
    logger.info("best: trial %d, V-F1 %.4f", study.best_trial.number, study.best_value)
    registry.log(
        sweep.run_id,
        metrics={"best_search_v_f1": study.best_value, "n_trials": count_done(study)},
        tags={"ecg.best_trial": str(study.best_trial.number)},
    )
    full = replace(
        base,
        training=TrainingConfig(epochs=plan.confirm_epochs),
        max_beats=plan.confirm_beats,
    )
    return best_recipe(study, full)


def _show_trials(study: optuna.Study, sweep: Sweep) -> None:
    create_table_artifact(
        key="sweep",
        description=f"Trials of sweep {sweep.name}",
        table=[
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                "V-F1 after each fold": ", ".join(
                    f"{value:.4f}" for value in trial.intermediate_values.values()
                ),
                **{
                    name: f"{value:.3g}" if isinstance(value, float) else value
                    for name, value in trial.params.items()
                },
            }
            for trial in study.trials
        ],
    )


@task(cache_policy=NO_CACHE)
def confirm_recipe(
    sweep: Sweep, version: DatasetVersion, data: Path, recipe: Recipe
) -> tuple[list[FoldOutput], FinalFit]:
    """Fit a recipe with the full budget in each fold and on all; fits that are done are kept."""
    from joblib import delayed

    logger = get_run_logger()
    n_folds = sweep.plan.confirm_folds
    name = _hash_recipe(recipe)
    kept_folds = [sweep.directory / f"{name}-fold-{fold}.npz" for fold in range(n_folds)]
    kept_final = sweep.directory / f"{name}-final.npz"
    common = {"recipe": recipe, "data": data}
    jobs = [
        delayed(fit_fold)(
            fold=fold, n_folds=n_folds, seed=sweep.seed, version=version, keep=kept, **common
        )
        for fold, kept in enumerate(kept_folds)
        if not kept.exists()
    ]
    if not kept_final.exists():
        subjects = set(version.folds[n_folds])
        jobs.append(delayed(fit_all)(subjects=subjects, seed=sweep.seed, keep=kept_final, **common))
    n_done = n_folds + 1 - len(jobs)
    bar = ProgressBar("Fits")
    for done in in_processes(jobs):
        n_done += 1
        bar.update(n_done, n_folds + 1)
        logger.info("fit %s is done", done)
    folds, final = [load_fold(path) for path in kept_folds], load_final(kept_final)
    for number, fold in enumerate(folds):
        loss = ", ".join(f"{loss:.4f}" for loss in fold.loss)
        logger.info("fold %d: %d training beats, loss %s", number, fold.n_training_beats, loss)
    return folds, final


def _hash_recipe(recipe: Recipe) -> str:
    return hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode()).hexdigest()[:12]


@task(cache_policy=NO_CACHE)
def build_candidate(
    sweep: Sweep,
    version: DatasetVersion,
    data: Path,
    recipe: Recipe,
    folds: list[FoldOutput],
    final: FinalFit,
    registry: Registry,
) -> str:
    """Judge the out-of-fold predictions, write the bundle and log it with its figures."""
    from ecg_lib.datasets import BeatDataset
    from flows import candidate, figures

    logger = get_run_logger()
    run_id = registry.start_run(
        f"candidate of {sweep.name}",
        kind=RunKind.CANDIDATE,
        tags={**sweep.tags, "ecg.sweep": sweep.name, ELIGIBLE: "true"},
        parent_run_id=sweep.run_id,
    )
    annotations = load_annotations(version)
    dataset = BeatDataset.load(data)
    out_of_fold = candidate.judge_folds(dataset, folds, version)
    metrics, by_record = candidate.measure(out_of_fold, version, annotations)
    metrics["n_trials"] = sweep.plan.n_trials
    logger.info(
        "out of fold: V-F1 %.4f (%.3f to %.3f), 10 s strips %.4f, without rules %.4f",
        *(metrics[f"oof_{name}"] for name in (
            "v_f1", "v_f1_low", "v_f1_high", "strips_10s_v_f1", "v_f1_network",
        )),
    )  # fmt: skip
    bundle = candidate.build_bundle(
        sweep.directory / f"bundle-{run_id}",
        final=final,
        recipe=recipe,
        out_of_fold=out_of_fold,
        version=version,
        metrics=metrics,
        by_record=by_record,
        run_id=run_id,
        seed=sweep.seed,
    )
    scored = out_of_fold.is_scored
    is_v = dataset.label[out_of_fold.rows][scored] == "V"
    probability = out_of_fold.probability_v[scored]
    registry.log(
        run_id,
        params={"seed": sweep.seed, **_flat(asdict(recipe))},
        metrics={key: value for key, value in bundle.metrics.items() if isinstance(value, float)},
        tags={"ecg.bundle_hash": bundle.hash},
    )
    registry.log_dataset(
        run_id,
        version=version.version,
        data_source=version.data_source.value,
        description={"beats": len(dataset), "v_beats": int(dataset.is_v.sum())},
    )
    for fold, loss in enumerate((*out_of_fold.losses, final.loss)):
        is_last = fold == len(out_of_fold.losses)
        registry.log_curve(run_id, "final_loss" if is_last else f"fold{fold}_loss", loss)
    curve = figures.draw_precision_recall(
        probability,
        is_v,
        n_missed=out_of_fold.n_missed,
        threshold=out_of_fold.config.threshold,
    )
    registry.log_figure(run_id, curve, "precision_recall.png")
    registry.log_figure(run_id, figures.draw_reliability(probability, is_v), "reliability.png")
    registry.log_figure(run_id, figures.draw_records(by_record), "records.png")
    registry.log_bundle(run_id, bundle)
    registry.end_run(run_id)
    create_markdown_artifact(
        key="model-card", markdown=bundle.model_card, description="Card of the candidate"
    )
    return run_id


@task(cache_policy=NO_CACHE)
def close_sweep(sweep: Sweep, candidate_run_id: str, registry: Registry) -> None:
    """Note that the sweep has its candidate."""
    _write_state(sweep, candidate_run_id=candidate_run_id)
    registry.log(sweep.run_id, tags={"ecg.candidate": candidate_run_id})
    registry.end_run(sweep.run_id)
