"""Commands on the platform of this machine: up, down, status and login."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Never

import typer

from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.processes.helper_states import HelperStatus
from ecg_lib.operations.releases import Release, ReleaseError
from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.operations.store.objects import StoreError
from flows.doors.addresses import find_addresses
from flows.local.processes import PREFECT_SERVER, Platform
from flows.local.servers.sign_in import make_sign_in_links, write_sign_in_page
from flows.local.state.restore import check_whole
from flows.local.supervision.environments import make_command_variables
from flows.local.supervision.platform_status import (
    ProcessStatus,
    end_platform,
    is_ours,
    read_status,
)

_LEARNED: Final = (
    *("mlflow", "bentoml", "bundles", "sweeps", "studies.db"),
    *("serving", "ledger", "signatures"),
)
"""Names below the home that ``ECG_FRESH`` moves aside."""

_TRY_HELPERS_S: Final = 60.0


def enter_platform() -> Settings:
    """Read the settings, make the home, and set the variables that the flows' code reads."""
    settings = read_settings()
    prepare_home(settings)
    check_whole(settings.home)
    os.environ.update(make_command_variables(settings))
    return settings


def enter_running_platform() -> Settings:
    """Enter a platform whose own Prefect server runs; the secret goes to no other process.

    Raises
    ------
    FlowRunError
        If the platform does not run.

    """
    from flows.local.flow_runs import FlowRunError

    settings = enter_platform()
    if not is_ours(settings, PREFECT_SERVER, settings.prefect_port):
        address = find_addresses(settings).prefect
        msg = f"Prefect must be running at {address}, it is not; `ecg up` starts it"
        raise FlowRunError(msg)
    return settings


def prepare_home(settings: Settings) -> None:
    """Make the home, and close it and all that is written from now on to other users.

    Raises
    ------
    ConfigurationError
        If it cannot be made, or belongs to another user, or can be replaced by one.

    """
    os.umask(0o077)
    try:
        # Prefect makes a directory of its own in it, but not this one.
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        found, link = settings.home.stat(), settings.home.lstat()
        if found.st_uid != os.geteuid():
            msg = f"ECG_HOME must belong to this user, it belongs to uid {found.st_uid}"
            raise ConfigurationError(msg)
        if link.st_uid not in {0, os.geteuid()}:
            msg = f"ECG_HOME must not be a link of another user, it is one of uid {link.st_uid}"
            raise ConfigurationError(msg)
        for parent in settings.home.resolve().parents:
            mode = parent.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                msg = (
                    "ECG_HOME must not be replaceable by other users, "
                    f"{parent} is writable by all; choose another place, or chmod o-w {parent}"
                )
                raise ConfigurationError(msg)
        if stat.S_IMODE(found.st_mode) & 0o077:
            settings.home.chmod(0o700)
    except OSError as error:
        msg = f"ECG_HOME must be a directory that can be written, got {error.strerror}"
        raise ConfigurationError(msg) from error


def up(
    *,
    pipeline: Annotated[
        bool, typer.Option(help="Run the pipeline before the platform is ready.")
    ] = True,
) -> None:
    """Start the service, Prefect, MLflow and a worker, and run the pipeline."""
    from flows.release.switch_service import read_current

    settings = enter_platform()
    started_s = time.monotonic()
    try:
        with Platform(settings, report=typer.echo) as platform:
            if settings.fresh:
                _set_aside(settings)
            if is_serving := find_served(settings) is not None:
                platform.start_service()  # first, because it needs none of the others
            has_helpers = platform.try_to_start()
            if not is_serving and (is_serving := _install_reference(settings, platform.check)):
                platform.start_service()
            typer.echo(f"platform up after {time.monotonic() - started_s:.0f} s")
            if pipeline and has_helpers:
                _run_pipeline(platform.check, may_fail=is_serving)
            if read_current(settings) is None:
                typer.echo("nothing is released yet; run the pipeline in the Prefect UI")
            elif not is_serving:
                platform.start_service()
            _show_ready(settings, started_s)
            _watch(platform, has_helpers=has_helpers)
    except KeyboardInterrupt:
        typer.echo("stopped; everything that was started has ended")


def find_served(settings: Settings) -> Release | None:
    """Finish what was left open and take what other machines released; else go on with our own."""
    from flows.doors.release_history import LedgerError
    from flows.release.switch_service import read_current
    from flows.release.transaction import recover

    try:
        return recover(settings)
    except (StoreError, ReleaseError, LedgerError) as error:
        typer.echo(f"this home goes on with its own release: {error}")
        return read_current(settings)


def _watch(platform: Platform, *, has_helpers: bool) -> Never:
    """Watch the processes until a signal; helpers that did not start are tried once a minute."""
    tried_s = time.monotonic()
    while True:
        platform.check()
        if not has_helpers and time.monotonic() - tried_s > _TRY_HELPERS_S:
            has_helpers = platform.try_to_start()
            tried_s = time.monotonic()
        time.sleep(0.5)


def _run_pipeline(check: Callable[[], None], *, may_fail: bool) -> None:
    from flows.local.flow_runs import FlowRunError, run_and_follow

    try:
        run_and_follow("pipeline", report=typer.echo, check=check)
    except FlowRunError as error:
        if not may_fail:
            raise
        typer.secho(f"{error}; the previous release goes on serving", fg="yellow", err=True)


def _install_reference(settings: Settings, check: Callable[[], None]) -> bool:
    """Release the model that ships, unless ``ECG_FRESH`` is set; return whether it is released."""
    from flows.local.flow_runs import run_and_follow
    from flows.release.load_released import has_reference
    from flows.release.switch_service import read_current

    if has_reference() and not settings.fresh:
        run_and_follow("install-reference", report=typer.echo, check=check)
    return read_current(settings) is not None


def _set_aside(settings: Settings) -> None:
    """Move previous models, runs and releases into a directory of their own."""
    aside = settings.home / f"before-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S')}"
    for name in _LEARNED:
        if (settings.home / name).exists():
            aside.mkdir(parents=True, exist_ok=True)
            shutil.move(settings.home / name, aside / name)
    if aside.exists():
        typer.echo(f"ECG_FRESH: previous models and runs were moved to {aside}")


def _show_ready(settings: Settings, started_s: float) -> None:
    import httpx

    from flows.release.switch_service import key_header, read_current

    addresses = find_addresses(settings)
    is_released = read_current(settings) is not None
    if is_released:
        show_prediction(settings)
    page = write_sign_in_page(settings)
    typer.echo("")
    typer.echo(f"  service  {addresses.service}  (API docs at /docs, operations at /ops)")
    typer.echo(f"  Prefect  {addresses.prefect}")
    typer.echo(f"  MLflow   {addresses.mlflow}")
    typer.echo(f"  sign in  {page.as_uri()}  (or `ecg login`)")
    typer.echo(f"  data     {settings.home}; Ctrl-C or `ecg down` ends everything\n")
    typer.echo(f"ready after {time.monotonic() - started_s:.0f} s")
    if not is_released:
        return
    try:  # asked of the service, because an earlier release is served by its own code
        answer = httpx.get(
            f"{addresses.service}/health",
            headers=key_header(settings),
            timeout=30.0,
            trust_env=False,
        )
    except httpx.TransportError as error:
        typer.echo(f"the service does not answer now: {error}")
        return
    model = answer.json()["model"]
    if model is None:  # keys are asked for, and ECG_API_KEY is not one of them
        typer.echo(f"READY {addresses.service}; set ECG_API_KEY to see its model")
        return
    typer.echo(
        f"READY {addresses.service} model={model['version']} source={model['source']} "
        f"data={model['data']}"
    )


def show_prediction(settings: Settings) -> None:
    """Ask the service for a strip and show the answer, or why there is none."""
    import httpx

    from flows.monitoring.traffic import ServiceError, demo_strip, describe_outcome, send

    strip = demo_strip(settings)
    typer.echo(f"\nprediction for {strip.name}:")
    try:
        with httpx.Client(timeout=30.0) as client:
            response = send(strip, client=client, settings=settings)
    except ServiceError as error:
        typer.echo(f"  none: {error}")
        return
    if response.status_code != httpx.codes.CREATED:
        typer.echo(f"  none: {describe_outcome(response)}")
        return
    answer = response.json()
    typer.echo(
        f"  {_name_overall(answer)}, risk {answer['risk_level']}, "
        f"{answer['ventricular_beats']} V of {answer['total_beats_detected']} beats, "
        f"{answer['processing_time_ms']:.1f} ms, id {answer['prediction_id']}"
    )
    beats = [beat["arrhythmia_type"] or "-" for beat in answer["beat_predictions"]]
    typer.echo(f"  beats: {' '.join(beats)}")


def _name_overall(answer: Mapping[str, Any]) -> str:
    if answer["confidence"] is None:
        return "no beat has a class"
    return f"{answer['overall_arrhythmia_type']} (confidence {answer['confidence']:.3f})"


def down() -> None:
    """End every process that `ecg up` started."""
    if not end_platform(read_settings(), report=typer.echo):
        typer.echo("nothing is running")


def status() -> None:
    """Show what runs, what is degraded and what is served."""
    from flows.release.switch_service import read_current

    settings = read_settings()
    processes = read_status(settings)
    for process in processes:
        typer.echo(
            f"{process.name:<16} {_describe_state(process):<8} pid {process.pid:<8} "
            f"{process.address or ''}{_count_restarts(process)}"
        )
    if not processes:
        typer.echo("nothing is running")
    degraded = [one.name for one in processes if _describe_state(one) != "running"]
    if degraded:
        typer.echo(f"degraded: {', '.join(degraded)}")
    release = read_current(settings)
    typer.echo("nothing is released" if release is None else f"released: {release.bento_tag}")


def _describe_state(process: ProcessStatus) -> str:
    if process.helper is not None and process.helper.status is not HelperStatus.RUNNING:
        return process.helper.status.value
    return "running" if process.is_alive else "ended"


def _count_restarts(process: ProcessStatus) -> str:
    if process.helper is None or process.helper.restarts == 0:
        return ""
    return f"  restarted {process.helper.restarts} times"


def login() -> None:
    """Write the page that signs in to Prefect and MLflow, and show its links on a terminal."""
    settings = read_settings()
    prepare_home(settings)
    typer.echo(f"open in a browser: {write_sign_in_page(settings).as_uri()}")
    if not sys.stdout.isatty():  # the links hold passwords, and this output may be kept
        return
    for title, link in make_sign_in_links(settings).items():
        typer.echo(f"  {title:<8} {link}")
