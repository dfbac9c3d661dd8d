"""The command ``ecg``: the list of its commands, and how it ends."""

from __future__ import annotations

import logging
import os
import select
import sys
from typing import Any

import typer
from typer.core import TyperCommand

from ecg_lib.errors import EcgError
from flows.local.commands.models import (
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
from flows.local.commands.platform import down, login, status, up
from flows.local.commands.space import space
from flows.local.commands.state import backup, migrate, restore
from flows.local.demo.commands import demo
from flows.monitoring.labels.commands import feedback, signals
from flows.monitoring.verdict.commands import baseline
from flows.recordings.commands import analyze, annotate, predict
from flows.release.rollout.commands import rollout


class PrintingCommand(TyperCommand):
    """A command that only prints, and ends well when its reader has seen enough, as ``head``."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  the type of its base is private
        """Run the command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            if _is_open(sys.stdout.fileno()):
                raise  # it was another pipe
            # What is left in the buffer is written at exit, and would fail then.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit from None
        return result


def _is_open(descriptor: int) -> bool:
    """Return whether what is written to a pipe may still be read."""
    asked = select.poll()
    asked.register(descriptor, select.POLLOUT)
    return not any(event & select.POLLERR for _, event in asked.poll(0))


app = typer.Typer(
    help="ECG arrhythmia detection, end to end: start the platform, run flows, classify beats.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_PRINTING = (status, releases, lineage, predict)
for command in (
    *(up, down, status, login),
    *(run, rollback, doctor, ship, reproduce, releases, lineage, evaluate, traffic),
    *(predict, annotate, analyze),
    *(backup, restore, migrate, space),
):
    app.command(cls=PrintingCommand if command in _PRINTING else None)(command)
app.command("api-key")(api_key)
app.add_typer(demo, name="demo")
app.add_typer(feedback, name="feedback")
app.add_typer(signals, name="signals")
app.add_typer(rollout, name="rollout")
app.add_typer(baseline, name="baseline")


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
