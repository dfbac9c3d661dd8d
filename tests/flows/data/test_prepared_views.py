"""A record is prepared once: what training and reports read is what they would prepare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from ecg_lib.classifier.bundle import Bundle, DataSource
from ecg_lib.errors import DatasetError
from ecg_lib.evaluation.prepared_views import Peaks, ScoredView
from ecg_lib.evaluation.report.record_scores import Extent, score_record
from ecg_lib.records.record import write_wfdb
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.signal_path.preprocessing import PreprocessingConfig
from ecg_lib.training.datasets import BeatDataset, build_beats
from ecg_lib.training.views import View
from flows.data import prepared_views as module
from flows.data.databases import MITDB
from flows.data.dataset_versions import (
    DatasetVersion,
    PreparedRecord,
    code_prefix,
    hash_files,
    make_version,
    prepared_key,
)
from flows.data.prepared_views import PreparedViews, records_dir, remove_outdated
from flows.data.records.preparation import prepare_one
from flows.data.training_data import SCORING_VIEWS, ViewPlan, cut_beats

NAMES = ("101", "106", "108", "100", "102")  # DS1, DS2 and a paced one, by their names alone
PLAN = ViewPlan(training_views=(View(angle_deg=35), View(noise_db=12)), conducted_share=0.3)


@pytest.fixture(scope="module")
def datasets_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="module")
def version(datasets_dir: Path) -> DatasetVersion:
    source = datasets_dir / "source"
    prepared = []
    for number, name in enumerate(NAMES):
        record = simulate_record(
            name, patient=draw_patient(40 + number), duration_s=61.0, seed=number
        )
        write_wfdb(record, source)
        found = prepare_one(
            source, name, hash_files(source, MITDB.files_of(name)), records_dir(datasets_dir)
        )
        assert isinstance(found, PreparedRecord)
        prepared.append(found)
    for number, name in enumerate(("a", "b")):  # a version has five subjects at least
        prepared.append(replace(prepared[0], name=name, prepared=f"none-{number}"))
    whole = make_version(
        data_source=DataSource.MITDB, source_directory=source, records=prepared, broken=()
    )
    return replace(whole, records=tuple(r for r in whole.records if r.name in NAMES))


@pytest.fixture(scope="module")
def views(version: DatasetVersion, datasets_dir: Path) -> PreparedViews:
    return PreparedViews(version=version, datasets_dir=datasets_dir)


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        msg = "a prepared record was prepared again"
        raise AssertionError(msg)

    monkeypatch.setattr(module, "write_view", refuse)
    monkeypatch.setattr(module, "write_annotations", refuse)


def _find(version: DatasetVersion, name: str) -> PreparedRecord:
    return next(record for record in version.records if record.name == name)


def _files_of(version: DatasetVersion, datasets_dir: Path, name: str) -> set[str]:
    directory = records_dir(datasets_dir) / _find(version, name).prepared
    return {path.name for path in directory.iterdir()}


def test_ingestion_writes_the_views_that_the_role_of_a_record_needs(
    version: DatasetVersion, datasets_dir: Path
) -> None:
    kept = {"record.json", "summary.json", "annotations.npz"}
    whole, strips = "whole-detected.npz", "strips-10-s-detected.npz"
    assert _files_of(version, datasets_dir, "108") == {*kept, whole, strips}
    assert _files_of(version, datasets_dir, "100") == {*kept, whole}
    assert _files_of(version, datasets_dir, "102") == kept


def test_training_beats_are_the_same_to_the_bit_as_those_of_the_source(
    views: PreparedViews, read_only: None
) -> None:
    record = _find(views.version, "108")
    source = views.version.read_source(record)
    expected = build_beats(
        source,
        scoring_views=SCORING_VIEWS,
        training_views=PLAN.training_views,
        conducted_share=PLAN.conducted_share,
    )
    found = cut_beats(views, record, PLAN)
    assert len(found) > 150
    for field in fields(BeatDataset):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other, err_msg=field.name)
    assert len(found.shapes) == len(expected.shapes) > 0
    for block, again in zip(found.shapes, expected.shapes, strict=True):
        np.testing.assert_array_equal(block.sameness, again.sameness)


def test_out_of_fold_figures_are_the_same_to_the_digit_as_those_of_the_source(
    views: PreparedViews, make_toy_bundle: Callable[..., Bundle]
) -> None:
    bundle = make_toy_bundle("views", folds={"101": 0, "106": 1}, data_source=DataSource.MITDB)
    record = _find(views.version, "101")
    source = views.version.read_source(record)
    asked: list[ScoredView] = []

    def prepare(view: ScoredView) -> list[module.PreparedStrip]:
        asked.append(view)
        return views.read(record, view, config=bundle.config.preprocessing)

    scores = [
        score_record(source, bundle=bundle, fold=0, extent=Extent.QUICK, nstdb_dir=None, prepare=p)
        for p in (None, prepare, prepare)
    ]
    assert asked[:3] == asked[3:] == [
        ScoredView(None, Peaks.BLIND), ScoredView(None, Peaks.REFERENCE),
        ScoredView(10, Peaks.BLIND),
    ]  # fmt: skip
    plain, first, second = scores
    for kept in (first, second):
        assert kept.counts == plain.counts
        assert kept.unguarded == plain.unguarded
        assert kept.rules == plain.rules
        assert kept.alone == plain.alone
        np.testing.assert_array_equal(kept.probability_v, plain.probability_v)
        np.testing.assert_array_equal(kept.peaks.offset_ms, plain.peaks.offset_ms)
        assert kept.unreadable_s == plain.unreadable_s
    assert plain.counts["own_r_peaks"]["whole"].v_beats > 0


def test_a_report_prepares_its_views_once(
    views: PreparedViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = _find(views.version, "106")
    view = ScoredView(None, Peaks.REFERENCE)
    first = views.read(record, view)
    monkeypatch.setattr(module, "write_view", lambda *_, **__: pytest.fail("prepared again"))
    np.testing.assert_array_equal(views.read(record, view)[0].beats.windows, first[0].beats.windows)


def test_a_detector_that_has_not_seen_a_record_is_the_one_that_ships(
    views: PreparedViews, read_only: None
) -> None:
    """Of DS2 and of simulated patients a report reads what ingestion wrote."""
    assert len(views.read(_find(views.version, "100"), ScoredView(None, Peaks.BLIND))[0].beats) > 40


def test_long_strips_and_other_constants_are_kept_apart(
    views: PreparedViews, datasets_dir: Path
) -> None:
    record = _find(views.version, "101")
    before = _files_of(views.version, datasets_dir, "101")
    assert [strip.start for strip in views.read(record, ScoredView(30))] == [0, 10_800]
    assert _files_of(views.version, datasets_dir, "101") == before
    config = PreprocessingConfig()
    other = replace(config, detection=replace(config.detection, refractory_s=0.3))
    views.read(record, ScoredView(), config=other)
    assert (
        records_dir(datasets_dir) / prepared_key(record.files, other) / "whole-detected.npz"
    ).is_file()
    assert _files_of(views.version, datasets_dir, "101") == before


def test_annotations_are_read_from_what_was_prepared(views: PreparedViews, read_only: None) -> None:
    found = views.read_development_annotations()
    assert sorted(found) == ["101", "106", "108"]
    source = views.version.read_source(_find(views.version, "101"))
    assert source.annotations is not None
    np.testing.assert_array_equal(found["101"].samples, source.annotations.samples)


def test_what_was_removed_is_prepared_again_from_a_source_that_must_be_the_same(
    views: PreparedViews, tmp_path: Path
) -> None:
    elsewhere = PreparedViews(version=views.version, datasets_dir=tmp_path)
    record = _find(views.version, "106")
    again = elsewhere.read(record, ScoredView())
    kept = views.read(record, ScoredView())
    np.testing.assert_array_equal(again[0].beats.windows, kept[0].beats.windows)
    assert len(elsewhere.read_annotations(record).samples) > 40
    moved = replace(elsewhere, version=replace(views.version, source_directory=str(tmp_path)))
    with pytest.raises(DatasetError, match="106 must be those of dataset"):
        moved.read(record, ScoredView(strip_s=10))


def test_what_other_code_prepared_is_removed_and_the_rest_stays(tmp_path: Path) -> None:
    records = records_dir(tmp_path)
    mine, older = records / f"{code_prefix()}-a", records / "0123456789ab-a"
    for directory in (mine, older):
        directory.mkdir(parents=True)
        (directory / "summary.json").write_text("{}")
    assert remove_outdated(tmp_path) == 1
    assert [path.name for path in records.iterdir()] == [mine.name]
    assert remove_outdated(tmp_path) == 0
