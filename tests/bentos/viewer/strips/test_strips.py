from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from bentos.runtime.predictor import Runtime
from ecg_lib.operations.keys.api_keys import ApiKey
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from tests.bentos.viewer.strips.page import beat_rows, choose, file, open_example, strip_csv

COUNT_DARK = """canvas => {
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let n = 0;
  for (let at = 0; at < data.length; at += 4) n += data[at] + data[at + 1] < 330;
  return n;
}"""


def wait_until(is_true: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def hide_recordings(page: Page) -> None:
    """Let the service look like one without recordings."""

    def describe(route: Route) -> None:
        described = route.fetch().json()
        described["paths"].pop("/api/v1/recordings/", None)
        route.fulfill(json=described)

    page.route("**/openapi.json", describe)


def test_the_start_page_shows_the_strips_and_the_model(page: Page, viewer_url: str) -> None:
    hide_recordings(page)
    page.goto(viewer_url)
    expect(page.locator("#served")).to_contain_text("version 1, trained")
    expect(page.locator("#served")).to_contain_text("ecg:toy")
    kinds = page.locator("#gallery button")
    expect(kinds).to_have_count(len(StripKind))
    expect(page.locator("#formats")).not_to_contain_text("Recordings")
    # Each picture gets a trace: pixels much darker than the squares of the paper.
    for canvas in page.locator("#gallery canvas").all():
        wait_until(lambda canvas=canvas: canvas.evaluate(COUNT_DARK) > 100)


def test_the_demo_strips_of_the_page_are_those_of_the_service(page: Page, viewer_url: str) -> None:
    page.goto(viewer_url)
    kinds = page.evaluate(
        "async () => (await import('/viewer/js/answer/examples.js')).EXAMPLES.map(({kind}) => kind)"
    )
    assert sorted(kinds) == sorted(StripKind)


def test_a_demo_strip_is_shown_beat_by_beat(
    page: Page, viewer_url: str, http: httpx.Client
) -> None:
    page.goto(viewer_url)
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#summary")).to_contain_text("5 ventricular beats")
    expect(page.locator("#summary")).to_contain_text("Attention: high")
    expect(page.locator("#summary")).to_contain_text("information, not a diagnosis")
    expect(page.locator("#findings")).to_contain_text("Run of 5 V beats at")
    (prediction_id,) = re.findall(r"prediction=([0-9a-f-]{36})", page.url)
    stored = http.get(f"/api/v1/predictions/{prediction_id}").json()
    rows = beat_rows(page)
    assert [row[2] for row in rows] == [
        beat["arrhythmia_type"] for beat in stored["beat_predictions"]
    ]
    assert [row[3] for row in rows] == [
        f"{b['probability_v']:.3f}" for b in stored["beat_predictions"]
    ]
    page.locator("#table-filter").select_option("v")
    assert [row[2] for row in beat_rows(page)] == ["V"] * 5
    expect(page.locator("#model")).to_contain_text("ecg:toy")
    expect(page.locator("#alarm")).to_contain_text("Trained on simulated patients, not on people")
    expect(page.locator(".notice")).to_contain_text("Not a medical device")


def test_a_model_of_real_records_gives_no_alarm(
    page: Page, viewer_url: str, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = runtime.live.current
    assert model is not None
    monkeypatch.setitem(model.info, "data", "mitdb")
    open_example(page, viewer_url, StripKind.NORMAL)
    expect(page.locator("#model")).to_contain_text("MIT-BIH")
    expect(page.locator("#alarm")).to_be_hidden()


def test_the_strip_is_sharp_and_its_paper_true(page: Page, viewer_url: str, context: Any) -> None:  # noqa: ANN401
    sharp = context.browser.new_context(
        device_scale_factor=2, viewport={"width": 1400, "height": 900}
    )
    other = sharp.new_page()
    open_example(other, viewer_url, StripKind.ISOLATED_PVC)
    found = other.locator("#strip").evaluate(
        "canvas => ({width: canvas.width, shown: canvas.clientWidth, dpr: devicePixelRatio})"
    )
    assert found["width"] == 2 * found["shown"]
    # Lines of 5 mm along one row of pixels, which lies between two lines across.
    row = other.locator("#strip").evaluate(
        """canvas => {
             const y = canvas.height - 60;
             const {data} = canvas.getContext('2d').getImageData(0, y, canvas.width, 1);
             const green = Array.from({length: canvas.width}, (_, x) => data[4 * x + 1]);
             const least = Math.min(...green.slice(400, 900));
             return green.flatMap((value, x) => (x >= 400 && value <= least + 4 ? [x] : []));
           }"""
    )
    steps = np.diff(row)
    assert np.median(steps[steps > 2]) == pytest.approx(2 * 5 * 96 / 25.4, abs=1)
    sharp.close()


def test_v_beats_are_marked_by_shape_and_letter_and_colour(page: Page, viewer_url: str) -> None:
    open_example(page, viewer_url, StripKind.ISOLATED_PVC)
    legend = page.locator("#legend")
    for text in (
        "N",
        "V",
        "ventricular",
        "a rule changed the class",
        "cannot be read",
        "your mark",
    ):
        expect(legend).to_contain_text(text)
    # The flag of the one V beat is the only filled shape of that colour in the lane of classes.
    spans = page.locator("#strip").evaluate(
        """canvas => {
             const {data} = canvas.getContext('2d').getImageData(0, 5, canvas.width, 1);
             const isV = (x) => data[4 * x] > 160 && data[4 * x + 1] < 80 && data[4 * x + 2] < 40;
             return Array.from({length: canvas.width}, (_, x) => isV(x)).reduce(
               (runs, is, x, all) => runs + (is && !all[x - 1]), 0);
           }"""
    )
    assert spans >= 1


def test_keys_choose_beats_and_say_them(page: Page, viewer_url: str) -> None:
    open_example(page, viewer_url, StripKind.ISOLATED_PVC)
    page.locator("#paper").focus()
    page.keyboard.press(">")
    said = page.locator("#said")
    expect(said).to_contain_text("class V, probability of V")
    expect(page.locator("#beat")).to_contain_text("QRS width")
    expect(page.locator("#tooltip")).to_contain_text("V")
    expect(page.locator('#table tr[aria-selected="true"]')).to_contain_text("V")
    chosen = said.inner_text()
    page.keyboard.press(".")
    expect(said).to_contain_text("class N")
    page.keyboard.press(",")
    expect(said).to_have_text(chosen)
    page.keyboard.press("Escape")
    expect(page.locator("#beat")).to_contain_text("No beat chosen")


def test_the_pointer_shows_a_beat_and_a_click_chooses_it(page: Page, viewer_url: str) -> None:
    open_example(page, viewer_url, StripKind.ISOLATED_PVC)
    box = page.locator("#strip").bounding_box()
    assert box is not None
    page.locator("#findings").wait_for(state="hidden")
    page.mouse.move(box["x"] + 42 + 0.47 * 94.5, box["y"] + 150)
    expect(page.locator("#tooltip")).to_contain_text("Beat 1: N")
    expect(page.locator("#tooltip")).to_contain_text("p(V)")
    expect(page.locator("#tooltip")).to_contain_text("RR \u2013 before")
    page.mouse.down()
    page.mouse.up()
    expect(page.locator("#beat-title")).to_have_text("Beat 1")


def test_the_strip_is_moved_by_drag_wheel_and_keys(page: Page, viewer_url: str) -> None:
    open_example(page, viewer_url, StripKind.RUN)
    overview = page.locator("#overview")

    def start_s() -> float:
        return float(overview.get_attribute("aria-valuenow") or "nan")

    assert start_s() == 0
    page.get_by_text("50", exact=True).click()
    box = page.locator("#strip").bounding_box()
    assert box is not None
    middle = (box["x"] + 500, box["y"] + 200)
    page.mouse.move(*middle)
    page.mouse.wheel(0, 189)
    expect(overview).not_to_have_attribute("aria-valuenow", "0.0")
    before = start_s()
    page.mouse.down()
    page.mouse.move(middle[0] - 94.5, middle[1], steps=4)
    page.mouse.up()
    assert start_s() == pytest.approx(before + 0.5, abs=0.06)
    page.locator("#paper").focus()
    page.keyboard.press("Home")
    assert start_s() == 0
    page.keyboard.press("End")
    assert start_s() > 4
    page.keyboard.press("0")
    assert start_s() == 0
    expect(page.locator("#toolbar output")).to_contain_text("10 s in view")


def test_feedback_is_marked_by_key_and_sent(page: Page, viewer_url: str, runtime: Runtime) -> None:
    open_example(page, viewer_url, StripKind.ISOLATED_PVC)
    (prediction_id,) = re.findall(r"prediction=([0-9a-f-]{36})", page.url)
    page.locator("#paper").focus()
    page.keyboard.press(">")
    page.keyboard.press("n")
    page.keyboard.press(".")
    page.keyboard.press("v")
    page.locator("#table-filter").select_option("marked")
    marked = beat_rows(page)
    assert [(row[2], row[-1]) for row in marked] == [("V", "N"), ("N", "V")]
    page.get_by_label("Your name or initials (optional)").fill("Dr. A")
    page.get_by_role("button", name="Send 2 marks").click()
    expect(page.locator("#feedback-said")).to_contain_text("2 marks stored as feedback")
    expect(page.get_by_role("button", name="Send 2 marks")).to_have_count(0)
    assert beat_rows(page) == marked
    expect(page.get_by_role("button", name="V", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    page.locator("#paper").focus()
    page.keyboard.press("Delete")
    expect(page.locator("#said")).to_have_text("The mark V was sent and stays")
    assert beat_rows(page) == marked
    page.keyboard.press("n")
    expect(page.get_by_role("button", name="Send 1 mark")).to_be_visible()
    page.keyboard.press("Delete")
    expect(page.get_by_role("button", name="Send 1 mark")).to_have_count(0)
    assert beat_rows(page) == marked
    runtime.spool.drain()
    (row,) = runtime.log.read_feedback([prediction_id])
    assert row.annotator == "Dr. A"
    assert row.labels == {int(marked[0][0]) - 1: "N", int(marked[1][0]) - 1: "V"}
    # They are there again for whoever opens the prediction later.
    page.reload()
    page.locator("#table-filter").select_option("marked")
    assert beat_rows(page) == marked
    expect(page.get_by_role("button", name=re.compile("^Send"))).to_have_count(0)


def test_all_beats_of_a_form_are_marked_together(
    page: Page, viewer_url: str, runtime: Runtime
) -> None:
    open_example(page, viewer_url, StripKind.ISOLATED_PVC)
    (prediction_id,) = re.findall(r"prediction=([0-9a-f-]{36})", page.url)
    answer = page.request.get(f"{viewer_url}/api/v1/predictions/{prediction_id}").json()
    beats = answer["beat_predictions"]
    of_form = {beat["beat_index"] for beat in beats if beat["form"] == "A"}
    assert 2 < len(of_form) < len(beats)
    marks_all = page.get_by_role("button", name=f"Call all {len(of_form)} of form A V")
    expect(marks_all).to_have_count(0)
    page.locator("#paper").focus()
    for _ in range(min(of_form) + 1):
        page.keyboard.press(".")
    marks_all.click()
    expect(marks_all).to_have_attribute("aria-pressed", "true")
    # One of them is called otherwise.
    page.locator("#mark-N").click()
    expect(marks_all).to_have_attribute("aria-pressed", "false")
    page.get_by_role("button", name=f"Send {len(of_form)} marks").click()
    expect(page.locator("#feedback-said")).to_contain_text(f"{len(of_form)} marks stored")
    runtime.spool.drain()
    (row,) = runtime.log.read_feedback([prediction_id])
    assert row.labels == {index: "N" if index == min(of_form) else "V" for index in sorted(of_form)}


def test_feedback_that_is_refused_keeps_the_marks(page: Page, viewer_url: str) -> None:
    open_example(page, viewer_url, StripKind.ISOLATED_PVC)
    page.route("**/api/v1/feedback/", lambda route: route.abort())
    page.locator("#paper").focus()
    page.keyboard.press(".")
    page.keyboard.press("v")
    page.get_by_role("button", name="Send 1 mark").click()
    expect(page.locator("#feedback-said")).to_contain_text("Your marks are still here")
    expect(page.get_by_role("button", name="Send 1 mark")).to_be_enabled()


def test_a_link_shows_a_stored_prediction_and_takes_its_file(page: Page, viewer_url: str) -> None:
    page.goto(viewer_url)
    page.locator("#served dl").wait_for()
    text = strip_csv(StripKind.RUN)
    choose(page, file("mine.csv", text))
    expect(page.locator("#summary")).to_contain_text("5 ventricular beats")
    page.reload()
    expect(page.locator("#summary")).to_contain_text("5 ventricular beats")
    expect(page.locator("#subject-name")).to_have_text("Stored prediction")
    expect(page.locator("#stored-note")).to_contain_text("The service keeps beats, not signals")
    choose(page, file("other.csv", strip_csv(StripKind.RUN, fs=200)))
    expect(page.get_by_role("alert")).to_contain_text(
        "other.csv is not the signal of this prediction"
    )
    choose(page, file("mine.csv", text))
    expect(page.locator("#subject-name")).to_have_text("mine.csv")
    expect(page.locator("#stored-note")).to_be_hidden()


def test_a_link_to_nothing_says_so(page: Page, viewer_url: str) -> None:
    page.goto(f"{viewer_url}/?prediction=nix")
    expect(page.get_by_role("alert")).to_contain_text("There is no such prediction")
    expect(page.get_by_role("button", name="Choose a file")).to_be_visible()


def test_a_link_to_a_demo_strip_brings_its_trace_back(page: Page, viewer_url: str) -> None:
    open_example(page, viewer_url, StripKind.BIGEMINY)
    page.reload()
    expect(page.locator("#subject-name")).to_have_text("Bigeminy")
    expect(page.locator("#findings")).to_contain_text("Bigeminy,")
    expect(page.locator("#stored-note")).to_be_hidden()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("is_demo", [True, False])
def test_the_command_works_as_copied(
    page: Page,
    viewer_url: str,
    tmp_path: Path,
    is_demo: bool,  # noqa: FBT001  a parameter of the test
) -> None:
    if is_demo:
        open_example(page, viewer_url, StripKind.RUN)
    else:
        page.goto(viewer_url)
        page.locator("#served dl").wait_for()
        choose(page, file("my ward's.csv", strip_csv(StripKind.RUN)))
        page.locator("#summary").wait_for()
        with page.expect_download() as caught:
            page.get_by_role("button", name="Save my_ward_s.request.json").click()
        caught.value.save_as(tmp_path / caught.value.suggested_filename)
    page.get_by_role("button", name="Copy command").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    command = page.evaluate("navigator.clipboard.readText()")
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=tmp_path, capture_output=True, check=True, timeout=20
    )
    answer = json.loads(done.stdout)
    assert [f"{beat['probability_v']:.3f}" for beat in answer["beat_predictions"]] == [
        row[3] for row in beat_rows(page)
    ]


def test_a_key_is_asked_for_and_used(
    page: Page, viewer_url: str, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SHA-256 of "letmein".
    accepted = "1c8bfe8f801d79745c4631d09fff36c82aa37fc4cce4fc946683d7b336b63032"
    monkeypatch.setattr(runtime, "api_keys", (ApiKey(hash=accepted),))
    page.goto(viewer_url)
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("alert")).to_contain_text("An API key is required")
    page.get_by_label("API key").fill("letmein")
    page.get_by_role("button", name="Use it").click()
    expect(page.locator("#summary")).to_contain_text("5 ventricular beats")
    expect(page.locator("#curl")).to_contain_text("X-API-Key: $ECG_API_KEY")
    expect(page.locator("#curl")).not_to_contain_text("letmein")


def test_without_a_model_the_page_says_so(
    page: Page, viewer_url: str, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.live, "current", None)
    page.goto(viewer_url)
    expect(page.locator("#served")).to_contain_text("No model is loaded yet")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("alert")).to_contain_text("The service is not ready")


def test_the_model_card_is_shown_as_text(page: Page, viewer_url: str) -> None:
    page.goto(viewer_url)
    page.get_by_role("link", name="Model card").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("A network without training, for tests.")
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()


def test_an_unreadable_stretch_is_hatched_and_named(page: Page, viewer_url: str) -> None:
    fs = 250.0
    parts = [simulate_strip(kind, seed=3, fs=fs).signal_mv() for kind in
             (StripKind.ISOLATED_PVC, StripKind.NOISE_ONLY, StripKind.ISOLATED_PVC)]  # fmt: skip
    request = {"signal_data": np.concatenate(parts).round(4).tolist(), "sampling_rate": fs}
    page.goto(viewer_url)
    page.locator("#served dl").wait_for()
    choose(page, file("gap.json", json.dumps(request)))
    page.get_by_role("button", name=re.compile("Cannot be read: noise, for ")).click()
    expect(page.locator("#summary .warnings")).to_contain_text("cannot be read")
    page.locator("#table-filter").select_option("unread")
    assert {(row[2], row[8]) for row in beat_rows(page)} == {("?", "noise")}


def test_what_is_suspected_is_a_click_away(page: Page, viewer_url: str) -> None:
    fs = 250.0
    beating = simulate_strip(StripKind.NORMAL, seed=3, fs=fs).signal_mv()
    # A line at rest, but not flat: a little noise.
    still = 0.02 * np.random.default_rng(0).standard_normal(round(5 * fs))
    still += float(np.median(beating))
    signal = np.concatenate([beating, still, beating])
    request = {"signal_data": signal.round(4).tolist(), "sampling_rate": fs}
    page.goto(viewer_url)
    page.locator("#served dl").wait_for()
    choose(page, file("standstill.json", json.dumps(request)))
    page.get_by_role("button", name=re.compile("No beat: asystole suspected")).click()


def test_half_an_hour_is_read_and_shown(page: Page, viewer_url: str) -> None:
    fs = 100.0
    strip = simulate_strip(StripKind.COUPLET, seed=3, fs=fs).signal_mv()
    signal = np.tile(strip, 180).round(3)
    hide_recordings(page)
    page.goto(viewer_url)
    page.locator("#served dl").wait_for()
    choose(
        page,
        file(
            "long.csv",
            "time,MLII\n" + "".join(f"{n / fs:.2f},{value}\n" for n, value in enumerate(signal)),
        ),
    )
    expect(page.locator("#summary")).to_contain_text("ventricular beats", timeout=60_000)
    expect(page.locator("#subject-about")).to_contain_text("30 min · 100 Hz")
    n_beats = int(page.locator("#table table").get_attribute("aria-rowcount") or 0) - 1
    assert n_beats > 1500
    assert page.locator("#table tbody tr").count() < 60
    longer = io.BytesIO()
    np.save(longer, np.full(700_000, 0.1, dtype=np.float32))
    choose(page, file("longer.npy", longer.getvalue()))
    page.get_by_label("Samples per second (Hz)").fill("360")
    page.get_by_role("button", name="Find the beats").click()
    expect(page.get_by_role("alert")).to_contain_text("The signal is too long for one request")


def test_recordings_are_not_offered_where_the_service_has_none(page: Page, viewer_url: str) -> None:
    hide_recordings(page)
    page.goto(viewer_url)
    page.locator("#served dl").wait_for()
    choose(page, file("day.edf", "0"))
    expect(page.get_by_role("alert")).to_contain_text("This service analyses no recordings")


def test_two_contexts_share_nothing(context: BrowserContext, page: Page, viewer_url: str) -> None:
    open_example(page, viewer_url, StripKind.RUN)
    stored = page.evaluate("JSON.stringify([{...localStorage}, document.cookie])")
    assert json.loads(stored) == [{}, ""]


@pytest.mark.parametrize("place", ["the start page", "the toolbar", "nowhere"])
def test_a_question_mark_lists_the_keys_wherever_the_focus_is(
    page: Page, viewer_url: str, place: str
) -> None:
    if place == "the start page":
        page.goto(viewer_url)
    else:
        open_example(page, viewer_url, StripKind.RUN)
    if place == "the toolbar":
        page.get_by_role("button", name="Zoom in").focus()
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    expect(page.locator("#keys")).to_contain_text("wherever the focus is")


def test_a_question_mark_in_a_field_is_text(page: Page, viewer_url: str) -> None:
    open_example(page, viewer_url, StripKind.RUN)
    page.locator("#settings summary").click()
    page.get_by_label("Patient identifier (optional)").focus()
    page.keyboard.press("?")
    expect(page.get_by_label("Patient identifier (optional)")).to_have_value("?")
    expect(page.locator("#keys")).to_be_hidden()


def test_the_rates_and_counts_shown_are_those_of_the_answer(
    page: Page, viewer_url: str, http: httpx.Client
) -> None:
    open_example(page, viewer_url, StripKind.RUN)
    (prediction_id,) = re.findall(r"prediction=([0-9a-f-]{36})", page.url)
    rhythm = http.get(f"/api/v1/predictions/{prediction_id}").json()["rhythm"]
    shown = page.locator("#summary")
    expect(shown).to_contain_text(f"Mean heart rate{rhythm['heart_rate_mean_bpm']:.0f} /min")
    low, high = rhythm["heart_rate_min_bpm"], rhythm["heart_rate_max_bpm"]
    assert low <= rhythm["heart_rate_mean_bpm"] <= high
    expect(shown).to_contain_text(f"{low:.0f} to {high:.0f} over any 8 beats")
    (run,) = rhythm["runs"]
    expect(page.locator("#findings")).to_contain_text(
        f"Run of {run['beats']} V beats at {run['rate_bpm']:.0f}/min"
    )
    expect(shown).to_contain_text("1 run of V, of 5 beats")


def test_the_viewer_works_behind_a_path_prefix(
    page: Page,
    service: Any,  # noqa: ANN401  the class of the other conftest
    prefixed: Callable[[Any], str],
) -> None:
    url = prefixed(service)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{url}/")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#summary")).to_contain_text("5 ventricular beats")
    page.get_by_role("link", name="Model card").click()
    expect(page.get_by_role("dialog")).to_contain_text("A network without training, for tests.")
    page.reload()
    expect(page.locator("#subject-name")).to_have_text("Run")
    choose(page, file("mine.csv", strip_csv(StripKind.COUPLET)))
    expect(page.locator("#summary")).to_contain_text("2 ventricular beats")
    expect(page.locator("#curl")).to_contain_text(f"{url}/api/v1/predictions/")
    assert asked
    assert [one for one in asked if not one.startswith(f"{url}/")] == []
