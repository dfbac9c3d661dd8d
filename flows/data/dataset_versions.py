"""Dataset versions: which records, of which content, prepared by which code, in which folds.

A version is a small JSON file named by the hash of its content. It points to the source records
(which are never copied) and to their prepared beats, one directory for each record, named by the
hash of its inputs: finished work is found again, and nothing is overwritten.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from ecg_lib.classifier.bundle import DataSource
from ecg_lib.errors import DatasetError
from ecg_lib.records.annotations import DS2, PACED, subject_of
from ecg_lib.records.atomic_files import write_whole
from ecg_lib.records.record import Record, read_wfdb
from ecg_lib.signal_path.preprocessing import PreprocessingConfig
from ecg_lib.training.datasets import assign_folds

FOLD_COUNTS: Final = (3, 5)
"""Numbers of folds that the subjects of a version are divided into."""

RECORD_FILES: Final = ("hea", "dat", "atr")
"""Extensions of the files of a record."""

PREPARING: Final = ("evaluation.prepared_views", "evaluation.beat_scoring")
"""Modules of ``ecg_lib`` that prepare a record; with all that they import, they name its files."""

CUTTING: Final = ("training.datasets",)
"""Modules that cut training beats from a record."""

TRAINING: Final = ("training.datasets", "training.cross_validation", "training.out_of_fold")
"""Modules that, with all that they import, decide what a recipe makes of a dataset."""

_LATEST: Final = "latest"


class Role(StrEnum):
    """Purpose of a record."""

    DEVELOPMENT = "development"
    """DS1, or a simulated patient: folds, training, out-of-fold figures."""
    PACED = "paced"
    """Robustness during development; no beats for training."""
    TEST = "test"
    """DS2: prepared without labels, scored by ``ecg evaluate --final`` alone."""


def role_of(record_name: str) -> Role:
    """Return the purpose of a record."""
    if record_name in DS2:
        return Role.TEST
    return Role.PACED if record_name in PACED else Role.DEVELOPMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRecord:
    """A record of a dataset version."""

    name: str
    role: Role
    files: dict[str, str]
    """SHA-256 of each source file."""
    prepared: str
    """Directory of its prepared beats, below ``datasets/records``."""
    duration_s: float
    lead: str
    annotated: dict[str, int]
    """Annotated beats of each AAMI class."""
    detected: int
    """R-peaks that were found."""
    unreadable_s: float
    found: int | None = None
    """Annotated beats with a detection, outside flutter; None for test records."""
    extra: int | None = None
    """Detections without an annotated beat; None for test records."""
    missed_v: int | None = None
    """V beats without a detection; None for test records."""

    @property
    def subject(self) -> str:
        """The person that the record is of."""
        return subject_of(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenRecord:
    """A record that is left out, with the reason."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetVersion:
    """One version of the data."""

    version: str
    """Hash of the content."""
    created_at: str
    data_source: DataSource
    source_directory: str
    """Directory of the source files when the version was made."""
    records: tuple[PreparedRecord, ...]
    broken: tuple[BrokenRecord, ...]
    folds: dict[int, dict[str, int]]
    """By number of folds, the fold of each development subject."""

    def records_of(self, role: Role) -> tuple[PreparedRecord, ...]:
        """Return the records of one role, by name."""
        return tuple(record for record in self.records if record.role is role)

    @property
    def duration_s(self) -> dict[str, float]:
        """Duration of each record in seconds."""
        return {record.name: record.duration_s for record in self.records}

    @property
    def n_missed_v(self) -> int:
        """Number of V beats of the development records that the detector missed."""
        return sum(record.missed_v or 0 for record in self.records_of(Role.DEVELOPMENT))

    def read_source(self, record: PreparedRecord) -> Record:
        """Read a source record with its annotations, after a check that it is still the same.

        Raises
        ------
        DatasetError
            If a file is missing or has changed since the version was made.

        """
        directory = Path(self.source_directory)
        found = hash_files(directory, record.name)
        if found != record.files:
            msg = (
                f"the files of record {record.name} must be those of dataset {self.version}, "
                "they are missing or have changed; run ingest-records again"
            )
            raise DatasetError(msg)
        return read_wfdb(directory / record.name, with_annotations=True)


def make_version(
    *,
    data_source: DataSource,
    source_directory: Path,
    records: Sequence[PreparedRecord],
    broken: Sequence[BrokenRecord],
) -> DatasetVersion:
    """Make a version of prepared records; the same records give the same version.

    Raises
    ------
    DatasetError
        If there are fewer development subjects than folds.

    """
    v_beats: dict[str, int] = {}
    for record in records:
        if record.role is Role.DEVELOPMENT:
            v_beats[record.subject] = v_beats.get(record.subject, 0) + record.annotated["V"]
    folds = {count: assign_folds(v_beats, n_folds=count) for count in FOLD_COUNTS}
    ordered = tuple(sorted(records, key=lambda record: record.name))
    content = json.dumps(
        {"source": data_source, "records": [asdict(record) for record in ordered], "folds": folds},
        sort_keys=True,
    )
    return DatasetVersion(
        version=hashlib.sha256(content.encode()).hexdigest()[:16],
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        data_source=data_source,
        source_directory=str(source_directory),
        records=ordered,
        broken=tuple(sorted(broken, key=lambda record: record.name)),
        folds=folds,
    )


def save_version(version: DatasetVersion, datasets_dir: Path) -> None:
    """Write a version, and make it the latest one."""
    directory = datasets_dir / "versions"
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / f"{version.version}.json", json.dumps(asdict(version), indent=2))
    write_whole(directory / _LATEST, version.version)


def list_versions(datasets_dir: Path) -> list[str]:
    """List the names of the versions."""
    return sorted(path.stem for path in (datasets_dir / "versions").glob("*.json"))


def load_version(datasets_dir: Path, version: str | None = None) -> DatasetVersion:
    """Load a version, or the latest.

    Raises
    ------
    DatasetError
        If there is no version of that name, or no version at all.

    """
    directory = datasets_dir / "versions"
    latest = directory / _LATEST
    if version is None and not latest.exists():
        msg = "there is no dataset yet; run ingest-records first"
        raise DatasetError(msg)
    name = version or latest.read_text(encoding="utf-8")
    try:
        text = (directory / f"{name}.json").read_text(encoding="utf-8")
        return TypeAdapter(DatasetVersion).validate_json(text)
    except FileNotFoundError as error:
        msg = f"dataset version must be one of {list_versions(datasets_dir)}, got {name!r}"
        raise DatasetError(msg) from error
    except ValidationError as error:
        msg = f"dataset version {name} cannot be read: {error}"
        raise DatasetError(msg) from error


def hash_files(directory: Path, record_name: str) -> dict[str, str]:
    """Compute the SHA-256 of each file of a record that exists."""
    hashes = {}
    for extension in RECORD_FILES:
        path = directory / f"{record_name}.{extension}"
        if path.is_file():
            with path.open("rb") as file:
                hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def prepared_key(files: Mapping[str, str], config: PreprocessingConfig | None = None) -> str:
    """Name the directory of a prepared record by all its inputs: code, constants, files."""
    content = json.dumps([asdict(config or PreprocessingConfig()), dict(files)], sort_keys=True)
    return f"{code_prefix()}-{hashlib.sha256(content.encode()).hexdigest()[:24]}"


def code_prefix() -> str:
    """Return the first part of the names of records that this code prepared."""
    return hash_code(PREPARING)[:12]


@lru_cache
def hash_code(modules: tuple[str, ...]) -> str:
    """Hash modules, the modules of ``ecg_lib`` that they import, and the weights beside them."""
    import ecg_lib

    root = Path(ecg_lib.__file__).parent
    digest = hashlib.sha256()
    for path in find_code(modules, root):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def find_code(modules: Sequence[str], root: Path) -> list[Path]:
    """List the files of some modules of a package, of all that they import, and their weights.

    Args:
        modules: Dotted names below the package.
        root: Directory of the package.
    """
    found: set[Path] = set()
    waiting = [root.joinpath(*name.split(".")).with_suffix(".py") for name in modules]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{root.name}."):
                imported = str(node.module).split(".")[1:]
                waiting.append(root.joinpath(*imported).with_suffix(".py"))
    weights = {one for path in found if path.parent != root for one in path.parent.rglob("*.npz")}
    return sorted(found | weights)
