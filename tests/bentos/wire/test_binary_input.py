from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bentos.runtime.predictor import Runtime
from bentos.wire.inputs import FLOAT32, JSON, NPY, read_input
from bentos.wire.problems import ProblemError
from ecg_lib.operations.keys.patient_key import hash_patient
from ecg_lib.records.simulation.simulator import StripKind

RequestMaker = Callable[..., dict[str, Any]]
Predict = Callable[..., httpx.Response]
Sender = Callable[..., httpx.Response]

PREDICTIONS = "/api/v1/predictions/"


def npy(array: Any, **options: Any) -> bytes:  # noqa: ANN401  whatever numpy writes
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), **options)
    return file.getvalue()


@pytest.fixture
def samples(make_request: RequestMaker) -> NDArray[np.float32]:
    return np.array(make_request(StripKind.ISOLATED_PVC)["signal_data"], dtype="<f4")


@pytest.fixture
def send(http: httpx.Client) -> Sender:
    def send(body: bytes, media_type: str = FLOAT32, **query: Any) -> httpx.Response:  # noqa: ANN401  any text
        return http.post(
            PREDICTIONS, content=body, params=query, headers={"Content-Type": media_type}
        )

    return send


def wait_until(is_true: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def said(answered: httpx.Response) -> dict[str, Any]:
    """The answer without what differs from one to the next."""
    assert answered.status_code == 201, answered.text
    varies = ("prediction_id", "timestamp", "processing_time_ms", "drawn_for_review")
    return {name: value for name, value in answered.json().items() if name not in varies}


def check_problem(answered: httpx.Response, name: str, field: str, *, status: int = 422) -> None:
    assert answered.status_code == status, answered.text
    assert answered.headers["content-type"] == "application/problem+json"
    assert answered.json()["type"] == f"/problems/{name}"
    assert answered.json()["errors"][0]["field"] == field


def test_binary_bodies_are_answered_as_the_same_samples_in_json(
    send: Sender, predict: Predict, samples: NDArray[np.float32]
) -> None:
    expected = said(predict(signal_data=samples.astype(float).tolist()))
    assert said(send(samples.tobytes())) == expected
    assert said(send(npy(samples), NPY)) == expected
    assert said(send(npy(samples, version=(2, 0)), NPY)) == expected
    assert said(send(npy(samples.astype("<f8")), NPY)) == expected
    assert said(send(npy(samples.astype(">f4")), NPY)) == expected


def test_the_other_fields_are_parameters(
    send: Sender, predict: Predict, runtime: Runtime, home: Path, make_request: RequestMaker
) -> None:
    fields = {"derivation": "V1", "patient_id": "p 1/ü", "apply_ruleguard": False}
    request = make_request(StripKind.COUPLET, fs=250.0, **fields)
    samples = np.array(request["signal_data"], dtype="<f4")
    request["signal_data"] = samples.astype(float).tolist()
    answered = send(samples.tobytes(), sampling_rate=250, **fields)
    assert said(answered) == said(predict(**request))
    assert said(answered)["derivation"] == "V1"
    wait_until(lambda: not len(runtime.spool))
    row = runtime.log.get_prediction(answered.json()["prediction_id"])
    assert row is not None
    key = (home / "patient.key").read_bytes()
    assert row.patient_key == hash_patient("p 1/ü", key=key)


@pytest.mark.parametrize(
    ("query", "name", "field"),
    [
        ({"sampling_rate": "99"}, "sampling-rate-out-of-range", "sampling_rate"),
        ({"sampling_rate": "nan"}, "sampling-rate-out-of-range", "sampling_rate"),
        ({"sampling_rate": "fast"}, "invalid-request", "sampling_rate"),
        ({"derivation": "XYZ"}, "unknown-lead", "derivation"),
        ({"patient_id": ""}, "invalid-request", "patient_id"),
        ({"apply_ruleguard": "maybe"}, "invalid-request", "apply_ruleguard"),
        ({"fs": "360"}, "unknown-field", "fs"),
        ({"sampling_rate": ["360", "250"]}, "invalid-request", "sampling_rate"),
        ({"sampling_rate": "500"}, "signal-too-short", "signal_data"),
    ],
)
def test_bad_parameters_are_named(
    send: Sender, samples: NDArray[np.float32], query: dict[str, Any], name: str, field: str
) -> None:
    check_problem(send(samples.tobytes(), **query), name, field)


@pytest.mark.parametrize("media_type", [FLOAT32, NPY])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers_are_refused_with_their_place(
    send: Sender, samples: NDArray[np.float32], media_type: str, value: float
) -> None:
    broken = samples.copy()
    broken[[1234, 2000]] = value
    body = npy(broken) if media_type == NPY else broken.tobytes()
    check_problem(send(body, media_type), "signal-not-finite", "signal_data[1234]")


def test_limits_are_those_of_json(send: Sender, samples: NDArray[np.float32]) -> None:
    check_problem(send(b""), "signal-too-short", "signal_data")
    check_problem(send(samples[:3599].tobytes()), "signal-too-short", "signal_data")
    long = np.zeros(100 * 1800 + 1, dtype="<f4").tobytes()
    check_problem(send(long, sampling_rate=100), "signal-too-long", "signal_data")
    counts = (samples * 1e5).tobytes()
    check_problem(send(counts), "signal-out-of-range", "signal_data")
    assert send(b" " * (16 * 2**20 + 4)).status_code == 413
    flat = np.zeros(3600, dtype="<f4").tobytes()
    check_problem(send(flat), "signal-unreadable", "signal_data")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "NPY format"),
        (b"PK\x03\x04", "NPY format"),
        (npy(np.zeros(3600), version=(3, 0)), "NPY format"),
        (npy(np.zeros(3600))[:60], "NPY format"),
        (npy(np.zeros(3600, dtype="i2")), "float32 or float64, in mV, got int16"),
        (npy(np.zeros(3600, dtype="f2")), "float32 or float64"),
        (npy(np.zeros(3600, dtype="c8")), "float32 or float64"),
        (npy(np.zeros(3600, dtype=[("a", "f4")])), "float32 or float64"),
        (npy(np.array([print] * 3600, dtype=object)), "float32 or float64"),
        (npy(np.zeros((3600, 1))), "one dimension, got 2"),
        (npy(np.float64(1)), "one dimension, got 0"),
        (npy(np.zeros(3600))[:-1], "3600 samples that its header states"),
        (npy(np.zeros(3600)) + b"x", "3600 samples that its header states"),
        (npy(np.zeros(3600)).replace(b"(3600,)", b"(3600,\0"), "NPY format"),
        (npy(np.zeros(3600)).replace(b"(3600,)", b"{3600,)"), "NPY format"),
        (npy(np.zeros(3600)).replace(b"'shape':", b"((((((((("), "NPY format"),
        (npy(np.zeros(3600)).replace(b"(3600,)", b"(10**9)"), "NPY format"),
        (npy(np.zeros(3600)).replace(b"(3600,)", b"(36000)"), "NPY format"),
        (npy(np.zeros(3600)).replace(b"(3600,)", b"(-360,)"), "samples that its header states"),
    ],
)
def test_a_file_that_is_not_one_row_of_floats_is_refused(
    send: Sender, body: bytes, reason: str
) -> None:
    answered = send(body, NPY)
    check_problem(answered, "invalid-request", "signal_data")
    assert reason in answered.json()["detail"]


def test_bytes_that_are_not_whole_samples_are_refused(
    send: Sender, samples: NDArray[np.float32]
) -> None:
    answered = send(samples.tobytes()[:-1])
    check_problem(answered, "invalid-request", "signal_data")
    assert "4 bytes each" in answered.json()["detail"]


@pytest.mark.parametrize("media_type", [FLOAT32, NPY, JSON])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_bytes_are_read_or_refused(media_type: str, data: st.DataObject) -> None:
    head = npy(np.zeros(3, dtype=data.draw(st.sampled_from(["<f4", "<f8", "<i2"]))))
    body = data.draw(st.binary(max_size=200) | st.just(head) | st.builds(head.__add__, st.binary()))
    with pytest.raises(ProblemError) as caught:  # not one of them is ten seconds long
        read_input(body, media_type=media_type, query=())
    assert caught.value.kind.status in {400, 422}
