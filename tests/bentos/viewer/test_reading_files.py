from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bentos.recordings.tables import SUFFIXES

Evaluate = Callable[..., Any]


def test_json_files_are_requests_or_samples(evaluate: Evaluate) -> None:
    read = """
        try { return m.parseJson(argument, 'a.json').fs; } catch (problem) { return problem.title; }
    """
    assert evaluate("files/json.js", read, '{"signal_data": [1, 2], "sampling_rate": 250}') == 250
    assert evaluate("files/json.js", read, "[1, 2]") is None
    assert evaluate("files/json.js", read, "[1,") == "a.json is no JSON"
    assert evaluate("files/json.js", read, '[1, "2"]') == "Sample 1 of a.json is no number"
    assert evaluate("files/json.js", read, "{}") == "a.json holds no signal"
    assert evaluate("files/json.js", read, "null") == "a.json holds no signal"


@pytest.mark.parametrize(
    ("names", "result"),
    [
        (["a.csv"], "signal"),
        (["A.NPY"], "signal"),
        (["100.dat", "100.hea"], "recording"),
        (["b.edf"], "recording"),
        (["c.zip"], "recording"),
        (["100.hea"], "The signal file is missing"),
        (["100.dat"], "recording"),
        (["a.csv.gz"], "signal"),
        (["a.edf.gz"], "recording"),
        (["a.json"], "signal"),
        (["s.hea", "s.dat", "s.xyz"], "recording"),
        (["s.hea", "s1.hea", "s1.dat"], "recording"),
        (["a.csv", "b.csv"], "One signal at a time"),
        (["a.edf", "b.edf"], "One recording at a time"),
        (["a.edf", "b.csv"], "One recording at a time"),
        (["a.rec"], "recording"),
        (["IM0001"], "recording"),
    ],
)
def test_files_are_sorted_by_what_they_are(
    evaluate: Evaluate, names: list[str], result: str
) -> None:
    sort = """
        const files = argument.names.map((name) => new File(['x'], name));
        try { return m.sortFiles(files, argument.suffixes).kind; }
        catch (problem) { return problem.title; }
    """
    argument = {"names": names, "suffixes": SUFFIXES}
    assert evaluate("files/recording_files.js", sort, argument) == result


def test_samples_are_brought_to_millivolt(evaluate: Evaluate) -> None:
    convert = """
        const {samples, unit} = argument;
        const given = Float64Array.from(samples, (sample) => sample ?? NaN);
        const converted = m.toMillivolt(given, {unit, countsPerMv: 200});
        return Array.from(converted, (mv) => isNaN(mv) ? null : mv);
    """

    def to_mv(samples: list[float | None], unit: str) -> list[float | None]:
        result: list[float | None] = evaluate(
            "files/request.js", convert, {"samples": samples, "unit": unit}
        )
        return result

    assert to_mv([0.123456789, -1], "mV") == [0.12346, -1]
    assert to_mv([1500, -20], "uV") == [1.5, -0.02]
    assert to_mv([0.001], "V") == [1]
    assert to_mv([1024, 1224, 1024, 1024, 924], "counts") == [0, 1, 0, 0, -0.5]
    assert to_mv([1024, None, 1224, 1024], "counts") == [0, None, 1, 0]


@pytest.mark.parametrize(
    ("samples", "unit"),
    [
        ([-1.2, 2.5], "mV"),
        ([900, 1300, 1024], "counts"),
        ([-800.5, 1500.25], "uV"),
        ([-1.2, None, 2.5], "mV"),
        ([900, None, 1300], "counts"),
    ],
)
def test_the_unit_is_guessed_from_the_samples(
    evaluate: Evaluate, samples: list[float | None], unit: str
) -> None:
    guess = "return m.guessUnit(Float64Array.from(argument, (sample) => sample ?? NaN));"
    assert evaluate("files/request.js", guess, samples) == unit


@pytest.mark.parametrize(
    ("lead", "name"),
    [
        ("MLII", "MLII"),
        ("mlii", "MLII"),
        ("ECG II", "II"),
        ("lead V1", "V1"),
        ("aVr", "aVR"),
        ("Fz", "ECG"),
    ],
)
def test_leads_get_the_names_that_the_service_knows(
    evaluate: Evaluate, lead: str, name: str
) -> None:
    known = ["I", "II", "aVR", "V1", "MLII", "ECG"]
    choose = "return m.nameOnWire(argument.lead, argument.known);"
    assert evaluate("files/request.js", choose, {"lead": lead, "known": known}) == name
