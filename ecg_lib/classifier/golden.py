"""Golden requests: strips of the simulator with the answers that a bundle must give to them.

They are made when the bundle is, and asked again before it takes traffic: on another machine,
with another runtime or other code the answers must be the same.
"""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np

from ecg_lib.classifier.beat_classifier import BeatClassifier, require_readable
from ecg_lib.errors import BundleError, EcgError, UnreadableSignalError
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip

TOLERANCE: Final = 1e-3
"""Probabilities may differ by this much."""

_STRIPS: Final = tuple(
    (kind, seed) for seed in (11, 12) for kind in StripKind if kind is not StripKind.SATURATED
)
_MIN_REQUESTS: Final = 5
"""Fewer do not show whether a classifier works; :func:`make_golden` makes more."""

_FS_HZ: Final = 360.0
_DURATION_S: Final = 10.0


def make_golden(classifier: BeatClassifier) -> str:
    """Ask the golden requests and write them down with their answers, as JSON text."""
    requests = []
    for kind, seed in _STRIPS:
        record = simulate_strip(kind, duration_s=_DURATION_S, fs=_FS_HZ, seed=seed)
        signal = [round(float(sample), 4) for sample in record.signal_mv()]
        requests.append(
            {
                "name": f"{kind.value} {seed}",
                "sampling_rate": _FS_HZ,
                "signal_data": signal,
                "answer": _answer(classifier, signal),
            }
        )
    return json.dumps({"requests": requests})


def check_golden(classifier: BeatClassifier, text: str) -> tuple[str, ...]:
    """Ask the golden requests again.

    Returns
    -------
    tuple of str
        Name of each request with another answer, and what differs, or why the requests cannot be
        used; empty when all is well.

    """
    try:
        requests = read_golden(text)
    except BundleError as error:
        return (str(error),)
    failures = []
    for request in requests:
        try:
            found = _answer(classifier, request["signal_data"])
        except EcgError as error:
            failures.append(f"{request['name']}: {error}")
            continue
        difference = _difference(request["answer"], found)
        if difference:
            failures.append(f"{request['name']}: {difference}")
    return tuple(failures)


def read_golden(text: str) -> list[dict[str, Any]]:
    """Read the golden requests of a bundle.

    Raises
    ------
    BundleError
        If they cannot be read, or cannot show a broken classifier: there must be some with N beats
        and some with V beats.

    """
    try:
        requests: list[dict[str, Any]] = json.loads(text)["requests"]
        classes = [set(request["answer"].get("arrhythmia_type", ())) for request in requests]
        is_whole = all({"name", "signal_data"} <= request.keys() for request in requests)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = "the golden requests of the bundle cannot be read"
        raise BundleError(msg) from error
    if not is_whole or not {"N", "V"} <= set().union(*classes) or len(requests) < _MIN_REQUESTS:
        msg = (
            f"a bundle must have at least {_MIN_REQUESTS} golden requests, with N and with V "
            f"beats, got {len(requests)}"
        )
        raise BundleError(msg)
    return requests


def _answer(classifier: BeatClassifier, signal_mv: list[float]) -> dict[str, Any]:
    classified = classifier.classify(np.asarray(signal_mv), fs=_FS_HZ)
    try:
        require_readable(classified.prepared)
    except UnreadableSignalError:
        return {"refused": True}
    return {
        "refused": False,
        "position_sample": classified.r_peaks.tolist(),
        "arrhythmia_type": np.where(classified.is_v, "V", "N").tolist(),
        "probability_v": [round(float(p), 5) for p in classified.probability_v],
    }


def _difference(expected: dict[str, Any], found: dict[str, Any]) -> str:
    for name in ("refused", "position_sample", "arrhythmia_type"):
        if expected.get(name) != found.get(name):
            return f"{name} must be {expected.get(name)}, got {found.get(name)}"
    if expected["refused"]:
        return ""
    gap = np.abs(np.subtract(expected["probability_v"], found["probability_v"]))
    if len(gap) and float(gap.max()) > TOLERANCE:
        return f"probability_v must be the same within {TOLERANCE:g}, differs by {gap.max():.2g}"
    return ""
