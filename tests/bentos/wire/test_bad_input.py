from __future__ import annotations

import gzip
import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client.samples import Sample

from bentos.routes.app import CLIENT_GONE
from bentos.routes.predictions import MAX_PREDICTION_BYTES
from bentos.runtime.predictor import Runtime
from bentos.wire.problems import MAX_ERRORS
from bentos.wire.schemas import Problem
from ecg_lib.operations.keys.api_keys import ApiKey

RequestMaker = Callable[..., dict[str, Any]]
Predict = Callable[..., httpx.Response]

JSON = {"Content-Type": "application/json"}
PREDICTIONS = "/api/v1/predictions/"
SIGNAL = "[" + ",".join(["0.1234567"] * 3600) + "]"


def check_problem(answered: httpx.Response, status: int, name: str) -> dict[str, Any]:
    assert answered.status_code == status, answered.text[:500]
    assert answered.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(answered.content)
    assert (problem.type, problem.status) == (f"/problems/{name}", status)
    text = answered.text
    assert len(text) < 20_000
    for leak in ("Traceback", ".py", "/tmp", "/work", "/home", "0.1234567"):  # noqa: S108  what must not be there
        assert leak not in text
    body: dict[str, Any] = answered.json()
    return body


@pytest.mark.parametrize(
    ("body", "status", "name", "field"),
    [
        ("", 400, "malformed-json", None),
        ("{", 400, "malformed-json", None),
        ("{'signal_data': [1]}", 400, "malformed-json", None),
        ('{"signal_data": [1,]}', 400, "malformed-json", None),
        ("[" * 5000, 400, "malformed-json", None),
        ("null", 422, "invalid-request", ""),
        ("[]", 422, "invalid-request", ""),
        ("{}", 422, "invalid-request", "signal_data"),
        ('{"signal_data": null}', 422, "invalid-request", "signal_data"),
        ('{"signal_data": "x"}', 422, "invalid-request", "signal_data"),
        ('{"signal_data": []}', 422, "signal-too-short", "signal_data"),
        ('{"signal_data": [0.1, 0.2]}', 422, "signal-too-short", "signal_data"),
        ('{"signal_data": [1, "2", 3]}', 422, "invalid-request", "signal_data[1]"),
        ('{"signal_data": [1, null]}', 422, "invalid-request", "signal_data[1]"),
        ('{"signal_data": [true]}', 422, "invalid-request", "signal_data[0]"),
        ('{"signal_data": [[1]]}', 422, "invalid-request", "signal_data[0]"),
        ('{"signal_data": [1, NaN]}', 422, "signal-not-finite", "signal_data[1]"),
        ('{"signal_data": [-Infinity]}', 422, "signal-not-finite", "signal_data[0]"),
        ('{"signal_data": [1e999]}', 422, "signal-not-finite", "signal_data[0]"),
        (
            f'{{"signal_data": {SIGNAL[:-1]}, 1e300]}}',
            422,
            "signal-out-of-range",
            "signal_data",
        ),
        (f'{{"signal_data": {SIGNAL}}}', 422, "signal-unreadable", "signal_data"),
        *(
            (f'{{"signal_data": {SIGNAL}, "sampling_rate": {rate}}}', 422, name, "sampling_rate")
            for rate, name in [
                ("99.9", "sampling-rate-out-of-range"),
                ("1001", "sampling-rate-out-of-range"),
                ("-360", "sampling-rate-out-of-range"),
                ("NaN", "sampling-rate-out-of-range"),
                ('"360"', "invalid-request"),
                ("true", "invalid-request"),
                ("null", "invalid-request"),
            ]
        ),
        (
            f'{{"signal_data": {SIGNAL}, "sampling_rate": 500}}',
            422,
            "signal-too-short",
            "signal_data",
        ),
        (f'{{"signal_data": {SIGNAL}, "derivation": "XYZ"}}', 422, "unknown-lead", "derivation"),
        (f'{{"signal_data": {SIGNAL}, "derivation": 2}}', 422, "unknown-lead", "derivation"),
        (f'{{"signal_data": {SIGNAL}, "patient_id": ""}}', 422, "invalid-request", "patient_id"),
        (f'{{"signal_data": {SIGNAL}, "patient_id": 7}}', 422, "invalid-request", "patient_id"),
        (
            f'{{"signal_data": {SIGNAL}, "apply_ruleguard": "yes"}}',
            422,
            "invalid-request",
            "apply_ruleguard",
        ),
        (f'{{"signal_data": {SIGNAL}, "fs": 360}}', 422, "unknown-field", "fs"),
    ],
)
def test_bad_requests_are_named_with_their_field(
    http: httpx.Client, body: str, status: int, name: str, field: str | None
) -> None:
    answered = http.post(PREDICTIONS, content=body, headers=JSON)
    problem = check_problem(answered, status, name)
    if field is not None:
        assert problem["errors"][0]["field"] == field


def test_invalid_text_encoding_is_malformed_json(http: httpx.Client) -> None:
    answered = http.post(PREDICTIONS, content=b'{"derivation": "\xff"}', headers=JSON)
    check_problem(answered, 400, "malformed-json")


@pytest.mark.parametrize(
    ("pack", "words"),
    [
        (gzip.compress, "it is compressed, which Content-Encoding must state"),
        (lambda body: b"\x28\xb5\x2f\xfd" + body, "it is compressed"),
        (lambda body: body.decode().encode("utf-16"), "it is UTF-16"),
        (lambda body: b"\x93NUMPY\x01\x00" + body, "it is a NumPy file"),
    ],
)
def test_a_body_that_is_something_else_is_refused_by_its_name(
    http: httpx.Client, pack: Callable[[bytes], bytes], words: str
) -> None:
    answered = http.post(PREDICTIONS, content=pack(b'{"signal_data": []}'), headers=JSON)
    check_problem(answered, 400, "malformed-json")
    assert words in answered.json()["detail"]


def test_a_byte_order_mark_before_json_is_passed_over(
    http: httpx.Client, make_request: RequestMaker
) -> None:
    body = json.dumps(make_request()).encode("utf-8-sig")
    assert http.post(PREDICTIONS, content=body, headers=JSON).status_code == 201


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_media_type_is_refused(http: httpx.Client, media_type: str) -> None:
    answered = http.post(PREDICTIONS, content="{}", headers={"Content-Type": media_type})
    check_problem(answered, 415, "wrong-media-type")


def test_a_media_type_with_parameters_is_accepted(
    http: httpx.Client, make_request: RequestMaker
) -> None:
    answered = http.post(
        PREDICTIONS,
        content=json.dumps(make_request()),
        headers={"Content-Type": "Application/JSON; charset=utf-8"},
    )
    assert answered.status_code == 201


def test_a_large_body_is_refused_by_its_announced_length(http: httpx.Client) -> None:
    body = b" " * (MAX_PREDICTION_BYTES + 1)
    check_problem(http.post(PREDICTIONS, content=body, headers=JSON), 413, "body-too-large")


def test_an_announced_length_is_refused_before_the_body_comes(url: str) -> None:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(
            b"POST /api/v1/predictions/ HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\n"
            b"Content-Length: 99999999999\r\n\r\n{"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_large_body_without_a_length_is_refused_while_it_comes(http: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 2**20

    check_problem(http.post(PREDICTIONS, content=chunks(), headers=JSON), 413, "body-too-large")


def test_a_strip_of_more_than_half_an_hour_is_refused(http: httpx.Client) -> None:
    body = json.dumps({"signal_data": [0] * (100 * 60 * 30 + 1), "sampling_rate": 100})
    answered = http.post(PREDICTIONS, content=body, headers=JSON)
    check_problem(answered, 422, "signal-too-long")


def test_many_errors_are_cut(http: httpx.Client) -> None:
    body = json.dumps({f"field{number}": number for number in range(500)})
    answered = http.post(PREDICTIONS, content=body, headers=JSON)
    problem = check_problem(answered, 422, "invalid-request")
    assert len(problem["errors"]) == MAX_ERRORS
    assert "more)" in problem["detail"]


def test_a_million_unknown_fields_are_refused_at_once(http: httpx.Client) -> None:
    body = b"{" + b",".join(b'"a%d":1' % number for number in range(1_000_000)) + b"}"
    answered = http.post(PREDICTIONS, content=body, headers=JSON)
    check_problem(answered, 422, "invalid-request")
    assert answered.elapsed.total_seconds() < 1.5


def test_a_huge_field_name_is_cut(http: httpx.Client) -> None:
    body = json.dumps({"signal_data": [1], "x" * 100_000: 1})
    answered = http.post(PREDICTIONS, content=body, headers=JSON)
    problem = check_problem(answered, 422, "unknown-field")
    assert problem["errors"][0]["field"] == "x" * 80


@pytest.mark.parametrize(
    ("method", "path", "status", "name"),
    [
        ("GET", "/nix", 404, "not-found"),
        ("GET", "/api/v1/predictions/../../etc/passwd", 404, "not-found"),
        ("GET", "/api/v1/predictions/00000000-0000-4000-8000-00000000", 404, "unknown-prediction"),
        ("GET", "/static_content/nix.js", 404, "not-found"),
        ("GET", "/api/v1/examples/nix", 404, "not-found"),
        ("DELETE", "/health", 405, "method-not-allowed"),
        ("GET", "/api/v1/predictions/", 405, "method-not-allowed"),
        ("PUT", "/api/v1/predictions/", 405, "method-not-allowed"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_a_problem_too(
    http: httpx.Client, method: str, path: str, status: int, name: str
) -> None:
    answered = http.request(method, path)
    check_problem(answered, status, name)
    assert ("allow" in answered.headers) == (status == 405)


@pytest.mark.parametrize(
    ("feedback", "field"),
    [
        ({"prediction_id": "x", "labels": []}, "labels"),
        ({"prediction_id": "x", "labels": [{"beat_index": -1, "arrhythmia_type": "V"}]},
         "labels[0].beat_index"),
        ({"prediction_id": "x", "labels": [{"beat_index": 1, "arrhythmia_type": "S"}]},
         "labels[0].arrhythmia_type"),
        ({"prediction_id": "x", "labels": [{"beat_index": 1, "arrhythmia_type": "V"}] * 2},
         "labels"),
        ({"prediction_id": "x", "annotator": "a\u0000b",
          "labels": [{"beat_index": 1, "arrhythmia_type": "V"}]}, "annotator"),
    ],
)  # fmt: skip
def test_bad_feedback_is_named_with_its_field(
    http: httpx.Client, feedback: dict[str, Any], field: str
) -> None:
    answered = http.post("/api/v1/feedback/", json=feedback)
    problem = check_problem(answered, 422, "invalid-request")
    assert problem["errors"][0]["field"] == field


def test_a_failure_inside_is_a_problem_without_its_cause(
    runtime: Runtime, predict: Predict, make_request: RequestMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        msg = "secret cause in /srv/secret.py"
        raise RuntimeError(msg)

    monkeypatch.setattr(runtime, "predict", fail)
    answered = predict(**make_request())
    check_problem(answered, 500, "internal-error")
    assert "secret" not in answered.text


def test_after_a_failure_the_connection_goes_on(
    url: str, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "predict", None)
    address = urlsplit(url)
    request = (
        b"POST /api/v1/predictions/ HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Content-Type: application/json\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    )
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        for _ in range(2):
            connection.sendall(request)
            assert connection.recv(65536).startswith(b"HTTP/1.1 500 ")
            time.sleep(0.2)


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        (PREDICTIONS, "application/json"),
        ("/api/v1/recordings/", "multipart/form-data; boundary=x"),
    ],
)
def test_a_client_that_goes_away_is_not_a_failure(
    url: str,
    read_samples: Callable[[], list[Sample]],
    caplog: pytest.LogCaptureFixture,
    path: str,
    media_type: str,
) -> None:
    def count(status: int) -> float:
        return sum(
            sample.value
            for sample in read_samples()
            if sample.name == "ecg_requests_total"
            and (sample.labels["route"], sample.labels["status"]) == (path, str(status))
        )

    before, failed = count(CLIENT_GONE), count(500)
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {media_type}\r\n"
            "Content-Length: 100\r\n\r\n--x".encode()
        )
        time.sleep(0.2)
    deadline = time.monotonic() + 180
    while count(CLIENT_GONE) == before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (count(CLIENT_GONE), count(500)) == (before + 1, failed)
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


def test_a_refusal_reaches_a_client_that_is_still_sending(http: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 2**16
            time.sleep(0.005)

    answered = http.post("/api/v1/nowhere", content=chunks(), headers=JSON)
    check_problem(answered, 404, "not-found")


def test_without_a_model_predictions_are_not_ready(
    runtime: Runtime,
    predict: Predict,
    http: httpx.Client,
    make_request: RequestMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime.live, "current", None)
    check_problem(predict(**make_request()), 503, "not-ready")
    check_problem(http.get("/api/v1/model/"), 503, "not-ready")
    health = http.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "starting")
    assert http.get("/").status_code == 200


def test_an_api_key_is_asked_for_when_keys_are_set(
    runtime: Runtime,
    predict: Predict,
    http: httpx.Client,
    make_request: RequestMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # SHA-256 of "letmein".
    accepted = "1c8bfe8f801d79745c4631d09fff36c82aa37fc4cce4fc946683d7b336b63032"
    monkeypatch.setattr(runtime, "api_keys", (ApiKey(hash=accepted),))
    check_problem(predict(**make_request()), 401, "api-key-required")
    check_problem(http.get("/metrics"), 401, "api-key-required")
    wrong = http.get("/api/v1/model/", headers={"X-API-Key": "letmeout"})
    check_problem(wrong, 401, "api-key-required")
    right = http.get("/api/v1/model/", headers={"X-API-Key": "letmein"})
    assert right.status_code == 200
    assert http.get("/health").status_code == 200


def test_a_request_id_is_given_back_or_made(http: httpx.Client) -> None:
    given = http.get("/health", headers={"X-Request-ID": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    odd = http.get("/health", headers={"X-Request-ID": "a b\tc" * 50})
    assert re.fullmatch(r"[0-9a-f]{32}", odd.headers["x-request-id"])


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere(http: httpx.Client, path: str) -> None:
    page = http.get(path).text
    assert not re.findall(r'(?:src|href)\s*=\s*"(?:https?:)?//', page)
    assert not re.findall(r"@import|url\((?!#)", page)
    assets = re.findall(r'(?:src|href)="([^"#:]+)"', page)
    assert assets
    for asset in assets:
        assert http.get(asset).status_code == 200
