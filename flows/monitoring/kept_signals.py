"""Keep the signals of labelled predictions, delete those that are old, and those of a patient."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from typing import NamedTuple

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ecg_lib.operations.learning.kept_signals import SignalStore
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.settings import Settings


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
    """Keep the signals that have a label by now, and delete those that are old."""
    found = sort_signals(
        open_signals(settings),
        log,
        now=now,
        kept=timedelta(days=settings.signals_kept_days),
        waits=timedelta(days=settings.signals_wait_days),
    )
    if found.kept or found.deleted:
        get_run_logger().info(
            "signals: %d have a label and are kept, %d are old and deleted",
            found.kept,
            found.deleted,
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
    """Delete the kept signals of a patient, and the beats that training cut from them.

    Args:
        settings: The home.
        patient_key: Keyed hash of the patient.

    Returns:
        The number of signals that there were.

    Raises:
        ConfigurationError: If it is not the hash of a patient.
    """
    from flows.data.dataset_versions import list_versions, load_version
    from flows.data.prepared_views import records_dir
    from flows.data.records.site import name_person

    n_deleted = open_signals(settings).delete_patient(patient_key)
    person = name_person(patient_key)
    for name in list_versions(settings.datasets_dir):
        for record in load_version(settings.datasets_dir, name).records:
            if record.labels is not None and record.subject == person:
                prepared = records_dir(settings.datasets_dir) / record.prepared
                shutil.rmtree(prepared, ignore_errors=not prepared.exists())
    for description in (settings.datasets_dir / "training").glob("*/dataset.json"):
        if person in json.loads(description.read_text(encoding="utf-8"))["subjects"]:
            shutil.rmtree(description.parent)
    return n_deleted
