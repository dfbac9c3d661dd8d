"""Recordings that wait, are analysed, or are done: directories on disk, and who works on them.

Every process of the service takes recordings and reads results; the one that holds the lock
starts processes that analyse them (:mod:`bentos.recordings.process`). Everything is in files, so
that a restart finds what was done, and analyses again what was not. A job that a restart cut off
twice is given up.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from bentos.recordings.job_files import OUTCOME, PROGRESS, RESULTS, TASK
from bentos.recordings.uploads import RETRY_S, Recording, explain_no_room
from bentos.runtime.live_model import LoadedModel
from bentos.wire.problems import (
    CRASHED,
    NO_RESULT,
    NOT_FINISHED,
    QUEUE_FULL,
    TOO_MUCH_MEMORY,
    TOOK_TOO_LONG,
    UNKNOWN_RECORDING,
    ProblemError,
    explain_file_error,
)
from ecg_lib import errors
from ecg_lib.operations.settings import Settings
from ecg_lib.records.atomic_files import write_whole

MAX_ANALYSIS_S: Final = 3600.0

_INPUT: Final = "input"
_STATE: Final = "state.json"
_CANCEL: Final = "cancel"
_LOCK: Final = ".owner"
_INCOMING: Final = ".incoming"
_POLL_S: Final = 0.1
_MAX_ATTEMPTS: Final = 2
_FREE_BYTES: Final = 2**30
_STALE_UPLOAD_S: Final = 600.0
"""Far longer than an upload may stand still (:func:`bentos.recordings.uploads.receive_form`)."""

_UNREADABLE_S: Final = 3600.0
"""Time to go back to the version that wrote a job before the job is removed."""

_GONE: Final = ".gone"
_JOB_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CODE_ROOT: Final = Path(__file__).parents[2]

_logger = logging.getLogger(__name__)


class JobStatus(StrEnum):
    """How far a recording is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


_FINISHED: Final = frozenset({JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A recording and how far it is."""

    job_id: str
    status: JobStatus
    progress: float
    created_at: str
    finished_at: str | None
    kind: str
    """Kind of the file."""
    lead: str
    leads: list[str]
    sampling_rate: float
    duration_s: float | None
    """Null for text, whose rows are not counted yet."""
    attempts: int
    error: dict[str, Any] | None
    """A problem, when it failed."""


class RecordingJobs:
    """All recordings below a directory.

    Parameters
    ----------
    settings : Settings
    model : callable
        Gives the model that answers now, or None.

    """

    def __init__(self, settings: Settings, *, model: Callable[[], LoadedModel | None]) -> None:
        self._home = settings.recordings_dir
        self._kept = settings.recordings_kept
        self._waiting = settings.recordings_waiting
        self._at_once = settings.recordings_at_once
        self._model = model
        self._processes: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
        self._lock_file: int | None = None
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._taking = threading.Lock()
        self._uploads: Path | None = None
        self._uploads_lock: int | None = None
        self._unreadable: dict[str, float] = {}  # when each was noticed
        self._thread = threading.Thread(target=self._run, name="recordings", daemon=True)

    def start(self) -> None:
        """Begin to work on what waits, if no other process does."""
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._thread.start()

    def close(self) -> None:
        """End what is being analysed; it is analysed again when the service is back."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        for job_id in list(self._processes):
            self._end_process(job_id)
            job = self._read(job_id)
            if job is not None:  # to be ended in order is no failed attempt
                self._update(job_id, status=JobStatus.QUEUED, attempts=job.attempts - 1)
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None
        self._close_uploads()

    # What requests do.

    def open_upload(self, announced_bytes: int) -> Path:
        """Make a directory for an upload, when there is room for it.

        Raises
        ------
        ProblemError
            If too many recordings wait, or the disk is full.

        """
        with self._taking:
            uploads = self._open_uploads()
            self._require_place(self._count_waiting() + _count_uploads(uploads.parent))
            if shutil.disk_usage(self._home).free < announced_bytes + _FREE_BYTES:
                raise explain_no_room()
            directory = uploads / str(uuid.uuid4())
            directory.mkdir(mode=0o700)
        return directory

    def _open_uploads(self) -> Path:
        """Make the directory of what comes to this process, locked as long as the process lives."""
        if self._uploads is None or not self._uploads.exists():
            self._close_uploads()
            directory = self._home / _INCOMING / str(uuid.uuid4())
            directory.mkdir(parents=True, mode=0o700)
            self._uploads_lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._uploads_lock, fcntl.LOCK_EX)
            self._uploads = directory
        return self._uploads

    def _close_uploads(self) -> None:
        if self._uploads_lock is not None:
            os.close(self._uploads_lock)
        self._uploads = self._uploads_lock = None

    def _count_waiting(self) -> int:
        return sum(job.status not in _FINISHED for job in self._list())

    def _require_place(self, taken: int) -> None:
        if taken >= self._waiting:
            raise ProblemError(
                QUEUE_FULL,
                f"at most {self._waiting} recordings may come or wait, as many do; try again later",
                retry_after_s=RETRY_S,
            )

    def add(self, recording: Recording) -> Job:
        """Queue a recording that lies in the directory of its upload.

        Raises
        ------
        ProblemError
            If too many recordings wait.

        """
        upload = recording.path.parent
        lead, fields = recording.lead, recording.fields
        job = Job(
            job_id=upload.name,
            status=JobStatus.QUEUED,
            progress=0.0,
            created_at=_now(),
            finished_at=None,
            kind=recording.kind,
            lead=lead.name,
            leads=list(recording.leads),
            sampling_rate=lead.fs,
            duration_s=None if lead.n_samples is None else lead.n_samples / lead.fs,
            attempts=0,
            error=None,
        )
        task = {
            "file": recording.path.name,
            "lead": lead.name,
            "sampling_rate": fields.sampling_rate,
            "unit": fields.unit,
        }
        draft = upload.with_name(f"{upload.name}.job")
        draft.mkdir(mode=0o700)
        try:
            upload.rename(draft / _INPUT)
            _write_json(draft / TASK, task)
            _write_json(draft / _STATE, asdict(job))
            with self._taking:
                # Other processes take recordings too, and none asks another.
                self._require_place(self._count_waiting())
                draft.rename(self._home / job.job_id)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        self._wake.set()
        return job

    def find(self, job_id: str) -> Job:
        """Find a job.

        Raises
        ------
        ProblemError
            If there is none.

        """
        job = self._read(job_id) if _JOB_ID.fullmatch(job_id) else None
        if job is None:
            raise ProblemError(UNKNOWN_RECORDING, "no recording has this job_id")
        directory = self._home / job_id
        if job.status not in _FINISHED and (directory / _CANCEL).exists():
            return replace(job, status=JobStatus.CANCELLED)
        if job.status is JobStatus.RUNNING:
            with suppress(OSError, ValueError):
                progress = float((directory / PROGRESS).read_text(encoding="ascii"))
                return replace(job, progress=min(max(progress, 0.0), 1.0))
        return job

    def find_results(self, job_id: str) -> Path:
        """Find the directory with the results of a job that is done.

        Raises
        ------
        ProblemError
            If there is no such job, or no result of it.

        """
        job = self.find(job_id)
        if job.status is JobStatus.DONE:
            return self._home / job_id / RESULTS
        if job.status in _FINISHED:
            raise ProblemError(NO_RESULT, f"the recording is {job.status}: it has no result")
        raise ProblemError(
            NOT_FINISHED,
            f"the recording is {job.status}, {job.progress:.0%} done",
            retry_after_s=1,
        )

    def delete(self, job_id: str) -> Job | None:
        """Cancel a job that is not finished, or remove one that is; None when it was removed.

        Raises
        ------
        ProblemError
            If there is no such job.

        """
        job = self.find(job_id)
        if job.status in _FINISHED:
            self._remove(job_id)
            return None
        (self._home / job_id / _CANCEL).touch()
        self._wake.set()
        return replace(job, status=JobStatus.CANCELLED)

    # What the process that holds the lock does.

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._owns():
                    self._work()
            except OSError:
                _logger.exception("recordings cannot be worked on now")
                self._stop.wait(1.0)
            self._wake.wait(_POLL_S if self._processes else 5 * _POLL_S)
            self._wake.clear()

    def _owns(self) -> bool:
        if self._lock_file is not None:
            return True
        file = os.open(self._home / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._lock_file = file
        return True

    def _work(self) -> None:
        for job_id in list(self._processes):
            self._look_after(job_id)
        jobs = sorted(self._list(), key=lambda job: job.created_at)
        for job in jobs:
            if job.status is JobStatus.RUNNING and job.job_id not in self._processes:
                self._recover(job)
            if job.status is not JobStatus.QUEUED:
                continue
            if (self._home / job.job_id / _CANCEL).exists():
                self._finish(job.job_id, JobStatus.CANCELLED)
            elif len(self._processes) < self._at_once and (model := self._model()) is not None:
                self._start(job, model)
        finished = [job.job_id for job in jobs if job.status in _FINISHED]
        for job_id in finished[: -self._kept]:
            self._remove(job_id)
        self._clear_uploads()
        self._clear_unreadable()

    def _recover(self, job: Job) -> None:
        """Go on with a job that runs by its state, and that no process of ours works on.

        The process that worked on the queue ended meanwhile, or the disk was full when the end of
        the analysis was to be noted.
        """
        directory = self._home / job.job_id
        if (directory / _CANCEL).exists():
            self._finish(job.job_id, JobStatus.CANCELLED)
        elif (directory / OUTCOME).exists():
            self._conclude(job.job_id, 0)
        elif job.attempts >= _MAX_ATTEMPTS:
            detail = f"the analysis was cut off {job.attempts} times"
            self._finish(job.job_id, JobStatus.FAILED, ProblemError(CRASHED, detail))
        else:
            _logger.info("recording %s was cut off and is analysed again", job.job_id)
            self._update(job.job_id, status=JobStatus.QUEUED)

    def _start(self, job: Job, model: LoadedModel) -> None:
        directory = self._home / job.job_id
        for left in (OUTCOME, PROGRESS):
            (directory / left).unlink(missing_ok=True)
        try:
            task = json.loads((directory / TASK).read_bytes())
        except (FileNotFoundError, ValueError):
            detail = "what is to be analysed cannot be read any more"
            self._finish(job.job_id, JobStatus.FAILED, ProblemError(CRASHED, detail))
            return
        task |= {"bundle": str(model.bundle.directory), "model": model.info}
        _write_json(directory / TASK, task)
        self._update(job.job_id, status=JobStatus.RUNNING, attempts=job.attempts + 1)
        try:
            process = _start_process(directory)
        except OSError:  # no memory or process left: no attempt
            self._update(job.job_id, status=JobStatus.QUEUED, attempts=job.attempts)
            raise
        self._processes[job.job_id] = (process, time.monotonic())

    def _look_after(self, job_id: str) -> None:
        process, started_s = self._processes[job_id]
        if (self._home / job_id / _CANCEL).exists():
            self._end_process(job_id)
            self._finish(job_id, JobStatus.CANCELLED)
        elif process.poll() is not None:
            self._end_process(job_id)
            self._conclude(job_id, process.returncode)
        elif time.monotonic() - started_s > MAX_ANALYSIS_S:
            self._end_process(job_id)
            detail = f"an analysis must end within {MAX_ANALYSIS_S:g} s, this one did not"
            self._finish(job_id, JobStatus.FAILED, ProblemError(TOOK_TOO_LONG, detail))

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
            error = json.loads((self._home / job_id / OUTCOME).read_bytes())["error"]
        except (OSError, ValueError, KeyError):
            _logger.error("the analysis of recording %s ended with status %d", job_id, status)  # noqa: TRY400  its own log says more
            detail = "the process that analysed the recording ended before it was done"
            self._finish(job_id, JobStatus.FAILED, ProblemError(CRASHED, detail))
            return
        if error is None:
            self._finish(job_id, JobStatus.DONE)
            return
        problem = _explain(error)
        if problem.kind is CRASHED:
            _logger.error(
                "the analysis of recording %s failed: %s: %s",
                job_id,
                error["class"],
                error["message"],
            )
        self._finish(job_id, JobStatus.FAILED, problem)

    def _finish(self, job_id: str, status: JobStatus, problem: ProblemError | None = None) -> None:
        directory = self._home / job_id
        # What was sent is not needed any more, nor are results that are not whole.
        shutil.rmtree(directory / _INPUT, ignore_errors=True)
        if status is not JobStatus.DONE:
            shutil.rmtree(directory / RESULTS, ignore_errors=True)
        self._update(
            job_id,
            status=status,
            finished_at=_now(),
            progress=1.0 if status is JobStatus.DONE else 0.0,
            error=problem.describe() if problem else None,
        )

    def _update(self, job_id: str, **changes: Any) -> None:  # noqa: ANN401  fields of Job
        job = self._read(job_id)
        if job is not None:
            _write_json(self._home / job_id / _STATE, asdict(replace(job, **changes)))

    def _remove(self, job_id: str) -> None:
        # Renamed first: half a job is none.
        gone = self._home / _INCOMING / f"{job_id}{_GONE}"
        with suppress(FileNotFoundError):
            gone.parent.mkdir(exist_ok=True)
            (self._home / job_id).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _clear_uploads(self) -> None:
        """Remove what uploads left that a killed process was taking."""
        incoming = self._home / _INCOMING
        if not incoming.exists():
            return
        for directory in incoming.iterdir():
            # One whose process has just made it may not be locked yet.
            for path in _list_uploads(directory) if _is_locked(directory) else [directory]:
                with suppress(FileNotFoundError):
                    if time.time() - _last_changed_s(path) > _STALE_UPLOAD_S:
                        shutil.rmtree(path, ignore_errors=True)

    def _clear_unreadable(self) -> None:
        """Remove jobs that could not be read for long: no list has them, so nobody else would."""
        for job_id, noticed_s in list(self._unreadable.items()):
            if time.monotonic() - noticed_s > _UNREADABLE_S:
                self._remove(job_id)
                self._unreadable.pop(job_id, None)
                _logger.error("recording %s, which cannot be read, is removed", job_id)

    def _list(self) -> Iterator[Job]:
        if not self._home.exists():
            return
        for path in self._home.iterdir():
            job = self._read(path.name) if _JOB_ID.fullmatch(path.name) else None
            if job is not None:
                yield job

    def _read(self, job_id: str) -> Job | None:
        """Read a job; None when there is none, or it was written by another version or cut off."""
        directory = self._home / job_id
        try:
            fields = json.loads((directory / _STATE).read_bytes())
            job = Job(**{**fields, "status": JobStatus(fields["status"])})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            if job_id not in self._unreadable and directory.exists():
                self._unreadable[job_id] = time.monotonic()
                _logger.error("the state of recording %s cannot be read", job_id)  # noqa: TRY400  once, and no value of it
            return None
        self._unreadable.pop(job_id, None)
        return job


def _start_process(directory: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "bentos.recordings.process", str(directory)],
        # Its end is the sign that this process has ended.
        stdin=subprocess.PIPE,
        env={
            **os.environ,
            "PYTHONPATH": str(_CODE_ROOT),
            # Parts are worked on by threads of our own.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
        start_new_session=True,
    )


def _count_uploads(incoming: Path) -> int:
    """Count the uploads to processes that live."""
    return sum(len(_list_uploads(path)) for path in incoming.iterdir() if _is_locked(path))


def _list_uploads(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.name != _LOCK]


def _is_locked(directory: Path) -> bool:
    try:
        file = os.open(directory / _LOCK, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        # Shared: others who look at the same time are not taken for its owner.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _last_changed_s(upload: Path) -> float:
    """When an upload grew last: the time of a directory stays while a file in it grows."""
    return max(path.stat().st_mtime for path in (upload, *upload.rglob("*")))


def _explain(error: dict[str, Any]) -> ProblemError:
    """Turn the end of a process into a problem."""
    if error["class"] == "MemoryError":
        return ProblemError(TOO_MUCH_MEMORY, "the recording needs more memory than there is")
    leaf = getattr(errors, error["class"], errors.EcgError)
    if leaf is errors.MissingDetailError:
        return explain_file_error(leaf(error["message"], detail=error["detail"]))
    return explain_file_error(leaf(error["message"]))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
