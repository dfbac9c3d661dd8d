"""The commands ``ecg rollout``: try a release beside the served one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from ecg_lib.operations.learning.rollout.candidate import HALT, EndKind, read_halt
from ecg_lib.operations.settings import read_settings

rollout = typer.Typer(
    help="Try a model beside the served one: shadow, a share of the people, then all.",
    no_args_is_help=True,
)


@rollout.command()
def start(
    version: Annotated[str, typer.Argument(help="Model version of the registry.")],
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "asked for by hand",
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Try a release that was taken back or rolled back.")
    ] = False,
) -> None:
    """Package a model version and try it in shadow; needs `ecg up`."""
    from flows.local.commands.platform import enter_running_platform
    from flows.local.flow_runs import run_and_follow

    enter_running_platform()
    parameters = {
        "model_version": version, "rollout": "gradual", "reason": reason, "force": force
    }  # fmt: skip
    run_and_follow("release-service", parameters=parameters, report=typer.echo)


@rollout.command()
def status() -> None:
    """Show the stage of the candidate, what was compared, and how each bound stands."""
    from ecg_lib.operations.learning.rollout.comparison_log import read_compared
    from ecg_lib.operations.learning.rollout.judgement import judge
    from flows.monitoring.evidence import open_log
    from flows.release.rollout.look import count_of, list_missing
    from flows.release.rollout.steps import NO_CANDIDATE, find_candidate

    settings = read_settings()
    candidate = find_candidate(settings)
    if candidate is None:
        typer.echo(NO_CANDIDATE)
        return
    with open_log(settings) as log:
        compared = read_compared(log, candidate.id)
        missing = list_missing(candidate, count_of(log, candidate), now=datetime.now(UTC))
    stage = candidate.current_stage
    typer.echo(
        f"{candidate.release.bento_tag} beside {candidate.champion.bento_tag}: stage {stage.name} "
        f"since {candidate.stage_since:%Y-%m-%d %H:%M} UTC, by {candidate.who}"
    )
    halt = read_halt(settings.serving_dir / HALT)
    if halt is not None and halt.candidate_id == candidate.id:
        typer.echo(f"  ended by the service: {halt.reason}")
    beats = ", ".join(f"{pair} {count}" for pair, count in compared.beats.items())
    typer.echo(f"  {compared.strips} strips of {len(compared.groups)} people compared: {beats}")
    for finding in judge(compared, candidate.plan.bounds, looks=candidate.looks).findings:
        typer.echo(f"  {finding.text}")
    typer.echo(f"  {'; '.join(missing) or 'the stage is complete'}")


@rollout.command()
def advance(
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Advance even if the stage is not complete.")
    ] = False,
) -> None:
    """Go to the next stage, or release the candidate after the last one."""
    from flows.doors.release_history import find_user
    from flows.local.commands.platform import enter_platform
    from flows.monitoring.evidence import open_log
    from flows.release.integrity.aliases import follow_pending
    from flows.release.rollout.look import Verdict, look_at_candidate
    from flows.release.rollout.steps import NO_CANDIDATE, RolloutError

    settings = enter_platform()
    with open_log(settings) as log:
        look = look_at_candidate(
            settings, log, now=datetime.now(UTC), is_complete=force, who=find_user()
        )
    if look.candidate is None:
        raise RolloutError(NO_CANDIDATE)
    why = "; ".join(look.reasons)
    if look.verdict is Verdict.WAITS:
        msg = f"stage {look.candidate.current_stage.name} must be complete: {why}"
        raise RolloutError(msg)
    follow_pending(settings)
    if look.verdict not in {Verdict.ADVANCED, Verdict.RELEASED}:
        msg = f"{look.candidate.release.bento_tag} is {look.verdict.value}: {why}"
        raise RolloutError(msg)
    typer.echo(why)


@rollout.command()
def stop(
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "asked for by hand",
    *,
    worse: Annotated[bool, typer.Option("--worse", help="Never offer it again.")] = False,
) -> None:
    """End the candidate: the served release answers everybody."""
    from flows.local.commands.platform import enter_platform
    from flows.release.integrity.aliases import follow_pending
    from flows.release.rollout.steps import end_rollout

    settings = enter_platform()
    kind = EndKind.TAKEN_BACK if worse else EndKind.STOPPED
    ended = end_rollout(settings, kind, reason=reason)
    typer.echo(f"{ended.release.bento_tag}: {kind.value}")
    follow_pending(settings)
