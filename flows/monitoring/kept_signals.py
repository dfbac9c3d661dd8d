"""Keep the signals of labelled predictions, delete those that are old, and those of a patient."""

from __future__ import annotations

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
    """Delete the kept signals of a patient; return how many there were.

    Raises:
        ConfigurationError: If it is not the hash of a patient.
    """
    return open_signals(settings).delete_patient(patient_key)
