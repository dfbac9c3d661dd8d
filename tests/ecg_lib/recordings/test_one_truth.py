"""JSON, FHIR, page and PDF of one recording say the same."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.recordings.analysis import Analysis, analyze_recording, write_result
from ecg_lib.recordings.report.charts import draw_strip
from ecg_lib.recordings.report.content import make_report
from ecg_lib.recordings.summary import RecordingSource, ResultFormat
from ecg_lib.records.documents.drawing import Colour, Drawing, Text
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.record import write_wfdb
from ecg_lib.records.simulation.patients import NoiseLevels, draw_patient
from ecg_lib.records.simulation.simulator import simulate_record


@pytest.fixture(scope="module")
def analysis(toy_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """Half an hour that begins at noon, with couplets and runs."""
    directory = tmp_path_factory.mktemp("analysis")
    patient = replace(
        draw_patient(1),
        pvc_episodes_per_min=6.0,
        pattern_weights=(4.0, 0.0, 1.0, 1.0, 2.0, 2.0),
        noise=NoiseLevels(wander_mv=0.05, muscle_mv=0.01),
    )
    record = simulate_record("r", patient=patient, duration_s=900.0, seed=3)
    write_wfdb(record, directory)
    header = directory / "r.hea"
    first, _, rest = header.read_text().partition("\n")
    header.write_text(f"{' '.join(first.split()[:4])} 12:00:00\n{rest}")
    return analyze_recording(
        open_recording(header),
        classifier=BeatClassifier.load(toy_bundle),
        model={"version": "1", "data": "simulated"},
        directory=directory,
        source=RecordingSource(file="holter <7>.hea", patient="P-0042"),
    )


@pytest.fixture(scope="module")
def results(analysis: Analysis, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("results")
    texts = {}
    for kind in (ResultFormat.JSON, ResultFormat.FHIR, ResultFormat.HTML, ResultFormat.PDF):
        path = directory / kind.file_name
        write_result(analysis, path, kind=kind, recording_id="id")
        texts[kind.value] = (
            _text_of_pdf(path.read_bytes()) if kind is ResultFormat.PDF else path.read_text()
        )
    texts["html"] = unescape(re.sub(r"<[^>]*>", "\n", texts["html"]))
    return texts


def _text_of_pdf(content: bytes) -> str:
    """List the strings that a PDF of reportlab shows, one on a line."""
    shown: list[str] = []
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", content, re.DOTALL):
        page = zlib.decompress(base64.a85decode(stream.strip(), adobe=True))
        texts = re.findall(rb"\(((?:[^()\\]|\\.)*)\) Tj", page)
        shown += [re.sub(rb"\\(.)", rb"\1", text).decode("latin-1") for text in texts]
    return "\n".join(shown)


def _fhir_values(results: dict[str, str]) -> dict[str, float]:
    bundle = json.loads(results["fhir"])
    return {
        entry["resource"]["code"]["text"]: entry["resource"]["valueQuantity"]["value"]
        for entry in bundle["entry"]
        if "valueQuantity" in entry["resource"]
    }


def test_counts_are_the_same_in_every_result(results: dict[str, str]) -> None:
    said, fhir = json.loads(results["json"]), _fhir_values(results)
    rhythm = said["rhythm"]
    assert said["ventricular_beats"] == fhir["Premature ventricular contractions [#]"] > 20
    assert rhythm["couplets"] == fhir["Ventricular couplets"] > 0
    assert rhythm["runs"] == fhir["Ventricular runs of three or more"] > 0
    assert fhir["PVC burden"] == round(100 * rhythm["pvc_burden"], 3)
    v_beats = (
        f"{said['ventricular_beats']:,}, {rhythm['pvc_burden']:.2%} of all, "
        f"{rhythm['pvc_per_hour']:.1f} an hour"
    )
    groups = f"{rhythm['isolated']:,}, {rhythm['couplets']:,}, {rhythm['runs']:,}"
    for kind in ("html", "pdf"):
        assert v_beats in results[kind]
        assert groups in results[kind]
    assert sum(hour["v_beats"] for hour in said["hours"]) == said["ventricular_beats"]
    assert sum(hour["runs"] for hour in said["hours"]) == rhythm["runs"]


def test_heart_rates_are_the_same_in_every_result_and_those_of_the_hours(
    results: dict[str, str],
) -> None:
    said, fhir = json.loads(results["json"]), _fhir_values(results)
    rhythm, hours = said["rhythm"], said["hours"]
    least, mean, greatest = (rhythm[f"heart_rate_{name}_bpm"] for name in ("min", "mean", "max"))
    assert least < mean < greatest
    assert min(hour["heart_rate_min_bpm"] for hour in hours) == least
    assert max(hour["heart_rate_max_bpm"] for hour in hours) == greatest
    assert fhir["Heart rate"] == round(mean, 3)
    assert fhir["Heart rate, least of eight intervals"] == round(least, 3)
    assert fhir["Heart rate, greatest of eight intervals"] == round(greatest, 3)
    stated = f"{least:.0f}/min, {mean:.0f}/min, {greatest:.0f}/min"
    for kind in ("html", "pdf"):
        assert stated in results[kind]


def test_attention_and_its_reasons_are_the_same_in_every_result(results: dict[str, str]) -> None:
    said = json.loads(results["json"])
    assert said["risk_basis"] == "recording"
    conclusion = json.loads(results["fhir"])["entry"][0]["resource"]["conclusion"]
    assert f"Attention {said['risk_level']}: " in conclusion
    for reason in said["risk_reasons"]:
        assert "(s)" not in reason
        for kind in ("html", "pdf"):
            assert reason in results[kind]
        assert reason in conclusion
    for kind in ("html", "pdf"):
        assert "The burden does not count: that needs an hour or more." in results[kind]
        assert said["notice"] in results[kind]


def test_file_patient_and_start_are_named_in_every_result(results: dict[str, str]) -> None:
    recording = json.loads(results["json"])["recording"]
    assert recording["file"] == "holter <7>.hea"
    assert recording["patient_reference"] == "P-0042"
    assert recording["start_clock"] == "12:00:00"
    report = json.loads(results["fhir"])["entry"][0]["resource"]
    assert report["subject"] == {"identifier": {"value": "P-0042"}}
    for kind in ("html", "pdf"):
        for value in ("holter <7>.hea", "P-0042", "12:00:00"):
            assert f"\n{value}\n" in results[kind]


def test_what_is_not_known_of_a_recording_is_said(analysis: Analysis, tmp_path: Path) -> None:
    summary = replace(analysis.summary, source=RecordingSource(), start_clock_s=None)
    report = make_report(summary, analysis.signal_mv, model={}, analysed_at="2026-01-01T00:00:00")
    assert report.blocks[0] == (
        (
            ("File", "not stated"),
            ("Patient reference", "not stated"),
            ("Starts at", "not stated"),
        ),
    )


def test_page_and_pdf_have_the_same_words(analysis: Analysis, results: dict[str, str]) -> None:
    in_page = {line.strip() for line in results["html"].splitlines() if line.strip()}
    in_pdf = " ".join(results["pdf"].split())
    facts = [row for block in analysis.report.blocks for row in getattr(block, "rows", ())]
    assert len(facts) > 20
    for row in facts:
        for cell in row:
            assert cell in in_page
            assert " ".join(cell.split()) in in_pdf


def _texts(drawing: Drawing) -> list[Text]:
    return [shape for shape in drawing.shapes if isinstance(shape, Text)]


def test_the_strip_of_a_form_marks_the_beats_of_that_form(analysis: Analysis) -> None:
    summary = analysis.summary
    form = summary.forms[0]
    draw: Callable[..., Drawing] = draw_strip
    of_form, plain = (
        draw(summary, analysis.signal_mv, middle_s=form.example_s, title="t", **more)
        for more in ({"form": 0}, {})
    )
    marks = [text.text for text in _texts(of_form)]
    assert "V A" in marks
    times_s = summary.beats.r_peaks / summary.beats.fs
    start_s = form.example_s - 3.5
    inside = (times_s >= start_s) & (times_s < start_s + 7)
    assert marks.count("V A") == int((inside & (summary.form_of_beats == 0)).sum())
    assert "V A" not in [text.text for text in _texts(plain)]


@pytest.mark.parametrize(
    ("span_mv", "gain", "is_red"),
    [
        (3.9, "10", False),
        (4.1, "5", True),
        (7.9, "5", True),
        (8.1, "2.5", True),
        (40.0, "2.5", True),
    ],
)
def test_a_strip_says_when_its_gain_is_not_the_usual_one(
    analysis: Analysis, span_mv: float, gain: str, *, is_red: bool
) -> None:
    signal = np.zeros_like(analysis.signal_mv)
    signal[::2] = span_mv
    drawing = draw_strip(analysis.summary, signal, middle_s=100.0, title="t")
    (shown,) = (text for text in _texts(drawing) if text.text.startswith("gain"))
    assert shown.text == f"gain {gain} mm/mV"
    assert (shown.colour is Colour.RED, shown.is_bold) == (is_red, is_red)


def test_described_and_summary_are_one(analysis: Analysis) -> None:
    described: dict[str, Any] = analysis.described
    assert described["rhythm"]["heart_rate_max_bpm"] == analysis.summary.rhythm.heart_rate_max_bpm
    assert described["risk_reasons"] == list(analysis.summary.risk.reasons)
