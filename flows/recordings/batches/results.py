"""The rows of an output: one for each recording, in Parquet files that are partitioned by status.

::

    recordings/status=analysed/*.parquet   the figures of each recording
    recordings/status=failed/*.parquet     why each of the others could not be analysed
    results/FOLDER/NAME.json, ...          the results of a recording, as `ecg analyze` writes them
    _state/request.json                    what was asked for; a later run must ask for the same
    _state/model/                          the bundle, so that a resumed run uses no other
    _state/waiting/*.json                  rows that are not in a Parquet file yet

A worker notes a row when the recording is done, under a name that its path gives. The flow gathers
rows, writes a Parquet file of many, and only then removes those that wait. So a kill at any moment
loses no row, and a row that was written twice is known by its path.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecg_lib.classifier.bundle import Bundle, read_bundle
from ecg_lib.errors import BundleIntegrityError, ConfigurationError
from flows.recordings.batches.places import Place

ROWS_AT_ONCE: Final = 4096
"""Rows of a Parquet file at most; a million recordings are 245 files."""

RESULTS: Final = "results"
"""Folder of results, so that no folder of recordings has the place of the dataset."""

_AT_ONCE: Final = 16
"""Small files that are read at a time; a store answers each after milliseconds."""

_NAME_CHARACTERS: Final = 32


class Status(StrEnum):
    """Whether a recording was analysed."""

    ANALYSED = "analysed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The outcome of a recording. Of one that failed, figures are 0 and words empty."""

    path: str
    """Path or URL of the recording; no two rows have the same."""
    folder: str
    name: str
    n_bytes: int
    status: Status
    error: str = ""
    lead: str = ""
    duration_s: float = 0.0
    unreadable_s: float = 0.0
    beats: int = 0
    v_beats: int = 0
    runs: int = 0
    risk_level: str = ""
    warnings: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    """Files of results, as paths below the output."""
    analysis_s: float = 0.0
    """Seconds from fetching the file to its last result."""
    cpu_s: float = 0.0
    """Seconds of a processor that the analysis itself took."""
    analysed_at: str
    """UTC, ISO 8601."""
    worker: str
    """Host and process."""
    model_version: str
    bundle_hash: str


_SCHEMA: Final = pa.schema(
    [
        *((name, pa.string()) for name in ("path", "folder", "name")),
        ("n_bytes", pa.int64()),
        *((name, pa.string()) for name in ("error", "lead")),
        *((name, pa.float64()) for name in ("duration_s", "unreadable_s")),
        *((name, pa.int64()) for name in ("beats", "v_beats", "runs")),
        ("risk_level", pa.string()),
        *((name, pa.list_(pa.string())) for name in ("warnings", "results")),
        *((name, pa.float64()) for name in ("analysis_s", "cpu_s")),
        ("analysed_at", pa.timestamp("us", tz="UTC")),
        *((name, pa.string()) for name in ("worker", "model_version", "bundle_hash")),
    ]
)
"""Columns; the partition is the status."""


class Settled(NamedTuple):
    """The recordings that have a row."""

    paths: set[str]
    owners: dict[tuple[str, str], str]
    """Path of the recording that was analysed, by the folder and the name of its results."""


@dataclass(frozen=True, slots=True)
class Output:
    """The place that a run writes to."""

    place: Place

    def pin(self, request: Mapping[str, Any], bundle: Bundle, model: Mapping[str, str]) -> None:
        """Note what is asked for and the model, where nothing is noted yet.

        Raises:
            ConfigurationError: If an earlier run asked for something else.
        """
        noted = self.place.below("_state", "request.json")
        if not noted.exists():
            kept = self.place.below("_state", "model")
            kept.remove_files(kept.list_names())  # of a run that was killed here
            for path in sorted(bundle.directory.iterdir()):
                kept.below(path.name).write(path.read_bytes())
            content = {"request": request, "model": dict(model)}
            noted.write(json.dumps(content, indent=1).encode())
            return
        known = json.loads(noted.read())["request"]
        if known != dict(request):
            different = {
                name: f"{known.get(name)!r} before, {request.get(name)!r} now"
                for name in {*known, *request}
                if known.get(name) != request.get(name)
            }
            msg = (
                f"a run must ask for what earlier runs on {self.place.url} asked for, or write "
                f"elsewhere; it differs in {different}"
            )
            raise ConfigurationError(msg)

    def read_model(self) -> dict[str, str]:
        """Read the description of the model that all runs on this output use."""
        noted = json.loads(self.place.below("_state", "request.json").read())
        model: dict[str, str] = noted["model"]
        return model

    def fetch_bundle(self, scratch: Path) -> Path:
        """Give the directory of that model's bundle; that of a store is copied.

        Raises:
            BundleError: If it is not the bundle that was noted.
        """
        kept = self.place.below("_state", "model")
        directory = kept.as_path() if kept.is_local else scratch / "model"
        if not kept.is_local:
            directory.mkdir()
            for name in kept.list_names():
                kept.below(name).download(directory / name)
        expected = self.read_model()["bundle_hash"]
        if (found := read_bundle(directory).hash) != expected:
            msg = f"the bundle kept in {kept.url} must have the hash {expected}, it has {found}"
            raise BundleIntegrityError(msg)
        return directory

    def note(self, row: Row) -> None:
        """Note a row durably, for :meth:`publish`."""
        self._waiting(row.path).write(json.dumps(asdict(row)).encode())

    def find_waiting(self, path: str) -> Row | None:
        """Find the row that was noted for a recording and is not published yet."""
        noted = self._waiting(path)
        return _read_row(noted) if noted.exists() else None

    def _waiting(self, path: str) -> Place:
        return self.place.below("_state", "waiting", _file_name(path))

    def settle(self) -> Settled:
        """Publish what an earlier run left, and read which recordings have a row."""
        known = self._read_published()
        published = known.paths
        place = self.place.below("_state", "waiting")
        names = [name for name in place.list_names() if name.endswith(".json")]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            rows = list(pool.map(lambda name: _read_row(place.below(name)), names))
        place.remove_files([_file_name(row.path) for row in rows if row.path in published])
        left = [row for row in rows if row.path not in published]
        self.publish(left)
        owners = {(row.folder, row.name): row.path for row in left if row.status is Status.ANALYSED}
        return Settled(published | {row.path for row in left}, known.owners | owners)

    def publish(self, rows: Sequence[Row]) -> None:
        """Write rows that were noted as Parquet files, one a status, and remove the notes."""
        for status in Status:
            of_status = [row for row in rows if row.status is status]
            if of_status:
                stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
                name = f"{stamp}-{uuid4().hex[:8]}.parquet"
                self.place.below("recordings", f"status={status}", name).write(_encode(of_status))
        if rows:
            waiting = self.place.below("_state", "waiting")
            waiting.remove_files([_file_name(row.path) for row in rows])

    def forget_failed(self, paths: Iterable[str]) -> set[str]:
        """Remove the published rows of recordings that failed, among these paths.

        Returns:
            Paths whose rows were removed.
        """
        forgotten = pa.array(list(paths), pa.string())
        removed: set[str] = set()
        place = self.place.below("recordings", f"status={Status.FAILED}")
        for name in [name for name in place.list_names() if name.endswith(".parquet")]:
            one = place.below(name)
            table = pq.read_table(pa.BufferReader(one.read()), schema=_SCHEMA)
            is_removed = pc.is_in(table["path"], value_set=forgotten)
            removed |= set(table.filter(is_removed)["path"].to_pylist())
            kept = table.filter(pc.invert(is_removed))
            if not len(kept):
                place.remove_files([name])
            elif len(kept) < len(table):
                one.write(_write_parquet(kept))
        return removed

    def count(self) -> Totals:
        """Sum up all rows."""
        tables = {status: self._read(status, _COUNTED) for status in Status}
        analysed = tables[Status.ANALYSED]
        return Totals(
            analysed=len(analysed),
            failed=len(tables[Status.FAILED]),
            hours=_sum(analysed, "duration_s") / 3600,
            cpu_s=_sum(analysed, "cpu_s"),
        )

    def read_failures(self, limit: int) -> dict[str, str]:
        """Read why recordings failed, of so many at most."""
        table = self._read(Status.FAILED, ("path", "error")).slice(0, limit)
        return dict(zip(table["path"].to_pylist(), table["error"].to_pylist(), strict=True))

    def read_table(self, columns: Sequence[str], *, limit: int) -> list[dict[str, Any]]:
        """Read the analysed recordings of the highest risk first, as so many rows at most."""
        table = self._read(Status.ANALYSED, columns)
        rank = {"HIGH": 0, "MEDIUM": 1, "LOW": 2}
        order = sorted(
            range(len(table)), key=lambda at: rank.get(table["risk_level"][at].as_py(), 3)
        )
        rows: list[dict[str, Any]] = table.take(pa.array(order[:limit], pa.int64())).to_pylist()
        return rows

    def _read_published(self) -> Settled:
        failed = self._read(Status.FAILED, ("path",))["path"].to_pylist()
        table = self._read(Status.ANALYSED, ("path", "folder", "name"))
        paths, folders, names = (column.to_pylist() for column in table.columns)
        owners = dict(zip(zip(folders, names, strict=True), paths, strict=True))
        return Settled({*failed, *paths}, owners)

    def _read(self, status: Status, columns: Sequence[str]) -> pa.Table:
        place = self.place.below("recordings", f"status={status}")
        names = [name for name in place.list_names() if name.endswith(".parquet")]
        wanted = pa.schema([_SCHEMA.field(name) for name in columns])

        def read(name: str) -> pa.Table:
            one = place.below(name)
            with one.files.open(one.path, "rb") as file:
                return pq.read_table(file, columns=list(columns))

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return pa.concat_tables([wanted.empty_table(), *pool.map(read, names)])


_COUNTED: Final = ("duration_s", "cpu_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over all rows of an output."""

    analysed: int
    failed: int
    hours: float
    """Of ECG that was analysed."""
    cpu_s: float


def _sum(table: pa.Table, column: str) -> float:
    return float(sum(table[column].to_pylist()))


def _file_name(path: str) -> str:
    return f"{hashlib.sha256(path.encode()).hexdigest()[:_NAME_CHARACTERS]}.json"


def _read_row(place: Place) -> Row:
    values = json.loads(place.read())
    values |= {name: tuple(values[name]) for name in ("warnings", "results")}
    return Row(**{**values, "status": Status(values["status"])})


def _encode(rows: Iterable[Row]) -> bytes:
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    for row in rows:
        values = asdict(row) | {"analysed_at": datetime.fromisoformat(row.analysed_at)}
        for name, column in columns.items():
            value = values[name]
            column.append(list(value) if isinstance(value, tuple) else value)
    return _write_parquet(pa.table(columns, schema=_SCHEMA))


def _write_parquet(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    content: bytes = buffer.getvalue().to_pybytes()
    return content
