from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args, get_type_hints

import httpx
import numpy as np
import pytest
from scipy import ndimage

from bentos.client import ecg_client as client_module
from bentos.client.ecg_client import (
    EcgClient,
    ServiceProblemError,
    UnexpectedAnswerError,
    UnreachableError,
)
from bentos.client.example import read_strip
from bentos.runtime.predictor import Runtime
from ecg_lib.operations.keys.patient_key import hash_patient
from ecg_lib.records.simulation.simulator import StripKind

ROOT = Path(__file__).parents[3]
RequestMaker = Callable[..., dict[str, Any]]


@pytest.fixture
def client(url: str) -> Iterator[EcgClient]:
    with EcgClient(url) as client:
        yield client


class Stub:
    """A server that answers what it is told to, one after another."""

    def __init__(self, answers: list[tuple[int, dict[str, str], bytes]]) -> None:
        self.asked = 0
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = answers[min(stub.asked, len(answers) - 1)]
                stub.asked += 1
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def stub() -> Iterator[Callable[..., Stub]]:
    started = []

    def start(*answers: tuple[int, dict[str, str], bytes]) -> Stub:
        started.append(Stub(list(answers)))
        return started[-1]

    yield start
    for one in started:
        one.close()


def busy(status: int, after: str | None = None) -> tuple[int, dict[str, str], bytes]:
    problem = {"type": "/problems/busy", "title": "t", "status": status, "detail": "d"}
    headers = {"Content-Type": "application/problem+json"}
    return (
        status,
        {**headers, **({"Retry-After": after} if after else {})},
        json.dumps(problem).encode(),
    )


CARD = (200, {"Content-Type": "application/json"}, b'{"model": {}}')


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4"])
def test_a_prediction_is_typed_and_that_of_the_service(
    client: EcgClient, http: httpx.Client, make_request: RequestMaker, dtype: str
) -> None:
    samples = np.array(make_request(StripKind.COUPLET, fs=250.0)["signal_data"], dtype=dtype)
    found = client.predict(
        samples, sampling_rate=250, derivation="V1", apply_ruleguard=False, device="H3", site="ward"
    )
    expected = http.post(
        "/api/v1/predictions/",
        json={
            "signal_data": samples.astype(float).tolist(),
            "sampling_rate": 250,
            "derivation": "V1",
            "apply_ruleguard": False,
        },
    ).json()
    assert found.raw["beat_predictions"] == expected["beat_predictions"]
    assert [beat.position_sample for beat in found.beats] == [
        beat["position_sample"] for beat in expected["beat_predictions"]
    ]
    assert (found.derivation, found.raw["ruleguard_applied"]) == ("V1", False)
    assert len(found.ventricular) == found.ventricular_beats == 2
    assert found.model.bento_tag == "ecg:toy"
    assert found.timestamp.tzinfo is not None
    assert client.get_prediction(found.prediction_id) == found


def test_lists_of_integers_are_sent_too(client: EcgClient, make_request: RequestMaker) -> None:
    microvolts = [round(1000 * sample) for sample in make_request()["signal_data"]]
    assert client.predict(microvolts).ventricular_beats == 1


def test_other_leads_are_sent(client: EcgClient, make_request: RequestMaker) -> None:
    samples = np.array(make_request()["signal_data"])
    alone = client.predict(samples)
    both = client.predict(samples, leads={"V1": ndimage.gaussian_filter1d(samples, 5.0)})
    assert (alone.second_lead, both.second_lead) == (None, "V1")
    assert both.beats[0].probability_v != alone.beats[0].probability_v


def test_a_patient_is_never_part_of_an_address(
    client: EcgClient,
    runtime: Runtime,
    home: Path,
    make_request: RequestMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses = []
    send = httpx.Client.request

    def note(self: httpx.Client, method: str, url: str, **options: Any) -> httpx.Response:  # noqa: ANN401  httpx's own
        addresses.append(str(httpx.URL(url, params=options.get("params"))))
        return send(self, method, url, **options)

    monkeypatch.setattr(httpx.Client, "request", note)
    found = client.predict(make_request()["signal_data"], patient_id="Doe")
    assert "Doe" not in str(addresses)
    runtime.spool.drain()
    row = runtime.log.get_prediction(found.prediction_id)
    assert row is not None
    assert row.patient_key == hash_patient("Doe", key=(home / "patient.key").read_bytes())


def test_feedback_health_and_model_card(
    client: EcgClient, http: httpx.Client, make_request: RequestMaker
) -> None:
    found = client.predict(make_request()["signal_data"])
    receipt = client.give_feedback(found.prediction_id, {0: "N", 1: "V"}, annotator="reader 1")
    assert (receipt.prediction_id, receipt.verified) == (found.prediction_id, True)
    client.give_feedback(
        found.prediction_id, {}, missed={3000: "V"}, false_detections=[2], is_complete=True
    )
    marks = http.get(f"/api/v1/predictions/{found.prediction_id}/feedback").json()
    assert marks["missed_beats"] == [{"position_sample": 3000, "arrhythmia_type": "V"}]
    assert marks["false_detections"] == [{"beat_index": 2}]
    assert (marks["is_complete"], len(marks["labels"])) == (True, len(found.beats) - 1)
    health = client.get_health()
    assert (health.status, health.model) == ("ok", found.model)
    assert client.get_model_card()["metrics"] == {"oof_v_f1": 0.9}


def test_a_problem_is_an_exception_that_carries_it(client: EcgClient) -> None:
    with pytest.raises(ServiceProblemError, match="signal_data must last at least 10 s") as caught:
        client.predict([0.1] * 10)
    problem = caught.value
    assert (problem.status, problem.name) == (422, "signal-too-short")
    assert problem.errors[0][0] == "signal_data"
    assert len(problem.request_id) == 32
    assert problem.retry_after_s is None
    with pytest.raises(ServiceProblemError) as caught:
        client.get_prediction("nix")
    assert caught.value.name == "unknown-prediction"


def test_a_service_without_a_model_has_health_too(
    client: EcgClient, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.live, "current", None)
    health = client.get_health()
    assert (health.status, health.model_loaded, health.model) == ("starting", False, None)


def test_a_busy_service_is_asked_again_after_the_time_that_it_states(
    stub: Callable[..., Stub],
) -> None:
    waited: list[float] = []
    server = stub(busy(429, "7"), busy(503), busy(503, "3"), CARD)
    with EcgClient(server.url, sleep=waited.append) as client:
        assert client.get_model_card() == {"model": {}}
    assert waited == [7, 14, 3]
    assert server.asked == 4


def test_it_is_not_asked_more_often_than_attempts_say(stub: Callable[..., Stub]) -> None:
    waited: list[float] = []
    server = stub(busy(503))
    with (
        EcgClient(server.url, attempts=3, sleep=waited.append) as client,
        pytest.raises(ServiceProblemError, match="503 busy"),
    ):
        client.get_model_card()
    assert (server.asked, waited) == (3, [0.5, 1.0])


def test_a_service_that_wants_too_much_patience_is_not_asked_again(
    stub: Callable[..., Stub],
) -> None:
    server = stub(busy(429, "61"))
    with EcgClient(server.url) as client, pytest.raises(ServiceProblemError) as caught:
        client.get_model_card()
    assert (server.asked, caught.value.retry_after_s) == (1, 61)


@pytest.mark.parametrize("status", [400, 401, 404, 422, 500, 504])
def test_other_problems_are_told_at_once(stub: Callable[..., Stub], status: int) -> None:
    server = stub(busy(status, "1"))
    with EcgClient(server.url) as client, pytest.raises(ServiceProblemError):
        client.get_model_card()
    assert server.asked == 1


def test_a_service_that_is_not_there_yet_is_waited_for() -> None:
    waited: list[float] = []
    with (
        EcgClient("http://127.0.0.1:9", sleep=waited.append) as client,
        pytest.raises(UnreachableError, match="does not answer"),
    ):
        client.get_health()
    assert waited == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    "answer",
    [
        (200, {"Content-Type": "text/html"}, b"<html>"),
        (200, {"Content-Type": "application/json"}, b"[]"),
        (200, {"Content-Type": "application/json"}, b"{}"),
        (502, {"Content-Type": "text/html"}, b"<html>bad gateway"),
    ],
)
def test_something_else_that_answers_is_told(
    stub: Callable[..., Stub], answer: tuple[int, dict[str, str], bytes]
) -> None:
    with EcgClient(stub(answer).url) as client, pytest.raises(UnexpectedAnswerError):
        client.get_prediction("x")


def test_the_client_needs_nothing_of_the_service() -> None:
    code = (
        "import sys, bentos.client.ecg_client\n"
        "print(sorted({'bentoml', 'onnxruntime', 'scipy', 'fastapi', 'pydantic', 'ecg_lib'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert "bentos" not in Path(client_module.__file__).read_text().partition('"""\n\nfrom')[2]


def test_the_example_prints_the_beats_of_a_strip_and_of_a_file(
    url: str, tmp_path: Path, make_request: RequestMaker
) -> None:
    path = tmp_path / "strip.npy"
    np.save(path, np.array(make_request(StripKind.RUN)["signal_data"]))
    for arguments, n_v in (([], 1), ([str(path)], 5)):
        done = subprocess.run(
            [sys.executable, "-m", "bentos.client.example", "--url", url, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        lines = done.stdout.splitlines()
        assert lines[0].startswith("V, confidence ")
        assert sum(line.split()[2] == "V" for line in lines[6:]) == n_v


@pytest.mark.parametrize(
    ("form", "name"), [("json", "strip.json"), ("float32", "s.f32"), ("npy", "s.npy")]
)
def test_the_example_reads_the_files_that_the_service_gives_away(
    url: str, http: httpx.Client, tmp_path: Path, form: str, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(http.get(f"/api/v1/examples/isolated_pvc?format={form}").content)
    rate = [] if form == "json" else ["--sampling-rate", "100"]
    done = subprocess.run(
        [sys.executable, "-m", "bentos.client.example", str(path), *rate],
        cwd=ROOT,
        env={**os.environ, "ECG_SERVICE_PORT": url.rpartition(":")[2]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("V, confidence ")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("s.txt", b"1", "must be a .json, .npy or .f32 file"), ("s.json", b"[]", "signal_data"),
     ("s.json", b"{", "Expecting"), ("s.npy", b"x", "pickle")],
)  # fmt: skip
def test_the_example_says_what_is_wrong_with_a_file(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_strip(path)


def schema_of(http: httpx.Client, model: str) -> dict[str, Any]:
    schema: dict[str, Any] = http.get("/openapi.json").json()["components"]["schemas"][model]
    return schema


OWN_NAMES = {"beats": "beat_predictions"}
"""Fields of the client that have another name than those of the answer."""


@pytest.mark.parametrize(
    ("kind", "model", "is_all"),
    [
        (client_module.Beat, "BeatPrediction", True),
        (client_module.Model, "ModelInfo", True),
        (client_module.Prediction, "Prediction", False),
        (client_module.FeedbackReceipt, "Feedback", True),
        (client_module.Health, "Health", False),
    ],
)
def test_the_types_of_the_client_are_those_of_the_api(
    http: httpx.Client,
    kind: Any,  # noqa: ANN401  any dataclass
    model: str,
    is_all: bool,  # noqa: FBT001  a parameter of the test
) -> None:
    properties = schema_of(http, model)["properties"]
    hints = get_type_hints(kind)
    named = {OWN_NAMES.get(name, name): hint for name, hint in hints.items() if name != "raw"}
    assert set(named) <= set(properties)
    assert not is_all or set(named) == set(properties)
    for name, hint in named.items():
        options = properties[name].get("anyOf", [properties[name]])
        may_be_null = {"type": "null"} in options
        assert (type(None) in get_args(hint)) == may_be_null, name


def test_the_viewer_reads_fields_that_the_api_has(http: httpx.Client) -> None:
    source = (ROOT / "bentos" / "viewer" / "js" / "answer" / "prediction.js").read_text()
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    known = {name for schema in schemas.values() for name in schema.get("properties", {})}
    read = set(
        re.findall(
            r"\b(?:raw|answer|rhythm|beat|quality|one|stretch|finding)\.([a-z]+(?:_[a-z]+)+)\b",
            source,
        )
    )
    assert len(read) >= 10
    assert read <= known
