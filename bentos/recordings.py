"""The routes of recordings: send one, see how far it is, get its results, look at its signal."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Final, TypeVar

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import FileResponse, Response

from bentos.problems import TOO_LARGE, ProblemError, explain_validation_error
from bentos.recording_jobs import Job, RecordingJobs
from bentos.runtime import Runtime
from bentos.uploads import MAX_UPLOAD_BYTES, lay_out, receive_form
from ecg_lib.beat_file import NAMES, read_beats
from ecg_lib.recording_summary import ResultFormat
from ecg_lib.signal_file import read_stretch

MAX_POINTS: Final = 20_000
MAX_BEATS: Final = 20_000
MAX_STRETCH_S: Final = 90_000.0

_PATH: Final = "/api/v1/recordings"
_MEDIA_TYPES: Final = {
    ResultFormat.JSON: "application/json",
    ResultFormat.CSV: "text/csv; charset=utf-8",
    ResultFormat.ATR: "application/octet-stream",
    ResultFormat.FHIR: "application/fhir+json",
    ResultFormat.HTML: "text/html; charset=utf-8",
    ResultFormat.PDF: "application/pdf",
}
_SHOWN: Final = frozenset({ResultFormat.JSON, ResultFormat.HTML})
_CLOSED: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

T = TypeVar("T", bound=BaseModel)
U = TypeVar("U")


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class ResultQuery(_Query):
    """Which result."""

    format: ResultFormat = ResultFormat.JSON


class BeatsQuery(_Query):
    """Which stretch."""

    start_s: float = Field(default=0.0, ge=0, le=MAX_STRETCH_S)
    duration_s: float = Field(default=10.0, gt=0, le=MAX_STRETCH_S)


class SignalQuery(BeatsQuery):
    """Which stretch, and how finely."""

    max_points: int = Field(default=4000, ge=1, le=MAX_POINTS)


async def create_recording(request: Request) -> Response:
    """Take a file of up to 24 h, and queue it for analysis.

    A WFDB header with its signal files, or a zip of them, or one EDF, CSV or NPY file.
    """
    runtime: Runtime = request.app.state.runtime
    runtime.require_model()
    announced = int(request.headers.get("content-length", "0"))
    if announced > MAX_UPLOAD_BYTES:
        raise ProblemError(TOO_LARGE, f"the body must have at most {MAX_UPLOAD_BYTES} bytes")
    jobs, loop = runtime.recordings, asyncio.get_running_loop()
    directory = await loop.run_in_executor(runtime.files, jobs.open_upload, announced)
    try:
        texts, files = await receive_form(
            request.stream(),
            content_type=request.headers.get("content-type", ""),
            directory=directory,
            executor=runtime.files,
        )
        job = await loop.run_in_executor(
            runtime.files, lambda: jobs.add(lay_out(texts, files, directory))
        )
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    headers = {"Location": f"{_PATH}/{job.job_id}"}
    return _json(_describe(job), HTTPStatus.ACCEPTED, headers)


async def read_recording(request: Request, job_id: str) -> Response:
    """Tell how far a recording is; ``error`` says why it failed."""
    jobs = _jobs(request)
    return _json(_describe(await _do(request, lambda: jobs.find(job_id))))


async def read_result(request: Request, job_id: str) -> Response:
    """Give the result of a recording that is done, in one of several formats."""
    kind = _parse(ResultQuery, request).format
    jobs = _jobs(request)
    results = await _do(request, lambda: jobs.find_results(job_id))
    name = None if kind in _SHOWN else f"recording-{job_id}{kind.suffix}"
    headers = {"Content-Security-Policy": _CLOSED} if kind is ResultFormat.HTML else None
    return FileResponse(
        results / kind.file_name,
        media_type=_MEDIA_TYPES[kind],
        filename=name,
        headers=headers,
    )


async def read_signal(request: Request, job_id: str) -> Response:
    """Give a stretch of the lead that was analysed, as float32 little-endian in mV.

    With at most `max_points` samples they are given as they are (``X-ECG-Kind: samples``), else
    as the least and the greatest value of each bin in turn (``envelope``). ``X-ECG-Start-S`` is
    the time of the first sample or bin, ``X-ECG-Step-S`` the seconds from one to the next,
    ``X-ECG-Points`` how many there are. Samples that are invalid are NaN.
    """
    query = _parse(SignalQuery, request)
    jobs = _jobs(request)

    def read() -> Response:
        results = jobs.find_results(job_id)
        fs = orjson.loads((results / NAMES).read_bytes())["fs"]
        stretch = read_stretch(
            results,
            fs=fs,
            start_s=query.start_s,
            duration_s=query.duration_s,
            max_points=query.max_points,
        )
        headers = {
            "X-ECG-Kind": stretch.kind.value,
            "X-ECG-Start-S": repr(stretch.start_s),
            "X-ECG-Step-S": repr(stretch.step_s),
            "X-ECG-Points": str(stretch.points),
        }
        return Response(
            stretch.values_mv.astype("<f4").tobytes(),
            headers=headers,
            media_type="application/octet-stream",
        )

    return await _do(request, read)


async def read_recording_beats(request: Request, job_id: str) -> Response:
    """Give the beats of a stretch as parallel lists, at most 20,000 of them from its start.

    ``total`` says how many the stretch has; when it is more, the rest begins after the last
    ``time_s``.
    """
    query = _parse(BeatsQuery, request)
    jobs = _jobs(request)

    def read() -> Response:
        stretch = read_beats(
            jobs.find_results(job_id),
            start_s=query.start_s,
            duration_s=query.duration_s,
            max_beats=MAX_BEATS,
        )
        return _json(
            {
                "start_s": query.start_s,
                "duration_s": query.duration_s,
                "total": stretch.total,
                **stretch.columns,
            }
        )

    return await _do(request, read)


async def delete_recording(request: Request, job_id: str) -> Response:
    """Cancel the analysis of a recording (202), or remove one that has ended (204)."""
    jobs = _jobs(request)
    job = await _do(request, lambda: jobs.delete(job_id))
    if job is None:
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return _json(_describe(job), HTTPStatus.ACCEPTED)


def add_routes(app: Any, problems: Any) -> None:  # noqa: ANN401  FastAPI and a function of its module
    """Add the routes; `problems` documents answers by their status."""
    router = APIRouter(prefix=_PATH, tags=["recordings"])
    one = "/{job_id}"
    router.add_api_route(
        "/",
        create_recording,
        methods=["POST"],
        status_code=HTTPStatus.ACCEPTED,
        summary="Send a recording of up to 24 h",
        responses={
            202: {"model": RecordingJob},
            **problems(400, 408, 413, 415, 422, 503),
        },
        openapi_extra=_FORM,
    )
    router.add_api_route(
        one,
        read_recording,
        methods=["GET"],
        summary="See how far a recording is",
        responses={200: {"model": RecordingJob}, **problems(404)},
    )
    router.add_api_route(
        f"{one}/result",
        read_result,
        methods=["GET"],
        summary="Get the result of a recording",
        responses={
            200: {
                "description": "The result",
                "content": {
                    media_type.partition(";")[0]: {"schema": {}}
                    for media_type in _MEDIA_TYPES.values()
                },
            },
            **problems(404, 409, 422),
        },
        openapi_extra=_document(ResultQuery),
    )
    router.add_api_route(
        f"{one}/signal",
        read_signal,
        methods=["GET"],
        summary="Look at a stretch of the signal",
        responses={
            200: {
                "description": "float32 little-endian, in mV",
                "content": {"application/octet-stream": {"schema": _BINARY}},
            },
            **problems(404, 409, 422),
        },
        openapi_extra=_document(SignalQuery),
    )
    router.add_api_route(
        f"{one}/beats",
        read_recording_beats,
        methods=["GET"],
        summary="Look at the beats of a stretch",
        responses={200: {"model": BeatStretch}, **problems(404, 409, 422)},
        openapi_extra=_document(BeatsQuery),
    )
    router.add_api_route(
        one,
        delete_recording,
        methods=["DELETE"],
        status_code=HTTPStatus.ACCEPTED,
        summary="Cancel or remove a recording",
        responses={
            202: {"model": RecordingJob},
            204: {"description": "Removed"},
            **problems(404),
        },
    )
    app.include_router(router)


class RecordingJob(BaseModel):
    """A recording and how far it is."""

    model_config = ConfigDict(extra="forbid")

    job_id: str
    status: str = Field(description="`queued`, `running`, `done`, `failed` or `cancelled`.")
    progress: float = Field(description="0 to 1.")
    created_at: str
    finished_at: str | None
    kind: str = Field(description="Kind of the file: `wfdb`, `edf`, `csv` or `npy`.")
    lead: str = Field(description="The lead that is analysed.")
    leads: list[str]
    sampling_rate: float
    duration_s: float | None = Field(description="Null for CSV, whose rows are not counted yet.")
    attempts: int = Field(description="More than one after a restart of the service.")
    error: dict[str, object] | None = Field(description="A problem, when it failed.")


class BeatStretch(BaseModel):
    """Beats of a stretch, as parallel lists."""

    start_s: float
    duration_s: float
    total: int = Field(description="Beats of the stretch; at most 20,000 are listed.")
    time_s: list[float]
    type: list[str | None] = Field(description="`N`, `V`, or null where nothing can be read.")
    probability_v: list[float | None]
    rr_s: list[float | None] = Field(description="Seconds since the previous R-peak.")
    rule: list[str | None] = Field(description="The rule that changed the class.")
    quality: list[str] = Field(description="`ok`, or why the stretch cannot be read.")
    form: list[int | None] = Field(
        description="Of a V beat: index into `morphologies.forms` of the result."
    )


_BINARY: Final = {"type": "string", "format": "binary"}
_FORM: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "additionalProperties": False,
                    "properties": {
                        "files": {"type": "array", "items": _BINARY, "minItems": 1},
                        "lead": {
                            "type": "string",
                            "description": "Name of the lead; MLII, or else the first.",
                        },
                        "sampling_rate": {
                            "type": "number",
                            "minimum": 100,
                            "maximum": 1000,
                            "description": "Hz; for CSV without time and for NPY.",
                        },
                        "unit": {
                            "type": "string",
                            "enum": ["mV", "uV", "V"],
                            "description": "Unit of CSV and NPY; mV when left out.",
                        },
                    },
                }
            }
        },
    }
}


def _document(query: type[_Query]) -> dict[str, Any]:
    """Document the fields of a query that the route reads itself."""
    schema = query.model_json_schema()
    names = schema.get("$defs", {})
    return {
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": False,
                "schema": _inline(field, names),
            }
            for name, field in schema["properties"].items()
        ]
    }


def _inline(field: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    reference = field.get("$ref")
    if reference is None:
        return field
    rest = {key: value for key, value in field.items() if key != "$ref"}
    return {**names[reference.rpartition("/")[2]], **rest}


def _jobs(request: Request) -> RecordingJobs:
    runtime: Runtime = request.app.state.runtime
    return runtime.recordings


async def _do(request: Request, work: Callable[[], U]) -> U:
    """Do what reads files away from the event loop."""
    runtime: Runtime = request.app.state.runtime
    return await asyncio.get_running_loop().run_in_executor(runtime.files, work)


def _parse(model: type[T], request: Request) -> T:
    try:
        return model.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise explain_validation_error(error) from None


def _describe(job: Job) -> dict[str, Any]:
    return asdict(job)


def _json(
    content: dict[str, Any],
    status: HTTPStatus = HTTPStatus.OK,
    headers: dict[str, str] | None = None,
) -> Response:
    return Response(
        orjson.dumps(content), status_code=status, headers=headers, media_type="application/json"
    )
