from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from bentos.runtime.logs import ACCESS_LOGGER, JsonFormatter
from bentos.runtime.predictor import Runtime
from ecg_lib.errors import ConfigurationError

RequestMaker = Callable[..., dict[str, Any]]
Predict = Callable[..., httpx.Response]
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """The lines of the log, as they are written."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(lambda record: not record.name.startswith(("httpx", "httpcore")))  # clients
    loggers = [logging.getLogger(), logging.getLogger(ACCESS_LOGGER)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    loggers[1].propagate = False
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)
    loggers[1].propagate = True


def test_a_request_is_one_line_of_json_with_its_id(http: httpx.Client, lines: Lines) -> None:
    http.get("/health?patient_id=Doe", headers={"X-Request-ID": "abc-1"})
    (line,) = [line for line in lines() if line["logger"] == ACCESS_LOGGER]
    assert (line["request_id"], line["event"], line["method"], line["route"], line["status"]) == (
        "abc-1",
        "request",
        "GET",
        "/health",
        200,
    )
    assert line["time"].endswith("+00:00")
    assert "Doe" not in str(lines())


def test_a_failure_is_logged_with_its_request_and_place_but_not_with_what_it_quotes(
    runtime: Runtime,
    predict: Predict,
    make_request: RequestMaker,
    lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        try:
            float("0.123456789 of Doe")
        except ValueError as error:
            msg = "0.123456789 of Doe again"
            raise RuntimeError(msg) from error

    monkeypatch.setattr(runtime, "predict", fail)
    answered = predict(**make_request())
    assert answered.status_code == 500
    deadline = time.monotonic() + 180  # it is answered first
    while not (failed := [line for line in lines() if line["event"] == "the request failed"]):
        assert time.monotonic() < deadline, "the failure must be logged"
    (line,) = failed
    assert line["request_id"] == answered.headers["x-request-id"]
    assert (line["error"]["type"], line["error"]["cause"]["type"]) == ("RuntimeError", "ValueError")
    assert any("test_logs.py" in place for place in line["error"]["stack"])
    assert "Doe" not in str(lines())
    assert "0.1234" not in str(lines())


def test_what_our_own_errors_say_is_logged() -> None:
    record = logging.makeLogRecord({"msg": "x", "exc_info": (None, ConfigurationError("so"), None)})
    assert json.loads(JsonFormatter().format(record))["error"]["message"] == "so"


def test_neither_signal_nor_patient_is_in_any_log(
    http: httpx.Client, predict: Predict, make_request: RequestMaker, lines: Lines
) -> None:
    patient = "Doe, Jane *1950"
    request = make_request(patient_id=patient)
    request["signal_data"][17] = 0.7654321
    assert predict(**request).status_code == 201
    bad = [
        {**request, "sampling_rate": 7654321},
        {**request, "signal_data": [0.7654321] * 3600},
        {**request, "signal_data": request["signal_data"] + ["0.7654321"]},
        {**request, patient: patient},
        {**request, "derivation": patient},
        {"signal_data": [0.7654321], "patient_id": patient},
    ]
    assert {predict(**one).status_code for one in bad} == {422}
    for path in (f"/{patient}", f"/api/v1/predictions/{patient}", f"/health?patient_id={patient}"):
        http.get(path)
    http.post(
        "/api/v1/predictions/",
        params={"patient_id": patient, "derivation": "XYZ"},
        content=b"1234",
        headers={"Content-Type": "application/octet-stream", "User-Agent": patient},
    )
    http.post("/api/v1/predictions/", content=b'{"patient_id": "' + patient.encode())
    written = lines()
    assert len([line for line in written if line["logger"] == ACCESS_LOGGER]) >= 12
    for secret in ("Doe", "Jane", "7654321"):
        assert secret not in json.dumps(written)
