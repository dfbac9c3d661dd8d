"""Import WFDB annotation files as feedback to predictions and recordings of the service.

The annotations are compared with the beats that the service found, as they are scored: within
150 ms. Beats of the classes F and Q, and detections inside flutter, are left without a mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import ConfigurationError, EcgError
from ecg_lib.evaluation.beat_scoring import NO_BEAT, label_beats
from ecg_lib.operations.settings import Settings
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.files.wfdb.annotated_record import read_annotations
from ecg_lib.records.files.wfdb.header import find_beside
from ecg_lib.records.files.wfdb.wfdb_file import read_wfdb_header
from ecg_lib.signal_path.r_peaks.matching import MATCH_TOLERANCE_S, match_beats
from flows.release.switch_service import key_header, service_url

_CLASS: Final = {"N": "N", "S": "N", "V": "V"}
_AT_ONCE: Final = 5000
"""Marks of one request; the service takes twice as many."""
_NAME: Final = re.compile(r"(?:(?:recording|prediction)-)?(.+)")
_TIMEOUT_S: Final = 30.0
_LONGEST_S: Final = 14 * 24 * 3600.0


class FeedbackError(EcgError):
    """Annotations cannot be imported."""


class Subject(StrEnum):
    """Kinds of objects that feedback marks."""

    PREDICTION = "prediction"
    RECORDING = "recording"


class Found(NamedTuple):
    """The beats that the service found."""

    positions: NDArray[np.int64]
    """R-peaks in samples, ascending."""
    fs: float


class Imported(NamedTuple):
    """One file that was imported."""

    file: Path
    subject: Subject
    subject_id: str
    labels: int
    missed: int
    false: int


def list_annotation_files(path: Path, extension: str) -> list[Path]:
    """List the annotation files of a directory, or the one file.

    Raises:
        ConfigurationError: If there is none.
    """
    if path.is_file():
        return [path]
    found = sorted(path.glob(f"*.{extension}"))
    if not found:
        msg = f"there must be annotation files *.{extension} in {path}, found none"
        raise ConfigurationError(msg)
    return found


def name_subject(file: Path) -> str:
    """Return the id in the name of a file, such as ``recording-ID.atr`` or ``ID.atr``.

    >>> name_subject(Path("recording-3f2a.atr"))
    '3f2a'
    """
    named = _NAME.fullmatch(file.stem)
    return named[1] if named else file.stem


def import_file(
    file: Path,
    *,
    settings: Settings,
    subject_id: str | None = None,
    annotator: str | None = None,
    is_partial: bool = False,
) -> Imported:
    """Send the annotations of a file as feedback.

    Args:
        file: The annotation file. Its positions are in samples of the signal, unless it or a
            header beside it states another rate.
        settings: Where the service is, and our key.
        subject_id: Id of the prediction or recording; that in the name of the file when left out.
        annotator: The reader.
        is_partial: True when the file marks only some of the beats, so that a detection without
            an annotation says nothing.

    Raises:
        FeedbackError: If the service has no such prediction or recording, or refuses the marks.
        RecordError: If the file cannot be read.
    """
    name = subject_id or name_subject(file)
    with httpx.Client(
        base_url=service_url(settings),
        headers=key_header(settings),
        timeout=_TIMEOUT_S,
        trust_env=False,
    ) as client:
        subject, found = _find(client, name)
        marks = compare(_read(file, fs=found.fs), found, is_partial=is_partial)
        if not any(marks.values()):
            msg = f"{file.name} must have annotations of beats N, S or V, it has none"
            raise FeedbackError(msg)
        for part in _parts(marks):
            body = {f"{subject}_id": name, **part}
            if annotator is not None:
                body["annotator"] = annotator
            _ask(client, "POST", "/api/v1/feedback/", json=body)
    return Imported(file, subject, name, *(len(marks[key]) for key in _KEYS))


_KEYS: Final = ("labels", "missed_beats", "false_detections")


def compare(
    annotations: Annotations, found: Found, *, is_partial: bool
) -> dict[str, list[dict[str, Any]]]:
    """Turn annotations into marks on the beats that were found.

    Args:
        annotations: In samples of the same rate.
        found: The beats that the service found.
        is_partial: See :func:`import_file`.

    Returns:
        `labels`, `missed_beats` and `false_detections`, as the service takes them.
    """
    truth = label_beats(annotations, found.positions, fs=found.fs)
    beats, classes = annotations.beat_samples, annotations.beat_classes
    match = match_beats(beats, found.positions, tolerance=round(MATCH_TOLERANCE_S * found.fs))
    is_missed = (match.of_reference < 0) & ~annotations.is_in_flutter(beats)
    return {
        "labels": [
            {"beat_index": index, "arrhythmia_type": _CLASS[label]}
            for index, label in enumerate(truth.tolist())
            if label in _CLASS
        ],
        "missed_beats": [
            {"position_sample": sample, "arrhythmia_type": _CLASS[label]}
            for sample, label in zip(
                beats[is_missed].tolist(), classes[is_missed].tolist(), strict=True
            )
            if label in _CLASS
        ],
        "false_detections": []
        if is_partial
        else [
            {"beat_index": index} for index, label in enumerate(truth.tolist()) if label == NO_BEAT
        ],
    }


def _parts(marks: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """Divide marks into requests that the service takes."""
    for key, values in marks.items():
        for start in range(0, len(values), _AT_ONCE):
            yield {key: values[start : start + _AT_ONCE]}


def _read(file: Path, *, fs: float) -> Annotations:
    header = find_beside(file, f"{file.stem}.hea")
    header_fs = read_wfdb_header(header).fs if header.is_file() else fs
    return read_annotations(
        file.with_suffix(""), extension=file.suffix[1:], header_fs=header_fs, fs=fs
    )


def _find(client: httpx.Client, name: str) -> tuple[Subject, Found]:
    """Find the beats of a prediction or recording by its id."""
    answer = _get(client, f"/api/v1/predictions/{name}")
    if answer is not None:
        beats = [beat["position_sample"] for beat in answer["beat_predictions"]]
        found = Found(np.array(beats, dtype=np.int64), answer["sampling_rate"])
        return Subject.PREDICTION, found
    job = _get(client, f"/api/v1/recordings/{name}")
    if job is None:
        msg = (
            f"the service must have a prediction or recording {name}, it has none; name one with "
            "--id, or call the file by its id"
        )
        raise FeedbackError(msg)
    fs = float(job["sampling_rate"])
    times_s: list[float] = []
    while True:
        # A microsecond behind the last one, so that it is not listed twice.
        start_s = times_s[-1] + 1e-4 if times_s else 0.0
        query = {"start_s": start_s, "duration_s": _LONGEST_S}
        part = _ask(client, "GET", f"/api/v1/recordings/{name}/beats", params=query)
        times_s += part["time_s"]
        if len(part["time_s"]) == part["total"]:
            break
    return Subject.RECORDING, Found(np.rint(np.array(times_s) * fs).astype(np.int64), fs)


def _get(client: httpx.Client, path: str) -> dict[str, Any] | None:
    """Read an object; None when there is none."""
    try:
        return _ask(client, "GET", path)
    except _MissingError:
        return None


class _MissingError(FeedbackError):
    """The service has no such object."""


def _ask(client: httpx.Client, method: str, path: str, **request: Any) -> dict[str, Any]:  # noqa: ANN401  as httpx takes it
    try:
        response = client.request(method, path, **request)
    except httpx.HTTPError as error:
        msg = f"the service must answer at {client.base_url}, it does not: {error}"
        raise FeedbackError(msg) from error
    body: dict[str, Any] = response.json()
    if response.is_success:
        return body
    kind = _MissingError if response.status_code == HTTPStatus.NOT_FOUND else FeedbackError
    msg = f"the service refuses {method} {path}: {body.get('detail', response.status_code)}"
    raise kind(msg)
