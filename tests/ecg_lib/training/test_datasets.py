"""Datasets: labels, views, folds by subject, and a round trip through the disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_lib.classifier.shape_vote import vote
from ecg_lib.errors import DatasetError
from ecg_lib.evaluation.beat_scoring import IN_FLUTTER, NO_BEAT, label_beats
from ecg_lib.records.annotations import DS1, Annotations, subject_of
from ecg_lib.records.noise import measure_noise_rms, measure_qrs_amplitude
from ecg_lib.records.record import Record, read_wfdb
from ecg_lib.records.simulation.movement import simulate_movement
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.training.datasets import (
    STRIPS_10_S,
    BeatDataset,
    assign_folds,
    build_beats,
    join_records,
)
from ecg_lib.training.views import (
    WHOLE,
    View,
    has_view,
    prepare_view,
    seed_generator,
    view_signal,
)
from tests.lists import MITDB_RECORDS

OTHER_LEAD = View(angle_deg=90)
MIXED = View(angle_deg=45, strip_s=20)


def _record(seed: int, *, duration_s: float = 65.0) -> Record:
    return simulate_record(
        f"sim{seed}", patient=draw_patient(seed), duration_s=duration_s, seed=seed
    )


def _build(record: Record, *, share: float = 1.0, seed: int = 0) -> BeatDataset:
    return build_beats(
        record,
        scoring_views=[WHOLE, STRIPS_10_S],
        training_views=[OTHER_LEAD, MIXED],
        conducted_share=share,
        seed=seed,
    )


@pytest.fixture(scope="module")
def dataset() -> BeatDataset:
    return join_records([_build(_record(seed)) for seed in (1, 8)])


def _assert_same(one: BeatDataset, other: BeatDataset) -> None:
    assert (one.record_names, one.views) == (other.record_names, other.views)
    for name in ("record", "view", "position", "label", "is_readable", "windows", "features"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert [block[:2] for block in one.shapes] == [block[:2] for block in other.shapes]
    for block, same in zip(one.shapes, other.shapes, strict=True):
        assert block.sameness.dtype == same.sameness.dtype == np.float32
        np.testing.assert_array_equal(block.sameness, same.sameness)


# Labels.


def test_a_detection_takes_the_class_of_its_annotation() -> None:
    annotations = Annotations(
        samples=np.array([100, 200, 300, 400, 500, 600, 700]),
        symbols=np.array(["N", "A", "V", "F", "/", "+", "E"]),
    )
    detections = np.array([102, 198, 300, 405, 500, 600, 715, 800])
    labels = label_beats(annotations, detections, fs=100.0)
    assert labels.tolist() == ["N", "S", "V", "F", "Q", NO_BEAT, "V", NO_BEAT]


def test_a_detection_more_than_150_ms_away_matches_no_beat() -> None:
    annotations = Annotations(samples=np.array([100, 300]), symbols=np.array(["V", "V"]))
    labels = label_beats(annotations, np.array([84, 315]), fs=100.0)
    assert labels.tolist() == [NO_BEAT, "V"]


def test_a_detection_in_flutter_is_marked_whatever_it_matches() -> None:
    annotations = Annotations(
        samples=np.array([100, 150, 160, 200]), symbols=np.array(["[", "V", "!", "]"])
    )
    labels = label_beats(annotations, np.array([99, 100, 150, 170, 201]), fs=100.0)
    assert labels.tolist() == [NO_BEAT, IN_FLUTTER, IN_FLUTTER, IN_FLUTTER, NO_BEAT]


def test_only_n_s_v_and_false_detections_are_trainable(dataset: BeatDataset) -> None:
    labels = np.array(["N", "S", "V", "F", "Q", NO_BEAT, IN_FLUTTER])
    some = replace(dataset, label=labels)
    assert some.is_trainable.tolist() == [True, True, True, False, False, True, False]
    assert some.is_v.tolist() == [False, False, True, False, False, False, False]


def test_without_annotations_or_detections_there_are_no_classes() -> None:
    none = Annotations(samples=np.zeros(0, int), symbols=np.zeros(0, "U1"))
    assert label_beats(none, np.array([5]), fs=360.0).tolist() == [NO_BEAT]
    assert label_beats(none, np.zeros(0, int), fs=360.0).tolist() == []


# Views.


def test_the_whole_view_is_the_preferred_lead() -> None:
    record = _record(1)
    np.testing.assert_array_equal(view_signal(record, WHOLE), record.signals_mv[:, 0])


def test_ninety_degrees_are_the_other_lead_in_its_own_range() -> None:
    record = _record(1)
    other = view_signal(record, OTHER_LEAD)
    correlation = np.corrcoef(other, record.signals_mv[:, 1])[0, 1]
    assert correlation == pytest.approx(1.0, abs=1e-5)
    low, high = np.percentile(other, [0.5, 99.5])
    assert high - low == pytest.approx(1.0, abs=1e-3)


def test_a_second_lead_that_is_not_there_is_refused() -> None:
    record = _record(1)
    one_lead = replace(record, leads=("MLII",), signals_mv=record.signals_mv[:, :1])
    with pytest.raises(DatasetError, match="90 deg, whole needs two leads, record sim1 has MLII"):
        view_signal(one_lead, OTHER_LEAD)
    views = set(_build(one_lead).view.tolist())
    assert views == {0, 1}


def test_noise_is_that_of_the_ratio_and_of_the_view() -> None:
    record = _record(1)
    noisy = View(noise_db=6)
    noise = view_signal(record, noisy) - record.signals_mv[:, 0]
    assert record.annotations is not None
    is_v = record.annotations.beat_classes == "V"
    amplitude = measure_qrs_amplitude(
        record.signals_mv[:, 0], r_peaks=record.annotations.beat_samples[~is_v], fs=record.fs
    )
    rms = measure_noise_rms(noise, fs=record.fs)
    assert 10 * np.log10(amplitude**2 / 8 / rms**2) == pytest.approx(6, abs=0.3)
    np.testing.assert_array_equal(view_signal(record, noisy), view_signal(record, View(noise_db=6)))
    assert str(noisy) == "0 deg, whole, noise of 6 dB"
    other = view_signal(_record(2), noisy) - _record(2).signals_mv[:, 0]
    assert abs(np.corrcoef(noise, other)[0, 1]) < 0.05


def _movement_of(record: Record, view: View, *, snr_db: float) -> np.ndarray:
    """Movement of that record and view, at one ratio from end to end."""
    assert record.annotations is not None
    is_v = record.annotations.beat_classes == "V"
    movement = simulate_movement(
        len(record.signals_mv),
        fs=record.fs,
        rms_mv=1.0,
        rng=seed_generator(f"{record.name} {view}"),
    )
    amplitude = measure_qrs_amplitude(
        record.signals_mv[:, 0], r_peaks=record.annotations.beat_samples[~is_v], fs=record.fs
    )
    rms = amplitude / np.sqrt(8) * 10 ** (-snr_db / 20)
    return movement * rms / measure_noise_rms(movement, fs=record.fs)


def test_a_record_moves_in_every_second_part_at_three_ratios() -> None:
    record, moved = _record(1, duration_s=250.0), View(movement_db=6)
    added = view_signal(record, moved) - record.signals_mv[:, 0]
    for part, snr_db in enumerate((None, 6.0, None, 0.0, None, 12.0, None)):
        inside = slice(part * 14_400, (part + 1) * 14_400)  # 40 s, the last one of 10 s
        if snr_db is None:
            assert (added[inside] == 0).all()
        else:
            expected = _movement_of(record, moved, snr_db=snr_db)[inside]
            np.testing.assert_allclose(added[inside], expected, rtol=0.02, atol=0.002)
    assert str(moved) == "0 deg, whole, movement of 6 dB"
    np.testing.assert_array_equal(view_signal(record, moved), view_signal(record, moved))


def test_strips_move_from_end_to_end() -> None:
    record, moved = _record(1), View(movement_db=0, strip_s=10)
    added = view_signal(record, moved) - record.signals_mv[:, 0]
    np.testing.assert_allclose(
        added, _movement_of(record, moved, snr_db=0.0), rtol=0.02, atol=0.002
    )


def test_records_and_views_move_in_their_own_ways() -> None:
    one, other = _record(1), _record(2)
    strips = View(movement_db=6, strip_s=10)
    added = [
        view_signal(record, view) - view_signal(record, replace(view, movement_db=None))
        for record, view in (
            (one, strips),
            (other, strips),
            (one, replace(strips, movement_db=12)),
            (one, replace(strips, angle_deg=90)),
        )
    ]
    for unlike in added[1:]:
        assert abs(np.corrcoef(added[0], unlike)[0, 1]) < 0.3


def test_movement_needs_to_know_where_the_beats_are() -> None:
    with pytest.raises(DatasetError, match="movement of 6 dB needs annotations, record sim1 has n"):
        view_signal(replace(_record(1), annotations=None), View(movement_db=6))


def test_noise_needs_to_know_where_the_beats_are() -> None:
    with pytest.raises(DatasetError, match="noise of 6 dB needs annotations, record sim1 has none"):
        view_signal(replace(_record(1), annotations=None), View(noise_db=6))


@pytest.mark.parametrize("noisy", [View(noise_db=6), View(movement_db=6)])
@pytest.mark.parametrize(
    ("at_s", "gain", "is_there"),
    [
        ((), 1.0, False),
        ((0.01,), 1.0, False),  # less than 50 ms from the start
        ((2.0, 3.0), 0.0, False),  # a flat line
        ((2.0, 3.0), 1.0, True),
    ],
)
def test_views_with_noise_need_a_qrs_complex_to_scale_it_by(
    noisy: View, at_s: tuple[float, ...], gain: float, *, is_there: bool
) -> None:
    whole = _record(1, duration_s=10.0)
    marks = np.array([round(at * whole.fs) for at in at_s], dtype=np.int64)
    record = replace(
        whole,
        signals_mv=whole.signals_mv * np.float32(gain),
        annotations=Annotations(samples=marks, symbols=np.full(len(marks), "N")),
    )
    cut = build_beats(record, scoring_views=[WHOLE], training_views=[noisy], conducted_share=1.0)
    assert has_view(record, noisy) is is_there
    assert has_view(record, WHOLE)
    assert (cut.view == 1).any() == is_there


@pytest.mark.parametrize("noisy", [View(noise_db=6), View(movement_db=6)])
def test_where_all_beats_are_v_noise_is_scaled_by_them(noisy: View) -> None:
    record = _record(1, duration_s=10.0)
    assert record.annotations is not None
    beats = record.annotations.beat_samples
    signals = [
        view_signal(
            replace(
                record,
                annotations=Annotations(samples=beats, symbols=np.full(len(beats), symbol)),
            ),
            noisy,
        )
        for symbol in "NV"
    ]
    np.testing.assert_array_equal(*signals)


def test_a_strip_has_at_least_five_seconds() -> None:
    with pytest.raises(ValueError, match="at least 5, got strip_s=4"):
        View(strip_s=4)


def test_strips_lie_end_to_end_without_the_rest() -> None:
    starts = [start for start, _ in prepare_view(_record(1), STRIPS_10_S)]
    assert starts == [0, 3600, 7200, 10_800, 14_400, 18_000]


# Building.


def test_scoring_views_keep_every_detection(dataset: BeatDataset) -> None:
    for seed in (1, 8):
        record = _record(seed)
        for view in (WHOLE, STRIPS_10_S):
            rows = dataset.rows_of(records=[record.name], view=view)
            expected = [start + beats.r_peaks for start, beats in prepare_view(record, view)]
            np.testing.assert_array_equal(dataset.position[rows], np.concatenate(expected))


def test_labels_are_those_of_the_annotations(dataset: BeatDataset) -> None:
    for seed in (1, 8):
        record = _record(seed)
        assert record.annotations is not None
        rows = dataset.rows_of(records=[record.name], view=WHOLE)
        expected = label_beats(record.annotations, dataset.position[rows], fs=record.fs)
        np.testing.assert_array_equal(dataset.label[rows], expected)
        n_v = int((record.annotations.beat_classes == "V").sum())
        assert n_v > 0
        assert int(dataset.is_v[rows].sum()) == n_v


def test_training_views_keep_a_share_of_n_and_everything_else() -> None:
    record = _record(8, duration_s=300.0)
    full, some, none = (_build(record, share=share) for share in (1.0, 0.3, 0.0))
    for view in (OTHER_LEAD, MIXED):
        counts = []
        for part in (full, some, none):
            rows = part.rows_of(view=view)
            counts.append(int((part.label[rows] == "N").sum()))
            others = full.label[full.rows_of(view=view)]
            np.testing.assert_array_equal(
                part.label[rows][part.label[rows] != "N"], others[others != "N"]
            )
            assert part.is_trainable[rows].all()
        assert counts[2] == 0
        assert counts[1] / counts[0] == pytest.approx(0.3, abs=0.1)
    for view in (WHOLE, STRIPS_10_S):
        assert len(none.rows_of(view=view)) == len(full.rows_of(view=view))


def test_the_choice_of_n_beats_depends_on_the_seed_alone() -> None:
    record = _record(8)
    _assert_same(_build(record, share=0.5, seed=1), _build(record, share=0.5, seed=1))
    one, other = (_build(record, share=0.5, seed=seed) for seed in (1, 2))
    assert one.position.tolist() != other.position.tolist()


def test_a_record_without_annotations_is_refused() -> None:
    with pytest.raises(DatasetError, match="sim1 must have annotations"):
        _build(replace(_record(1), annotations=None))


def test_joined_records_keep_their_rows(dataset: BeatDataset) -> None:
    alone = _build(_record(8))
    rows = dataset.rows_of(records=["sim8"])
    np.testing.assert_array_equal(dataset.features[rows], alone.features)
    np.testing.assert_array_equal(dataset.position[rows], alone.position)
    assert dataset.record_names == ("sim1", "sim8")
    assert len(dataset.rows_of(records=["sim1"])) + len(rows) == len(dataset)
    np.testing.assert_array_equal(dataset.rows_of(), np.arange(len(dataset)))


def test_records_in_other_views_or_none_are_not_joined(dataset: BeatDataset) -> None:
    with pytest.raises(DatasetError, match="at least one record"):
        join_records([])
    with pytest.raises(DatasetError, match="same views"):
        join_records([dataset, replace(dataset, views=(WHOLE,))])


def test_a_record_or_view_that_is_not_there_has_no_rows_to_find(dataset: BeatDataset) -> None:
    with pytest.raises(DatasetError, match="these are not: sim9"):
        dataset.rows_of(records=["sim1", "sim9"])
    with pytest.raises(DatasetError, match="view 7 deg, whole"):
        dataset.rows_of(view=View(angle_deg=7))
    assert len(dataset.rows_of(records=[])) == 0


# On disk.


def test_a_dataset_survives_the_disk(dataset: BeatDataset, tmp_path: Path) -> None:
    assert len(dataset.shapes) > 2
    dataset.save(tmp_path / "d")
    loaded = BeatDataset.load(tmp_path / "d")
    _assert_same(loaded, dataset)
    logits = np.random.default_rng(0).standard_normal(len(dataset))
    votes = [
        vote(logits, one.shapes, is_readable=one.is_readable).tolist() for one in (loaded, dataset)
    ]
    assert votes[0] == votes[1]
    bare = replace(dataset, shapes=())
    bare.save(tmp_path / "bare")
    _assert_same(BeatDataset.load(tmp_path / "bare"), bare)


@pytest.mark.parametrize(
    "name",
    [
        "dataset.json",
        "beats.parquet",
        "windows.npy",
        "features.npy",
        "sameness.npy",
        "shape_bounds.npy",
    ],
)
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_dataset_is_refused(
    dataset: BeatDataset, tmp_path: Path, name: str, damage: str
) -> None:
    dataset.save(tmp_path / "d")
    path = tmp_path / "d" / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DatasetError, match="no readable dataset in d"):
        BeatDataset.load(tmp_path / "d")


def test_arrays_of_two_datasets_are_not_mixed(dataset: BeatDataset, tmp_path: Path) -> None:
    dataset.save(tmp_path / "d")
    np.save(tmp_path / "d" / "features.npy", dataset.features[:-1])
    with pytest.raises(DatasetError, match="one row for each"):
        BeatDataset.load(tmp_path / "d")


@pytest.mark.parametrize(("column", "bound"), [(3, 10**6), (1, 10**6), (0, -1)])
def test_blocks_that_do_not_fit_the_beats_are_refused(
    dataset: BeatDataset, tmp_path: Path, column: int, bound: int
) -> None:
    dataset.save(tmp_path / "d")
    path = tmp_path / "d" / "shape_bounds.npy"
    bounds = np.load(path)
    bounds[0, column] = bound
    np.save(path, bounds)
    with pytest.raises(DatasetError, match="one reaches beyond them"):
        BeatDataset.load(tmp_path / "d")
    dataset.save(tmp_path / "d")
    sameness = tmp_path / "d" / "sameness.npy"
    np.save(sameness, np.load(sameness)[:-1])
    with pytest.raises(DatasetError, match="figures, got"):
        BeatDataset.load(tmp_path / "d")


def test_a_dataset_of_other_features_is_refused(dataset: BeatDataset, tmp_path: Path) -> None:
    dataset.save(tmp_path / "d")
    path = tmp_path / "d" / "dataset.json"
    description = json.loads(path.read_text())
    description["feature_names"].reverse()
    path.write_text(json.dumps(description))
    with pytest.raises(DatasetError, match="features of another version"):
        BeatDataset.load(tmp_path / "d")


@pytest.mark.parametrize("text", ["{}", "[]", '{"feature_names": []}'])
def test_a_description_that_is_none_is_refused(
    dataset: BeatDataset, tmp_path: Path, text: str
) -> None:
    dataset.save(tmp_path / "d")
    (tmp_path / "d" / "dataset.json").write_text(text)
    with pytest.raises(DatasetError):
        BeatDataset.load(tmp_path / "d")


# Folds.


def test_201_and_202_are_never_parted() -> None:
    """One fold number for each subject; two records of one subject share it."""
    subjects = {subject_of(name): 10 for name in MITDB_RECORDS}
    folds = assign_folds(subjects, n_folds=5)
    fold_of_record = {name: folds[subject_of(name)] for name in MITDB_RECORDS}
    assert fold_of_record["201"] == fold_of_record["202"]
    assert set(folds) == set(subjects)
    assert "202" not in folds


@pytest.mark.data
def test_folds_of_ds1_are_alike(mitdb_dir: Path) -> None:
    v_beats: dict[str, int] = {}
    for name in DS1:
        annotations = read_wfdb(mitdb_dir / name, with_annotations=True).annotations
        assert annotations is not None
        v_beats[subject_of(name)] = int((annotations.beat_classes == "V").sum())
    folds = assign_folds(v_beats, n_folds=3)
    totals = [sum(v_beats[s] for s, f in folds.items() if f == fold) for fold in range(3)]
    assert sum(totals) == 3788
    assert max(totals) < 1.2 * min(totals)
    sizes = [list(folds.values()).count(fold) for fold in range(3)]
    assert min(sizes) >= 6


@settings(max_examples=100, deadline=None)
@given(
    counts=st.dictionaries(
        st.text("abcdefgh", min_size=1, max_size=4), st.integers(0, 2000), min_size=2, max_size=30
    ),
    n_folds=st.integers(2, 6),
)
def test_folds_hold_every_subject_and_none_is_empty(counts: dict[str, int], n_folds: int) -> None:
    if n_folds > len(counts):
        with pytest.raises(DatasetError, match="n_folds must be 2 to"):
            assign_folds(counts, n_folds=n_folds)
        return
    folds = assign_folds(counts, n_folds=n_folds)
    assert set(folds) == set(counts)
    assert set(folds.values()) == set(range(n_folds))
    turned = dict(reversed(list(counts.items())))
    assert assign_folds(turned, n_folds=n_folds) == folds


@pytest.mark.parametrize("n_folds", [-1, 0, 1, 4])
def test_too_few_or_too_many_folds_are_refused(n_folds: int) -> None:
    with pytest.raises(DatasetError, match=f"2 to 3 subjects, got {n_folds}"):
        assign_folds({"a": 1, "b": 2, "c": 3}, n_folds=n_folds)
