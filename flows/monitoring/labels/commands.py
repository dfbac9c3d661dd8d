"""Commands on labels and kept signals: import annotations as feedback, delete a patient."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecg_lib.errors import EcgError
from ecg_lib.operations.settings import read_settings

feedback = typer.Typer(help="Import labels of readers.", no_args_is_help=True)


signals = typer.Typer(help="Delete kept signals.", no_args_is_help=True)


@feedback.callback()
def _group() -> None:
    """Import labels of readers."""


@feedback.command("import")
def import_feedback(
    path: Annotated[
        Path,
        typer.Argument(
            help="A WFDB annotation file, or a directory of them, named by the id of the "
            "prediction or recording, such as ID.atr or recording-ID.atr."
        ),
    ],
    subject_id: Annotated[
        str | None,
        typer.Option("--id", help="Id of the prediction or recording; for one file."),
    ] = None,
    extension: Annotated[
        str, typer.Option("--annotations", help="Extension of the files of a directory.")
    ] = "atr",
    annotator: Annotated[str | None, typer.Option(help="Name of the reader.")] = None,
    *,
    is_partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="The file marks only some beats: a detection without an annotation is not false.",
        ),
    ] = False,
) -> None:
    """Send WFDB annotations to the service as feedback."""
    from flows.monitoring.labels.feedback_import import import_file, list_annotation_files

    settings = read_settings()
    files = list_annotation_files(path, extension)
    if subject_id is not None and len(files) > 1:
        msg = f"--id is for one file, got {len(files)}"
        raise typer.BadParameter(msg)
    failed = 0
    for file in files:
        try:
            done = import_file(
                file,
                settings=settings,
                subject_id=subject_id,
                annotator=annotator,
                is_partial=is_partial,
            )
        except (EcgError, OSError) as error:
            failed += 1
            typer.secho(f"{file}: {error}", fg="red", err=True)
            continue
        typer.echo(
            f"{file}: {done.subject} {done.subject_id}: {done.labels} classes, "
            f"{done.missed} missed, {done.false} false"
        )
    if failed:
        raise typer.Exit(1)


@signals.callback()
def _signals_group() -> None:
    """Delete signals that are kept for review and training."""


@signals.command("delete")
def delete_signals(
    patient: Annotated[
        str | None, typer.Option(help="Identifier of the patient, as requests name it.")
    ] = None,
    patient_hash: Annotated[
        str | None, typer.Option("--hash", help="Keyed hash of the patient, as it is stored.")
    ] = None,
) -> None:
    """Delete the kept signals of a patient, and what training prepared of them."""
    from ecg_lib.operations.keys.patient_key import hash_patient, read_patient_key
    from flows.monitoring.labels.kept_signals import delete_patient

    if (patient is None) == (patient_hash is None):
        msg = "name one patient, by --patient or by --hash"
        raise typer.BadParameter(msg)
    settings = read_settings()
    if patient is not None:
        patient_hash = hash_patient(patient, key=read_patient_key(settings.patient_key_path))
    typer.echo(f"{delete_patient(settings, str(patient_hash))} signals deleted")
