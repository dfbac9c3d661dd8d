from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bentos.runtime.live_model import LoadedModel
from bentos.runtime.metrics import STAGES
from bentos.runtime.tracing import open_tracing
from ecg_lib.errors import ConfigurationError

RequestMaker = Callable[..., dict[str, Any]]
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Collector:
    """A collector of traces, on a port of its own."""

    def __init__(self) -> None:
        self.received: list[ExportTraceServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.received.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.received
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def attributes(thing: Any) -> dict[str, Any]:  # noqa: ANN401  a message of protobuf
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in thing.attributes}


def test_a_request_is_a_span_and_its_stages_are_below_it(
    collector: Collector,
    start_service: Callable[..., Any],
    toy_model: LoadedModel,
    make_request: RequestMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    service = start_service()
    service.runtime.live.use(toy_model)
    service.http.headers["traceparent"] = f"00-{TRACE}-{PARENT}-01"
    answered = service.http.post(
        "/api/v1/predictions/?patient_id=Doe", json=make_request(patient_id="Doe")
    )
    assert answered.status_code == 201
    assert service.http.get("/nix/Doe").status_code == 404
    service.close()

    spans = {span.name: span for span in collector.spans()}
    request = spans["POST /api/v1/predictions/"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(request) == {
        "http.request.method": "POST",
        "http.route": "/api/v1/predictions/",
        "http.response.status_code": 201,
        "request_id": answered.headers["x-request-id"],
    }
    for stage in STAGES:
        assert spans[stage].parent_span_id == request.span_id
        assert request.start_time_unix_nano <= spans[stage].start_time_unix_nano
        assert spans[stage].end_time_unix_nano <= request.end_time_unix_nano
    assert attributes(spans["GET other"])["http.response.status_code"] == 404
    resource = collector.received[0].resource_spans[0].resource
    assert attributes(resource)["service.name"] == "ecg"
    assert "Doe" not in str(collector.received)


def test_what_an_exception_says_is_in_no_trace(
    collector: Collector,
    start_service: Callable[..., Any],
    toy_model: LoadedModel,
    make_request: RequestMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        msg = "the beats of Doe"
        raise RuntimeError(msg)

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    with closing(start_service()) as service:
        service.runtime.live.use(toy_model)
        monkeypatch.setattr("ecg_lib.classifier.beat_classifier.decide", fail)
        assert service.http.post("/api/v1/predictions/", json=make_request()).status_code == 500
        monkeypatch.setattr("bentos.routes.edge._Exchange._run_limited", fail)
        assert service.http.get("/health").status_code == 500

    spans = {span.name: span for span in collector.spans()}
    failed = {"POST /api/v1/predictions/", "GET other"}
    assert {*failed, "rules"} <= set(spans)
    assert {spans[name].status.code for name in failed} == {spans["rules"].status.STATUS_CODE_ERROR}
    assert [list(span.events) for span in spans.values() if span.events] == []
    assert "Doe" not in str(collector.received)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_SERVICE_NAME": "ecg"},
    ],
)
def test_who_does_not_ask_for_traces_gets_none(environment: dict[str, str]) -> None:
    assert open_tracing(environment) is None


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL",
        ),
    ],
)
def test_what_is_not_here_is_refused(environment: dict[str, str], name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        open_tracing(environment)
