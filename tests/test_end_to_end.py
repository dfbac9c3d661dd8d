"""The whole path once: simulated records to a served, stored, rolled back prediction."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.settings import Settings
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from flows.doors.ledger import read_ledger
from flows.doors.registry import EXPERIMENT, Alias, Registry
from flows.local.supervision.environments import make_flow_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

_PIPELINE = """
import json, sys
import flows.data.records.sources
flows.data.records.sources.SIMULATED_PATIENTS = 10
flows.data.records.sources.SIMULATED_DURATION_S = 120.0
from dataclasses import replace
from ecg_lib.operations.settings import Profile
from flows.data.ingest_records import Source
from flows.pipeline import pipeline
from flows.training.sweep import PLANS
PLANS[Profile.QUICK] = replace(
    PLANS[Profile.QUICK], search_beats=3000, search_epochs=1, confirm_epochs=3, confirm_beats=6000,
)
result = pipeline(source=Source.SIMULATOR, n_trials=3, min_v_f1=0.5)
print("RESULT " + json.dumps(result))
"""

_ROLLBACK = """
from flows.release.rollout.rollback_champion import rollback_champion
rollback_champion(reason="a test")
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Platform:
    """A home with its Prefect server; flows run in processes of their own."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home, service_port=_free_port())
        self.environment = make_flow_environment(self.settings) | {
            "PREFECT_API_URL": PREFECT_API_URL.value(),
            "PREFECT_LOCAL_STORAGE_PATH": str(home / "storage"),
        }
        del self.environment["PREFECT_API_AUTH_STRING"]  # the harness asks for no login
        self.url = f"http://127.0.0.1:{self.settings.service_port}"

    def kill_when(self, code: str, sign: str) -> None:
        """Run code until a line of its log holds the sign, then kill it with all its children."""
        with subprocess.Popen(
            [sys.executable, "-c", code],
            env=self.environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            assert process.stderr is not None
            lines: list[str] = []
            for line in process.stderr:
                lines.append(line)
                if sign in line:
                    break
            else:
                pytest.fail("".join(lines[-30:]))
            os.killpg(process.pid, signal.SIGKILL)

    def run(self, code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=self.environment, capture_output=True, text=True, check=False, timeout=1000,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    names = [name for name in os.environ if name.startswith("ECG_")]
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.delenv(name)
        with prefect_test_harness(server_startup_timeout=120):
            yield Platform(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def result(platform: Platform) -> dict[str, Any]:
    # The first try is killed during its trials; the second goes on where it was.
    platform.kill_when(_PIPELINE, "trial 1: complete")
    printed = platform.run(_PIPELINE)
    line = next(line for line in printed.splitlines() if line.startswith("RESULT "))
    return dict(json.loads(line.removeprefix("RESULT ")))


@pytest.fixture(scope="module")
def service(platform: Platform, result: dict[str, Any]) -> Iterator[httpx.Client]:
    process = subprocess.Popen([sys.executable, "-m", "bentos.host"], env=platform.environment)
    try:
        with httpx.Client(base_url=platform.url, timeout=30.0) as client:
            deadline_s = time.monotonic() + 180
            while not _is_ready(client):
                assert process.poll() is None, "the service ended"
                assert time.monotonic() < deadline_s, "the service is not ready"
                time.sleep(0.3)
            yield client
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


def _is_ready(client: httpx.Client) -> bool:
    try:
        return bool(client.get("/health").json()["model_loaded"])
    except (httpx.TransportError, ValueError, KeyError):
        return False


def _request(kind: StripKind) -> dict[str, Any]:
    signal = simulate_strip(kind, seed=5).signal_mv()
    return {"signal_data": signal.tolist(), "sampling_rate": 360, "patient_id": "Jane Doe"}


def test_the_pipeline_promotes_and_releases_a_model(
    platform: Platform, result: dict[str, Any]
) -> None:
    assert result["verdict"]["is_promoted"] is True
    assert set(result["stages"]) == {
        "ingest-records", "train-sweep", "promote-champion", "evaluate-champion", "package-bento",
        "release-service",
    }  # fmt: skip
    champion = Registry(platform.settings).get_alias(Alias.CHAMPION)
    assert champion is not None
    assert champion.version == result["release"]["model_version"]


def _is_trial(run: Run) -> bool:
    return bool(run.data.tags["ecg.kind"] == "trial")


def test_the_sweep_is_in_mlflow_with_its_trials(platform: Platform, result: dict[str, Any]) -> None:
    client = MlflowClient(platform.settings.tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    assert "RUNNING" not in {run.info.status for run in runs}
    # A trial that the kill cut off is tried again in a run of its own.
    ended = [run for run in runs if run.info.status == "FINISHED" or not _is_trial(run)]
    assert {run.info.status for run in runs if run not in ended} <= {"KILLED"}
    by_kind = {
        kind: [run for run in ended if run.data.tags["ecg.kind"] == kind]
        for kind in ("sweep", "trial", "candidate")
    }
    # One sweep and each trial once, though the first try was killed after two trials.
    assert [len(found) for found in by_kind.values()] == [1, 3, 1]
    sweep, candidate = by_kind["sweep"][0], by_kind["candidate"][0]
    for run in [*by_kind["trial"], candidate]:
        assert run.data.tags["mlflow.parentRunId"] == sweep.info.run_id
        assert run.data.tags["ecg.data_source"] == "simulated"
    assert candidate.data.metrics["oof_v_f1"] > 0.5
    assert candidate.inputs.dataset_inputs[0].dataset.digest
    files = {file.path for file in client.list_artifacts(candidate.info.run_id)}
    assert {"bundle", "precision_recall.svg", "reliability.svg", "records.svg"} <= files


def test_every_flow_run_is_seen_in_prefect(platform: Platform, result: dict[str, Any]) -> None:
    with get_client(sync_client=True) as client:
        names = {client.read_flow(run.flow_id).name for run in client.read_flow_runs()}
    assert names >= {"pipeline", *result["stages"]}


def test_a_prediction_over_http_is_that_of_the_bundle_and_is_stored(
    platform: Platform, result: dict[str, Any], service: httpx.Client
) -> None:
    request = _request(StripKind.RUN)
    answer = service.post("/api/v1/predictions/", json=request)
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body["overall_arrhythmia_type"] == "V"
    assert body["risk_level"] == "HIGH"
    assert body["model"]["bento_tag"] == result["release"]["bento_tag"]
    assert body["model"]["version"] == result["release"]["model_version"]
    assert body["model"]["data"] == "simulated"

    champion = Registry(platform.settings).get_alias(Alias.CHAMPION)
    assert champion is not None
    bundle = Registry(platform.settings).fetch_bundle(champion.run_id)
    direct = BeatClassifier.load(bundle).classify(np.array(request["signal_data"]), fs=360.0)
    assert [beat["position_sample"] for beat in body["beat_predictions"]] == direct.r_peaks.tolist()
    served = [beat["probability_v"] for beat in body["beat_predictions"]]
    np.testing.assert_allclose(served, direct.probability_v, atol=1e-6)

    stored = service.get(f"/api/v1/predictions/{body['prediction_id']}")
    assert stored.json() == body
    labels = [{"beat_index": 0, "arrhythmia_type": "N"}]
    feedback = {"prediction_id": body["prediction_id"], "labels": labels}
    assert service.post("/api/v1/feedback/", json=feedback).status_code == 201

    log = PredictionLog(platform.settings.monitoring_database_url)
    log.create_tables()  # the service makes them with its first row
    deadline_s = time.monotonic() + 180
    while (row := log.get_prediction(body["prediction_id"])) is None:
        assert time.monotonic() < deadline_s, "the prediction never reached the database"
        time.sleep(0.2)
    assert row.bundle_hash == bundle.hash
    assert "Jane Doe" not in json.dumps([row.response, row.patient_key])


def test_a_signal_that_is_not_an_ecg_is_rejected(service: httpx.Client) -> None:
    answer = service.post("/api/v1/predictions/", json=_request(StripKind.FLAT))
    assert answer.status_code == 422
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert "flat" in answer.json()["detail"]


def test_a_second_release_is_taken_and_rolled_back_while_requests_go_on(
    platform: Platform, result: dict[str, Any], service: httpx.Client
) -> None:
    first = result["release"]
    # A second version of other content; registered and promoted by hand, as an operator may.
    release = json.loads(
        next(
            line
            for line in platform.run(_SECOND_RELEASE).splitlines()
            if line.startswith("RESULT ")
        ).removeprefix("RESULT ")
    )
    assert release["bento_tag"] != first["bento_tag"]
    assert service.get("/health").json()["model"]["bento_tag"] == release["bento_tag"]

    platform.run(_ROLLBACK)

    assert service.get("/health").json()["model"]["bento_tag"] == first["bento_tag"]
    assert service.post("/api/v1/predictions/", json=_request(StripKind.NORMAL)).status_code == 201
    reasons = [entry.reason for entry in read_ledger(platform.settings.ledger_dir).entries]
    assert reasons == [
        "roll back model 2 to 1: a test",
        "release model 2",
        "release model 1",
    ]
    registry = Registry(platform.settings)
    champion = registry.get_alias(Alias.CHAMPION)
    assert champion is not None
    assert champion.version == "1"


_SECOND_RELEASE = """
import json, shutil
from dataclasses import replace
from ecg_lib.classifier.bundle import write_bundle
from ecg_lib.operations.settings import read_settings
from flows.doors.registry import ELIGIBLE, Alias, Registry, RunKind
from flows.release.release_service import release_service
settings = read_settings()
registry = Registry(settings)
bundle = registry.fetch_bundle(registry.get_alias(Alias.CHAMPION).run_id)
run_id = registry.start_run("by hand", kind=RunKind.CANDIDATE, tags={ELIGIBLE: "true"})
other = write_bundle(
    settings.home / "other",
    network=bundle.network,
    fold_networks=[bundle.fold_network(fold) for fold in sorted(set(bundle.folds.values()))],
    folds=bundle.folds,
    config=bundle.config,
    provenance=replace(bundle.provenance, run_id=run_id),
    metrics=bundle.metrics,
    out_of_fold=bundle.read_out_of_fold(),
    drift_reference=bundle.read_drift_reference(),
    golden=bundle.golden.read_text(),
    model_card=bundle.model_card,
)
registry.log_bundle(run_id, other)
registry.end_run(run_id)
registry.make_champion(registry.register(run_id, tags={}).version)
print("RESULT " + json.dumps(release_service()))
"""
