"""A recording from file to results: what they say, how they look, and whether they agree."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import wfdb
from fhir.resources.R4B.bundle import Bundle as FhirBundle
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from fhir.resources.R4B.observation import Observation
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

import ecg_lib.recordings.analysis as module
from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import MissingDetailError, UnreadableSignalError
from ecg_lib.recordings.analysis import (
    Analysis,
    analyze_recording,
    write_result,
)
from ecg_lib.recordings.beat_file import read_beats, write_beats
from ecg_lib.recordings.report.charts import (
    draw_burden,
    draw_heart_rate,
    draw_intervals,
    draw_strip,
)
from ecg_lib.recordings.report.content import Paragraph, make_report
from ecg_lib.recordings.summary import ResultFormat
from ecg_lib.records.documents.drawing import to_svg
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.files.wfdb.annotation_file import encode_annotations
from ecg_lib.records.simulation.patients import NoiseLevels, draw_patient
from ecg_lib.records.simulation.simulator import StripKind, simulate_record, simulate_strip


@pytest.fixture(scope="module")
def classifier(toy_bundle: Bundle) -> BeatClassifier:
    return BeatClassifier.load(toy_bundle)


@pytest.fixture(scope="module")
def analysis(classifier: BeatClassifier, tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    directory = tmp_path_factory.mktemp("analysis")
    patient = replace(
        draw_patient(1),
        pvc_episodes_per_min=6.0,
        pattern_weights=(4.0, 0.0, 1.0, 1.0, 2.0, 2.0),
        noise=NoiseLevels(wander_mv=0.05, muscle_mv=0.01),
    )
    record = simulate_record("r", patient=patient, duration_s=900.0, seed=3)
    signal = record.signal_mv()
    signal[180_000:190_000] = 0.0
    np.save(directory / "r.npy", signal)
    return analyze_recording(
        open_recording(directory / "r.npy", fs=360.0),
        classifier=classifier,
        model={"version": "1", "data": "simulated"},
        directory=directory,
    )


def _write(analysis: Analysis, directory: Path, kind: ResultFormat) -> Path:
    path = directory / kind.file_name
    write_result(analysis, path, kind=kind, recording_id="id")
    return path


def test_the_summary_agrees_with_itself(analysis: Analysis, tmp_path: Path) -> None:
    result = json.loads(_write(analysis, tmp_path, ResultFormat.JSON).read_text())
    rhythm = result["rhythm"]
    assert result["ventricular_beats"] == sum(hour["v_beats"] for hour in result["hours"])
    assert rhythm["couplets"] == len(result["couplets"]) > 0
    assert rhythm["runs"] == len(result["runs"]) > 0
    assert rhythm["pvc_burden"] == pytest.approx(
        result["ventricular_beats"] / (result["normal_beats"] + result["ventricular_beats"])
    )
    forms = result["morphologies"]
    assert forms["count"] == len(forms["forms"]) >= 1
    in_forms = sum(form["beats"] for form in forms["forms"])
    assert in_forms + forms["other_beats"] == result["ventricular_beats"]
    assert result["signal_quality"]["unreadable"][0]["reason"] == "flat"
    assert 0.9 < result["signal_quality"]["usable_share"] < 1
    assert result["risk_basis"] == "recording"


def test_csv_annotations_and_stretches_list_the_same_beats(
    analysis: Analysis, tmp_path: Path
) -> None:
    text = _write(analysis, tmp_path, ResultFormat.CSV).read_text()
    rows = list(csv.DictReader(text.splitlines()))
    beats = analysis.summary.beats
    assert [int(row["position_sample"]) for row in rows] == beats.r_peaks.tolist()
    calls = [row["arrhythmia_type"] for row in rows]
    assert calls.count("V") == analysis.summary.rhythm.v_beats
    assert calls.count("") == (~beats.is_readable).sum()
    _write(analysis, tmp_path, ResultFormat.ATR)
    written = wfdb.rdann(str(tmp_path / "beats"), "pvc")
    symbols = np.array(written.symbol)
    assert written.sample[symbols != "~"].tolist() == beats.r_peaks.tolist()
    assert (symbols == "V").sum() == calls.count("V")
    assert (symbols == "~").sum() == 2 * len(beats.unreadable)
    write_beats(analysis.summary, tmp_path)
    stretch = read_beats(tmp_path, start_s=0.0, duration_s=900.0, max_beats=100_000)
    assert [call or "" for call in stretch.columns["type"]] == calls
    assert [form is not None for form in stretch.columns["form"]] == [
        row["form"] != "" for row in rows
    ]
    cut = read_beats(tmp_path, start_s=100.0, duration_s=500.0, max_beats=7)
    assert len(cut.columns["time_s"]) == 7 < cut.total
    assert cut.columns["time_s"][0] >= 100.0


@settings(max_examples=100, deadline=None)
@given(
    gaps=st.lists(st.integers(0, 2**31 - 2), max_size=30),
    symbols=st.text("NVQ/~[!]", min_size=30, max_size=30),
)
def test_annotations_are_read_back_as_they_were(
    gaps: list[int], symbols: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    samples = np.cumsum(np.array(gaps, dtype=np.int64))
    chosen = np.array(list(symbols[: len(samples)]), dtype="U1")
    path = tmp_path_factory.mktemp("ann") / "r.pvc"
    path.write_bytes(encode_annotations(samples, chosen))
    if len(samples):
        back = wfdb.rdann(str(path.with_suffix("")), "pvc")
        assert back.sample.tolist() == samples.tolist()
        assert back.symbol == chosen.tolist()


def test_every_symbol_that_is_written_is_read_back_and_no_other_is_lost(tmp_path: Path) -> None:
    symbols = np.array(["[", "!", "]", "N", "V", "Q", "/", "~"])
    samples = np.arange(len(symbols)) * 400
    (tmp_path / "r.pvc").write_bytes(encode_annotations(samples, symbols))
    back = wfdb.rdann(str(tmp_path / "r"), "pvc")
    assert (back.sample.tolist(), back.symbol) == (samples.tolist(), symbols.tolist())
    with pytest.raises(KeyError, match="A"):
        encode_annotations(samples[:2], np.array(["N", "A"]))


def test_fhir_resources_fit_the_models_of_r4(analysis: Analysis, tmp_path: Path) -> None:
    bundle = FhirBundle.model_validate_json(
        _write(analysis, tmp_path, ResultFormat.FHIR).read_bytes()
    )
    report, *observations = [entry.resource for entry in bundle.entry]
    assert isinstance(report, DiagnosticReport)
    assert report.code.coding[0].code == "18754-2"
    urls = {entry.fullUrl for entry in bundle.entry}
    assert {result.reference for result in report.result} == urls - {bundle.entry[0].fullUrl}
    values = {}
    for observation in observations:
        assert isinstance(observation, Observation)
        if observation.code.coding:
            values[observation.code.coding[0].code] = float(observation.valueQuantity.value)
    rhythm = analysis.summary.rhythm
    assert values["76126-2"] == rhythm.v_beats
    assert values["8867-4"] == pytest.approx(rhythm.heart_rate_mean_bpm, abs=1e-3)
    again = tmp_path / "again.json"
    write_result(analysis, again, kind=ResultFormat.FHIR, recording_id="id")
    assert again.read_bytes() == (tmp_path / "fhir.json").read_bytes()


def test_the_page_has_the_figures_and_needs_nothing_from_elsewhere(
    analysis: Analysis, tmp_path: Path
) -> None:
    page = _write(analysis, tmp_path, ResultFormat.HTML).read_text()
    assert not re.findall(r'(?:src|href)\s*=\s*"(?!data:)', page)
    assert "not a diagnosis" in page
    assert f"{analysis.summary.rhythm.v_beats:,}, " in page
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    titles = [ET.fromstring(svg).attrib["aria-label"] for svg in drawings]  # noqa: S314  our own
    assert any(title.startswith("Longest run: ") for title in titles)
    for form in analysis.summary.forms:
        assert any(title.startswith(f"Form {form.name} ") for title in titles)


def test_the_pdf_has_pages_and_is_the_same_again(analysis: Analysis, tmp_path: Path) -> None:
    first = _write(analysis, tmp_path, ResultFormat.PDF).read_bytes()
    assert first.count(b"/Type /Page\n") + first.count(b"/Type /Page ") >= 2
    assert first == _write(analysis, tmp_path, ResultFormat.PDF).read_bytes()


def test_page_and_pdf_are_written_from_one_report(
    analysis: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(
        module, "make_report", lambda *a, **k: made.append(1) or make_report(*a, **k)
    )
    fresh = replace(analysis)
    _write(fresh, tmp_path, ResultFormat.HTML)
    _write(fresh, tmp_path, ResultFormat.PDF)
    assert len(made) == 1


def test_a_result_that_cannot_be_written_leaves_nothing(analysis: Analysis, tmp_path: Path) -> None:
    odd = replace(analysis, described={"figure": float("nan")})
    (tmp_path / ".beats.csv.draft").mkdir()
    with pytest.raises(ValueError, match="JSON"):
        _write(odd, tmp_path, ResultFormat.JSON)
    broken = replace(analysis, described={})
    with pytest.raises(KeyError, match="model"):
        _write(broken, tmp_path, ResultFormat.HTML)
    assert [path.name for path in tmp_path.iterdir()] == [".beats.csv.draft"]


def _analyze(signal: NDArray[np.floating], directory: Path, classifier: BeatClassifier) -> Analysis:
    np.save(directory / "r.npy", signal)
    return analyze_recording(
        open_recording(directory / "r.npy", fs=360.0),
        classifier=classifier,
        model={},
        directory=directory,
    )


def test_the_same_seconds_can_be_read_in_every_figure(
    classifier: BeatClassifier, tmp_path: Path
) -> None:
    """Twenty seconds of waves that look like flutter are told apart from what cannot be read."""
    record = simulate_record("r", patient=draw_patient(1), duration_s=120.0, seed=3)
    signal = record.signal_mv().astype(np.float64)
    at = np.arange(20 * 360)
    signal[30 * 360 : 50 * 360] = np.sin(2 * np.pi * 4.5 * at / 360 + np.sin(at / 300))
    analysis = _analyze(signal, tmp_path, classifier)
    beats, quality = analysis.summary.beats, analysis.described["signal_quality"]
    assert beats.flutter_s == pytest.approx(20, abs=4)
    assert beats.readable_s == beats.duration_s - quality["unreadable_s"]
    assert quality["usable_share"] == beats.readable_s / beats.duration_s
    assert sum(hour["readable_s"] for hour in analysis.described["hours"]) == pytest.approx(
        beats.readable_s
    )
    (text,) = (
        block.text
        for block in analysis.report.blocks
        if isinstance(block, Paragraph) and "could be read" in block.text
    )
    assert "s of what could be read is suspected flutter" in text
    assert "(flutter" not in text
    assert ", flutter" not in text


def test_paced_beats_are_normal_in_no_figure(
    classifier: BeatClassifier, tmp_path: Path, make_paced: Callable[[float], NDArray[np.float64]]
) -> None:
    summary = _analyze(make_paced(400.0), tmp_path, classifier).summary
    assert summary.beats.is_paced.mean() > 0.9
    assert summary.rhythm.beats > 450
    assert summary.rhythm.heart_rate_bpm == pytest.approx(75, abs=1)
    assert (summary.variability.is_valid, summary.variability.sdnn_ms) == (False, None)
    assert summary.variability.nn_share < 0.1


def test_a_time_is_that_of_the_clock_or_since_the_beginning(analysis: Analysis) -> None:
    summary = analysis.summary
    assert summary.name_time(3_661.0) == "01:01:01"
    assert summary.name_time(86_400.0) == "24:00:00"
    at_noon = replace(summary, start_clock_s=43_200.0)
    assert at_noon.name_time(86_400.0) == "12:00:00"
    assert summary.name_time(300_000.0) == "83:20:00"


def test_a_time_in_a_recording_of_days_has_its_day(analysis: Analysis) -> None:
    beats = replace(analysis.summary.beats, n_samples=round(86_401 * analysis.summary.beats.fs))
    summary = replace(analysis.summary, beats=beats, start_clock_s=43_200.0)
    assert summary.name_time(0.0) == "d1 12:00:00"
    assert summary.name_time(43_199.0) == "d1 23:59:59"
    assert summary.name_time(43_200.0) == "d2 00:00:00"


def test_a_strip_has_the_scale_of_ecg_paper(analysis: Analysis) -> None:
    drawing = draw_strip(analysis.summary, analysis.signal_mv, middle_s=100.0, title="strip")
    root = ET.fromstring(to_svg(drawing))  # noqa: S314  our own
    width = float(root.attrib["width"].removesuffix("mm"))
    assert float(root.attrib["viewBox"].split()[2]) == width  # a unit is a millimetre
    trace = max(
        (line.attrib["points"] for line in root.iter("{http://www.w3.org/2000/svg}polyline")),
        key=len,
    )
    points = np.array([pair.split(",") for pair in trace.split()], dtype=float)
    assert np.ptp(points[:, 0]) == pytest.approx(7 * 25, abs=0.2)
    shown = analysis.signal_mv[round(96.5 * 360) : round(103.5 * 360)]
    assert np.ptp(points[:, 1]) == pytest.approx(10 * np.ptp(shown), abs=0.2)


def test_charts_are_drawn_of_what_has_no_beats_too(analysis: Analysis) -> None:
    summary = analysis.summary
    nothing = replace(
        summary,
        rate_by_minute_bpm=np.full(15, np.nan),
        hours=(replace(summary.hours[0], beats=0, v_beats=0, burden=None),),
    )
    for draw in (draw_heart_rate, draw_burden, draw_intervals):
        ET.fromstring(to_svg(draw(nothing)))  # noqa: S314  our own


@pytest.mark.parametrize(
    ("lead", "second_lead", "heard"),
    [(None, None, "V1"), ("MLII", None, None), ("MLII", "V5", "V5"), ("V5", "MLII", "MLII")],
)
def test_a_second_lead_is_chosen_named_or_left_out(
    classifier: BeatClassifier,
    tmp_path: Path,
    lead: str | None,
    second_lead: str | None,
    heard: str | None,
) -> None:
    first = simulate_record("r", patient=draw_patient(1), duration_s=60.0, seed=3)
    signals = {"MLII": first.signal_mv().astype(np.float64)}
    signals["V1"] = ndimage.gaussian_filter1d(signals["MLII"], 5.0)
    signals["V5"] = ndimage.gaussian_filter1d(signals["MLII"], 3.0)
    wfdb.wrsamp(
        "three",
        fs=360.0,
        units=["mV"] * 3,
        sig_name=list(signals),
        p_signal=np.stack(list(signals.values()), axis=1),
        fmt=["16"] * 3,
        write_dir=str(tmp_path),
    )
    opened = open_recording(tmp_path / "three.hea")
    analysis = analyze_recording(
        opened,
        lead=lead,
        second_lead=second_lead,
        classifier=classifier,
        model={"version": "1"},
        directory=tmp_path,
    )
    read = wfdb.rdrecord(str(tmp_path / "three")).p_signal.astype(np.float32)
    columns = dict(zip(signals, read.T, strict=True))
    expected = classifier.classify(
        columns[lead or "MLII"], others_mv=[columns[heard]] if heard else [], fs=360.0
    )
    assert analysis.described["recording"]["second_lead"] == heard
    np.testing.assert_allclose(
        analysis.summary.beats.probability_v, expected.probability_v, rtol=0, atol=1e-6
    )


def test_a_dead_lead_is_passed_over_unless_it_is_named(
    classifier: BeatClassifier, tmp_path: Path
) -> None:
    signal = simulate_strip(StripKind.BIGEMINY, seed=11, duration_s=20.0).signal_mv()
    samples = np.stack([np.zeros(len(signal)), signal, np.zeros(len(signal))], axis=1)
    path = tmp_path / "dead.csv"
    np.savetxt(path, samples, "%.4f", delimiter=",", header="II,I,V1", comments="")
    opened = open_recording(path, fs=360.0)
    analysis = analyze_recording(
        opened, classifier=classifier, model={}, directory=tmp_path, warnings=("as told",)
    )
    recording = analysis.described["recording"]
    assert (recording["lead"], recording["second_lead"]) == ("I", None)
    told = {
        "as told",
        "lead II is flat or disconnected, lead I is analysed instead",
        "lead V1 is not used in the classification: it is flat or disconnected",
    }
    assert told <= set(analysis.summary.warnings)
    with pytest.raises(UnreadableSignalError, match=r"lead II, lead may name another: I$"):
        analyze_recording(opened, lead="II", classifier=classifier, model={}, directory=tmp_path)


def test_samples_in_volts_without_a_unit_ask_for_it(
    classifier: BeatClassifier, tmp_path: Path
) -> None:
    signal = simulate_strip(StripKind.BIGEMINY, seed=11, duration_s=20.0).signal_mv()
    np.save(tmp_path / "volts.npy", signal.astype(np.float64) / 1000)
    with pytest.raises(MissingDetailError, match="unit must be given"):
        analyze_recording(
            open_recording(tmp_path / "volts.npy", fs=360.0),
            classifier=classifier,
            model={},
            directory=tmp_path,
        )


def test_what_cannot_be_read_has_no_result(classifier: BeatClassifier, tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.zeros(7200))
    with pytest.raises(UnreadableSignalError, match=r"0\.0 s of 20\.0 s \(flat\)"):
        analyze_recording(
            open_recording(tmp_path / "flat.npy", fs=360.0),
            classifier=classifier,
            model={},
            directory=tmp_path,
        )
