"""The state of the platform over HTTP: each part alone, and what cannot be read is said."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from bentos.routes.pages import cockpit
from ecg_lib.operations.drift.last_check import write_last_check
from ecg_lib.operations.keys.api_keys import Scope, add_api_key
from ecg_lib.operations.learning.pipeline_run import PipelineRun, write_pipeline_run
from ecg_lib.operations.processes.helper_states import (
    HelperState,
    HelperStatus,
    write_helper_states,
)
from ecg_lib.operations.releases import ReleaseNote, write_release_notes
from tests.bentos.routes.cockpit.platform_state import (
    EVALUATION,
    NOW,
    PAGE,
    REPORT,
    Serve,
    add_drift,
    check_row,
    read,
    settle,
    write_pages,
)


def test_an_empty_platform_says_of_each_part_that_it_is_not_there_yet(serve: Serve) -> None:
    found = read(serve(has_model=False))
    assert found["status"] == "starting"
    assert found["unknown"] == {
        "served": "no model is loaded yet",
        "drift": "no drift check was made yet",
        "releases": "nothing was released by this version yet; `ecg releases` lists the ledger",
        "pipeline": "no pipeline of this version has run yet",
        "helpers": "no supervisor watches them",
    }
    assert (found["served"], found["drift"], found["releases"], found["pipeline"]) == (None,) * 4
    assert found["labels"]["predictions"] == 0
    assert found["recordings"] == {
        "queued": 0, "running": 0, "done": 0, "failed": 0, "cancelled": 0
    }  # fmt: skip


def test_the_model_is_shown_with_its_figures_and_their_source(serve: Serve) -> None:
    served = read(serve())["served"]
    assert served["model"]["bento_tag"] == "ecg:toy"
    assert served["figures"] == [{"name": "V-F1", "value": 0.9, "low": None, "high": None}]
    assert "SIMULATED" in served["figures_of"]
    assert "2 people, dataset toy" in served["figures_of"]


def test_drift_checks_are_latest_first_with_the_run_that_they_asked_for(serve: Serve) -> None:
    service = serve(prefect_port=4299)
    row = add_drift(service)
    latest, before = read(service)["drift"]
    assert latest["check_id"] == row.check_id
    assert (latest["action"], latest["is_breach"]) == ("RETRAIN", True)
    assert latest["reasons"] == ["rr_irregularity moved"]
    assert latest["decision"] == {
        "deployment": "pipeline/ecg",
        "state": "asked",
        "run_url": "http://127.0.0.1:4299/runs/flow-run/run-1",
    }
    assert (latest["page"], latest["report"]) == (None, None)  # the files are gone
    assert (before["action"], before["decision"], before["page"]) == ("KEEP", None, None)
    write_pages(service)
    latest, _ = read(service)["drift"]
    assert (latest["page"], latest["report"]) == (PAGE, REPORT)


def test_a_decision_is_shown_however_many_checks_came_after_it(serve: Serve) -> None:
    service = serve()
    log = service.runtime.log
    row = add_drift(service)
    for number in range(1, 14):
        log.add_drift_check(check_row("KEEP", at=NOW + timedelta(minutes=number)))
    found = read(service)
    assert [one["action"] for one in found["drift"]] == ["KEEP"] * 12
    (decision,) = found["decisions"]
    assert decision["check_id"] == row.check_id
    assert decision["decision"]["state"] == "asked"


def test_releases_are_those_of_the_ledger(serve: Serve) -> None:
    service = serve()
    notes = [
        ReleaseNote(
            commit=f"{number:040}",
            at=NOW.isoformat(),
            kind="rollback" if number == 11 else "release",
            who="drift",
            why="evidence",
            bento_tag=f"ecg:{number}",
            model_version=str(number),
            before=None,
            is_verified=True,
            is_signed=True,
            oof_v_f1=0.9,
        )
        for number in range(11, -1, -1)
    ]
    directory = service.runtime.settings.ledger_dir
    directory.mkdir()
    write_release_notes(directory / "history.json", notes)
    releases = read(service)["releases"]
    assert [one["model_version"] for one in releases] == [str(n) for n in range(11, 1, -1)]
    assert (releases[0]["kind"], releases[0]["why"]) == ("rollback", "evidence")


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "running"),
        ({"is_promoted": True}, "running"),
        ({"is_promoted": True, "finished_at": NOW}, "promoted"),
        ({"is_promoted": False, "finished_at": NOW}, "not promoted"),
        ({"is_promoted": False, "finished_at": NOW, "failure": "OSError: full"}, "failed"),
    ],
)
def test_the_pipeline_says_how_it_ended_and_why(
    serve: Serve, changes: dict[str, Any], outcome: str
) -> None:
    service = serve()
    run = PipelineRun(
        flow_run_id="run-2",
        why="drift",
        started_at=NOW,
        stage="promote-champion",
        reasons=("the difference is too small",),
        **changes,
    )
    write_pipeline_run(service.runtime.settings.serving_dir / "pipeline.json", run)
    pipeline = read(service)["pipeline"]
    assert pipeline["outcome"] == outcome
    assert pipeline["reasons"] == ["the difference is too small"]
    assert pipeline["run_url"].endswith("/runs/flow-run/run-2")


def test_labels_and_recordings_are_counted(
    serve: Serve, make_request: Callable[..., dict[str, Any]]
) -> None:
    service = serve(audit_share=1.0)
    made = [service.predict(**make_request(seed=seed)).json() for seed in (3, 4)]
    sent = service.http.post(
        "/api/v1/feedback/",
        json={
            "prediction_id": made[0]["prediction_id"],
            "labels": [{"beat_index": 1, "arrhythmia_type": "N"}],
        },
    )
    assert sent.status_code == 201
    settle(service)

    def labels() -> dict[str, Any]:
        found: dict[str, Any] = read(service)["labels"]
        return found

    counted = {
        "days": 14.0, "predictions": 2, "drawn": 2, "drawn_waiting": 1, "doubtful_waiting": 0,
        "labelled": 1, "feedback": 1,
    }  # fmt: skip
    assert labels() == counted
    withdrawn = service.http.delete(f"/api/v1/feedback/{sent.json()['feedback_id']}")
    assert withdrawn.status_code == 204
    settle(service)
    assert labels() == counted | {"drawn_waiting": 2, "labelled": 0, "feedback": 0}


def test_torn_files_cost_their_part_alone(serve: Serve) -> None:
    service = serve()
    settings = service.runtime.settings
    settings.ledger_dir.mkdir()
    (settings.ledger_dir / "history.json").write_text('[{"commit"')
    (settings.serving_dir / "pipeline.json").mkdir(parents=True)
    add_drift(service)
    found = read(service)
    assert set(found["unknown"]) == {"releases", "pipeline", "helpers"}
    assert "torn" in found["unknown"]["releases"]
    assert found["unknown"]["pipeline"] == "it cannot be read: Is a directory"
    assert found["drift"]
    assert found["served"]


def test_without_its_database_the_rest_is_shown(serve: Serve) -> None:
    service = serve()
    database = service.home / "monitoring.db"
    service.runtime.log.create_tables()
    for path in service.home.glob("monitoring.db*"):
        path.unlink()
    database.mkdir()
    found = read(service)
    assert set(found["unknown"]) == {
        "drift", "decisions", "labels", "pipeline", "releases", "helpers"
    }  # fmt: skip
    assert found["unknown"]["drift"] == "the prediction log cannot be read now"
    assert found["served"]["model"]["version"] == "1"
    shutil.rmtree(database)


def test_degraded_parts_are_those_of_health(serve: Serve) -> None:
    service = serve()
    write_helper_states(
        service.runtime.helpers_path, {"worker": HelperState(status=HelperStatus.WAITING)}
    )
    health = service.http.get("/health").json()
    found = read(service)
    assert found["degraded"] == health["degraded"] == {"worker": "waiting"}
    assert "helpers" not in found["unknown"]
    assert (found["status"], found["prediction_log"]) == (
        health["status"], health["prediction_log"]
    )  # fmt: skip


def test_the_address_of_mlflow_is_shown_without_its_login(serve: Serve) -> None:
    service = serve(mlflow_tracking_uri="https://user:secret@mlflow.example:8443/base/")
    answered = service.http.get("/api/v1/ops/").text
    assert "secret" not in answered
    links = {link["name"]: link["url"] for link in json.loads(answered)["links"]}
    assert links["MLflow"] == "https://mlflow.example:8443/base"
    assert links["Model 1 in MLflow"] == "https://mlflow.example:8443/base/#/models/ecg/versions/1"


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        ("http://h:99999", None),
        ("http://h:abc", None),
        ("http://[::1", None),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("http://user:secret@[2001:db8::2]/base", "http://[2001:db8::2]/base"),
        ("http://h", "http://h"),
        ("sqlite:///mlflow.db", "http://127.0.0.1:5999"),
    ],
)
def test_an_address_of_mlflow_that_is_none_costs_its_link_alone(
    serve: Serve, uri: str, url: str | None
) -> None:
    found = read(serve(mlflow_tracking_uri=uri, mlflow_port=5999))
    links = {link["name"]: link["url"] for link in found["links"]}
    assert links.get("MLflow") == url
    assert links.get("Model 1 in MLflow") == (url and f"{url}/#/models/ecg/versions/1")
    assert "Prefect" in links
    assert found["served"]


@pytest.mark.parametrize(
    "path", ["/api/v1/ops/", "/api/v1/ops", f"/ops/drift/{PAGE}", f"/ops/evaluation/{EVALUATION}"]
)
def test_data_of_operators_asks_for_a_key_with_their_scope(
    serve: Serve, tmp_path: Path, path: str
) -> None:
    for scope in Scope:
        add_api_key(tmp_path / "keys", scope.value, scopes=[scope])
    service = serve(api_keys_file=tmp_path / "keys")
    write_pages(service)
    evaluation = service.runtime.settings.reports_dir / "evaluation" / f"{EVALUATION}.html"
    evaluation.parent.mkdir()
    evaluation.write_text("E")

    def ask(key: str) -> int:
        status: int = service.http.get(path, headers={"X-API-Key": key}).status_code
        return status

    assert service.http.get(path).status_code == 401
    assert {scope.value: ask(scope.value) for scope in Scope} == {
        "predict": 403, "label": 403, "operate": 200, "metrics": 403
    }  # fmt: skip


def test_strips_of_drifted_beats_need_the_scope_of_labels_too(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cockpit, "show_drifted_beats", lambda *_: b"<p>strips</p>")
    add_api_key(tmp_path / "keys", "operates", scopes=[Scope.OPERATE])
    add_api_key(tmp_path / "keys", "both", scopes=[Scope.OPERATE, Scope.LABEL])
    service = serve(api_keys_file=tmp_path / "keys")
    write_pages(service)

    def read_page(key: str) -> str:
        text: str = service.http.get(f"/ops/drift/{PAGE}", headers={"X-API-Key": key}).text
        return text

    assert "strips" not in read_page("operates")
    assert read_page("both") == "<p>strips</p>"


@pytest.mark.parametrize("path", ["/ops", "/ops/review"])
def test_the_pages_hold_no_data_and_need_no_key(serve: Serve, tmp_path: Path, path: str) -> None:
    add_api_key(tmp_path / "keys", "one")
    service = serve(api_keys_file=tmp_path / "keys")
    page = service.http.get(path)
    assert page.status_code == 200
    assert "ecg:toy" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "script-src" not in policy
    assert "frame-ancestors 'none'" in policy


def test_the_pages_share_a_bar_that_marks_the_page_and_leads_to_all_others(serve: Serve) -> None:
    service = serve()
    for path, data in (
        ("/ops", "/api/v1/ops/"),
        ("/ops/rollout", "/api/v1/ops/rollout/"),
        ("/ops/review", "/api/v1/review-queue/"),
    ):
        page = service.http.get(path)
        bar = page.text.partition("<nav ")[2].partition("</nav>")[0]
        links = re.findall(r'<a href="([^"]*)"( aria-current="page")?>', bar)
        addresses = [urljoin(path, address) for address, _ in links]
        assert addresses == ["/ops", "/ops/rollout", "/ops/review", "/", "/docs", data]
        marked = [address for address, (_, mark) in zip(addresses, links, strict=True) if mark]
        assert marked == [path]
        files = re.findall(r'(?:src|href)="([^"]*viewer/[^"]*)"', page.text)
        assert len(files) == 5
        for file in files:
            assert service.http.get(urljoin(path, file)).status_code == 200


def test_the_metrics_show_the_latest_check(serve: Serve) -> None:
    service = serve()
    path = service.runtime.settings.serving_dir / "drift.json"

    def shown() -> dict[tuple[str, ...], float]:
        return {
            (sample.name, *sample.labels.values()): sample.value
            for sample in service.samples()
            if sample.name.startswith("ecg_drift")
        }

    assert shown() == {("ecg_drift_check_timestamp_seconds",): 0.0}
    write_last_check(path, check_row("RETRAIN"))
    assert shown() == {
        ("ecg_drift_check_timestamp_seconds",): NOW.timestamp(),
        ("ecg_drift_verdict", "KEEP"): 0.0,
        ("ecg_drift_verdict", "RETRAIN"): 1.0,
        ("ecg_drift_verdict", "ROLLBACK"): 0.0,
        ("ecg_drift_found", "ecg:toy"): 1.0,
    }
    path.write_text("{")
    assert shown()["ecg_drift_verdict", "RETRAIN"] == 1.0  # its age tells
    later = check_row("KEEP", at=NOW + timedelta(hours=1))
    write_last_check(path, later)
    assert shown()["ecg_drift_verdict", "RETRAIN"] == 0.0
    assert shown()["ecg_drift_found", "ecg:toy"] == 0.0


def test_the_schema_describes_the_answer(serve: Serve, http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()
    schema = described["components"]["schemas"]["Overview"]
    assert set(read(serve())) == set(schema["properties"])
