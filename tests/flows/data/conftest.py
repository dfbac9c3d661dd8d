"""The log and the kept signals of a home."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ecg_lib.operations.learning.kept_signals import SignalStore
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ECG_HOME", str(tmp_path))
    return Settings()


@pytest.fixture
def store(settings: Settings) -> SignalStore:
    return SignalStore(settings.signals_dir, settings.signal_key_path)


@pytest.fixture
def log(settings: Settings) -> Iterator[PredictionLog]:
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    yield log
    log.close()
