"""The flow on a real Prefect server, a real database and a bundle on disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.states import State
from typer.testing import CliRunner

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import BundleIntegrityError
from ecg_lib.operations.drift.last_check import read_last_check
from ecg_lib.operations.drift.observation import (
    OBSERVED_COLUMNS,
    POINTS_DOWN,
    ObservedBeats,
    observe_beats,
    read_reference,
)
from ecg_lib.operations.drift.traffic_log import add_requests
from ecg_lib.operations.keys.signatures import SignatureError
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import DriftCheckRow, FeedbackRow, PredictionRow, RequestRow
from ecg_lib.operations.releases import Release, bento_source
from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.operations.store.mirror import mirror_reports
from ecg_lib.records.noise import mix_at_snr, muscle_noise
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from flows.local.cli import app
from flows.monitoring.evidence import REFERENCE_COUNTS
from flows.monitoring.monitor_drift import NOTHING_SERVED, monitor_drift, read_served
from flows.release.switch_service import find_bundle
from tests.lists import list_predictions

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.slow

Observed = dict[str, list[Any]]
Serve = Callable[[Settings, Release], None]
NOW = datetime.now(UTC)
MINUTE = timedelta(minutes=1)
TAG = "ecg:2"
PATIENT = "patient"


@pytest.fixture(scope="module")
def replayed(toy_bundle: Bundle) -> list[Observed]:
    """The strips of the reference, as the log holds them."""
    reference = read_reference(toy_bundle.read_drift_reference())
    return [
        _observed_of(reference, strip) | {PATIENT: [str(reference.group[strip])]}
        for strip in range(reference.n_strips)
    ]


@pytest.fixture(scope="module")
def noisy(toy_bundle: Bundle) -> list[Observed]:
    """The patients of the reference under muscle noise at 6 dB."""
    classifier = BeatClassifier.load(toy_bundle)
    strips = []
    for seed in range(12):
        record = simulate_record(
            f"sim{seed}", patient=draw_patient(seed), duration_s=120.0, seed=seed
        )
        assert record.annotations is not None
        clean = record.signal_mv()
        noise = muscle_noise(len(clean), fs=record.fs, rms_mv=0.1, rng=np.random.default_rng(seed))
        signal = mix_at_snr(
            clean, noise, snr_db=6.0, r_peaks=record.annotations.beat_samples, fs=record.fs
        )
        for strip in np.split(signal, 12):
            columns = observe_beats(classifier.classify(strip, fs=record.fs))
            if len(columns["rule"]):
                strips.append(_for_log(columns) | {PATIENT: [f"sim{seed}"]})
    assert len(strips) > 100
    return strips


def _observed_of(beats: ObservedBeats, strip: int) -> Observed:
    return _for_log({name: beats.columns[name][beats.strip == strip] for name in OBSERVED_COLUMNS})


def _for_log(columns: dict[str, Any]) -> Observed:
    return {
        name: [None if value != value else value for value in values.tolist()]  # noqa: PLR0124
        for name, values in columns.items()
    }


@pytest.fixture
def settings() -> Settings:
    settings = read_settings()
    settings.home.mkdir(parents=True)
    return settings


@pytest.fixture
def release(settings: Settings, toy_bundle: Bundle, serve_release: Serve) -> Release:
    """The toy bundle, released two hours ago."""
    current = Release(
        bento_tag=TAG,
        model_tag="ecg_bundle:abc",
        bundle_hash=toy_bundle.hash,
        model_version="2",
        code_hash="c" * 64,
        released_at=(NOW - 120 * MINUTE).isoformat(),
    )
    shutil.copytree(toy_bundle.directory, find_bundle(settings, current.model_tag))
    source = bento_source(settings.bentoml_home, current)
    source.mkdir(parents=True)
    caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ecg_lib", source / "ecg_lib", ignore=caches)
    serve_release(settings, current)
    return current


def send(
    settings: Settings,
    strips: list[Observed],
    *,
    ago: timedelta,
    bundle_hash: str,
    tag: str = TAG,
    name: str = "p",
    is_drawn: bool = False,
) -> None:
    """Write answers into the log as the service does."""
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    log.add_predictions(
        [
            PredictionRow(
                prediction_id=f"{name}-{index}",
                created_at=NOW - ago + index * timedelta(milliseconds=1),
                patient_key=strip[PATIENT][0],
                bundle_hash=bundle_hash,
                bento_tag=tag,
                duration_s=10.0,
                response={
                    "beat_predictions": [{"arrhythmia_type": t} for t in strip["arrhythmia_type"]],
                    "drawn_for_review": is_drawn,
                },
                observed={key: values for key, values in strip.items() if key != PATIENT},
            )
            for index, strip in enumerate(strips)
        ]
    )
    log.close()


def read_events(name: str, resource: str) -> list[dict[str, Any]]:
    """Ask the server for events; they arrive a moment after they were sent."""
    body = {
        "filter": {
            "event": {"name": [name]},
            "resource": {"id": [resource]},
            "occurred": {"since": (NOW - 60 * MINUTE).isoformat()},
        }
    }
    with get_client(sync_client=True) as client:
        for _ in range(50):
            found = client.request("POST", "/events/filter", json=body).json()["events"]
            if found:
                return list(found)
            time.sleep(0.2)
    return []


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
    prefect_server: None, settings: Settings, release: Release, replayed: list[Observed]
) -> None:
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


def note(settings: Settings, rows: list[RequestRow]) -> None:
    """Write where requests came from, as the service does."""
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    add_requests(log, rows)
    log.close()


def request_of(release: Release, name: str, **changes: Any) -> RequestRow:  # noqa: ANN401
    row = RequestRow(
        request_id=name,
        created_at=NOW - 30 * MINUTE,
        bundle_hash=release.bundle_hash,
        bento_tag=TAG,
        duration_s=10.0,
    )
    return replace(row, **changes)


def test_strips_of_one_anonymous_client_decide_nothing(
    prefect_server: None, settings: Settings, release: Release, noisy: list[Observed]
) -> None:
    anonymous = [strip | {PATIENT: [None]} for strip in noisy]
    send(settings, anonymous, ago=60 * MINUTE, bundle_hash=release.bundle_hash)
    note(settings, [request_of(release, f"p-{n}", client="c") for n in range(len(noisy))])
    decision = monitor_drift(n_breaches=1, cool_down_hours=0, dry_run=True)
    assert decision["action"] == "KEEP"
    assert decision["reasons"][0] == (
        "too little traffic to compare: 1 patients or clients, 5 needed"
    )
    assert decision["figures"]["traffic"]["n_strips"] == len(noisy)


def test_refused_signals_and_a_lead_that_is_new_are_alarms(
    prefect_server: None, settings: Settings, release: Release, replayed: list[Observed]
) -> None:
    send(settings, replayed, ago=90 * MINUTE, bundle_hash=release.bundle_hash)
    usual = [
        request_of(release, f"p-{n}", patient_key=strip[PATIENT][0], slices={"lead": "II"})
        for n, strip in enumerate(replayed)
    ]
    note(settings, usual)
    assert monitor_drift()["alarms"] == []
    send(settings, replayed, ago=60 * MINUTE, bundle_hash=release.bundle_hash, name="q")
    changed = [
        replace(row, request_id=f"q-{n}", slices={"lead": "V1"}) for n, row in enumerate(usual)
    ]
    refused = [
        replace(row, request_id=f"r-{n}", refused="signal-unreadable")
        for n, row in enumerate(usual)
    ]
    note(settings, changed + refused)
    decision = monitor_drift()
    assert decision["action"] == "KEEP"
    first, second = decision["alarms"]
    assert first.startswith("33% of the signals were refused")
    assert second.startswith(
        "not in the reference or the traffic before: lead V1 (12 of 12 groups)"
    )
    assert {one["value"] for one in decision["figures"]["slices"]} == {"II", "V1"}
    assert not any(one["is_drifted"] for one in decision["figures"]["slices"])
    events = read_events("ecg.drift.alarm", f"ecg.model.{release.bundle_hash[:12]}")
    assert {event["payload"]["reason"] for event in events} <= {first, second}
    assert "Look at electrodes" in Path(decision["report"]).read_text()


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


def test_a_step_of_the_class_mix_at_the_release_starts_rollback(
    prefect_server: None, settings: Settings, release: Release, replayed: list[Observed]
) -> None:
    send(settings, replayed, ago=180 * MINUTE, bundle_hash="old", tag="ecg:1", name="old")
    rng = np.random.default_rng(0)
    stepped = [
        strip | {"arrhythmia_type": rng.choice(["N", "V"], len(strip["rule"])).tolist()}
        for strip in replayed
    ]
    send(settings, stepped, ago=60 * MINUTE, bundle_hash=release.bundle_hash)
    decision = monitor_drift()
    assert decision["action"] == "ROLLBACK"
    assert decision["reasons"][0].startswith(
        "output stepped at the release while the input did not: arrhythmia_type"
    )
    resource = f"ecg.model.{release.bundle_hash[:12]}"
    assert read_events("ecg.decision.rollback", resource)[0]["payload"]["action"] == "ROLLBACK"


def test_a_return_to_a_bento_that_served_before_does_not_count_as_a_step(
    prefect_server: None, settings: Settings, release: Release, replayed: list[Observed]
) -> None:
    send(settings, replayed[:10], ago=200 * MINUTE, bundle_hash=release.bundle_hash, name="first")
    stepped = [strip | {"rule": ["odd"] * len(strip["rule"])} for strip in replayed]
    send(settings, stepped, ago=180 * MINUTE, bundle_hash="bad", tag="ecg:3", name="bad")
    send(settings, replayed, ago=60 * MINUTE, bundle_hash=release.bundle_hash)
    decision = monitor_drift(dry_run=True)
    assert decision["action"] == "KEEP"
    assert decision["figures"]["release"] is None


@pytest.mark.parametrize(
    ("n_wrong_of_ten", "is_drawn", "action"),
    [(0, True, "KEEP"), (7, True, "ROLLBACK"), (7, False, "KEEP")],
)
def test_reviewed_strips_that_were_drawn_at_random_are_compared_with_the_bundle(
    prefect_server: None,
    settings: Settings,
    release: Release,
    serve_release: Serve,
    replayed: list[Observed],
    n_wrong_of_ten: int,
    is_drawn: bool,  # noqa: FBT001  a parameter of the test
    action: str,
) -> None:
    promised = _promise(settings, release, serve_release)
    send(
        settings,
        replayed,
        ago=60 * MINUTE,
        bundle_hash=promised.bundle_hash,
        is_drawn=is_drawn,
    )
    rng = np.random.default_rng(0)
    log = PredictionLog(settings.monitoring_database_url)
    log.add_feedback(
        [
            FeedbackRow(
                feedback_id=f"f{index}",
                created_at=NOW,
                prediction_id=f"p-{index}",
                annotator=None,
                labels={
                    beat: "N" if called == "V" and rng.random() < n_wrong_of_ten / 10 else called
                    for beat, called in enumerate(strip["arrhythmia_type"])
                },
            )
            for index, strip in enumerate(replayed)
        ]
    )
    log.close()
    decision = monitor_drift(dry_run=True)
    assert decision["action"] == action
    # Strips that readers chose themselves never score.
    assert any("promised" in reason for reason in decision["reasons"]) is is_drawn


def _promise(settings: Settings, release: Release, serve_release: Serve) -> Release:
    """Give the bundle on disk out-of-fold counts, and the release its new hash."""
    directory = find_bundle(settings, release.model_tag)
    counts = {"a": {"v_beats": 100, "v_true": 97, "v_false": 3, "n_beats": 900, "n_true": 897}}
    metrics = json.dumps({"oof_v_f1": 0.97, REFERENCE_COUNTS: counts}).encode()
    (directory / "metrics.json").write_bytes(metrics)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"]["metrics.json"] = hashlib.sha256(metrics).hexdigest()
    text = json.dumps(manifest).encode()
    (directory / "manifest.json").write_bytes(text)
    changed = release.model_copy(update={"bundle_hash": hashlib.sha256(text).hexdigest()})
    serve_release(settings, changed)
    return changed


def test_a_bundle_other_than_the_released_one_is_refused(
    settings: Settings, release: Release, serve_release: Serve
) -> None:
    wrong = release.model_copy(update={"bundle_hash": "0" * 64})
    serve_release(settings, wrong)
    with pytest.raises(BundleIntegrityError, match="must be the bundle 000000000000"):
        read_served.fn(settings, now=NOW)


def test_the_bundle_is_where_bentoml_puts_it(settings: Settings, toy_bundle: Bundle) -> None:
    program = (
        "import pathlib, shutil, sys, bentoml\n"
        "with bentoml.models.create(name='ecg_bundle') as model:\n"
        "    shutil.copytree(sys.argv[1], pathlib.Path(model.path) / 'bundle')\n"
        "print(model.tag)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(toy_bundle.directory)],
        env=os.environ
        | {"BENTOML_HOME": str(settings.bentoml_home), "BENTOML_DO_NOT_TRACK": "true"},
        capture_output=True,
        text=True,
        check=True,
    )
    directory = find_bundle(settings, done.stdout.split()[-1])
    assert (directory / "manifest.json").is_file()


def test_prefect_shows_the_limits_of_the_parameters_and_their_words() -> None:
    properties = monitor_drift.parameters.model_dump()["properties"]
    assert properties["window_hours"]["exclusiveMinimum"] == 0
    assert (
        properties["max_strips"] | {"minimum": 100, "maximum": 20_000} == properties["max_strips"]
    )
    assert properties["dry_run"]["description"] == (
        "Decide and report, but store nothing and start nothing."
    )


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
