"""The page of a rollout: its JSON over HTTP, and the page in a real browser."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from bentos.runtime.live_model import LoadedModel
from ecg_lib.operations.keys.api_keys import Scope, add_api_key
from ecg_lib.operations.learning.kept_signals import KeptSignal, SignalStore
from ecg_lib.operations.learning.rollout.candidate import Candidate, Plan, write_candidate
from ecg_lib.operations.learning.rollout.comparison import Comparison, ComparisonRow
from ecg_lib.operations.learning.rollout.comparison_log import (
    add_comparisons,
)
from ecg_lib.operations.prediction_rows import DriftCheckRow
from ecg_lib.operations.releases import Release

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PATIENT = hashlib.sha256(b"patient").hexdigest()
SIGNALS = "/api/v1/ops/rollout/signals"
BEAT = {
    "position_sample": 1000,
    "champion": "N",
    "candidate": "V",
    "probability_champion": 0.2,
    "probability_candidate": 0.9,
}


def make_release(version: str) -> Release:
    return Release(
        bento_tag=f"ecg:{version}",
        model_tag=f"ecg_bundle:{version}",
        bundle_hash=version * 64,
        code_hash="c" * 64,
        model_version=version,
        released_at=NOW.isoformat(),
    )


def row(prediction_id: str, group: str) -> ComparisonRow:
    return ComparisonRow(
        prediction_id=prediction_id,
        created_at=NOW,
        candidate_id="one",
        stage=1,
        answered_by="candidate",
        traffic_group=group,
        duration_s=36.0,
        comparison=Comparison(
            beats={"NN": 9, "NV": 1},
            v_champion=0,
            v_candidate=1,
            judged_champion=10,
            judged_candidate=10,
            runs_champion=0,
            runs_candidate=1,
            disagreements=(BEAT,),
        ),
    )


@pytest.fixture
def serve(
    start_service: Callable[..., Any], toy_model: LoadedModel
) -> Iterator[Callable[..., Any]]:
    started = []

    def begin(**settings: Any) -> Any:  # noqa: ANN401  the class of the other conftest
        service = start_service(**settings)
        service.runtime.live.use(toy_model)
        started.append(service)
        return service

    yield begin
    for service in started:
        service.close()


def open_rollout(service: Any) -> None:  # noqa: ANN401  the class of the other conftest
    settings, log = service.runtime.settings, service.runtime.log
    candidate = Candidate(
        id="one",
        release=make_release("2"),
        champion=make_release("1"),
        plan=Plan(),
        stage=1,
        started_at=NOW,
        stage_since=NOW,
        who="Ada",
        why="<b>better</b>",
        is_noted=True,
    )
    write_candidate(settings.serving_dir / "candidate.json", candidate)
    log.create_tables()
    patient = f"patient {PATIENT}"
    add_comparisons(log, [row("kept", patient), row("waiting", patient), row("none", "client c")])
    signals = SignalStore(settings.signals_dir, settings.signal_key_path)
    for name in ("kept", "waiting", "without-a-difference"):
        signals.add(
            KeptSignal(
                prediction_id=name,
                patient_key=PATIENT,
                created_at=NOW,
                fs=100.0,
                lead="MLII",
                signal_mv=np.arange(3600, dtype=np.float32) / 1000,
            ),
            is_waiting=name == "waiting",
        )


def test_without_a_candidate_the_rollout_is_null(serve: Callable[..., Any]) -> None:
    service = serve()
    found = service.http.get("/api/v1/ops/rollout/").json()
    assert (found["rollout"], found["problem"], found["disagreements"]) == (None, None, [])
    assert service.http.get("/api/v1/ops/").json()["rollout"] is None
    path = service.runtime.settings.serving_dir / "candidate.json"
    path.write_text("{")
    assert "damaged" in service.http.get("/api/v1/ops/rollout").json()["problem"]
    overview = service.http.get("/api/v1/ops/").json()
    assert overview["rollout"] is None
    assert "damaged" in overview["unknown"]["rollout"]


def test_the_rollout_tells_its_stage_its_bounds_and_the_strips_that_differ(
    serve: Callable[..., Any],
) -> None:
    service = serve()
    open_rollout(service)
    found = service.http.get("/api/v1/ops/rollout/").json()
    rollout = found["rollout"]
    assert (rollout["bento_tag"], rollout["champion"], rollout["share"]) == ("ecg:2", "ecg:1", 0.1)
    assert [stage["name"] for stage in rollout["stages"] if stage["is_current"]] == ["10 %"]
    assert (rollout["strips"], rollout["people"]) == (3, 2)
    assert (rollout["failed"], rollout["champion_refused"]) == (0, 0)
    assert rollout["beats"] == {"NN": 27, "NV": 3, "VN": 0, "VV": 0, "unclassed": 0}
    assert rollout["v_runs_per_hour"] == {"champion": 0.0, "candidate": 100.0}
    rise = next(bound for bound in rollout["bounds"] if bound["name"] == "share of V, rise")
    assert (rise["value"], rise["bound"], rise["n"]) == (pytest.approx(0.1), 0.05, 2)
    assert rollout["false_return_chance"] == 0.05
    by_id = {one["prediction_id"]: one for one in found["disagreements"]}
    assert by_id["kept"]["beats"] == [BEAT]
    has_signal = {name: one["has_signal"] for name, one in by_id.items()}
    assert has_signal == {"kept": True, "waiting": False, "none": False}
    assert "samples_mv" not in service.http.get("/api/v1/ops/rollout/").text
    assert service.http.get("/api/v1/ops/").json()["rollout"]["strips"] == 3


def test_a_signal_is_given_alone_two_seconds_around_the_first_beat_that_differs(
    serve: Callable[..., Any],
) -> None:
    service = serve()
    assert service.http.get(f"{SIGNALS}/kept").status_code == 404  # no candidate
    open_rollout(service)
    signal = service.http.get(f"{SIGNALS}/kept").json()
    assert (signal["fs"], signal["start_sample"], len(signal["samples_mv"])) == (100.0, 800, 400)
    assert signal["samples_mv"][:2] == [0.8, 0.801]
    for name in ("waiting", "none", "without-a-difference", "unknown"):
        assert service.http.get(f"{SIGNALS}/{name}").status_code == 404
    service.runtime.settings.signal_key_path.write_text("0" * 64)
    assert service.http.get(f"{SIGNALS}/kept").status_code == 503


def test_a_candidate_that_was_taken_back_is_a_decision_and_not_the_drift_verdict(
    serve: Callable[..., Any],
) -> None:
    service = serve()
    service.runtime.log.add_drift_check(
        DriftCheckRow(
            check_id="c",
            created_at=NOW,
            bundle_hash="2" * 64,
            action="ROLLBACK",
            summary={
                "bento_tag": "ecg:2",
                "candidate_id": "one",
                "is_conclusive": True,
                "is_breach": True,
                "reasons": ["share of V"],
            },
        )
    )
    overview = service.http.get("/api/v1/ops/").json()
    assert overview["drift"] is None
    (decision,) = overview["decisions"]
    assert (decision["is_candidate"], decision["bento_tag"]) == (True, "ecg:2")


def test_signals_are_for_keys_that_may_operate_and_label(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    add_api_key(path, "reads", scopes=[Scope.PREDICT, Scope.LABEL])
    add_api_key(path, "operates", scopes=[Scope.PREDICT, Scope.OPERATE, Scope.METRICS])
    add_api_key(path, "both", scopes=[Scope.LABEL, Scope.OPERATE])
    service = serve(api_keys_file=path)
    open_rollout(service)
    assert service.http.get("/api/v1/ops/rollout/").status_code == 401
    assert service.http.get(f"{SIGNALS}/kept").status_code == 401
    for key, *statuses in (("reads", 403, 403), ("operates", 200, 403), ("both", 200, 200)):
        found = [
            service.http.get(address, headers={"X-API-Key": key}).status_code
            for address in ("/api/v1/ops/rollout/", f"{SIGNALS}/kept")
        ]
        assert found == statuses, key
    page = service.http.get("/ops/rollout")
    assert page.status_code == 200
    assert "ecg:2" not in page.text  # the page holds no data


def test_the_page_shows_stage_bounds_and_strips_as_text_and_curves(
    page: Page, serve: Callable[..., Any], tmp_path: Path
) -> None:
    service = serve()
    page.goto(f"{service.url}/ops/rollout")
    expect(page.get_by_role("region", name="Rollout")).to_contain_text("No candidate is tried")
    open_rollout(service)
    page.get_by_role("button", name="Refresh").click()
    state = page.get_by_role("region", name="ecg:2 beside ecg:1")
    expect(state).to_contain_text("<b>better</b>")  # as text
    expect(state.locator("li[aria-current=step]")).to_contain_text("10 %")
    expect(page.get_by_role("region", name="Compared")).to_contain_text("3 strips of 2 people")
    expect(page.get_by_role("region", name="Bounds")).to_contain_text("share of V, rise: +10.0")
    strips = page.get_by_role("region", name="Strips that differ")
    expect(strips.locator("summary")).to_have_count(1)  # that of the kept signal
    expect(strips.locator("svg polyline")).to_have_count(0)
    strips.get_by_text("Signal", exact=True).click()
    expect(strips.locator("svg polyline")).to_have_count(1)
    expect(strips).to_contain_text("sample 1000: N (V 20 %), candidate V (V 90 %)")
    page.goto(f"{service.url}/ops")
    part = page.get_by_role("region", name="Rollout")
    expect(part).to_contain_text("3 strips of 2 people")
    expect(part.get_by_role("link", name="Open the rollout")).to_be_visible()
