"""Files that are opened as strips: read, asked about, or refused with the reason."""

from __future__ import annotations

import io
import json

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect

from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from tests.bentos.viewer.strips.page import beat_rows, choose, file, open_example, strip_csv


def test_a_csv_file_is_analysed_and_the_same_numbers_come_as_over_http(
    page: Page, viewer_url: str, http: httpx.Client
) -> None:
    page.goto(viewer_url)
    text = strip_csv(StripKind.COUPLET)
    choose(page, file("ward 7.csv", text))
    expect(page.locator("#summary")).to_contain_text("2 ventricular beats")
    expect(page.locator("#subject-about")).to_contain_text("10 s · 250 Hz · lead MLII")
    signal = [float(line.split(",")[1]) for line in text.splitlines()[1:]]
    request = {"signal_data": signal, "sampling_rate": 250, "derivation": "MLII"}
    answer = http.post("/api/v1/predictions/", json=request).json()
    shown = [row[3] for row in beat_rows(page)]
    assert shown == [f"{beat['probability_v']:.3f}" for beat in answer["beat_predictions"]]


def test_a_file_that_is_dropped_before_the_service_has_answered_is_analysed(
    page: Page, viewer_url: str
) -> None:
    waiting: list[Route] = []
    page.route("**/openapi.json", lambda route: waiting.append(route))  # noqa: PLW0108  playwright looks at it
    page.goto(viewer_url)
    choose(page, file("early.csv", strip_csv(StripKind.COUPLET)))
    page.wait_for_timeout(300)
    expect(page.locator("#summary")).not_to_be_visible()
    waiting[0].continue_()
    expect(page.locator("#summary")).to_contain_text("2 ventricular beats")
    page.wait_for_timeout(300)
    expect(page.locator("#workspace")).to_be_visible()


def test_a_numpy_file_asks_for_its_rate_before_it_is_sent(page: Page, viewer_url: str) -> None:
    signal = simulate_strip(StripKind.ISOLATED_PVC, seed=3, fs=500.0).signal_mv()
    content = io.BytesIO()
    np.save(content, np.stack([0 * signal, signal], axis=1).astype("<f4"))
    sent: list[str] = []
    page.on(
        "request",
        lambda request: sent.append(request.url) if "/predictions/" in request.url else None,
    )
    page.goto(viewer_url)
    choose(page, file("two.npy", content.getvalue()))
    expect(page.locator("#settings")).to_contain_text("How is this signal to be read?")
    expect(page.locator("#settings")).to_contain_text("The file does not state the sampling rate.")
    expect(page.get_by_label("Samples per second (Hz)")).to_have_value("")
    expect(page.get_by_label("Name of the lead")).to_have_value("ECG")
    expect(page.locator("#setting-length")).to_have_text("5\u202f000 samples")
    expect(page.locator("#strip")).to_be_hidden()
    expect(page.locator("#request")).to_be_hidden()
    page.get_by_label("Samples per second (Hz)").fill("500")
    expect(page.locator("#setting-length")).to_have_text("5\u202f000 samples at 500 Hz last 10 s")
    page.keyboard.press("Tab")
    expect(page.locator("#subject-about")).to_contain_text("500 Hz")
    expect(page.get_by_label("Unit of the samples")).to_be_focused()
    page.get_by_label("Column").select_option("lead2")
    assert sent == []
    page.get_by_role("button", name="Find the beats").click()
    expect(page.locator("#summary")).to_contain_text("ventricular beat")
    assert len(sent) == 1


def test_counts_without_a_gain_are_not_sent_before_somebody_states_it(
    page: Page, viewer_url: str
) -> None:
    sent: list[str] = []
    page.on("request", lambda one: sent.append(one.url) if "/predictions/" in one.url else None)
    page.goto(viewer_url)
    choose(page, file("counts.csv", strip_csv(StripKind.ISOLATED_PVC, row="{time_s},{count}")))
    expect(page.locator("#settings")).to_contain_text("How is this signal to be read?")
    expect(page.get_by_label("Unit of the samples")).to_have_value("counts")
    expect(page.locator("#settings")).to_contain_text(
        "The file does not state the unit of the samples."
    )
    gain = page.get_by_label("Counts for 1 mV")
    expect(gain).to_have_value("")
    expect(page.locator("#strip")).to_be_hidden()
    page.get_by_role("button", name="Find the beats").click()  # the field is asked for
    expect(gain).to_be_focused()
    assert sent == []
    gain.fill("200")
    page.get_by_role("button", name="Find the beats").click()
    expect(page.locator("#summary")).to_contain_text("ventricular beat")
    assert len(sent) == 1


def test_samples_too_large_for_mv_are_not_sent_before_somebody_states_their_unit(
    page: Page, viewer_url: str
) -> None:
    page.goto(viewer_url)
    choose(page, file("micro.csv", strip_csv(StripKind.ISOLATED_PVC, row="{time_s},{uv:.1f}")))
    expect(page.locator("#settings")).to_contain_text("How is this signal to be read?")
    expect(page.get_by_label("Unit of the samples")).to_have_value("uV")
    page.get_by_role("button", name="Find the beats").click()  # which needs no gain
    expect(page.locator("#summary")).to_contain_text("ventricular beat")


def test_a_rate_that_the_time_stamps_leave_open_is_asked_for(page: Page, viewer_url: str) -> None:
    page.goto(viewer_url)
    rounded = strip_csv(
        StripKind.ISOLATED_PVC, header="time,MLII [mV]", row="{time_s:.2f},{mv:.4f}"
    )
    choose(page, file("rounded.csv", rounded))
    expect(page.locator("#settings")).to_contain_text("How is this signal to be read?")
    expect(page.locator("#settings")).to_contain_text("they give about 250 Hz")
    rate = page.get_by_label("Samples per second (Hz)")
    expect(rate).to_have_value("")
    rate.fill("250")
    page.get_by_role("button", name="Find the beats").click()
    expect(page.locator("#summary")).to_contain_text("ventricular beat")


def test_a_refused_signal_stays_on_the_paper_with_the_reason(page: Page, viewer_url: str) -> None:
    page.goto(viewer_url)
    choose(page, file("flat.csv", strip_csv(StripKind.FLAT)))
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("No ECG can be read in the signal")
    expect(problem).to_contain_text("at least 5 s must be readable")
    expect(page.locator("#subject-name")).to_have_text("flat.csv")
    expect(page.locator("#strip")).to_be_visible()
    expect(page.locator("#summary")).to_be_hidden()


def test_a_wrong_field_is_named_at_its_place_and_mended_there(page: Page, viewer_url: str) -> None:
    page.goto(viewer_url)
    choose(page, file("slow.csv", strip_csv(StripKind.ISOLATED_PVC).replace("time,MLII", "n,MLII")))
    page.get_by_label("Samples per second (Hz)").fill("50")
    page.get_by_label("Column").select_option("MLII")
    page.get_by_role("button", name="Find the beats").click()
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("The sampling rate is out of range")
    expect(problem).to_contain_text("sampling_rate Input should be greater than or equal to 100")
    field = page.get_by_label("Samples per second (Hz)")
    expect(field).to_have_attribute("aria-invalid", "true")
    problem.get_by_role("button", name="Go to the setting").click()
    expect(field).to_be_focused()
    field.fill("250")
    page.keyboard.press("Enter")
    expect(page.locator("#summary")).to_contain_text("ventricular beat")
    expect(problem).to_be_empty()


def test_a_file_that_cannot_be_read_leaves_what_is_open(page: Page, viewer_url: str) -> None:
    open_example(page, viewer_url, StripKind.RUN)
    choose(page, file("bad.csv", "a,b\n" + "1,2\n" * 600 + "3\n" + "1,2\n" * 600))
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("The file cannot be read")
    expect(problem).to_contain_text(
        "must hold as many numbers as the first, row 601 of its samples does not"
    )
    expect(page.locator("#summary")).to_contain_text("5 ventricular beats")
    choose(page, file("100.hea", "100 1 360\n"))
    expect(problem).to_contain_text("The signal file is missing")


def test_a_service_that_does_not_answer_loses_nothing(page: Page, viewer_url: str) -> None:
    page.goto(viewer_url)
    page.locator("#served dl").wait_for()
    page.route("**/api/v1/predictions/", lambda route: route.abort())
    choose(page, file("mine.csv", strip_csv(StripKind.RUN)))
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("The service does not answer")
    page.unroute("**/api/v1/predictions/")
    problem.get_by_role("button", name="Try again").click()
    expect(page.locator("#summary")).to_contain_text("5 ventricular beats")


def test_what_comes_from_files_and_answers_is_text(page: Page, viewer_url: str) -> None:
    evil = "<img src=x onerror=alert(1)>"
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))

    def answer(route: Route) -> None:
        body = {"type": evil, "title": evil, "status": 422, "detail": evil,
                "errors": [{"field": evil, "reason": evil}]}  # fmt: skip
        route.fulfill(status=422, content_type="application/problem+json", body=json.dumps(body))

    page.route("**/api/v1/predictions/", answer)
    page.goto(viewer_url)
    page.locator("#served dl").wait_for()
    choose(page, file(f"{evil}.csv", strip_csv(StripKind.RUN, header=f"time,{evil}")))
    expect(page.get_by_role("alert")).to_contain_text(evil)
    expect(page.locator("#subject-name")).to_have_text(f"{evil}.csv")
    assert page.locator("img").count() == 0
