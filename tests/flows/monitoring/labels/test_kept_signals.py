from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ecg_lib.operations.keys.patient_key import hash_patient, read_patient_key
from ecg_lib.operations.learning.kept_signals import KeptSignal, SignalStore
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import FeedbackRow
from ecg_lib.operations.settings import Settings
from flows.local.cli import app
from flows.monitoring.labels.kept_signals import open_signals, sort_signals

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def store(settings: Settings) -> SignalStore:
    return open_signals(settings)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PredictionLog]:
    log = PredictionLog(f"sqlite:///{tmp_path / 'log.db'}")
    log.create_tables()
    yield log
    log.close()


def add(
    store: SignalStore,
    name: str,
    *,
    age: timedelta,
    is_waiting: bool,
    patient_key: str = "a" * 64,
) -> None:
    signal = KeptSignal(
        prediction_id=name,
        patient_key=patient_key,
        created_at=NOW - age,
        fs=360.0,
        lead="MLII",
        signal_mv=np.zeros(3600, dtype=np.float32),
    )
    store.add(signal, is_waiting=is_waiting)
    (file,) = [file for file in store.list_files() if file.prediction_id == name]
    at_s = (NOW - age).timestamp()
    os.utime(file.path, (at_s, at_s))


def give(log: PredictionLog, name: str, *, withdraws: str | None = None) -> None:
    log.add_feedback(
        [
            FeedbackRow(
                feedback_id=f"{'w' if withdraws else 'f'}-{name}",
                created_at=NOW,
                prediction_id=name,
                annotator=None,
                labels={} if withdraws else {0: "N"},
                withdraws=withdraws,
            )
        ]
    )


def left(store: SignalStore) -> dict[str, bool]:
    return {file.prediction_id: file.is_waiting for file in store.list_files()}


def test_labelled_signals_are_kept_and_others_deleted_when_their_time_is_over(
    store: SignalStore, log: PredictionLog
) -> None:
    second = timedelta(seconds=1)
    add(store, "labelled", age=9 * DAY, is_waiting=True)
    add(store, "withdrawn", age=9 * DAY, is_waiting=True)
    add(store, "fresh", age=7 * DAY - second, is_waiting=True)
    add(store, "old", age=7 * DAY, is_waiting=True)
    add(store, "drawn", age=30 * DAY - second, is_waiting=False)
    add(store, "ancient", age=30 * DAY, is_waiting=False)
    give(log, "labelled")
    give(log, "withdrawn")
    give(log, "withdrawn", withdraws="f-withdrawn")
    found = sort_signals(store, log, now=NOW, kept=30 * DAY, waits=7 * DAY)
    assert left(store) == {"labelled": False, "fresh": True, "drawn": False}
    assert found == (1, 3)
    assert sort_signals(store, log, now=NOW, kept=30 * DAY, waits=7 * DAY) == (0, 0)


def test_the_command_deletes_the_signals_of_a_patient_by_identifier_or_hash(
    settings: Settings, store: SignalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECG_HOME", str(settings.home))
    key = read_patient_key(settings.patient_key_path)
    mine, theirs = (hash_patient(name, key=key) for name in ("Jane Doe", "John Roe"))
    for number, patient_key in enumerate((mine, mine, theirs)):
        add(store, f"p{number}", age=DAY, is_waiting=number == 1, patient_key=patient_key)
    done = CliRunner().invoke(app, ["signals", "delete", "--patient", "Jane Doe"])
    assert (done.exit_code, done.stdout) == (0, "2 signals deleted\n")
    assert left(store) == {"p2": False}
    done = CliRunner().invoke(app, ["signals", "delete", "--hash", theirs])
    assert done.stdout == "1 signals deleted\n"
    assert CliRunner().invoke(app, ["signals", "delete"]).exit_code == 2
