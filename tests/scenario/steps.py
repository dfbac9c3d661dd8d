"""The steps of the scenario; imported when the environment is that of its world."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, Final, TypeVar

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Profile, Settings
from ecg_lib.operations.store.objects import open_store
from ecg_lib.operations.store.shared_releases import POINTER
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from flows.doors.addresses import PROJECT_DIR
from flows.doors.registry import Alias, Registry
from flows.local.commands.platform import enter_platform
from flows.local.flow_runs import pause_schedules, run_and_follow
from flows.local.processes import Platform
from flows.local.servers.secret_files import PREFECT, read_secret
from flows.local.supervision.environments import make_flow_environment
from flows.release.switch_service import read_current
from flows.training.workers.search_space import open_storage
from tests.scenario.clients import Clients
from tests.scenario.machines import Machine, Replica, make_worker, start_replica
from tests.scenario.report import Champion, Outcome, describe_champion
from tests.scenario.world import NOWHERE, ScenarioError, World

T = TypeVar("T")
Say = Callable[[str], None]

SEED: Final = 0
WORKERS: Final = 2
FROZEN_S: Final = 10.0
DOWN_S: Final = 5.0
"""A replica that was killed is away so long."""
_WAIT_S: Final = 900.0
_LOGGED_S: Final = 180.0

_PIPELINE: Final = """
import sys
from flows.pipeline import pipeline
pipeline(source="simulator", n_trials=int(sys.argv[1]), seed=int(sys.argv[2]), workers=2)
"""
_FIRST: Final = """
from dataclasses import replace
from ecg_lib.operations.settings import Profile
from flows.pipeline import pipeline
from flows.training.sweep import PLANS
PLANS[Profile.DEMO] = replace(
    PLANS[Profile.DEMO], search_beats=1000, confirm_epochs=2, confirm_beats=1000
)
pipeline(source="simulator", n_trials=1, seed=1, min_v_f1=0.0)
"""
"""A first model that has seen few beats, for the champion to be better than."""


def run_steps(world: World, *, n_trials: int, pace: float, say: Say) -> Outcome:
    """Run the undisturbed pipeline, then the one that is disturbed while predictions are sent.

    Raises
    ------
    ScenarioError
        If a step cannot be done, so that nothing can be compared.

    """
    settings = enter_platform()
    seconds: dict[str, float] = {}
    with (
        Platform(settings, report=lambda line: say(f"  {line}")) as platform,
        ExitStack() as machines,
    ):
        with timed(seconds, "start of Prefect, MLflow and a worker"):
            platform.start()
        pause_schedules(check=platform.check)
        say("an undisturbed pipeline on SQLite and files, alone")
        alone = make_settings_alone(world)
        with timed(seconds, "undisturbed pipeline"):
            run_code(_PIPELINE, alone, world, n_trials, SEED)
        undisturbed = find_champion(alone)[0]
        say(f"champion {undisturbed.hash[:16]}, V-F1 {undisturbed.v_f1:.4f}")
        say("a first model, which has seen few beats, is released to the store")
        with timed(seconds, "first model"):
            run_code(_FIRST, settings, world)
        _, first = find_champion(settings)
        replicas = [start_replica(world, name, machines) for name in ("replica-a", "replica-b")]
        with timed(seconds, "start of both replicas"):
            for replica in replicas:
                replica.wait_for_model(first)
        worker = make_worker(world.settings_of("worker"), worker_environment(world))
        machines.callback(worker.end)
        bodies = make_bodies()
        with Clients([one.url for one in replicas], bodies, pace_per_s=pace) as clients:
            say(f"both replicas serve model {first}; clients send {pace:g} predictions a second")
            with timed(seconds, "disturbed pipeline"):
                found = disturb(world, platform, settings, worker, replicas, n_trials, say)
            champion, version = find_champion(settings)
            say(f"the pipeline has ended: champion {champion.hash[:16]}, model {version}")
            taken = {one.name: one.wait_for_model(version) for one in replicas}
            time.sleep(DOWN_S)  # some more answers of the champion
        logged_after_s, logged = wait_for_log(world, clients.sent.answered)
        served = {one.name: one.read_served() for one in replicas}
        release = read_pointer(world)
        trials = read_trials(settings)
        done = [one for one in trials if one.state in {TrialState.COMPLETE, TrialState.PRUNED}]
        return Outcome(
            undisturbed=undisturbed,
            champion=champion,
            version=version,
            bento_tag=find_bento(settings, version),
            served={name: one["bento_tag"] if one else None for name, one in served.items()},
            released=release,
            answered=clients.sent.answered,
            failed=clients.sent.failed,
            tried_again=clients.sent.tried_again,
            logged=logged,
            cut_off=found.cut_off,
            trials=dict(Counter(one.state.name for one in trials)),
            done_recipes=[json.dumps(one.params, sort_keys=True) for one in done],
            n_trials=n_trials,
            by_model=dict(clients.sent.by_model),
            starts={one.name: one.starts for one in (worker, *replicas)},
            ended_connections=found.ended_connections,
            frozen_s=FROZEN_S,
            slowest_s=clients.sent.slowest_s,
            logged_after_s=logged_after_s,
            taken_after_s=taken,
            seconds=seconds,
        )


class Disturbed:
    """The disturbances of a pipeline."""

    def __init__(self) -> None:
        self.cut_off: list[int] = []
        self.ended_connections = 0


def disturb(
    world: World,
    platform: Platform,
    settings: Settings,
    worker: Machine,
    replicas: list[Replica],
    n_trials: int,
    say: Say,
) -> Disturbed:
    """Run the pipeline to its end; meanwhile kill machines and cut connections."""
    found, known = Disturbed(), set(list_studies(settings))
    with running_pipeline(platform, settings, n_trials, say) as wait:
        study = wait(lambda: next(iter(set(list_studies(settings)) - known), None), "the sweep")
        worker.start()
        say("the second worker is started")
        taken = wait(lambda: list_taken(world, settings, study), "a trial of the second worker")
        worker.kill()
        say(f"the second worker is killed in trial {', '.join(map(str, taken))}")
        found.cut_off = taken
        worker.start()
        replicas[0].kill()
        say(f"{replicas[0].name} is killed, for {DOWN_S:g} s")
        time.sleep(DOWN_S)
        replicas[0].start()
        wait(replicas[0].read_served, f"{replicas[0].name} again")
        found.ended_connections = world.end_connections()
        say(f"PostgreSQL ended {found.ended_connections} connections")
        world.freeze_objects(FROZEN_S)
        say(f"the S3 server did not answer for {FROZEN_S:g} s")
    failed = {one.number for one in read_trials(settings, study) if one.state is TrialState.FAIL}
    found.cut_off = [number for number in found.cut_off if number in failed]
    return found


@contextmanager
def running_pipeline(
    platform: Platform, settings: Settings, n_trials: int, say: Say
) -> Iterator[Callable[[Callable[[], T | None], str], T]]:
    """Run the pipeline in a thread; gives a function that waits for something while it runs.

    Raises
    ------
    ScenarioError
        If the pipeline fails, or ends before what is waited for.

    """
    problems: list[BaseException] = []
    log = settings.home / "pipeline.log"

    def keep(line: str) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        if "gate " in line or "was cut off" in line or "is asked again" in line:
            say(f"  {line}")

    def run() -> None:
        parameters = {
            "source": "simulator",
            "n_trials": n_trials,
            "seed": SEED,
            "workers": WORKERS,
        }
        try:
            run_and_follow("pipeline", parameters=parameters, report=keep, check=platform.check)
        except BaseException as error:  # noqa: BLE001  told to the thread that waits
            problems.append(error)

    thread = threading.Thread(target=run)

    def check() -> None:
        if problems:
            msg = f"the pipeline must end well, it failed: {problems[0]}; see {log}"
            raise ScenarioError(msg) from problems[0]

    def wait(find: Callable[[], T | None], what: str) -> T:
        deadline_s = time.monotonic() + _WAIT_S
        while not (found := find()):
            check()
            if not thread.is_alive() or time.monotonic() > deadline_s:
                msg = f"{what} must be there while the pipeline runs, it is not"
                raise ScenarioError(msg)
            time.sleep(0.2)
        return found

    thread.start()
    try:
        yield wait
    finally:
        thread.join()
    check()


def list_studies(settings: Settings) -> list[str]:
    """List the studies that can be joined."""
    studies = storage_at(settings.study_storage_url).get_all_studies()
    return [one.study_name for one in studies if "sweep" in one.user_attrs]


def read_trials(settings: Settings, study: str | None = None) -> list[FrozenTrial]:
    """Read the trials of a study, or of the newest."""
    storage = storage_at(settings.study_storage_url)
    newest = max(storage.get_all_studies(), key=lambda one: one._study_id)
    name = study or newest.study_name
    return storage.get_all_trials(storage.get_study_id_from_name(name))


@lru_cache
def storage_at(url: str) -> RDBStorage:
    """Open the storage of studies once."""
    return open_storage(url)


def list_taken(world: World, settings: Settings, study: str) -> list[int]:
    """List the trials that the second worker runs; they are in MLflow already."""
    names = {path.name for path in (world.root / "worker").glob(f"visited-sweeps/{study}/*/*")}
    return [
        one.number
        for one in read_trials(settings, study)
        if one.state is TrialState.RUNNING
        and one.user_attrs.get("worker") in names
        and "mlflow_run" in one.user_attrs
    ]


def make_settings_alone(world: World) -> Settings:
    """Return the settings of a laptop: all defaults, SQLite and files."""
    return Settings(
        home=world.root / "alone",
        profile=Profile.DEMO,
        physionet_url=NOWHERE,
        store_url=None,
        release_key_file=None,
        patient_key_file=None,
        monitoring_url=None,
        study_url=None,
        mlflow_store_url=None,
        prefect_port=world.prefect_port,
        mlflow_port=world.mlflow_port,
    )


def flow_environment(settings: Settings, world: World) -> dict[str, str]:
    """Make the environment of a flow run outside the work pool, on the same Prefect server."""
    settings.home.mkdir(parents=True, exist_ok=True)
    secret = read_secret(world.settings_of("flows"), PREFECT)
    return {
        **make_flow_environment(settings),
        "PREFECT_API_AUTH_STRING": secret.login,
        # The fonts of the first home: to list them takes a good part of a minute.
        "MPLCONFIGDIR": str(world.root / "flows" / "cache" / "matplotlib"),
    }


def worker_environment(world: World) -> dict[str, str]:
    """Make the environment of the second worker."""
    return flow_environment(world.settings_of("worker"), world)


def run_code(code: str, settings: Settings, world: World, *arguments: int) -> None:
    """Run a flow in a process of its own.

    Raises
    ------
    ScenarioError
        If it fails; with the end of its output.

    """
    log = settings.home / "run.log"
    environment = flow_environment(settings, world)
    with log.open("ab") as output:
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=environment,
            cwd=PROJECT_DIR,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        msg = f"the flow must end well, it failed: {log.read_text(errors='replace')[-3000:]}"
        raise ScenarioError(msg)


def find_champion(settings: Settings) -> tuple[Champion, str]:
    """Find the champion of a home, and its version."""
    registry = Registry(settings)
    champion = registry.get_alias(Alias.CHAMPION)
    if champion is None:
        msg = f"{settings.home.name} must have a champion, it has none"
        raise ScenarioError(msg)
    params = registry._client.get_run(champion.run_id).data.params
    return describe_champion(registry.fetch_bundle(champion.run_id), params), champion.version


def make_bodies() -> list[dict[str, Any]]:
    """Make requests of some patients."""
    kinds = (StripKind.NORMAL, StripKind.RUN)
    strips = [simulate_strip(kind, seed=seed) for seed in range(8) for kind in kinds]
    return [
        {
            "signal_data": strip.signal_mv().tolist(),
            "sampling_rate": strip.fs,
            "patient_id": f"patient {number}",
        }
        for number, strip in enumerate(strips)
    ]


def wait_for_log(world: World, answered: list[str]) -> tuple[float, list[str]]:
    """Wait until all answers are in the log, or for some minutes; the seconds, and the rows."""
    started_s = time.monotonic()
    while True:
        logged = world.read_logged()
        waited_s = time.monotonic() - started_s
        if set(answered) <= set(logged) or waited_s > _LOGGED_S:
            return waited_s, logged
        time.sleep(0.2)


def read_pointer(world: World) -> str | None:
    """Read which bento the pointer of the store names."""
    stored = open_store(world.store_url).read(POINTER)
    return None if stored is None else Release.model_validate_json(stored.content).bento_tag


def find_bento(settings: Settings, version: str) -> str:
    """Find the bento of the release of a model version.

    Raises
    ------
    ScenarioError
        If another version is released.

    """
    current = read_current(settings)
    if current is None or current.model_version != version:
        msg = f"model {version} must be released, it is {current}"
        raise ScenarioError(msg)
    return current.bento_tag


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how long a step takes."""
    started_s = time.monotonic()
    yield
    seconds[name] = time.monotonic() - started_s
