"""A retraining that did not help holds the next one until a reader has labelled something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect.logging import disable_run_logger

from ecg_lib.classifier.bundle import Bundle, DataSource
from ecg_lib.operations.drift.decision import DriftAction, DriftDecision
from ecg_lib.operations.learning.kept_signals import KeptSignal, SignalStore
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import FeedbackRow, PredictionRow
from ecg_lib.operations.releases import CURRENT, Release, write_release
from ecg_lib.operations.settings import Settings
from flows.data.records.site import fingerprint_labels
from flows.evaluation.retraining_outcome import hold_useless_retraining, note_outcome

STARTED = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def bundle(make_toy_bundle: Callable[..., Bundle]) -> Bundle:
    """The served bundle, of simulated patients."""
    return make_toy_bundle("served")


@pytest.fixture
def log(settings: Settings) -> Iterator[PredictionLog]:
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    yield log
    log.close()


def _serve(settings: Settings, bundle_hash: str) -> None:
    write_release(
        settings.serving_dir / CURRENT,
        Release(
            bento_tag="ecg:1",
            model_tag="ecg_bundle:1",
            bundle_hash=bundle_hash,
            code_hash="c",
            model_version="1",
            released_at="2026-01-01T00:00:00+00:00",
        ),
    )


def _note(settings: Settings, *, is_promoted: bool, labels: str | None = None) -> None:
    verdict: dict[str, Any] = {"is_promoted": is_promoted, "reasons": ["gain on new people: none"]}
    with disable_run_logger():
        note_outcome.fn(
            settings,
            "d1",
            verdict,
            started_at=STARTED,
            labels=labels or fingerprint_labels(settings),
        )


def _hold(
    settings: Settings,
    log: PredictionLog,
    bundle: Bundle,
    action: DriftAction = DriftAction.RETRAIN,
) -> DriftDecision:
    decision = DriftDecision(
        action=action, reasons=("drift",), is_breach=True, is_conclusive=True, figures={}
    )
    return hold_useless_retraining(decision, log, bundle=bundle, version="1", settings=settings)


def _predict(settings: Settings, log: PredictionLog, name: str, *, is_kept: bool) -> None:
    patient_key = "e" * 64  # one who is trained on
    log.add_predictions(
        [
            PredictionRow(
                prediction_id=name,
                created_at=STARTED,
                patient_key=patient_key,
                bundle_hash="bundle",
                bento_tag="ecg:1",
                duration_s=10.0,
                response={"beat_predictions": [{"position_sample": 9, "arrhythmia_type": "N"}]},
                observed={},
            )
        ]
    )
    if is_kept:
        SignalStore(settings.signals_dir, settings.signal_key_path).add(
            KeptSignal(
                prediction_id=name,
                patient_key=patient_key,
                created_at=STARTED,
                fs=360.0,
                lead="MLII",
                signal_mv=np.zeros(3600, dtype=np.float32),
            ),
            is_waiting=False,
        )


def _label(log: PredictionLog, name: str, label: str = "N") -> None:
    row = FeedbackRow(
        feedback_id=f"{name} {label}",
        created_at=STARTED + timedelta(seconds=label == "V"),
        prediction_id=name,
        annotator=None,
        labels={0: label},
    )
    log.add_feedback([row])


def test_a_retraining_that_did_not_help_is_repeated_only_with_other_labels_to_train_on(
    settings: Settings, log: PredictionLog, bundle: Bundle
) -> None:
    _serve(settings, bundle.hash)
    _predict(settings, log, "kept", is_kept=True)
    _predict(settings, log, "not-kept", is_kept=False)
    assert _hold(settings, log, bundle).action is DriftAction.RETRAIN
    _label(log, "kept")
    _note(settings, is_promoted=False)
    held = _hold(settings, log, bundle)
    assert held.action is DriftAction.KEEP
    reason, *others = held.reasons
    assert reason == (
        "RETRAIN is due but held: the retraining of 2026-03-01 12:00 did not help "
        "(gain on new people: none) and there is nothing new to learn from: no label since of a "
        "signal that is kept"
    )
    assert others == ["drift"]
    _label(log, "not-kept")  # nothing can be trained on it
    assert _hold(settings, log, bundle).action is DriftAction.KEEP
    _label(log, "kept", "V")
    assert _hold(settings, log, bundle).action is DriftAction.RETRAIN


def test_a_retraining_without_the_records_of_the_champion_is_held(
    settings: Settings, log: PredictionLog, make_toy_bundle: Callable[..., Bundle]
) -> None:
    real = make_toy_bundle("real", data_source=DataSource.MITDB, databases=("mitdb",))
    nowhere = settings.model_copy(
        update={"physionet_url": "http://127.0.0.1:1/mitdb/1.0.0/", "mitdb_dir": None}
    )
    with disable_run_logger():
        held = _hold(nowhere, log, real)
    assert held.action is DriftAction.KEEP
    assert held.reasons[0].startswith(
        "RETRAIN is due but held: NOTHING IS TRAINED: there are no records of mitdb ("
    )
    assert held.reasons[1:] == ("drift",)
    given = nowhere.model_copy(update={"mitdb_dir": settings.home})
    with disable_run_logger():
        assert _hold(given, log, real).action is DriftAction.RETRAIN


def test_other_training_code_is_worth_another_retraining(
    settings: Settings, log: PredictionLog, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(settings, bundle.hash)
    _note(settings, is_promoted=False)
    assert _hold(settings, log, bundle).action is DriftAction.KEEP
    monkeypatch.setattr("flows.data.records.site.hash_code", lambda _: "other")
    assert _hold(settings, log, bundle).action is DriftAction.RETRAIN


def test_other_actions_other_models_and_a_retraining_that_helped_hold_nothing(
    settings: Settings, log: PredictionLog, bundle: Bundle
) -> None:
    _note(settings, is_promoted=False)  # nothing is served: it replaces nothing
    _serve(settings, "another")
    _note(settings, is_promoted=False)
    assert _hold(settings, log, bundle).action is DriftAction.RETRAIN
    _serve(settings, bundle.hash)
    _note(settings, is_promoted=True)
    assert _hold(settings, log, bundle).action is DriftAction.RETRAIN
    assert _hold(settings, log, bundle, DriftAction.ROLLBACK).action is DriftAction.ROLLBACK
