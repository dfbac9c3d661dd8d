"""`ecg feedback import`: annotation files of WFDB as marks on what the service found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.settings import Settings
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.files.wfdb.annotation_file import encode_annotations
from flows.local.cli import app
from flows.monitoring.labels.feedback_import import (
    FeedbackError,
    Found,
    compare,
    import_file,
    list_annotation_files,
)

FS = 360.0


def annotations(*marks: tuple[int, str]) -> Annotations:
    return Annotations(
        samples=np.array([sample for sample, _ in marks], dtype=np.int64),
        symbols=np.array([symbol for _, symbol in marks]),
    )


def test_annotations_become_classes_missed_beats_and_false_detections() -> None:
    found = Found(np.array([100, 400, 700, 1000, 1300]), FS)
    # 54 samples are 150 ms: the second mark belongs to its detection, the third just not.
    marked = annotations((100, "A"), (454, "V"), (755, "V"), (1000, "F"), (1600, "N"))
    marks = compare(marked, found, is_partial=False)
    assert marks == {
        "labels": [
            {"beat_index": 0, "arrhythmia_type": "N"},
            {"beat_index": 1, "arrhythmia_type": "V"},
        ],
        "missed_beats": [
            {"position_sample": 755, "arrhythmia_type": "V"},
            {"position_sample": 1600, "arrhythmia_type": "N"},
        ],
        "false_detections": [{"beat_index": 2}, {"beat_index": 4}],
    }
    assert compare(marked, found, is_partial=True)["false_detections"] == []


def test_beats_inside_flutter_get_no_mark() -> None:
    found = Found(np.array([100, 400, 700]), FS)
    marked = annotations((100, "N"), (300, "["), (500, "]"), (700, "N"))
    marks = compare(marked, found, is_partial=False)
    assert [one["beat_index"] for one in marks["labels"]] == [0, 2]
    assert (marks["missed_beats"], marks["false_detections"]) == ([], [])


@pytest.fixture
def settings(url: str, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, service_port=int(url.rpartition(":")[2]))


@pytest.fixture
def answer(
    predict: Callable[..., httpx.Response], make_request: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    found: dict[str, Any] = predict(**make_request()).json()
    return found


def write(path: Path, positions: list[int], symbols: list[str]) -> Path:
    path.write_bytes(encode_annotations(np.array(positions), np.array(symbols)))
    return path


def test_a_file_that_is_named_by_a_prediction_is_imported(
    answer: dict[str, Any], settings: Settings, tmp_path: Path, http: httpx.Client
) -> None:
    beats = [beat["position_sample"] for beat in answer["beat_predictions"]]
    name = answer["prediction_id"]
    # The first detection is left out, and the others are V.
    file = write(tmp_path / f"{name}.atr", beats[1:], ["V"] * (len(beats) - 1))
    done = import_file(file, settings=settings, annotator="reader 2")
    assert (done.subject, done.labels, done.missed, done.false) == (
        "prediction",
        len(beats) - 1,
        0,
        1,
    )
    marks = http.get(f"/api/v1/predictions/{name}/feedback").json()
    assert [one["beat_index"] for one in marks["labels"]] == list(range(1, len(beats)))
    assert marks["false_detections"] == [{"beat_index": 0}]
    assert {one["annotator"] for one in marks["feedback"]} == {"reader 2"}


def test_positions_of_another_rate_are_those_of_the_header_beside_the_file(
    answer: dict[str, Any], settings: Settings, tmp_path: Path
) -> None:
    beats = [beat["position_sample"] // 2 for beat in answer["beat_predictions"]]
    (tmp_path / "x.hea").write_text("x 1 180 1800\nx.dat 16 200 16 0 0 0 0 II\n")
    file = write(tmp_path / "x.atr", beats, ["N"] * len(beats))
    done = import_file(file, settings=settings, subject_id=answer["prediction_id"])
    assert (done.labels, done.missed, done.false) == (len(beats), 0, 0)


def test_the_command_imports_a_directory_and_reports_what_failed(
    answer: dict[str, Any], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECG_SERVICE_PORT", str(settings.service_port))
    monkeypatch.setenv("ECG_HOME", str(tmp_path))
    beats = [beat["position_sample"] for beat in answer["beat_predictions"]]
    name = answer["prediction_id"]
    write(tmp_path / f"prediction-{name}.atr", beats, ["N"] * len(beats))
    write(tmp_path / "nobody.atr", beats, ["N"] * len(beats))
    done = CliRunner().invoke(app, ["feedback", "import", str(tmp_path)])
    assert done.exit_code == 1
    assert f"prediction {name}: {len(beats)} classes, 0 missed, 0 false" in done.stdout
    assert "must have a prediction or recording nobody, it has none" in done.stderr


def test_a_file_without_beats_and_a_directory_without_files_are_errors(
    answer: dict[str, Any], settings: Settings, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.atr", [10], ["~"])
    with pytest.raises(FeedbackError, match="must have annotations of beats N, S or V"):
        import_file(file, settings=settings, subject_id=answer["prediction_id"], is_partial=True)
    with pytest.raises(ConfigurationError, match=r"annotation files \*\.pvc"):
        list_annotation_files(tmp_path, "pvc")
