"""Homes with releases and rows, which are backed up and restored."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import PredictionRow
from ecg_lib.operations.releases import Release, hash_code
from ecg_lib.operations.settings import Settings
from tests.homes import make_release
from tests.lists import list_predictions

NOBODY = 1
"""A port that no server has: tcpmux."""


def make_row(number: int) -> PredictionRow:
    return PredictionRow(
        prediction_id=f"p{number:06}",
        created_at=datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=number),
        patient_key="k",
        bundle_hash="a",
        bento_tag="ecg:x",
        duration_s=10.0,
        response={"total_beats_detected": number, "beats": "N" * 2000},
        observed={},
    )


def open_home(home: Path) -> Settings:
    home.mkdir(parents=True)
    return Settings(home=home, service_port=NOBODY)


def store_release(settings: Settings, bundle: Bundle) -> Release:
    """Put a bundle and code of a bento into the store."""
    store = settings.bentoml_home
    source = store / "bentos" / "ecg" / "1" / "src"
    for package in ("bentos", "ecg_lib"):
        (source / package).mkdir(parents=True)
        (source / package / "code.py").write_text("A = 1\n")
    shutil.copytree(bundle.directory, store / "models" / "ecg_bundle" / "1" / "bundle")
    return make_release("1", bundle_hash=bundle.hash, code_hash=hash_code(source))


def list_ids(settings: Settings) -> list[str]:
    log = PredictionLog(settings.monitoring_database_url)
    rows = list_predictions(log)
    log.close()
    return rows


def rewrite(file: Path, change: Callable[[str, bytes], bytes]) -> None:
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, change(name, data))
