"""Keep the signals of labelled predictions, delete those that are old, and those of a patient.

With a signal go the beats that training prepared of it, and those that pages of drift checks name.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ecg_lib.errors import DatasetError
from ecg_lib.operations.learning.drifted_beats import remove_patient, remove_patients
from ecg_lib.operations.learning.kept_signals import SignalStore
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.mirror import changing_reports
from ecg_lib.operations.store.objects import StoreError
from flows.monitoring.verdict.verdict_page import remove_old_beats


class Sorted(NamedTuple):
    """Numbers of signals that were kept and deleted."""

    kept: int
    """Those that waited and have a label now."""
    deleted: int


def open_signals(settings: Settings) -> SignalStore:
    """Open the signals of the home."""
    return SignalStore(settings.signals_dir, settings.signal_key_path)


@task(cache_policy=NO_CACHE)
def sort_kept_signals(settings: Settings, log: PredictionLog, *, now: datetime) -> None:
    """Keep the signals that have a label by now, and delete those that are old with their copies.

    Copies go whenever their signal is gone, whatever deleted it, so that a run that was killed
    between both is made good by the next one.
    """
    from flows.data.records.copies import remove_copies_without_signal

    logger = get_run_logger()
    store = open_signals(settings)
    _follow_deletions(settings, store, now=now)
    found = sort_signals(
        store,
        log,
        now=now,
        kept=timedelta(days=settings.signals_kept_days),
        waits=timedelta(days=settings.signals_wait_days),
    )
    if found.kept or found.deleted:
        logger.info(
            "signals: %d have a label and are kept, %d are old and deleted",
            found.kept,
            found.deleted,
        )
    copies = remove_copies_without_signal(settings.datasets_dir, store)
    if copies.n_removed:
        logger.info("prepared beats of deleted signals: %d directories deleted", copies.n_removed)
    if copies.left:
        logger.warning("%s", _describe_left(copies.left))
    if shared := _remove_shared_without_signal(settings, store):
        logger.warning("%s", _describe_shared(shared))
    # A signal is at most as old as the longer of both when it goes.
    longest = timedelta(days=max(settings.signals_kept_days, settings.signals_wait_days))
    with changing_reports(settings):
        n_named = remove_old_beats(settings.reports_dir / "drift", before=now - longest)
    if n_named:
        logger.info("beats of drift checks whose signals are gone: %d files deleted", n_named)


def _follow_deletions(settings: Settings, store: SignalStore, *, now: datetime) -> None:
    """Delete the signals of patients that another home has deleted, and what names them."""
    from flows.data.shared_versions import follow_deletions, list_deleted_patients

    try:
        n_followed = follow_deletions(settings, store, now=now)
        if deleted := list_deleted_patients(settings):
            with changing_reports(settings):
                remove_patients(settings.reports_dir / "drift", deleted)
    except StoreError as error:
        get_run_logger().warning(
            "signals that other machines deleted are deleted the next time: %s", error
        )
        return
    if n_followed:
        get_run_logger().info("signals of patients that another machine deleted: %d", n_followed)


def _remove_shared_without_signal(settings: Settings, store: SignalStore) -> list[str]:
    """Remove what sweeps share of strips that neither this home nor the store keeps."""
    from flows.data.prepared_views import is_of_traffic
    from flows.data.records.site import name_strip
    from flows.data.shared_versions import list_shared_signals, name_signal
    from flows.training.workers.shared_data import remove_data_with

    kept = {name_strip(file.prediction_id) for file in store.list_files()}
    try:
        of_others = list_shared_signals(settings)
    except StoreError as error:
        return [str(error)]
    return remove_data_with(
        lambda version: any(
            record.name not in kept and name_signal(record) not in of_others
            for record in version.records
            if is_of_traffic(record.name)
        ),
        settings,
    )


def sort_signals(
    store: SignalStore, log: PredictionLog, *, now: datetime, kept: timedelta, waits: timedelta
) -> Sorted:
    """Keep signals that waited and have a label, and delete the old ones.

    Args:
        store: The signals.
        log: Where the labels are.
        now: The time.
        kept: How long signals are kept.
        waits: How long a signal waits for a label.
    """
    files = list(store.list_files())
    labelled = log.find_labelled(file.prediction_id for file in files if file.is_waiting)
    n_kept = n_deleted = 0
    for file in files:
        is_labelled = file.is_waiting and file.prediction_id in labelled
        limit = kept if is_labelled or not file.is_waiting else waits
        if now.timestamp() - file.written_s >= limit.total_seconds():
            store.delete(file)
            n_deleted += 1
        elif is_labelled:
            n_kept += store.keep(file.patient_key, file.prediction_id)
    return Sorted(n_kept, n_deleted)


def delete_patient(settings: Settings, patient_key: str) -> int:
    """Delete the kept signals of a patient, and the beats that were taken from them.

    These are what training prepared, what sweeps share in the store, and what pages of drift checks
    name. From the store go the signals of dataset versions too, and other homes delete their copies
    at their next drift check or retention.

    Args:
        settings: The home.
        patient_key: Keyed hash of the patient.

    Returns:
        The number of signals that there were.

    Raises:
        ConfigurationError: If it is not the hash of a patient.
        DatasetError: If directories do not state whose beats they hold, or files, directories or
            objects of the store cannot be deleted. All others are deleted by then.
    """
    from flows.data.records.copies import remove_copies_of_patient
    from flows.data.records.site import name_person
    from flows.data.shared_versions import forget_shared_patient
    from flows.training.workers.shared_data import remove_data_with

    person = name_person(patient_key)
    drift_pages, unreachable = settings.reports_dir / "drift", []
    try:  # first, as a training that begins meanwhile would take them from the store again
        forget_shared_patient(settings, patient_key, now=datetime.now(UTC))
    except StoreError as error:
        unreachable.append(f"signals of dataset versions: {error}")
    n_deleted = open_signals(settings).delete_patient(patient_key)
    try:
        with changing_reports(settings, must_publish=True):
            named = remove_patient(drift_pages, patient_key)
    except StoreError as error:
        unreachable.append(f"pages of drift checks: {error}")
        with changing_reports(settings):  # the next drift check publishes it
            named = remove_patient(drift_pages, patient_key)
    copies = remove_copies_of_patient(settings.datasets_dir, patient_key)
    shared = remove_data_with(
        lambda version: any(record.subject == person for record in version.records), settings
    )
    wrong = [_describe_left(copies.left)] if copies.left else []
    if shared:
        wrong.append(f"{_describe_shared(shared)}; repeat the command")
    if unreachable:
        wrong.append(
            "the store still has what names the patient, repeat the command when it can be "
            f"reached: {'; '.join(unreachable)}"
        )
    if named:
        wrong.append(
            "files of drift checks must be writable, these still name beats of the patient; "
            f"delete them: {', '.join(map(str, named))}"
        )
    if wrong:
        msg = "; ".join([f"{n_deleted} signals deleted", *wrong])
        raise DatasetError(msg)
    return n_deleted


def _describe_shared(problems: list[str]) -> str:
    return (
        "training beats of deleted signals must be removed from the store, this failed: "
        + ", ".join(problems)
    )


def _describe_left(left: tuple[Path, ...]) -> str:
    return (
        f"prepared beats must name their record and be deletable, {len(left)} directories are not "
        "and may hold beats of deleted signals; when no flow runs, delete them, ingest-records and "
        f"pipeline make them again: {', '.join(map(str, left))}"
    )
