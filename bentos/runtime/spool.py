"""The spool: answers go to a file first, and from there into the prediction log.

Each process appends to a file of its own, which it locks. A thread writes what is there into the
log and empties the file. A log that is slow, locked or gone delays no answer, and a process that
is killed loses none: the file stays, unlocked, and the next process writes it. Rows have ids, so
a row that is written twice is stored once. While the disk is full, rows wait in memory, as many as
fit; those that do not are counted as lost.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from ecg_lib.errors import PredictionLogError
from ecg_lib.operations.learning.labels import read_marks, write_marks
from ecg_lib.operations.learning.rollout.comparison import Comparison, ComparisonRow
from ecg_lib.operations.prediction_rows import FeedbackRow, PredictionRow, RequestRow

if TYPE_CHECKING:
    from ecg_lib.operations.prediction_log import PredictionLog

_BATCH_ROWS: Final = 200
_MAX_IN_MEMORY: Final = 1000
_FREE_BYTES: Final = 256 * 2**20
"""Room on the disk that stored predictions leave to everything else."""

_COLLECT_S: Final = 1.0
_LOOK_S: Final = 2.0
_LONGEST_WAIT_S: Final = 10.0
_CLOSE_S: Final = 2.0
_PREDICTION_START: Final = b'{"prediction":{"prediction_id":"%s"'
_FEEDBACK_START: Final = b'{"feedback":'

_logger = logging.getLogger(__name__)

Row = PredictionRow | FeedbackRow | RequestRow | ComparisonRow


def encode_prediction(
    *,
    prediction_id: str,
    created_at: datetime,
    patient_key: str | None,
    bundle_hash: str,
    bento_tag: str,
    duration_s: float,
    response: bytes,
    observed: dict[str, NDArray[np.generic]],
    owner: str | None = None,
) -> bytes:
    """Write a prediction as a line; `response` is the JSON text that was sent."""
    return orjson.dumps(
        {
            "prediction": {
                "prediction_id": prediction_id,
                "created_at": created_at,
                "patient_key": patient_key,
                "bundle_hash": bundle_hash,
                "bento_tag": bento_tag,
                "duration_s": duration_s,
                "response": orjson.Fragment(response),
                # NaN becomes null.
                "observed": {name: column.tolist() for name, column in observed.items()},
                # An older version, which may write this row, knows no owner.
                **({} if owner is None else {"owner": owner}),
            }
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


def encode_request(row: RequestRow) -> bytes:
    """Write where a request came from as a line.

    Not in the line of its prediction: an older version, which may write that row, knows no such
    fields, and leaves out a line of a kind that it does not know.
    """
    return orjson.dumps({"request": row}, option=orjson.OPT_APPEND_NEWLINE)


def encode_comparison(row: ComparisonRow) -> bytes:
    """Write a comparison with a candidate as a line."""
    return orjson.dumps({"comparison": row}, option=orjson.OPT_APPEND_NEWLINE)


def encode_feedback(row: FeedbackRow) -> bytes:
    """Write feedback as a line."""
    return orjson.dumps(
        {
            "feedback": {
                "feedback_id": row.feedback_id,
                "created_at": row.created_at,
                "prediction_id": row.prediction_id,
                "annotator": row.annotator,
                "labels": row.labels,
                **({} if row.owner is None else {"owner": row.owner}),
                **write_marks(row),
            }
        },
        option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS,
    )


def decode_row(line: bytes) -> Row:
    """Read a line.

    Raises
    ------
    ValueError
        If it is not a row.

    """
    try:
        ((kind, fields),) = orjson.loads(line).items()
        fields["created_at"] = datetime.fromisoformat(fields["created_at"])
        if kind == "prediction":
            return PredictionRow(**fields)
        if kind == "request":
            return RequestRow(**fields)
        if kind == "comparison":
            if (found := fields["comparison"]) is not None:
                disagreements = tuple(found.pop("disagreements"))
                fields["comparison"] = Comparison(**found, disagreements=disagreements)
            return ComparisonRow(**fields)
        fields["labels"] = {int(beat): label for beat, label in fields["labels"].items()}
        return FeedbackRow(**read_marks(fields))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"a line of the spool must be a row, got {len(line)} bytes of something else"
        raise ValueError(msg) from error


class Spool:
    """The spool file of this process, and the thread that writes it into the log.

    Parameters
    ----------
    directory : Path
        Where all processes have their files.
    open_log : callable
        Gives the prediction log; not called before there is a row.
    shares_disk : bool
        True when the log may be on the disk of the spool, so that it stops where room is low.

    """

    def __init__(
        self, directory: Path, open_log: Callable[[], PredictionLog], *, shares_disk: bool = True
    ) -> None:
        self.lost = 0
        """Rows that could be kept nowhere."""
        self._problem: str | None = None
        self._directory = directory
        self._open_log = open_log
        self._shares_disk = shares_disk
        self._has_tables = False
        self._path, self._file = _create_file(directory)
        self._size = 0
        self._waiting: dict[str, tuple[int, int]] = {}  # id -> offset and length in the file
        self._in_memory: dict[str, bytes] = {}  # when the disk is full
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)

    @property
    def problem(self) -> str | None:
        """Why the log cannot be written now."""
        is_dead = self._thread.ident is not None and not self._thread.is_alive()
        if is_dead and not self._stop.is_set():
            return "the thread that writes the log has ended; rows wait for a restart"
        return self._problem

    def start(self) -> None:
        """Begin to write into the log; first what an older version could not read."""
        for path in self._directory.glob("*.broken"):
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                path.rename(path.with_suffix(".jsonl"))
        self._thread.start()

    def append(self, row_id: str, line: bytes) -> None:
        """Keep a row; when this returns, the row survives the end of the process.

        Lines that belong together count as one row, of which the first is found again.
        """
        with self._lock:
            try:
                self._write(row_id, line)
            except OSError as error:
                self._keep_in_memory(row_id, line, error)
        self._wake.set()

    def find_prediction(self, prediction_id: str) -> PredictionRow | None:
        """Find a prediction that waits to be written, here or in another process."""
        with self._lock:
            line = self._read(prediction_id)
        line = line or self._find_elsewhere(prediction_id)
        if line is None:
            return None
        row = decode_row(line.partition(b"\n")[0])
        return row if isinstance(row, PredictionRow) else None

    def find_feedback(self, subject_id: str) -> list[FeedbackRow]:
        """Find the feedback that waits, in any process, by its id or by that of its subject."""
        wanted = subject_id.encode()
        with self._lock:
            lines = [line for line in self._in_memory.values() if wanted in line]
        for path in self._directory.glob("*.jsonl"):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                lines += [
                    line
                    for line in file
                    if line.startswith(_FEEDBACK_START) and wanted in line and line.endswith(b"\n")
                ]
        rows = [decode_row(line) for line in lines if line.startswith(_FEEDBACK_START)]
        return [
            row
            for row in rows
            if isinstance(row, FeedbackRow) and subject_id in {row.feedback_id, row.prediction_id}
        ]

    def __len__(self) -> int:
        """Rows that wait."""
        return len(self._waiting) + len(self._in_memory)

    def close(self) -> None:
        """Write what waits if the log takes it soon; what it does not take stays in the file."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_CLOSE_S)
        if not self._thread.is_alive():
            with self._lock:
                if not self._waiting:
                    self._path.unlink(missing_ok=True)
                os.close(self._file)

    def drain(self) -> bool:
        """Write all that waits into the log, and what processes that ended have left.

        Returns
        -------
        bool
            True when rows of this process were written.

        Raises
        ------
        PredictionLogError
            If the log cannot be written; what is not written waits on.

        """
        if len(self) and self._shares_disk and self._is_disk_low():
            msg = f"less than {_FREE_BYTES} bytes of the disk are free: rows wait"
            raise PredictionLogError(msg)
        has_written = False
        while batch := self._next_batch():
            self._store(decode_row(line) for lines in batch.values() for line in lines.splitlines())
            self._forget(batch)
            has_written = True
        for path in sorted(self._directory.glob("*.jsonl")):
            if path != self._path:
                self._adopt(path)
        return has_written

    def _run(self) -> None:
        wait_s, has_written = 0.0, False
        while True:
            is_last = self._stop.is_set()
            try:
                has_written |= self.drain()
                self._problem, wait_s = None, 0.0
            except (PredictionLogError, OSError) as error:
                problem = _explain(error)
                if self._problem is None:
                    _logger.error("%s; %d rows wait", problem, len(self))  # noqa: TRY400  once
                self._problem = problem
                # The database may be another one when it is back.
                self._has_tables = False
                wait_s = min(_LONGEST_WAIT_S, 2 * wait_s or 0.25)
            if is_last:
                return
            if wait_s:
                self._stop.wait(wait_s)
            elif self._wake.wait(_LOOK_S) and has_written:
                # One transaction for many rows: each costs the disk a write. The first row does
                # not wait: to open the log takes half a second, which is best over soon.
                self._stop.wait(_COLLECT_S)
            self._wake.clear()

    def _write(self, row_id: str, line: bytes) -> None:
        if self._is_disk_low():
            raise OSError(errno.ENOSPC, "less room is left than must stay free")
        written = os.write(self._file, line)
        if written < len(line):
            os.ftruncate(self._file, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._waiting[row_id] = (self._size, written)
        self._size += written

    def _is_disk_low(self) -> bool:
        disk = os.fstatvfs(self._file)
        return disk.f_bavail * disk.f_frsize < _FREE_BYTES

    def _keep_in_memory(self, row_id: str, line: bytes, error: OSError) -> None:
        if len(self._in_memory) < _MAX_IN_MEMORY:
            self._in_memory[row_id] = line
        else:
            self.lost += 1
        _logger.error("the spool cannot be written (%s); %d rows lost", error.strerror, self.lost)

    def _read(self, row_id: str) -> bytes | None:
        if row_id in self._waiting:
            offset, length = self._waiting[row_id]
            return os.pread(self._file, length, offset)
        return self._in_memory.get(row_id)

    def _find_elsewhere(self, prediction_id: str) -> bytes | None:
        """Find a row in the files of other processes, which may be emptied meanwhile."""
        start = _PREDICTION_START % prediction_id.encode()
        for path in self._directory.glob("*.jsonl"):
            if path == self._path:
                continue
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                for line in file:
                    if line.startswith(start) and line.endswith(b"\n"):
                        return line
        return None

    def _next_batch(self) -> dict[str, bytes]:
        with self._lock:
            batch = {
                row_id: os.pread(self._file, length, offset)
                for row_id, (offset, length) in islice(self._waiting.items(), _BATCH_ROWS)
            }
            return batch or dict(islice(self._in_memory.items(), _BATCH_ROWS))

    def _forget(self, row_ids: Iterable[str]) -> None:
        with self._lock:
            for row_id in row_ids:
                self._waiting.pop(row_id, None)
                self._in_memory.pop(row_id, None)
            if not self._waiting and self._size:
                os.ftruncate(self._file, 0)
                self._size = 0

    def _store(self, rows: Iterable[Row]) -> None:
        # Imported when there is a row: it takes half a second.
        from ecg_lib.operations.drift.traffic_log import add_requests  # noqa: PLC0415
        from ecg_lib.operations.learning.rollout.comparison_log import add_comparisons  # noqa: PLC0415

        together, log = list(rows), self._open_log()
        if not self._has_tables:
            log.create_tables()
            self._has_tables = True
        # One transaction: each costs the disk a write, and SQLite a connection.
        with log.open_transaction() as within:
            predictions = [row for row in together if isinstance(row, PredictionRow)]
            log.add_predictions(predictions, within=within)
            feedback = [row for row in together if isinstance(row, FeedbackRow)]
            log.add_feedback(feedback, within=within)
            requests = [row for row in together if isinstance(row, RequestRow)]
            add_requests(log, requests, within=within)
            comparisons = [row for row in together if isinstance(row, ComparisonRow)]
            add_comparisons(log, comparisons, within=within)

    def _adopt(self, path: Path) -> None:
        """Write the file of a process that has ended."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            n_rows = n_broken = 0
            for lines in _batches(file):
                rows, broken = _decode_whole(lines)
                if rows:
                    self._store(rows)
                n_rows, n_broken = n_rows + len(rows), n_broken + broken
            if n_broken:
                _logger.error("%d lines of %s are not rows; the file is kept", n_broken, path.name)
                path.replace(path.with_suffix(".broken"))
            else:
                path.unlink(missing_ok=True)
            if n_rows:
                _logger.info("%d rows of a process that ended are written", n_rows)


def _explain(error: PredictionLogError | OSError) -> str:
    # The message of the system names the path of a file, and /health shows this to everybody.
    if isinstance(error, PredictionLogError):
        return str(error)
    return f"the spool cannot be read: {error.strerror}"


def _create_file(directory: Path) -> tuple[Path, int]:
    """Create a file that is locked before others can see it."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
    draft = path.with_suffix(".new")
    file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    draft.rename(path)
    return path, file


def _batches(lines: Iterable[bytes]) -> Iterator[Sequence[bytes]]:
    iterator = iter(lines)
    while batch := list(islice(iterator, _BATCH_ROWS)):
        yield batch


def _decode_whole(lines: Sequence[bytes]) -> tuple[list[Row], int]:
    """Decode lines and count those that are not rows.

    A line without an end was being written when the process was killed: its answer was not sent.
    """
    rows: list[Row] = []
    n_broken = 0
    for line in lines:
        if not line.endswith(b"\n"):
            continue
        try:
            rows.append(decode_row(line))
        except ValueError:
            n_broken += 1
    return rows, n_broken
