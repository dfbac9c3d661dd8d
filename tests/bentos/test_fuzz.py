"""A seeded slice of `make fuzz`, in this process."""

from __future__ import annotations

import importlib
import resource
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _load(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def test_no_request_breaks_the_service(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz_http = _load(monkeypatch, "fuzz_http")
    report = fuzz_http.fuzz_http(urlsplit(url).port, cases=250, seed=20260101)
    assert report.failures == []
    kinds = {"json", "float32", "npy", "feedback", "recording", "read", "raw"}
    assert set(report.cases) == kinds
    # Fuzzing that is refused at the door tests nothing.
    assert report.statuses["json 201"] >= 3
    assert report.statuses["json 422"] >= 3


def test_decoders_take_what_was_sent_or_refuse_it(monkeypatch: pytest.MonkeyPatch) -> None:
    report = _load(monkeypatch, "fuzz_decoders").fuzz_decoders(cases=250, seed=1)
    assert report["failures"] == []
    assert report["cases"] >= 200


def test_readers_of_files_raise_nothing_but_our_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    # The peak is that of this process, which may have run other tests before.
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report = _load(monkeypatch, "fuzz_readers").fuzz_by_mutation(cases=400, seed=1)
    assert report["failures"] == []
    read = {outcome.removesuffix(" read") for outcome in report["outcomes"] if " read" in outcome}
    assert {"edf", "csv", "npy file", "wfdb header", "wfdb signal", "form", "float32"} <= read
    assert report["peak_mib"] - before_mib < 1024


def test_every_reader_is_fuzzed_by_files_that_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz_readers = _load(monkeypatch, "fuzz_readers")
    names = [name for name, _ in fuzz_readers.READERS]
    outcomes = {names[one[0]]: fuzz_readers.read_one(one) for one in fuzz_readers.make_corpus()}
    assert set(outcomes) == set(names)
    drawn = {"json", "npy"}  # what is drawn for them is odd as it is
    assert {name for name, outcome in outcomes.items() if outcome != "read"} <= drawn
