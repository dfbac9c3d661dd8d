"""The command ``ecg``: parses and calls, nothing else."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ecg_lib.errors import ConfigurationError, EcgError
from ecg_lib.operations.settings import Settings, read_settings
from flows.doors.addresses import PROJECT_DIR, find_addresses
from flows.local.processes import Platform, end_platform, environment, read_status

app = typer.Typer(
    help="ECG arrhythmia detection, end to end: start the platform, run flows, classify beats.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_LEARNED: Final = ("mlflow", "bentoml", "bundles", "sweeps", "studies.db", "serving", "ledger")
"""What ``ECG_FRESH`` sets aside."""


def main() -> None:
    """Run the command; an error that was foreseen is one line and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        app()
    except EcgError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("stopped")
        sys.exit(130)


def _say(line: str) -> None:
    typer.echo(line)


def _enter_platform() -> Settings:
    """Read the settings and take on the environment of the platform's processes."""
    settings = read_settings()
    try:
        # Prefect makes a directory of its own in it, but not this one.
        settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"ECG_HOME must be a directory that can be written, got {error.strerror}"
        raise ConfigurationError(msg) from error
    os.environ.update(environment(settings))
    return settings


@app.command()
def up(
    *,
    pipeline: Annotated[
        bool, typer.Option(help="Run the pipeline before the platform is ready.")
    ] = True,
) -> None:
    """Start Prefect, MLflow, a worker and the service, and run the pipeline."""
    from flows.local.flow_runs import FlowRunError, run_and_follow
    from flows.release.serving import read_current

    settings = _enter_platform()
    started_s = time.monotonic()
    try:
        with Platform(settings, report=_say) as platform:
            if settings.fresh:
                _set_aside(settings)
            platform.start()
            is_serving = _find_release(settings, check=platform.check)
            if is_serving:
                platform.start_service()
            _say(f"platform up after {time.monotonic() - started_s:.0f} s")
            if pipeline:
                try:
                    run_and_follow("pipeline/ecg", report=_say, check=platform.check)
                except FlowRunError as error:
                    if not is_serving:
                        raise
                    typer.secho(f"{error}; serving the release before", fg="yellow", err=True)
            if read_current(settings) is None:
                _say("nothing is released yet; run the pipeline in the Prefect UI")
            elif not is_serving:
                platform.start_service()
            _show_ready(settings, started_s)
            while True:
                platform.check()
                time.sleep(1.0)
    except KeyboardInterrupt:
        _say("stopped; everything that was started has ended")


def _find_release(settings: Settings, *, check: Callable[[], None]) -> bool:
    """Tell whether there is a release; where there is none, release what ships."""
    from flows.local.flow_runs import run_and_follow
    from flows.release.reference import has_reference
    from flows.release.serving import read_current

    if read_current(settings) is None and has_reference() and not settings.fresh:
        run_and_follow("install-reference/ecg", report=_say, check=check)
    return read_current(settings) is not None


def _set_aside(settings: Settings) -> None:
    """Move what was learned and released so far into a directory of its own."""
    aside = settings.home / f"before-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S')}"
    for name in _LEARNED:
        if (settings.home / name).exists():
            aside.mkdir(parents=True, exist_ok=True)
            shutil.move(settings.home / name, aside / name)
    if aside.exists():
        _say(f"ECG_FRESH: what was learned before is in {aside}")


def _name_overall(answer: Mapping[str, Any]) -> str:
    if answer["confidence"] is None:
        return "no beat has a class"
    return f"{answer['overall_arrhythmia_type']} (confidence {answer['confidence']:.3f})"


def show_prediction(settings: Settings) -> None:
    """Ask the service for a strip and show the answer, or why there is none."""
    import httpx

    from flows.monitoring.traffic import ServiceError, demo_strip, describe_outcome, send

    strip = demo_strip(settings)
    _say(f"\nprediction for {strip.name}:")
    try:
        with httpx.Client(timeout=30.0) as client:
            response = send(strip, client=client, settings=settings)
    except ServiceError as error:
        _say(f"  none: {error}")
        return
    if response.status_code != httpx.codes.CREATED:
        _say(f"  none: {describe_outcome(response)}")
        return
    answer = response.json()
    _say(
        f"  {_name_overall(answer)}, risk {answer['risk_level']}, "
        f"{answer['ventricular_beats']} V of {answer['total_beats_detected']} beats, "
        f"{answer['processing_time_ms']:.1f} ms, id {answer['prediction_id']}"
    )
    beats = [beat["arrhythmia_type"] or "-" for beat in answer["beat_predictions"]]
    _say(f"  beats: {' '.join(beats)}")


def _show_ready(settings: Settings, started_s: float) -> None:
    import httpx

    from flows.release.serving import read_current

    addresses = find_addresses(settings)
    if read_current(settings) is not None:
        show_prediction(settings)
    _say("")
    _say(f"  service  {addresses.service}  (API docs at /docs)")
    _say(f"  Prefect  {addresses.prefect}")
    _say(f"  MLflow   {addresses.mlflow}")
    _say(f"  everything is written below {settings.home}; Ctrl-C or `ecg down` ends it all\n")
    _say(f"ready after {time.monotonic() - started_s:.0f} s")
    if read_current(settings) is None:
        return
    # Of the service: a release of earlier code is served by that code, and may be unknown to this.
    model = httpx.get(f"{addresses.service}/health", timeout=30.0).json()["model"]
    _say(
        f"READY {addresses.service} model={model['version']} source={model['source']} "
        f"data={model['data']}"
    )


@app.command()
def down() -> None:
    """End every process that `ecg up` started."""
    if not end_platform(read_settings(), report=_say):
        _say("nothing is running")


@app.command()
def status() -> None:
    """Show what runs and what is served."""
    from flows.release.serving import read_current

    settings = read_settings()
    processes = read_status(settings)
    for process in processes:
        state = "running" if process.is_alive else "ended"
        _say(f"{process.name:<16} {state:<8} pid {process.pid:<8} {process.address or ''}")
    if not processes:
        _say("nothing is running")
    release = read_current(settings)
    _say("nothing is released" if release is None else f"released: {release.bento_tag}")


@app.command()
def run(
    flow: Annotated[str, typer.Argument(help="Name of the flow, such as monitor-drift.")],
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="name=value, value as JSON.")
    ] = None,
) -> None:
    """Run a flow by its deployment and follow its log."""
    from flows.local.flow_runs import run_and_follow

    _enter_platform()
    run_and_follow(
        f"{flow}/ecg", parameters=dict(_parse(item) for item in parameter or []), report=_say
    )


def _parse(item: str) -> tuple[str, object]:
    name, separator, text = item.partition("=")
    if not separator:
        msg = f"a parameter must be name=value, got {item!r}"
        raise typer.BadParameter(msg)
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text


@app.command()
def rollback(
    version: Annotated[str | None, typer.Argument(help="Model version; else the previous.")] = None,
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "asked for by hand",
) -> None:
    """Serve an earlier release again."""
    from flows.local.flow_runs import run_and_follow

    _enter_platform()
    parameters = {"model_version": version, "reason": reason}
    run_and_follow("rollback-champion/ecg", parameters=parameters, report=_say)


@app.command()
def ship(
    version: Annotated[str | None, typer.Argument(help="Model version; else the champion.")] = None,
) -> None:
    """Make a model the reference bundle, which ships with the software."""
    from flows.doors.registry import Registry
    from flows.release.reference import REFERENCE, ship

    _enter_platform()
    registry = Registry(read_settings())
    found = registry.find(version)
    bundle = ship(registry.fetch_bundle(found.run_id))
    _say(f"model {found.version} is in {REFERENCE}, bundle {bundle.hash[:12]}")


@app.command()
def reproduce() -> None:
    """Train the reference bundle again and check that its figures come out; needs `ecg up`."""
    from flows.local.flow_runs import run_and_follow

    _enter_platform()
    run_and_follow("reproduce-reference/ecg", report=_say)


@app.command()
def releases() -> None:
    """List the release ledger, latest first."""
    from flows.doors.ledger import read_ledger

    entries = read_ledger(read_settings().ledger_dir)
    for entry in entries:
        f1 = entry.metrics.get("oof_v_f1", float("nan"))
        _say(
            f"{entry.committed_at:%Y-%m-%d %H:%M} {entry.commit[:10]} model "
            f"{entry.release.model_version:<4} {entry.release.bento_tag:<32} "
            f"out-of-fold V-F1 {f1:.4f}  {entry.reason}"
        )
    if not entries:
        _say("nothing was released yet")


@app.command()
def predict(
    file: Annotated[Path, typer.Argument(help="WFDB, EDF, CSV or NPY.")],
    lead: Annotated[
        str | None, typer.Option(help="Name of the lead; MLII, else the first.")
    ] = None,
    fs: Annotated[
        float | None, typer.Option(help="Sampling rate in Hz of files that do not state it.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print every beat as JSON.")] = False,
) -> None:
    """Classify the beats of a recording by the released model, without a server."""
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.recordings.strips import describe, list_beats, predict_file
    from flows.release.released import load_bundle_to_use

    _, bundle = load_bundle_to_use(read_settings())
    prediction = predict_file(file, classifier=BeatClassifier.load(bundle), lead=lead, fs=fs)
    _say(json.dumps(list_beats(prediction), indent=1) if as_json else describe(prediction))


@app.command()
def annotate(
    records: Annotated[list[Path], typer.Argument(help="WFDB records.")],
    output_dir: Annotated[Path, typer.Option(help="Where the .pvc files go.")],
    lead: Annotated[
        str | None, typer.Option(help="Name of the lead; MLII, else the first.")
    ] = None,
) -> None:
    """Write the class of every beat as WFDB annotations, by the released model."""
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.recordings.strips import annotate_record
    from flows.release.released import load_bundle_to_use

    _, bundle = load_bundle_to_use(read_settings())
    classifier = BeatClassifier.load(bundle)
    failed = 0
    for path in records:
        try:
            done = annotate_record(path, classifier=classifier, output_dir=output_dir, lead=lead)
        except EcgError as error:
            failed += 1
            typer.secho(f"{path}: {error}", fg="red", err=True)
            continue
        _say(
            f"{done.path}: lead {done.lead}, {done.beats} beats, {done.v_beats} V, "
            f"{done.unreadable_s:.0f} s unreadable, {done.invalid_samples} invalid samples"
        )
    if failed:
        typer.secho(f"{failed} of {len(records)} records failed", fg="red", err=True)
        raise typer.Exit(1)


@app.command("api-key")
def api_key(
    name: Annotated[str, typer.Argument(help="Whose key it is; a comment in the file.")] = "",
) -> None:
    """Make a key for the service: shown this once, its hash goes into ECG_API_KEYS_FILE."""
    from ecg_lib.operations.api_keys import add_api_key, hash_api_key, make_api_key

    path, key = read_settings().api_keys_file, make_api_key()
    if path is None:
        _say("ECG_API_KEYS_FILE is not set; the line for that file is")
        _say(f"{hash_api_key(key.encode())}  # {name}" if name else hash_api_key(key.encode()))
        _say("and the key, for the header X-API-Key,")
    else:
        add_api_key(path, key, name=name)
    _say(key)


@app.command()
def analyze(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="WFDB, EDF, CSV, NPY, DICOM, ISHNE, SCP-ECG, XML or zip, and directories."
        ),
    ],
    output_dir: Annotated[Path, typer.Option(help="Where the results go.")] = Path(),
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="json, csv, atr, fhir, html or pdf; all.")
    ] = None,
    lead: Annotated[
        str | None, typer.Option(help="Name of the lead; MLII, else the first.")
    ] = None,
    fs: Annotated[
        float | None, typer.Option(help="Sampling rate in Hz of CSV without time, and of NPY.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option(help="mV, uV or V; of NPY, and of CSV that states none.")
    ] = None,
    *,
    join: Annotated[
        bool, typer.Option("--join", help="The files are parts of one recording, in their order.")
    ] = False,
) -> None:
    """Analyse recordings of up to 14 days by the released model, without a server."""
    from flows.recordings import analyzed_files as analysis

    os.environ.update(analysis.ONE_THREAD)
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.recordings.summary import ResultFormat
    from flows.release.released import load_bundle_to_use

    kinds = tuple(formats or ResultFormat)
    if unknown := set(kinds) - set(ResultFormat):
        msg = f"a format must be one of {', '.join(ResultFormat)}, got {', '.join(unknown)}"
        raise typer.BadParameter(msg)
    version, bundle = load_bundle_to_use(read_settings())
    classifier = BeatClassifier.load(bundle)
    model = analysis.describe_model(bundle, version=version)
    listed = analysis.list_recordings(files)
    for path, reason in listed.refused.items():
        typer.secho(f"{path}: {reason}", fg="red", err=True)
    failed = len(listed.refused)
    paths = list(map(str, listed.paths))
    recordings = [paths] if join and paths else [[path] for path in paths]
    for first, *more in recordings:
        request = analysis.Request(
            path=first,
            more_parts=tuple(more),
            output_dir=str(output_dir),
            formats=kinds,
            lead=lead,
            sampling_rate=fs,
            unit=unit,
        )
        try:
            done = analysis.analyze_file(request, classifier=classifier, model=model)
        except EcgError as error:
            failed += 1
            typer.secho(f"{first}: {error}", fg="red", err=True)
            continue
        _say(analysis.describe_file(done))
    if failed:
        raise typer.Exit(1)


@app.command()
def evaluate(
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="No noise, longer strips or second lead.")
    ] = False,
    final: Annotated[
        bool, typer.Option("--final", help="Open DS2; noted in docs/ds2-openings.md.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why DS2 is opened.")] = "",
) -> None:
    """Write the EC57 report of the model in use: DS1 out of fold, or DS2 with --final."""
    from ecg_lib.evaluation.report.record_scores import Extent
    from flows.doors.ledger import read_git_commit
    from flows.evaluation import ds2_opening as opening
    from flows.evaluation import ec57_evaluation as evaluation
    from flows.release.released import load_bundle_to_use

    settings = read_settings()
    model, bundle = load_bundle_to_use(settings)
    version = evaluation.find_dataset(bundle, settings)
    _say(f"model {model}, bundle {bundle.hash[:12]}, {version.data_source} data")
    if final:
        commit = read_git_commit()
        opening.check_opening(bundle, version, reason=reason, commit=commit, settings=settings)
        found = opening.open_ds2(
            bundle, version, reason=reason, settings=settings, on_record=_say_progress
        )
        noted = opening.note_opening(PROJECT_DIR, found, commit=commit)
        _say(f"noted in {opening.OPENINGS}, with {noted.html.name}: commit both")
        written = evaluation.report_path(settings.reports_dir, bundle, "ds2")
    else:
        extent = Extent.QUICK if quick else Extent.FULL
        found = evaluation.evaluate_development(
            bundle, version, extent=extent, settings=settings, on_record=_say_progress
        )
        written = evaluation.report_path(settings.reports_dir, bundle, f"out-of-fold-{extent}")
    evaluation.write_evaluation(found, written)
    for name, value in evaluation.summarize_headline(found.document).items():
        _say(f"  {name:<24} {value}")
    for line in found.document["missing"]:
        _say(f"  not in it: {line}")
    _say(f"report: {written.html}")


def _say_progress(done: int, total: int) -> None:
    typer.secho(f"\r  {done} of {total} records", nl=done == total, err=True)


@app.command()
def traffic(
    kind: Annotated[str, typer.Argument(help="replayed, noisy or simulated.")],
    count: Annotated[int, typer.Option(min=1, help="Number of strips.")] = 200,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Send strips of 10 s to the service, to see monitoring at work."""
    from flows.monitoring.traffic import Traffic, make_strips, send_many

    if kind not in list(Traffic):
        msg = f"traffic must be one of {', '.join(Traffic)}, got {kind!r}"
        raise typer.BadParameter(msg)
    settings = read_settings()
    strips = make_strips(Traffic(kind), count=count, seed=seed, settings=settings)
    for outcome, number in send_many(strips, settings=settings, report=_say).most_common():
        _say(f"{number:>6} {outcome}")
