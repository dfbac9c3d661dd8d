"""Signals are kept by a service that is told to, and by no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bentos.runtime.live_model import LoadedModel
from ecg_lib.operations.learning.kept_signals import SignalStore
from ecg_lib.operations.settings import Settings

RequestMaker = Callable[..., dict[str, Any]]


def store_of(settings: Settings) -> SignalStore:
    return SignalStore(settings.signals_dir, settings.signal_key_path)


@pytest.mark.parametrize(("share", "is_waiting"), [(0.0, True), (1.0, False)])
def test_a_service_that_is_told_to_keeps_the_signals_of_named_patients(
    start_service: Callable[..., Any],
    toy_model: LoadedModel,
    make_request: RequestMaker,
    share: float,
    *,
    is_waiting: bool,
) -> None:
    service = start_service(keep_signals=True, audit_share=share)
    try:
        service.runtime.live.use(toy_model)
        request = make_request(patient_id="Jane Doe", derivation="V1")
        answer = service.predict(**request).json()
        assert service.predict(**make_request()).status_code == 201
    finally:
        service.close()
    assert answer["drawn_for_review"] is not is_waiting
    store = store_of(service.runtime.settings)
    (file,) = store.list_files()
    assert (file.prediction_id, file.is_waiting) == (answer["prediction_id"], is_waiting)
    found = store.read(file.patient_key, file.prediction_id)
    assert found is not None
    assert (found.fs, found.lead) == (360.0, "V1")
    np.testing.assert_allclose(found.signal_mv, request["signal_data"], atol=1e-6)


def test_no_signal_is_kept_unless_asked(
    start_service: Callable[..., Any], toy_model: LoadedModel, make_request: RequestMaker
) -> None:
    service = start_service(audit_share=1.0)
    try:
        service.runtime.live.use(toy_model)
        assert service.predict(**make_request(patient_id="Jane Doe")).status_code == 201
    finally:
        service.close()
    assert not service.runtime.settings.signals_dir.exists()
    assert not service.runtime.settings.signal_key_path.exists()


def test_a_signal_that_cannot_be_kept_changes_no_answer(
    start_service: Callable[..., Any],
    toy_model: LoadedModel,
    make_request: RequestMaker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = start_service(keep_signals=True)
    try:
        service.runtime.live.use(toy_model)
        service.runtime.settings.signals_dir.write_text("in the way")
        for _ in range(3):
            assert service.predict(**make_request(patient_id="Jane Doe")).status_code == 201
    finally:
        service.close()
    assert caplog.text.count("signals are not kept: they cannot be written") == 1
