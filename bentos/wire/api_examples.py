"""Examples for the API description: requests of simulated strips, and answers in short.

Tests validate every one of them against the schema that it stands beside.
"""

from __future__ import annotations

import io
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

import numpy as np
import orjson
from numpy.lib import format as npy

from bentos.wire.inputs import FLOAT32, JSON, NPY
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.rhythm.risk import NOTICE

FS_HZ: Final = 100.0
"""Sampling rate of the strips; the lowest that is accepted makes short examples."""


class ExampleFormat(StrEnum):
    """How an example is written."""

    JSON = "json"
    FLOAT32 = "float32"
    NPY = "npy"


MEDIA_TYPE_OF: Final = {
    ExampleFormat.JSON: JSON,
    ExampleFormat.FLOAT32: FLOAT32,
    ExampleFormat.NPY: NPY,
}


@lru_cache
def make_request(kind: StripKind) -> dict[str, Any]:
    """Make the request of a strip whose rhythm is known."""
    strip = simulate_strip(kind, fs=FS_HZ, seed=1)
    return {
        "signal_data": [round(sample, 3) for sample in strip.signal_mv().tolist()],
        "sampling_rate": FS_HZ,
        "derivation": "MLII",
    }


def write_body(kind: StripKind, form: ExampleFormat) -> bytes:
    """Write the body of such a request; what is not samples is to be given as parameters."""
    request = make_request(kind)
    if form is ExampleFormat.JSON:
        return orjson.dumps(request)
    samples = np.array(request["signal_data"], dtype="<f4")
    if form is ExampleFormat.FLOAT32:
        return samples.tobytes()
    file = io.BytesIO()
    npy.write_array(file, samples, version=(1, 0))
    return file.getvalue()


_ID: Final = "4b1f7a3e-6d0c-4c1e-9f43-0d1a2b3c4d5e"
_NOW: Final = "2026-01-31T09:30:00.123456+00:00"
_HASH: Final = "c5bd1fcb7a4b5d1e0f4c1f3c6e8d2f6a4e9b0d7c3a1f5e2d8c6b4a09f7e5d3c1"

MODEL: Final[dict[str, Any]] = {
    "name": "ecg",
    "version": "3",
    "bento_tag": "ecg:c5bd1fcb7a4b5d1e-0f4c1f3c",
    "bundle_hash": _HASH,
    "run_id": "0f6a1c2b3d4e5f60718293a4b5c6d7e8",
    "dataset_version": "mitdb-6c1d9e",
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "source": "trained",
    "data": "mitdb",
}

PREDICTION: Final[dict[str, Any]] = {
    "prediction_id": _ID,
    "timestamp": _NOW,
    "overall_arrhythmia_type": "V",
    "confidence": 0.9987,
    "risk_level": "MEDIUM",
    "risk_basis": "strip",
    "risk_reasons": ["1 isolated V beat"],
    "total_beats_detected": 2,
    "normal_beats": 1,
    "ventricular_beats": 1,
    "paced_beats": 0,
    "unreadable_beats": 0,
    "beat_predictions": [
        {
            "beat_index": 0,
            "position_sample": 83,
            "arrhythmia_type": "N",
            "confidence": 0.9991,
            "rr_previous": None,
            "rr_next": 0.61,
            "probability_v": 0.0009,
            "qrs_width_ms": 88.9,
            "rule": None,
            "quality": "ok",
            "form": "A",
        },
        {
            "beat_index": 1,
            "position_sample": 144,
            "arrhythmia_type": "V",
            "confidence": 0.9987,
            "rr_previous": 0.61,
            "rr_next": None,
            "probability_v": 0.9987,
            "qrs_width_ms": 152.8,
            "rule": None,
            "quality": "ok",
            "form": "B",
        },
    ],
    "rhythm": {
        "heart_rate_bpm": 98.4,
        "heart_rate_min_bpm": 98.4,
        "heart_rate_max_bpm": 98.4,
        "heart_rate_mean_bpm": 98.4,
        "longest_rr_s": 0.61,
        "pvc_burden": 0.5,
        "isolated": 1,
        "couplets": 0,
        "bigeminy_beats": 0,
        "trigeminy_beats": 0,
        "r_on_t": 0,
        "couplet_starts_s": [],
        "runs": [],
        "doubtful_runs": [],
        "patterns": [],
        "pauses": [],
    },
    "signal_quality": {
        "usable_share": 1.0,
        "warnings": [],
        "per_second": [0.91, 0.93, 0.92, 0.94, 0.94, 0.93, 0.92, 0.93, 0.94, 0.93],
        "unreadable": [],
        "findings": [],
    },
    "threshold": 0.5,
    "sampling_rate": 100.0,
    "derivation": "MLII",
    "second_lead": None,
    "duration_s": 10.0,
    "ruleguard_applied": True,
    "drawn_for_review": False,
    "processing_time_ms": 2.9,
    "model": MODEL,
    "notice": NOTICE,
}

FEEDBACK_REQUEST: Final[dict[str, Any]] = {
    "prediction_id": _ID,
    "labels": [{"beat_index": 1, "arrhythmia_type": "V"}],
    "annotator": "reader 1",
}

FEEDBACK: Final[dict[str, Any]] = {
    "feedback_id": "a3c9e1f0-2b4d-4f6a-8c0e-1d3f5b7a9c2e",
    "prediction_id": _ID,
    "recording_id": None,
    "timestamp": _NOW,
    "verified": True,
}

REVIEW_QUEUE: Final[dict[str, Any]] = {
    "predictions": [
        {
            "prediction_id": _ID,
            "timestamp": _NOW,
            "drawn_for_review": True,
            "doubt": 0.82,
            "reasons": ["beat 4 is V with a probability of 0.59"],
            "derivation": "MLII",
            "duration_s": 10.0,
            "overall_arrhythmia_type": "V",
        }
    ]
}

MARKS: Final[dict[str, Any]] = {
    "labels": [{"beat_index": 1, "arrhythmia_type": "V"}],
    "missed_beats": [{"position_sample": 2210, "arrhythmia_type": "V"}],
    "false_detections": [{"beat_index": 4}],
    "is_complete": False,
    "counts": {"normal_beats": 10, "ventricular_beats": 2},
    "feedback": [
        {
            "feedback_id": "a3c9e1f0-2b4d-4f6a-8c0e-1d3f5b7a9c2e",
            "timestamp": _NOW,
            "annotator": "reader 1",
            "owner": None,
            "labels": [{"beat_index": 1, "arrhythmia_type": "V"}],
            "forms": [],
            "missed_beats": [{"position_sample": 2210, "arrhythmia_type": "V"}],
            "false_detections": [{"beat_index": 4}],
            "is_complete": False,
            "is_withdrawn": False,
        }
    ],
}

HEALTH: Final[dict[str, Any]] = {
    "status": "ok",
    "version": "0.1.0",
    "model_loaded": True,
    "timestamp": _NOW,
    "model": MODEL,
    "refused": None,
    "prediction_log": {"waiting": 0, "lost": 0, "problem": None},
    "degraded": {"mlflow-server": "waiting"},
}

PROBLEM: Final[dict[str, Any]] = {
    "type": "/problems/signal-too-short",
    "title": "The signal is too short",
    "status": 422,
    "detail": "signal_data: signal_data must last at least 10 s, got 0.01 s",
    "errors": [
        {"field": "signal_data", "reason": "signal_data must last at least 10 s, got 0.01 s"}
    ],
}
