"""Flow ``pipeline``: from records to a served champion, as one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from ecg_lib.classifier.bundle import read_figures
from ecg_lib.errors import BundleError, BundleIntegrityError, EcgError
from ecg_lib.operations.learning.pipeline_run import FILE, PipelineRun, write_pipeline_run
from ecg_lib.operations.learning.rollout.candidate import DEFAULT_PLAN, Plan
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings, read_settings
from flows.data.databases import DatabaseName
from flows.data.ingest_records import ingest_records
from flows.data.records.site import fingerprint_labels
from flows.data.records.sources import Source
from flows.doors.registry import Registry
from flows.doors.ui.links import as_markdown, link_mlflow, link_operations
from flows.doors.ui.run_names import name_run
from flows.doors.ui.steps import show_steps
from flows.evaluation.evaluate_champion import evaluate_champion
from flows.evaluation.promote_champion import promote_champion
from flows.evaluation.retraining_outcome import find_obstacle, list_databases, note_outcome
from flows.monitoring.retention.training import forget_old_training
from flows.release.package_bento import package_bento
from flows.release.release_service import release_service
from flows.release.rollout.steps import Rollout
from flows.release.switch_service import find_bundle, read_current, service_url
from flows.training.sweep import SweepSize
from flows.training.train_sweep import train_sweep

_MAX_FAILURE: Final = 500


class PromotionError(EcgError):
    """No model may be served."""


@flow(name="pipeline")
def pipeline(
    source: Source = Source.AUTO,
    databases: tuple[DatabaseName, ...] = (),
    profile: SweepSize = SweepSize.AS_SET,
    n_trials: Annotated[int, Field(ge=0, le=1000)] = 0,
    seed: Annotated[int, Field(ge=-1)] = -1,
    min_v_f1: Annotated[float, Field(ge=0, le=1)] = 0.80,
    reason: str = "asked for by hand",
    *,
    with_labels: bool = True,
    rollout: Rollout = Rollout.AT_ONCE,
    plan: Plan = DEFAULT_PLAN,
    needs_approval: bool = False,
    approval_hours: Annotated[float, Field(gt=0, le=720)] = 24.0,
    workers: Annotated[int, Field(ge=1, le=100)] = 1,
) -> Any:  # noqa: ANN401  Prefect takes the result or a named state
    """Ingest, train, promote, package, release and report.

    Nothing is trained where it could not be promoted: without records of MIT-BIH, as long as the
    champion was trained on real ones.

    Args:
        source: Where records come from, see `ingest-records`. `simulator` trains on simulated
            patients whatever the champion was trained on.
        databases: Databases that are trained on; when empty, mitdb and those of the champion that
            are at hand.
        profile: How much to do: `quick`, `full`, or `as set` by ECG_PROFILE.
        n_trials: Number of trials; 0 for that of the profile.
        seed: Seed of the sweep; -1 for one that was not used yet.
        min_v_f1: Least out-of-fold V-F1 of a champion.
        reason: Why it runs, such as the drift that was found.
        with_labels: Train on labelled traffic too, where its signals are kept.
        rollout: Release a promoted model at once, or gradually: shadow, a share of the people, all.
        plan: Stages and bounds of a gradual rollout.
        needs_approval: Wait until a person allows the release, by a form in Prefect.
        approval_hours: How long a person may take; without an answer nothing is released.
        workers: Flow runs that will work on the trials, this one among them: runs of
            `work-on-sweep`, started beside it.

    Returns:
        The release, the verdict on the new candidate, and the seconds of each stage.
    """
    logger = get_run_logger()
    logger.info("pipeline: %s", reason)
    name_run(f"pipeline: {reason}")
    settings, started_at = read_settings(), datetime.now(UTC)
    # First: whatever the run comes to, what earlier ones left does not grow without limit.
    forgotten = forget_old_training(settings, return_state=True)
    if not forgotten.is_completed():
        logger.error("what earlier trainings left was not deleted: %s", forgotten.message)
    databases = list_databases(source, databases, settings)
    obstacle = find_obstacle(source, databases, settings)
    if obstacle is not None:
        logger.warning("%s", obstacle.why)
        with shown(settings, why=reason, started_at=started_at) as progress:
            progress.note(is_promoted=False, version=obstacle.champion, reasons=(obstacle.why,))
            progress.lines = (obstacle.why,)
        name_run("pipeline: nothing is trained without records")
        return Completed(name="NothingTrained", message=obstacle.why)
    labels = fingerprint_labels(settings)
    with shown(settings, why=reason, started_at=started_at) as progress:
        version = progress.time(
            "ingest-records",
            lambda: ingest_records(source=source, databases=databases, with_labels=with_labels),
        )
        progress.time(
            "train-sweep",
            lambda: train_sweep(
                dataset_version=version,
                profile=profile,
                n_trials=n_trials,
                seed=seed,
                workers=workers,
            ),
        )
        verdict = progress.time(
            "promote-champion",
            lambda: promote_champion(dataset_version=version, min_v_f1=min_v_f1),
        )
        progress.note(
            is_promoted=verdict["is_promoted"],
            version=verdict["version"],
            reasons=tuple(verdict["reasons"]),
        )
        if with_labels and not n_trials:  # a smaller try proves nothing about a whole one
            note_outcome(settings, version, verdict, started_at=started_at, labels=labels)
        if verdict["version"] is None:
            msg = f"there must be a champion to serve, the candidate is not: {verdict['reasons']}"
            raise PromotionError(msg)
        kept = None if verdict["is_promoted"] else find_kept_release(settings, verdict["version"])
        if kept is None:
            packaged = progress.time("package-bento", package_bento)
            release = progress.time(
                "release-service",
                lambda: release_service(
                    release=packaged,
                    rollout=rollout,
                    plan=plan,
                    reason=reason,
                    approval_hours=approval_hours,
                    needs_approval=needs_approval,
                ),
            )
        else:
            release = kept.model_dump()
        if verdict["is_promoted"]:
            report = progress.time(
                "evaluate-champion", lambda: evaluate_champion(return_state=True)
            )
            if not report.is_completed():
                logger.error("the report of the new model failed: %s", report.message)
        stages = progress.run.stages
        result = {"release": release, "verdict": verdict, "stages": stages, "reason": reason}
        progress.lines = _report(result, settings)
        is_new = "promoted" if verdict["is_promoted"] else "not promoted"
        name_run(f"pipeline: {is_new}, model {release['model_version']} is served")
    return result


class Progress:
    """How far a run is, in the file that the service shows."""

    def __init__(self, settings: Settings, run: PipelineRun) -> None:
        self._path = settings.serving_dir / FILE
        self.run = run
        self.lines: tuple[str, ...] = ()
        """Lines of its artifact: what it came to."""
        self.note()

    def time(self, name: str, stage: Callable[[], Any]) -> Any:  # noqa: ANN401  each stage its own
        """Run a stage and note its time."""
        self.note(stage=name)
        started_s = time.monotonic()
        result = stage()
        seconds = round(time.monotonic() - started_s, 1)
        self.note(stages={**self.run.stages, name: seconds})
        return result

    def note(self, **changes: object) -> None:
        """Change what the file says; the run goes on when it cannot be written."""
        self.run = self.run.model_copy(update=changes)
        try:
            write_pipeline_run(self._path, self.run)
        except OSError as error:
            get_run_logger().warning("the service does not show this run: %s", error)


@contextmanager
def shown(settings: Settings, *, why: str, started_at: datetime) -> Iterator[Progress]:
    """Show a run on the operations page of the service, with its end and its steps."""
    run = PipelineRun(
        flow_run_id=flow_run.id, why=why, started_at=started_at, stage="ingest-records"
    )
    progress = Progress(settings, run)
    try:
        yield progress
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"[:_MAX_FAILURE]
        progress.note(failure=failure, finished_at=datetime.now(UTC))
        _show_steps(settings, "The pipeline failed", [failure])
        raise
    progress.note(finished_at=datetime.now(UTC))
    _show_steps(settings, "What is served", progress.lines)


def find_kept_release(settings: Settings, champion: str) -> Release | None:
    """Find the release of a champion that this code cannot read, and so cannot package again.

    The code of that release goes on serving it. None when the champion can be read.

    Raises:
        BundleError: If it cannot be read, and is not what is served.
    """
    registry = Registry(settings)
    try:
        registry.fetch_bundle(registry.find(champion).run_id)
    except BundleIntegrityError:
        raise
    except BundleError as error:
        current = read_current(settings)
        if current is None or current.model_version != champion:
            raise
        get_run_logger().warning(
            "model %s stays served by the code that it was released with, as this code cannot "
            "read it: %s",
            champion,
            error,
        )
        return current
    return None


def _show_steps(settings: Settings, heading: str, lines: Sequence[str]) -> None:
    show_steps(
        settings,
        key="pipeline",
        heading=heading,
        lines=lines,
        links=[
            as_markdown("Operations page", link_operations(settings)),
            as_markdown("MLflow", link_mlflow(settings)),
        ],
    )


def _report(result: dict[str, Any], settings: Settings) -> tuple[str, ...]:
    figures = read_figures(find_bundle(settings, result["release"]["model_tag"]))
    metrics = figures.metrics
    verdict = result["verdict"]
    lines = [
        (
            f"model {result['release']['model_version']} ({figures.source}), trained on "
            f"{figures.data_source} data, bento {result['release']['bento_tag']}"
        ),
        (
            f"out-of-fold V-F1 {metrics['oof_v_f1']:.4f} "
            f"({metrics['oof_v_f1_low']:.3f} to {metrics['oof_v_f1_high']:.3f})"
        ),
        ("promoted" if verdict["is_promoted"] else "not promoted")
        + f": {'; '.join(verdict['reasons'])}",
        "stages: " + ", ".join(f"{name} {s:.1f} s" for name, s in result["stages"].items()),
        f"service {service_url(settings)}",
    ]
    for line in lines:
        get_run_logger().info("served: %s", line)
    return tuple(lines)
