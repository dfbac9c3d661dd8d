"""The short way through a JSON body gives what pydantic gives, or nothing at all."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bentos.wire import inputs
from bentos.wire.inputs import JSON, PredictionInput, read_input
from bentos.wire.problems import ProblemError
from ecg_lib.signal_path.kernels.library import run_kernel

SAMPLES = ",".join(["0.125", "-1e-3", " 2", "0.30000000000000004"] * 900)
REQUEST = '{"signal_data": [*], "sampling_rate": 360}'
"""The star stands for the samples."""


def read_numbers(text: str, *, room: int | None = None) -> tuple[list[float], int]:
    given_text, end = np.frombuffer(text.encode(), dtype=np.uint8), np.zeros(1, dtype=np.int64)
    numbers = np.empty(len(text) if room is None else room)
    count = run_kernel("read_numbers", given_text, len(text), 0, numbers, len(numbers), end)
    return numbers[:count].tolist(), int(end[0])


def is_same(one: float, other: float) -> bool:
    return struct.pack("d", one) == struct.pack("d", other)


@given(st.floats(-1e18, 1e18).map(repr) | st.from_regex(r"-?(0|[1-9]\d{0,16})\.\d{1,19}\Z"))
def test_a_number_is_rounded_as_python_rounds_it(text: str) -> None:
    numbers, end = read_numbers(f"{text}]")
    if numbers:
        assert end == len(text) + 1
        assert is_same(numbers[0], float(text))


@pytest.mark.parametrize("digits", range(1, 18))
@pytest.mark.parametrize("seed", range(20))
def test_numbers_of_every_length_are_read(digits: int, seed: int) -> None:
    rng = np.random.default_rng([digits, seed])
    whole = str(rng.integers(1, 10)) + "".join(map(str, rng.integers(0, 10, digits - 1)))
    for point in range(digits):
        text = f"{whole[: point + 1]}.{whole[point + 1 :] or '0'}"
        assert is_same(read_numbers(f"{text}]")[0][0], float(text))


@pytest.mark.parametrize("odd", ["9007199254740993", "900719925474.0993", "0.9007199254740993"])
def test_a_number_between_two_doubles_is_rounded_to_the_even_one(odd: str) -> None:
    assert read_numbers(f"{odd}]")[0] == [float(odd)]


@pytest.mark.parametrize(
    "text",
    [
        "", "]", "1", "1,", "1,]", "01]", "-01]", "1.]", ".5]", "+1]", "-]", "1e]", "1e+]", "1 2]",
        "1,,2]", "nan]", "NaN]", "Infinity]", "-Infinity]", "true]", "null]", '"1"]', "[1]]",
        "1e400]", "0x10]", "1_0]", "1\v]", "1}", "12345678901234567890]",
    ],
)  # fmt: skip
def test_anything_else_is_left_to_another_parser(text: str) -> None:
    assert read_numbers(text) == ([], 0)


def test_more_numbers_than_there_is_room_for_are_left_to_another_parser() -> None:
    assert read_numbers("1,2,3]", room=3) == ([1.0, 2.0, 3.0], 6)
    assert read_numbers("1,2,3]", room=2) == ([], 0)


def read_both_ways(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> tuple[PredictionInput | ProblemError, PredictionInput | ProblemError]:
    def read() -> PredictionInput | ProblemError:
        try:
            return read_input(body, media_type=JSON)
        except ProblemError as error:
            return error

    short = read()
    with monkeypatch.context() as patched:
        patched.setattr(inputs, "_read_one_lead", lambda *_, **__: None)
        return short, read()


def describe(read: PredictionInput | ProblemError) -> dict[str, Any]:
    if isinstance(read, ProblemError):
        return {"kind": read.kind, "detail": read.detail, "errors": read.errors}
    return {
        "signal": read.signal_mv.tobytes(),
        "dtype": read.signal_mv.dtype,
        "stated": read.parameters.model_fields_set - {"signal_data"},
        "second": read.second_lead,
        **read.parameters.model_dump(exclude={"signal_data", "leads"}),
    }


@pytest.mark.parametrize(
    "body",
    [
        REQUEST,
        REQUEST.replace(" ", "\n\t "),
        '{"sampling_rate": 360.5, "patient_id": "p", "signal_data": [*]}',
        '{"signal_data":[*]}',
        REQUEST.replace("*", "-0,0,-0.0,-0e1,-0.0e5,0E+0,-0 ,*"),
        # Faults.
        REQUEST[:-1],
        REQUEST + "x",
        REQUEST.replace("360", "99"),
        REQUEST.replace("360", "500"),
        REQUEST.replace('"sampling_rate"', '"rate"'),
        REQUEST.replace("*", "*,1e9"),
        REQUEST.replace("*", "NaN,*"),
        REQUEST.replace("*", "null,*"),
        REQUEST.replace("*", "[0.125],*"),
        REQUEST.replace('"signal_data": [', '"signal_data": {"a": ['),
        REQUEST.replace('"signal_data": [', '"signal_data": "['),
        REQUEST.replace('"signal_data"', '"signal_data" "signal_data"'),
        '{"signal_data": []}',
        # Another parser's task.
        '{"signal_data": [1], "signal_data": [*]}',
        '{"signal_data": [*], "signal_data": []}',
        '{"signal_data": [*], "signal\\u005fdata": []}',
        '{"signal\\u005fdata": [], "signal_data": [*]}',
        '{"leads": {"signal_data": [*]}}',
        '{"signal_data": [*], "leads": {"V1": [*]}}',
        '{"signal_data": null, "leads": {"V1": [*]}}',
        '{"site": "signal_data", "device": "[1, 2]", "signal_data": [*]}',
        '[{"signal_data": [*]}]',
        "\ufeff" + REQUEST,
    ],
)
def test_both_ways_read_the_same(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = read_both_ways(body.replace("*", SAMPLES).encode(), monkeypatch)
    assert describe(short) == describe(long)


def test_the_usual_request_takes_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(inputs, "parse", fail)
    signal = np.random.default_rng(0).normal(size=3600)
    body = json.dumps({"signal_data": signal.tolist(), "derivation": "II"}).encode()
    read = read_input(body, media_type=JSON)
    assert read.signal_mv.tolist() == signal.tolist()
    assert read.parameters.derivation == "II"
