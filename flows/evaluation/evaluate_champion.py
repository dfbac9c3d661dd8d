"""Flow ``evaluate-champion``: the EC57 report of a model on its development records.

It runs after a promotion, as a separate flow: the promotion gate scores the out-of-fold predictions
in the bundle and needs no report, and a report can be repeated, or made in full, without promoting
anything.
"""

from __future__ import annotations

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.evaluation.report.record_scores import Extent
from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.operations.store.mirror import changing_reports
from ecg_lib.records.atomic_files import require_room
from flows.data.progress import ProgressBar
from flows.doors.registry import Alias, ModelVersion, Registry, read_version
from flows.doors.ui.artifacts import show_artifact
from flows.doors.ui.links import as_markdown, link_run, link_version
from flows.doors.ui.run_names import name_run
from flows.evaluation.ec57_evaluation import (
    Evaluation,
    WrittenReport,
    evaluate_development,
    find_dataset,
    report_path,
    summarize_headline,
    write_evaluation,
)
from flows.evaluation.other_databases import add_databases
from flows.release.switch_service import service_url


@flow(name="evaluate-champion")
def evaluate_champion(
    model_version: str = Alias.CHAMPION.value, extent: Extent = Extent.QUICK
) -> str:
    """Write the EC57 report of a model on its development records, out of fold.

    Args:
        model_version: Number of the version to evaluate, or `champion`.
        extent: `quick` scores own and reference R-peaks and strips of 10 s, in seconds; `full`
            adds longer strips, noise and the second lead, in minutes.

    Returns:
        The file of the page; the JSON document is next to it.
    """
    settings = read_settings()
    require_room(settings.home)
    registry = Registry(settings)
    version = registry.find(read_version(model_version))
    bundle = registry.fetch_bundle(version.run_id)
    written = report_path(settings.reports_dir, bundle, f"out-of-fold-{extent}")
    evaluation = evaluate_in_flow(bundle, extent, settings)
    with changing_reports(settings):
        write_evaluation(evaluation, written)
    publish(evaluation, written, version, registry, settings)
    f1 = bundle.metrics["oof_v_f1"]
    name_run(f"report of model {version.version} ({extent}): V-F1 {f1:.4f} out of fold")
    return str(written.html)


@task(cache_policy=NO_CACHE)
def evaluate_in_flow(bundle: Bundle, extent: Extent, settings: Settings) -> Evaluation:
    """Evaluate with progress in the UI."""
    version = find_dataset(bundle, settings)
    bar = ProgressBar("Records evaluated")
    found = evaluate_development(
        bundle, version, extent=extent, settings=settings, on_record=bar.update
    )
    return add_databases(found, bundle, settings) if extent is Extent.FULL else found


@task(cache_policy=NO_CACHE)
def publish(
    evaluation: Evaluation,
    written: WrittenReport,
    version: ModelVersion,
    registry: Registry,
    settings: Settings,
) -> None:
    """Log the report with the run of the model, and show its figures."""
    document = evaluation.document
    headline = summarize_headline(document)
    registry.log_text(
        version.run_id, written.html.read_text(encoding="utf-8"), f"evaluation/{written.html.name}"
    )
    registry.log_text(
        version.run_id, written.json.read_text(encoding="utf-8"), f"evaluation/{written.json.name}"
    )
    rows = "\n".join(f"| {name} | {value} |" for name, value in headline.items())
    address = link_run(settings, registry.experiment_id(), version.run_id)
    model = link_version(settings, version.version)
    served = f"{service_url(settings)}/ops/evaluation/{written.html.stem}"
    show_artifact(
        key="evaluation",
        markdown=f"# {document['title']}: model {version.version}\n\n| | |\n|---|---|\n{rows}\n\n"
        f"{as_markdown('The report, evaluation/' + written.html.name, f'{address}/artifacts')} is "
        f"among the files of the run, and {as_markdown('served', served)} beside the model; "
        f"{as_markdown(f'model {version.version}', model)}.\n",
        description=f"EC57 report of model {version.version}",
    )
    get_run_logger().info(
        "model %s: %s",
        version.version,
        ", ".join(f"{name} {value}" for name, value in headline.items()),
    )
