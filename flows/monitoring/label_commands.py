"""Commands on labels: import annotation files as feedback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecg_lib.errors import EcgError
from ecg_lib.operations.settings import read_settings

feedback = typer.Typer(help="Labels of readers.", no_args_is_help=True)


@feedback.callback()
def _group() -> None:
    """Labels of readers."""


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
    from flows.monitoring.feedback_import import import_file, list_annotation_files

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
