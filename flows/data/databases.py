"""The ECG databases that are ingested: files, licence, split by person, marks.

A database is a :class:`Database`; adding one is adding a description. A user's own WFDB database
is described from its directory by :func:`describe_own`. Beat symbols have the meaning of
:data:`ecg_lib.records.annotations.CLASS_OF_SYMBOL` in all of them.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from ecg_lib.errors import ConfigurationError, EcgError
from ecg_lib.records.annotations import DS1, DS2, PACED
from ecg_lib.records.files.wfdb.header import find_beside
from ecg_lib.records.files.wfdb.wfdb_file import read_wfdb_header
from flows.doors.archives.download import PublishedFile

_LICENCE: Final = "Open Data Commons Attribution License 1.0"
_PHYSIONET: Final = "Goldberger et al., Circulation 101(23):e215, 2000"


class Role(StrEnum):
    """Purpose of a record."""

    DEVELOPMENT = "development"
    """DS1, the development part of another database, or a simulated patient: folds, training,
    out-of-fold figures."""
    PACED = "paced"
    """Robustness during development; no beats for training."""
    TEST = "test"
    """DS2, or the test part of another database: prepared without labels, scored by
    ``ecg evaluate --final`` alone."""
    PEAKS = "peaks"
    """R-peaks of every lead, without beat classes."""
    NOISE = "noise"
    """Noise without a heart."""
    HELD_OUT = "held_out"
    """New people of the site: the promotion gate scores them, and nothing is trained on them."""


class DatabaseName(StrEnum):
    """The databases that `ingest-records` can read."""

    MITDB = "mitdb"
    SVDB = "svdb"
    LUDB = "ludb"
    NSTDB = "nstdb"
    OWN = "own"
    """A WFDB database of the user's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """The description of a database."""

    name: str
    title: str
    version: str = ""
    licence: str = _LICENCE
    citation: str = ""
    roles: Mapping[str, Role]
    """Purpose of each record, by the name of its files."""
    extensions: tuple[str, ...] = ("hea", "dat", "atr")
    """Extensions of the files of a record."""
    annotations: tuple[str, ...] = ("atr",)
    """Extensions of the annotation files: one, or one for each lead."""
    persons: Mapping[str, str] = field(default_factory=dict)
    """The person of a record, where that is not one of its own."""
    path: str = ""
    """Folder of the files below the address of the version at PhysioNet."""
    is_prefixed: bool = False
    """True when datasets name its records ``<database>:<record>``, as other databases may have
    records of the same names."""
    marks_are_peaks: bool = True
    """False when the marks of beats are not at the R-peaks: a reference R-peak is then the
    detection that belongs to the mark."""

    @property
    def address(self) -> str:
        """Address below that of all databases at PhysioNet."""
        return f"{self.name}/{self.version}/{self.path}"

    def full_name(self, record: str) -> str:
        """Name a record as datasets do."""
        return f"{self.name}:{record}" if self.is_prefixed else record

    def person_of(self, record: str) -> str:
        """Name the person that a record is of."""
        return self.full_name(self.persons.get(record, record))

    def files_of(self, record: str) -> tuple[str, ...]:
        """Name the files of a record."""
        return tuple(f"{record}.{extension}" for extension in self.extensions)


def _roles(**records: str | tuple[str, ...]) -> dict[str, Role]:
    return {
        record: Role[part.upper()]
        for part, names in records.items()
        for record in (names.split() if isinstance(names, str) else names)
    }


_LEADS_12: Final = ("i", "ii", "iii", "avr", "avl", "avf", "v1", "v2", "v3", "v4", "v5", "v6")

MITDB: Final = Database(
    name="mitdb",
    title="MIT-BIH Arrhythmia Database",
    version="1.0.0",
    citation=f"Moody & Mark, IEEE Eng in Med and Biol 20(3):45-50, 2001; {_PHYSIONET}",
    roles=_roles(development=DS1, paced=PACED, test=DS2),
    persons={"202": "201"},
)

SVDB: Final = Database(
    name="svdb",
    title="MIT-BIH Supraventricular Arrhythmia Database",
    version="1.0.0",
    citation=f"Greenwald, Patil & Mark, Computers in Cardiology 1990; {_PHYSIONET}",
    # By person, and balanced by V beats.
    roles=_roles(
        development="800 802 804 807 808 811 812 821 822 825 826 828 843 844 846 851 852 853 854 "
        "855 856 858 862 863 865 868 870 873 874 875 876 877 878 879 880 881 885 888 889 891",
        test="801 803 805 806 809 810 820 823 824 827 829 840 841 842 845 847 848 849 850 857 859 "
        "860 861 864 866 867 869 871 872 882 883 884 886 887 890 892 893 894",
    ),
    # Two halves of one tape (874, 878), or alike enough to be of one person (876, 882).
    persons={"875": "874", "877": "876", "879": "878", "883": "882"},
    marks_are_peaks=False,
)

LUDB: Final = Database(
    name="ludb",
    title="Lobachevsky University ECG Database",
    version="1.0.1",
    citation=f"Kalyakulina et al., IEEE Access 8:186181, 2020; {_PHYSIONET}",
    roles={str(number): Role.PEAKS for number in range(1, 201)},
    extensions=("hea", "dat", *_LEADS_12),
    annotations=_LEADS_12,
    path="data/",
    is_prefixed=True,
)

NSTDB: Final = Database(
    name="nstdb",
    title="MIT-BIH Noise Stress Test Database",
    version="1.0.0",
    citation=f"Moody, Muldrow & Mark, Computers in Cardiology 11:381-384, 1984; {_PHYSIONET}",
    roles=_roles(noise="bw ma"),
    extensions=("hea", "dat"),
    annotations=(),
    is_prefixed=True,
)

PUBLISHED: Final = {
    DatabaseName.MITDB: MITDB,
    DatabaseName.SVDB: SVDB,
    DatabaseName.LUDB: LUDB,
    DatabaseName.NSTDB: NSTDB,
}
"""The databases of PhysioNet."""

OPTIONAL: Final = {
    "svdb": frozenset(name for name, role in SVDB.roles.items() if role is Role.TEST),
    "ludb": frozenset(str(number) for number in range(101, 201)),
}
"""Records that a directory of a published database may lack."""


@cache
def read_published_files(database: str = "mitdb") -> dict[str, PublishedFile]:
    """Read the hash and size of each file of a database that are kept here.

    >>> read_published_files()["100.hea"].sha256[:8]
    '60ebc904'
    """
    table = importlib.resources.files("flows.data.published").joinpath(f"{database}.sha256")
    published = {}
    size_bytes = 0
    for line in table.read_text(encoding="ascii").splitlines():
        if line.startswith("#"):  # a comment to sha256sum -c
            stated = re.fullmatch(r"# (\d+) bytes", line)
            size_bytes = int(stated[1]) if stated else 0
        else:
            sha256, name = line.split()
            published[name] = PublishedFile(sha256, size_bytes)
    return published


def expected_sha256(database: str = "mitdb") -> dict[str, str]:
    """Map the name of each published file to its SHA-256, to verify a directory with."""
    return {name: one.sha256 for name, one in read_published_files(database).items()}


def describe_own(
    directory: Path, *, annotations: str = "atr", subjects: Path | None = None
) -> Database:
    """Describe a WFDB database of the user's own.

    Its records are the headers of the directory that have annotations; segments of other records
    are not records of their own.

    Args:
        directory: Where the records are.
        annotations: Extension of the annotation files.
        subjects: Table with the columns record, subject and part (`development`, `test` or
            `paced`), of which the last two may be left out or empty. A record that is not in it
            is of a person of its own, and for development.

    Raises:
        ConfigurationError: If the directory has no annotated record, or the table cannot be used.
    """
    found = find_annotated(directory, annotations=annotations)
    if not found:
        msg = (
            "a database must have records, that is a .hea file each, with annotations in "
            f".{annotations} files; found none in {directory}"
        )
        raise ConfigurationError(msg)
    persons, parts = read_subjects(subjects, records=found) if subjects else ({}, {})
    return Database(
        name=DatabaseName.OWN.value,
        title=directory.name,
        licence="the user's own",
        roles={name: parts.get(name, Role.DEVELOPMENT) for name in found},
        extensions=("hea", annotations),
        annotations=(annotations,),
        persons=persons,
        is_prefixed=True,
        marks_are_peaks=False,
    )


def find_annotated(directory: Path, *, annotations: str) -> tuple[str, ...]:
    """Find the records of a directory that have annotations, by name.

    Raises:
        ConfigurationError: If there is no such directory, or the extension is not one.
    """
    if not directory.is_dir():
        msg = f"a database must be a directory, there is none at {directory}"
        raise ConfigurationError(msg)
    if not re.fullmatch(r"\w+", annotations):
        msg = f"annotations must be the extension of files such as atr, got {annotations!r}"
        raise ConfigurationError(msg)
    headers = sorted(path for path in directory.iterdir() if path.suffix.lower() == ".hea")
    return tuple(
        dict.fromkeys(
            path.stem
            for path in headers
            if find_beside(path, f"{path.stem}.{annotations}").is_file()
        )
    )


def list_record_files(directory: Path, database: Database, record: str) -> tuple[str, ...]:
    """Name the files of a record; those of a user's own are found in its headers."""
    if database.name != DatabaseName.OWN:
        return database.files_of(record)

    def find(name: str) -> Path:
        return find_beside(directory / name, name)

    header = read_wfdb_header(find(f"{record}.hea"))
    parts = [one.name for one in header.segments if one.name != "~"]
    of_parts = [read_wfdb_header(find(f"{part}.hea")) for part in dict.fromkeys(parts)]
    signals = [signal.file for one in (header, *of_parts) for signal in one.signals]
    headers = [f"{part}.hea" for part in dict.fromkeys(parts)]
    wanted = [*database.files_of(record), *headers, *(name for name in signals if name != "~")]
    return tuple(dict.fromkeys(find(name).name for name in wanted))


class KnownRecord(NamedTuple):
    """A record of a published database, by the content of its signals."""

    database: Database
    name: str

    @property
    def role(self) -> Role:
        """Return its part."""
        return self.database.roles[self.name]

    @property
    def person(self) -> str:
        """Return the person that it is of."""
        return self.database.person_of(self.name)

    def __str__(self) -> str:
        return f"record {self.name} of {self.database.name}"


def find_known(directory: Path, database: Database) -> dict[str, KnownRecord]:
    """Find which records of a directory are copies of published ones, whatever they are called.

    The signal files decide. The hashes of the test part of svdb are not kept here, so a copy of
    one of its records is not found.

    Args:
        directory: Where the records are.
        database: Their description.
    """
    known = {
        one.sha256: (one.size_bytes, KnownRecord(each, file.removesuffix(".dat")))
        for each in (MITDB, SVDB)
        for file, one in read_published_files(each.name).items()
        if file.endswith(".dat")
    }
    sizes = {size_bytes for size_bytes, _ in known.values()}
    found = {}
    for record in database.roles:
        try:
            files = list_record_files(directory, database, record)
        except EcgError:
            continue  # reported where the record is read
        for file in files:
            path = directory / file
            if not path.is_file() or path.stat().st_size not in sizes:
                continue
            with path.open("rb") as signals:
                sha256 = hashlib.file_digest(signals, "sha256").hexdigest()
            if sha256 in known:
                found[record] = known[sha256][1]
    return found


_PARTS: Final = {role.value: role for role in (Role.DEVELOPMENT, Role.TEST, Role.PACED)}


def read_subjects(
    path: Path, *, records: tuple[str, ...]
) -> tuple[dict[str, str], dict[str, Role]]:
    """Read the person and the part of each record from a table.

    Raises:
        ConfigurationError: If it cannot be read, lacks a column, or names a record that is not
            there, or a part that does not exist.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in reader]
            columns = tuple(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        msg = f"the table of subjects cannot be read: {error}"
        raise ConfigurationError(msg) from error
    if "record" not in columns:
        msg = f"the table of subjects must have a column 'record', got {', '.join(columns)}"
        raise ConfigurationError(msg)
    unknown = sorted({row["record"] for row in rows} - set(records))
    if unknown:
        msg = (
            "the table of subjects must name annotated records of the database, these are not: "
            f"{', '.join(unknown[:10])}"
        )
        raise ConfigurationError(msg)
    named = {row["record"]: row.get("part", "") for row in rows if row.get("part")}
    wrong = sorted(set(named.values()) - set(_PARTS))
    if wrong:
        msg = f"a part must be one of {', '.join(_PARTS)}, got {', '.join(wrong)}"
        raise ConfigurationError(msg)
    persons = {row["record"]: row["subject"] for row in rows if row.get("subject")}
    _check_parts(persons, {name: _PARTS[part] for name, part in named.items()}, records)
    return persons, {name: _PARTS[part] for name, part in named.items()}


def _check_parts(
    persons: Mapping[str, str], parts: Mapping[str, Role], records: tuple[str, ...]
) -> None:
    """Reject a table in which a person is both in the development and in the test part."""
    of_part: dict[Role, set[str]] = {}
    for name in records:
        role = parts.get(name, Role.DEVELOPMENT)
        of_part.setdefault(role, set()).add(persons.get(name, name))
    both = of_part.get(Role.TEST, set()) & of_part.get(Role.DEVELOPMENT, set())
    if both:
        msg = (
            "a person must be in one part, development or test; "
            f"these are in both: {', '.join(sorted(both)[:10])}"
        )
        raise ConfigurationError(msg)


SIMULATED: Final = Database(
    name="simulated", title="simulated patients", licence="that of this software", roles={}
)
"""Patients of the simulator; their number is decided when they are made."""

SITE: Final = Database(
    name="site",
    title="labelled traffic of this site",
    licence="that of the site",
    roles={},
    is_prefixed=True,
    marks_are_peaks=False,
)
"""Strips of traffic whose signals are kept and whose beats readers labelled."""
