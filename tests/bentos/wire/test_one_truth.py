"""The answer to a request and the result of a recording agree on the figures of one signal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bentos.wire.answers import build_answer
from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.recordings.long_recordings import classify_recording
from ecg_lib.recordings.strips import describe, predict_file
from ecg_lib.recordings.summary import describe_summary, summarize_recording
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import StripKind, simulate_record, simulate_strip

SHARED = (
    "overall_arrhythmia_type",
    "risk_level",
    "risk_reasons",
    "total_beats_detected",
    "normal_beats",
    "ventricular_beats",
    "paced_beats",
    "unreadable_beats",
    "threshold",
)
RATES_AND_COUNTS = (
    "heart_rate_bpm",
    "heart_rate_min_bpm",
    "heart_rate_max_bpm",
    "heart_rate_mean_bpm",
    "longest_rr_s",
    "pvc_burden",
    "isolated",
    "couplets",
    "bigeminy_beats",
    "trigeminy_beats",
    "r_on_t",
)


@pytest.mark.parametrize("seed", [1, 4])
def test_answer_and_recording_have_the_same_figures(toy_bundle: Bundle, seed: int) -> None:
    patient = replace(draw_patient(seed), pvc_episodes_per_min=8.0)
    record = simulate_record("one", patient=patient, duration_s=180.0, seed=seed)
    signal, classifier = record.signal_mv(), BeatClassifier.load(toy_bundle)
    answer = build_answer(classifier.classify(signal, fs=record.fs), fs=record.fs)
    beats = classify_recording(signal, fs=record.fs, classifier=classifier)
    summary = summarize_recording(beats, lead="MLII", leads=("MLII",))
    result = describe_summary(summary, model={}, analysed_at="")

    assert answer["ventricular_beats"] > 5
    assert (answer["risk_basis"], result["risk_basis"]) == ("strip", "recording")
    assert {name: result[name] for name in SHARED} == {name: answer[name] for name in SHARED}
    shown, rhythm = result["rhythm"], answer["rhythm"]
    assert {name: shown[name] for name in RATES_AND_COUNTS} == pytest.approx(
        {name: rhythm[name] for name in RATES_AND_COUNTS}
    )
    assert (shown["runs"], shown["pauses"]) == (len(rhythm["runs"]), len(rhythm["pauses"]))
    assert result["runs"] == rhythm["runs"]
    assert result["pauses"] == rhythm["pauses"]
    assert result["patterns"] == rhythm["patterns"]
    assert result["couplets"] == rhythm["couplet_starts_s"]
    assert len(rhythm["couplet_starts_s"]) == rhythm["couplets"]
    low, mean, high = (rhythm[f"heart_rate_{name}_bpm"] for name in ("min", "mean", "max"))
    assert low <= mean <= high


@pytest.mark.parametrize(
    ("scale", "fs", "words"),
    [(60.0, 250.0, "must be in mV"), (0.03, 250.0, "must be in mV"), (1.0, 125.0, "too low")],
)
def test_what_is_doubted_is_low_in_no_route(
    toy_bundle: Bundle, tmp_path: Path, scale: float, fs: float, words: str
) -> None:
    strip = simulate_strip(StripKind.NORMAL, seed=1, duration_s=30.0, fs=250.0)
    signal, classifier = scale * strip.signal_mv(), BeatClassifier.load(toy_bundle)
    answer = build_answer(classifier.classify(signal, fs=fs), fs=fs)
    summary = summarize_recording(
        classify_recording(signal, fs=fs, classifier=classifier), lead="MLII", leads=("MLII",)
    )
    result = describe_summary(summary, model={}, analysed_at="")
    for found in (answer, result):
        assert found["ventricular_beats"] == 0
        assert found["risk_level"] == "MEDIUM"
        assert words in found["risk_reasons"][0]
        assert words in found["signal_quality"]["warnings"][0]
    np.save(tmp_path / "strip.npy", signal)
    predicted = describe(predict_file(tmp_path / "strip.npy", classifier=classifier, fs=fs))
    assert "risk MEDIUM (not judged" in predicted
