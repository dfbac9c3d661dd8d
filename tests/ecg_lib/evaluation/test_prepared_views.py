"""Prepared beats as files: what is read is what was prepared, to the bit."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from ecg_lib.errors import DatasetError
from ecg_lib.evaluation.prepared_views import (
    Peaks,
    PreparedStrip,
    ScoredView,
    load_annotations,
    load_strips,
    prepare_scored_view,
    save_annotations,
    save_strips,
)
from ecg_lib.records.record import Record
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.signal_path.preprocessing import PreparedBeats, prepare_beats


@pytest.fixture(scope="module")
def record() -> Record:
    """Two minutes with a flat stretch, and four seconds without a beat."""
    found = simulate_record("101", patient=draw_patient(1), duration_s=125.0, seed=3)
    signals = found.signals_mv.copy()
    signals[20_000:24_000] = 0.0
    return replace(found, signals_mv=signals)


def _assert_same(one: PreparedBeats, other: PreparedBeats) -> None:
    for field in fields(PreparedBeats):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype.kind == right.dtype.kind
            assert left.dtype.itemsize == right.dtype.itemsize or left.dtype.kind == "U"
            np.testing.assert_array_equal(left, right, err_msg=field.name)
        elif field.name == "shapes":
            assert [block[:2] for block in left] == [block[:2] for block in right]
            for block, again in zip(left, right, strict=True):
                assert block.sameness.dtype == again.sameness.dtype
                np.testing.assert_array_equal(block.sameness, again.sameness)
        else:
            assert left == right


@pytest.mark.parametrize(
    "view",
    [
        ScoredView(),
        ScoredView(strip_s=10),
        ScoredView(None, Peaks.BLIND),
        ScoredView(None, Peaks.REFERENCE),
    ],
    ids=str,
)
def test_strips_are_read_as_they_were_prepared(
    record: Record, view: ScoredView, tmp_path: Path
) -> None:
    prepared = prepare_scored_view(record, view)
    assert len(prepared) == (12 if view.strip_s else 1)
    assert any(strip.beats.unreadable for strip in prepared)
    save_strips(prepared, tmp_path / "view.npz")
    read = load_strips(tmp_path / "view.npz")
    assert [strip.start for strip in read] == [strip.start for strip in prepared]
    for strip, again in zip(prepared, read, strict=True):
        _assert_same(strip.beats, again.beats)
    assert [path.name for path in tmp_path.iterdir()] == ["view.npz"]


def test_a_strip_is_prepared_as_a_request_of_its_samples(record: Record) -> None:
    strip = prepare_scored_view(record, ScoredView(strip_s=10))[3]
    assert strip.start == 3 * 3600
    alone = prepare_beats(record.signal_mv()[10_800:14_400], fs=360.0)
    _assert_same(strip.beats, alone)


def test_a_record_without_a_whole_strip_has_none(tmp_path: Path) -> None:
    short = simulate_record("r", patient=draw_patient(1), duration_s=9.0, seed=3)
    strips = prepare_scored_view(short, ScoredView(strip_s=10))
    save_strips(strips, tmp_path / "view.npz")
    assert load_strips(tmp_path / "view.npz") == strips == []


def test_blind_peaks_are_those_of_a_detector_that_has_not_seen_the_record(record: Record) -> None:
    blind = prepare_scored_view(record, ScoredView(None, Peaks.BLIND))
    unseen = replace(record, name="sim1")
    shipped = prepare_scored_view(unseen, ScoredView(None, Peaks.DETECTED))
    _assert_same(
        prepare_scored_view(unseen, ScoredView(None, Peaks.BLIND))[0].beats, shipped[0].beats
    )
    assert len(blind[0].beats) > 100


@pytest.mark.parametrize("strip_s", [None, 10])
def test_reference_peaks_need_annotations_and_the_whole_record(
    record: Record, strip_s: int | None
) -> None:
    given = replace(record, annotations=None) if strip_s is None else record
    with pytest.raises(DatasetError, match="need a whole record with annotations"):
        prepare_scored_view(given, ScoredView(strip_s, Peaks.REFERENCE))


def test_a_file_that_is_cut_off_is_an_error_and_a_missing_one_is_told_apart(
    record: Record, tmp_path: Path
) -> None:
    path = tmp_path / "view.npz"
    with pytest.raises(FileNotFoundError):
        load_strips(path)
    save_strips([PreparedStrip(0, prepare_beats(record.signal_mv()[:7200], fs=360.0))], path)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(DatasetError, match=r"view\.npz cannot be read"):
        load_strips(path)


def test_annotations_are_read_as_they_were(record: Record, tmp_path: Path) -> None:
    assert record.annotations is not None
    save_annotations(record.annotations, tmp_path / "a.npz")
    again = load_annotations(tmp_path / "a.npz")
    np.testing.assert_array_equal(again.samples, record.annotations.samples)
    np.testing.assert_array_equal(again.symbols, record.annotations.symbols)
