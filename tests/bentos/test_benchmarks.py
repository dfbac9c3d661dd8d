"""Counts of the benchmarks, and their exit codes after failures."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def fuzz_service(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("fuzz_service")


@pytest.fixture
def soak_service(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("soak_service")


def test_every_request_is_counted_but_those_for_metrics(
    http: httpx.Client, fuzz_service: ModuleType
) -> None:
    def count() -> int:
        counted: int = fuzz_service.count_requests(http.get("/metrics").text)
        return counted

    before = count()
    for path in (
        "/health",
        "/api/v1/model/",
        "/api/v1/predictions/x",
        "/api/v1/recordings/x/beats",
    ):
        http.get(path)
    assert count() - before == 4


def test_parts_of_the_fuzzing_have_names(fuzz_service: ModuleType) -> None:
    assert fuzz_service.read_parts("http,readers") == ("http", "readers")
    for text in ("", "reader", "http,", "http;readers"):
        with pytest.raises(argparse.ArgumentTypeError, match="parts must be of"):
            fuzz_service.read_parts(text)


@pytest.mark.parametrize(("cases", "status"), [(80, 0), (3, 1)])
def test_a_part_that_hardly_ran_is_a_failure(
    fuzz_service: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cases: int,
    status: int,
) -> None:
    def fuzz(**_: object) -> dict[str, Any]:
        return {"cases": cases, "n_failures": 0, "failures": []}

    monkeypatch.setattr(fuzz_service, "fuzz_decoders", fuzz)
    monkeypatch.setattr(fuzz_service, "describe_run", dict)
    arguments = ["--cases", "1000", "--parts", "decoders", "--out", str(tmp_path / "fuzz.json")]
    monkeypatch.setattr(sys, "argv", ["fuzz_service.py", *arguments])
    assert fuzz_service.main() == status


GOOD = {"kept_share": 0.99, "failed": 0, "answered": 10, "stored": 10, "growth_share": 0.01}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kept_share": 0.94}, "pace"),
        ({"failed": 1}, "failed"),
        ({"stored": 9}, "9 rows of 10"),
        ({"stored": 11}, "11 rows of 10"),
        ({"growth_share": 0.05}, "memory"),
    ],
)
def test_a_soak_says_what_was_wrong(
    soak_service: ModuleType, changed: dict[str, float], said: str
) -> None:
    assert soak_service.find_faults(**GOOD) == []
    (fault,) = soak_service.find_faults(**{**GOOD, **changed})
    assert said in fault


def test_a_soak_that_is_too_short_to_tell_is_refused(soak_service: ModuleType) -> None:
    assert soak_service.read_minutes("3") == 3.0
    for text in ("0.5", "2.9", "nan", "-1"):
        with pytest.raises(argparse.ArgumentTypeError, match="at least 3 minutes"):
            soak_service.read_minutes(text)


def test_growth_is_measured_once_memory_has_settled(soak_service: ModuleType) -> None:
    memory = [(5.0 * n, 500.0 if n < 12 else 200 + n / 12) for n in range(48)]
    assert soak_service.measure_slope(memory) == pytest.approx(1.0)
    with pytest.raises(Exception, match="memory must be measured 10 times"):
        soak_service.measure_slope(memory[:20])
