"""Recordings that are sent over HTTP, and what comes back."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bentos.wire.schemas import Problem

RECORDINGS = "/api/v1/recordings/"
NAME = "Mustermann"
Files = list[tuple[str, tuple[str, bytes]]]


def make_form(files: dict[str, bytes]) -> Files:
    return [("files", (name, content)) for name, content in files.items()]


def wait_until(http: httpx.Client, job_id: str, *, until: str = "done") -> dict[str, Any]:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        job: dict[str, Any] = http.get(f"{RECORDINGS}{job_id}").json()
        if job["status"] in {until, "failed", "cancelled", "done"}:
            assert job["status"] == until, job
            return job
        time.sleep(0.05)
    pytest.fail(f"{job_id} must be {until} within 180 s")


def send(http: httpx.Client, files: dict[str, bytes], **fields: str) -> httpx.Response:
    return http.post(RECORDINGS, files=make_form(files), data=fields)


def list_incoming(home: Path) -> list[Path]:
    """Files that uploads have left; the directory of each process stays, with its lock."""
    incoming = home / "recordings" / ".incoming"
    removed = incoming.glob("*.gone")
    return [*removed, *(path for path in incoming.glob("*/*") if path.name != ".owner")]


def expect_refusal(answered: httpx.Response, status: int, name: str) -> dict[str, Any]:
    assert answered.status_code == status, answered.text
    problem = Problem.model_validate_json(answered.content)
    assert (problem.type, problem.status) == (f"/problems/{name}", status)
    for leak in ("Traceback", ".py", "/tmp", "/home", NAME):  # noqa: S108  what must not be there
        assert leak not in answered.text
    body: dict[str, Any] = answered.json()
    return body


def make_npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()
