"""A home to back up, and one to restore into."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.keys.patient_key import read_patient_key
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.settings import Settings
from flows.release.transaction import release_model
from tests.flows.local.state.homes import make_row, open_home, store_release


@pytest.fixture
def home(tmp_path: Path, toy_bundle: Bundle) -> Settings:
    """A home in which a model was released."""
    settings = open_home(tmp_path / "a place" / "home")
    release_model(settings, store_release(settings, toy_bundle), why="the first")
    read_patient_key(settings.patient_key_path)
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    log.add_predictions([make_row(number) for number in range(100)])
    log.close()
    (settings.logs_dir).mkdir()
    (settings.logs_dir / "worker.log").write_text("a line")
    return settings


@pytest.fixture
def other(tmp_path: Path) -> Settings:
    """An empty home on another machine."""
    return open_home(tmp_path / "elsewhere")
