"""The service and the files that the command blocks of the documentation need."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from ecg_lib.classifier.bundle import read_bundle
from ecg_lib.records.record import write_wfdb
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import StripKind, simulate_record, simulate_strip

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def docs_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start one service, with the model that ships, for all blocks."""
    # The server in a thread is that of the tests of bentos.
    path = ROOT / "tests" / "bentos" / "conftest.py"
    specification = importlib.util.spec_from_file_location("docs_bentos_conftest", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    service = module.Service(tmp_path_factory.mktemp("docs-service"))
    bundle = read_bundle(ROOT / "flows" / "release" / "reference_bundle")
    service.runtime.live.use(module.load_toy(bundle))
    yield service.url
    service.close()


@pytest.fixture(scope="session")
def docs_environment(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """An environment as after `make setup`, with a home that is empty."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ECG_")}
    return kept | {
        "ECG_HOME": str(tmp_path_factory.mktemp("docs-home")),
        "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="session")
def docs_files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[Path]]:
    """The files that blocks name: a strip at 100 Hz, and a WFDB record of 12 s."""
    folder = tmp_path_factory.mktemp("docs-files")
    strip = simulate_strip(StripKind.ISOLATED_PVC, seed=3, fs=100.0)
    np.save(folder / "strip.npy", strip.signal_mv())
    write_wfdb(simulate_record("r", patient=draw_patient(1), duration_s=12.0, seed=4), folder)
    return {
        "strip": [folder / "strip.npy"],
        "record": [path for path in folder.iterdir() if path.stem == "r"],
    }
