from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import LogSort

from ecg_lib.classifier.bundle import DataSource
from ecg_lib.errors import ConfigurationError, DatasetError
from ecg_lib.operations.learning.kept_signals import KeptSignal, SignalStore
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import FeedbackRow, PredictionRow
from ecg_lib.operations.settings import Settings
from ecg_lib.records.annotations import DS1, DS2, PACED
from ecg_lib.records.record import Record, write_wfdb
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.signal_path.preprocessing import prepare_beats
from ecg_lib.training.datasets import BeatDataset
from ecg_lib.training.views import View
from flows.data import ingest_records as ingesting
from flows.data.databases import MITDB, Role
from flows.data.dataset_versions import (
    BrokenRecord,
    DatasetVersion,
    PreparedRecord,
    load_version,
)
from flows.data.ingest_records import ingest_records, prepare_records
from flows.data.prepared_views import PreparedViews
from flows.data.records import preparation as record_preparation
from flows.data.records import sources as record_sources
from flows.data.records.lock import deleting_records
from flows.data.records.sources import Records, Source, of_directory, simulate
from flows.data.shared_versions import open_version
from flows.data.training_data import (
    ViewPlan,
    cut_beats,
    find_training_data,
    load_training_data,
)
from flows.doors.archives.download import UnreachableError
from flows.release.integrity.lineage import trace

pytestmark = pytest.mark.usefixtures("prefect_server")

PUBLISHED = {
    Role.DEVELOPMENT: (DS1, {"N": 45866, "S": 944, "V": 3788, "F": 415, "Q": 8}),
    Role.TEST: (DS2, {"N": 44259, "S": 1837, "V": 3221, "F": 388, "Q": 7}),
    Role.PACED: (PACED, {"N": 506, "S": 0, "V": 227, "F": 0, "Q": 8028}),
}


@pytest.fixture
def small_cohort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_sources, "SIMULATED_PATIENTS", 6)
    monkeypatch.setattr(record_sources, "SIMULATED_DURATION_S", 60.0)


@pytest.fixture
def simulated(small_cohort: None) -> Records:
    return simulate(Settings())


def _prepare(records: Records) -> tuple[list[PreparedRecord], list[BrokenRecord]]:
    @flow(name="prepare-in-test")
    def prepare() -> tuple[list[PreparedRecord], list[BrokenRecord]]:
        return prepare_records(records, Settings())

    return prepare()


def test_no_prepared_record_is_deleted_until_the_version_names_it(
    small_cohort: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, seen = Settings().datasets_dir, []
    publish = ingesting.publish_version

    def look(
        found: Sequence[Records],
        prepared: list[PreparedRecord],
        broken: list[BrokenRecord],
        settings: Settings,
    ) -> DatasetVersion:
        with deleting_records(directory) as may_delete:
            seen.append(may_delete)
        return publish(found, prepared, broken, settings)

    monkeypatch.setattr(ingesting, "publish_version", look)
    ingest_records(source=Source.SIMULATOR)
    with deleting_records(directory) as may_delete:
        assert [*seen, may_delete] == [False, True]


def test_simulated_patients_become_a_dataset_version(small_cohort: None) -> None:
    version = load_version(Settings().datasets_dir, ingest_records(source=Source.SIMULATOR))
    assert version.data_source is DataSource.SIMULATED
    assert [record.name for record in version.records] == [f"sim{n:03d}" for n in range(1, 7)]
    assert all(record.role is Role.DEVELOPMENT for record in version.records)
    assert all(
        record.found is not None and record.found >= 0.97 * sum(record.annotated.values()) - 2
        for record in version.records
    )
    assert sorted(version.folds) == [3, 5]
    assert set(version.folds[3]) == {record.name for record in version.records}


def test_a_second_run_finds_everything_done(
    small_cohort: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ingest_records(source=Source.SIMULATOR)

    def refuse(*_: object) -> None:
        msg = "a prepared record was prepared again"
        raise AssertionError(msg)

    monkeypatch.setattr(record_preparation, "prepare_one", refuse)
    assert ingest_records(source=Source.SIMULATOR) == first


def test_broken_records_are_left_out_with_their_reason(simulated: Records) -> None:
    directory = simulated.directory
    whole = (directory / "sim001.dat").read_bytes()
    (directory / "sim001.dat").write_bytes(whole[: len(whole) // 2])
    (directory / "sim002.atr").unlink()
    changed = bytearray((directory / "sim003.dat").read_bytes())
    changed[1000] ^= 0xFF
    (directory / "sim003.dat").write_bytes(changed)
    published = simulated._replace(sha256={"sim004.hea": "0" * 64})

    prepared, broken = _prepare(published)

    assert sorted(record.name for record in prepared) == ["sim005", "sim006"]
    reasons = {record.name: record.reason for record in broken}
    assert sorted(reasons) == ["sim001", "sim002", "sim003", "sim004"]
    assert "sim001" in reasons["sim001"]
    assert reasons["sim002"] == "missing: sim002.atr"
    assert "checksum" in reasons["sim003"]
    assert "sim004.hea must have the published SHA-256 000000000000" in reasons["sim004"]


def test_too_many_broken_records_fail_the_run(simulated: Records, small_cohort: None) -> None:
    (simulated.directory / "sim001.dat").write_bytes(b"short")
    with pytest.raises(DatasetError, match=r"at most 10% .* got 1 of 6 \(sim001:"):
        ingest_records(source=Source.SIMULATOR)
    version = load_version(
        Settings().datasets_dir, ingest_records(source=Source.SIMULATOR, max_broken_share=0.5)
    )
    assert [record.name for record in version.broken] == ["sim001"]


_KILLED = """
import sys
from pathlib import Path
from flows.data.databases import SIMULATED
from flows.data.records.preparation import prepare_all
from flows.data.records.sources import Records
names = tuple(sys.argv[3:])
target = Path(sys.argv[2])
target.mkdir(parents=True)
for record in prepare_all(Records(Path(sys.argv[1]), names, SIMULATED, {}), target):
    print(record.name, flush=True)
"""


def test_a_killed_run_is_resumed(simulated: Records) -> None:
    target = Settings().datasets_dir / "records"
    command = [sys.executable, "-c", _KILLED, str(simulated.directory), str(target)]
    process = subprocess.Popen(
        [*command, *simulated.names], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    done = {path: path.stat().st_mtime_ns for path in target.glob("*/summary.json")}
    assert done

    prepared, broken = _prepare(simulated)

    assert len(prepared) == len(simulated.names)
    assert broken == []
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_a_source_that_changes_afterwards_is_noticed(small_cohort: None) -> None:
    version = load_version(Settings().datasets_dir, ingest_records(source=Source.SIMULATOR))
    with (Path(version.source_directory) / "sim001.dat").open("ab") as file:
        file.write(b"\0\0")
    with pytest.raises(DatasetError, match="sim001 must be those of dataset"):
        version.read_source(version.records[0])


def test_a_directory_without_records_is_an_error_and_never_the_simulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECG_MITDB_DIR", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"there is no \.hea file in"):
        ingest_records()


def test_without_data_and_network_the_simulator_is_used_and_said(
    small_cohort: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ECG_MITDB_DIR", raising=False)
    monkeypatch.setenv("ECG_PHYSIONET_URL", "http://127.0.0.1:9/mitdb/")
    version = load_version(Settings().datasets_dir, ingest_records())
    assert version.data_source is DataSource.SIMULATED
    deadline_s = time.monotonic() + 180
    messages: list[str] = []
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline_s and not any("SIMULATED" in m for m in messages):
            # The newest: other tests write into the same server.
            found = client.read_logs(limit=200, sort=LogSort.TIMESTAMP_DESC)
            messages = [log.message for log in found]
            time.sleep(0.5)
    assert any("NO REAL DATA" in message and "SIMULATED" in message for message in messages)


def test_several_databases_make_one_version_and_noise_alone_is_not_the_latest(
    small_cohort: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated = simulate(Settings())
    noise = Record(name="bw", fs=360.0, leads=("noise1",), signals_mv=np.ones((3600, 1), "f4"))
    write_wfdb(noise, tmp_path / "nstdb")
    write_wfdb(replace(noise, name="ma"), tmp_path / "nstdb")
    monkeypatch.setattr(record_sources, "expected_sha256", lambda _: {})
    monkeypatch.setenv("ECG_NSTDB_DIR", str(tmp_path / "nstdb"))
    table = tmp_path / "subjects.csv"
    table.write_text("record,subject,part\nsim001,Ann,\nsim002,Ann,\nsim003,,test\n")
    with pytest.raises(DatasetError, match="n_folds must be 2 to 4 subjects, got 5"):
        ingest_records(databases=["own"], directory=str(simulated.directory), subjects=str(table))
    table.write_text("record,subject,part\nsim003,,test\n")
    version = ingest_records(
        databases=["own", "nstdb"], directory=str(simulated.directory), subjects=str(table)
    )
    made = load_version(Settings().datasets_dir, version)
    assert made.databases == ("nstdb", "own")
    assert made.data_source is DataSource.RECORDS
    assert [one.name for one in made.records_of(Role.TEST)] == ["own:sim003"]
    assert [one.name for one in made.records_of(Role.NOISE)] == ["nstdb:bw", "nstdb:ma"]
    assert all(made.read_source(one).fs == 360.0 for one in made.records)
    of_noise = ingest_records(databases=["nstdb"])
    assert load_version(Settings().datasets_dir).version == version != of_noise


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"databases": ["own"]}, "needs both"),
        ({"databases": ["mitdb"], "directory": "somewhere"}, "needs both"),
        ({"databases": ["mitdb", "svdb"], "source": "simulator"}, "the simulator stands for mitdb"),
    ],
)
def test_parameters_that_do_not_belong_together_are_refused(
    parameters: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        ingest_records(**parameters)


def test_another_database_is_never_replaced_by_the_simulator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ECG_SVDB_DIR", raising=False)
    monkeypatch.setenv("ECG_PHYSIONET_URL", "http://127.0.0.1:9/mitdb/1.0.0/")
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9/svdb/1\.0\.0/ must answer"):
        ingest_records(databases=["svdb"])


@pytest.mark.data
def test_all_48_records_have_the_published_counts(mitdb_dir: Path) -> None:
    version = load_version(Settings().datasets_dir, ingest_records())
    assert version.data_source is DataSource.MITDB
    assert version.broken == ()
    for role, (names, counts) in PUBLISHED.items():
        records = version.records_of(role)
        assert {record.name for record in records} == set(names)
        assert {c: sum(r.annotated[c] for r in records) for c in counts} == counts
    leads = {record.name: record.lead for record in version.records}
    assert leads["114"] == "MLII"
    assert leads["102"] == leads["104"] == "V5"
    assert all(record.found is None for record in version.records_of(Role.TEST))


@pytest.mark.data
def test_a_changed_real_record_is_quarantined(mitdb_dir: Path, tmp_path: Path) -> None:
    names = ("100", "101", "106", "108", "109", "119")
    for name in names:
        for extension in ("hea", "dat", "atr"):
            shutil.copy(mitdb_dir / f"{name}.{extension}", tmp_path)
    changed = bytearray((tmp_path / "106.dat").read_bytes())
    changed[0] ^= 1
    (tmp_path / "106.dat").write_bytes(changed)
    records = of_directory(MITDB, tmp_path)._replace(names=names)
    _, broken = _prepare(records)
    assert [record.name for record in broken] == ["106"]
    assert "published SHA-256" in broken[0].reason


def _label_strips(settings: Settings) -> None:
    """Keep and mark a strip of a patient for training, and one of a held-out patient."""
    store = SignalStore(settings.signals_dir, settings.signal_key_path)
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    signal = simulate_strip(StripKind.ISOLATED_PVC, seed=3, fs=360.0).signal_mv()
    positions = prepare_beats(signal, fs=360.0).r_peaks.tolist()
    for name, patient_key in (("trained", "a" * 64), ("held-out", "b" * 64)):
        now = datetime.now(UTC)
        store.add(
            KeptSignal(
                prediction_id=name,
                patient_key=patient_key,
                created_at=now,
                fs=360.0,
                lead="MLII",
                signal_mv=signal.astype(np.float32),
            ),
            is_waiting=False,
        )
        beats = [{"position_sample": one, "arrhythmia_type": "N"} for one in positions]
        log.add_predictions(
            [
                PredictionRow(
                    prediction_id=name,
                    created_at=now,
                    patient_key=patient_key,
                    bundle_hash="b",
                    bento_tag="ecg:x",
                    duration_s=10.0,
                    response={"beat_predictions": beats, "drawn_for_review": True},
                    observed={},
                )
            ]
        )
        log.add_feedback(
            [
                FeedbackRow(
                    feedback_id=name,
                    created_at=now,
                    prediction_id=name,
                    annotator=None,
                    # Models are judged by strips that were looked at as a whole.
                    labels={
                        n: "V" if n == 1 else "N"
                        for n in range(len(positions))
                        if n == 1 or name == "held-out"
                    },
                )
            ]
        )
    log.close()


def test_labelled_traffic_is_added_to_a_dataset_when_asked(
    small_cohort: None, tmp_path: Path
) -> None:
    settings = Settings()
    archive = ingest_records(source=Source.SIMULATOR)
    # Without a labelled signal the version is that of the archive.
    assert ingest_records(source=Source.SIMULATOR, with_labels=True) == archive
    _label_strips(settings)
    added = ingest_records(source=Source.SIMULATOR, with_labels=True)
    version = load_version(settings.datasets_dir, added)
    assert added != archive
    assert version.data_source is DataSource.SIMULATED
    assert version.databases == ("simulated", "site")
    (trained,) = [one for one in version.records_of(Role.DEVELOPMENT) if one.labels]
    (held_out,) = version.records_of(Role.HELD_OUT)
    assert trained.subject in version.folds[3]
    assert held_out.subject not in version.folds[3]
    assert version.weights == {trained.name: 5.0, held_out.name: 5.0}
    # Training reads a V beat of it and nothing else, as nobody looked at the others.
    views = PreparedViews(version=version, datasets_dir=settings.datasets_dir)
    plan = ViewPlan(training_views=())
    cut = cut_beats(views, trained, plan)
    whole = cut.rows_of(view=cut.views[0])
    assert cut.label[whole][cut.is_trainable[whole]].tolist() == ["V"]
    assert ingest_records(source=Source.SIMULATOR) == archive


def test_strips_that_cannot_be_read_are_reported_and_do_not_end_an_ingest(
    small_cohort: None, tmp_path: Path
) -> None:
    settings = Settings()
    archive = ingest_records(source=Source.SIMULATOR)
    _label_strips(settings)
    settings.signal_key_path.unlink()
    added = ingest_records(source=Source.SIMULATOR, max_broken_share=0.0, with_labels=True)
    version = load_version(settings.datasets_dir, added)
    assert [record.database for record in version.broken] == ["site", "site"]
    assert {str(settings.signal_key_path) in record.reason for record in version.broken} == {True}
    assert version.records == load_version(settings.datasets_dir, archive).records


def _cut(version: DatasetVersion, settings: Settings) -> BeatDataset:
    @flow(name="cut-in-test")
    def cut() -> Path:
        plan = ViewPlan(training_views=(View(angle_deg=35),))
        return find_training_data(version, plan, settings)

    return load_training_data(cut())


def test_a_version_of_another_machine_is_trained_on_with_the_same_beats(
    small_cohort: None, tmp_path: Path, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECG_STORE_URL", store_url)
    name = ingest_records(source=Source.SIMULATOR)
    assert ingest_records(source=Source.SIMULATOR) == name
    beats = _cut(open_version(Settings(), name), Settings())
    shutil.rmtree(Settings().home)
    other = Settings(home=tmp_path / "other")
    found = open_version(other)
    assert found.version == name
    again = _cut(found, other)
    assert again.windows.tobytes() == beats.windows.tobytes()
    assert again.features.tobytes() == beats.features.tobytes()
    assert again.record_names == beats.record_names
    assert trace(other, name="sim001").record is not None
