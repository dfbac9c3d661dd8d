"""Check, read and prepare records, each in a process of its own, and keep what was prepared."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ecg_lib.errors import CorruptRecordError, EcgError, RecordNotFoundError
from ecg_lib.records.annotations import count_classes, subject_of
from ecg_lib.records.atomic_files import write_whole
from ecg_lib.records.record import Record
from flows.data.databases import MITDB, SIMULATED, Database, Role, list_record_files
from flows.data.dataset_versions import (
    BrokenRecord,
    PreparedRecord,
    RecordIdentity,
    hash_files,
    identify,
    prepared_key,
    read_source,
)
from flows.data.prepared_views import (
    INGESTED_VIEWS,
    WHOLE_RECORD,
    write_annotations,
    write_view,
)
from flows.doors.parallel import N_PROCESSES, run_in_processes

if TYPE_CHECKING:
    # Prefect, which the processes that prepare need not: two seconds of their start.
    from flows.data.records.sources import Records

SUMMARY: Final = "summary.json"
"""Description of a record that has all its files."""


def prepare_all(records: Records, target: Path) -> Iterator[PreparedRecord | BrokenRecord]:
    """Yield the records that are prepared already, then those that two processes prepare."""
    with ThreadPoolExecutor(N_PROCESSES) as pool:
        hashes = dict(
            zip(records.names, pool.map(partial(_hash, records), records.names), strict=True)
        )
    waiting: list[str] = []
    for name, (files, reason) in hashes.items():
        known = reason or _reason_broken(files, records)
        if known:
            yield BrokenRecord(
                name=records.database.full_name(name),
                reason=known,
                database=records.database.name,
            )
        elif (done := _find_prepared(records.database, name, files, target)) is not None:
            yield done
        else:
            waiting.append(name)
    if waiting:
        jobs = [
            partial(prepare_one, records.directory, name, hashes[name][0], target, records.database)
            for name in waiting
        ]
        yield from run_in_processes(jobs, is_ordered=False)


def _hash(records: Records, name: str) -> tuple[dict[str, str], str]:
    """Hash the files of a record; with a reason when its header does not name them."""
    try:
        files = list_record_files(records.directory, records.database, name)
    except EcgError as error:
        return {}, str(error)
    found = hash_files(records.directory, files)
    missing = [file for file in files if file not in found]
    return found, f"missing: {', '.join(missing)}" if missing else ""


def _reason_broken(files: dict[str, str], records: Records) -> str:
    for file_name, found in files.items():
        published = records.sha256.get(file_name, found)
        if found != published:
            return f"{file_name} must have the published SHA-256 {published[:12]}, got {found[:12]}"
    return ""


def _find_prepared(
    database: Database, name: str, files: dict[str, str], target: Path
) -> PreparedRecord | None:
    """Read what was prepared of a record in its part; person and marks are those of today."""
    from pydantic import TypeAdapter

    summary = target / _key(database, name, files) / SUMMARY
    if not summary.is_file():
        return None
    done = TypeAdapter(PreparedRecord).validate_json(summary.read_bytes())
    if done.role is not _role(database, name):
        return None  # other figures and views belong to another part
    person = _identity(database, name).person
    return replace(done, person=person, marks_are_peaks=database.marks_are_peaks)


def _identity(database: Database, name: str) -> RecordIdentity:
    person = database.person_of(name)
    has_one = len(database.annotations) == 1
    return RecordIdentity(
        name=database.full_name(name),
        person=None if database.name in {MITDB.name, SIMULATED.name} else person,
        annotations=database.annotations[0] if has_one else "",
    )


def _role(database: Database, name: str) -> Role:
    if database.name == SIMULATED.name:
        return Role.DEVELOPMENT
    return database.roles[name]


def _key(database: Database, name: str, files: dict[str, str]) -> str:
    of = _identity(database, name)
    identity = identify(database.name, of.name, _role(database, name), of.person, of.annotations)
    return prepared_key(files, identity=identity)


def read_development(
    database: Database, directory: Path, *, people: Collection[str]
) -> Iterator[Record]:
    """Read the development records of some people from the directory of a database.

    Raises:
        RecordError: If one of them is there and cannot be read.
    """
    for name, role in database.roles.items():
        of = _identity(database, name)
        subject = of.person or subject_of(of.name)
        if role is Role.DEVELOPMENT and subject in people and (directory / f"{name}.hea").is_file():
            yield read_source(directory, name, database=database.name, of=of)


def prepare_one(
    directory: Path,
    name: str,
    files: dict[str, str],
    target: Path,
    database: Database = MITDB,
) -> PreparedRecord | BrokenRecord:
    """Read and prepare one record, in its own process; a broken record is reported, not raised."""
    try:
        return _prepare(directory, name, files, target / _key(database, name, files), database)
    except (CorruptRecordError, RecordNotFoundError) as error:
        reason = str(error)
    except EcgError as error:
        reason = f"cannot be prepared: {error}"
    return BrokenRecord(name=database.full_name(name), reason=reason, database=database.name)


def _prepare(
    directory: Path, name: str, files: dict[str, str], target: Path, database: Database
) -> PreparedRecord:
    of, role = _identity(database, name), _role(database, name)
    record = read_source(directory, name, database=database.name, of=of)
    described = PreparedRecord(
        name=of.name,
        role=role,
        files=files,
        prepared=target.name,
        duration_s=record.duration_s,
        lead=",".join(record.leads),
        annotated={},
        detected=0,
        unreadable_s=0.0,
        fs=record.fs,
        database=database.name,
        person=of.person,
        annotations=of.annotations,
        marks_are_peaks=database.marks_are_peaks,
    )
    if role in {Role.PEAKS, Role.NOISE}:
        target.mkdir(parents=True, exist_ok=True)
        summary = replace(described, annotated=_count_marks(directory / name, database))
    else:
        summary = _write_views(record, described, target)
    # Written last: a record with a summary has all its files.
    write_whole(target / SUMMARY, json.dumps(asdict(summary)))
    return summary


def prepare_record(record: Record, described: PreparedRecord, target: Path) -> PreparedRecord:
    """Prepare a record that was read, unless that was done before.

    Args:
        record: With annotations.
        described: Name, part, person and files; the figures are filled in.
        target: Directory of prepared records.
    """
    from pydantic import TypeAdapter

    directory = target / prepared_key(described.files, identity=described.identity)
    if (directory / SUMMARY).is_file():
        written = (directory / SUMMARY).read_bytes()
        return TypeAdapter(PreparedRecord).validate_json(written)
    named = replace(described, prepared=directory.name, duration_s=record.duration_s, fs=record.fs)
    summary = _write_views(record, named, directory)
    write_whole(directory / SUMMARY, json.dumps(asdict(summary)))
    return summary


def _write_views(record: Record, described: PreparedRecord, target: Path) -> PreparedRecord:
    """Write the views of an annotated record, and fill in its figures."""
    from ecg_lib.evaluation.beat_scoring import score_beats
    from ecg_lib.evaluation.prepared_views import prepare_scored_view

    role = described.role
    annotations = write_annotations(record, target)
    views = {view: write_view(record, view, target) for view in INGESTED_VIEWS[role]}
    beats = (views.get(WHOLE_RECORD) or prepare_scored_view(record, WHOLE_RECORD))[0].beats
    measured = replace(
        described,
        lead=record.choose_lead(),
        annotated={c.value: n for c, n in count_classes(annotations.beat_classes).items()},
        detected=len(beats),
        unreadable_s=round(beats.unreadable_s, 3),
    )
    if role is Role.TEST:
        return measured
    counts = score_beats(
        annotations, detections=beats.r_peaks, is_v=beats.is_readable & False, fs=record.fs
    )
    return replace(
        measured,
        found=counts.found,
        extra=counts.extra,
        missed_v=counts.v_beats - counts.v_found,
    )


def _count_marks(path: Path, database: Database) -> dict[str, int]:
    """Count the marks of QRS complexes of all leads, whose classes nobody has annotated."""
    from ecg_lib.records.files.wfdb.annotated_record import read_annotations

    marks = [
        read_annotations(path, extension=extension, header_fs=1.0, fs=1.0)
        for extension in database.annotations
    ]
    return {"Q": sum(len(one.beat_samples) for one in marks), **dict.fromkeys("NSVF", 0)}
