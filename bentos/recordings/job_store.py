"""Recordings as directories on disk: their files, their state, and what is removed.

Every process of the service reads and writes here (:mod:`bentos.recordings.job_queue`), the one
that analyses (:mod:`bentos.recordings.job_runner`) and the processes that it starts
(:mod:`bentos.recordings.process`) too. Everything is in files, so that a restart finds it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from ecg_lib.records.atomic_files import write_whole

INPUT: Final = "input"
"""Directory of the recording as it was sent."""

OBSERVED: Final = "observed.json"
"""Pieces of the recording as monitoring looks at them."""

TASK: Final = "task.json"
"""The task of the process."""

PROGRESS: Final = "progress"
"""Share that is done, as text."""

OUTCOME: Final = "outcome.json"
"""How the analysis ended; missing when the process was cut off."""

RESULTS: Final = "results"
"""Directory of what was found."""

CANCEL: Final = "cancel"
"""Its presence asks for the end of the analysis."""

INCOMING: Final = ".incoming"
"""Directory of uploads, and of jobs that are being removed."""

LOCK: Final = ".owner"
"""Locked by the process that a directory belongs to."""

_STATE: Final = "state.json"
_OWNER: Final = "owner"
_GONE: Final = ".gone"
_JOB_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UNREADABLE_S: Final = 3600.0
"""Time to go back to the version that wrote a job before the job is removed."""

_logger = logging.getLogger(__name__)


class JobStatus(StrEnum):
    """How far a recording is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINISHED: Final = frozenset({JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED})


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


class JobStore:
    """All recordings below a directory.

    Parameters
    ----------
    home : Path

    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._unreadable: dict[str, float] = {}  # when each was noticed

    def directory_of(self, job_id: str) -> Path:
        """Return the directory of a job."""
        return self.home / job_id

    def is_cancelled(self, job_id: str) -> bool:
        """Return whether the end of a job was asked for."""
        return (self.home / job_id / CANCEL).exists()

    def find(self, job_id: str) -> Job | None:
        """Read a job as a client sees it; None when there is none."""
        job = self.read(job_id) if _JOB_ID.fullmatch(job_id) else None
        if job is None:
            return None
        if job.status not in FINISHED and self.is_cancelled(job_id):
            return replace(job, status=JobStatus.CANCELLED)
        if job.status is JobStatus.RUNNING:
            with suppress(OSError, ValueError):
                progress = float((self.home / job_id / PROGRESS).read_text(encoding="ascii"))
                return replace(job, progress=min(max(progress, 0.0), 1.0))
        return job

    def list_jobs(self) -> Iterator[Job]:
        """Read all jobs, in no order."""
        if not self.home.exists():
            return
        for path in self.home.iterdir():
            job = self.read(path.name) if _JOB_ID.fullmatch(path.name) else None
            if job is not None:
                yield job

    def read(self, job_id: str) -> Job | None:
        """Read a job; None when there is none, or it was written by another version or cut off."""
        directory = self.home / job_id
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

    def read_owner(self, job_id: str) -> str | None:
        """Read who sent a job; None when it was sent without a key."""
        # A file of its own: an older version could not read a job whose state has another field.
        try:
            return (self.home / job_id / _OWNER).read_text(encoding="ascii")
        except FileNotFoundError:
            return None

    def add(self, job: Job, upload: Path, *, task: dict[str, Any], owner: str | None) -> Path:
        """Lay a job out beside its upload, which becomes part of it; return where.

        It is a job only when :meth:`publish` has moved it.
        """
        draft = upload.with_name(f"{upload.name}.job")
        draft.mkdir(mode=0o700)
        try:
            upload.rename(draft / INPUT)
            write_json(draft / TASK, task)
            write_json(draft / _STATE, asdict(job))
            if owner is not None:
                write_whole(draft / _OWNER, owner)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return draft

    def publish(self, job: Job, draft: Path) -> None:
        """Make a job of what :meth:`add` laid out."""
        draft.rename(self.home / job.job_id)

    def update(self, job_id: str, **changes: Any) -> None:  # noqa: ANN401  fields of Job
        """Change fields of a job, if it still exists."""
        job = self.read(job_id)
        if job is not None:
            write_json(self.home / job_id / _STATE, asdict(replace(job, **changes)))

    def finish(
        self, job_id: str, status: JobStatus, problem: dict[str, object] | None = None
    ) -> None:
        """Note the end of a job, and remove its input and results that are not whole."""
        directory = self.home / job_id
        shutil.rmtree(directory / INPUT, ignore_errors=True)
        if status is not JobStatus.DONE:
            shutil.rmtree(directory / RESULTS, ignore_errors=True)
        self.update(
            job_id,
            status=status,
            finished_at=now_as_text(),
            progress=1.0 if status is JobStatus.DONE else 0.0,
            error=problem,
        )

    def remove(self, job_id: str) -> None:
        """Remove a job and its files."""
        # Renamed first, so that nobody sees half a job.
        gone = self.home / INCOMING / f"{job_id}{_GONE}"
        with suppress(FileNotFoundError):
            gone.parent.mkdir(exist_ok=True)
            (self.home / job_id).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def remove_unreadable(self) -> None:
        """Remove jobs that could not be read for long: no list has them, so nothing else would."""
        for job_id, noticed_s in list(self._unreadable.items()):
            if time.monotonic() - noticed_s > _UNREADABLE_S:
                self.remove(job_id)
                self._unreadable.pop(job_id, None)
                _logger.error("recording %s, which cannot be read, is removed", job_id)

    def live_uploads(self) -> Iterator[Path]:
        """Give the uploads that come to processes which are alive."""
        incoming = self.home / INCOMING
        if incoming.exists():
            for directory in incoming.iterdir():
                if is_locked(directory):
                    yield from list_uploads(directory)


def list_uploads(directory: Path) -> list[Path]:
    """List the uploads that come to one process."""
    return [path for path in directory.iterdir() if path.is_dir()]


def is_locked(directory: Path) -> bool:
    """Return whether the process that a directory belongs to is alive."""
    try:
        file = os.open(directory / LOCK, os.O_RDONLY)
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


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file of a job."""
    write_whole(path, json.dumps(content))


def now_as_text() -> str:
    """Return the time as jobs state it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
