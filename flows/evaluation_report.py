"""Score a classifier on raw records, as EC57 and ``bxb`` do; the only opener of DS2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.annotations import DS1, DS2, PACED, Annotations
from ecg_lib.bundle import Bundle
from ecg_lib.classifier import BeatClassifier, require_readable
from ecg_lib.errors import EcgError, UnreadableSignalError
from ecg_lib.evaluation import (
    LEARNING_PERIOD_S,
    BeatCounts,
    add_up,
    bootstrap_interval,
    by_subject,
    score_beats,
)
from ecg_lib.preprocessing import prepare_beats
from ecg_lib.records import Record, read_wfdb

_STRIP_S: Final = 10
OPENINGS: Final = Path("docs") / "ds2-openings.md"

_OPENINGS_HEAD: Final = """# Openings of DS2

Every score on a DS2 record is an opening. Only `ecg evaluate --final` does it, and it writes the
line here. No threshold, rule or hyperparameter was chosen after looking at this table.

| Date (UTC) | Commit | Bundle | Reason | V-F1 | strict | without 202 | Se | +P | FPR | reference R-peaks | after 5 min | 10 s strips | accuracy | QRS Se | QRS +P |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501  one row of a table is one line


class EvaluationError(EcgError):
    """An evaluation that cannot or may not be made."""


def measure_r_peaks(directory: Path, names: Sequence[str] = DS1 + PACED) -> dict[str, BeatCounts]:
    """Score the R-peak detector on development and paced records, by record."""
    if set(names) & set(DS2):
        msg = "R-peaks of DS2 are scored by an opening alone"
        raise EvaluationError(msg)
    counts = {}
    for name in names:
        record = read_wfdb(directory / name, with_annotations=True)
        detections = prepare_beats(record.signal_mv(), fs=record.fs).r_peaks
        counts[name] = _score(record.annotations, detections, np.zeros(len(detections), bool))
    return counts


def open_ds2(bundle: Bundle, directory: Path) -> dict[str, Any]:
    """Score a bundle on DS2: end to end, with reference R-peaks, after 5 min, and on strips."""
    classifier = BeatClassifier.load(bundle)
    whole: dict[str, BeatCounts] = {}
    later: dict[str, BeatCounts] = {}
    reference: dict[str, BeatCounts] = {}
    strips: dict[str, BeatCounts] = {}
    for name in DS2:
        record = read_wfdb(directory / name, with_annotations=True)
        signal = record.signal_mv()
        found = classifier.classify(signal, fs=record.fs)
        scored = (record.annotations, found.r_peaks, found.is_v, found.is_readable)
        whole[name] = _score(*scored)
        later[name] = _score(*scored, start_s=LEARNING_PERIOD_S)
        beats = record.annotations.beat_samples if record.annotations else None
        told = classifier.classify(signal, fs=record.fs, r_peaks=beats)
        reference[name] = _score(record.annotations, told.r_peaks, told.is_v, told.is_readable)
        strips[name] = _score_strips(classifier, record)
    return {
        "whole": _figures(whole),
        "without_202": _figures({name: c for name, c in whole.items() if name != "202"}),
        "after_5_min": _figures(later),
        "reference_r_peaks": _figures(reference),
        "strips_10_s": _figures(strips),
        "by_record": {name: asdict(counts) for name, counts in whole.items()},
    }


def note_opening(
    root: Path, *, bundle: Bundle, commit: str, reason: str, figures: dict[str, Any]
) -> Path:
    """Append an opening to the committed table."""
    path = root / OPENINGS
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(_OPENINGS_HEAD, encoding="utf-8")
    gross = figures["whole"]
    cells = [
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        f"`{commit[:12]}`",
        f"`{bundle.hash[:12]}`",
        reason.replace("|", "/"),
        f"{gross['v_f1']:.4f} ({gross['v_f1_low']:.3f} to {gross['v_f1_high']:.3f})",
        f"{gross['v_f1_strict']:.4f}",
        f"{figures['without_202']['v_f1']:.4f}",
        f"{100 * gross['v_se']:.2f}",
        f"{100 * gross['v_ppv']:.2f}",
        f"{100 * gross['v_fpr']:.2f}",
        f"{figures['reference_r_peaks']['v_f1']:.4f}",
        f"{figures['after_5_min']['v_f1']:.4f}",
        f"{figures['strips_10_s']['v_f1']:.4f}",
        f"{gross['accuracy']:.4f}",
        f"{100 * gross['qrs_se']:.2f}",
        f"{100 * gross['qrs_ppv']:.2f}",
    ]
    with path.open("a", encoding="utf-8") as file:
        file.write(f"| {' | '.join(cells)} |\n")
    return path


def write_report(directory: Path, name: str, content: dict[str, Any]) -> Path:
    """Write figures as JSON below a directory of reports."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S')}.json"
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
    return path


def _score(
    annotations: Annotations | None,
    detections: NDArray[np.int64],
    is_v: NDArray[np.bool_],
    is_readable: NDArray[np.bool_] | None = None,
    *,
    start_s: float = 0.0,
    stop_s: float = float("inf"),
) -> BeatCounts:
    if annotations is None:
        msg = "a record that is scored must have annotations"
        raise EvaluationError(msg)
    return score_beats(
        annotations,
        detections=detections,
        is_v=is_v,
        is_readable=is_readable,
        fs=360.0,
        start_s=start_s,
        stop_s=stop_s,
    )


def _score_strips(classifier: BeatClassifier, record: Record) -> BeatCounts:
    """Score strips like those of requests; what a request would refuse counts as missed."""
    signal, length = record.signal_mv(), round(_STRIP_S * record.fs)
    n_strips = len(signal) // length
    positions, classes, readable = [], [], []
    for start in range(0, n_strips * length, length):
        found = classifier.classify(signal[start : start + length], fs=record.fs)
        is_answered = True
        try:
            require_readable(found.prepared)
        except UnreadableSignalError:
            is_answered = False
        positions.append(found.r_peaks + start)
        classes.append(found.is_v)
        readable.append(found.is_readable & is_answered)
    return _score(
        record.annotations,
        np.concatenate(positions),
        np.concatenate(classes),
        np.concatenate(readable),
        stop_s=n_strips * _STRIP_S,
    )


def _figures(by_record: dict[str, BeatCounts]) -> dict[str, float]:
    gross = add_up(list(by_record.values()))
    interval = bootstrap_interval(list(by_subject(by_record).values()), lambda counts: counts.v_f1)
    return {
        "v_f1": gross.v_f1,
        "v_f1_low": interval.low,
        "v_f1_high": interval.high,
        "v_f1_strict": gross.v_f1_strict,
        "v_se": gross.v_sensitivity,
        "v_ppv": gross.v_predictivity,
        "v_fpr": gross.v_false_positive_rate,
        "accuracy": gross.accuracy,
        "accuracy_with_detection": gross.accuracy_with_detection,
        "qrs_se": gross.qrs_sensitivity,
        "qrs_ppv": gross.qrs_predictivity,
        "v_missed": gross.v_beats - gross.v_found,
        "abstained": gross.abstained,
    }


def describe_r_peaks(by_record: dict[str, BeatCounts]) -> list[str]:
    """Describe the scores of the R-peak detector, gross and of the worst records."""
    gross = add_up(list(by_record.values()))
    lines = [
        (
            f"R-peaks of {len(by_record)} records (DS1 and paced): "
            f"Se {100 * gross.qrs_sensitivity:.2f} %, +P {100 * gross.qrs_predictivity:.2f} %, "
            f"{gross.v_beats - gross.v_found} of {gross.v_beats} V missed"
        )
    ]
    worst = sorted(by_record, key=lambda name: by_record[name].qrs_sensitivity)[:3]
    lines += [
        f"  {name}: Se {100 * by_record[name].qrs_sensitivity:.2f} %, "
        f"+P {100 * by_record[name].qrs_predictivity:.2f} %"
        for name in worst
    ]
    return lines
