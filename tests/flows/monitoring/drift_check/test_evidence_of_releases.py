"""Evidence on a release: requests, the step at its start, reviewed strips."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import BundleIntegrityError
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import FeedbackRow, RequestRow
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from flows.monitoring.evidence import REFERENCE_COUNTS
from flows.monitoring.monitor_drift import monitor_drift, read_served
from flows.release.switch_service import find_bundle
from tests.flows.monitoring.drift_check.observed_traffic import (
    MINUTE,
    NOW,
    PATIENT,
    TAG,
    Observed,
    Serve,
    note,
    read_events,
    send,
)

pytestmark = pytest.mark.slow


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
