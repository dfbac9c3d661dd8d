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
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from ecg_lib.classifier.bundle import DataSource
from ecg_lib.errors import DatasetError
from ecg_lib.records.annotations import subject_of
from ecg_lib.records.atomic_files import write_whole
from ecg_lib.records.files.wfdb.annotated_record import read_annotated_record
from ecg_lib.records.record import Record, read_wfdb
from ecg_lib.signal_path.preprocessing import PreprocessingConfig
from ecg_lib.training.datasets import assign_folds
from flows.data.databases import MITDB, SIMULATED, SVDB, DatabaseName, Role

_NAME_DIGITS: Final = 16
FOLD_COUNTS: Final = (3, 5)
"""Numbers of folds that the subjects of a version are divided into."""

_WITH_CHECKSUMS: Final = frozenset(database.name for database in (MITDB, SVDB, SIMULATED))
"""Databases whose headers must state checksums; the records are read by ``wfdb``."""

PREPARING: Final = ("evaluation.prepared_views", "evaluation.beat_scoring")
"""Modules of ``ecg_lib`` that prepare a record; with all that they import, they name its files."""

READING: Final = ("records.files.wfdb.annotated_record",)
"""Module that reads the records of a user's own databases."""

CUTTING: Final = ("training.datasets", "records.simulation.training_patients")
"""Modules that cut training beats from a record."""

TRAINING: Final = ("training.datasets", "training.cross_validation", "training.out_of_fold")
"""Modules that, with all that they import, decide what a recipe makes of a dataset."""

_LOADED: Final = frozenset({".npz", ".c", ".h", ".so", ".dylib"})
"""Weights and compiled kernels, with their sources."""

LATEST: Final = "latest"
"""Name for the latest version, where one may be given, and of the file that names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StripLabels:
    """The marks of readers on a strip of traffic, as annotations."""

    samples: tuple[int, ...]
    symbols: str
    """One WFDB symbol for each sample: N or V, and Q where a beat has no mark."""
    not_beats: tuple[int, ...]
    """Detections that are not beats, in samples."""
    is_complete: bool
    """True when a reader looked at every beat of the strip."""
    is_drawn: bool
    """True when the strip was drawn at random, False when a reader chose it."""
    weight: float
    """Weight of its beats in training; those of other records weigh 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRecord:
    """A record of a dataset version."""

    name: str
    """Unique in a version; ``<database>:<record>`` where names of databases may clash."""
    role: Role
    files: dict[str, str]
    """SHA-256 of each source file."""
    prepared: str
    """Directory of its prepared beats, below ``datasets/records``."""
    duration_s: float
    lead: str
    """The lead that is analysed; all of them, with commas, where every lead is."""
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
    fs: float = 360.0
    """Sampling rate in Hz."""
    database: str = MITDB.name
    person: str | None = None
    """The person, where the name of the record does not tell."""
    annotations: str = "atr"
    """Extension of the annotation file."""
    marks_are_peaks: bool = True
    """See :class:`flows.data.databases.Database`."""
    labels: StripLabels | None = None
    """Marks of readers, of a strip of traffic; other records have an annotation file."""

    @property
    def subject(self) -> str:
        """The person that the record is of."""
        return self.person or subject_of(self.name)

    @property
    def stem(self) -> str:
        """Name of the record in its database."""
        return self.name.rpartition(":")[2]

    @property
    def identity(self) -> str:
        """Return what names its prepared beats, apart from the content of its files."""
        if self.labels is not None:
            return f"{self.name} {self.role} {self.person} {self.labels}"
        return identify(self.database, self.name, self.role, self.person, self.annotations)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenRecord:
    """A record that is left out, with the reason."""

    name: str
    reason: str
    database: str = MITDB.name


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetVersion:
    """One version of the data."""

    version: str
    """Hash of the content."""
    created_at: str
    data_source: DataSource
    source_directory: str
    """Directory of the source files when the version was made; that of the first database."""
    records: tuple[PreparedRecord, ...]
    broken: tuple[BrokenRecord, ...]
    folds: dict[int, dict[str, int]]
    """By number of folds, the fold of each development subject."""
    other_directories: dict[str, str] = field(default_factory=dict)
    """Directory of the source files of each further database."""

    @property
    def databases(self) -> tuple[str, ...]:
        """Names of the databases that the records are of, the first one first."""
        return tuple(dict.fromkeys(record.database for record in self.records))

    def of_database(self, name: str) -> DatasetVersion:
        """Return the version that the records of one database alone make.

        Raises
        ------
        DatasetError
            If there are none, or fewer development subjects than folds.

        """
        records = self.records_in(name)
        if not records:
            msg = (
                f"dataset {self.version} must have records of {name}, it has those of "
                f"{', '.join(self.databases)}"
            )
            raise DatasetError(msg)
        return make_version(
            data_source=DataSource.MITDB if name == MITDB.name else self.data_source,
            source_directory=self.directory_of(records[0]),
            records=records,
            broken=[one for one in self.broken if one.database == name],
        )

    def records_of(self, role: Role) -> tuple[PreparedRecord, ...]:
        """Return the records of one role, in order."""
        return tuple(record for record in self.records if record.role is role)

    def records_in(self, database: str) -> tuple[PreparedRecord, ...]:
        """Return the records of one database, in order."""
        return tuple(record for record in self.records if record.database == database)

    @property
    def duration_s(self) -> dict[str, float]:
        """Duration of each record in seconds."""
        return {record.name: record.duration_s for record in self.records}

    @property
    def fs(self) -> dict[str, float]:
        """Sampling rate of each record in Hz."""
        return {record.name: record.fs for record in self.records}

    @property
    def development_databases(self) -> dict[str, str]:
        """The database of each development record."""
        return {record.name: record.database for record in self.records_of(Role.DEVELOPMENT)}

    @property
    def subjects(self) -> dict[str, str]:
        """The person of each record."""
        return {record.name: record.subject for record in self.records}

    @property
    def weights(self) -> dict[str, float]:
        """Weight in training of each record that has one of its own."""
        return {r.name: r.labels.weight for r in self.records if r.labels is not None}

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
        directory = self.directory_of(record)
        found = hash_files(directory, tuple(record.files))
        if found != record.files:
            msg = (
                f"the files of record {record.name} must be those of dataset {self.version}, "
                "they are missing or have changed; run ingest-records again"
            )
            raise DatasetError(msg)
        if record.labels is not None:
            from flows.data.records.site import read_strip

            return read_strip(directory, record)
        return read_source(directory, record.stem, database=record.database, of=record)

    def directory_of(self, record: PreparedRecord) -> Path:
        """Return the directory of the source files of a record."""
        return Path(self.other_directories.get(record.database, self.source_directory))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordIdentity:
    """Name, person and annotations of a record."""

    name: str
    person: str | None = None
    annotations: str = "atr"


def read_source(
    directory: Path, stem: str, *, database: str, of: PreparedRecord | RecordIdentity
) -> Record:
    """Read a record of a database with its annotations.

    A record of which every lead has annotations of its own is read without.

    Args:
        directory: Where the files are.
        stem: Name of the files.
        database: The database.
        of: Name, person and annotations of the record.

    Raises:
        RecordError: If it cannot be read.
    """
    if database in _WITH_CHECKSUMS:
        return replace(read_wfdb(directory / stem, with_annotations=True), person=of.person)
    return read_annotated_record(
        directory / stem,
        annotations=of.annotations or None,
        name=of.name,
        person=of.person,
    )


def make_version(
    *,
    data_source: DataSource,
    source_directory: Path,
    records: Sequence[PreparedRecord],
    broken: Sequence[BrokenRecord],
    other_directories: Mapping[str, Path] | None = None,
) -> DatasetVersion:
    """Make a version of prepared records; the same records give the same version.

    A version without development records has no folds, and nothing can be trained on it.

    Raises
    ------
    DatasetError
        If there are development subjects, but fewer than folds.

    """
    v_beats: dict[str, int] = {}
    for record in records:
        if record.role is Role.DEVELOPMENT:
            v_beats[record.subject] = v_beats.get(record.subject, 0) + record.annotated["V"]
    counts = FOLD_COUNTS if v_beats else ()
    folds = {count: assign_folds(v_beats, n_folds=count) for count in counts}
    ordered = tuple(sorted(records, key=_place))
    content = json.dumps(
        {
            "source": data_source,
            "records": [_describe(record) for record in ordered],
            "folds": folds,
        },
        sort_keys=True,
    )
    return DatasetVersion(
        version=hashlib.sha256(content.encode()).hexdigest()[:_NAME_DIGITS],
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        data_source=data_source,
        source_directory=str(source_directory),
        records=ordered,
        broken=tuple(sorted(broken, key=lambda record: record.name)),
        folds=folds,
        other_directories={name: str(path) for name, path in (other_directories or {}).items()},
    )


def _place(record: PreparedRecord) -> tuple[str, str, tuple[int, ...], str]:
    """Return the sort key of a record: its name, or what a labelled strip holds.

    Names of strips are random, and networks see beats in the order of the records: the same strips
    must train the same network.
    """
    if record.labels is None:
        return record.name, "", (), ""
    return f"{record.database}:", record.subject, record.labels.samples, record.name


def _describe(record: PreparedRecord) -> dict[str, object]:
    """Describe a record for the hash of its version, as before strips of traffic had labels."""
    fields = asdict(record)
    if fields["labels"] is None:
        del fields["labels"]
    return fields


class ReferenceRecipe(StrEnum):
    """The records that a reference is trained on."""

    MITDB = "mitdb"
    """DS1 alone, comparable with the literature."""
    ALL = "all"
    """The development records of every database of the dataset."""


def select_records(
    version: DatasetVersion, recipe: ReferenceRecipe, datasets_dir: Path
) -> DatasetVersion:
    """Return the version with the records of a recipe; it is kept, as bundles name it.

    Raises
    ------
    DatasetError
        If it has no development records, or none of MIT-BIH where these are asked for.

    """
    if not version.folds:
        msg = (
            f"dataset {version.version} must have development records to train on, it has those "
            f"of {', '.join(version.databases)}"
        )
        raise DatasetError(msg)
    if recipe is ReferenceRecipe.ALL or version.databases in {(MITDB.name,), (SIMULATED.name,)}:
        return version
    selected = version.of_database(MITDB.name)
    save_version(selected, datasets_dir, is_latest=False)
    return selected


def save_version(version: DatasetVersion, datasets_dir: Path, *, is_latest: bool = True) -> None:
    """Write a version, and make it the latest one."""
    directory = datasets_dir / "versions"
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / f"{version.version}.json", json.dumps(asdict(version), indent=2))
    if is_latest:
        write_whole(directory / LATEST, version.version)


def list_versions(datasets_dir: Path) -> list[str]:
    """List the names of the versions."""
    return sorted(path.stem for path in (datasets_dir / "versions").glob("*.json"))


def read_latest(datasets_dir: Path) -> str | None:
    """Read the name of the latest version, whether that can be loaded or not; None without one."""
    try:
        return (datasets_dir / "versions" / LATEST).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def load_version(datasets_dir: Path, version: str | None = None) -> DatasetVersion:
    """Load a version, or the latest.

    Raises
    ------
    DatasetError
        If there is no version of that name, or no version at all.

    """
    directory = datasets_dir / "versions"
    name = read_latest(datasets_dir) if version in {None, LATEST} else version
    if name is None:
        msg = "there is no dataset yet; run ingest-records first"
        raise DatasetError(msg)
    try:
        content = (directory / f"{name}.json").read_bytes()
    except FileNotFoundError as error:
        msg = f"dataset version must be one of {list_versions(datasets_dir)}, got {name!r}"
        raise DatasetError(msg) from error
    return parse_version(content, name)


def parse_version(content: bytes, name: str) -> DatasetVersion:
    """Parse the file of a version.

    Raises
    ------
    DatasetError
        If it cannot be read; with the name.

    """
    try:
        return TypeAdapter(DatasetVersion).validate_json(content)
    except ValidationError as error:
        msg = f"dataset version {name} cannot be read: {error}"
        raise DatasetError(msg) from error


def has_its_content(content: bytes, name: str) -> bool:
    """Return whether the file of a version holds what its name is the hash of.

    >>> has_its_content(b"{}", "4f53cda18c2baa0c")
    False
    """
    try:
        fields = json.loads(content)
        records = [
            {key: value for key, value in one.items() if key != "labels" or value is not None}
            for one in fields["records"]
        ]
        hashed = {"source": fields["data_source"], "records": records, "folds": fields["folds"]}
    except (ValueError, TypeError, KeyError, AttributeError):
        return False
    text = json.dumps(hashed, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_NAME_DIGITS] == name


def hash_files(directory: Path, names: Sequence[str]) -> dict[str, str]:
    """Compute the SHA-256 of each file that exists, by name."""
    hashes = {}
    for name in names:
        path = directory / name
        if path.is_file():
            with path.open("rb") as file:
                hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def identify(database: str, name: str, role: Role, person: str | None, annotations: str) -> str:
    """Return what names a directory of prepared beats, apart from the content of the files.

    Empty for published databases, whose files belong to one record each. The same files may be
    two records of a user's own databases, with another part or person.
    """
    return f"{name} {role} {person} {annotations}" if database == DatabaseName.OWN else ""


def prepared_key(
    files: Mapping[str, str], config: PreprocessingConfig | None = None, *, identity: str = ""
) -> str:
    """Name the directory of a prepared record by all its inputs: code, constants, files."""
    inputs = [asdict(config or PreprocessingConfig()), dict(files)]
    content = json.dumps(
        [*inputs, identity, hash_code(READING)] if identity else inputs, sort_keys=True
    )
    return f"{code_prefix()}-{hashlib.sha256(content.encode()).hexdigest()[:24]}"


def code_prefix() -> str:
    """Return the first part of the names of records that this code prepared."""
    return hash_code(PREPARING)[:12]


@lru_cache
def hash_code(modules: tuple[str, ...]) -> str:
    """Hash modules, the modules of ``ecg_lib`` that they import, and what they load."""
    import ecg_lib

    root = Path(ecg_lib.__file__).parent
    digest = hashlib.sha256()
    for path in find_code(modules, root):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def find_code(modules: Sequence[str], root: Path) -> list[Path]:
    """List the files of some modules of a package, of all that they import, and what they load.

    These are weights and the compiled kernels, in their folders or below.

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
    loaded = {
        one
        for folder in {path.parent for path in found} - {root}
        for one in folder.rglob("*")
        if one.suffix in _LOADED
    }
    return sorted(found | loaded)
