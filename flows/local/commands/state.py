"""Commands on the state of a home: back up, restore and migrate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecg_lib.operations.settings import read_settings
from flows.local.commands.platform import prepare_home
from flows.local.state.restore import check_whole


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="Include the secrets, encrypted with the key in this file, made when missing."
        ),
    ] = None,
    *,
    secrets_in_clear: Annotated[
        bool, typer.Option("--secrets-in-clear", help="Include the secrets as they are.")
    ] = False,
) -> None:
    """Write all state of the home into one file; the platform may run meanwhile."""
    from flows.local.state.archive import SecretsIn
    from flows.local.state.backup import make_backup

    if key_file is not None and secrets_in_clear:
        msg = "name --key-file or --secrets-in-clear, not both"
        raise typer.BadParameter(msg)
    secrets = SecretsIn.CLEAR if secrets_in_clear else SecretsIn.LEFT_OUT
    made = make_backup(
        read_settings(),
        file.absolute(),
        secrets=secrets if key_file is None else SecretsIn.ENCRYPTED,
        key_file=None if key_file is None else key_file.absolute(),
    )
    typer.echo(
        f"{file}: {len(made.manifest.files)} files, {made.size_bytes / 2**20:.1f} MiB, databases "
        f"{', '.join(made.databases) or 'none'}; secrets: {made.manifest.secrets}"
    )
    for place in made.manifest.elsewhere:
        typer.secho(f"not in the backup, back it up with its own tools: {place}", fg="yellow")
    if made.manifest.secrets is SecretsIn.LEFT_OUT:
        typer.secho(
            "without the secrets, a restored home needs `ecg doctor --sign` before it serves, "
            "cannot read kept signals and treats every patient as new; --key-file includes them, "
            "encrypted",
            fg="yellow",
        )


def restore(
    file: Annotated[Path, typer.Argument(help="A file of `ecg backup`.")],
    key_file: Annotated[Path | None, typer.Option(help="Key of the encrypted secrets.")] = None,
    *,
    no_secrets: Annotated[
        bool, typer.Option("--no-secrets", help="Do not restore the secrets of the backup.")
    ] = False,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="First move the home's files into before-TIME."),
    ] = False,
) -> None:
    """Restore a backup into ECG_HOME, which must be empty; the platform must be down."""
    from flows.local.state.restore import restore_backup

    settings = read_settings()
    prepare_home(settings)
    manifest = restore_backup(
        settings,
        file.absolute(),
        key_file=None if key_file is None else key_file.absolute(),
        with_secrets=not no_secrets,
        is_replacing=replace,
    )
    typer.echo(
        f"{settings.home}: {len(manifest.files)} files of {manifest.made_at}, hashes checked; "
        f"secrets: {'left out' if no_secrets else manifest.secrets}"
    )
    for place in manifest.elsewhere:
        typer.secho(f"not in the backup, restore it separately: {place}", fg="yellow")
    typer.echo("`ecg doctor` compares all stores, `ecg up` starts the platform")


def migrate(
    to: Annotated[
        str | None,
        typer.Option(help="Version, such as r0002; default: the one that this code needs."),
    ] = None,
    *,
    show: Annotated[
        bool, typer.Option("--show", help="Show the version of the tables and change nothing.")
    ] = False,
) -> None:
    """Upgrade or downgrade the tables of the monitoring database.

    Upgrades happen by themselves when the first row is written.

    A downgrade drops what later versions added.

    Make a backup and end the platform first.
    """
    from ecg_lib.operations.learning.schema.migrations import HEAD
    from ecg_lib.operations.prediction_log import PredictionLog

    settings = read_settings()
    if show and to is not None:
        msg = "name --show or --to, not both"
        raise typer.BadParameter(msg)
    if not show or settings.home.exists():
        prepare_home(settings)
        check_whole(settings.home)
    log = PredictionLog(settings.monitoring_database_url)
    try:
        if not show:
            log.migrate(to or HEAD)
        typer.echo(f"version {log.read_version() or 'none'}; this code needs {HEAD}")
    finally:
        log.close()
