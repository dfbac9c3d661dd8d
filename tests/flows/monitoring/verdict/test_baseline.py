"""The baseline of a site: what is accepted, for which model, and that the ledger notes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.drift.observation import (
    COMPARED_COLUMNS,
    OBSERVED_COLUMNS,
    gather_strips,
    read_reference,
)
from ecg_lib.operations.drift.traffic_log import Window, read_volume, sample_traffic
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import PredictionRow
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.objects import StoreError
from flows.doors.ledger import read_ledger
from flows.local.cli import app
from flows.monitoring.evidence import open_log
from flows.monitoring.verdict.baseline import (
    BaselineError,
    accept_baseline,
    read_baseline,
    read_compared,
    remove_baseline,
)
from tests.homes import keep_from_store, make_release

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ECG_HOME", str(tmp_path))
    return Settings()


@pytest.fixture
def log(settings: Settings) -> Iterator[PredictionLog]:
    with open_log(settings) as log:
        yield log


@pytest.fixture
def release(toy_bundle: Bundle) -> Release:
    return make_release(
        "2", bundle_hash=toy_bundle.hash, code_hash="c" * 64, released_at=NOW.isoformat()
    )


def _send(
    log: PredictionLog,
    release: Release,
    *,
    n_strips: int = 200,
    n_people: int = 10,
    ago: timedelta = timedelta(hours=1),
) -> None:
    """Log strips of three beats, as the service does."""
    rng = np.random.default_rng(0)
    rows = [
        PredictionRow(
            prediction_id=f"p{number}",
            created_at=NOW - ago,
            patient_key=f"{number % n_people:064x}",
            bundle_hash=release.bundle_hash,
            bento_tag=release.bento_tag,
            duration_s=10.0,
            response={"beat_predictions": []},
            observed={name: rng.random(3).round(3).tolist() for name in OBSERVED_COLUMNS}
            | {"arrhythmia_type": ["N", "V", "N"], "rule": ["none"] * 3},
        )
        for number in range(n_strips)
    ]
    log.add_predictions(rows)


def _accept(settings: Settings, release: Release, log: PredictionLog, *, days: float = 7.0) -> None:
    accept_baseline(settings, release, log, now=NOW, days=days, why="usual here")


def test_drift_is_compared_with_the_accepted_traffic_of_this_model_alone(
    settings: Settings, release: Release, log: PredictionLog, toy_bundle: Bundle
) -> None:
    reference = read_reference(toy_bundle.read_drift_reference())
    assert read_compared(settings, toy_bundle).n_strips == reference.n_strips
    _send(log, release)
    _accept(settings, release, log)
    found = read_compared(settings, toy_bundle)
    window = Window(since=NOW - timedelta(days=1), until=NOW)
    sent = gather_strips(sample_traffic(log, window, read_volume(log, window), max_strips=1000))
    assert (found.n_strips, found.n_groups, found.n_beats) == (200, 10, 600)
    for name in COMPARED_COLUMNS:
        np.testing.assert_array_equal(np.sort(found.columns[name]), np.sort(sent.columns[name]))
    other = replace(toy_bundle, hash="0" * 64)
    assert read_compared(settings, other).n_strips == reference.n_strips
    # No hash of a patient is kept in it.
    assert set(found.group.tolist()) == {f"person {number}" for number in range(10)}


@pytest.mark.parametrize(
    ("n_strips", "n_people", "days", "is_enough"),
    [
        (200, 10, 7.0, True),
        (199, 10, 7.0, False),
        (200, 9, 7.0, False),
        (200, 10, 0.04, False),  # all are an hour old
    ],
)
def test_a_baseline_needs_enough_strips_of_enough_people(
    settings: Settings,
    release: Release,
    log: PredictionLog,
    *,
    n_strips: int,
    n_people: int,
    days: float,
    is_enough: bool,
) -> None:
    _send(log, release, n_strips=n_strips, n_people=n_people)
    if is_enough:
        _accept(settings, release, log, days=days)
    else:
        with pytest.raises(BaselineError, match="needs 200 strips of 10 people"):
            _accept(settings, release, log, days=days)
        assert not read_ledger(settings.ledger_dir).entries
    assert (read_baseline(settings, release.bundle_hash) is not None) is is_enough


def test_the_ledger_notes_who_accepted_a_baseline_and_who_reset_it(
    settings: Settings, release: Release, log: PredictionLog, toy_bundle: Bundle
) -> None:
    assert not remove_baseline(settings, release, why="none yet")
    _send(log, release)
    _accept(settings, release, log)
    assert remove_baseline(settings, release, why="it was an error")
    assert read_baseline(settings, release.bundle_hash) is None
    latest, first = read_ledger(settings.ledger_dir).entries
    assert (first.event.kind.value, first.event.why) == ("baseline", "usual here")
    assert "200 strips of 10 people or clients from 2026-02-22 to 2026-03-01" in first.reason
    assert (latest.event.why, latest.is_served) == ("it was an error", False)
    reference = read_reference(toy_bundle.read_drift_reference())
    assert read_compared(settings, toy_bundle).n_strips == reference.n_strips


def test_a_damaged_baseline_is_an_error_that_says_what_to_do_and_can_be_reset(
    settings: Settings, release: Release, log: PredictionLog, toy_bundle: Bundle
) -> None:
    _send(log, release)
    _accept(settings, release, log)
    (path,) = (settings.home / "baselines").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BaselineError, match="accept it again, or reset it"):
        read_compared(settings, toy_bundle)
    assert remove_baseline(settings, release, why="damaged")
    assert read_compared(settings, toy_bundle).n_strips > 0


def test_without_a_served_model_there_is_nothing_to_accept(settings: Settings) -> None:
    done = CliRunner().invoke(app, ["baseline", "show"])
    assert isinstance(done.exception, BaselineError)
    assert "none is: run the pipeline first" in str(done.exception)


def test_a_baseline_holds_on_every_machine_until_one_resets_it(
    settings: Settings,
    release: Release,
    log: PredictionLog,
    toy_bundle: Bundle,
    tmp_path: Path,
    store_url: str,
) -> None:
    _send(log, release)
    one = settings.model_copy(update={"store_url": store_url})
    other = Settings(home=tmp_path / "other", store_url=store_url)
    _accept(one, release, log)
    assert read_baseline(other, toy_bundle.hash) == read_baseline(one, toy_bundle.hash)
    assert read_compared(other, toy_bundle).n_strips == 200
    (one.home / "baselines" / f"{toy_bundle.hash[:16]}.parquet").write_bytes(b"damaged")
    assert read_compared(one, toy_bundle).n_strips == 200
    with keep_from_store(store_url):
        assert read_compared(other, toy_bundle).n_strips == 200
        with pytest.raises(StoreError):
            remove_baseline(other, release, why="usual no more")
    assert remove_baseline(other, release, why="usual no more")
    assert read_baseline(one, toy_bundle.hash) is None
    assert read_baseline(other, toy_bundle.hash) is None
