"""Strips that are sent to the service."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.operations.settings import Settings, read_settings
from flows.monitoring.traffic import (
    STRIP_S,
    ServiceError,
    Traffic,
    demo_strip,
    find_records_of_model,
    make_strips,
    send,
)
from flows.release.load_released import read_reference


def test_before_any_record_the_demo_is_simulated_and_says_so() -> None:
    strip = demo_strip(read_settings())
    assert strip.name == "a simulated strip"
    assert len(strip.signal_mv) == round(STRIP_S * strip.fs)
    found = BeatClassifier.load(read_reference()).classify(strip.signal_mv, fs=strip.fs)
    assert found.is_v.sum() >= 3


def test_a_key_is_sent_where_there_is_one() -> None:
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("x-api-key"))
        return httpx.Response(201, json={})

    strip = demo_strip(read_settings())
    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        send(strip, client=client, settings=Settings())
        send(strip, client=client, settings=Settings(api_key="open sesame"))
    assert seen == [None, "open sesame"]


def test_replayed_traffic_needs_the_records_of_the_model_and_says_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MITDB", "SVDB"):
        monkeypatch.delenv(f"ECG_{name}_DIR", raising=False)
    with pytest.raises(ServiceError) as raised:
        next(make_strips(Traffic.REPLAYED, count=1, seed=0, settings=read_settings()))
    assert "model shipped was made for (mitdb, svdb), those of 59 of 59 people" in str(raised.value)
    assert "set ECG_MITDB_DIR and ECG_SVDB_DIR" in str(raised.value)


@pytest.mark.data
def test_records_of_some_people_alone_are_not_replayed(
    mitdb_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ECG_SVDB_DIR", raising=False)
    with pytest.raises(ServiceError, match="those of 37 of 59 people are not here"):
        find_records_of_model(read_settings())


@pytest.mark.data
def test_the_records_of_the_shipped_model_are_those_of_its_drift_reference(mitdb_dir: Path) -> None:
    if "ECG_SVDB_DIR" not in os.environ:
        pytest.skip("ECG_SVDB_DIR is not set: the records of svdb are not here")
    records = find_records_of_model(read_settings())
    reference = read_reference().read_drift_reference()
    assert {record.subject for record in records} == set(reference["subject"].to_pylist())
    assert "202" not in {record.name for record in records}
