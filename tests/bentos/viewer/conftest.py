"""A real browser on a real service, and recordings by a stub that speaks their contract."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
import pytest
import uvicorn
from numpy.typing import NDArray
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bentos.routes.app import make_app
from bentos.routes.edge import Edge
from ecg_lib.records.simulation.patients import Patient, draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.rhythm.description import describe_rhythm, describe_run
from ecg_lib.rhythm.patterns import summarize_rhythm

CHROMIUM: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
ARGUMENTS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
RECORDINGS: Final = "/api/v1/recordings/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    expect.set_options(timeout=60_000)  # as for actions, on a busy machine
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(
        viewport={"width": 1400, "height": 900}, reduced_motion="reduce", locale="en-GB"
    )
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page; what it logs as an error fails the test, a request to elsewhere too."""
    page = context.new_page()
    errors: list[str] = []
    strangers: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        # Chromium writes every answer that is not a success as an error.
        if message.type == "error" and "Failed to load resource" not in message.text:
            errors.append(message.text)

    page.on("console", listen)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None
            if re.match(r"(http://127\.0\.0\.1:\d+/|blob:|data:)", request.url)
            else strangers.append(request.url)
        ),
    )
    yield page
    assert errors == []
    assert strangers == []


@pytest.fixture(scope="module")
def viewer_url(service: Any) -> Iterator[str]:  # noqa: ANN401  the class of the other conftest
    """Address of the viewer on the real service."""
    front = Front(show(service))
    yield front.url
    front.close()


@pytest.fixture
def prefixed() -> Iterator[Callable[[Any], str]]:
    """Serve a service below ``/ecg``, as a reverse proxy does that strips the prefix."""
    fronts: list[Front] = []

    def start(service: Any) -> str:  # noqa: ANN401  the class of the other conftest
        app = show(service)

        async def strip(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope.get("path", "")
            if scope["type"] == "http" and not path.startswith("/ecg/"):
                await Response(status_code=404)(scope, receive, send)
                return
            inner = path.removeprefix("/ecg")
            await app({**scope, "path": inner, "raw_path": inner.encode()}, receive, send)

        fronts.append(Front(strip))
        return f"{fronts[0].url}/ecg"

    yield start
    for front in fronts:
        front.close()


def show(service: Any) -> Edge:  # noqa: ANN401  the class of the other conftest
    """Make an application of its own on the runtime of a service."""
    app = make_app()
    app.state.runtime, app.state.recordings = service.runtime, service.recordings
    return Edge(app)


@pytest.fixture(scope="session")
def day() -> Day:
    return Day()


@pytest.fixture
def recordings(service: Any, day: Day) -> Iterator[RecordingsStub]:  # noqa: ANN401
    """The real service, with recordings in front of it."""
    stub = RecordingsStub(show(service), day)
    front = Front(stub)
    stub.url = front.url
    yield stub
    front.close()


@pytest.fixture(scope="module")
def evaluate(browser: Browser, viewer_url: str) -> Callable[..., Any]:
    """Run an expression that uses a module of the viewer as ``m``, and JSON as ``argument``."""
    page = browser.new_page()
    page.goto(f"{viewer_url}/viewer/icon.svg")

    def run(module: str, expression: str, argument: object = None) -> Any:  # noqa: ANN401  JSON
        return page.evaluate(
            f"async (argument) => {{ const m = await import('/viewer/js/{module}');"
            f" return await (async () => {{ {expression} }})(); }}",
            argument,
        )

    return run


class Block(NamedTuple):
    """Ten minutes of a simulated heart, of which a day is made."""

    microvolt: NDArray[np.int16]
    r_peaks: NDArray[np.int64]
    is_v: NDArray[np.bool_]


class Day:
    """Twenty-four hours of ECG with known beats, made of a few blocks."""

    fs = 250.0
    block_s = 600
    n_blocks = 144
    flat_block = 19
    """A block in which the electrode is off."""

    @property
    def duration_s(self) -> float:
        return float(self.block_s * self.n_blocks)

    @cached_property
    def blocks(self) -> list[Block]:
        patient = draw_patient(4)
        return [
            self._make_block(
                f"day{number}",
                replace(
                    patient,
                    heart_rate_bpm=rate,
                    pvc_episodes_per_min=episodes,
                    pattern_weights=(4.0, 1.0, 1.0, 1.0, 1.0, 0.5),
                ),
                number,
            )
            for number, (rate, episodes) in enumerate([(56, 0.3), (72, 1.5), (88, 6.0), (79, 3.0)])
        ]

    def _make_block(self, name: str, patient: Patient, seed: int) -> Block:
        record = simulate_record(
            name, patient=patient, duration_s=self.block_s, seed=seed, fs=self.fs
        )
        annotations = record.annotations
        assert annotations is not None
        microvolt = np.round(1000 * record.signal_mv()).clip(-30_000, 30_000).astype(np.int16)
        return Block(microvolt, annotations.samples, annotations.symbols == "V")

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Which block is when: the nights are quieter than the days."""
        hours = np.arange(self.n_blocks) // 6
        return np.where(hours % 24 < 7, 0, np.where(hours % 5 == 0, 2, 1 + hours % 2 * 2))

    @cached_property
    def microvolt(self) -> NDArray[np.int16]:
        signal = np.concatenate([self.blocks[number].microvolt for number in self.order])
        length = len(self.blocks[0].microvolt)
        signal[self.flat_block * length : (self.flat_block + 1) * length] = 0
        return signal

    @cached_property
    def beats(self) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
        """R-peaks, which are V, which are readable."""
        length = len(self.blocks[0].microvolt)
        r_peaks = [self.blocks[n].r_peaks + at * length for at, n in enumerate(self.order)]
        is_v = np.concatenate([self.blocks[number].is_v for number in self.order])
        samples = np.concatenate(r_peaks)
        is_readable = samples // length != self.flat_block
        return samples, is_v & is_readable, is_readable

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The result as JSON, in the members that the viewer reads."""
        r_peaks, is_v, is_readable = self.beats
        times_s = r_peaks / self.fs
        rhythm = summarize_rhythm(r_peaks, is_v=is_v, is_readable=is_readable, fs=self.fs)
        v_times_s = times_s[is_v]
        flat_s = float(self.flat_block * self.block_s)
        return {
            "analysed_at": "2026-01-01T00:00:00+00:00",
            "recording": {
                "duration_s": self.duration_s,
                "sampling_rate": self.fs,
                "lead": "MLII",
                "leads": ["MLII", "V5"],
            },
            "overall_arrhythmia_type": "V",
            "risk_level": "HIGH",
            "risk_basis": "recording",
            "risk_reasons": [f"{len(rhythm.runs)} runs of V"],
            "risk_is_provisional": False,
            "total_beats_detected": len(r_peaks),
            "normal_beats": rhythm.beats - rhythm.v_beats,
            "ventricular_beats": rhythm.v_beats,
            "unreadable_beats": int((~is_readable).sum()),
            "rhythm": {**describe_rhythm(rhythm), "runs": len(rhythm.runs), "pauses": 1},
            "hours": [self._hour(number) for number in range(24)],
            "runs": [describe_run(run) for run in rhythm.runs],
            "couplets": list(rhythm.couplet_starts_s),
            "patterns": [
                {"kind": "bigeminy", "start_s": 40_000.0, "stop_s": 40_009.0, "v_beats": 5}
            ],
            "pauses": [{"start_s": 50_000.0, "duration_s": 2.3, "follows_v": True}],
            "morphologies": {
                "forms": [
                    {
                        "name": "A",
                        "beats": len(v_times_s),
                        "example_s": float(v_times_s[100]),
                        "coupling_ms": 480.0,
                        "qrs_width_ms": 152.0,
                    }
                ]
            },
            "signal_quality": {
                "usable_share": 1 - 1 / self.n_blocks,
                "unreadable": [
                    {"start_s": flat_s, "end_s": flat_s + self.block_s, "reason": "flat"}
                ],
            },
            "threshold": 0.5,
            "model": {"name": "ecg", "version": "1", "source": "trained", "data": "mitdb"},
            "notice": "",
        }

    def _hour(self, number: int) -> dict[str, Any]:
        r_peaks, is_v, is_readable = self.beats
        is_there = (r_peaks / self.fs // 3600 == number) & is_readable
        rr_s = np.diff(r_peaks[is_there]) / self.fs
        return {
            "start_s": 3600.0 * number,
            "heart_rate_mean_bpm": 60 / float(rr_s.mean()),
            "burden": float(is_v[is_there].mean()),
        }


class RecordingsStub:
    """Speaks the contract of ``/api/v1/recordings/`` in front of the real service."""

    def __init__(self, service: ASGIApp, day: Day) -> None:
        self.service = service
        self.day = day
        self.url = ""
        self.polls = 0
        self.requests: list[str] = []
        self.forms: list[dict[str, list[str]]] = []
        self.cancelled: list[str] = []
        self.failure: dict[str, Any] | None = None
        self.polls_until_done = 2
        self.leads = ["MLII", "V5"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith((RECORDINGS, "/openapi.json")):
            await self.service(scope, receive, send)
            return
        request = Request(scope, receive)
        if path == "/openapi.json":
            await self._describe(scope, receive, send)
            return
        self.requests.append(f"{request.method} {path}?{request.url.query}")
        response = await self._answer(request, path.removeprefix(RECORDINGS))
        await response(scope, receive, send)

    async def _describe(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()

        async def keep(message: Any) -> None:  # noqa: ANN401  ASGI
            body.extend(message.get("body", b""))

        await self.service(scope, receive, keep)
        described = orjson.loads(body)
        described["paths"][RECORDINGS] = {"post": {}}
        await JSONResponse(described)(scope, receive, send)

    async def _answer(self, request: Request, rest: str) -> Response:
        if request.method == "POST":
            async with request.form() as form:
                self.forms.append(
                    {
                        name: [getattr(value, "filename", value) for value in form.getlist(name)]
                        for name in form
                    }
                )
            self.polls = 0
            (lead,) = self.forms[-1].get("lead", self.leads[:1])
            job = {
                "job_id": "day-1",
                "status": "queued",
                "progress": 0.0,
                "lead": lead,
                "leads": self.leads,
            }
            return JSONResponse(job, 202, headers={"Location": f"{RECORDINGS}day-1"})
        job_id, _, part = rest.partition("/")
        if job_id != "day-1":
            problem = {"type": "/problems/unknown-recording", "title": "There is no such recording"}
            return JSONResponse(problem | {"status": 404, "detail": "no job has this job_id"}, 404)
        if request.method == "DELETE":
            self.cancelled.append(job_id)
            return Response(status_code=204)
        return self._read(part, request.query_params)

    def _read(self, part: str, query: QueryParams) -> Response:
        if part == "result":
            return self._result(query["format"])
        if part == "signal":
            start_s, duration_s = float(query["start_s"]), float(query["duration_s"])
            return self._signal(start_s, duration_s, int(query["max_points"]))
        if part == "beats":
            return self._beats(float(query["start_s"]), float(query["duration_s"]))
        return self._job()

    def _job(self) -> Response:
        self.polls += 1
        if self.polls < self.polls_until_done:
            share = min(0.9, self.polls / self.polls_until_done)
            return JSONResponse({"job_id": "day-1", "status": "running", "progress": share})
        if self.failure:
            job = {"job_id": "day-1", "status": "failed", "progress": 0.4, "error": self.failure}
            return JSONResponse(job)
        return JSONResponse({"job_id": "day-1", "status": "done", "progress": 1.0})

    def _result(self, form: str) -> Response:
        if form == "json":
            return Response(orjson.dumps(self.day.summary), media_type="application/json")
        return Response(f"the result as {form}", media_type="application/octet-stream")

    def _signal(self, start_s: float, duration_s: float, max_points: int) -> Response:
        fs = self.day.fs
        part = self.day.microvolt[round(start_s * fs) : round((start_s + duration_s) * fs)]
        kind, step = "samples", 1
        values = part.astype("<f4") / 1000
        if len(part) > max_points:
            kind, step = "envelope", -(-len(part) // max_points)
            whole = part[: len(part) // step * step].reshape(-1, step)
            values = np.stack([whole.min(axis=1), whole.max(axis=1)], axis=1).astype("<f4") / 1000
        headers = {
            "X-ECG-Kind": kind,
            "X-ECG-Start-S": str(start_s),
            "X-ECG-Step-S": str(step / fs),
            "X-ECG-Points": str(len(values)),
        }
        body = np.ascontiguousarray(values, dtype="<f4").tobytes()
        return Response(body, headers=headers, media_type="application/octet-stream")

    def _beats(self, start_s: float, duration_s: float) -> Response:
        r_peaks, is_v, is_readable = self.day.beats
        times_s = r_peaks / self.day.fs
        first, last = np.searchsorted(times_s, [start_s, start_s + duration_s])
        part = slice(int(first), int(last))
        rr_s = np.diff(times_s, prepend=np.nan)[part]
        readable, ventricular = is_readable[part].tolist(), is_v[part].tolist()
        beats = list(zip(readable, ventricular, strict=True))
        return JSONResponse(
            {
                "time_s": times_s[part].tolist(),
                "type": [("V" if v else "N") if r else None for r, v in beats],
                "probability_v": [(0.97 if v else 0.01) if r else None for r, v in beats],
                "rr_s": [None if value != value else value for value in rr_s.tolist()],  # noqa: PLR0124  NaN
                "rule": [None] * len(beats),
                "quality": ["ok" if r else "flat" for r, _ in beats],
            }
        )


class Front:
    """A server in a thread of this process."""

    def __init__(self, app: ASGIApp) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(app, log_config=None, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
