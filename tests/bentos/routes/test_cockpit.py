"""The state of the platform over HTTP: each part alone, and what cannot be read is said."""

from __future__ import annotations

import json
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import numpy as np
import pytest

from bentos.routes.pages import cockpit
from bentos.runtime.live_model import LoadedModel
from ecg_lib.operations.drift.last_check import write_last_check
from ecg_lib.operations.keys.api_keys import Scope, add_api_key
from ecg_lib.operations.learning.drifted_beats import (
    BEGIN,
    END,
    DriftedBeat,
    DriftedBeats,
    write_drifted_beats,
)
from ecg_lib.operations.learning.kept_signals import KeptSignal, SignalStore
from ecg_lib.operations.learning.pipeline_run import PipelineRun, write_pipeline_run
from ecg_lib.operations.prediction_rows import DecisionRow, DriftCheckRow
from ecg_lib.operations.processes.helper_states import (
    HelperState,
    HelperStatus,
    write_helper_states,
)
from ecg_lib.operations.releases import ReleaseNote, write_release_notes
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.following import ReportsFollower
from ecg_lib.operations.store.mirror import changing_reports
from tests.homes import keep_from_store

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAGE = "20260301T120000000000Z-decision"
REPORT = "20260301T120000000000Z-evidently-decision"
EVALUATION = "0123456789ab-out-of-fold-quick"
VERDICT = "<!doctype html><style>h1{color:red}</style><h1>RETRAIN</h1>"

Serve = Callable[..., Any]


@pytest.fixture
def serve(start_service: Callable[..., Any], toy_model: LoadedModel) -> Iterator[Serve]:
    """Start services with settings of their own."""
    started = []

    def serve(*, has_model: bool = True, **settings: Any) -> Any:  # noqa: ANN401  a conftest's class
        service = start_service(**settings)
        if has_model:
            service.runtime.live.use(toy_model)
        started.append(service)
        return service

    yield serve
    for service in started:
        service.close()


def check_row(action: str, *, at: datetime = NOW, report: str | None = None) -> DriftCheckRow:
    return DriftCheckRow(
        check_id=str(uuid.uuid4()),
        created_at=at,
        bundle_hash="b" * 64,
        action=action,
        summary={
            "bento_tag": "ecg:toy",
            "is_conclusive": True,
            "is_breach": action == "RETRAIN",
            "reasons": ["rr_irregularity moved"],
            "report": report,
        },
    )


def add_drift(service: Any) -> DriftCheckRow:  # noqa: ANN401  a conftest's class
    """Store a check that kept, and a later one that asked for a retraining."""
    service.runtime.log.add_drift_check(check_row("KEEP", at=NOW - timedelta(hours=1)))
    row = check_row("RETRAIN", report=f"{PAGE}.html")
    service.runtime.log.add_drift_check(
        row,
        DecisionRow(
            decision_id=row.check_id,
            created_at=NOW,
            deployment="pipeline/ecg",
            parameters={},
            state="asked",
            run_id="run-1",
        ),
    )
    return row


def write_pages(service: Any) -> None:  # noqa: ANN401  a conftest's class
    directory = service.runtime.settings.reports_dir / "drift"
    directory.mkdir(parents=True)
    (directory / f"{PAGE}.html").write_text(VERDICT)
    (directory / f"{REPORT}.html").write_text("<script>let shown</script>")


def settle(service: Any) -> None:  # noqa: ANN401  a conftest's class
    """Wait until the log has all that was answered."""
    deadline = time.monotonic() + 180
    while len(service.runtime.spool):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read(service: Any, **headers: str) -> dict[str, Any]:  # noqa: ANN401  a conftest's class
    answered = service.http.get("/api/v1/ops/", headers=headers)
    assert answered.status_code == 200, answered.text
    found: dict[str, Any] = answered.json()
    return found


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


def test_pages_of_drift_checks_are_served_and_link_each_other(serve: Serve) -> None:
    service = serve()
    write_pages(service)
    page = service.http.get(f"/ops/drift/{PAGE}")
    assert (page.status_code, page.text) == (200, VERDICT)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-store"
    assert "script-src" not in page.headers["content-security-policy"]
    # The page of a verdict names Evidently's by its file.
    report = service.http.get(f"/ops/drift/{REPORT}.html")
    assert report.status_code == 200
    assert report.headers["content-security-policy"].startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in report.headers["content-security-policy"]


def test_strips_of_drifted_beats_are_drawn_as_long_as_their_signals_are_kept(
    serve: Serve,
) -> None:
    service = serve()
    write_pages(service)
    settings = service.runtime.settings
    page = settings.reports_dir / "drift" / f"{PAGE}.html"
    page.write_text(f"{VERDICT}{BEGIN}<p>not drawn</p>{END}")
    patient = "a" * 64
    beat = DriftedBeat(
        patient_key=patient,
        prediction_id="p1",
        created_at=NOW,
        sample=1000,
        called="V",
        value="wide",
    )
    found = DriftedBeats(are_kept=True, column="qrs_width_ms", usual="90", beats=(beat,))
    assert "not drawn" in service.http.get(f"/ops/drift/{PAGE}").text
    write_drifted_beats(page, found)
    store = SignalStore(settings.signals_dir, settings.signal_key_path)
    signal = KeptSignal(
        prediction_id="p1", patient_key=patient, created_at=NOW, fs=250.0, lead="II",
        signal_mv=np.zeros(2500, np.float32),
    )  # fmt: skip
    store.add(signal, is_waiting=False)
    shown = service.http.get(f"/ops/drift/{PAGE}").text
    assert "not drawn" not in shown
    assert "<svg" in shown
    assert "wide, called V, lead II" in shown
    store.delete_patient(patient)
    shown = service.http.get(f"/ops/drift/{PAGE}").text
    assert "<svg" not in shown
    assert "1 of the signals was deleted since." in shown


def test_a_page_is_shown_with_a_note_when_its_beats_or_a_signal_cannot_be_read(
    serve: Serve,
) -> None:
    service = serve()
    write_pages(service)
    settings = service.runtime.settings
    page = settings.reports_dir / "drift" / f"{PAGE}.html"
    page.write_text(f"{VERDICT}{BEGIN}<p>not drawn</p>{END}")
    beat = DriftedBeat(
        patient_key="a" * 64, prediction_id="p1", created_at=NOW, sample=9, called="V", value="x"
    )
    write_drifted_beats(page, DriftedBeats(are_kept=True, column="c", usual="90", beats=(beat,)))
    (settings.signals_dir / "kept" / beat.patient_key / "p1.signal").mkdir(parents=True)
    shown = service.http.get(f"/ops/drift/{PAGE}")
    assert shown.status_code == 200
    assert "1 of the signals cannot be read" in shown.text
    beats = page.with_suffix(".beats.json")
    beats.write_text("{")
    shown = service.http.get(f"/ops/drift/{PAGE}")
    assert (shown.status_code, shown.text[: len(VERDICT)]) == (200, VERDICT)
    assert "The file that names these beats cannot be read" in shown.text
    beats.unlink()
    beats.mkdir()
    shown = service.http.get(f"/ops/drift/{PAGE}")
    assert "The file that names these beats cannot be read" in shown.text
    assert str(service.home) not in shown.text


@pytest.mark.parametrize(
    "name",
    [
        "20260301T120000000001Z",
        "20260301T120000000000Z",
        "..%2F..%2Fmonitoring",
        "..%2f20260301T120000000000Z-decision",
        "secret",
        f"{PAGE}.json",
        f"{PAGE}%0a",
        "",
    ],
)
def test_other_names_are_not_pages_of_drift_checks(serve: Serve, name: str) -> None:
    service = serve()
    write_pages(service)
    (service.runtime.settings.reports_dir / "drift" / "secret.html").write_text("no")
    assert service.http.get(f"/ops/drift/{name}").status_code == 404


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (FileNotFoundError("deleted"), 404),
        (PermissionError("not yours"), 503),
        (OSError("disk"), 503),
    ],
)
def test_a_page_that_is_deleted_or_unreadable_while_it_is_asked_for_is_a_problem(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, error: OSError, status: int
) -> None:
    service = serve()
    write_pages(service)
    read_bytes = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == f"{PAGE}.html":
            raise error
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    answered = service.http.get(f"/ops/drift/{PAGE}")
    assert answered.status_code == status
    assert answered.headers["content-type"] == "application/problem+json"
    assert str(service.home) not in answered.text
    assert service.http.get(f"/ops/drift/{REPORT}").status_code == 200


def test_a_folder_is_not_shown_as_a_drift_check(serve: Serve) -> None:
    service = serve()
    (service.runtime.settings.reports_dir / "drift" / f"{PAGE}.html").mkdir(parents=True)
    assert service.http.get(f"/ops/drift/{PAGE}").status_code == 404


def test_evaluation_reports_are_served_as_page_and_as_json(serve: Serve) -> None:
    service = serve()
    folder = service.runtime.settings.reports_dir / "evaluation"
    folder.mkdir(parents=True)
    (folder / f"{EVALUATION}.html").write_text("<h1>EC57</h1>")
    (folder / f"{EVALUATION}.json").write_text('{"v_f1": 0.9}')
    for name in (EVALUATION, f"{EVALUATION}.html"):
        page = service.http.get(f"/ops/evaluation/{name}")
        assert (page.status_code, page.text) == (200, "<h1>EC57</h1>")
        assert page.headers["content-security-policy"].startswith("sandbox allow-scripts")
    assert service.http.get(f"/ops/evaluation/{EVALUATION}.json").json() == {"v_f1": 0.9}


@pytest.mark.parametrize(
    "name",
    [
        "0123456789ab-none",
        "..%2fdrift%2fx.html",
        "index",
        "0123456789ab-x.py",
        "0123456789ab-.html",
    ],
)
def test_other_names_are_not_evaluation_reports(serve: Serve, name: str) -> None:
    service = serve()
    write_pages(service)
    assert service.http.get(f"/ops/evaluation/{name}").status_code == 404


def test_reports_that_another_machine_wrote_are_served(
    serve: Serve, tmp_path: Path, store_url: str
) -> None:
    service = serve()
    add_drift(service)
    here = service.runtime.settings.model_copy(update={"store_url": store_url})
    writer = Settings(home=tmp_path / "writer", store_url=store_url)
    follower = ReportsFollower(here)
    follower.look()
    assert service.http.get(f"/ops/drift/{PAGE}").status_code == 404
    with changing_reports(writer):
        for name, text in ((f"drift/{PAGE}.html", VERDICT), (f"evaluation/{EVALUATION}.html", "E")):
            (writer.reports_dir / name).parent.mkdir(parents=True)
            (writer.reports_dir / name).write_text(text)
    follower.look()
    assert service.http.get(f"/ops/drift/{PAGE}").text == VERDICT
    assert service.http.get(f"/ops/evaluation/{EVALUATION}").text == "E"
    assert read(service)["drift"][0]["page"] == PAGE
    (here.reports_dir / "drift" / f"{PAGE}.html").write_text("damaged")
    follower.look()
    assert service.http.get(f"/ops/drift/{PAGE}").text == VERDICT
    with keep_from_store(store_url):
        ReportsFollower(here).look()
        assert service.http.get(f"/ops/drift/{PAGE}").text == VERDICT
    with changing_reports(writer):
        (writer.reports_dir / "drift" / f"{PAGE}.html").unlink()
    follower.look()
    assert service.http.get(f"/ops/drift/{PAGE}").status_code == 404


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
