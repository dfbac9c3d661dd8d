"""Files as people have them, by the way of `ecg analyze`, `predict` and `annotate`.

`tests/cases` has a folder for each kind of recording that once came out wrong; `cases.json` says
what must come out of each.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.errors import EcgError
from ecg_lib.recordings.strips import annotate_record, predict_file
from ecg_lib.records.files.lead import choose_lead
from ecg_lib.records.files.opening import open_recording
from flows.recordings import commands
from flows.recordings.analyzed_files import Request, analyze_file
from flows.recordings.listing import list_recordings
from flows.release.load_released import read_reference

CASES = Path(__file__).parents[2] / "cases"

TABLE: list[dict[str, Any]] = json.loads((CASES / "cases.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shipped() -> BeatClassifier:
    """The classifier that is shipped: the numbers of `expect.txt` are its own."""
    return BeatClassifier.load(read_reference())


@pytest.mark.parametrize("case", TABLE, ids=[case["path"] for case in TABLE])
def test_a_file_is_analysed_right_or_refused_with_a_clear_word(
    case: dict[str, Any], shipped: BeatClassifier, tmp_path: Path
) -> None:
    request = Request(
        path=str(CASES / case["path"]),
        output_dir=str(tmp_path),
        formats=("json",),
        **case.get("options", {}),
    )
    if "words" in case:
        with pytest.raises(EcgError, match=case["words"]):
            analyze_file(request, classifier=shipped, model={})
        return
    done = analyze_file(request, classifier=shipped, model={})
    found = json.loads((tmp_path / f"{Path(case['path']).stem}.json").read_text())
    rhythm, quality = found["rhythm"], found["signal_quality"]
    if case["beats"] is not None:
        assert found["total_beats_detected"] - found["unreadable_beats"] == case["beats"]
    if case["v"] is not None:
        assert found["ventricular_beats"] == case["v"]
    if "lead" in case:
        assert done.lead == case["lead"]
    if "rate" in case:
        assert round(rhythm["heart_rate_bpm"]) == case["rate"]
    if "duration_s" in case:
        assert found["recording"]["duration_s"] == pytest.approx(case["duration_s"], abs=0.01)
    assert quality["unreadable_s"] == pytest.approx(case.get("unreadable_s", 0.0), abs=0.01)
    assert quality["missing_s"] == pytest.approx(case.get("unreadable_s", 0.0), abs=0.01)
    assert {one["kind"] for one in quality["findings"]} == set()
    assert rhythm["pauses"] == 0
    if "warning" in case:
        assert any(re.search(case["warning"], warning) for warning in quality["warnings"])
    else:
        assert quality["warnings"] == []


@pytest.mark.parametrize("case", [case for case in TABLE if "span_mv" in case], ids=str)
def test_samples_are_in_millivolts(case: dict[str, Any]) -> None:
    options = case.get("options", {})
    opened = open_recording(
        CASES / case["path"], fs=options.get("sampling_rate"), unit=options.get("unit")
    )
    samples_mv = np.concatenate(list(opened.blocks(choose_lead(opened.leads))))
    assert float(np.ptp(samples_mv)) == pytest.approx(case["span_mv"], abs=0.01)


def test_the_first_beat_after_a_gap_is_a_beat_like_others(shipped: BeatClassifier) -> None:
    prediction = predict_file(CASES / "gap-asystole" / "gap.hea", classifier=shipped)
    prepared = prediction.classified.prepared
    first = int(np.searchsorted(prepared.r_peaks, 3000))
    # At 3016 is the T wave of a beat that the gap hides.
    assert abs(int(prepared.r_peaks[first]) - 3156) <= 2
    assert prepared.beat_quality[first] == "ok"
    assert not prediction.classified.is_v[first]
    assert np.isnan(prepared.rr_prev_s[first])


@pytest.mark.parametrize(
    "path",
    [
        "annotate-false-checksum/frames.hea",
        "annotate-non-voltage/abplast.hea",
        "checksum-zero/cs0.hea",
        "fmt32-baseline-10-digits/fmt32.hea",
        "edf-lead-not-ecg/pleth_first.edf",
    ],
)
def test_a_record_is_annotated_and_predicted_as_it_is_analysed(
    path: str, shipped: BeatClassifier, tmp_path: Path
) -> None:
    (case,) = (case for case in TABLE if case["path"] == path)
    annotated = annotate_record(CASES / path, classifier=shipped, output_dir=tmp_path)
    prediction = predict_file(CASES / path, classifier=shipped)
    assert annotated.path.is_file()
    assert annotated.lead == prediction.lead
    for found in (annotated.v_beats, int(prediction.classified.is_v.sum())):
        assert found == case["v"]
    assert int(prediction.classified.is_readable.sum()) == case["beats"]


def test_prediction_of_a_file_takes_its_unit(shipped: BeatClassifier) -> None:
    path = CASES / "unit-silent" / "uv_nounit.csv"
    assert "must be in mV" in predict_file(path, classifier=shipped).warnings[0]
    assert predict_file(path, classifier=shipped, unit="uV").warnings == ()


def test_a_directory_without_recordings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.docx").write_bytes(b"x")
    (tmp_path / "README.txt").write_text("Nothing but words.\n")
    listed = list_recordings([tmp_path])
    assert listed.paths == []
    assert "the directory must hold a recording" in listed.refused[tmp_path]
    assert [path.name for path in list_recordings([CASES / "directory-nothing-read"]).paths] == [
        "plain.bdf",
        "polar.txt",
    ]


def test_annotations_of_recordings_with_one_name_do_not_replace_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (tmp_path / day / "plain.hea" for day in ("monday", "tuesday"))
    for path in (first, second):
        path.parent.mkdir()
        for suffix in (".hea", ".dat"):
            source = CASES / "dat-without-header" / f"plain{suffix}"
            path.with_suffix(suffix).write_bytes(source.read_bytes())
    with pytest.raises(typer.Exit):
        commands.annotate([first, second], output_dir=tmp_path / "out")
    assert "a recording must have a name of its own, 2 are plain" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
