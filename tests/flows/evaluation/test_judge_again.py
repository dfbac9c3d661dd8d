"""Limits that are chosen again: who calls whom, what stays, and what is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from prefect import flow

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle, DataSource, read_bundle
from ecg_lib.classifier.golden import check_golden
from ecg_lib.classifier.rule_guard import RuleGuardConfig, apply_rules
from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.training.out_of_fold import OutOfFold
from flows.data.dataset_versions import DatasetVersion, load_version
from flows.data.ingest_records import ingest_records
from flows.data.records import sources
from flows.data.records.sources import Source
from flows.data.training_data import SCORING_VIEWS, ViewPlan, find_training_data
from flows.evaluation import judge_again as module
from flows.evaluation.judge_again import judge_again, predict_out_of_fold

pytestmark = pytest.mark.slow

FOLDS = {"Ann": 0, "Bob": 1, "Cid": 2}
N_FOLDS = 3


class Data(NamedTuple):
    """A dataset version below a home."""

    settings: Settings
    version: DatasetVersion

    @property
    def folds(self) -> dict[str, int]:
        return self.version.folds[N_FOLDS]


@pytest.fixture(scope="module")
def data(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Data]:
    """Six people of a minute each, and one simulated patient who is in no fold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECG_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(sources, "SIMULATED_PATIENTS", 6)
        patch.setattr(sources, "SIMULATED_DURATION_S", 60.0)
        patch.setattr(module, "QUICK_VIEWS", plan := ViewPlan(training_views=(), n_simulated=1))
        settings = read_settings()

        @flow
        def prepare() -> DatasetVersion:
            version = load_version(settings.datasets_dir, ingest_records(source=Source.SIMULATOR))
            find_training_data(version, plan, settings)
            return version

        yield Data(settings, prepare())


@pytest.fixture
def bundle(data: Data, make_toy_bundle: Callable[..., Bundle]) -> Bundle:
    return make_toy_bundle("again", threshold=0.123, folds=data.folds, blind_fold=2)


@pytest.mark.parametrize("blind_fold", range(N_FOLDS))
def test_beats_are_called_only_by_the_network_that_has_not_seen_the_person(
    data: Data, make_toy_bundle: Callable[..., Bundle], blind_fold: int
) -> None:
    """The network of one fold gives logits below -900, and those of the others do not."""
    bundle = make_toy_bundle("blind", folds=data.folds, blind_fold=blind_fold)
    called = predict_out_of_fold(bundle, data.version, data.settings)
    dataset = called.dataset
    subjects = np.array(dataset.subjects)[dataset.record[called.rows]]
    of_person = np.array([data.folds[subject] for subject in subjects])
    np.testing.assert_array_equal(called.fold, of_person)
    np.testing.assert_array_equal(called.logits < -900, of_person == blind_fold)

    is_of_a_fold = np.isin(np.array(dataset.subjects)[dataset.record], list(data.folds))
    is_scored = np.isin(dataset.view, [dataset.views.index(view) for view in SCORING_VIEWS])
    assert not is_of_a_fold.all()
    np.testing.assert_array_equal(called.rows, np.flatnonzero(is_of_a_fold & is_scored))


@pytest.mark.parametrize(
    "guard",
    [RuleGuardConfig(band_logit=0.0), RuleGuardConfig(band_logit=30.0, wide_similarity=0.9)],
    ids=["silent", "wide"],
)
def test_the_rule_guard_stays_and_decides(
    data: Data, bundle: Bundle, guard: RuleGuardConfig
) -> None:
    guarded = replace(bundle, config=replace(bundle.config, rule_guard=guard))
    called = predict_out_of_fold(guarded, data.version, data.settings)
    assert called.config.rule_guard == guard
    expected = apply_rules(
        called.probability_v,
        called.dataset.features[called.rows],
        threshold=called.config.threshold,
        config=guard,
    )
    np.testing.assert_array_equal(called.is_v, expected.is_v)
    np.testing.assert_array_equal(called.rule, expected.rule)
    assert (called.rule != "").any() == bool(guard.in_force)


@pytest.mark.parametrize(
    "folds",
    [
        {3: FOLDS | {"Ann": 1, "Bob": 0}},
        {3: FOLDS | {"Dan": 0}},
        {3: {"Ann": 0, "Bob": 1}},
        {5: FOLDS},
    ],
    ids=["swapped", "one more person", "one person fewer", "another number of folds"],
)
def test_folds_that_differ_are_refused(
    make_toy_bundle: Callable[..., Bundle], tmp_path: Path, folds: dict[int, dict[str, int]]
) -> None:
    version = DatasetVersion(
        version="v1",
        created_at="2026-01-01T00:00:00+00:00",
        data_source=DataSource.SIMULATED,
        source_directory=str(tmp_path),
        records=(),
        broken=(),
        folds=folds,
    )
    bundle = make_toy_bundle("folds", folds=FOLDS)
    with pytest.raises(ValueError, match="version v1 must have the folds of the bundle"):
        predict_out_of_fold(bundle, version, Settings(home=tmp_path))


@pytest.fixture
def chosen(data: Data, bundle: Bundle) -> OutOfFold:
    return predict_out_of_fold(bundle, data.version, data.settings)


def test_the_bundle_that_is_written_has_the_limits_that_were_chosen(
    data: Data,
    bundle: Bundle,
    chosen: OutOfFold,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def ingest(*, databases: tuple[str, ...]) -> str:
        asked.extend(databases)
        return data.version.version

    kept = {"n_trials": 7, "microseconds_per_beat": 5.0, "runtime_difference": 1e-6}
    reference = replace(bundle, metrics=kept | {"oof_v_f1": -1.0, "threshold": 0.123})
    monkeypatch.setenv("ECG_HOME", str(data.settings.home))
    monkeypatch.setattr(module, "read_reference", lambda: reference)
    monkeypatch.setattr(module, "ingest_records", ingest)
    judge_again(tmp_path / "again")
    assert asked == ["mitdb", "svdb"]

    written = read_bundle(tmp_path / "again")
    assert written.config == chosen.config
    for name in ("threshold", "calibration"):
        assert getattr(written.config, name) != getattr(bundle.config, name)
    assert written.metrics["threshold"] == chosen.config.threshold
    assert {name: written.metrics[name] for name in kept} == kept
    assert 0 <= written.metrics["oof_v_f1"] <= 1
    assert written.read_out_of_fold().equals(chosen.table())
    assert f"a threshold of {chosen.config.threshold:.4f}" in written.model_card

    assert written.folds == bundle.folds
    assert written.network.read_bytes() == bundle.network.read_bytes()
    for fold in range(N_FOLDS):
        assert written.fold_network(fold).read_bytes() == bundle.fold_network(fold).read_bytes()
    assert written.provenance.dataset_version == data.version.version
    assert written.provenance.run_id == bundle.provenance.run_id
    assert written.provenance.created_at > bundle.provenance.created_at
    assert set(written.read_drift_reference()["subject"].to_pylist()) == set(data.folds)
    assert check_golden(BeatClassifier.load(written), written.golden.read_text()) == ()
