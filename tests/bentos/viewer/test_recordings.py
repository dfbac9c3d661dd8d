from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from playwright.sync_api import FilePayload, Page, expect

from ecg_lib.records.files.lead import choose_lead
from ecg_lib.records.files.opening import open_recording

Stub = Any
"""The stub of the conftest, which cannot be imported."""

DAY = {"name": "day.edf", "mimeType": "application/octet-stream", "buffer": b"0" * 5000}
FRAMES = """() => {
  window.frames_ms = [];
  let before = performance.now();
  const step = (now) => {
    window.frames_ms.push(now - before);
    before = now;
    window.is_measured = requestAnimationFrame(step);
  };
  window.is_measured = requestAnimationFrame(step);
}"""


def open_day(page: Page, stub: Stub) -> None:
    page.goto(stub.url)
    page.locator("#served dl").wait_for()
    page.set_input_files("#files", [DAY])
    page.locator("#summary").wait_for(timeout=60_000)


def wait_until(is_true: Callable[[], object], *, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def signal_requests(stub: Stub) -> list[dict[str, float]]:
    urls = [urlsplit(line.split(" ")[1]) for line in stub.requests if "/signal?" in line]
    return [{name: float(value[0]) for name, value in parse_qs(url.query).items()} for url in urls]


def test_a_recording_is_uploaded_followed_and_shown(page: Page, recordings: Stub) -> None:
    page.goto(recordings.url)
    expect(page.locator("#formats")).to_contain_text("Recordings up to 14 days")
    open_day(page, recordings)
    assert recordings.forms == [{"files": ["day.edf"]}]
    assert page.url.endswith("/?recording=day-1")
    expect(page.locator("#subject-about")).to_contain_text("24 h · 250 Hz · lead MLII")
    summary = recordings.day.summary
    runs = summary["runs"]
    assert len(runs) > 10
    expect(page.locator("#summary")).to_contain_text(f"{len(runs)}")
    expect(page.locator("#summary")).to_contain_text("judged on this recording")
    expect(page.locator("#toolbar output")).to_have_text(re.compile(r"^10(\.\d)? s in view"))
    expect(page.locator("#table")).to_contain_text("beats in view")
    expect(page.locator("#beat")).not_to_contain_text("You call it")


def test_a_pair_of_files_and_a_lead_are_sent_as_the_contract_says(
    page: Page, recordings: Stub
) -> None:
    header = (
        "100 2 250 100\n100.dat 212 200 11 1024 995 0 0 MLII\n100.dat 212 200 11 1024 1 0 0 V5\n"
    )
    page.goto(recordings.url)
    page.locator("#served dl").wait_for()
    page.set_input_files(
        "#files",
        [
            {"name": "100.hea", "mimeType": "text/plain", "buffer": header.encode()},
            {"name": "100.dat", "mimeType": "text/plain", "buffer": b"0"},
            {"name": "100.atr", "mimeType": "text/plain", "buffer": b"0"},  # which is left out
        ],
    )
    page.locator("#summary").wait_for(timeout=60_000)
    page.locator("#settings summary").click()
    page.get_by_label("Lead", exact=True).select_option("V5")
    page.get_by_role("button", name="Analyse this lead").click()
    wait_until(lambda: len(recordings.forms) == 2)
    assert recordings.forms[0] == {"files": ["100.hea", "100.dat"]}
    assert recordings.forms[1] == {"files": ["100.hea", "100.dat"], "lead": ["V5"]}
    page.locator("#summary").wait_for()
    expect(page.locator("#curl")).to_contain_text("-F files=@100.hea")
    expect(page.locator("#curl")).to_contain_text("-F lead=V5")


def csv_file(headings: str, rows: Iterable[str]) -> FilePayload:
    text = f"{headings}\n" + "".join(f"{row}\n" for row in rows)
    return {"name": "long.csv", "mimeType": "text/csv", "buffer": text.encode()}


def test_a_long_csv_file_becomes_a_recording_that_the_service_reads_the_same(
    page: Page, recordings: Stub, tmp_path: Path
) -> None:
    page.goto(recordings.url)
    page.locator("#served dl").wait_for()
    rows = (f"{at / 100},{at % 900},{at % 300}" for at in range(180_100))
    long = csv_file("time,V1 (uV),II (uV)", rows)
    page.set_input_files("#files", [long])
    page.locator("#summary").wait_for(timeout=60_000)
    (form,) = recordings.forms
    assert form == {"files": ["long.csv"], "lead": ["II"]}
    for field in ("files=@long.csv", "lead=II"):
        expect(page.locator("#curl")).to_contain_text(f"-F {field}")

    path = tmp_path / "long.csv"
    path.write_bytes(long["buffer"])
    opened = open_recording(path)
    assert choose_lead(opened.leads, form["lead"][0])[:3] == ("II", 100.0, None)
    first_mv = next(opened.blocks(choose_lead(opened.leads, "V1")))[:4]
    np.testing.assert_allclose(first_mv, [0, 0.001, 0.002, 0.003], rtol=1e-6)


def test_another_lead_is_analysed_with_the_rate_and_unit_of_the_first(
    page: Page, recordings: Stub
) -> None:
    recordings.leads = ["II", "V1"]
    page.goto(recordings.url)
    page.locator("#served dl").wait_for()
    rows = (f"{at % 900 + 0.5},0" for at in range(180_100))
    page.set_input_files("#files", [csv_file("II,V1", rows)])
    page.get_by_label("Samples per second (Hz)").fill("100")
    page.get_by_role("button", name="Find the beats").click()
    page.locator("#summary").wait_for(timeout=60_000)
    page.locator("#settings summary").click()
    page.get_by_label("Lead", exact=True).select_option("V1")
    page.get_by_role("button", name="Analyse this lead").click()
    wait_until(lambda: len(recordings.forms) == 2)
    told = {"files": ["long.csv"], "sampling_rate": ["100"], "unit": ["uV"]}
    assert recordings.forms == [told | {"lead": ["II"]}, told | {"lead": ["V1"]}]
    expect(page.get_by_label("Lead", exact=True)).to_have_value("V1")


def test_the_leads_to_choose_from_are_those_of_the_service(page: Page, recordings: Stub) -> None:
    recordings.leads = ["II", "V2", "V5"]
    labels = ["ECG II", "ECG V2", "ECG V5", "Trend"]
    head = " " * 252 + "4   " + "".join(label.ljust(16) for label in labels)
    page.goto(recordings.url)
    page.locator("#served dl").wait_for()
    page.set_input_files("#files", [{**DAY, "buffer": head.encode()}])
    page.locator("#summary").wait_for(timeout=60_000)
    page.locator("#settings summary").click()
    lead = page.get_by_label("Lead", exact=True)
    assert lead.locator("option").all_text_contents() == ["II", "V2", "V5"]
    expect(lead).to_have_value("II")


def test_progress_is_shown_and_cancel_reaches_the_job(page: Page, recordings: Stub) -> None:
    recordings.polls_until_done = 10_000
    page.goto(recordings.url)
    page.locator("#served dl").wait_for()
    page.set_input_files("#files", [DAY])
    expect(page.locator(".progress")).to_contain_text("Finding the beats, ")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_contain_text("The analysis was cancelled")
    assert recordings.cancelled == ["day-1"]
    expect(page.locator("#subject-name")).to_have_text("day.edf")
    recordings.polls_until_done = 2
    page.get_by_role("button", name="Try again").click()
    page.locator("#summary").wait_for(timeout=60_000)
    assert len(recordings.forms) == 2


def test_a_failed_job_says_why(page: Page, recordings: Stub) -> None:
    recordings.failure = {
        "type": "/problems/corrupt-recording",
        "title": "The recording cannot be read",
        "status": 422,
        "detail": "the header promises 2 leads",
    }
    page.goto(recordings.url)
    page.locator("#served dl").wait_for()
    page.set_input_files("#files", [DAY])
    expect(page.get_by_role("alert")).to_contain_text("The recording cannot be read")
    expect(page.get_by_role("alert")).to_contain_text("the header promises 2 leads")


def test_a_link_opens_a_recording_again(page: Page, recordings: Stub) -> None:
    page.goto(f"{recordings.url}/?recording=day-1")
    page.locator("#summary").wait_for(timeout=60_000)
    expect(page.locator("#subject-about")).to_contain_text("24 h")
    page.goto(f"{recordings.url}/?recording=nix")
    expect(page.get_by_role("alert")).to_contain_text("There is no such recording")


@pytest.mark.parametrize("name", ["Report", "PDF", "Beats, CSV", "WFDB annotations", "FHIR"])
def test_results_are_downloaded(page: Page, recordings: Stub, name: str) -> None:
    open_day(page, recordings)
    with page.expect_download() as caught:
        page.get_by_role("button", name=name, exact=True).click()
    assert caught.value.path().read_text().startswith("the result as ")


def test_findings_and_v_beats_are_a_step_away(page: Page, recordings: Stub) -> None:
    open_day(page, recordings)
    overview = page.locator("#overview")
    expect(page.locator("#findings")).to_contain_text("QRS 152 ms, coupling 480 ms")
    page.locator("#findings .jump-run").first.click()
    start_s = recordings.day.summary["runs"][0]["start_s"]
    shown_s = float(overview.get_attribute("aria-valuenow") or "nan")
    assert shown_s < start_s < shown_s + 10
    expect(page.locator("#table tbody .class-V").first).to_be_visible()
    page.locator("#paper").focus()
    page.keyboard.press("Home")
    page.keyboard.press(">")
    r_peaks, is_v, _ = recordings.day.beats
    first_s = r_peaks[is_v][0] / recordings.day.fs
    expect(page.locator("#said")).to_contain_text("class V")
    shown_s = float(overview.get_attribute("aria-valuenow") or "nan")
    assert shown_s <= first_s <= shown_s + 10


def test_a_day_is_zoomed_and_scrolled_with_few_requests(page: Page, recordings: Stub) -> None:
    """Print frame times; assert what does not depend on the machine."""
    open_day(page, recordings)
    page.wait_for_load_state("networkidle")
    recordings.requests.clear()
    page.evaluate(FRAMES)
    box = page.locator("#strip").bounding_box()
    over = page.locator("#overview").bounding_box()
    assert box is not None
    assert over is not None
    x, y = box["x"] + 500, box["y"] + 200
    page.mouse.move(x, y)
    for _ in range(60):
        page.mouse.wheel(0, 200)  # along the strip, two seconds at a time
    page.keyboard.down("Control")
    for _ in range(40):
        page.mouse.wheel(0, 120)  # out, to all of the day
    for _ in range(24):
        page.mouse.wheel(0, -120)  # in again
    page.keyboard.up("Control")
    page.mouse.down()
    page.mouse.move(x - 400, y, steps=40)
    page.mouse.up()
    page.mouse.move(over["x"] + 300, over["y"] + 30)
    page.mouse.down()
    page.mouse.move(over["x"] + 800, over["y"] + 30, steps=60)
    page.mouse.up()
    page.wait_for_load_state("networkidle")
    frames_ms = sorted(
        page.evaluate("cancelAnimationFrame(window.is_measured) || window.frames_ms")
    )
    middle, late = frames_ms[len(frames_ms) // 2], frames_ms[int(0.99 * len(frames_ms))]
    asked = signal_requests(recordings)
    print(  # noqa: T201  the point
        f"{len(frames_ms)} frames: median {middle:.1f} ms, 99 % within {late:.1f} ms, longest "
        f"{frames_ms[-1]:.1f} ms; {len(asked)} requests for signal, "
        f"{len(recordings.requests) - len(asked)} for beats"
    )
    # Of 226 moves; what flies past is not asked for.
    assert len(recordings.requests) < 80
    assert max(request["max_points"] for request in asked) <= 8192
    parts = [(request["start_s"], request["duration_s"]) for request in asked]
    # A request that was given up may come again, no other.
    assert len(parts) - len(set(parts)) < 0.3 * len(parts)
    assert all(start + duration <= 86400 for start, duration in parts)
    expect(page.locator("#strip")).to_be_visible()


def test_all_of_a_day_is_a_trend_and_a_band(page: Page, recordings: Stub) -> None:
    open_day(page, recordings)
    page.get_by_role("button", name="Show all of the signal").click()
    expect(page.locator("#toolbar output")).to_contain_text("24 h in view")
    expect(page.locator("#table")).to_contain_text("Zoom in to an hour or less to list them")
    wait_until(lambda: max(part["duration_s"] for part in signal_requests(recordings)) > 3600)
    overview = page.locator("#overview")
    overview.focus()
    page.keyboard.press("+")
    page.keyboard.press("End")
    shown = float(overview.get_attribute("aria-valuenow") or "nan")
    assert shown > 20_000
    expect(overview).to_have_attribute("aria-valuetext", re.compile(r"h from .* of 24 h"))
