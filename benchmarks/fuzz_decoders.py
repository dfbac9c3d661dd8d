"""Give the decoders of bodies what hypothesis makes; only problems may come out, or what was sent.

Whatever a decoder takes it must have taken as it was meant: samples that are finite and those that
were sent, and parameters within their limits.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bentos.wire.inputs import FLOAT32, JSON, NPY, PredictionInput, parse, read_input
from bentos.wire.problems import ProblemError
from bentos.wire.schemas import FeedbackRequest, PredictionParameters
from ecg_lib.records.limits import MAX_ABS_MV

_ANY_JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=12,
)
_NUMBERS: Final = st.floats(allow_nan=True, allow_infinity=True) | st.integers()
_RATES: Final = st.sampled_from([100, 100.0, 128.5, 360, 1000, 99, 1001]) | _ANY_JSON
_SIGNALS: Final = (
    st.builds(lambda value, count: [value] * count, _NUMBERS, st.sampled_from([999, 1000, 1285]))
    | st.lists(_NUMBERS, max_size=20)
    | _ANY_JSON
)
_REQUESTS: Final = st.fixed_dictionaries(
    {"signal_data": _SIGNALS},
    optional={
        "sampling_rate": _RATES,
        "derivation": st.sampled_from(["MLII", "V1", "x"]) | _ANY_JSON,
        "patient_id": st.text(max_size=140) | _ANY_JSON,
        "apply_ruleguard": st.booleans() | _ANY_JSON,
        "other": _ANY_JSON,
    },
)
_QUERIES: Final = st.lists(
    st.tuples(
        st.sampled_from([*PredictionParameters.model_fields, "x"]) | st.text(max_size=10),
        st.sampled_from(["100", "360", "1e3", "nan", "MLII", "true", "0"]) | st.text(max_size=20),
    ),
    max_size=4,
)
_ARRAYS: Final = arrays.arrays(
    dtype=st.sampled_from(["<f4", "<f8", ">f4", ">f8"]),
    shape=st.sampled_from([(0,), (1,), (999,), (1000,), (1000, 1), ()]),
    fill=st.floats(width=32),
)


def fuzz_decoders(*, cases: int, seed: int) -> dict[str, Any]:
    """Run each property an equal part of the cases."""
    each = cases // len(_PROPERTIES)
    report: dict[str, Any] = {"cases": 0, "n_failures": 0, "seed": seed, "failures": []}
    for name, check, strategy in _PROPERTIES:
        drawn, error = _run(check, strategy, examples=each, seed=seed)
        report["cases"] += drawn
        if error is not None:
            notes = getattr(error, "__notes__", [])
            report["failures"].append({"of": name, "error": repr(error), "notes": notes[:3]})
            report["n_failures"] += 1
    return report


def _run(
    check: Callable[[Any], None], strategy: st.SearchStrategy[Any], *, examples: int, seed: int
) -> tuple[int, Exception | None]:
    """Check what is drawn; how much that was, and what was found, made small."""
    count = 0

    @seeded(seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def check_one(drawn: Any) -> None:  # noqa: ANN401  whatever the strategy draws
        nonlocal count
        count += 1
        check(drawn)

    try:
        check_one()
    except Exception as error:  # noqa: BLE001  whatever it is, it is what is looked for
        return count, error
    return count, None


def _check_json(fields: Any) -> None:  # noqa: ANN401  any JSON
    text = json.dumps(fields).encode()
    read = _read(text, media_type=JSON)
    if read is not None:
        _check_read(read)
        assert np.array_equal(read.signal_mv, np.array(fields["signal_data"], dtype=np.float64))  # noqa: S101  the property


def _check_bytes(body: bytes) -> None:
    for media_type in (JSON, FLOAT32, NPY):
        read = _read(body, media_type=media_type, query=[("sampling_rate", "100")])
        if read is not None:
            _check_read(read)


def _check_float32(drawn: Any) -> None:  # noqa: ANN401  array and query
    array, query = drawn
    with np.errstate(over="ignore"):
        body = array.astype("<f4").tobytes()
    read = _read(body, media_type=FLOAT32, query=query)
    if read is not None:
        _check_read(read)
        assert np.array_equal(read.signal_mv, np.frombuffer(body, "<f4"))  # noqa: S101  the property


def _check_npy(drawn: Any) -> None:  # noqa: ANN401  array and query
    array, query = drawn
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    read = _read(file.getvalue(), media_type=NPY, query=query)
    if read is not None:
        _check_read(read)
        assert np.array_equal(read.signal_mv, array.astype(np.float64))  # noqa: S101  the property


def _check_feedback(body: Any) -> None:  # noqa: ANN401  any JSON
    try:
        parse(FeedbackRequest, json.dumps(body).encode())
    except ProblemError as problem:
        _check_problem(problem)


def _read(body: bytes, *, media_type: str, query: Any = ()) -> PredictionInput | None:  # noqa: ANN401  pairs
    try:
        return read_input(body, media_type=media_type, query=query)
    except ProblemError as problem:
        _check_problem(problem)
        return None


def _check_problem(problem: ProblemError) -> None:
    response = problem.respond()
    assert 400 <= response.status_code < 500  # noqa: S101  the property
    assert len(response.body) < 20_000  # noqa: S101  the property


def _check_read(read: PredictionInput) -> None:
    fs = read.parameters.sampling_rate
    assert 100 <= fs <= 1000  # noqa: S101  the property
    assert len(read.signal_mv) >= int(10 * fs)  # noqa: S101  the property
    assert np.abs(read.signal_mv).max() <= MAX_ABS_MV  # noqa: S101  the property; NaN fails it


_PROPERTIES: Final[tuple[tuple[str, Callable[[Any], None], st.SearchStrategy[Any]], ...]] = (
    ("json", _check_json, _REQUESTS),
    ("bytes", _check_bytes, st.binary(max_size=300)),
    ("float32", _check_float32, st.tuples(_ARRAYS, _QUERIES)),
    ("npy", _check_npy, st.tuples(_ARRAYS, _QUERIES)),
    (
        "feedback",
        _check_feedback,
        st.fixed_dictionaries(
            {"prediction_id": st.text(max_size=70) | _ANY_JSON},
            optional={
                "labels": st.lists(
                    st.fixed_dictionaries(
                        {"beat_index": st.integers(), "arrhythmia_type": st.sampled_from("NVX")}
                    )
                )
                | _ANY_JSON,
                "annotator": st.text(max_size=140) | _ANY_JSON,
                "other": _ANY_JSON,
            },
        ),
    ),
)
