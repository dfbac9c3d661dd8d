"""Pages of checks and evaluations: names, files deleted under a reader, strips, other machines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecg_lib.operations.learning.drifted_beats import (
    BEGIN,
    END,
    DriftedBeat,
    DriftedBeats,
    write_drifted_beats,
)
from ecg_lib.operations.learning.kept_signals import KeptSignal, SignalStore
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.following import ReportsFollower
from ecg_lib.operations.store.mirror import changing_reports
from tests.bentos.routes.cockpit.platform_state import (
    EVALUATION,
    NOW,
    PAGE,
    REPORT,
    VERDICT,
    Serve,
    add_drift,
    read,
    write_pages,
)
from tests.homes import keep_from_store


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
