"""Processes that stand for machines: service replicas and a sweep worker, which may be killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from ecg_lib.operations.settings import Settings
from flows.doors.addresses import PROJECT_DIR, find_addresses
from flows.local.demo.home import find_free_ports
from flows.local.supervision.environments import make_service_environment
from tests.scenario.world import ScenarioError, World

READY_S: Final = 300.0
_END_S: Final = 60.0

WORK: Final = """
from flows.training.workers.work_on_sweep import work_on_sweep
work_on_sweep()
"""


class Machine:
    """A program with a home of its own, which can be killed with all its processes."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.starts = 0
        self.log = log
        self._command, self._environment = list(command), dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again."""
        self.starts += 1
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=PROJECT_DIR,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """Kill all its processes at once, as a power failure does."""
        if self._process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in _family(self._process.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        self._process.wait(_END_S)

    def end(self) -> None:
        """Ask it to end, and kill it when it does not."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self.kill()

    @property
    def exit_code(self) -> int | None:
        """None as long as it runs."""
        return None if self._process is None else self._process.poll()

    def require_running(self) -> None:
        """Check that it has not ended by itself.

        Raises
        ------
        ScenarioError
            With the end of its log.

        """
        if self.exit_code is not None:
            tail = self.log.read_text(errors="replace")[-2000:]
            msg = f"{self.name} must run, it ended with {self.exit_code}: {tail}"
            raise ScenarioError(msg)


def _family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


class Replica(Machine):
    """The service on a machine of its own, which follows the releases of the store."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        log = settings.home.with_suffix(".log")
        super().__init__(
            settings.home.name, [sys.executable, "-m", "bentos.host"], environment, log
        )
        self.url = find_addresses(settings).service

    def read_served(self) -> dict[str, Any] | None:
        """Read the model that it serves; None when it does not answer or has none."""
        try:
            model = httpx.get(f"{self.url}/health", timeout=5.0, trust_env=False).json()["model"]
        except (httpx.TransportError, ValueError, KeyError):
            return None
        return dict(model) if model else None

    def wait_for_model(self, version: str) -> float:
        """Wait until it serves a version of the model; return the seconds.

        Raises
        ------
        ScenarioError
            If it ends, or takes too long.

        """
        started_s = time.monotonic()
        while (model := self.read_served()) is None or model["version"] != version:
            self.require_running()
            if time.monotonic() - started_s > READY_S:
                msg = f"{self.name} must serve model {version}, it serves {model}"
                raise ScenarioError(msg)
            time.sleep(0.2)
        return time.monotonic() - started_s


def make_worker(settings: Settings, environment: Mapping[str, str]) -> Machine:
    """Make a machine that works on the newest sweep."""
    log = settings.home.with_suffix(".log")
    return Machine(settings.home.name, [sys.executable, "-c", WORK], environment, log)


def start_replica(world: World, name: str, ends: ExitStack) -> Replica:
    """Start a replica with a home of its own, which ends with the stack."""
    (port,) = find_free_ports(1)
    settings = world.settings_of(name, port=port)
    settings.home.mkdir(parents=True)
    replica = Replica(settings, make_service_environment(settings))
    ends.callback(replica.end)
    replica.start()
    return replica
