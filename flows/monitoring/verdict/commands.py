"""Commands on the baseline: what drift of the served model is compared with."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ecg_lib.operations.settings import Settings, read_settings

if TYPE_CHECKING:
    from ecg_lib.operations.releases import Release

baseline = typer.Typer(help="The traffic that drift is compared with.", no_args_is_help=True)

_Why = Annotated[str, typer.Option("--reason", help="Why, for the ledger.")]


@baseline.command("accept")
def accept(
    why: _Why,
    days: Annotated[float, typer.Option(min=0.01, max=90, help="Days of traffic.")] = 7.0,
) -> None:
    """Compare drift with the latest traffic to the served model from now on."""
    from flows.monitoring.evidence import open_log
    from flows.monitoring.verdict.baseline import accept_baseline

    settings, release = _find_served()
    with open_log(settings) as log:
        found = accept_baseline(settings, release, log, now=datetime.now(UTC), days=days, why=why)
    typer.echo(f"model {release.model_version} is compared with {found.words}")


@baseline.command("show")
def show() -> None:
    """Name the traffic or reference that drift is compared with."""
    from flows.monitoring.verdict.baseline import read_baseline

    settings, release = _find_served()
    found = read_baseline(settings, release.bundle_hash)
    against = "the reference of its bundle" if found is None else f"{found.words}, by {found.who}"
    typer.echo(f"model {release.model_version} is compared with {against}")


@baseline.command("reset")
def reset(why: _Why) -> None:
    """Compare drift with the reference of the model again."""
    from flows.monitoring.verdict.baseline import remove_baseline

    settings, release = _find_served()
    was_there = remove_baseline(settings, release, why=why)
    word = "again" if was_there else "as before"
    typer.echo(f"model {release.model_version} is compared with the reference of its bundle {word}")


def _find_served() -> tuple[Settings, Release]:
    from flows.monitoring.verdict.baseline import BaselineError
    from flows.release.switch_service import read_current

    settings = read_settings()
    release = read_current(settings)
    if release is None:
        msg = "a baseline is of the model that is served, none is: run the pipeline first"
        raise BaselineError(msg)
    return settings, release
