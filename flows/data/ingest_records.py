"""Flow ``ingest-records``: from records on disk or at PhysioNet to a dataset version."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from ecg_lib.classifier.bundle import DataSource
from ecg_lib.errors import (
    ConfigurationError,
    CorruptRecordError,
    DatasetError,
    EcgError,
    RecordNotFoundError,
)
from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.records.annotations import MITDB_RECORDS, count_classes
from ecg_lib.records.atomic_files import write_whole
from flows.data.dataset_versions import (
    RECORD_FILES,
    BrokenRecord,
    DatasetVersion,
    PreparedRecord,
    Role,
    hash_files,
    make_version,
    prepared_key,
    role_of,
    save_version,
)
from flows.data.prepared_views import (
    INGESTED_VIEWS,
    WHOLE_RECORD,
    records_dir,
    remove_outdated,
    write_annotations,
    write_view,
)
from flows.data.progress import ProgressBar
from flows.doors.download import UnreachableError
from flows.doors.parallel import N_PROCESSES, run_in_processes
from flows.doors.physionet import check_reachable, download_mitdb, expected_sha256

SIMULATED_PATIENTS = 24
SIMULATED_DURATION_S = 900.0
SIMULATION_SEED = 20
_SUMMARY = "summary.json"


class Source(StrEnum):
    """Source of the records."""

    AUTO = "auto"
    """A directory if one is set, else what was downloaded, else PhysioNet, else the simulator."""
    SIMULATOR = "simulator"


class Records(NamedTuple):
    """Records that are on disk."""

    directory: Path
    names: tuple[str, ...]
    data_source: DataSource
    sha256: dict[str, str]
    """Published SHA-256 of each file; empty for simulated records."""


@flow(name="ingest-records", log_prints=False)
def ingest_records(
    source: Source = Source.AUTO,
    max_broken_share: Annotated[float, Field(ge=0, le=1)] = 0.1,
) -> str:
    """Make a dataset version of the MIT-BIH records, and prepare each record once.

    Training, the promotion gate, the drift reference and reports read what is prepared here.
    Records that cannot be read are left out with their reason. Finished work is reused: a second
    run takes seconds, and a run that was killed resumes where it stopped.

    Args:
        source: Where records come from. `auto` takes ECG_MITDB_DIR, else an earlier download,
            else PhysioNet, else (without a network) the simulator.
        max_broken_share: Share of the records that may be broken before the run fails.

    Returns:
        The dataset version.
    """
    settings = read_settings()
    started_s = time.monotonic()
    records = find_records(source, settings)
    prepared, broken = prepare_records(records, settings)
    check_enough(prepared, broken, max_broken_share=max_broken_share)
    version = publish_version(records, prepared, broken, settings)
    remove_what_older_code_prepared(settings)
    get_run_logger().info(
        "dataset %s: %d records (%s), %d left out, %.1f s",
        version.version,
        len(version.records),
        version.data_source,
        len(version.broken),
        time.monotonic() - started_s,
    )
    return version.version


@task(cache_policy=NO_CACHE)
def find_records(source: Source, settings: Settings) -> Records:
    """Find the records, and download or simulate them when they are not on disk."""
    logger = get_run_logger()
    if source is Source.SIMULATOR:
        return _simulate(settings)
    if settings.mitdb_dir is not None:
        if not any(settings.mitdb_dir.glob("*.hea")):
            msg = (
                "ECG_MITDB_DIR must be a directory with the MIT-BIH records, "
                f"there is no .hea file in {settings.mitdb_dir}"
            )
            raise ConfigurationError(msg)
        return _mitdb(settings.mitdb_dir)
    directory = settings.data_dir / "mitdb"
    if all((directory / name).is_file() for name in expected_sha256()):
        logger.info("MIT-BIH is already downloaded")
        return _mitdb(directory)
    try:
        check_reachable(settings.physionet_url)
    except UnreachableError as error:
        logger.warning(
            "NO REAL DATA: %s; continuing with SIMULATED patients. "
            "Set ECG_MITDB_DIR to train on MIT-BIH.",
            error,
        )
        return _simulate(settings)
    _download(directory, settings)
    return _mitdb(directory)


def _mitdb(directory: Path) -> Records:
    return Records(directory, MITDB_RECORDS, DataSource.MITDB, expected_sha256())


def _download(directory: Path, settings: Settings) -> None:
    logger = get_run_logger()
    bar = ProgressBar("Download from PhysioNet")
    report = download_mitdb(directory, base_url=settings.physionet_url, on_progress=bar.update)
    logger.info(
        "download: %d files fetched, %d kept, %d retries",
        report.files_fetched,
        report.files_kept,
        report.retries,
    )


def _simulate(settings: Settings) -> Records:
    """Write the simulated cohort as WFDB records, so that there is one path from here on."""
    directory = settings.data_dir / (
        f"simulated-{SIMULATED_PATIENTS}x{SIMULATED_DURATION_S:g}s-seed{SIMULATION_SEED}"
    )
    names = tuple(f"sim{number:03d}" for number in range(1, SIMULATED_PATIENTS + 1))
    directory.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if not _is_whole(directory, name)]
    jobs = [partial(_write_simulated, name, directory, SIMULATED_DURATION_S) for name in missing]
    list(run_in_processes(jobs))
    return Records(directory, names, DataSource.SIMULATED, {})


def _is_whole(directory: Path, name: str) -> bool:
    return all((directory / f"{name}.{extension}").is_file() for extension in RECORD_FILES)


def _write_simulated(name: str, directory: Path, duration_s: float) -> None:
    from ecg_lib.records.record import write_wfdb
    from ecg_lib.records.simulation.simulator import simulate_cohort_member

    number = int(name.removeprefix("sim"))
    draft = directory / f".{name}.draft"
    member = simulate_cohort_member(number, duration_s=duration_s, seed=SIMULATION_SEED)
    write_wfdb(member, draft)
    for extension in RECORD_FILES:
        (draft / f"{name}.{extension}").replace(directory / f"{name}.{extension}")
    draft.rmdir()


@task(cache_policy=NO_CACHE)
def prepare_records(
    records: Records, settings: Settings
) -> tuple[list[PreparedRecord], list[BrokenRecord]]:
    """Check, read and prepare each record; leave out broken records, with their reasons."""
    logger = get_run_logger()
    target = records_dir(settings.datasets_dir)
    target.mkdir(parents=True, exist_ok=True)
    bar = ProgressBar("Records prepared")
    prepared: list[PreparedRecord] = []
    broken: list[BrokenRecord] = []
    for result in _prepare_all(records, target):
        if isinstance(result, BrokenRecord):
            logger.error("record %s is left out: %s", result.name, result.reason)
            broken.append(result)
        else:
            prepared.append(result)
        bar.update(len(prepared) + len(broken), len(records.names))
    return prepared, broken


def _prepare_all(records: Records, target: Path) -> Iterator[PreparedRecord | BrokenRecord]:
    """Yield the records that are prepared already, then those that two processes prepare."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(N_PROCESSES) as pool:
        hashes = dict(
            zip(
                records.names,
                pool.map(lambda name: hash_files(records.directory, name), records.names),
                strict=True,
            )
        )
    waiting: list[str] = []
    for name, files in hashes.items():
        reason = _reason_broken(name, files, records)
        if reason:
            yield BrokenRecord(name=name, reason=reason)
        elif (done := _find_prepared(target / prepared_key(files))) is not None:
            yield done
        else:
            waiting.append(name)
    if waiting:
        jobs = [
            partial(prepare_one, records.directory, name, hashes[name], target) for name in waiting
        ]
        yield from run_in_processes(jobs, is_ordered=False)


def _reason_broken(name: str, files: dict[str, str], records: Records) -> str:
    missing = [f"{name}.{ext}" for ext in RECORD_FILES if f"{name}.{ext}" not in files]
    if missing:
        return f"missing: {', '.join(missing)}"
    for file_name, found in files.items():
        published = records.sha256.get(file_name, found)
        if found != published:
            return f"{file_name} must have the published SHA-256 {published[:12]}, got {found[:12]}"
    return ""


def _find_prepared(directory: Path) -> PreparedRecord | None:
    from pydantic import TypeAdapter

    summary = directory / _SUMMARY
    if not summary.is_file():
        return None
    return TypeAdapter(PreparedRecord).validate_json(summary.read_bytes())


def prepare_one(
    directory: Path, name: str, files: dict[str, str], target: Path
) -> PreparedRecord | BrokenRecord:
    """Read and prepare one record, in its own process; a broken record is reported, not raised."""
    try:
        return _prepare(directory, name, files, target / prepared_key(files))
    except (CorruptRecordError, RecordNotFoundError) as error:
        return BrokenRecord(name=name, reason=str(error))
    except EcgError as error:
        return BrokenRecord(name=name, reason=f"cannot be prepared: {error}")


def _prepare(directory: Path, name: str, files: dict[str, str], target: Path) -> PreparedRecord:
    from ecg_lib.evaluation.beat_scoring import score_beats
    from ecg_lib.evaluation.prepared_views import prepare_scored_view
    from ecg_lib.records.record import read_wfdb

    record = read_wfdb(directory / name, with_annotations=True)
    annotations = write_annotations(record, target)
    role = role_of(name)
    views = {view: write_view(record, view, target) for view in INGESTED_VIEWS[role]}
    whole = views.get(WHOLE_RECORD) or prepare_scored_view(record, WHOLE_RECORD)
    beats = whole[0].beats
    figures: dict[str, int] = {}
    if role is not Role.TEST:
        counts = score_beats(
            annotations, detections=beats.r_peaks, is_v=beats.is_readable & False, fs=record.fs
        )
        figures = {
            "found": counts.found,
            "extra": counts.extra,
            "missed_v": counts.v_beats - counts.v_found,
        }
    summary = PreparedRecord(
        name=name,
        role=role,
        files=files,
        prepared=target.name,
        duration_s=record.duration_s,
        lead=record.choose_lead(),
        annotated={aami.value: n for aami, n in count_classes(annotations.beat_classes).items()},
        detected=len(beats),
        unreadable_s=round(beats.unreadable_s, 3),
        **figures,
    )
    # Written last: a record with a summary has all its files.
    write_whole(target / _SUMMARY, json.dumps(asdict(summary)))
    return summary


@task(cache_policy=NO_CACHE)
def check_enough(
    prepared: list[PreparedRecord], broken: list[BrokenRecord], *, max_broken_share: float
) -> None:
    """Fail the run when too many records are broken."""
    total = len(prepared) + len(broken)
    if len(broken) > max_broken_share * total:
        reasons = "; ".join(f"{record.name}: {record.reason}" for record in broken[:5])
        msg = (
            f"at most {max_broken_share:.0%} of the records may be broken, "
            f"got {len(broken)} of {total} ({reasons})"
        )
        raise DatasetError(msg)


@task(cache_policy=NO_CACHE)
def publish_version(
    records: Records,
    prepared: list[PreparedRecord],
    broken: list[BrokenRecord],
    settings: Settings,
) -> DatasetVersion:
    """Make the version, save it and show it as a table."""
    version = make_version(
        data_source=records.data_source,
        source_directory=records.directory,
        records=prepared,
        broken=broken,
    )
    save_version(version, settings.datasets_dir)
    create_table_artifact(
        key="dataset",
        description=f"Dataset {version.version}, {version.data_source} data",
        table=[
            {
                "record": record.name,
                "role": record.role.value,
                "lead": record.lead,
                **record.annotated,
                "detected": record.detected,
                "unreadable s": round(record.unreadable_s),
            }
            for record in version.records
        ]
        + [
            {"record": record.name, "role": "LEFT OUT", "lead": record.reason}
            for record in version.broken
        ],
    )
    return version


@task(cache_policy=NO_CACHE)
def remove_what_older_code_prepared(settings: Settings) -> None:
    """Free the disk of prepared records that this code does not read."""
    n_removed = remove_outdated(settings.datasets_dir)
    if n_removed:
        get_run_logger().info("removed %d records that older code had prepared", n_removed)
