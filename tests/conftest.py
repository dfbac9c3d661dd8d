"""Fixtures that several folders of tests share."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from ecg_lib.classifier.abstention import AbstentionConfig
from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import (
    Bundle,
    BundleSource,
    ClassifierConfig,
    DataSource,
    Provenance,
    write_bundle,
)
from ecg_lib.classifier.golden import make_golden
from ecg_lib.operations.drift.observation import observe_beats
from ecg_lib.operations.keys.signatures import make_key, sign_release
from ecg_lib.operations.releases import CURRENT, Release, bento_source, write_release
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.objects import ObjectStore, open_store
from ecg_lib.records.annotations import subject_of
from ecg_lib.records.signal_names import UNIT_TO_MV
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.signal_path.features import FEATURE_NAMES
from ecg_lib.signal_path.template import WINDOW_SAMPLES
from tests.object_store.server import ObjectServer
from tests.object_store.server import serving as serving_objects
from tests.postgres.server import Postgres, find_programs, serving

BundleMaker = Callable[..., Bundle]


_DATABASES: Final = {f"ECG_{name}_DIR" for name in ("MITDB", "NSTDB", "SVDB", "LUDB")}


_LONG: Final = (
    "test_end_to_end.py",
    "flows/local/running/test_platform.py",
    "flows/monitoring/drift_check/test_monitor_drift.py",
    "flows/training/workers/test_workers.py",
    "faults/test_release_faults.py",
    "faults/test_store_faults.py",
    "flows/local/test_schedule.py",
    "bentos/runtime/test_releases.py",
    "ecg_lib/training/test_fitting.py",
    "flows/training/workers/test_trial_queue.py",
    "ecg_lib/signal_path/readability/test_plausibility.py",
    "flows/training/test_sweep_lock.py",
)
"""Files that take minutes, the longest first."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option by which the tests of stores use PostgreSQL in place of SQLite."""
    parser.addoption(
        "--postgres",
        action="store_true",
        help="run the tests of stores on a PostgreSQL server of their own (make test-postgres)",
    )
    parser.addoption(
        "--containers",
        action="store_true",
        help="start what the containers of deployments/ start (make test-containers)",
    )


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of this process of pytest."""
    programs = find_programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL server here: initdb was not found")
    with serving(programs) as server:
        yield server


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    """An S3 API over HTTP."""
    with serving_objects() as server:
        yield server


@pytest.fixture
def bucket_url(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket, with a prefix; boto3 finds its server by the environment."""
    for name, text in object_server.variables.items():
        monkeypatch.setenv(name, text)
    return f"s3://{object_server.make_bucket()}/ecg/home"


@pytest.fixture(params=["folder", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store, of each kind."""
    if request.param == "s3":
        url: str = request.getfixturevalue("bucket_url")
        return url
    return (tmp_path / "store").as_uri()


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return open_store(store_url)


@pytest.fixture
def one(tmp_path: Path, store_url: str) -> Settings:
    """A home that shares a store with another one."""
    return Settings(home=tmp_path / "one", store_url=store_url)


@pytest.fixture
def other(tmp_path: Path, store_url: str) -> Settings:
    return Settings(home=tmp_path / "other", store_url=store_url)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database: SQLite, or PostgreSQL with ``--postgres``."""
    if request.config.getoption("--postgres"):
        url: str = request.getfixturevalue("postgres").make_database()
        return url
    return f"sqlite:///{tmp_path / 'database.db'}"


@pytest.hookimpl(optionalhook=True)  # `make mutants` runs without pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Start three workers for two cores: half of the time, tests wait for other processes."""
    cores = os.cpu_count() or 1
    return cores + cores // 2


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect garbage neither while tests are collected, nor in what stays for all of them.

    There are 7,500 tests and 10,000 modules in a process; looking through them takes half a second.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, so that none of them is left alone at the end."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests see only the settings that they make, and write below their own directory."""
    for name in list(os.environ):
        if name.startswith("ECG_") and name not in {
            "ECG_MITDB_DIR",
            "ECG_NSTDB_DIR",
            "ECG_SVDB_DIR",
            "ECG_LUDB_DIR",
        }:
            monkeypatch.delenv(name)
    monkeypatch.setenv("ECG_HOME", str(tmp_path / "home"))


@pytest.fixture
def serve_release() -> Callable[[Settings, Release], None]:
    """Sign a release and name it as the one to serve; its code may be missing."""

    def serve(settings: Settings, release: Release) -> None:
        bento_source(settings.bentoml_home, release).mkdir(parents=True, exist_ok=True)
        make_key(settings)
        sign_release(settings, release, why="a test")
        write_release(settings.serving_dir / CURRENT, release)

    return serve


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvCase:
    """A CSV file of 10 s with what is to be read in it, for all that read CSV files."""

    text: str
    leads: list[str] | None
    """None when it must be rejected."""
    units: list[str | None]
    fs: float | None
    """None when the file does not tell it."""
    columns: list[list[float]]
    """The samples of the leads as they are written."""

    @property
    def signals_mv(self) -> list[list[float]]:
        return [
            [sample * UNIT_TO_MV[unit or "mV"] for sample in column]
            for column, unit in zip(self.columns, self.units, strict=True)
        ]


_CSV_ROWS: Final = 2500


def _make_csv(case: dict[str, Any]) -> CsvCase:
    """Write rows at 250 Hz below the headings of `tests/csv_headings.json`."""
    rows = range(_CSV_ROWS)
    steps = {"s": 0.004, "ms": 4, "us": 4000, "count": 1}
    cells = case["cells"].split()
    columns = [
        [row * steps[cell] if cell in steps else row * (at + 1) % 9 / 8 - 0.5 for row in rows]
        for at, cell in enumerate(cells)
    ]
    lines = [",".join(f"{value:.10g}" for value in row) for row in zip(*columns, strict=True)]
    return CsvCase(
        text="\n".join([case["heading"]] * (case["heading"] is not None) + lines) + "\n",
        leads=case["leads"],
        units=case.get("units", []),
        fs=case.get("fs"),
        columns=[column for cell, column in zip(cells, columns, strict=True) if cell == "ecg"],
    )


_CSV_CASES: Final = json.loads(
    (Path(__file__).parent / "csv_headings.json").read_text(encoding="utf-8")
)


@pytest.fixture(params=_CSV_CASES, ids=[str(case["heading"]) for case in _CSV_CASES])
def csv_case(request: pytest.FixtureRequest) -> CsvCase:
    """Every CSV file of the table in turn."""
    return _make_csv(request.param)


@pytest.fixture
def make_paced() -> Callable[[float], NDArray[np.float64]]:
    """Make seconds of a paced rhythm: wide beats, 75 a minute, each begun by a spike of 11 ms."""

    def make(duration_s: float) -> NDArray[np.float64]:
        signal = 0.002 * np.random.default_rng(2).standard_normal(round(duration_s * 360))
        at = np.arange(80)
        wide = np.where(at < 40, 1.5, 0.8) * np.sin(2 * np.pi * at / 80)
        for start in range(200, len(signal) - 200, 288):
            signal[start : start + 80] += wide
            signal[start - 2 : start + 3] += [0.3, 0.9, 1.0, 0.6, 0.2]
        return signal

    return make


@pytest.fixture
def mitdb_dir() -> Path:
    """The real records; asks for the marker ``data``."""
    directory = os.environ.get("ECG_MITDB_DIR")
    if not directory:
        pytest.skip("ECG_MITDB_DIR is not set: the MIT-BIH records are not here")
    return Path(directory)


def _write_toy_network(path: Path, *, steepness: float = 25.0, offset: float = 0.0) -> Path:
    """Write a network that calls beats V that do not look like the conducted ones.

    It doubts that a detection is a beat where the noise around it is more than a third of a QRS
    complex: the logit of being a beat is ``-5 * (noise_level_around + 1)``.
    """
    weights = np.zeros((len(FEATURE_NAMES), 2), dtype=np.float32)
    weights[FEATURE_NAMES.index("qrs_similarity"), 0] = -steepness
    weights[FEATURE_NAMES.index("noise_level_around"), 1] = -5.0
    bias = np.array([0.75 * steepness + offset, -5.0], dtype=np.float32)
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            node("ReduceMean", ["windows"], ["mean"], axes=[1, 2], keepdims=0),
            node("Unsqueeze", ["mean", "last"], ["column"]),
            node("Mul", ["column", "zero"], ["nothing"]),
            node("MatMul", ["features", "weights"], ["score"]),
            node("Add", ["score", "bias"], ["biased"]),
            node("Add", ["biased", "nothing"], ["logits"]),
        ],
        "toy",
        [
            onnx.helper.make_tensor_value_info(
                "windows", onnx.TensorProto.FLOAT, ["n", WINDOW_SAMPLES, 2]
            ),
            onnx.helper.make_tensor_value_info(
                "features", onnx.TensorProto.FLOAT, ["n", len(FEATURE_NAMES)]
            ),
        ],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 2])],
        [
            onnx.numpy_helper.from_array(weights, "weights"),
            onnx.numpy_helper.from_array(bias, "bias"),
            onnx.numpy_helper.from_array(np.array([0.0], dtype=np.float32), "zero"),
            onnx.numpy_helper.from_array(np.array([1], dtype=np.int64), "last"),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 9
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="session")
def make_toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> BundleMaker:
    """Make bundles around a network without training; same arguments, same answers."""

    def make(
        name: str = "toy",
        *,
        steepness: float = 25.0,
        threshold: float = 0.5,
        abstention: AbstentionConfig | None = None,
        data_source: DataSource = DataSource.SIMULATED,
        folds: Mapping[str, int] | None = None,
        blind_fold: int | None = None,
        databases: tuple[str, ...] = (),
    ) -> Bundle:
        directory = tmp_path_factory.mktemp(f"bundle-{name}")
        network = _write_toy_network(directory / "toy.onnx", steepness=steepness)
        blind = _write_toy_network(directory / "blind.onnx", offset=-1000.0)
        folds = folds or {"201": 0, "101": 1}
        config = ClassifierConfig(threshold=threshold, abstention=abstention or AbstentionConfig())
        classifier = BeatClassifier(network.read_bytes(), config=config)
        return write_bundle(
            directory / name,
            network=network,
            fold_networks=[
                blind if fold == blind_fold else network for fold in sorted(set(folds.values()))
            ],
            folds=folds,
            config=config,
            provenance=Provenance(
                created_at="2026-01-01T00:00:00+00:00",
                source=BundleSource.TRAINED,
                data_source=data_source,
                dataset_version="toy",
                git_commit="0" * 40,
                run_id=f"run-{name}",
                seed=0,
                library_versions={},
            ),
            metrics={"oof_v_f1": 0.9} | ({"databases": list(databases)} if databases else {}),
            out_of_fold=pa.table({"subject": pa.array([], pa.string())}),
            drift_reference=_reference(classifier),
            golden=make_golden(classifier),
            model_card="# Toy\n\nA network without training, for tests.\n",
        )

    return make


@pytest.fixture(scope="session")
def toy_bundle(make_toy_bundle: BundleMaker) -> Bundle:
    """A bundle that finds the PVCs of the simulator's strips."""
    return make_toy_bundle()


def _reference(classifier: BeatClassifier) -> pa.Table:
    return pa.concat_tables(_observed_strips(classifier))


def _observed_strips(classifier: BeatClassifier) -> Iterator[pa.Table]:
    for seed in range(12):
        record = simulate_record(
            f"sim{seed}", patient=draw_patient(seed), duration_s=120.0, seed=seed
        )
        signal, length = record.signal_mv(), round(10 * record.fs)
        for start in range(0, len(signal) - length + 1, length):
            classified = classifier.classify(signal[start : start + length], fs=record.fs)
            columns = observe_beats(classified)
            n_beats = len(columns["rule"])
            yield pa.table(
                {
                    "subject": [subject_of(record.name)] * n_beats,
                    "strip": [f"{record.name}:{start}"] * n_beats,
                    "strip_s": [10.0] * n_beats,
                    **columns,
                }
            )
