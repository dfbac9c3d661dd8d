from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from prefect.logging import disable_run_logger
from typer.testing import CliRunner

from ecg_lib.errors import DatasetError
from ecg_lib.operations.keys.patient_key import hash_patient, read_patient_key
from ecg_lib.operations.learning.drifted_beats import (
    DriftedBeat,
    DriftedBeats,
    write_drifted_beats,
)
from ecg_lib.operations.learning.kept_signals import KeptSignal, SignalStore
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import FeedbackRow
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.mirror import changing_reports, mirror_reports
from flows.local.cli import app
from flows.monitoring.labels.kept_signals import (
    delete_patient,
    open_signals,
    sort_kept_signals,
    sort_signals,
)
from flows.monitoring.verdict.verdict_page import page_name
from tests.homes import keep_from_store

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


def name_beats(settings: Settings, at: datetime, patient_key: str = "a" * 64) -> Path:
    """Write the evidence of a check that names a beat of a patient; return the file that does."""
    page = settings.reports_dir / "drift" / f"{page_name(at)}-decision.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.touch()
    beat = DriftedBeat(
        patient_key=patient_key, prediction_id="p", created_at=at, sample=9, called="V", value="1 s"
    )
    found = DriftedBeats(are_kept=True, column="rr_prev_s", usual="0.8", beats=(beat,))
    write_drifted_beats(page, found)
    return page.with_name(f"{page.stem}.beats.json")


def test_beats_that_checks_name_go_when_no_signal_can_be_left(
    settings: Settings, log: PredictionLog
) -> None:
    second = timedelta(seconds=1)
    old = name_beats(settings, NOW - 365 * DAY - second)
    new = name_beats(settings, NOW - 365 * DAY + second)
    with disable_run_logger():
        sort_kept_signals.fn(settings, log, now=NOW)
    assert (old.exists(), new.exists()) == (False, True)
    assert len(list(old.parent.glob("*-decision.html"))) == 2


def test_a_patient_who_is_deleted_is_named_by_no_check_any_more(settings: Settings) -> None:
    own, other = name_beats(settings, NOW), name_beats(settings, NOW + DAY, "b" * 64)
    before = other.read_text()
    assert delete_patient(settings, "a" * 64) == 0
    assert "a" * 64 not in own.read_text()
    assert other.read_text() == before


def test_deletion_names_the_files_of_checks_that_it_cannot_change(settings: Settings) -> None:
    own = name_beats(settings, NOW)
    unreadable = own.with_name("0.beats.json")
    unreadable.mkdir()
    with pytest.raises(DatasetError, match=r"0 signals deleted; files of drift checks must be"):
        delete_patient(settings, "a" * 64)
    assert "a" * 64 not in own.read_text()


def test_a_patient_who_is_deleted_is_named_by_no_check_of_any_home(
    settings: Settings, tmp_path: Path, store_url: str
) -> None:
    one = settings.model_copy(update={"store_url": store_url})
    other = Settings(home=tmp_path / "other", store_url=store_url)
    with changing_reports(one):
        own, theirs = name_beats(one, NOW), name_beats(one, NOW + DAY, "b" * 64)
    mirror_reports(other).pull()
    copies = [other.reports_dir / "drift" / path.name for path in (own, theirs)]
    assert "a" * 64 in copies[0].read_text()
    delete_patient(other, "a" * 64)
    mirror_reports(one).pull()
    for path in (own, copies[0]):
        assert "a" * 64 not in path.read_text()
    assert copies[1].read_text() == theirs.read_text()


def test_a_deletion_that_the_store_has_not_taken_is_an_error_until_it_is_repeated(
    settings: Settings, tmp_path: Path, store_url: str
) -> None:
    one = settings.model_copy(update={"store_url": store_url})
    with changing_reports(one):
        own = name_beats(one, NOW)
    with keep_from_store(store_url):
        with pytest.raises(DatasetError, match="the store still has what names the patient"):
            delete_patient(one, "a" * 64)
        assert "a" * 64 not in own.read_text()
    delete_patient(one, "a" * 64)
    other = Settings(home=tmp_path / "other", store_url=store_url)
    mirror_reports(other).pull()
    for settings_ in (one, other):
        assert "a" * 64 not in (settings_.reports_dir / "drift" / own.name).read_text()


def test_a_check_that_names_a_patient_while_another_home_deletes_it_is_cleaned_by_the_next(
    settings: Settings, log: PredictionLog, tmp_path: Path, store_url: str
) -> None:
    one = settings.model_copy(update={"store_url": store_url})
    other = Settings(home=tmp_path / "other", store_url=store_url)
    with changing_reports(one):
        delete_patient(other, "a" * 64)
        at = datetime.now(UTC)
        before, after = name_beats(one, at - DAY), name_beats(one, at + DAY)
    with disable_run_logger():
        sort_kept_signals.fn(one, log, now=at)
    mirror_reports(other).pull()
    for settings_ in (one, other):
        pages = settings_.reports_dir / "drift"
        assert "a" * 64 not in (pages / before.name).read_text()
        assert "a" * 64 in (pages / after.name).read_text()  # with a later consent
