"""Find the records of databases: in a directory, downloaded before, at PhysioNet, or simulated."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import NamedTuple

from prefect import get_run_logger

from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.settings import Profile, Settings
from flows.data.databases import (
    MITDB,
    OPTIONAL,
    PUBLISHED,
    SIMULATED,
    Database,
    DatabaseName,
    describe_own,
    expected_sha256,
    find_known,
    read_published_files,
)
from flows.data.progress import ProgressBar
from flows.doors.archives.download import UnreachableError
from flows.doors.archives.physionet import (
    address_beside,
    check_reachable,
    download_files,
    read_listing,
)
from flows.doors.parallel import run_in_processes

SIMULATED_PATIENTS = 24
SIMULATED_DURATION_S = 900.0
SIMULATION_SEED = 20

_DEMO_PATIENTS = 16
_DEMO_DURATION_S = 180.0


class Source(StrEnum):
    """Source of the records."""

    AUTO = "auto"
    """A directory if one is set, else what was downloaded, else PhysioNet, else the simulator."""
    SIMULATOR = "simulator"


class Records(NamedTuple):
    """Records of a database that are on disk."""

    directory: Path
    names: tuple[str, ...]
    database: Database
    sha256: dict[str, str]
    """Published SHA-256 of files; empty for simulated records and those of a user's own."""


def describe_directory(directory: Path | None, annotations: str, subjects: Path | None) -> Records:
    """Describe the records of a user's own database.

    Raises:
        ConfigurationError: If there is none, the table of subjects cannot be used, or records are
            copies of published ones, whose persons and parts would no longer be known.
    """
    path = (directory or Path()).expanduser().absolute()
    database = describe_own(path, annotations=annotations, subjects=subjects)
    known = find_known(path, database)
    if known:
        copies = ", ".join(f"{name} is {one}" for name, one in list(known.items())[:10])
        msg = (
            "a database of your own must not hold records of a published one: "
            f"{copies}; name mitdb or svdb among the databases, or remove them"
        )
        raise ConfigurationError(msg)
    return Records(path, tuple(database.roles), database, {})


def find_records(source: Source, settings: Settings) -> Records:
    """Find the records of MIT-BIH, and simulate patients when there is no network to get them."""
    if source is Source.SIMULATOR:
        return simulate(settings)
    if (why := find_why_absent(settings)) is not None:
        get_run_logger().warning(
            "NO REAL DATA: %s; continuing with SIMULATED patients. "
            "Set ECG_MITDB_DIR to train on MIT-BIH.",
            why,
        )
        return simulate(settings)
    return _find(MITDB, settings)


def find_why_absent(settings: Settings, database: Database = MITDB) -> str | None:
    """Find why there are no records of a database; None when they are here or can be downloaded."""
    is_set = getattr(settings, f"{database.name}_dir") is not None
    if is_set or _is_downloaded(database, settings):
        return None
    try:
        check_reachable(settings.physionet_url)
    except UnreachableError as error:
        return str(error)
    return None


def find_published(name: DatabaseName, settings: Settings) -> Records:
    """Find the records of a database of PhysioNet, and download them when they are not on disk."""
    return _find(PUBLISHED[name], settings)


def _find(database: Database, settings: Settings) -> Records:
    logger = get_run_logger()
    logger.info(
        "%s %s (%s; %s)", database.title, database.version, database.licence, database.citation
    )
    variable = f"ECG_{database.name.upper()}_DIR"
    given: Path | None = getattr(settings, f"{database.name}_dir")
    if given is not None:
        if not any(given.glob("*.hea")):
            msg = (
                f"{variable} must be a directory with the records of the {database.title}, "
                f"there is no .hea file in {given}"
            )
            raise ConfigurationError(msg)
        return of_directory(database, given)
    directory = settings.data_dir / database.name
    if _is_downloaded(database, settings):
        logger.info("the %s is already downloaded", database.title)
    else:
        _download(database, directory, settings)
    return of_directory(database, directory)


def find_directory(database: Database, settings: Settings) -> Path | None:
    """Find the directory of a database that is set, or was downloaded; None when there is none."""
    given: Path | None = getattr(settings, f"{database.name}_dir")
    directory = given or settings.data_dir / database.name
    return directory if any(directory.glob("*.hea")) else None


def of_directory(database: Database, directory: Path) -> Records:
    """Describe the records of a database in a directory; optional ones may be missing."""
    may_lack = OPTIONAL.get(database.name, frozenset())
    names = [
        name
        for name in sorted(database.roles)
        if name not in may_lack or (directory / f"{name}.hea").is_file()
    ]
    return Records(directory, tuple(names), database, expected_sha256(database.name))


def _is_downloaded(database: Database, settings: Settings) -> bool:
    directory = settings.data_dir / database.name
    return all((directory / name).is_file() for name in _all_files(database))


def _all_files(database: Database) -> list[str]:
    return [file for name in database.roles for file in database.files_of(name)]


def _download(database: Database, directory: Path, settings: Settings) -> None:
    logger = get_run_logger()
    base_url = address_beside(settings.physionet_url, f"{database.name}/{database.version}/")
    check_reachable(base_url)
    files = read_listing(
        base_url,
        _all_files(database),
        folder=database.path,
        known=read_published_files(database.name),
    )
    bar = ProgressBar(f"Download of {database.name} from PhysioNet")
    report = download_files(
        directory, base_url=base_url + database.path, files=files, on_progress=bar.update
    )
    logger.info(
        "download: %d files fetched, %d kept, %d retries",
        report.files_fetched,
        report.files_kept,
        report.retries,
    )


def simulate(settings: Settings) -> Records:
    """Write the simulated cohort as WFDB records, so that there is one path from here on."""
    is_demo = settings.profile is Profile.DEMO
    patients = _DEMO_PATIENTS if is_demo else SIMULATED_PATIENTS
    duration_s = _DEMO_DURATION_S if is_demo else SIMULATED_DURATION_S
    kind = "textbook" if is_demo else "simulated"
    directory = settings.data_dir / f"{kind}-{patients}x{duration_s:g}s-seed{SIMULATION_SEED}"
    names = tuple(f"sim{number:03d}" for number in range(1, patients + 1))
    directory.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if not _is_whole(directory, name)]
    jobs = [
        partial(_write_simulated, name, directory, duration_s, is_textbook=is_demo)
        for name in missing
    ]
    list(run_in_processes(jobs))
    return Records(directory, names, SIMULATED, {})


def _is_whole(directory: Path, name: str) -> bool:
    return all((directory / file).is_file() for file in SIMULATED.files_of(name))


def _write_simulated(name: str, directory: Path, duration_s: float, *, is_textbook: bool) -> None:
    from ecg_lib.records.record import write_wfdb
    from ecg_lib.records.simulation.cohorts import simulate_textbook_member
    from ecg_lib.records.simulation.simulator import simulate_cohort_member

    number = int(name.removeprefix("sim"))
    draft = directory / f".{name}.draft"
    simulate_member = simulate_textbook_member if is_textbook else simulate_cohort_member
    member = simulate_member(number, duration_s=duration_s, seed=SIMULATION_SEED)
    write_wfdb(member, draft)
    for file in SIMULATED.files_of(name):
        (draft / file).replace(directory / file)
    draft.rmdir()
