"""The flow on a real Prefect server, a real database and a bundle on disk."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.states import State
from typer.testing import CliRunner

from ecg_lib.operations.drift.last_check import read_last_check
from ecg_lib.operations.drift.observation import POINTS_DOWN
from ecg_lib.operations.keys.signatures import SignatureError
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import DriftCheckRow
from ecg_lib.operations.releases import Release, bento_source
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.mirror import mirror_reports
from flows.local.cli import app
from flows.monitoring.monitor_drift import NOTHING_SERVED, monitor_drift
from tests.flows.monitoring.drift_check.observed_traffic import (
    MINUTE,
    NOW,
    PATIENT,
    TAG,
    Observed,
    Serve,
    read_events,
    send,
)
from tests.lists import list_predictions

pytestmark = pytest.mark.slow


def read_artifacts(key: str) -> list[str]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        )
    return [str(artifact.data) for artifact in found]


def test_without_a_release_the_run_says_so_and_completes(prefect_server: None) -> None:
    state: State[Any] = monitor_drift(return_state=True)
    assert (state.type.value, state.name, state.message) == (
        "COMPLETED",
        "NothingServed",
        NOTHING_SERVED,
    )


def test_an_empty_log_keeps_the_model(
    prefect_server: None, settings: Settings, release: Release
) -> None:
    decision = monitor_drift()
    assert decision["action"] == "KEEP"
    shown = read_last_check(settings.serving_dir / "drift.json")
    assert shown is not None
    assert (shown.action, shown.is_breach, shown.bento_tag) == ("KEEP", False, TAG)
    assert "0 strips, 50 needed" in decision["reasons"][0]
    assert decision["evidently"] is None
    page = Path(decision["report"]).read_text()
    assert "There is too little traffic of different people to tell." in page
    assert "Send patient_id with each request" in page


def test_replayed_reference_traffic_keeps_the_model(
    prefect_server: None,
    settings: Settings,
    release: Release,
    replayed: list[Observed],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tagged: list[tuple[str, dict[str, str]]] = []
    monkeypatch.setattr(
        "flows.monitoring.monitor_drift.tag_check",
        lambda _settings, version, **tags: tagged.append((version, tags)),
    )
    send(settings, replayed, ago=60 * MINUTE, bundle_hash=release.bundle_hash)
    decision = monitor_drift()
    assert decision["action"] == "KEEP"
    assert decision["reasons"][0] == f"{len(replayed)} strips compared, no column drifted"
    assert decision["alarms"] == []
    assert Path(decision["report"]).is_file()
    assert any(f"{len(replayed)} strips" in text for text in read_artifacts("drift-check"))
    stem = Path(decision["report"]).stem
    (artifact,) = [text for text in read_artifacts("drift-check") if f"/ops/drift/{stem})" in text]
    assert "/#/models/ecg/versions/2)" in artifact
    ((version, tags),) = tagged
    assert (version, tags["verdict"][:8]) == ("2", "KEEP, 20")
    assert f"({tags['page']})" in artifact
    with get_client(sync_client=True) as client:
        assert "check 1 of v2: KEEP" in {run.name for run in client.read_flow_runs()}
    # Evidently's page beside it says the same.
    said = json.loads(Path(decision["evidently"]).with_suffix(".json").read_text())
    assert (said["is_detected"], said["detected"]) == (False, [])
    assert "Dataset Drift is NOT detected" in Path(decision["evidently"]).read_text()


def test_the_pages_of_a_check_reach_another_machine(
    prefect_server: None,
    settings: Settings,
    release: Release,
    replayed: list[Observed],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = (tmp_path / "store").as_uri()
    monkeypatch.setenv("ECG_STORE_URL", url)
    send(settings, replayed, ago=60 * MINUTE, bundle_hash=release.bundle_hash)
    decision = monitor_drift()
    other = Settings(home=tmp_path / "other", store_url=url)
    mirror_reports(other).pull()
    for written in (decision["report"], decision["evidently"]):
        copy = other.reports_dir / "drift" / Path(written).name
        assert copy.read_bytes() == Path(written).read_bytes()


def test_leads_that_are_reversed_under_a_release_are_a_note_on_the_page_of_the_check(
    prefect_server: None, settings: Settings, release: Release, replayed: list[Observed]
) -> None:
    def turn(*, points_down: bool) -> list[Observed]:
        return [one | {POINTS_DOWN: [points_down] * len(one["rule"])} for one in replayed]

    n_groups = len({one[PATIENT][0] for one in replayed})
    send(settings, turn(points_down=False), ago=60 * MINUTE, bundle_hash=release.bundle_hash)
    before = monitor_drift()
    assert before["figures"]["polarity"] == {"n_down": 0, "n_groups": n_groups}
    assert "R-peaks" not in Path(before["report"]).read_text()
    send(
        settings, turn(points_down=True), ago=5 * MINUTE, bundle_hash=release.bundle_hash, name="q"
    )
    after = monitor_drift(window_hours=0.5)
    assert (after["action"], after["alarms"]) == ("KEEP", [])
    (note,) = [reason for reason in after["reasons"] if "R-peaks" in reason]
    assert note.startswith(
        f"harmless: the R-peaks of {n_groups} of {n_groups} groups point down, of 0 of {n_groups} "
    )
    assert "leads or electrodes may be reversed" in Path(after["report"]).read_text()


def test_noise_that_stays_starts_retraining_once(
    prefect_server: None, settings: Settings, release: Release, noisy: list[Observed]
) -> None:
    half = len(noisy) // 2
    send(settings, noisy[::2], ago=60 * MINUTE, bundle_hash=release.bundle_hash)
    first = monitor_drift()
    assert first["action"] == "KEEP"
    assert "in 1 check in a row, 2 needed" in first["reasons"][0]
    # The same traffic again does not count a second time.
    again = monitor_drift()
    assert "0 strips, 50 needed" in again["reasons"][0]
    assert "is not confirmed yet" in again["reasons"][0]
    send(settings, noisy[1::2], ago=30 * MINUTE, bundle_hash=release.bundle_hash, name="q")
    second = monitor_drift()
    assert second["action"] == "RETRAIN"
    assert second["figures"]["traffic"]["n_strips"] == half
    (event,) = read_events("ecg.decision.retrain", f"ecg.model.{release.bundle_hash[:12]}")
    assert event["payload"]["bento_tag"] == TAG
    assert event["payload"]["reason"] == "; ".join(second["reasons"])
    said = json.loads(Path(second["evidently"]).with_suffix(".json").read_text())
    assert said["is_detected"]
    assert {"qrs_width_ms", "template_correlation"} <= set(said["detected"])
    assert Path(second["report"]).name.endswith("-decision.html")
    assert "First seen in the check of" in Path(second["report"]).read_text()
    send(settings, noisy, ago=10 * MINUTE, bundle_hash=release.bundle_hash, name="r")
    third = monitor_drift()
    assert third["action"] == "KEEP"
    assert "RETRAIN is due but held until" in third["reasons"][0]


def test_retraining_is_not_held_by_a_release_and_a_check_of_a_clock_that_was_ahead(
    prefect_server: None,
    settings: Settings,
    release: Release,
    serve_release: Serve,
    noisy: list[Observed],
) -> None:
    ahead = NOW + timedelta(days=30)
    serve_release(settings, release.model_copy(update={"released_at": ahead.isoformat()}))
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    log.add_drift_check(
        DriftCheckRow(
            check_id="ahead",
            created_at=ahead,
            bundle_hash=release.bundle_hash,
            action="RETRAIN",
            summary={
                "bento_tag": TAG,
                "is_conclusive": True,
                "is_breach": False,
                "newest_at": ahead.isoformat(),
            },
        )
    )
    log.close()
    send(settings, noisy[::2], ago=60 * MINUTE, bundle_hash=release.bundle_hash)
    first = monitor_drift()
    assert "in 1 check in a row, 2 needed" in first["reasons"][0]
    send(settings, noisy[1::2], ago=10 * MINUTE, bundle_hash=release.bundle_hash, name="q")
    assert monitor_drift()["action"] == "RETRAIN"


def test_traffic_that_a_site_accepted_as_its_baseline_is_not_called_drift(
    prefect_server: None, settings: Settings, release: Release, noisy: list[Observed]
) -> None:
    for name in ("p", "q"):
        send(settings, noisy, ago=60 * MINUTE, bundle_hash=release.bundle_hash, name=name)
    first = monitor_drift()
    assert "in 1 check in a row, 2 needed" in first["reasons"][0]
    accepted = CliRunner().invoke(app, ["baseline", "accept", "--reason", "wide QRS is usual"])
    assert accepted.exit_code == 0, accepted.output
    send(settings, noisy[::2], ago=10 * MINUTE, bundle_hash=release.bundle_hash, name="r")
    second = monitor_drift()
    assert second["action"] == "KEEP"
    assert "no column drifted" in second["reasons"][0]
    assert "compared with the baseline of this site" in second["reasons"][-1]
    assert second["figures"]["baseline"]["why"] == "wide QRS is usual"
    # The model was not made for this traffic, whatever is usual: the estimate goes on saying so.
    estimates = [one["figures"]["estimate"]["f1"] for one in (first, second)]
    assert estimates[1] == pytest.approx(estimates[0], abs=0.05)
    assert CliRunner().invoke(app, ["baseline", "reset", "--reason", "an error"]).exit_code == 0
    send(settings, noisy[1::2], ago=5 * MINUTE, bundle_hash=release.bundle_hash, name="s")
    third = monitor_drift()
    assert "columns drifted" in third["reasons"][0]


def test_drift_before_a_baseline_was_accepted_does_not_confirm_drift_from_it(
    prefect_server: None,
    settings: Settings,
    release: Release,
    noisy: list[Observed],
    replayed: list[Observed],
) -> None:
    for name in ("p", "q"):
        send(settings, noisy, ago=60 * MINUTE, bundle_hash=release.bundle_hash, name=name)
    assert "in 1 check in a row, 2 needed" in monitor_drift()["reasons"][0]
    accepted = CliRunner().invoke(app, ["baseline", "accept", "--reason", "noise is usual"])
    assert accepted.exit_code == 0, accepted.output
    send(settings, replayed, ago=10 * MINUTE, bundle_hash=release.bundle_hash, name="r")
    found = monitor_drift()
    assert found["action"] == "KEEP"
    assert "in 1 check in a row, 2 needed" in found["reasons"][0]


def test_a_decision_is_stored_and_asked_for_when_its_strips_cannot_be_found(
    prefect_server: None,
    settings: Settings,
    release: Release,
    noisy: list[Observed],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "signals")

    monkeypatch.setattr("flows.monitoring.monitor_drift.find_drifted_beats", fail)
    send(settings, noisy, ago=60 * MINUTE, bundle_hash=release.bundle_hash)
    with pytest.raises(PermissionError):
        monitor_drift(n_breaches=1, cool_down_hours=0)
    log = PredictionLog(settings.monitoring_database_url)
    (check,) = log.read_drift_checks()
    log.close()
    assert check.action == "RETRAIN"


def test_a_dry_run_stores_and_starts_nothing(
    prefect_server: None, settings: Settings, release: Release, noisy: list[Observed]
) -> None:
    send(settings, noisy, ago=60 * MINUTE, bundle_hash=release.bundle_hash)
    decision = monitor_drift(n_breaches=1, cool_down_hours=0, dry_run=True)
    assert decision["action"] == "RETRAIN"
    log = PredictionLog(settings.monitoring_database_url)
    assert log.read_drift_checks() == []
    log.close()


def test_the_log_forgets_what_the_settings_no_longer_keep(
    prefect_server: None,
    settings: Settings,
    release: Release,
    replayed: list[Observed],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def send_two_days() -> None:
        send(settings, replayed[:3], ago=50 * 60 * MINUTE, bundle_hash="x", name="old")
        send(settings, replayed[:4], ago=MINUTE, bundle_hash=release.bundle_hash)

    def count() -> int:
        log = PredictionLog(settings.monitoring_database_url)
        try:
            return len(list_predictions(log))
        finally:
            log.close()

    send_two_days()
    monitor_drift()
    assert count() == 7  # by default 90 days are kept
    monkeypatch.setenv("ECG_LOG_KEPT_DAYS", "2")
    monitor_drift(dry_run=True)
    assert count() == 7
    monitor_drift()
    assert count() == 4


def test_a_parameter_out_of_its_limits_is_refused(prefect_server: None) -> None:
    with pytest.raises(Exception, match="window_hours"):
        monitor_drift(window_hours=-1)


def test_golden_requests_are_answered_by_the_served_code_and_not_by_the_checkout(
    prefect_server: None,
    settings: Settings,
    release: Release,
    serve_release: Serve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Work in the checkout that nobody released.
    monkeypatch.setattr("ecg_lib.classifier.golden.check_golden", lambda *_: ("all wrong",) * 7)
    assert monitor_drift(dry_run=True)["figures"]["golden_failures"] == []
    # The served code itself.
    source = bento_source(settings.bentoml_home, release)
    golden = source / "ecg_lib" / "classifier" / "golden.py"
    changed = golden.read_text() + "\ncheck_golden = lambda *_: ('served code is wrong',)\n"
    golden.write_text(changed)
    with pytest.raises(SignatureError, match="that was signed"):  # it does not even run
        monitor_drift(dry_run=True)
    serve_release(settings, release)
    decision = monitor_drift(dry_run=True)
    assert decision["action"] == "ROLLBACK"
    assert decision["figures"]["golden_failures"] == ["served code is wrong"]
