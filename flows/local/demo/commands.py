"""The command ``ecg demo loop``."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from flows.local.demo.home import enter_home, make_home

demo = typer.Typer(help="Run a demonstration in a home of its own.", no_args_is_help=True)


@demo.callback()
def _group() -> None:
    """Run a demonstration in a home of its own."""


@demo.command("loop")
def loop(
    home: Annotated[
        Path | None,
        typer.Option(help="Empty directory for the home of the demo; else a temporary one."),
    ] = None,
    *,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Go on after the last step until Ctrl-C, and keep the home."),
    ] = False,
) -> None:
    """Show the loop that learns: KEEP, RETRAIN, promoted, ROLLBACK.

    Needs neither data nor network, and touches nothing of the platform of this user.
    """
    started_s = time.monotonic()
    try:
        place = make_home(home)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    settings = enter_home(place)
    # Prefect reads its settings when it is imported: those of the demo must be there.
    from flows.doors.addresses import find_addresses
    from flows.local.demo.loop import run_steps, summarize
    from flows.local.demo.stage import Stage
    from flows.local.processes import Platform
    from flows.local.servers.sign_in import write_sign_in_page

    is_done = False
    try:
        with Platform(settings, report=lambda line: _say(started_s, f"  {line}")) as platform:
            addresses = find_addresses(settings)
            stage = Stage(
                settings=settings,
                check=platform.check,
                say=lambda line: _say(started_s, line),
                log_file=settings.home / "demo.log",
            )
            page = write_sign_in_page(settings)
            stage.say(f"home {settings.home}, log of all flows {stage.log_file.name} in it")
            stage.say(f"service {addresses.service}, Prefect {addresses.prefect}")
            stage.say(f"to open links of Prefect, sign in: {page.as_uri()}")
            try:
                run_steps(stage, platform)
                is_done = True
            finally:
                summarize(stage)
            if keep:
                stage.say("the platform goes on, Ctrl-C ends it")
                while True:
                    platform.check()
                    time.sleep(0.5)
    except KeyboardInterrupt:
        if not is_done:
            raise
    finally:
        if keep or not is_done:
            typer.echo(f"the home of the demo is kept: {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)


def _say(started_s: float, line: str) -> None:
    minutes, seconds = divmod(int(time.monotonic() - started_s), 60)
    for part in line.split("\n"):
        typer.echo(f"{minutes:02}:{seconds:02} {part}" if part else "")
