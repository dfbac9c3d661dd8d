"""Make an ``ECG_HOME`` with a release that the service can be started with.

Run with the checkout whose code is to serve first on ``PYTHONPATH``: bundle, bento and release are
then made by that code, so a benchmark may start commits that could not read each other's bundles.
Without ``--bundle`` it is the one that ships with the checkout; for commits that ship none, a
network of the usual size is fitted to simulated patients, in about a minute: what it answers does
not matter here, what it costs does. The network as Keras has it is kept as ``network.keras`` for
the baseline. Prints JSON about what was made.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.classifier.bundle import Bundle
    from ecg_lib.operations.releases import Release

KERAS_NETWORK: Final = "network.keras"
SHIPPED: Final = Path("flows") / "release" / "reference_bundle"
N_PATIENTS: Final = 24
DURATION_S: Final = 90.0
N_EPOCHS: Final = 4


def main() -> None:
    """Make the home, unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--root", type=Path, required=True, help="the checkout")
    parser.add_argument("--bundle", type=Path, help="directory of a bundle")
    arguments = parser.parse_args()
    home: Path = arguments.home.absolute()
    about = home / "about.json"
    if not about.exists():
        os.environ |= {
            "ECG_HOME": str(home),
            "BENTOML_HOME": str(home / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "True",
        }
        (home / "bentoml").mkdir(parents=True, exist_ok=True)
        about.write_text(json.dumps(_make(home, arguments.root, arguments.bundle)))
    sys.stdout.write(about.read_text())


def _make(home: Path, root: Path, directory: Path | None) -> dict[str, str]:
    from ecg_lib.classifier.bundle import read_bundle
    from ecg_lib.operations.releases import CURRENT, write_release
    from flows.doors.bento_store import build_bento, store_bundle
    from flows.release.switch_service import make_release

    if directory is None and (root / SHIPPED).is_dir():
        directory = root / SHIPPED
    if directory is None:
        bundle = _fit_bundle(home)
    else:
        bundle = read_bundle(directory)
        network = directory.parent / KERAS_NETWORK
        if network.exists():
            shutil.copy(network, home)
    bento = build_bento(store_bundle(bundle), root=root)
    release = make_release(
        bento_tag=bento.bento_tag,
        model_tag=bento.model_tag,
        bundle_hash=bento.bundle_hash,
        code_hash=bento.code_hash,
        model_version="1",
    )
    write_release(home / "serving" / CURRENT, release)
    _sign(home, release)
    return {
        "source": str(bento.source),
        "code_hash": bento.code_hash,
        "bundle_hash": bento.bundle_hash,
        "data": bundle.provenance.data_source.value,
    }


def _sign(home: Path, release: Release) -> None:
    """Sign the release, unless the checkout is of the time before signatures."""
    try:
        from ecg_lib.operations.keys.signatures import make_key, sign_release
        from ecg_lib.operations.settings import Settings
    except ImportError:
        return
    settings = Settings(home=home)
    make_key(settings)
    sign_release(settings, release, why="a benchmark")


def _fit_bundle(home: Path) -> Bundle:
    """Fit and write a bundle as the commits did that ship none."""
    import pyarrow as pa

    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.classifier.bundle import (
        BundleSource,
        ClassifierConfig,
        DataSource,
        Provenance,
        write_bundle,
    )
    from ecg_lib.classifier.golden import make_golden
    from ecg_lib.training.fitting import export_onnx

    model = _fit_network()
    model.save(home / KERAS_NETWORK)
    config = ClassifierConfig()
    with tempfile.TemporaryDirectory() as temporary:
        network = Path(temporary) / "network.onnx"
        export_onnx(model, network)
        classifier = BeatClassifier(network.read_bytes(), config=config)
        return write_bundle(
            home / "bundle",
            network=network,
            config=config,
            provenance=Provenance(
                created_at="2026-01-01T00:00:00+00:00",
                source=BundleSource.TRAINED,
                data_source=DataSource.SIMULATED,
                dataset_version="benchmark",
                git_commit="0" * 40,
                run_id="benchmark",
                seed=0,
                library_versions={},
            ),
            metrics={"oof_v_f1": 0.0},
            out_of_fold=pa.table({"subject": pa.array([], pa.string())}),
            drift_reference=_observe(classifier),
            golden=make_golden(classifier),
            model_card="# Benchmark\n\nFitted to simulated patients for a minute.\n",
        )


def _fit_network() -> object:
    from ecg_lib.evaluation.beat_scoring import label_beats
    from ecg_lib.records.simulation.simulator import simulate_cohort_member
    from ecg_lib.signal_path.preprocessing import prepare_beats
    from ecg_lib.training.balancing import TrainingBeats
    from ecg_lib.training.cnn import CnnConfig
    from ecg_lib.training.fitting import TrainingConfig, fit_cnn

    windows, features, is_v = [], [], []
    for number in range(1, N_PATIENTS + 1):
        record = simulate_cohort_member(number, duration_s=DURATION_S, seed=1)
        prepared = prepare_beats(record.signal_mv(), fs=record.fs)
        windows.append(prepared.windows)
        features.append(prepared.features)
        labels = label_beats(record.annotations, prepared.r_peaks, fs=record.fs)
        is_v.append(labels == "V")
    beats = TrainingBeats(
        np.concatenate(windows),
        np.concatenate(features),
        np.concatenate(is_v),
        np.ones(sum(map(len, is_v)), dtype=np.float32),
    )
    return fit_cnn(beats, cnn=CnnConfig(), training=TrainingConfig(epochs=N_EPOCHS), seed=0).model


def _observe(classifier: BeatClassifier) -> object:
    import pyarrow as pa

    from ecg_lib.operations.drift.observation import observe_beats
    from ecg_lib.records.simulation.simulator import StripKind, simulate_strip

    tables = []
    for seed in range(20):
        record = simulate_strip(StripKind.ISOLATED_PVC, seed=seed)
        columns = observe_beats(classifier.classify(record.signal_mv(), fs=record.fs))
        n_beats = len(columns["rule"])
        keys = {
            "subject": [f"sim{seed:03d}"] * n_beats,
            "strip": [f"sim{seed:03d}:0"] * n_beats,
            "strip_s": [10.0] * n_beats,
        }
        tables.append(pa.table({**keys, **columns}))
    return pa.concat_tables(tables)


if __name__ == "__main__":
    main()
