"""Analyse recordings: one process of the service starts a process for each, and cleans up.

The process that holds the lock of the directory does it; the others take recordings and read
results (:mod:`bentos.recordings.job_queue`). A job that a restart cut off twice is given up.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from bentos.recordings.job_store import (
    FINISHED,
    INCOMING,
    LOCK,
    OBSERVED,
    OUTCOME,
    PROGRESS,
    TASK,
    Job,
    JobStatus,
    JobStore,
    is_locked,
    list_uploads,
    write_json,
)
from bentos.runtime.live_model import LoadedModel
from bentos.wire.problems import (
    CRASHED,
    TOO_MUCH_MEMORY,
    TOOK_TOO_LONG,
    ProblemError,
    explain_file_error,
)
from ecg_lib import errors
from ecg_lib.operations.keys.signatures import SignatureError, prepare_code
from ecg_lib.operations.prediction_rows import RequestRow
from ecg_lib.operations.processes.limits import MAX_ANALYSIS_S, environment_with, lower_priority
from ecg_lib.operations.releases import bento_source
from ecg_lib.operations.settings import Settings
from ecg_lib.records.signal_names import lead_of

_POLL_S: Final = 0.1
_MAX_ATTEMPTS: Final = 2

UNREADABLE_RECORDING: Final = "unreadable_recording"
"""Why a recording counts as refused: most of its pieces would be, as strips."""

_STALE_UPLOAD_S: Final = 600.0
"""Far longer than an upload may stand still (:func:`bentos.recordings.uploads.receive_form`)."""

_CODE_ROOT: Final = Path(__file__).parents[2]

_logger = logging.getLogger(__name__)


class JobRunner:
    """A thread that works on the queue, if no other process does.

    Parameters
    ----------
    store : JobStore
    settings : Settings
    model : callable
        Gives the model that answers now, or None.
    note : callable
        Takes the pieces of each recording that is done, for monitoring.

    """

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        *,
        model: Callable[[], LoadedModel | None],
        note: Callable[[RequestRow], object] = lambda _: None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._kept = settings.recordings_kept
        self._kept_days = settings.recordings_kept_days
        self._at_once = settings.recordings_at_once
        self._model = model
        self._note = note
        self._processes: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
        self._started: dict[str | None, float] = defaultdict(float)  # when, by owner
        self._lock_file: int | None = None
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recordings", daemon=True)

    def start(self) -> None:
        """Begin to work on what waits."""
        self._store.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._thread.start()

    def wake(self) -> None:
        """Look at the queue now."""
        self._wake.set()

    def close(self) -> None:
        """End what is being analysed; it is analysed again when the service is back."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        for job_id in list(self._processes):
            self._end_process(job_id)
            job = self._store.read(job_id)
            if job is not None:  # a clean shutdown does not count as a failed attempt
                self._store.update(job_id, status=JobStatus.QUEUED, attempts=job.attempts - 1)
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._holds_lock():
                    self._work()
            except OSError:
                _logger.exception("recordings cannot be worked on now")
                self._stop.wait(1.0)
            self._wake.wait(_POLL_S if self._processes else 5 * _POLL_S)
            self._wake.clear()

    def _holds_lock(self) -> bool:
        if self._lock_file is not None:
            return True
        file = os.open(self._store.home / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._lock_file = file
        return True

    def _work(self) -> None:
        for job_id in list(self._processes):
            self._check_process(job_id)
        jobs = sorted(self._store.list_jobs(), key=lambda job: job.created_at)
        for job in jobs:
            if job.status is JobStatus.RUNNING and job.job_id not in self._processes:
                self._recover(job)
            elif job.status is JobStatus.QUEUED and self._store.is_cancelled(job.job_id):
                self._store.finish(job.job_id, JobStatus.CANCELLED)
        self._start_next([job for job in jobs if job.status is JobStatus.QUEUED])
        self._remove_old([job for job in jobs if job.status in FINISHED])
        self._clear_uploads()
        self._store.remove_unreadable()

    def _start_next(self, queued: list[Job]) -> None:
        """Start what waits, oldest first, of the client whose last start is longest ago."""
        waiting = {job.job_id: job for job in queued if not self._store.is_cancelled(job.job_id)}
        owners = {job_id: self._store.read_owner(job_id) for job_id in waiting}
        while waiting and len(self._processes) < self._at_once:
            model = self._model()
            if model is None:
                return
            job_id = min(waiting, key=lambda job_id: self._started[owners[job_id]])
            self._started[owners[job_id]] = time.monotonic()
            self._start(waiting.pop(job_id), model)

    def _remove_old(self, finished: list[Job]) -> None:
        """Remove old recordings: all but the newest of each client, and those past the kept days.

        They are counted by client, so that one cannot push out the results of another.
        """
        kept: Counter[str | None] = Counter()
        limit = datetime.now(UTC) - timedelta(days=self._kept_days)
        for job in reversed(finished):
            owner = self._store.read_owner(job.job_id)
            kept[owner] += 1
            is_old = self._kept_days > 0 and _ended_before(job, limit)
            if is_old or kept[owner] > self._kept:
                self._store.remove(job.job_id)

    def _recover(self, job: Job) -> None:
        """Go on with a job that runs by its state, and that no process of ours works on.

        The process that worked on the queue ended meanwhile, or the disk was full when the end of
        the analysis was to be noted.
        """
        if self._store.is_cancelled(job.job_id):
            self._store.finish(job.job_id, JobStatus.CANCELLED)
        elif (self._store.directory_of(job.job_id) / OUTCOME).exists():
            self._conclude(job.job_id, 0)
        elif job.attempts >= _MAX_ATTEMPTS:
            detail = f"the analysis was cut off {job.attempts} times"
            self._fail(job.job_id, ProblemError(CRASHED, detail))
        else:
            _logger.info("recording %s was cut off and is analysed again", job.job_id)
            self._store.update(job.job_id, status=JobStatus.QUEUED)

    def _start(self, job: Job, model: LoadedModel) -> None:
        directory = self._store.directory_of(job.job_id)
        for left in (OUTCOME, PROGRESS):
            (directory / left).unlink(missing_ok=True)
        try:
            task = json.loads((directory / TASK).read_bytes())
        except (FileNotFoundError, ValueError):
            detail = "the description of the analysis cannot be read any more"
            self._fail(job.job_id, ProblemError(CRASHED, detail))
            return
        task |= {"bundle": str(model.bundle.directory), "model": model.info}
        write_json(directory / TASK, task)
        try:
            source = self._prepare_code(model)
        except SignatureError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
                raise cause from error  # nothing says that the code has changed: tried again
            _logger.error("recording %s is not analysed: %s", job.job_id, error)  # noqa: TRY400  its text is whole
            detail = "the code of the service has changed on its disk; its operator must restore it"
            self._fail(job.job_id, ProblemError(CRASHED, detail))
            return
        self._store.update(job.job_id, status=JobStatus.RUNNING, attempts=job.attempts + 1)
        try:
            process = _start_process(directory, source=source)
        except OSError:  # no memory or process left: not counted as an attempt
            self._store.update(job.job_id, status=JobStatus.QUEUED, attempts=job.attempts)
            raise
        self._processes[job.job_id] = (process, time.monotonic())

    def _prepare_code(self, model: LoadedModel) -> Path:
        """Check the code of the model's release, which may have changed since this process started.

        It is the code of this process, maybe in another bento: a worker goes on when the next
        release has the same code. A model without a release has the code of this process.

        Raises
        ------
        SignatureError
            If it is not the code that was signed.

        """
        if model.release is None:
            return _CODE_ROOT
        prepare_code(self._settings, model.release)
        return bento_source(self._settings.bentoml_home, model.release)

    def _check_process(self, job_id: str) -> None:
        process, started_s = self._processes[job_id]
        if self._store.is_cancelled(job_id):
            self._end_process(job_id)
            self._store.finish(job_id, JobStatus.CANCELLED)
        elif process.poll() is not None:
            self._end_process(job_id)
            self._conclude(job_id, process.returncode)
        elif time.monotonic() - started_s > MAX_ANALYSIS_S:
            self._end_process(job_id)
            detail = f"an analysis must end within {MAX_ANALYSIS_S:g} s, this one did not"
            self._fail(job_id, ProblemError(TOOK_TOO_LONG, detail))

    def _end_process(self, job_id: str) -> None:
        process, _ = self._processes.pop(job_id)
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def _conclude(self, job_id: str, status: int) -> None:
        try:
            outcome = self._store.directory_of(job_id) / OUTCOME
            error = json.loads(outcome.read_bytes())["error"]
        except (OSError, ValueError, KeyError):
            _logger.error("the analysis of recording %s ended with status %d", job_id, status)  # noqa: TRY400  its own log says more
            detail = "the process that analysed the recording ended before it was done"
            self._fail(job_id, ProblemError(CRASHED, detail))
            return
        if error is None:
            self._store.finish(job_id, JobStatus.DONE)
            self._note_pieces(job_id)
            return
        problem = explain_outcome(error)
        if problem.kind is CRASHED:
            _logger.error(
                "the analysis of recording %s failed: %s: %s",
                job_id,
                error["class"],
                error["message"],
            )
        self._fail(job_id, problem)

    def _note_pieces(self, job_id: str) -> None:
        """Hand on what monitoring looks at; code of an earlier release has left nothing."""
        directory, job = self._store.directory_of(job_id), self._store.read(job_id)
        if job is None or not (directory / OBSERVED).exists():
            return
        found = json.loads((directory / OBSERVED).read_bytes())
        model = json.loads((directory / TASK).read_bytes())["model"]
        if not found["pieces"]:
            return
        owner = self._store.read_owner(job_id)
        is_refused = 2 * found["refused"] > found["pieces"]
        self._note(
            RequestRow(
                request_id=job_id,
                created_at=datetime.now(UTC),
                bundle_hash=model["bundle_hash"],
                bento_tag=model["bento_tag"],
                duration_s=job.duration_s or 0.0,
                refused=UNREADABLE_RECORDING if is_refused else None,
                # Recordings without a key are taken for those of one person.
                client=f"recordings {owner or ''}".strip(),
                owner=owner,
                slices={
                    # The file's own words may be anybody's name.
                    "lead": (lead_of(job.lead) or "other").upper(),
                    "rate": f"{job.sampling_rate:g} Hz",
                    "device": f"{job.kind} file",
                    **({"key": owner} if owner else {}),
                },
                observed=None if is_refused else found["observed"],
            )
        )

    def _fail(self, job_id: str, problem: ProblemError) -> None:
        self._store.finish(job_id, JobStatus.FAILED, problem.describe())

    def _clear_uploads(self) -> None:
        """Remove what uploads left that a killed process was taking."""
        incoming = self._store.home / INCOMING
        if not incoming.exists():
            return
        for directory in incoming.iterdir():
            # One whose process has just made it may not be locked yet.
            for path in list_uploads(directory) if is_locked(directory) else [directory]:
                with suppress(FileNotFoundError):
                    if time.time() - _last_changed_s(path) > _STALE_UPLOAD_S:
                        shutil.rmtree(path, ignore_errors=True)


def _start_process(directory: Path, *, source: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "bentos.recordings.process", str(directory)],
        # Its end is the sign that this process has ended.
        stdin=subprocess.PIPE,
        env=environment_with(source),
        process_group=0,  # Ctrl-C in a terminal ends the service, which then ends it
    )
    lower_priority(process.pid)
    return process


def _ended_before(job: Job, limit: datetime) -> bool:
    return job.finished_at is not None and datetime.fromisoformat(job.finished_at) < limit


def _last_changed_s(upload: Path) -> float:
    """When an upload grew last: the time of a directory stays while a file in it grows."""
    return max(path.stat().st_mtime for path in (upload, *upload.rglob("*")))


def explain_outcome(error: dict[str, Any]) -> ProblemError:
    """Turn the error that a process noted into a problem."""
    if error["class"] == "MemoryError":
        return ProblemError(TOO_MUCH_MEMORY, "the recording needs more memory than there is")
    leaf = getattr(errors, error["class"], errors.EcgError)
    if leaf is errors.MissingDetailError:
        return explain_file_error(leaf(error["message"], detail=error["detail"]))
    return explain_file_error(leaf(error["message"]))
