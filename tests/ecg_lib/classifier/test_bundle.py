"""The bundle: a round trip, and everything that may not be touched afterwards."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ecg_lib.classifier.abstention import AbstentionConfig
from ecg_lib.classifier.bundle import (
    CONFIG,
    MANIFEST,
    Bundle,
    BundleSource,
    ClassifierConfig,
    DataSource,
    Provenance,
    read_bundle,
    read_config,
    read_figures,
    write_bundle,
    write_config,
)
from ecg_lib.classifier.calibration import Calibration
from ecg_lib.classifier.rule_guard import RuleGuardConfig
from ecg_lib.errors import BundleError, BundleIntegrityError
from ecg_lib.signal_path.preprocessing import PreprocessingConfig
from ecg_lib.signal_path.r_peaks.detection import DetectionConfig

FILES = [
    "network.onnx",
    "config.json",
    "metrics.json",
    "out_of_fold.parquet",
    "drift_reference.parquet",
    "golden.json",
    "model_card.md",
    "fold-0.onnx",
    "fold-1.onnx",
]
PROVENANCE = Provenance(
    created_at="2026-01-01T00:00:00+00:00",
    source=BundleSource.TRAINED,
    data_source=DataSource.MITDB,
    dataset_version="abc",
    git_commit="0" * 40,
    run_id="run",
    seed=7,
    library_versions={"numpy": "2.0"},
)
CONFIG_OF_ITS_OWN = ClassifierConfig(
    preprocessing=PreprocessingConfig(detection=DetectionConfig(strong=0.4)),
    abstention=AbstentionConfig(min_beat_logit=-1.5, min_neighbourhood_logit=0.5, reach_s=0.4),
    rule_guard=RuleGuardConfig(band_logit=1.5),
    calibration=Calibration(slope=1.25, intercept=-0.5),
    threshold=0.37,
)


def _write(directory: Path, **changes: Any) -> Bundle:  # noqa: ANN401
    network = directory.parent / "some.onnx"
    network.write_bytes(b"graph")
    fold_networks = [directory.parent / f"other-{fold}.onnx" for fold in range(2)]
    for fold, path in enumerate(fold_networks):
        path.write_bytes(f"graph {fold}".encode())
    content: dict[str, Any] = {
        "network": network,
        "fold_networks": fold_networks,
        "folds": {"101": 0, "106": 1, "108": 1},
        "config": CONFIG_OF_ITS_OWN,
        "provenance": PROVENANCE,
        "metrics": {"oof_v_f1": 0.91, "interval": [0.9, 0.92]},
        "out_of_fold": pa.table({"subject": ["101"], "probability_v": [0.5]}),
        "drift_reference": pa.table({"rr_prev_s": [0.8, None]}),
        "golden": '{"requests": []}',
        "model_card": "# Karte\n\nfür Ärzte\n",
    }
    return write_bundle(directory, **(content | changes))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return _write(tmp_path / "bundle")


def test_what_was_written_is_read(bundle: Bundle) -> None:
    back = read_bundle(bundle.directory)
    assert back.config == CONFIG_OF_ITS_OWN
    assert back.provenance == PROVENANCE
    assert back.metrics == {"oof_v_f1": 0.91, "interval": [0.9, 0.92]}
    assert back.hash == bundle.hash
    assert back.network.read_bytes() == b"graph"
    assert back.golden.read_text() == '{"requests": []}'
    assert back.model_card == "# Karte\n\nfür Ärzte\n"
    assert back.read_out_of_fold().to_pydict() == {"subject": ["101"], "probability_v": [0.5]}
    assert back.read_drift_reference().to_pydict() == {"rr_prev_s": [0.8, None]}
    assert sorted(path.name for path in bundle.directory.iterdir()) == sorted([*FILES, MANIFEST])


def test_a_copy_has_the_hash_of_the_original(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.directory, tmp_path / "copy")
    assert read_bundle(tmp_path / "copy").hash == bundle.hash


@pytest.mark.parametrize(
    "change",
    [
        {"config": replace(CONFIG_OF_ITS_OWN, threshold=0.38)},
        {"provenance": replace(PROVENANCE, run_id="other")},
        {"metrics": {"oof_v_f1": 0.92}},
        {"golden": "{}"},
        {"model_card": ""},
        {"folds": {"101": 0, "106": 1, "108": 0}},
        {"drift_reference": pa.table({"rr_prev_s": [0.9, None]})},
    ],
)
def test_every_part_is_in_the_hash(bundle: Bundle, tmp_path: Path, change: dict[str, Any]) -> None:
    assert _write(tmp_path / "other", **change).hash != bundle.hash


def test_the_same_content_has_the_same_hash(bundle: Bundle, tmp_path: Path) -> None:
    assert _write(tmp_path / "again").hash == bundle.hash


@pytest.mark.parametrize("name", FILES)
def test_a_tampered_file_is_refused_by_name(bundle: Bundle, name: str) -> None:
    path = bundle.directory / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleIntegrityError, match=f"^{name} must have the SHA-256"):
        read_bundle(bundle.directory)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_name(bundle: Bundle, name: str) -> None:
    (bundle.directory / name).unlink()
    with pytest.raises(BundleIntegrityError, match=name):
        read_bundle(bundle.directory)


def test_an_extra_file_is_refused(bundle: Bundle) -> None:
    (bundle.directory / "more.bin").write_bytes(b"")
    with pytest.raises(BundleIntegrityError, match=r"more\.bin"):
        read_bundle(bundle.directory)


def test_an_extra_file_is_refused_even_when_the_manifest_names_it(bundle: Bundle) -> None:
    (bundle.directory / "more.bin").write_bytes(b"")
    manifest = json.loads((bundle.directory / MANIFEST).read_text())
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    manifest["files"]["more.bin"] = empty
    (bundle.directory / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleIntegrityError, match=r"more\.bin"):
        read_bundle(bundle.directory)


def test_a_file_that_the_manifest_does_not_name_is_refused(bundle: Bundle) -> None:
    """Or else it could be changed, unhashed."""
    manifest = json.loads((bundle.directory / MANIFEST).read_text())
    del manifest["files"][CONFIG]
    (bundle.directory / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleIntegrityError, match=CONFIG):
        read_bundle(bundle.directory)


def test_a_manifest_that_was_rewritten_has_another_hash(bundle: Bundle) -> None:
    path = bundle.directory / MANIFEST
    path.write_text(path.read_text().replace('"run"', '"nur"'))
    assert read_bundle(bundle.directory).hash != bundle.hash


@pytest.mark.parametrize("text", ["", "{}", "[1]", "not json"])
def test_a_manifest_that_is_none_is_refused(bundle: Bundle, text: str) -> None:
    (bundle.directory / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match="cannot be read"):
        read_bundle(bundle.directory)


def test_a_bundle_of_another_format_is_refused(bundle: Bundle) -> None:
    path = bundle.directory / MANIFEST
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(BundleError, match="must have format 2, got 1"):
        read_bundle(bundle.directory)


def test_figures_are_read_whatever_the_format(bundle: Bundle) -> None:
    manifest = json.loads((bundle.directory / "manifest.json").read_text())
    manifest |= {"format": 1, "what": "was dropped"}
    (bundle.directory / "manifest.json").write_text(json.dumps(manifest))
    (bundle.directory / "config.json").write_text("{}")
    with pytest.raises(BundleError):
        read_bundle(bundle.directory)
    figures = read_figures(bundle.directory)
    assert figures.metrics == bundle.metrics
    assert figures.data_source is bundle.provenance.data_source
    assert figures.source is bundle.provenance.source
    assert figures.dataset_version == bundle.provenance.dataset_version
    assert figures.n_folds == len(set(bundle.folds.values()))


def test_figures_that_were_changed_are_refused(bundle: Bundle) -> None:
    with (bundle.directory / "metrics.json").open("a") as file:
        file.write(" ")
    with pytest.raises(BundleIntegrityError, match=r"metrics\.json must have the SHA-256"):
        read_figures(bundle.directory)


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"files": {}}', '{"files": []}'])
def test_figures_of_no_manifest_are_refused(bundle: Bundle, manifest: str) -> None:
    (bundle.directory / "manifest.json").write_text(manifest)
    with pytest.raises(BundleError, match="figures of bundle"):
        read_figures(bundle.directory)


def test_a_subject_is_judged_by_the_network_that_has_not_seen_it(bundle: Bundle) -> None:
    back = read_bundle(bundle.directory)
    assert back.folds == {"101": 0, "106": 1, "108": 1}
    assert back.fold_network(back.fold_of("101")).read_bytes() == b"graph 0"
    assert back.fold_network(back.fold_of("108")).read_bytes() == b"graph 1"
    with pytest.raises(BundleError, match="fold for subject 100, found none"):
        back.fold_of("100")
    with pytest.raises(BundleError, match=r"fold must be one of \[0, 1\], got 2"):
        back.fold_network(2)


@pytest.mark.parametrize("folds", [{}, {"101": 0}, {"101": 0, "106": 2}, {"101": 1, "106": 2}])
def test_folds_without_their_networks_are_refused(tmp_path: Path, folds: dict[str, int]) -> None:
    with pytest.raises(BundleError, match="must be 0 to 1, one for each network"):
        _write(tmp_path / "bundle", folds=folds)
    assert not (tmp_path / "bundle").exists()


def test_a_directory_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle in nowhere"):
        read_bundle(tmp_path / "nowhere")


def test_a_bundle_is_written_once(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="written once"):
        _write(bundle.directory)
    assert read_bundle(bundle.directory).hash == bundle.hash


def test_a_bundle_that_cannot_be_finished_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        _write(tmp_path / "bundle", metrics={"odd": object()})
    assert not (tmp_path / "bundle").exists()
    assert _write(tmp_path / "bundle").metrics["oof_v_f1"] == 0.91


# The configuration.


def test_a_configuration_is_read_as_it_was_written() -> None:
    assert read_config(write_config(CONFIG_OF_ITS_OWN)) == CONFIG_OF_ITS_OWN
    assert read_config(write_config(ClassifierConfig()).encode()) == ClassifierConfig()


def _changed(**changes: object) -> str:
    return json.dumps(json.loads(write_config(ClassifierConfig())) | changes)


@pytest.mark.parametrize(
    "text",
    [
        _changed(threshold=1.0),
        _changed(threshold=0.0),
        _changed(threshold="0.5"),
        _changed(threshold=None),
        _changed(temperature=2.0),
        _changed(calibration={"slope": 1.0}),
        _changed(calibration={"slope": 1.0, "intercept": 0.0, "odd": 1}),
        _changed(preprocessing={}),
        "{}",
        "[]",
        "",
    ],
)
def test_a_configuration_with_a_wrong_missing_or_unknown_field_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match=CONFIG):
        read_config(text)


def test_a_band_that_is_none_is_refused_inside_a_configuration() -> None:
    content = json.loads(write_config(ClassifierConfig()))
    content["preprocessing"]["band_pass"]["low_hz"] = 90.0
    with pytest.raises(BundleError, match="low_hz < high_hz"):
        read_config(json.dumps(content))


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, float("nan")])
def test_a_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold must be above 0 and below 1"):
        ClassifierConfig(threshold=threshold)
