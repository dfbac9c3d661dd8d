"""Errors as ``application/problem+json`` (RFC 9457): one table of names, statuses and titles.

A problem never carries the signal, a stack trace or a path of the server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import orjson
from pydantic import ValidationError
from starlette.responses import Response

from ecg_lib.errors import (
    EcgError,
    InvalidSamplingRateError,
    InvalidSignalError,
    MissingDetailError,
    NonFiniteSignalError,
    RecordError,
    RecordTooLongError,
    SignalTooShortError,
    UnknownLeadError,
    UnreadableSignalError,
    UnsupportedRecordError,
)

MEDIA_TYPE: Final = "application/problem+json"
MAX_ERRORS: Final = 20
"""Field errors of one answer; more do not help anybody."""

_MAX_TEXT: Final = 300


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """A name that clients may rely on."""

    name: str
    status: int
    title: str

    @property
    def uri(self) -> str:
        """The ``type`` of the problem."""
        return f"/problems/{self.name}"


INVALID_REQUEST: Final = ProblemKind("invalid-request", 422, "The request has invalid fields")
MALFORMED_JSON: Final = ProblemKind("malformed-json", 400, "The body is not JSON")
NOT_FOUND: Final = ProblemKind("not-found", 404, "There is no such resource")
UNKNOWN_PREDICTION: Final = ProblemKind("unknown-prediction", 404, "There is no such prediction")
UNKNOWN_FEEDBACK: Final = ProblemKind("unknown-feedback", 404, "There is no such feedback")
METHOD_NOT_ALLOWED: Final = ProblemKind("method-not-allowed", 405, "The method is not allowed")
TOO_LARGE: Final = ProblemKind("body-too-large", 413, "The body is too large")
WRONG_ENCODING: Final = ProblemKind(
    "content-encoding-unsupported", 415, "The Content-Encoding is not supported"
)
MALFORMED_ENCODING: Final = ProblemKind(
    "malformed-encoding", 400, "The body does not follow its Content-Encoding"
)
REPEATED_HEADER: Final = ProblemKind("repeated-header", 400, "A header is there more than once")
MISSING_SCOPE: Final = ProblemKind("missing-scope", 403, "The API key lacks a scope")
WRONG_MEDIA_TYPE: Final = ProblemKind("wrong-media-type", 415, "The media type is not supported")
FOREIGN_HOST: Final = ProblemKind("foreign-host", 421, "The service has no such name")
KEY_REQUIRED: Final = ProblemKind("api-key-required", 401, "An API key is required")
FOREIGN_ORIGIN: Final = ProblemKind("foreign-origin", 403, "The page is of another site")
BODY_STALLED: Final = ProblemKind("body-stalled", 408, "The body does not come")
TOO_MANY_REQUESTS: Final = ProblemKind("too-many-requests", 429, "Too many requests")
TOO_SHORT: Final = ProblemKind("signal-too-short", 422, "The signal is too short")
TOO_LONG: Final = ProblemKind("signal-too-long", 422, "The signal is too long")
NOT_FINITE: Final = ProblemKind("signal-not-finite", 422, "The signal has NaN or infinity")
OUT_OF_RANGE: Final = ProblemKind("signal-out-of-range", 422, "The signal is not in mV")
UNREADABLE: Final = ProblemKind("signal-unreadable", 422, "No ECG can be read in the signal")
WRONG_RATE: Final = ProblemKind(
    "sampling-rate-out-of-range", 422, "The sampling rate is out of range"
)
UNKNOWN_LEAD: Final = ProblemKind("unknown-lead", 422, "The lead is unknown")
UNKNOWN_FIELD: Final = ProblemKind("unknown-field", 422, "The request has unknown fields")
UNKNOWN_BEAT: Final = ProblemKind("unknown-beat", 422, "The prediction has no such beat")
UNREADABLE_FILE: Final = ProblemKind("file-unreadable", 422, "The file cannot be read")
UNSUPPORTED_FILE: Final = ProblemKind("file-unsupported", 415, "The kind of file is not supported")
MALFORMED_FORM: Final = ProblemKind("malformed-form", 400, "The body is not a multipart form")
UNKNOWN_RECORDING: Final = ProblemKind("unknown-recording", 404, "There is no such recording")
NOT_FINISHED: Final = ProblemKind("recording-not-finished", 409, "There is no result yet")
NO_RESULT: Final = ProblemKind("recording-without-result", 409, "There is no result")
CRASHED: Final = ProblemKind("analysis-failed", 500, "The analysis of the recording failed")
TOO_MUCH_MEMORY: Final = ProblemKind(
    "recording-too-large", 422, "The recording needs more memory than there is"
)
TOOK_TOO_LONG: Final = ProblemKind("analysis-too-long", 422, "The analysis took too long")
QUEUE_FULL: Final = ProblemKind("queue-full", 503, "Too many recordings wait already")
STORAGE_FULL: Final = ProblemKind("storage-full", 503, "There is no room for the recording")
UPLOAD_STALLED: Final = ProblemKind("upload-stalled", 408, "The upload came to a halt")
STREAM_IDLE: Final = ProblemKind("stream-idle", 408, "No message comes")
STREAM_REPLACED: Final = ProblemKind("stream-replaced", 409, "Another connection has the session")
UNDECLARED_GAP: Final = ProblemKind("undeclared-gap", 422, "Samples are missing")
INTERNAL: Final = ProblemKind("internal-error", 500, "The service failed")
NOT_READY: Final = ProblemKind("not-ready", 503, "The service is not ready")
OVERLOADED: Final = ProblemKind("overloaded", 503, "Too many requests wait already")
TIME_LIMIT: Final = ProblemKind("time-limit", 504, "The answer took too long")
LOG_UNAVAILABLE: Final = ProblemKind(
    "prediction-log-unavailable", 503, "Stored predictions cannot be read now"
)

_KIND_OF_ERROR: Final[tuple[tuple[type[Exception], ProblemKind], ...]] = (
    (SignalTooShortError, TOO_SHORT),
    (NonFiniteSignalError, NOT_FINITE),
    (UnreadableSignalError, UNREADABLE),
    (InvalidSamplingRateError, WRONG_RATE),
    (InvalidSignalError, INVALID_REQUEST),
)

_KIND_OF_FILE_ERROR: Final[tuple[tuple[type[Exception], ProblemKind, str], ...]] = (
    (UnknownLeadError, UNKNOWN_LEAD, "lead"),
    (InvalidSamplingRateError, WRONG_RATE, "sampling_rate"),
    (MissingDetailError, INVALID_REQUEST, ""),
    (RecordTooLongError, TOO_LONG, "files"),
    (UnsupportedRecordError, UNSUPPORTED_FILE, "files"),
    (UnreadableSignalError, UNREADABLE, "files"),
    (SignalTooShortError, TOO_SHORT, "files"),
    (InvalidSignalError, UNREADABLE_FILE, "files"),
    (RecordError, UNREADABLE_FILE, "files"),
    (EcgError, CRASHED, ""),
)
"""Kinds of what may be wrong with a file, and the field that it came in; the last is our affair."""

_KIND_OF_CHECK: Final = {
    ("signal_too_short", "signal_data"): TOO_SHORT,
    ("signal_too_long", "signal_data"): TOO_LONG,
    ("too_long", "signal_data"): TOO_LONG,
    ("finite_number", "signal_data"): NOT_FINITE,
    ("finite_number", "leads"): NOT_FINITE,
    ("greater_than_equal", "sampling_rate"): WRONG_RATE,
    ("less_than_equal", "sampling_rate"): WRONG_RATE,
    ("finite_number", "sampling_rate"): WRONG_RATE,
    ("literal_error", "derivation"): UNKNOWN_LEAD,
}
"""Kinds by pydantic's error and field."""

_FIELD_OF_CHECK: Final = {
    "signal_too_short": "signal_data",
    "signal_too_long": "signal_data",
    "repeated_beat": "labels",
    "one_subject": "prediction_id",
    "no_mark": "labels",
    "lead_twice": "leads",
    "lead_length": "leads",
}
"""Fields of the checks that look at the whole request."""


_FIRST_NAME: Final = re.compile(r"[.\[]")


class ProblemError(Exception):
    """A request that is answered with a problem.

    Parameters
    ----------
    kind : ProblemKind
    detail : str
        What is wrong this time.
    errors : iterable of (field, reason)
    retry_after_s : int, optional
        When it may be worth another try.

    """

    def __init__(
        self,
        kind: ProblemKind,
        detail: str,
        *,
        errors: Iterable[tuple[str, str]] = (),
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = tuple(errors)
        self.retry_after_s = retry_after_s

    def describe(self) -> dict[str, object]:
        """Describe the problem as RFC 9457 wants it."""
        body: dict[str, object] = {
            "type": self.kind.uri,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail[:_MAX_TEXT],
        }
        if self.errors:
            body["errors"] = [
                {"field": field[:_MAX_TEXT], "reason": reason[:_MAX_TEXT]}
                for field, reason in self.errors[:MAX_ERRORS]
            ]
        return body

    def respond(self, headers: dict[str, str] | None = None) -> Response:
        """Make the answer."""
        if self.retry_after_s is not None:
            headers = {**(headers or {}), "Retry-After": str(self.retry_after_s)}
        return Response(
            orjson.dumps(self.describe()),
            status_code=self.kind.status,
            headers=headers,
            media_type=MEDIA_TYPE,
        )


def explain_file_error(error: EcgError) -> ProblemError:
    """Turn an error of the library about a file into a problem."""
    kind, field = next(
        (kind, field) for leaf, kind, field in _KIND_OF_FILE_ERROR if isinstance(error, leaf)
    )
    if kind is CRASHED:
        return ProblemError(CRASHED, "the analysis failed; the log of the service says why")
    if isinstance(error, MissingDetailError):
        field = error.detail
    return ProblemError(kind, str(error), errors=[(field, str(error))])


def explain_signal_error(error: InvalidSignalError | InvalidSamplingRateError) -> ProblemError:
    """Turn an error of the library about the signal into a problem."""
    kind = next(kind for leaf, kind in _KIND_OF_ERROR if isinstance(error, leaf))
    field = "sampling_rate" if kind is WRONG_RATE else "signal_data"
    return ProblemError(kind, str(error), errors=[(field, str(error))])


def explain_validation_error(error: ValidationError) -> ProblemError:
    """Turn pydantic's error into a problem, without any value of the request."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return ProblemError(MALFORMED_JSON, found[0]["msg"])
    fields = [_FIELD_OF_CHECK.get(item["type"], _name_field(item["loc"])) for item in found]
    kinds = {
        _kind_of(item["type"], _FIRST_NAME.split(field, 1)[0])
        for item, field in zip(found, fields, strict=True)
    }
    kind = kinds.pop() if len(kinds) == 1 else INVALID_REQUEST
    errors = [(field, item["msg"]) for item, field in zip(found, fields, strict=True)]
    first = f"{errors[0][0]}: {errors[0][1]}" if errors[0][0] else errors[0][1]
    rest = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return ProblemError(kind, first[: _MAX_TEXT - len(rest)] + rest, errors=errors)


def _name_field(location: tuple[int | str, ...]) -> str:
    name = ""
    for part in location:
        name += f"[{part}]" if isinstance(part, int) else f".{part[:80]}" if name else part[:80]
    return name


def _kind_of(error_type: str, field: str) -> ProblemKind:
    return _KIND_OF_CHECK.get((error_type, field)) or (
        UNKNOWN_FIELD if error_type == "extra_forbidden" else INVALID_REQUEST
    )
