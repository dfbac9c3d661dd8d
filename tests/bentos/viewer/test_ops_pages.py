"""The operations page and the review queue in a real browser."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from bentos.runtime.live_model import LoadedModel
from ecg_lib.operations.keys.api_keys import Scope, add_api_key
from ecg_lib.operations.learning.pipeline_run import PipelineRun, write_pipeline_run
from ecg_lib.operations.prediction_rows import DecisionRow, DriftCheckRow
from ecg_lib.operations.processes.helper_states import (
    HelperState,
    HelperStatus,
    write_helper_states,
)
from ecg_lib.operations.releases import write_release_notes

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAME = "20260301T120000000000Z-decision"
REPORT = "20260301T120000000000Z-evidently-decision"
MARKUP = "<img src=x onerror=alert(1)> moved"

Serve = Callable[..., Any]


@pytest.fixture
def serve(start_service: Callable[..., Any], toy_model: LoadedModel) -> Iterator[Serve]:
    started = []

    def serve(**settings: Any) -> Any:  # noqa: ANN401  the class of the other conftest
        service = start_service(**settings)
        service.runtime.live.use(toy_model)
        started.append(service)
        return service

    yield serve
    for service in started:
        service.close()


def add_check(service: Any) -> None:  # noqa: ANN401  the class of the other conftest
    check_id = str(uuid.uuid4())
    summary = {
        "bento_tag": "ecg:toy",
        "is_conclusive": True,
        "is_breach": True,
        "reasons": [MARKUP],
        "report": f"{NAME}.html",
    }
    service.runtime.log.add_drift_check(
        DriftCheckRow(
            check_id=check_id,
            created_at=NOW,
            bundle_hash="b" * 64,
            action="RETRAIN",
            summary=summary,
        ),
        DecisionRow(
            decision_id=check_id,
            created_at=NOW,
            deployment="pipeline/ecg",
            parameters={},
            state="asked",
            run_id="run-1",
        ),
    )
    directory = service.runtime.settings.reports_dir / "drift"
    directory.mkdir(parents=True)
    (directory / f"{NAME}.html").write_text(
        "<!doctype html><title>check</title><link rel='icon' href='data:,'>"
        f"<h1 style='color: rgb(1, 2, 3)'>The verdict</h1><a href='{REPORT}.html'>Evidently</a>"
    )
    (directory / f"{REPORT}.html").write_text(
        "<!doctype html><link rel='icon' href='data:,'><p>none</p>"
        "<script>document.querySelector('p').textContent = 'drawn ' + self.origin</script>"
    )


def add_pipeline(service: Any) -> None:  # noqa: ANN401  the class of the other conftest
    run = PipelineRun(
        flow_run_id=None,
        why="drift",
        started_at=NOW,
        finished_at=NOW,
        stage="promote-champion",
        is_promoted=False,
        reasons=("the difference is too small",),
    )
    write_pipeline_run(service.runtime.settings.serving_dir / "pipeline.json", run)


def test_the_page_shows_every_part_and_what_is_not_known(page: Page, serve: Serve) -> None:
    service = serve()
    add_check(service)
    add_pipeline(service)
    page.goto(f"{service.url}/ops")
    served = page.get_by_role("region", name="Served now")
    expect(served).to_contain_text("Model 1")
    expect(served).to_contain_text("V-F10.900")
    drift = page.get_by_role("region", name="Drift", exact=True)
    expect(drift).to_contain_text("RETRAIN")
    expect(drift).to_contain_text(MARKUP)  # as text
    link = drift.get_by_role("link", name="pipeline/ecg, asked")
    assert (link.get_attribute("href") or "").endswith(":4200/runs/flow-run/run-1")
    pipeline = page.get_by_role("region", name="Last pipeline")
    expect(pipeline).to_contain_text("Not promoted")
    expect(pipeline).to_contain_text("the difference is too small")
    expect(page.get_by_role("region", name="Decisions")).to_contain_text("pipeline/ecg, asked")
    releases = page.get_by_role("region", name="Releases")
    expect(releases).to_contain_text("Not known: nothing was released by this version yet")
    banner = page.locator("#banner")
    expect(banner).to_contain_text("No part is known to be degraded.")
    expect(banner).to_contain_text("Not known: releases.")
    expect(banner).to_contain_text("Helpers are not watched.")
    expect(banner.locator(".good")).to_have_count(0)


def test_all_parts_run_only_when_all_were_read_and_helpers_are_watched(
    page: Page, serve: Serve
) -> None:
    service = serve()
    add_check(service)
    add_pipeline(service)
    ledger = service.runtime.settings.ledger_dir
    ledger.mkdir()
    write_release_notes(ledger / "history.json", [])
    running = HelperState(status=HelperStatus.RUNNING)
    write_helper_states(service.runtime.helpers_path, {"worker": running})
    page.goto(f"{service.url}/ops")
    banner = page.locator("#banner")
    expect(banner).to_have_text("All parts run.")
    (ledger / "history.json").write_text("[")
    write_helper_states(
        service.runtime.helpers_path, {"worker": HelperState(status=HelperStatus.WAITING)}
    )
    page.get_by_role("button", name="Refresh").click()
    expect(banner).to_contain_text("worker does not run: waiting.")
    expect(banner).to_contain_text("Not known: releases.")
    expect(banner).not_to_contain_text("not watched")


def test_an_empty_queue_does_not_say_that_all_is_labelled_to_a_key_that_sees_its_own(
    page: Page, serve: Serve, tmp_path: Path
) -> None:
    add_api_key(tmp_path / "keys", "labels", scopes=[Scope.LABEL])
    service = serve(api_keys_file=tmp_path / "keys")
    page.goto(f"{service.url}/ops/review")
    page.get_by_label("API key").fill("labels")
    page.get_by_role("button", name="Use it").click()
    expect(page.locator("#queue")).to_contain_text("Nothing waits that this key may see.")


def test_the_page_of_a_check_opens_and_leads_to_evidently(page: Page, serve: Serve) -> None:
    service = serve()
    add_check(service)
    page.goto(f"{service.url}/ops")
    page.get_by_role("region", name="Drift checks").get_by_role("link", name="Page of").click()
    expect(page.get_by_role("heading")).to_have_text("The verdict")
    page.get_by_role("link", name="Evidently").click()
    # Its script runs, and has no origin: it cannot read what other pages of the service store.
    expect(page.locator("p")).to_have_text("drawn null")


def test_where_keys_are_on_the_page_asks_for_one_and_shows_checks_with_it(
    page: Page, serve: Serve, tmp_path: Path
) -> None:
    add_api_key(tmp_path / "keys", "reads", scopes=[Scope.PREDICT])
    add_api_key(tmp_path / "keys", "operates", scopes=[Scope.OPERATE])
    service = serve(api_keys_file=tmp_path / "keys")
    add_check(service)
    page.goto(f"{service.url}/ops")
    for key, problem in (("reads", "An API key is required"), ("operates", "lacks a scope")):
        expect(page.locator("#problem")).to_contain_text(problem)
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Use it").click()
    drift = page.get_by_role("region", name="Drift", exact=True)
    drift.get_by_role("link", name="Page of").click()
    frame = page.frame_locator("#drift-page iframe")
    expect(frame.get_by_role("heading")).to_have_text("The verdict")
    expect(frame.get_by_role("heading")).to_have_css("color", "rgb(1, 2, 3)")
    assert frame.get_by_text("Evidently").get_attribute("href") is None
    page.get_by_role("button", name="Close").click()
    with page.expect_download() as saved:
        drift.get_by_role("link", name="Evidently of").click()
    assert saved.value.suggested_filename == f"{REPORT}.html"


def test_the_queue_leads_to_each_prediction_in_the_viewer(
    page: Page, serve: Serve, make_request: Callable[..., dict[str, Any]]
) -> None:
    service = serve(audit_share=1.0)
    page.goto(f"{service.url}/ops/review")
    expect(page.locator("#queue")).to_contain_text("Nothing waits")
    made = service.predict(**make_request()).json()
    deadline = time.monotonic() + 180
    while len(service.runtime.spool):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    page.get_by_role("button", name="Refresh").click()
    row = page.get_by_role("listitem")
    expect(row).to_contain_text("drawn at random")
    expect(row).to_contain_text(f"called {made['overall_arrhythmia_type']}")
    row.get_by_role("link").click()
    expect(page).to_have_url(f"{service.url}/?prediction={made['prediction_id']}")
    expect(page.locator("#summary")).to_be_visible()


def test_both_pages_work_below_a_prefix(
    page: Page, serve: Serve, prefixed: Callable[[Any], str]
) -> None:
    service = serve()
    root = prefixed(service)
    page.goto(f"{root}/ops/review")
    expect(page.locator("#queue")).to_contain_text("Nothing waits")
    page.get_by_role("link", name="Operations").click()
    expect(page.get_by_role("region", name="Served now")).to_contain_text("Model 1")


@pytest.mark.parametrize("width", [360, 1400])
def test_the_page_fits_the_window(page: Page, serve: Serve, width: int) -> None:
    service = serve()
    add_check(service)
    add_pipeline(service)
    page.set_viewport_size({"width": width, "height": 800})
    for path in ("/ops", "/ops/review"):
        page.goto(f"{service.url}{path}")
        page.locator("#parts:visible, #queue:visible").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
