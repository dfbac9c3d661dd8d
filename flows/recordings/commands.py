"""Commands on files of recordings, which need no server: predict, annotate and analyze."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from ecg_lib.errors import EcgError
from ecg_lib.operations.processes.limits import ONE_THREAD
from ecg_lib.operations.settings import read_settings


def predict(
    file: Annotated[Path, typer.Argument(help="A recording of any format that analyze takes.")],
    lead: Annotated[
        str | None, typer.Option(help="Name of the lead; else the one that is an ECG by its name.")
    ] = None,
    fs: Annotated[
        float | None, typer.Option(help="Sampling rate in Hz of files that do not state it.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option(help="mV, uV or V; of NPY, and of files that state none.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print every beat as JSON.")] = False,
) -> None:
    """Classify the beats of a recording by the released model, without a server."""
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.recordings.strips import describe, list_beats, predict_file
    from flows.release.load_released import load_bundle_to_use

    _, bundle = load_bundle_to_use(read_settings())
    classifier = BeatClassifier.load(bundle)
    prediction = predict_file(file, classifier=classifier, lead=lead, fs=fs, unit=unit)
    typer.echo(json.dumps(list_beats(prediction), indent=1) if as_json else describe(prediction))


def annotate(
    records: Annotated[
        list[Path],
        typer.Argument(help="Recordings of any format that analyze takes, and directories."),
    ],
    output_dir: Annotated[Path, typer.Option(help="Where the .pvc files go.")],
    lead: Annotated[
        str | None, typer.Option(help="Name of the lead; else the one that is an ECG by its name.")
    ] = None,
    fs: Annotated[
        float | None, typer.Option(help="Sampling rate in Hz of files that do not state it.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option(help="mV, uV or V; of NPY, and of files that state none.")
    ] = None,
) -> None:
    """Write the class of every beat as WFDB annotations, by the released model."""
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.recordings.strips import annotate_record
    from flows.recordings.listing import list_recordings
    from flows.release.load_released import load_bundle_to_use

    _, bundle = load_bundle_to_use(read_settings())
    classifier = BeatClassifier.load(bundle)
    listed = list_recordings(records)
    for path, reason in listed.refused.items():
        typer.secho(f"{path}: {reason}", fg="red", err=True)
    failed = len(listed.refused)
    for path in listed.paths:
        try:
            done = annotate_record(
                path, classifier=classifier, output_dir=output_dir, lead=lead, fs=fs, unit=unit
            )
        except (EcgError, OSError) as error:
            failed += 1
            typer.secho(f"{path}: {error}", fg="red", err=True)
            continue
        typer.echo(
            f"{done.path}: lead {done.lead}, {done.beats} beats, {done.v_beats} V, "
            f"{done.unreadable_s:.0f} s unreadable, {done.invalid_samples} missing samples"
            + "".join(f"\n  warning: {warning}" for warning in done.warnings)
        )
    if failed:
        total = len(listed.paths) + len(listed.refused)
        typer.secho(f"{failed} of {total} records failed", fg="red", err=True)
        raise typer.Exit(1)


def analyze(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="WFDB, EDF, CSV, NPY, DICOM, ISHNE, SCP-ECG, XML, ATC, zip or gz; directories."
        ),
    ],
    output_dir: Annotated[Path, typer.Option(help="Where the results go.")] = Path(),
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="json, csv, atr, fhir, html or pdf; all.")
    ] = None,
    lead: Annotated[
        str | None, typer.Option(help="Name of the lead; else the one that is an ECG by its name.")
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
    from flows.recordings.listing import list_recordings

    os.environ.update(ONE_THREAD)
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.recordings.summary import ResultFormat
    from flows.release.load_released import load_bundle_to_use

    kinds = tuple(formats or ResultFormat)
    if unknown := set(kinds) - set(ResultFormat):
        msg = f"a format must be one of {', '.join(ResultFormat)}, got {', '.join(unknown)}"
        raise typer.BadParameter(msg)
    version, bundle = load_bundle_to_use(read_settings())
    classifier = BeatClassifier.load(bundle)
    model = analysis.describe_model(bundle, version=version)
    listed = list_recordings(files, are_parts=join)
    for path, reason in listed.refused.items():
        typer.secho(f"{path}: {reason}", fg="red", err=True)
    failed = len(listed.refused)
    paths = list(map(str, listed.paths))
    recordings = [[path] for path in paths]
    if join:  # a recording without one of its parts would be another
        recordings = [paths] if paths and not failed else []
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
        except (EcgError, OSError) as error:
            failed += 1
            typer.secho(f"{first}: {error}", fg="red", err=True)
            continue
        typer.echo(analysis.describe_file(done))
    if failed:
        raise typer.Exit(1)
