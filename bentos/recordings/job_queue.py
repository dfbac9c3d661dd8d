"""The queue of recordings: send one, see how far it is, find its results, delete it.

Every process of the service does this. One of them analyses what waits
(:mod:`bentos.recordings.job_runner`).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from bentos.recordings.job_store import (
    CANCEL,
    FINISHED,
    INCOMING,
    LOCK,
    RESULTS,
    Job,
    JobStatus,
    JobStore,
    now_as_text,
)
from bentos.recordings.uploads import MAX_UPLOAD_BYTES, RETRY_S, Recording, explain_no_room
from bentos.runtime.limits.caller import SERVICE_ITSELF, Caller
from bentos.wire.problems import (
    NO_RESULT,
    NOT_FINISHED,
    QUEUE_FULL,
    UNKNOWN_RECORDING,
    ProblemError,
)
from ecg_lib.operations.settings import Settings
from ecg_lib.records.atomic_files import LEAST_FREE_BYTES

_RESERVED: Final = ".reserved-"
"""Prefix of the name of a file that states how much an upload may still write, and its owner."""

_LOOK: Final = ".look"
"""Name of a file that marks an upload which is only looked at."""


class JobQueue:
    """The recordings that wait, are analysed or are done.

    Parameters
    ----------
    store : JobStore
    settings : Settings
    wake : callable
        Called when there is something to do.

    """

    def __init__(
        self, store: JobStore, settings: Settings, *, wake: Callable[[], object] = lambda: None
    ) -> None:
        self._store = store
        self._places = settings.recordings_waiting
        self._own_places = max(1, settings.recordings_waiting // 2)
        self._wake = wake
        self._taking = threading.Lock()
        self._uploads: Path | None = None
        self._uploads_lock: int | None = None

    def close(self) -> None:
        """Give back the directory of uploads."""
        if self._uploads_lock is not None:
            os.close(self._uploads_lock)
        self._uploads = self._uploads_lock = None

    def open_upload(
        self,
        announced_bytes: int | None,
        caller: Caller = SERVICE_ITSELF,
        *,
        is_kept: bool = True,
    ) -> Path:
        """Make a directory for an upload, when there is room for it.

        Parameters
        ----------
        announced_bytes : int or None
            The size, where the client states it; else as much as is allowed is reserved.
        caller : Caller
        is_kept : bool
            False for a file that is only looked at: it takes no place of a recording.

        Raises
        ------
        ProblemError
            If too many recordings wait, or the disk is full.

        """
        with self._taking:
            uploads = self._open_uploads()
            coming = list(self._store.live_uploads())
            if is_kept:
                self._require_place(caller, [one for one in coming if not (one / _LOOK).exists()])
            wanted = MAX_UPLOAD_BYTES if announced_bytes is None else announced_bytes
            outstanding = sum(map(_outstanding_bytes, coming))
            if shutil.disk_usage(self._store.home).free < outstanding + wanted + LEAST_FREE_BYTES:
                raise explain_no_room()
            directory = uploads / str(uuid.uuid4())
            directory.mkdir(mode=0o700)
            if not is_kept:
                (directory / _LOOK).touch(mode=0o600)
            (directory / f"{_RESERVED}{wanted}-{caller.owner or ''}").touch(mode=0o600)
        return directory

    def _open_uploads(self) -> Path:
        """Make the directory of uploads to this process, locked as long as the process lives."""
        if self._uploads is None or not self._uploads.exists():
            self.close()
            directory = self._store.home / INCOMING / str(uuid.uuid4())
            directory.mkdir(parents=True, mode=0o700)
            self._uploads_lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._uploads_lock, fcntl.LOCK_EX)
            self._uploads = directory
        return self._uploads

    def _require_place(self, caller: Caller, coming: list[Path]) -> None:
        waiting = [job for job in self._store.list_jobs() if job.status not in FINISHED]
        if len(waiting) + len(coming) >= self._places:
            raise ProblemError(
                QUEUE_FULL,
                f"at most {self._places} recordings may be sent or wait at a time; try again later",
                retry_after_s=RETRY_S,
            )
        if caller.owner is None:
            return
        own = sum(self._store.read_owner(job.job_id) == caller.owner for job in waiting)
        own += sum(_owner_of(upload) == caller.owner for upload in coming)
        if own >= self._own_places:
            raise ProblemError(
                QUEUE_FULL,
                f"at most {self._own_places} recordings of one key may be sent or wait at a time; "
                "try again later",
                retry_after_s=RETRY_S,
            )

    def add(self, recording: Recording, caller: Caller = SERVICE_ITSELF) -> Job:
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
            created_at=now_as_text(),
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
            "more_parts": [str(part.relative_to(upload)) for part in recording.more_parts],
            "lead": lead.name,
            "second_lead": recording.second_lead,
            "warnings": list(recording.warnings),
            "sampling_rate": fields.sampling_rate,
            "unit": fields.unit,
        }
        for reserved in upload.glob(f"{_RESERVED}*"):
            reserved.unlink()
        draft = self._store.add(job, upload, task=task, owner=caller.owner)
        try:
            with self._taking:
                # Other processes take recordings at the same time.
                self._require_place(caller, [])
                self._store.publish(job, draft)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        self._wake()
        return job

    def count_jobs(self) -> dict[str, int]:
        """Count the recordings by status, whosever they are."""
        found = Counter(job.status.value for job in self._store.list_jobs())
        return {status.value: found[status.value] for status in JobStatus}

    def find(self, job_id: str, caller: Caller = SERVICE_ITSELF) -> Job:
        """Find a job.

        Raises
        ------
        ProblemError
            If there is none, or it is not the caller's.

        """
        job = self._store.find(job_id)
        if job is None or not caller.sees(self._store.read_owner(job_id)):
            raise ProblemError(UNKNOWN_RECORDING, "no recording has this job_id")
        return job

    def find_results(self, job_id: str, caller: Caller = SERVICE_ITSELF) -> Path:
        """Find the directory with the results of a job that is done.

        Raises
        ------
        ProblemError
            If there is no such job of the caller, or no result of it.

        """
        job = self.find(job_id, caller)
        if job.status is JobStatus.DONE:
            return self._store.directory_of(job_id) / RESULTS
        if job.status in FINISHED:
            raise ProblemError(NO_RESULT, f"the recording is {job.status}: it has no result")
        raise ProblemError(
            NOT_FINISHED,
            f"the recording is {job.status}, {job.progress:.0%} done",
            retry_after_s=1,
        )

    def delete(self, job_id: str, caller: Caller = SERVICE_ITSELF) -> Job | None:
        """Cancel a job that is not finished, or remove one that is; None when it was removed.

        Raises
        ------
        ProblemError
            If there is no such job of the caller.

        """
        job = self.find(job_id, caller)
        if job.status in FINISHED:
            self._store.remove(job_id)
            return None
        (self._store.directory_of(job_id) / CANCEL).touch()
        self._wake()
        return replace(job, status=JobStatus.CANCELLED)


def _read_reservation(upload: Path) -> tuple[int, str]:
    """Read how many bytes an upload may write in all, and whose it is."""
    for path in upload.glob(f"{_RESERVED}*"):
        size, _, owner = path.name.removeprefix(_RESERVED).partition("-")
        return int(size), owner
    return 0, ""  # it has just been made, or becomes a job


def _outstanding_bytes(upload: Path) -> int:
    """Return how much of an upload is still to be written."""
    reserved, _ = _read_reservation(upload)
    written = 0
    for path in upload.rglob("*"):
        try:
            written += path.stat().st_size
        except FileNotFoundError:
            continue
    return max(0, reserved - written)


def _owner_of(upload: Path) -> str:
    return _read_reservation(upload)[1]
