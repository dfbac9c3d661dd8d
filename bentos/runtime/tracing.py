"""Traces by OpenTelemetry, when its standard ``OTEL_`` variables ask for them; else none.

A request is a span, and each stage of a prediction one below it. Method, route, status and request
id are recorded and nothing else: an address may hold the identifier of a patient.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ecg_lib.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

# OpenTelemetry is imported where it is used, so that untraced starts stay fast.

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SERVICE: Final = "ecg"


def open_tracing(environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Set up traces if the environment asks for them.

    ``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_TRACES_EXPORTER`` (``otlp``, ``console``) does;
    ``OTEL_SDK_DISABLED`` takes it back. Sampler, headers, batches and the name of the service are
    read by OpenTelemetry itself.

    Raises
    ------
    ConfigurationError
        If it asks for an exporter or a protocol that is not here.

    """
    default = "otlp" if any(environment.get(name) for name in _ENDPOINTS) else "none"
    exporter = environment.get("OTEL_TRACES_EXPORTER") or default
    if exporter == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if exporter not in {"otlp", "console"}:
        msg = f"OTEL_TRACES_EXPORTER must be otlp, console or none, got {exporter!r}"
        raise ConfigurationError(msg)
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), "")
    if protocol not in {"", "http/protobuf"}:
        msg = f"OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf, got {protocol!r}"
        raise ConfigurationError(msg)
    return Tracing(_make_provider(exporter))


def _make_provider(exporter: str) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415  see above
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import (  # noqa: PLC0415  see above
        OTELResourceDetector,
        Resource,
    )
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  see above
    from opentelemetry.sdk.trace.export import (  # noqa: PLC0415  see above
        BatchSpanProcessor,
        ConsoleSpanExporter,
    )

    # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say comes before our name.
    said = OTELResourceDetector().detect().attributes
    provider = TracerProvider(resource=Resource.create({"service.name": _SERVICE, **said}))
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter() if exporter == "otlp" else ConsoleSpanExporter())
    )
    return provider


class Tracing:
    """Makes spans.

    Parameters
    ----------
    provider : TracerProvider
        Where they go.

    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("bentos")

    @contextmanager
    def request(self, method: str, headers: Mapping[bytes, bytes]) -> Iterator[RequestSpan]:
        """Trace a request, as a part of the trace that its ``traceparent`` names."""
        from opentelemetry import trace  # noqa: PLC0415  see above
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415  see above
            TraceContextTextMapPropagator,
        )

        carrier = {
            name: headers[name.encode()].decode("latin-1")
            for name in ("traceparent", "tracestate")
            if name.encode() in headers
        }
        parent = TraceContextTextMapPropagator().extract(carrier)
        with self._tracer.start_as_current_span(
            method,
            parent,
            kind=trace.SpanKind.SERVER,
            attributes={"http.request.method": method},
            # The message of an exception may quote the request.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield RequestSpan(span, method)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Trace a part of what is traced now."""
        with self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        ):
            yield

    def add_stage(self, name: str, started_at_s: float, seconds: float) -> None:
        """Trace a part of what is traced now that another process has done."""
        start_ns = int(started_at_s * 1e9)
        self._tracer.start_span(name, start_time=start_ns).end(start_ns + int(seconds * 1e9))

    def close(self) -> None:
        """Send what is not sent yet."""
        self._provider.shutdown()


class RequestSpan:
    """The span of a request.

    Parameters
    ----------
    span : opentelemetry.trace.Span
    method : str

    """

    def __init__(self, span: Any, method: str) -> None:  # noqa: ANN401  imported late
        self._span = span
        self._method = method

    def note(self, *, route: str, status: int, request_id: str) -> None:
        """Note how the request was answered."""
        from opentelemetry.trace import StatusCode  # noqa: PLC0415  see above

        self._span.update_name(f"{self._method} {route}")
        self._span.set_attribute("http.route", route)
        self._span.set_attribute("http.response.status_code", status)
        self._span.set_attribute("request_id", request_id)
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)
