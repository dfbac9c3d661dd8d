"""``python -m bentos.host``: keeps the service on its port while models and code change.

It owns the listening socket and starts workers (:mod:`bentos.worker`) that serve on it, with the
code of the bento that ``serving/current.json`` names; its signature and its code are checked before
the code runs. The workers take a release with the same code themselves. For one with other code
other workers are started; when they have loaded its bundle and passed its golden requests they
serve, and those before end their connections. When they cannot, those before go on and report why.
A worker that dies is started again; connections go to the others meanwhile, or wait in the socket.
As long as others serve, a new worker must load the current release and is tried again when it
cannot; only when none serves does the host fall back on the release that was served before, or on
workers that answer why there is no model. Where machines share a store, a thread of the host takes
the releases of the others from it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from prometheus_client.multiprocess import mark_process_dead

from bentos.runtime.limits.rate_limit import TABLE_VARIABLE
from bentos.runtime.limits.sessions import SESSIONS_VARIABLE
from bentos.runtime.logs import set_up_logging
from bentos.runtime.worker_process import WorkerError, WorkerProcess, start_worker
from ecg_lib.errors import ConfigurationError, PredictionLogError
from ecg_lib.operations.keys.signatures import SignatureError, prepare_code
from ecg_lib.operations.processes.service_socket import (
    PortTakenError,
    check_exposure,
    open_listener,
)
from ecg_lib.operations.releases import (
    CURRENT,
    LAST_GOOD,
    SERVED,
    Release,
    ReleaseError,
    bento_source,
    is_same_release,
    read_release,
    write_release,
)
from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.operations.store.following import Follower, ReportsFollower

_POLL_S: Final = 0.2
_BEAT_S: Final = 1.0
_LONGEST_BACKOFF_S: Final = 30.0
_RETRY_S: Final = 30.0
"""Until other code that did not start is tried again; a start takes a core for seconds."""
_STABLE_S: Final = 60.0
_MOST_WORKERS: Final = 4
ORPHANS_END_S: Final = 20.0
"""How long workers of a host that was killed may still start, or answer, on its socket."""
_SHARED: Final = "ecg-workers-"
_SHARED_LOCK: Final = "lock"
_OWN_CODE: Final = Path(__file__).parents[1]

_logger = logging.getLogger(__name__)


class Host:
    """Starts, replaces and ends workers on one socket.

    Parameters
    ----------
    settings : Settings
    listener : socket.socket
        Bound and listening.
    shared : SharedDirectory
        Where the workers keep their common counts.
    beats : int, optional
        Descriptor of a pipe that is written to as long as the host runs, whatever its workers do.
    follower : Follower, optional
        Takes the releases of other machines.

    """

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        *,
        shared: SharedDirectory,
        beats: int | None = None,
        follower: Follower | None = None,
    ) -> None:
        self._settings = settings
        self._follower = follower
        self._told: ReleaseError | None = None
        self._listener = listener
        self._shared = shared.path
        self._shared_lock = shared.lock
        self._beats = beats
        self._n_workers = settings.service_workers or min(_MOST_WORKERS, os.cpu_count() or 1)
        self._workers: list[WorkerProcess] = []
        self._replaced: list[WorkerProcess] = []
        self._considered: Release | None = None
        self._retry_at: float | None = None
        """When a current release that was refused is tried again, as it may be repaired."""
        self._stop = asyncio.Event()
        self._backoff_s = 0.0
        self._not_before = 0.0

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises
        ------
        WorkerError
            If no worker starts at all.

        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        stop = asyncio.create_task(self._stop.wait())
        serve = asyncio.create_task(self._serve())
        beat = asyncio.create_task(self._beat())
        try:
            await asyncio.wait({stop, serve}, return_when=asyncio.FIRST_COMPLETED)
            if serve.done():
                serve.result()
        finally:
            for task in (stop, serve, beat):
                task.cancel()
            await asyncio.gather(stop, serve, beat, return_exceptions=True)
            await asyncio.gather(*(worker.stop() for worker in [*self._replaced, *self._workers]))

    async def _serve(self) -> None:
        self._add(await self._start_best())
        while True:
            if len(self._workers) < self._n_workers:
                await self._complete()
            await asyncio.sleep(_POLL_S)
            self._kill_hung()
            for worker in [worker for worker in self._workers if not worker.is_alive]:
                await self._remove(worker)
            await self._apply_current()
            self._tell_not_taken()
            self._note_served()
            for worker in [worker for worker in self._replaced if not worker.is_alive]:
                self._replaced.remove(worker)
                await self._end(worker)

    async def _beat(self) -> None:
        """Show the process that started this one that the loop runs."""
        while self._beats is not None:
            # The pipe is full while nobody reads it, and broken once its reader has ended.
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self._beats, b".")
            await asyncio.sleep(_BEAT_S)

    def _add(self, worker: WorkerProcess) -> None:
        self._workers.append(worker)
        self._told = None
        worker.listen(self._tell_slowest)
        self._tell_slowest()

    def _tell_slowest(self) -> None:
        """While workers switch, let all of them report the model that is on its way out."""
        serving = [worker for worker in self._workers if worker.serves is not None]
        slowest = min(serving, key=lambda worker: worker.serves_since, default=None)
        for worker in self._workers:
            worker.tell({"slowest": None if slowest is None else slowest.serves})

    def _kill_hung(self) -> None:
        for worker in [*self._workers, *self._replaced]:
            if worker.look():
                _logger.error("a worker no longer answers and is killed")
                worker.kill()

    async def _complete(self) -> None:
        """Start a worker that is missing, but not again and again.

        A start may take long, or hang. It is given up when other code is to serve meanwhile.
        """
        if asyncio.get_running_loop().time() < self._not_before:
            return
        starting = asyncio.create_task(self._start_best())
        try:
            while not (await asyncio.wait({starting}, timeout=_POLL_S))[0]:
                self._kill_hung()
                if self._is_superseded():
                    _logger.info("the start of a worker is given up, as other code is to serve")
                    return
            self._add(starting.result())
        except WorkerError as error:
            self._wait_longer()
            _logger.error("no worker starts: %s", error)  # noqa: TRY400  the worker's log has more
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)

    def _is_superseded(self) -> bool:
        """Return whether another release than the one considered asks for other workers."""
        with contextlib.suppress(ReleaseError):
            release = read_release(self._path_of(CURRENT))
            if release is not None and release != self._considered:
                return not self._workers or release.code_hash != self._workers[0].code_hash
        return False

    async def _remove(self, dead: WorkerProcess) -> None:
        lived_s = asyncio.get_running_loop().time() - dead.started_at
        status = dead.process.returncode
        _logger.error("a worker ended with status %s after %.0f s", status, lived_s)
        if lived_s > _STABLE_S:
            self._backoff_s = 0.0
        self._wait_longer()
        self._workers.remove(dead)
        await self._end(dead)

    def _wait_longer(self) -> None:
        self._not_before = asyncio.get_running_loop().time() + self._backoff_s
        self._backoff_s = min(_LONGEST_BACKOFF_S, 2 * self._backoff_s or 0.5)

    async def _end(self, worker: WorkerProcess) -> None:
        await worker.stop()
        # The counts of a dead worker stay, but not the values of that moment.
        mark_process_dead(worker.process.pid, self._shared)  # type: ignore[no-untyped-call]
        self._tell_slowest()

    async def _start_best(self) -> WorkerProcess:
        """Start a worker with the current release, else the one before it, else with no model.

        Raises
        ------
        WorkerError
            If none starts; while others serve, also if none can load the release that they serve.

        """
        refusal = worker = None
        for name in (CURRENT, SERVED, LAST_GOOD):
            try:
                if name != CURRENT and not self._may_fall_back_on(name):
                    continue
                if worker := await self._start_release(name):
                    break
            except ReleaseError as error:
                refusal = refusal or error
        if worker is None and self._is_serving:
            msg = f"no worker can load what the others serve: {refusal}"
            raise WorkerError(msg)
        worker = worker or await self._start(self._own_source, None)
        if refusal is not None and not self._serves_current(worker):
            worker.tell_refused(refusal)
        return worker

    def _serves_current(self, worker: WorkerProcess) -> bool:
        """Return whether a worker that fell back serves the current release all the same.

        It does when that was repaired in between.
        """
        with contextlib.suppress(ReleaseError):
            current = read_release(self._path_of(CURRENT))
            return current is not None and _serves(worker, current)
        return False

    @property
    def _is_serving(self) -> bool:
        return any(worker.serves is not None for worker in self._workers)

    def _may_fall_back_on(self, name: str) -> bool:
        """Return whether a release may stand in for the current one: not beside another one.

        Raises
        ------
        ReleaseError
            If its file cannot be read.

        """
        release = read_release(self._path_of(name))
        if release is None:
            return False
        if self._is_serving:
            served = [worker.serves for worker in self._workers if worker.serves is not None]
            return all(one["bento_tag"] == release.bento_tag for one in served)
        with contextlib.suppress(ReleaseError):
            return not is_same_release(release, read_release(self._path_of(CURRENT)))
        return True

    def _path_of(self, name: str) -> Path:
        return self._settings.serving_dir / name

    def _note_served(self) -> None:
        """Note the release that all workers serve, and the one before it as the last good one."""
        try:
            current = read_release(self._path_of(CURRENT))
            noted = read_release(self._path_of(SERVED))
        except ReleaseError:
            return  # the workers report a torn current release; `ecg doctor` removes others
        if current is None or is_same_release(current, noted):
            return
        if not self._workers or not all(_serves(worker, current) for worker in self._workers):
            return
        try:
            if noted is not None:
                write_release(self._path_of(LAST_GOOD), noted)
            write_release(self._path_of(SERVED), current)
        except OSError as error:
            _logger.error("%s cannot be written: %s", SERVED, error.strerror)  # noqa: TRY400  the disk's

    @property
    def _own_source(self) -> Path:
        """The code that all workers run; ours as long as there is none."""
        return self._workers[0].source if self._workers else _OWN_CODE

    async def _start_release(self, name: str, *, any_code: bool = False) -> WorkerProcess | None:
        """Start a worker with the release that a file names.

        Returns None when there is no file, or when the release has other code than the workers
        and `any_code` is false.

        Raises
        ------
        ReleaseError
            If it does not get ready.

        """
        path = self._settings.serving_dir / name
        release = read_release(path)
        if release is None:
            return None
        if self._workers and release.code_hash != self._workers[0].code_hash and not any_code:
            return None
        if name == CURRENT:
            self._considered, self._retry_at = release, None
        try:
            prepare_code(self._settings, release)
            return await self._start(bento_source(self._settings.bentoml_home, release), path)
        except (WorkerError, SignatureError) as error:
            _logger.error("refused %s: %s", release.bento_tag, error)  # noqa: TRY400  the worker's log has more
            if name == CURRENT:
                self._retry_at = asyncio.get_running_loop().time() + _RETRY_S
            raise ReleaseError(str(error), bento_tag=release.bento_tag) from error

    async def _apply_current(self) -> None:
        """Replace the workers when the current release has other code."""
        try:
            release = read_release(self._settings.serving_dir / CURRENT)
        except ReleaseError:
            return  # the workers report it
        if not self._workers or release is None:
            return
        is_due = self._retry_at is not None and (
            asyncio.get_running_loop().time() >= self._retry_at
        )
        if release == self._considered and not is_due:
            return
        self._considered, self._retry_at = release, None
        if release.code_hash == self._workers[0].code_hash:
            return
        _logger.info("starting %s, which has other code", release.bento_tag)
        try:
            replacement = await self._start_release(CURRENT, any_code=True)
        except ReleaseError as error:
            for worker in self._workers:
                worker.tell_refused(error)
            return
        if replacement is not None:
            for worker in self._workers:
                worker.tell({"drain": True})
            self._replaced += self._workers
            self._workers = []
            self._add(replacement)

    def _tell_not_taken(self) -> None:
        """Let the workers report a release of the store that cannot be taken."""
        refusal = None if self._follower is None else self._follower.refusal
        if refusal is not None and str(refusal) != str(self._told):
            for worker in self._workers:
                worker.tell_refused(refusal)
        self._told = refusal

    async def _start(self, source: Path, release: Path | None) -> WorkerProcess:
        """Start a worker with the code below a directory.

        Raises
        ------
        WorkerError
            If it does not get ready.

        """
        environment = {
            **os.environ,
            # Where a name led when it was bound: the guard goes by it.
            "ECG_SERVICE_HOST": str(self._listener.getsockname()[0]),
            "BENTOML_HOME": str(self._settings.bentoml_home),
            "BENTOML_DO_NOT_TRACK": "True",
            # The products of a strip are small: a second thread only waits for them, and burns
            # a core that another worker needs.
            "OPENBLAS_NUM_THREADS": "1",
            # The signature does not cover compiled code, so there must be none.
            "PYTHONDONTWRITEBYTECODE": "1",
            TABLE_VARIABLE: str(self._shared / "rate-limit"),
            SESSIONS_VARIABLE: str(self._shared / "live-sessions"),
            # prometheus_client reads it when it is imported.
            "PROMETHEUS_MULTIPROC_DIR": str(self._shared),
        }
        return await start_worker(
            source,
            release,
            listener=self._listener,
            kept=(self._shared_lock,),
            environment=environment,
        )


def _serves(worker: WorkerProcess, release: Release) -> bool:
    serves = worker.serves
    return serves is not None and (
        serves["bento_tag"] == release.bento_tag
        and serves["version"] == release.model_version
        and serves["bundle_hash"] == release.bundle_hash
    )


def check_monitoring_url(settings: Settings) -> None:
    """Check that the monitoring database has a driver here, before anything is answered.

    Raises
    ------
    ConfigurationError
        If it has not, or the URL is none.

    """
    if settings.monitoring_url is None:
        return
    from ecg_lib.operations.prediction_log import PredictionLog  # noqa: PLC0415  half a second

    try:
        PredictionLog(settings.monitoring_database_url).close()
    except PredictionLogError as error:
        msg = f"ECG_MONITORING_URL: {error}"
        raise ConfigurationError(msg) from error


@contextlib.contextmanager
def following(settings: Settings) -> Iterator[Follower | None]:
    """Follow the store, if there is one; a home without a release waits for its first look."""
    if settings.store_url is None:
        yield None
        return
    follower, reports = Follower(settings), ReportsFollower(settings)
    if not (settings.serving_dir / CURRENT).exists():
        follower.look()
    follower.start()
    reports.start()
    try:
        yield follower
    finally:
        reports.close()
        follower.close()


class SharedDirectory(NamedTuple):
    """A directory of a host and its workers, locked as long as one of them lives."""

    path: Path
    lock: int
    """Descriptor of the lock, which the workers get too."""


@contextlib.contextmanager
def open_shared_directory() -> Iterator[SharedDirectory]:
    """Make the directory, and remove those of hosts that were killed."""
    for left in Path(tempfile.gettempdir()).glob(f"{_SHARED}*"):
        # Without a lock it is of another user, or is being made.
        with contextlib.suppress(OSError), (left / _SHARED_LOCK).open("rb") as lock:
            if left.stat().st_uid == os.geteuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_SHARED, ignore_cleanup_errors=True) as made:
        path = Path(made)
        with (path / f"{_SHARED_LOCK}.draft").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (path / f"{_SHARED_LOCK}.draft").rename(path / _SHARED_LOCK)
            yield SharedDirectory(path, lock.fileno())


def wait_for_listener(settings: Settings, *, wait_s: float = ORPHANS_END_S) -> socket.socket:
    """Open the socket; wait while workers of a host that was killed still hold it.

    Raises
    ------
    ConfigurationError
        If the address cannot be used, or is taken for longer than such workers live.

    """
    deadline, is_told = time.monotonic() + wait_s, False
    while True:
        try:
            return open_listener(settings)
        except PortTakenError as error:
            if time.monotonic() > deadline:
                raise
            if not is_told:
                _logger.warning("%s; waiting up to %g s", error, wait_s)
                is_told = True
            time.sleep(_POLL_S)


def _take_listener(settings: Settings, descriptor: int) -> socket.socket:
    """Take the socket that the process which started this one opened, and keeps open.

    Raises
    ------
    ConfigurationError
        If its address is public and API keys or a rate limit are missing.

    """
    listener = socket.socket(fileno=descriptor)
    check_exposure(settings, str(listener.getsockname()[0]))
    return listener


def main() -> int:
    """Serve until SIGTERM or SIGINT; 0 at the end, 2 for settings that cannot be used."""
    parser = argparse.ArgumentParser(description="Serve predictions.")
    parser.add_argument(
        "--listener", type=int, help="descriptor of a socket that listens; opened when left out"
    )
    parser.add_argument(
        "--beats", type=int, help="descriptor of a pipe to write to as long as the host runs"
    )
    arguments = parser.parse_args()
    given: int | None = arguments.listener
    beats: int | None = arguments.beats
    set_up_logging()
    os.umask(0o077)  # predictions, keys and recordings are for this user alone
    try:
        settings = read_settings()
        check_monitoring_url(settings)
        listener = wait_for_listener(settings) if given is None else _take_listener(settings, given)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    with listener, open_shared_directory() as shared, following(settings) as follower:
        host = Host(settings, listener, shared=shared, beats=beats, follower=follower)
        try:
            asyncio.run(host.run())
        except WorkerError as error:
            sys.stderr.write(f"the service cannot start: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
