from __future__ import annotations

import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import wfdb
from scipy import ndimage

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import (
    InvalidSignalError,
    MissingDetailError,
    UnknownLeadError,
    UnreadableSignalError,
)
from ecg_lib.recordings.analysis import analyze_recording
from ecg_lib.recordings.strips import annotate_record, describe, list_beats, predict_file
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.record import read_wfdb, write_wfdb
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip


@pytest.fixture(scope="module")
def classifier(toy_bundle: Bundle) -> BeatClassifier:
    return BeatClassifier.load(toy_bundle)


@pytest.fixture
def run_record(tmp_path: Path) -> Path:
    record = replace(simulate_strip(StripKind.RUN, seed=11, duration_s=20.0), name="run11")
    write_wfdb(record, tmp_path)
    return tmp_path / "run11"


def test_every_detection_is_written_as_n_or_v(
    classifier: BeatClassifier, run_record: Path, tmp_path: Path
) -> None:
    done = annotate_record(run_record, classifier=classifier, output_dir=tmp_path / "out")
    written = wfdb.rdann(str(tmp_path / "out" / "run11"), "pvc")
    truth = wfdb.rdann(str(run_record), "atr")
    assert done.beats == len(written.sample) == len(truth.sample)
    assert np.abs(written.sample - truth.sample).max() <= 18
    assert written.symbol == truth.symbol
    assert done.v_beats == written.symbol.count("V") > 0


def test_unreadable_stretches_are_marked(classifier: BeatClassifier, tmp_path: Path) -> None:
    record = simulate_strip(StripKind.NORMAL, seed=11, duration_s=40.0)
    signals = record.signals_mv.copy()
    signals[3600:7200] = 0.0
    write_wfdb(replace(record, name="gap", signals_mv=signals), tmp_path)
    done = annotate_record(tmp_path / "gap", classifier=classifier, output_dir=tmp_path / "out")
    written = wfdb.rdann(str(tmp_path / "out" / "gap"), "pvc")
    marks = written.sample[np.array(written.symbol) == "~"]
    assert len(marks) == 2
    assert np.abs(marks - [3600, 7200]).max() <= 720
    assert done.unreadable_s == pytest.approx(10, abs=4)


def test_another_lead_can_be_named_and_an_unknown_one_is_refused(
    classifier: BeatClassifier, run_record: Path, tmp_path: Path
) -> None:
    done = annotate_record(run_record, classifier=classifier, output_dir=tmp_path, lead="V1")
    assert done.lead == "V1"
    with pytest.raises(UnknownLeadError, match="MLII, V1"):
        annotate_record(run_record, classifier=classifier, output_dir=tmp_path, lead="aVF")


def test_a_few_missing_samples_are_bridged_and_counted(
    classifier: BeatClassifier, tmp_path: Path
) -> None:
    signal = simulate_strip(StripKind.NORMAL, seed=1).signal_mv().copy()
    signal[100:110] = np.nan
    np.save(tmp_path / "a.npy", signal)
    prediction = predict_file(tmp_path / "a.npy", classifier=classifier, fs=360.0)
    assert prediction.invalid_samples == 10
    assert describe(prediction).endswith(", 10 missing samples")
    signal[:2500] = np.nan
    np.save(tmp_path / "a.npy", signal)
    with pytest.raises(InvalidSignalError, match="at most 50% of the samples"):
        predict_file(tmp_path / "a.npy", classifier=classifier, fs=360.0)


def test_a_prediction_of_a_file_is_described(classifier: BeatClassifier, run_record: Path) -> None:
    prediction = predict_file(run_record, classifier=classifier)
    text = describe(prediction)
    assert text.startswith("run11: V, ")
    assert "risk HIGH (" in text
    assert "2 runs of V, the longest of 5 beats" in text
    beats = list_beats(prediction)
    assert [beat["beat_index"] for beat in beats] == list(range(len(prediction.classified)))
    assert {beat["arrhythmia_type"] for beat in beats} == {"N", "V"}


def test_a_file_that_is_too_short_or_flat_is_refused(
    classifier: BeatClassifier, tmp_path: Path
) -> None:
    np.save(tmp_path / "short.npy", np.zeros(2000))
    (tmp_path / "short.csv").write_text("0.0\n" * 2000)
    for name in ("short.npy", "short.csv"):
        with pytest.raises(InvalidSignalError, match=r"at least 10 s, got 5\.6 s"):
            predict_file(tmp_path / name, classifier=classifier, fs=360.0)
    np.save(tmp_path / "flat.npy", np.zeros(7200))
    with pytest.raises(UnreadableSignalError, match="flat"):
        predict_file(tmp_path / "flat.npy", classifier=classifier, fs=360.0)
    with pytest.raises(MissingDetailError, match="sampling_rate must be given"):
        predict_file(tmp_path / "flat.npy", classifier=classifier)
    (tmp_path / "dead.csv").write_text("II,V1\n" + "0,0.1\n" * 7200)
    with pytest.raises(UnreadableSignalError, match=r"flat or disconnected: .*\(flat\)$"):
        predict_file(tmp_path / "dead.csv", classifier=classifier, fs=360.0)


def test_a_file_is_predicted_as_it_is_analysed(
    classifier: BeatClassifier, run_record: Path, tmp_path: Path
) -> None:
    signal = read_wfdb(run_record).signal_mv("V1")
    (tmp_path / "b.csv").write_text(
        "time;V1\n" + "".join(f"{n / 360:.3f};{mv:.6f}\n" for n, mv in enumerate(signal.tolist()))
    )
    np.save(tmp_path / "c.npy", signal)
    expected = predict_file(run_record, classifier=classifier, lead="V1")
    for name, fs in (("b.csv", None), ("c.npy", 360.0)):
        found = predict_file(tmp_path / name, classifier=classifier, fs=fs)
        assert (found.name, found.fs) == (name[0], 360.0)
        assert found.classified.r_peaks.tolist() == expected.classified.r_peaks.tolist()
        assert found.classified.is_v.tolist() == expected.classified.is_v.tolist()


def test_a_file_without_a_rate_is_annotated_at_the_one_that_is_given(
    classifier: BeatClassifier, run_record: Path, tmp_path: Path
) -> None:
    signal = read_wfdb(run_record).signal_mv("V1")
    np.save(tmp_path / "c.npy", signal * 1000)
    expected = annotate_record(run_record, classifier=classifier, output_dir=tmp_path, lead="V1")
    found = annotate_record(
        tmp_path / "c.npy", classifier=classifier, output_dir=tmp_path, fs=360.0, unit="uV"
    )
    assert (found.beats, found.v_beats) == (expected.beats, expected.v_beats)
    with pytest.raises(MissingDetailError, match="sampling_rate must be given"):
        annotate_record(tmp_path / "c.npy", classifier=classifier, output_dir=tmp_path)


def test_an_archive_is_predicted_and_annotated_as_its_record(
    classifier: BeatClassifier, run_record: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "packed.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for suffix in (".hea", ".dat"):
            file = run_record.with_suffix(suffix)
            packed.write(file, f"folder/{file.name}")
    one, other = (predict_file(path, classifier=classifier) for path in (run_record, archive))
    assert list_beats(one) == list_beats(other)
    done = annotate_record(archive, classifier=classifier, output_dir=tmp_path / "out")
    assert done.path.name == "packed.pvc"
    assert done.beats == len(one.classified)


def _with_second_lead(directory: Path, *, second_mv: float = 1.0) -> Path:
    """Write a strip beside which V1 is a wider picture of the same beats."""
    record = simulate_strip(StripKind.BIGEMINY, seed=11, duration_s=20.0)
    first = record.signals_mv[:, 0].astype(np.float64)
    wfdb.wrsamp(
        "pair",
        fs=record.fs,
        units=["mV", "mV"],
        sig_name=["MLII", "V1"],
        p_signal=np.stack([first, second_mv * ndimage.gaussian_filter1d(first, 5.0)], axis=1),
        fmt=["16", "16"],
        write_dir=str(directory),
    )
    return directory / "pair"


def test_a_second_lead_has_a_say_when_no_lead_is_named(
    classifier: BeatClassifier, tmp_path: Path
) -> None:
    path = _with_second_lead(tmp_path)
    both = predict_file(path, classifier=classifier)
    alone = predict_file(path, classifier=classifier, lead="MLII")
    signals = wfdb.rdrecord(str(path)).p_signal.astype(np.float32)
    expected = classifier.classify(signals[:, 0], others_mv=[signals[:, 1]], fs=360.0)
    np.testing.assert_allclose(
        both.classified.probability_v, expected.probability_v, rtol=0, atol=1e-6
    )
    assert np.abs(both.classified.probability_v - alone.classified.probability_v).max() > 1e-5
    assert (both.lead, alone.lead) == ("MLII", "MLII")


def test_a_second_lead_that_cannot_be_used_is_left_out_with_a_warning(
    classifier: BeatClassifier, tmp_path: Path
) -> None:
    path = _with_second_lead(tmp_path, second_mv=1e4)
    both = predict_file(path, classifier=classifier)
    alone = predict_file(path, classifier=classifier, lead="MLII")
    np.testing.assert_array_equal(both.classified.probability_v, alone.classified.probability_v)
    assert any("V1 is not used in the classification" in warning for warning in both.warnings)


def test_a_flat_second_lead_is_named_as_unused(classifier: BeatClassifier, tmp_path: Path) -> None:
    path = _with_second_lead(tmp_path, second_mv=0.0)
    both = predict_file(path, classifier=classifier)
    assert "lead V1 is not used in the classification: it is flat or disconnected" in both.warnings


def test_a_dead_lead_is_passed_over(classifier: BeatClassifier, tmp_path: Path) -> None:
    signal = simulate_strip(StripKind.BIGEMINY, seed=11, duration_s=20.0).signal_mv()
    samples = np.stack([np.full(len(signal), 0.3), signal, -signal, signal], axis=1)
    path = tmp_path / "dead.csv"
    np.savetxt(path, samples, "%.4f", delimiter=",", header="II,I,V2,V1", comments="")
    done = predict_file(path, classifier=classifier, fs=360.0)
    assert done.lead == "I"
    assert "lead II is flat or disconnected, lead I is analysed instead" in done.warnings
    same = "lead V1 is not used in the classification: it is a copy of the analysed lead"
    assert same in done.warnings
    samples[:, 0] = np.nan
    np.savetxt(path, samples, "%.4f", delimiter=",", header="II,I,V2,V1", comments="")
    done = predict_file(path, classifier=classifier, fs=360.0)
    blank = "column 1 (II) has no numbers where the text begins, and is left out"
    assert blank in done.warnings
    annotated = annotate_record(path, classifier=classifier, output_dir=tmp_path, fs=360.0)
    assert (annotated.lead, annotated.beats) == ("I", len(done.classified))
    samples[:, 0] = 0.3
    np.savetxt(path, samples, "%.4f", delimiter=",", header="II,I,V2,V1", comments="")
    with pytest.raises(UnreadableSignalError, match=r"lead II, lead may name another: I, V2, V1$"):
        predict_file(path, classifier=classifier, lead="II", fs=360.0)


def test_samples_in_volts_without_a_unit_ask_for_it(
    classifier: BeatClassifier, tmp_path: Path
) -> None:
    signal = simulate_strip(StripKind.BIGEMINY, seed=11, duration_s=20.0).signal_mv()
    path = tmp_path / "volts.csv"
    np.savetxt(path, signal / 1000, "%.7f", header="II", comments="")
    with pytest.raises(MissingDetailError, match="unit must be given") as caught:
        predict_file(path, classifier=classifier, fs=360.0)
    assert caught.value.detail == "unit"
    expected = predict_file(path, classifier=classifier, fs=360.0, unit="V")
    assert len(expected.classified) > 10
    with pytest.raises(UnreadableSignalError, match="flat or disconnected"):
        predict_file(path, classifier=classifier, fs=360.0, unit="mV")


def test_a_lead_in_volts_without_a_unit_is_not_passed_over(
    classifier: BeatClassifier, tmp_path: Path
) -> None:
    signal = simulate_strip(StripKind.BIGEMINY, seed=11, duration_s=20.0).signal_mv()
    path = tmp_path / "two.csv"
    two = np.stack([signal / 1000, signal], axis=1)
    np.savetxt(path, two, "%.7f", delimiter=",", header="II,I", comments="")
    with pytest.raises(MissingDetailError, match="unit must be given: lead II") as caught:
        predict_file(path, classifier=classifier, fs=360.0)
    assert caught.value.detail == "unit"
    analysed = partial(analyze_recording, classifier=classifier, model={}, directory=tmp_path)
    with pytest.raises(MissingDetailError, match="unit must be given: lead II"):
        analysed(open_recording(path, fs=360.0))
    named = predict_file(path, classifier=classifier, lead="I", fs=360.0)
    assert named.lead == "I"
    assert len(named.classified) > 10


def test_a_unit_that_would_contradict_the_file_is_not_asked_for(
    classifier: BeatClassifier, tmp_path: Path
) -> None:
    signal = simulate_strip(StripKind.BIGEMINY, seed=11, duration_s=20.0).signal_mv()
    path = tmp_path / "mixed.csv"
    two = np.stack([signal / 1000, signal], axis=1)
    np.savetxt(path, two, "%.7f", delimiter=",", header="II,I (mV)", comments="")
    with pytest.raises(MissingDetailError, match="the file states mV"):
        predict_file(path, classifier=classifier, fs=360.0, unit="V")
    found = predict_file(path, classifier=classifier, fs=360.0)
    assert found.lead == "I"
    assert found.warnings == ("lead II is flat or disconnected, lead I is analysed instead",)
    with pytest.raises(UnreadableSignalError, match=r"lead may name another: I$"):
        predict_file(path, classifier=classifier, lead="II", fs=360.0)


def test_a_second_column_that_cannot_be_read_does_not_stop_the_first(
    classifier: BeatClassifier, tmp_path: Path
) -> None:
    signal = simulate_strip(StripKind.BIGEMINY, seed=11, duration_s=20.0).signal_mv()
    rows = [f"{value:.4f},{value:.4f}" for value in signal.tolist()]
    rows[3000] = rows[3000].split(",")[0] + ",oops"
    path = tmp_path / "pair.csv"
    path.write_text("II,V1\n" + "\n".join(rows) + "\n", encoding="utf-8")
    alone = predict_file(path, classifier=classifier, lead="II", fs=360.0)
    both = predict_file(path, classifier=classifier, fs=360.0)
    assert len(both.classified) == len(alone.classified)
