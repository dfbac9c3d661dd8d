"""Files as people have them, sent to ``POST /api/v1/recordings/``.

`tests/cases/cases.json` says what must come out; the classes of beats are tested where the shipped
model is at hand (`tests/flows/recordings/test_cases.py`).
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

CASES = Path(__file__).parents[2] / "cases"

RECORDINGS = "/api/v1/recordings/"

TABLE: list[dict[str, Any]] = [
    case
    for case in json.loads((CASES / "cases.json").read_text(encoding="utf-8"))
    # A signal file without a header has a word of its own here, see below.
    if case["path"] not in {"dat-without-header/lonely.dat", "dat-without-header/noext"}
]

ANALYSED = (
    "cinc-header-date/E90002.hea",
    "csv-apple-watch/apple.csv",
    "edf-d-contiguous/d_gap.edf",
    "edf-truncated/trunc.edf",
    "gap-asystole/emptycells.csv",
    "unit-silent/uv_nounit.csv",
    "wfdb-mat-over-http/m.zip",
)
"""Cases that are followed to their result; the others to the answer to the upload."""


def _send(http: httpx.Client, case: dict[str, Any]) -> httpx.Response:
    path = CASES / case["path"]
    paths = [path]
    if path.suffix == ".hea":
        paths = [one for one in path.parent.iterdir() if one.stem == path.stem]
    files = [("files", (one.name, one.read_bytes())) for one in paths]
    fields = {name: str(value) for name, value in case.get("options", {}).items()}
    return http.post(RECORDINGS, files=files, data=fields)


@pytest.mark.parametrize("case", TABLE, ids=[case["path"] for case in TABLE])
def test_a_file_is_taken_or_refused_with_a_clear_word(
    http: httpx.Client, case: dict[str, Any]
) -> None:
    answered = _send(http, case)
    if "words" in case and case["path"] != "edf-units/unit_Volt.edf":
        assert answered.status_code == 422
        detail = answered.json()["detail"]
        assert re.search(case["words"], detail)
        return
    assert answered.status_code == 202, answered.text
    job = answered.json()
    if "lead" in case:
        assert job["lead"] == case["lead"]
    if case["path"] not in ANALYSED:
        http.delete(f"{RECORDINGS}{job['job_id']}")
        return
    found = _wait_for(http, job["job_id"])
    quality = found["signal_quality"]
    if case["beats"] is not None:
        assert found["total_beats_detected"] - found["unreadable_beats"] == case["beats"]
    assert quality["unreadable_s"] == pytest.approx(case.get("unreadable_s", 0.0), abs=0.01)
    assert quality["findings"] == []
    assert found["rhythm"]["pauses"] == 0
    assert bool(quality["warnings"]) == ("warning" in case)


def _wait_for(http: httpx.Client, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        job = http.get(f"{RECORDINGS}{job_id}").json()
        assert job["status"] in {"queued", "running", "done"}, job
        if job["status"] == "done":
            found: dict[str, Any] = http.get(f"{RECORDINGS}{job_id}/result").json()
            return found
        time.sleep(0.05)
    pytest.fail("the analysis must end within 180 s")


def test_a_signal_file_without_its_header_is_refused(http: httpx.Client) -> None:
    path = CASES / "dat-without-header" / "lonely.dat"
    answered = http.post(RECORDINGS, files=[("files", (path.name, path.read_bytes()))])
    assert answered.status_code == 422
    assert "the header is missing: a WFDB record is read by its header" in answered.json()["detail"]


def test_a_prediction_without_a_sampling_rate_says_what_is_assumed(http: httpx.Client) -> None:
    body = json.loads((CASES / "json-default-rate" / "no_rate.json").read_text())
    answered = http.post("/api/v1/predictions/", json=body)
    assert answered.status_code == 201
    (warning,) = (
        text
        for text in answered.json()["signal_quality"]["warnings"]
        if text.startswith("sampling_rate was left out")
    )
    assert "360 Hz is assumed" in warning
    stated = http.post("/api/v1/predictions/", json={**body, "sampling_rate": 250.0})
    assert stated.json()["signal_quality"]["warnings"] == []
