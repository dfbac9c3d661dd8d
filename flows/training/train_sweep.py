"""Flow ``train-sweep``: search recipes on few beats, confirm the best on all, make a candidate.

Trials are cheap: fewer beats and epochs, three folds by subject, pruned fold by fold. The best
recipe and the known one are then trained with the full budget, in five other folds or, in the
quick profile, in the same three; the better one's out-of-fold predictions give calibration,
threshold, figures, gates and drift reference, and its fit to all subjects is the candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import as_completed
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.records.atomic_files import require_room
from flows.data.dataset_versions import (
    LATEST,
    DatasetVersion,
    ReferenceRecipe,
    select_records,
)
from flows.data.prepared_views import PreparedViews
from flows.data.progress import ProgressBar
from flows.data.shared_versions import ensure_shared, open_version
from flows.data.training_data import ViewPlan, find_training_data, load_training_data
from flows.doors.registry import ELIGIBLE, Registry, RunKind
from flows.doors.ui.artifacts import show_artifact
from flows.doors.ui.columns import V_F1
from flows.doors.ui.links import as_markdown, link_run
from flows.doors.ui.run_names import name_run
from flows.doors.ui.tracking import describe_run
from flows.training.fitting import (
    fit_all,
    fit_fold,
    fit_processes,
    load_final,
    load_fold,
)
from flows.training.sweep import (
    Confirmed,
    Judged,
    Sweep,
    SweepSize,
    close_sweep,
    flatten,
    kept_fold,
    let_go,
    open_sweep,
    plan_of,
)
from flows.training.workers.search import announce, choose_finalists, take_trials
from flows.training.workers.shared_data import SharedData, remove_data, share_data

if TYPE_CHECKING:
    from ecg_lib.training.cross_validation import Recipe


@flow(name="train-sweep")
def train_sweep(
    dataset_version: str = LATEST,
    recipe: ReferenceRecipe = ReferenceRecipe.ALL,
    profile: SweepSize = SweepSize.AS_SET,
    n_trials: Annotated[int, Field(ge=0, le=1000)] = 0,
    seed: Annotated[int, Field(ge=-1)] = -1,
    seeds: Annotated[int, Field(ge=0, le=20)] = 0,
    workers: Annotated[int, Field(ge=1, le=100)] = 1,
) -> str:
    """Search for the best recipe on the development records and train a candidate with it.

    A sweep that was killed is resumed by the next run with the same parameters. Runs of
    `work-on-sweep` share its trials.

    Args:
        dataset_version: Dataset to train on, or `latest`.
        recipe: Records of the dataset that are trained on: `mitdb`, DS1 alone, or `all`, the
            development records of every database in it.
        profile: How much to do: `quick`, `full`, or `as set` by ECG_PROFILE.
        n_trials: Number of trials; 0 for that of the profile.
        seed: Seed of the search, of the networks and of the choice of beats; -1 for the number of
            sweeps that ended with these parameters, so that a retraining is a new try.
        seeds: Number of seeds that the folds of the chosen recipe are fitted with, for mean and
            spread in the report; 0 for that of the profile (1 or 5).
        workers: Flow runs that will work on the trials, this one among them. Twice as many trials
            are drawn together.

    Returns:
        The MLflow run of the candidate.
    """
    settings = read_settings()
    require_room(settings.home)
    version = open_dataset(dataset_version, recipe, settings)
    plan = plan_of(profile, settings)
    plan = replace(plan, n_trials=n_trials or plan.n_trials, n_seeds=seeds or plan.n_seeds)
    plan = replace(plan, n_workers=workers)
    name_run(_name(plan.n_trials, version))
    registry = Registry(settings)
    sweep = open_sweep(version, plan, None if seed < 0 else seed, registry, settings)
    try:
        data = cut_training_beats(version, plan.views, settings)
        shared = share_data(sweep, SharedData(version, data), settings)
        announce(sweep, settings, data=shared)
        take_trials(sweep, version, data, registry, settings, is_leading=True)
        return finish_sweep(sweep, version, data, registry, settings)
    finally:
        let_go(sweep)


def finish_sweep(
    sweep: Sweep, version: DatasetVersion, data: Path, registry: Registry, settings: Settings
) -> str:
    """Confirm recipes of a sweep whose trials have ended, and build its candidate."""
    recipes = choose_finalists(sweep, registry, settings)
    confirmed = confirm_recipes(sweep, version, data, recipes)
    prepared = PreparedViews(version=version, datasets_dir=settings.datasets_dir)
    best = choose_best(prepared, data, confirmed, sweep, registry)
    best = repeat_with_seeds(prepared, data, best, sweep, registry)
    run_id = build_candidate(prepared, best, sweep, registry, settings)
    close_sweep(sweep, run_id, registry)
    remove_data(sweep, settings)
    f1 = best.metrics["oof_v_f1"]
    name_run(f"{_name(sweep.plan.n_trials, version)}: V-F1 {f1:.4f}")
    return run_id


def _name(n_trials: int, version: DatasetVersion) -> str:
    return f"sweep of {n_trials} {'trial' if n_trials == 1 else 'trials'} on {name_data(version)}"


def name_data(version: DatasetVersion) -> str:
    """Name a dataset version with its databases, for names of runs."""
    return f"{'+'.join(version.databases)}-{version.version}"


def open_dataset(name: str, recipe: ReferenceRecipe, settings: Settings) -> DatasetVersion:
    """Load a dataset version of this home or the store, with the records of a recipe.

    Raises:
        DatasetError: If there is no such version, or nothing can be trained on.
        StoreError: If a store is set and cannot be reached.
    """
    version = select_records(open_version(settings, name), recipe, settings.datasets_dir)
    ensure_shared(version, settings)
    return version


@task(cache_policy=NO_CACHE)
def cut_training_beats(version: DatasetVersion, views: ViewPlan, settings: Settings) -> Path:
    """Cut the labelled beats of the development records in all views."""
    directory = find_training_data(version, views, settings)
    data = load_training_data(directory)
    get_run_logger().info(
        "%d beats of %d records, %d of them V",
        len(data),
        len(data.record_names),
        int(data.is_v.sum()),
    )
    return directory


@task(cache_policy=NO_CACHE)
def confirm_recipes(
    sweep: Sweep, version: DatasetVersion, data: Path, recipes: dict[int, Recipe]
) -> list[Confirmed]:
    """Fit recipes with the full budget in each fold and on all; fits that are done are kept."""
    logger = get_run_logger()
    n_folds = sweep.plan.confirm_folds
    subjects = set(version.folds[n_folds])
    jobs: list[tuple[Path, Callable[[], str]]] = []
    for trial, recipe in recipes.items():
        fold_job = partial(
            fit_fold, n_folds=n_folds, recipe=recipe, seed=sweep.seed, version=version, data=data
        )
        final_job = partial(
            fit_all,
            subjects=subjects,
            recipe=recipe,
            seed=sweep.seed,
            weights=version.weights,
            data=data,
        )
        for fold in range(n_folds):
            kept = kept_fold(sweep, recipe, f"fold-{fold}")
            name = f"fold {fold} of trial {trial}"
            jobs.append((kept, partial(fold_job, name=name, fold=fold, keep=kept)))
        kept = kept_fold(sweep, recipe, "final")
        jobs.append((kept, partial(final_job, name=f"all folds of trial {trial}", keep=kept)))
    waiting = [job for kept, job in jobs if not kept.exists()]
    n_done = len(jobs) - len(waiting)
    bar = ProgressBar("Fits")
    with fit_processes() as pool:
        for done in as_completed([pool.submit(job) for job in waiting]):
            n_done += 1
            bar.update(n_done, len(jobs))
            logger.info("fitted: %s", done.result())
    return [
        Confirmed(
            trial,
            recipe,
            [load_fold(kept_fold(sweep, recipe, f"fold-{fold}")) for fold in range(n_folds)],
            load_final(kept_fold(sweep, recipe, "final")),
        )
        for trial, recipe in recipes.items()
    ]


@task(cache_policy=NO_CACHE)
def choose_best(
    prepared: PreparedViews,
    data: Path,
    confirmed: list[Confirmed],
    sweep: Sweep,
    registry: Registry,
) -> Judged:
    """Score the out-of-fold predictions of each confirmed recipe and take the best V-F1."""
    from ecg_lib.training.out_of_fold import judge_folds, measure

    dataset = load_training_data(data)
    version, annotations = prepared.version, prepared.read_development_annotations()
    judged = []
    for one in confirmed:
        out_of_fold = judge_folds(
            dataset, one.folds, n_missed=version.n_missed_v, databases=version.development_databases
        )
        metrics, by_record = measure(
            out_of_fold,
            annotations,
            duration_s=version.duration_s,
            databases=version.development_databases,
        )
        judged.append(Judged(one, out_of_fold, metrics, by_record))
        get_run_logger().info(
            "trial %d out of fold: V-F1 %.4f (%.3f to %.3f), 10 s strips %.4f, without rules %.4f",
            one.trial,
            *(metrics[f"oof_{name}"] for name in (
                "v_f1", "v_f1_low", "v_f1_high", "strips_10s_v_f1", "v_f1_network",
            )),
        )  # fmt: skip
        for database, found in metrics["by_database"].items():
            get_run_logger().info(
                "trial %d out of fold, %s: V-F1 %.4f (%.3f to %.3f), S called V %.4f, QRS +P %.4f",
                one.trial,
                database,
                *(found[name] for name in ("v_f1", "v_f1_low", "v_f1_high")),
                found["s_called_v"],
                found["qrs_predictivity"],
            )
    best = max(judged, key=lambda one: one.metrics["oof_v_f1"])
    registry.log(
        sweep.run_id,
        metrics={
            V_F1: best.metrics["oof_v_f1"],
            **{f"confirmed_trial_{o.confirmed.trial}": o.metrics["oof_v_f1"] for o in judged},
        },
        tags={"ecg.chosen_trial": str(best.confirmed.trial)},
    )
    return best


@task(cache_policy=NO_CACHE)
def repeat_with_seeds(
    prepared: PreparedViews, data: Path, best: Judged, sweep: Sweep, registry: Registry
) -> Judged:
    """Fit the folds of the chosen recipe with other seeds, and log how far its figures move."""
    from flows.training.seed_spread import measure_seeds

    plan = sweep.plan
    if plan.n_seeds == 1:
        return best
    recipe = best.confirmed.recipe
    seeds = measure_seeds(
        first=best.metrics,
        n_seeds=plan.n_seeds,
        seed=sweep.seed,
        n_folds=plan.confirm_folds,
        recipe=recipe,
        version=prepared.version,
        annotations=prepared.read_development_annotations(),
        data=data,
        keep=lambda name: kept_fold(sweep, recipe, name),
        on_fit=ProgressBar("Fits with other seeds").update,
    )
    f1 = [one["oof_v_f1"] for one in seeds]
    get_run_logger().info("V-F1 of %d seeds: %s", len(f1), ", ".join(f"{one:.4f}" for one in f1))
    registry.log_curve(sweep.run_id, "v_f1_of_seeds", f1)
    return best._replace(metrics={**best.metrics, "seeds": seeds})


@task(cache_policy=NO_CACHE)
def build_candidate(
    prepared: PreparedViews, best: Judged, sweep: Sweep, registry: Registry, settings: Settings
) -> str:
    """Write the bundle of the best recipe and log it with its figures."""
    from flows.training import candidate, figures

    (_, recipe, folds, final), out_of_fold, metrics, by_record = best
    metrics = {**metrics, "n_trials": sweep.plan.n_trials, "plan": asdict(sweep.plan)}
    metrics["databases"] = sorted(set(prepared.version.development_databases.values()))
    run_id = registry.start_run(
        f"candidate of {sweep.name}",
        kind=RunKind.CANDIDATE,
        tags={**sweep.tags, "ecg.sweep": sweep.name, ELIGIBLE: "true"},
        parent_run_id=sweep.run_id,
    )
    version, dataset = prepared.version, out_of_fold.dataset
    bundle = candidate.build_bundle(
        sweep.directory / f"bundle-{run_id}",
        final=final,
        fold_networks=[
            kept_fold(sweep, recipe, f"fold-{fold}").with_suffix(".onnx")
            for fold in range(len(folds))
        ],
        recipe=recipe,
        out_of_fold=out_of_fold,
        prepared=prepared,
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
        params={"seed": sweep.seed, **flatten(asdict(recipe))},
        metrics={
            V_F1: bundle.metrics["oof_v_f1"],
            **{key: value for key, value in bundle.metrics.items() if isinstance(value, float)},
        },
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
    registry.log_text(run_id, curve, "precision_recall.svg")
    registry.log_text(run_id, figures.draw_reliability(probability, is_v), "reliability.svg")
    registry.log_text(run_id, figures.draw_records(by_record), "records.svg")
    registry.log_bundle(run_id, bundle)
    describe_run(
        registry,
        settings,
        run_id,
        about=f"Candidate of trial {best.confirmed.trial}, with its bundle.",
        lines={
            "Dataset version": f"`{version.version}`",
            "Commit": f"`{bundle.provenance.git_commit}`",
        },
    )
    registry.end_run(run_id)
    address = link_run(settings, registry.experiment_id(), run_id)
    show_artifact(
        key="model-card",
        markdown=f"{as_markdown('Run in MLflow', address)}\n\n{bundle.model_card}",
        description="Card of the candidate",
    )
    return run_id
