"""The routes of recordings: send one, see how far it is, get its results, look at its signal."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import FileResponse, Response

from bentos.recordings.job_store import Job, JobStatus
from bentos.recordings.tables import MAX_TABLE_BYTES, SUFFIXES, Looks, TableFields, read_table
from bentos.recordings.uploads import MAX_UPLOAD_BYTES, lay_out, receive_form, refuse_without_room
from bentos.routes.api_description import document_problems, document_query
from bentos.routes.routing import (
    answer_json,
    caller_of,
    locate,
    look_up,
    recordings_of,
    runtime_of,
)
from bentos.runtime.limits.bodies import announced_bytes, decoded
from bentos.runtime.prediction.feedback import describe_marks_of_recording
from bentos.runtime.predictor import Runtime
from bentos.wire.inputs import parse_query
from bentos.wire.problems import TOO_LARGE, ProblemError
from bentos.wire.schemas import Marks, SignalTable
from ecg_lib.recordings.beat_file import NAMES, read_beats
from ecg_lib.recordings.signal_file import read_stretch
from ecg_lib.recordings.summary import ResultFormat
from ecg_lib.records.limits import MAX_DURATION_S

MAX_POINTS: Final = 20_000
MAX_BEATS: Final = 20_000
MAX_STRETCH_S: Final = MAX_DURATION_S + 3600.0
SIGNAL_HEADERS: Final = ("X-ECG-Kind", "X-ECG-Start-S", "X-ECG-Step-S", "X-ECG-Points")
"""Headers that describe a stretch of the signal."""

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

T = TypeVar("T")


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
    """Take a file of up to 14 days, and queue it for analysis.

    A WFDB header with its signal files, or one EDF, CSV, NPY or device file; or one of these as a
    zip or gzip file; or, with `join`, several files as the parts of one recording.
    """
    runtime = runtime_of(request)
    runtime.require_model()
    announced = announced_bytes(request)
    if announced is not None and announced > MAX_UPLOAD_BYTES:
        raise ProblemError(TOO_LARGE, f"the body must have at most {MAX_UPLOAD_BYTES} bytes")
    recordings, caller = recordings_of(request), caller_of(request)
    directory = await _do(runtime, lambda: recordings.open_upload(announced, caller))
    try:
        with refuse_without_room():
            texts, files = await receive_form(
                decoded(request),
                content_type=request.headers.get("content-type", ""),
                directory=directory,
                executor=runtime.files,
            )
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    job = await _take(request, texts, files, directory)
    headers = {"Location": locate(request, f"{_PATH}/{job.job_id}")}
    return answer_json(orjson.dumps(job), HTTPStatus.ACCEPTED, headers)


async def _take(
    request: Request, texts: dict[str, str], files: dict[str, Path], directory: Path
) -> Job:
    """Queue an upload, or leave nothing of it, even when the client has gone."""
    runtime, recordings, caller = runtime_of(request), recordings_of(request), caller_of(request)

    def take() -> Job:
        try:
            with refuse_without_room():
                return recordings.add(lay_out(texts, files, directory), caller)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    def give_back(taken: asyncio.Future[Job]) -> None:
        if not taken.cancelled() and taken.exception() is None:
            job_id = taken.result().job_id
            runtime.files.submit(recordings.delete, job_id)

    taken = asyncio.ensure_future(_do(runtime, take))
    try:
        return await asyncio.shield(taken)
    except asyncio.CancelledError:
        # A thread cannot be stopped. A job whose id no client received is not to be analysed.
        taken.add_done_callback(give_back)
        raise


async def read_signal_file(request: Request) -> Response:
    """Read a CSV, text or NPY file of samples, packed or not: its leads, rate, unit and samples.

    Nothing is kept or analysed. What the file does not state is null and listed in `missing`.
    """
    runtime, recordings, caller = runtime_of(request), recordings_of(request), caller_of(request)
    announced = announced_bytes(request)
    if announced is not None and announced > MAX_TABLE_BYTES:
        raise ProblemError(TOO_LARGE, f"the body must have at most {MAX_TABLE_BYTES} bytes")
    room = announced or MAX_TABLE_BYTES
    looks: Looks = request.app.state.looks
    looks.require_place()
    directory = await _do(runtime, lambda: recordings.open_upload(room, caller, is_kept=False))
    try:
        with refuse_without_room():
            texts, files = await receive_form(
                decoded(request),
                content_type=request.headers.get("content-type", ""),
                directory=directory,
                executor=runtime.files,
                fields=TableFields,
                max_bytes=MAX_TABLE_BYTES,
            )
        return answer_json(await looks.read(lambda: read_table(texts, files).as_json()))
    finally:
        await asyncio.shield(_do(runtime, lambda: shutil.rmtree(directory, ignore_errors=True)))


async def read_recording(request: Request, job_id: str) -> Response:
    """Report how far a recording is; ``error`` says why it failed."""
    recordings, caller = recordings_of(request), caller_of(request)
    job = await _do(runtime_of(request), lambda: recordings.find(job_id, caller))
    return answer_json(orjson.dumps(job))


async def read_result(request: Request, job_id: str) -> Response:
    """Give the result of a recording that is done, in one of several formats."""
    kind = parse_query(ResultQuery, request.query_params.multi_items()).format
    recordings, caller = recordings_of(request), caller_of(request)
    results = await _do(runtime_of(request), lambda: recordings.find_results(job_id, caller))
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
    query = parse_query(SignalQuery, request.query_params.multi_items())
    recordings, caller = recordings_of(request), caller_of(request)

    def read() -> Response:
        results = recordings.find_results(job_id, caller)
        fs = orjson.loads((results / NAMES).read_bytes())["fs"]
        stretch = read_stretch(
            results,
            fs=fs,
            start_s=query.start_s,
            duration_s=query.duration_s,
            max_points=query.max_points,
        )
        said = (
            stretch.kind.value,
            repr(stretch.start_s),
            repr(stretch.step_s),
            str(stretch.points),
        )
        return Response(
            stretch.values_mv.astype("<f4").tobytes(),
            headers=dict(zip(SIGNAL_HEADERS, said, strict=True)),
            media_type="application/octet-stream",
        )

    return await _do(runtime_of(request), read)


async def read_recording_beats(request: Request, job_id: str) -> Response:
    """Give the beats of a stretch as parallel lists, at most 20,000 of them from its start.

    ``total`` says how many the stretch has; when it is more, the rest begins after the last
    ``time_s``.
    """
    query = parse_query(BeatsQuery, request.query_params.multi_items())
    recordings, caller = recordings_of(request), caller_of(request)

    def read() -> Response:
        stretch = read_beats(
            recordings.find_results(job_id, caller),
            start_s=query.start_s,
            duration_s=query.duration_s,
            max_beats=MAX_BEATS,
        )
        found = {
            "start_s": query.start_s,
            "duration_s": query.duration_s,
            "first_beat": stretch.first_beat,
            "total": stretch.total,
            **stretch.columns,
        }
        return answer_json(orjson.dumps(found))

    return await _do(runtime_of(request), read)


async def read_recording_feedback(request: Request, job_id: str) -> Response:
    """Give the marks that readers made on a recording, and the beats as these correct them."""
    runtime, recordings, caller = runtime_of(request), recordings_of(request), caller_of(request)

    def read() -> bytes:
        results = recordings.find_results(job_id, caller)
        return describe_marks_of_recording(runtime, job_id, results)

    return answer_json(await look_up(runtime, read))


async def delete_recording(request: Request, job_id: str) -> Response:
    """Cancel the analysis of a recording (202), or remove one that has ended (204)."""
    recordings, caller = recordings_of(request), caller_of(request)
    job = await _do(runtime_of(request), lambda: recordings.delete(job_id, caller))
    if job is None:
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return answer_json(orjson.dumps(job), HTTPStatus.ACCEPTED)


async def _do(runtime: Runtime, work: Callable[[], T]) -> T:
    """Do what reads or writes files away from the event loop."""
    return await asyncio.get_running_loop().run_in_executor(runtime.files, work)


def add_routes(app: FastAPI) -> None:
    """Add the routes."""
    app.state.looks = Looks()
    router = APIRouter(prefix=_PATH, tags=["recordings"])
    one = "/{job_id}"
    router.add_api_route(
        "/",
        create_recording,
        methods=["POST"],
        status_code=HTTPStatus.ACCEPTED,
        summary="Send a recording of up to 14 days",
        responses={
            202: {"model": RecordingJob},
            **document_problems(400, 408, 413, 415, 422, 503),
        },
        openapi_extra=_FORM,
    )
    router.add_api_route(
        one,
        read_recording,
        methods=["GET"],
        summary="See how far a recording is",
        responses={200: {"model": RecordingJob}, **document_problems(404)},
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
            **document_problems(404, 409, 422),
        },
        openapi_extra={"parameters": document_query(ResultQuery)},
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
            **document_problems(404, 409, 422),
        },
        openapi_extra={"parameters": document_query(SignalQuery)},
    )
    router.add_api_route(
        f"{one}/beats",
        read_recording_beats,
        methods=["GET"],
        summary="Look at the beats of a stretch",
        responses={200: {"model": BeatStretch}, **document_problems(404, 409, 422)},
        openapi_extra={"parameters": document_query(BeatsQuery)},
    )
    router.add_api_route(
        f"{one}/feedback",
        read_recording_feedback,
        methods=["GET"],
        summary="Read the marks of readers on a recording",
        responses={200: {"model": Marks}, **document_problems(404, 409, 422, 503)},
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
            **document_problems(404),
        },
    )
    app.include_router(router)
    app.add_api_route(
        "/api/v1/signals/",
        read_signal_file,
        methods=["POST"],
        tags=["recordings"],
        summary="Read a file of samples, without keeping it",
        responses={
            200: {"model": SignalTable},
            **document_problems(400, 408, 413, 415, 422, 503),
        },
        openapi_extra=_TABLE_FORM,
    )


class RecordingJob(BaseModel):
    """A recording and how far it is."""

    model_config = ConfigDict(extra="forbid")

    job_id: str
    status: JobStatus
    progress: float = Field(description="0 to 1.")
    created_at: str
    finished_at: str | None
    kind: str = Field(
        description="Kind of the file: `wfdb`, `edf`, `csv`, `npy`, `dicom`, `ishne`, `scp`, "
        "`aecg`, `muse`, `philips` or `atc`."
    )
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
    first_beat: int = Field(description="Index of the first one; feedback names beats by index.")
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


def _describe_form(**fields: Any) -> dict[str, Any]:  # noqa: ANN401  JSON
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["files"],
                        "additionalProperties": False,
                        "properties": fields,
                    }
                }
            },
        }
    }


_TABLE_FORM: Final = _describe_form(
    files={
        "type": "array",
        "items": _BINARY,
        "minItems": 1,
        "maxItems": 1,
        "description": "A file of one of the suffixes in `x-suffixes`.",
        "x-suffixes": SUFFIXES,
    },
    is_part={
        "type": "boolean",
        "default": False,
        "description": "Whether it is only the beginning of a file.",
    },
)
_FORM: Final = _describe_form(
    files={
        "type": "array",
        "items": _BINARY,
        "minItems": 1,
        "description": "WFDB, zip and npz are recognised by their suffix; EDF, NPY, text, gzip and "
        "exports of devices by their content too.",
    },
    lead={
        "type": "string",
        "description": "Name of the lead; else MLII, II, or the first ECG.",
    },
    sampling_rate={
        "type": "number",
        "minimum": 100,
        "maximum": 1000,
        "description": "Hz; for CSV without time and for NPY.",
    },
    unit={
        "type": "string",
        "maxLength": 32,
        "description": "mV, uV or V, in any usual spelling: of NPY, and of CSV that states none; "
        "mV when left out.",
    },
    join={
        "type": "boolean",
        "default": False,
        "description": "Whether the files are parts of one recording, in their order; gaps between "
        "their clocks are missing.",
    },
)
