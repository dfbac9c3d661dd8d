"""The flow that deletes in all stores what is kept no longer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.logging import disable_run_logger

from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import PredictionRow
from ecg_lib.operations.settings import Settings, read_settings
from flows.doors.addresses import PROJECT_DIR
from flows.monitoring.retention.apply_retention import apply_retention
from flows.monitoring.retention.flow_runs import OUR_FLOWS, forget_old_flow_runs
from flows.monitoring.retention.sizes import KEPT_BY, measure_stores
from tests.lists import list_predictions

pytestmark = pytest.mark.slow


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@flow(name="monitor-drift")
def ours() -> None:
    pass


@flow(name="of-another-team")
def theirs() -> None:
    pass


def _add_prediction(settings: Settings, name: str, age: timedelta) -> None:
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    row = PredictionRow(
        prediction_id=name, created_at=datetime.now(UTC) - age, patient_key=None, bundle_hash="a",
        bento_tag="ecg:x", duration_s=10.0, response={"beats": "N" * 5000}, observed={},
    )  # fmt: skip
    log.add_predictions([row])
    log.close()


def test_old_rows_files_and_runs_go_and_new_ones_stay(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECG_BUNDLES_KEPT", "1")
    settings = read_settings()
    settings.home.mkdir()
    _add_prediction(settings, "old", timedelta(days=91))
    _add_prediction(settings, "new", timedelta(days=89))
    for age, name in enumerate(("newest", "older")):
        folder = settings.home / "bundles" / name
        folder.mkdir(parents=True)
        (folder / "network.onnx").write_bytes(b"x" * 10_000)
        os.utime(folder, (1e9 - age, 1e9 - age))
    done = apply_retention()
    log = PredictionLog(settings.monitoring_database_url)
    assert list_predictions(log) == ["new"]
    log.close()
    assert [path.name for path in (settings.home / "bundles").iterdir()] == ["newest"]
    assert (done["before"]["bundles"], done["after"]["bundles"]) == (20_000, 10_000)
    assert set(done["after"]) == set(KEPT_BY)
    (artifact,) = [one for one in client.read_artifacts() if one.key == "retention"]
    assert '"store": "bundles", "before, MB": "0.0", "after, MB": "0.0"' in str(artifact.data)


def test_flow_runs_are_kept_for_the_days_that_the_settings_say(
    client: SyncPrefectClient,
) -> None:
    settings, now = Settings(prefect_runs_kept_days=30), datetime.now(UTC)
    run_id = ours(return_state=True).state_details.flow_run_id
    other_id = theirs(return_state=True).state_details.flow_run_id
    with disable_run_logger():
        forget_old_flow_runs.fn(settings, now=now + timedelta(days=29))
        assert client.read_flow_run(run_id).state_name == "Completed"
        assert forget_old_flow_runs.fn(settings, now=now + timedelta(days=31)) >= 1
        assert forget_old_flow_runs.fn(settings, now=now + timedelta(days=31)) == 0
    left = {run.id for run in client.read_flow_runs()}
    assert run_id not in left
    assert other_id in left  # a site may have one server for all


def test_the_flows_whose_runs_are_deleted_are_those_that_are_deployed() -> None:
    deployed = yaml.safe_load((PROJECT_DIR / "prefect.yaml").read_text())["deployments"]
    assert sorted(OUR_FLOWS) == sorted(one["name"] for one in deployed)


def test_stores_are_measured_and_a_home_without_files_is_empty() -> None:
    settings = read_settings()
    assert set(measure_stores(settings).values()) == {0}
    settings.recordings_dir.mkdir(parents=True)
    (settings.recordings_dir / "file").write_bytes(b"1234")
    assert measure_stores(settings)["recordings"] == 4
