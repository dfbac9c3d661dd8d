"""The notes on each request for monitoring, on a real server and log."""

from __future__ import annotations

import io
import json
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bentos.runtime.predictor import Runtime
from ecg_lib.operations.drift.observation import STRETCH, gather_strips
from ecg_lib.operations.drift.traffic_log import (
    Window,
    read_volume,
    sample_traffic,
)
from ecg_lib.operations.keys.patient_key import hash_client
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import StripKind, simulate_record

RequestMaker = Callable[..., dict[str, Any]]
Predict = Callable[..., httpx.Response]
Noted = Callable[[str], dict[str, Any]]


@pytest.fixture
def noted(home: Path) -> Noted:
    """Wait for the row of the only request that has a site."""

    def find(site: str) -> dict[str, Any]:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            if (home / "monitoring.db").exists():
                with sqlite3.connect(home / "monitoring.db") as connection:
                    connection.row_factory = sqlite3.Row
                    tables = {name for (name,) in connection.execute(
                        "SELECT name FROM sqlite_master"
                    )}  # fmt: skip
                    for row in (
                        connection.execute("SELECT * FROM requests") if "requests" in tables else ()
                    ):
                        slices = json.loads(row["slices"])
                        if slices.get("site") == site:
                            return dict(row) | {"slices": slices}
            time.sleep(0.02)
        pytest.fail(f"no request of site {site} was noted")

    return find


def test_a_prediction_is_noted_with_where_it_came_from(
    predict: Predict, make_request: RequestMaker, noted: Noted, runtime: Runtime
) -> None:
    body = make_request(StripKind.NORMAL, fs=250.0, derivation="V1", device="H3", site="ward 1")
    answer = predict(**body).json()
    row = noted("ward 1")
    assert row["request_id"] == answer["prediction_id"]
    assert row["slices"] == {"lead": "V1", "rate": "250 Hz", "device": "H3", "site": "ward 1"}
    assert (row["refused"], row["patient_key"], row["observed"]) == (None, None, None)
    key = (runtime.settings.patient_key_path).read_bytes().strip()
    assert row["client"] == hash_client("127.0.0.1", key=key)
    assert "127.0.0.1" not in str(row)


def test_a_signal_that_is_refused_is_noted_with_the_reason(
    predict: Predict, make_request: RequestMaker, noted: Noted
) -> None:
    body = make_request(StripKind.NOISE_ONLY, patient_id="p1", site="ward 2")
    assert predict(**body).status_code == 422
    row = noted("ward 2")
    assert row["refused"] == "signal-unreadable"
    assert row["duration_s"] == 10.0
    assert row["patient_key"] is not None
    assert row["client"] is not None


def test_requests_without_a_patient_are_one_group_and_refused_ones_count(
    predict: Predict, make_request: RequestMaker, noted: Noted, runtime: Runtime
) -> None:
    since = datetime.now(UTC)
    for _ in range(3):
        predict(**make_request(StripKind.NORMAL))
    predict(**make_request(StripKind.NOISE_ONLY))
    predict(**make_request(StripKind.NORMAL, patient_id="p2", site="ward 3"))
    noted("ward 3")
    window = Window(since=since, until=since + timedelta(hours=1))
    volume = read_volume(runtime.log, window)
    assert sorted(volume.groups.values()) == [(1, 0), (3, 1)]
    strips = list(sample_traffic(runtime.log, window, volume, max_strips=100))
    assert len({strip.group for strip in strips}) == 2
    assert len(strips) == 4


def test_a_long_strip_is_observed_in_stretches(
    predict: Predict, make_request: RequestMaker, noted: Noted, runtime: Runtime
) -> None:
    since = datetime.now(UTC)
    body = make_request(StripKind.NORMAL, patient_id="p3", site="ward 4")
    body["signal_data"] = body["signal_data"] * 6
    answer = predict(**body).json()
    noted("ward 4")
    window = Window(since=since, until=since + timedelta(hours=1))
    (strip,) = sample_traffic(runtime.log, window, read_volume(runtime.log, window), max_strips=100)
    assert strip.duration_s == 60.0
    at_s = [beat["position_sample"] / 360 for beat in answer["beat_predictions"]]
    assert list(strip.observed[STRETCH]) == [int(one // 10) for one in at_s]


@pytest.mark.parametrize(
    ("field", "value"),
    [("device", ""), ("device", "x" * 65), ("site", " ward"), ("site", "a\nb"), ("site", "<b>")],
)
def test_a_device_or_site_that_is_not_a_plain_name_is_rejected(
    predict: Predict, make_request: RequestMaker, field: str, value: str
) -> None:
    answered = predict(**make_request(StripKind.NORMAL, **{field: value}))
    assert answered.status_code == 422
    assert answered.json()["errors"][0]["field"] == field


def test_a_device_of_64_characters_is_accepted(
    predict: Predict, make_request: RequestMaker
) -> None:
    assert predict(**make_request(StripKind.NORMAL, device="x" * 64)).status_code == 201


def _send_recording(http: httpx.Client, signal_mv: np.ndarray) -> str:
    file = io.BytesIO()
    np.save(file, signal_mv.astype(np.float32))
    sent = http.post(
        "/api/v1/recordings/",
        files=[("files", ("r.npy", file.getvalue()))],
        data={"sampling_rate": "360"},
    )
    job_id = str(sent.json()["job_id"])
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if http.get(f"/api/v1/recordings/{job_id}").json()["status"] in {"done", "failed"}:
            return job_id
        time.sleep(0.05)
    pytest.fail("the recording must be done within 180 s")


@pytest.mark.slow
def test_pieces_of_a_recording_are_noted_as_strips_of_their_length(
    http: httpx.Client, runtime: Runtime
) -> None:
    since = datetime.now(UTC)
    patient = draw_patient(1)
    record = simulate_record("r", patient=patient, duration_s=120.0, seed=4)
    _send_recording(http, record.signal_mv())
    runtime.log.create_tables()
    window = Window(since=since, until=since + timedelta(hours=1))
    deadline = time.monotonic() + 180
    while not (volume := read_volume(runtime.log, window)).groups:
        assert time.monotonic() < deadline, "the recording was not noted"
        time.sleep(0.05)
    assert dict(volume.groups) == {"client recordings": (1, 0)}
    (strip,) = sample_traffic(runtime.log, window, volume, max_strips=100)
    assert dict(strip.slices) == {"lead": "MLII", "rate": "360 Hz", "device": "npy file"}
    beats = gather_strips([strip._replace(n_wanted=99)])
    assert beats.n_strips == 12
    assert set(beats.strip_s.tolist()) == {10.0}
    rr_s = np.nanmedian(beats.columns["rr_prev_s"].astype(float))
    annotations = record.annotations
    assert annotations is not None
    true_rr_s = np.median(np.diff(annotations.beat_samples)) / record.fs
    assert rr_s == pytest.approx(true_rr_s, rel=0.05)
