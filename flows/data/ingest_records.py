"""Flow ``ingest-records``: from records on disk or at PhysioNet to a dataset version."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from ecg_lib.classifier.bundle import DataSource
from ecg_lib.errors import (
    ConfigurationError,
    DatasetError,
)
from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.records.atomic_files import require_room
from flows.data.databases import (
    MITDB,
    SIMULATED,
    SITE,
    DatabaseName,
    Role,
)
from flows.data.dataset_versions import (
    BrokenRecord,
    DatasetVersion,
    PreparedRecord,
    make_version,
    save_version,
)
from flows.data.prepared_views import (
    records_dir,
    remove_outdated,
)
from flows.data.progress import ProgressBar
from flows.data.records.lock import adding_records
from flows.data.records.preparation import prepare_all
from flows.data.records.site import prepare_site
from flows.data.records.sources import (
    Records,
    Source,
    describe_directory,
    find_published,
    find_records,
)
from flows.data.shared_versions import share_version
from flows.doors.ui.run_names import name_run

DEFAULT_DATABASES = (DatabaseName.MITDB,)


@flow(name="ingest-records", log_prints=False)
def ingest_records(
    source: Source = Source.AUTO,
    databases: Annotated[tuple[DatabaseName, ...], Field(min_length=1)] = DEFAULT_DATABASES,
    directory: str = "",
    annotations: str = "atr",
    subjects: str = "",
    max_broken_share: Annotated[float, Field(ge=0, le=1)] = 0.1,
    *,
    with_labels: bool = False,
) -> str:
    """Make a dataset version of the records of databases, and prepare each record once.

    Training, the promotion gate, the drift reference and reports read what is prepared here.
    Records that cannot be read are left out with their reason. Finished work is reused: a second
    run takes seconds, and a run that was killed resumes where it stopped.

    Args:
        source: Where records come from. `auto` takes the directory that is set for a database,
            such as ECG_MITDB_DIR, else an earlier download, else PhysioNet. For MIT-BIH alone and
            without a network it takes the simulator.
        databases: The databases, of mitdb, svdb, ludb, nstdb, and own.
        directory: Directory of the WFDB records of your own database; only with `own`.
        annotations: Extension of its annotation files.
        subjects: Its table of subjects, a CSV file with the columns record, subject and part
            (development, test or paced); without it each record is of another person.
        max_broken_share: Share of the records of databases that may be broken before the run
            fails.
        with_labels: Add the strips of traffic whose signals are kept and that readers labelled.

    Returns:
        The dataset version.
    """
    settings = read_settings()
    require_room(settings.home)
    started_s = time.monotonic()
    name_run(f"ingest {', '.join(databases)}")
    place = Path(directory) if directory else None
    check_request(source, databases, place)
    found = [
        find_mitdb(source, settings)
        if name is DatabaseName.MITDB and len(databases) == 1
        else describe_directory(place, annotations, Path(subjects) if subjects else None)
        if name is DatabaseName.OWN
        else find_database(name, settings)
        for name in dict.fromkeys(databases)
    ]
    with adding_records(settings.datasets_dir):
        results = [prepare_records(records, settings) for records in found]
        if with_labels:
            results.append(prepare_labelled(settings))
        prepared = [record for done, _ in results for record in done]
        broken = [record for _, left_out in results for record in left_out]
        check_enough(prepared, broken, max_broken_share=max_broken_share)
        version = publish_version(found, prepared, broken, settings)
    remove_what_older_code_prepared(settings)
    name_run(f"dataset {version.version} of {len(version.records)} {version.data_source} records")
    get_run_logger().info(
        "dataset %s: %d records (%s), %d left out, %.1f s",
        version.version,
        len(version.records),
        version.data_source,
        len(version.broken),
        time.monotonic() - started_s,
    )
    return version.version


def check_request(
    source: Source, databases: Sequence[DatabaseName], directory: Path | None
) -> None:
    """Reject parameters that do not belong together.

    Raises:
        ConfigurationError: If a directory is given without the database `own`, or `own` without a
            directory, or simulated patients with another database than MIT-BIH.
    """
    if source is Source.SIMULATOR and tuple(databases) != DEFAULT_DATABASES:
        msg = f"the simulator stands for mitdb alone, got databases {', '.join(databases)}"
        raise ConfigurationError(msg)
    if (DatabaseName.OWN in databases) != (directory is not None):
        msg = (
            "a database of your own needs both: 'own' among the databases and its directory; got "
            f"databases {', '.join(databases)} and directory {directory}"
        )
        raise ConfigurationError(msg)


@task(cache_policy=NO_CACHE)
def find_mitdb(source: Source, settings: Settings) -> Records:
    """Find the records of MIT-BIH, or simulate patients."""
    return find_records(source, settings)


@task(cache_policy=NO_CACHE)
def find_database(name: DatabaseName, settings: Settings) -> Records:
    """Find the records of a database of PhysioNet."""
    return find_published(name, settings)


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
    for result in prepare_all(records, target):
        if isinstance(result, BrokenRecord):
            logger.error("record %s is left out: %s", result.name, result.reason)
            broken.append(result)
        else:
            prepared.append(result)
        bar.update(len(prepared) + len(broken), len(records.names))
    return prepared, broken


@task(cache_policy=NO_CACHE)
def prepare_labelled(settings: Settings) -> tuple[list[PreparedRecord], list[BrokenRecord]]:
    """Prepare the labelled strips of traffic whose signals are kept."""
    logger = get_run_logger()
    target = records_dir(settings.datasets_dir)
    target.mkdir(parents=True, exist_ok=True)
    results = prepare_site(settings, target)
    prepared = [one for one in results if isinstance(one, PreparedRecord)]
    broken = [one for one in results if isinstance(one, BrokenRecord)]
    for one in broken:
        logger.error("labelled strip %s is left out: %s", one.name, one.reason)
    if broken:
        logger.error("labelled strips: %d of %d are left out", len(broken), len(results))
    for role, use in ((Role.DEVELOPMENT, "training"), (Role.HELD_OUT, "the promotion gate")):
        of_role = [one for one in prepared if one.role is role]
        logger.info(
            "labelled traffic for %s: %d strips of %d people with %d V beats",
            use,
            len(of_role),
            len({one.subject for one in of_role}),
            sum(one.annotated["V"] for one in of_role),
        )
    return prepared, broken


@task(cache_policy=NO_CACHE)
def check_enough(
    prepared: list[PreparedRecord], broken: list[BrokenRecord], *, max_broken_share: float
) -> None:
    """Fail the run when too many records of archives are broken.

    Labelled strips do not count: strips that cannot be read any more must not end training on
    the archives. They are reported and named in the version.
    """
    found = [record for record in prepared if record.database != SITE.name]
    wrong = [record for record in broken if record.database != SITE.name]
    total = len(found) + len(wrong)
    if len(wrong) > max_broken_share * total:
        reasons = "; ".join(f"{record.name}: {record.reason}" for record in wrong[:5])
        msg = (
            f"at most {max_broken_share:.0%} of the records may be broken, "
            f"got {len(wrong)} of {total} ({reasons})"
        )
        raise DatasetError(msg)


@task(cache_policy=NO_CACHE)
def publish_version(
    found: Sequence[Records],
    prepared: list[PreparedRecord],
    broken: list[BrokenRecord],
    settings: Settings,
) -> DatasetVersion:
    """Make the version, save it here and in the store, and show it as a table.

    A version that nothing can be trained on does not become the latest one.

    Raises:
        StoreError: If a store is set and cannot be reached; no version is made then.
    """
    first, *others = found
    has_site = any(record.database == SITE.name for record in prepared)
    directories = {records.database.name: records.directory for records in others}
    if has_site:
        directories[SITE.name] = settings.signals_dir
    version = make_version(
        data_source=_data_source(found, has_site=has_site),
        source_directory=first.directory,
        records=prepared,
        broken=broken,
        other_directories=directories,
    )
    # First the store: if it fails, nothing has changed, and the next run takes seconds.
    share_version(version, settings, is_latest=bool(version.folds))
    save_version(version, settings.datasets_dir, is_latest=bool(version.folds))
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


def _data_source(found: Sequence[Records], *, has_site: bool) -> DataSource:
    names = {records.database.name for records in found}
    if names == {SIMULATED.name}:
        return DataSource.SIMULATED
    is_mitdb = names == {MITDB.name} and not has_site
    return DataSource.MITDB if is_mitdb else DataSource.RECORDS


@task(cache_policy=NO_CACHE)
def remove_what_older_code_prepared(settings: Settings) -> None:
    """Free the disk of prepared records that this code does not read."""
    n_removed = remove_outdated(settings.datasets_dir)
    if n_removed:
        get_run_logger().info("removed %d records that older code had prepared", n_removed)
