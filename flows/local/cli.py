"""The command ``ecg``: the list of its commands, and how it ends."""

from __future__ import annotations

import logging
import sys

import typer

from ecg_lib.errors import EcgError
from flows.local.demo.commands import demo
from flows.local.model_commands import (
    api_key,
    doctor,
    evaluate,
    lineage,
    releases,
    reproduce,
    rollback,
    run,
    ship,
    traffic,
)
from flows.local.platform_commands import down, login, status, up
from flows.monitoring.labels.commands import feedback, signals
from flows.recordings.commands import analyze, annotate, predict
from flows.release.rollout.commands import rollout

app = typer.Typer(
    help="ECG arrhythmia detection, end to end: start the platform, run flows, classify beats.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (
    *(up, down, status, login),
    *(run, rollback, doctor, ship, reproduce, releases, lineage, evaluate, traffic),
    *(predict, annotate, analyze),
):
    app.command()(command)
app.command("api-key")(api_key)
app.add_typer(demo, name="demo")
app.add_typer(feedback, name="feedback")
app.add_typer(signals, name="signals")
app.add_typer(rollout, name="rollout")


def main() -> None:
    """Run a command; an expected error is one line on standard error and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        app()
    except EcgError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("stopped")
        sys.exit(130)
