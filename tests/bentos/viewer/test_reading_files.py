from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CHOICES = json.loads((Path(__file__).parents[2] / "lead_choices.json").read_text(encoding="utf-8"))

Evaluate = Callable[..., Any]

PARSE_CSV = """
    try {
      const table = m.parseCsv(argument, 'a.csv');
      return {...table, columns: table.columns.map((column) => [...column])};
    } catch (problem) { return {title: problem.title, detail: problem.detail}; }
"""
PARSE_NPY = """
    try {
      const table = m.parseNpy(Uint8Array.from(argument.bytes).buffer, 'a.npy', argument.isPart);
      return {...table, columns: table.columns.map((column) => [...column])};
    } catch (problem) { return {title: problem.title, detail: problem.detail}; }
"""


@pytest.mark.parametrize(
    ("text", "leads", "columns", "fs", "units"),
    [
        ("1\n2\n-3.5\n", ["MLII"], [[1, 2, -3.5]], None, [None]),
        ("\ufeff1e-3\r\n2E0\r\n", ["MLII"], [[0.001, 2]], None, [None]),
        ("MLII,V1\n1,2\n3,4\n", ["MLII", "V1"], [[1, 3], [2, 4]], None, [None, None]),
        ("time,II\n0,1\n0.004,2\n0.008,3\n", ["II"], [[1, 2, 3]], 250, [None]),
        ("time_s\tII\n0\t1\n0.5\t2\n1\t3\n", ["II"], [[1, 2, 3]], 2, [None]),
        ("t (ms);II [uV]\n0,0;1,5\n4,0;2,5\n", ["II"], [[1.5, 2.5]], 250, ["uV"]),
        (
            (
                "'Elapsed time','MLII','V5'\n'm:ss.mmm','mV','mV'\n0:59.000,-0.145,-0.065\n"
                "1:00.000,-0.145,-0.065\n1:01.000,0,1\n"
            ),
            ["MLII", "V5"],
            [[-0.145, -0.145, 0], [-0.065, -0.065, 1]],
            1,
            ["mV", "mV"],
        ),
        (
            "'sample #','MLII','V5'\n0,995,1011\n1,996,1012\n",
            ["MLII", "V5"],
            [[995, 996], [1011, 1012]],
            None,
            [None, None],
        ),
        (",ecg_mv\n0,0.1\n1,0.2\n", ["ecg"], [[0.1, 0.2]], None, ["mV"]),
        ("# a note\nII\n\n1\n2\n", ["II"], [[1, 2]], None, [None]),
        ("  1   2\n  3   4\n", ["lead1", "lead2"], [[1, 3], [2, 4]], None, [None, None]),
    ],
)
def test_csv_files_of_many_kinds_are_read(
    evaluate: Evaluate,
    text: str,
    leads: list[str],
    columns: list[list[float]],
    fs: float | None,
    units: list[str | None],
) -> None:
    table = evaluate("files/csv.js", PARSE_CSV, text)
    has_names = not text.lstrip("\ufeff ")[0].isdigit()
    assert table == {
        "leads": leads, "columns": columns, "fs": fs, "units": units, "hasLeadNames": has_names
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("", "a.csv is empty"),
        ("MLII\n", "a.csv has no samples"),
        ("MLII,V1\n1,2\n3\n", "Row 3 of a.csv has 1 cells"),
        ("1\n2\nx\n", "Row 3 of a.csv has no number"),
        ("a,b\n1,2\n3,\n", "Row 3 of a.csv has no number"),
        ("time,II\n1,1\n1,2\n", "Time does not go forwards in a.csv"),
        ("time\n1\n2\n", "a.csv has no lead"),
        ("II,II\n1,2\n", "Two columns of a.csv are called “II”"),
        ("time (h),II\n1,2\n3,4\n", "The unit of time in a.csv is not known"),
        ("II\n1\nNaN\n", "Row 3 of a.csv has no number"),
        ("II\n1\n-32768\n", "Row 3 of a.csv has no number"),
        ("time,PLETH\n0,1\n0.1,2\n", "No column of a.csv is an ECG by its name"),
        ("time,II\n0,1\n0.2,1\n0.1,2\n0.3,1\n", "Time does not go forwards in a.csv"),
    ],
)
def test_csv_files_that_are_broken_are_refused_with_the_place(
    evaluate: Evaluate, text: str, title: str
) -> None:
    assert evaluate("files/csv.js", PARSE_CSV, text)["title"] == title


def test_a_rate_that_is_printed_with_few_decimals_is_the_round_one(evaluate: Evaluate) -> None:
    text = "time,II\n" + "".join(f"{number / 360:.3f},0\n" for number in range(3600))
    assert evaluate("files/csv.js", PARSE_CSV, text)["fs"] == 360
    odd = "time,II\n" + "".join(f"{number / 128.5:.6f},0\n" for number in range(2000))
    assert evaluate("files/csv.js", PARSE_CSV, odd)["fs"] == pytest.approx(128.5, abs=1e-3)


@pytest.mark.parametrize("gap_s", [0.5, 1.0, 60.0])
def test_a_gap_in_time_is_never_a_lower_rate(evaluate: Evaluate, gap_s: float) -> None:
    times = (n / 130 + gap_s * (n >= 2000) for n in range(3900))
    text = "time,II\n" + "".join(f"{time:.3f},0\n" for time in times)
    table = evaluate("files/csv.js", PARSE_CSV, text)
    assert table["title"] == "Time does not go on at one rate in a.csv"


def test_a_rate_that_changes_is_not_the_mean_of_both(evaluate: Evaluate) -> None:
    times = (n / 250 if n < 2000 else 8 + (n - 2000) / 125 for n in range(4000))
    text = "time,II\n" + "".join(f"{time:.3f},0\n" for time in times)
    table = evaluate("files/csv.js", PARSE_CSV, text)
    assert table["title"] == "Time does not go on at one rate in a.csv"


def test_the_rate_of_stamps_that_repeat_is_asked_for(evaluate: Evaluate) -> None:
    text = "time,II\n" + "".join(f"{n // 10 * 10 / 130:.3f},0\n" for n in range(3900))
    assert evaluate("files/csv.js", PARSE_CSV, text)["fs"] is None


@pytest.mark.parametrize("case", CHOICES, ids=lambda case: ",".join(case["names"]))
def test_the_lead_is_chosen_as_the_service_chooses_it(
    evaluate: Evaluate, case: dict[str, Any]
) -> None:
    """The service is held to the same table by ``tests/ecg_lib/records/test_signal_names.py``."""
    choose = "return m.isLeadClear(argument) ? m.chooseLead(argument) : null;"
    assert evaluate("files/request.js", choose, case["names"]) == case["chosen"]


def test_headings_are_read_as_the_service_reads_them(evaluate: Evaluate, csv_case: Any) -> None:  # noqa: ANN401  of the conftest
    """The service is held to the same table by ``tests/ecg_lib/records/files/test_opening.py``."""
    table = evaluate("files/csv.js", PARSE_CSV, csv_case.text)
    if csv_case.leads is None:
        assert set(table) == {"title", "detail"}
        return
    assert [table[part] for part in ("leads", "units", "fs")] == [
        csv_case.leads, csv_case.units, csv_case.fs,
    ]  # fmt: skip
    np.testing.assert_allclose(table["columns"], csv_case.columns, atol=1e-9)


@pytest.mark.parametrize("dtype", "<f4 <f8 >f4 >f8 <i2 >i2 i1 <i4 <i8 u2".split())
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 3)])
def test_numpy_files_are_read_as_numpy_does(
    evaluate: Evaluate, dtype: str, order: str, shape: tuple[int, ...]
) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype, order=order)
    file = io.BytesIO()
    np.save(file, values)
    table = evaluate("files/npy.js", PARSE_NPY, {"bytes": list(file.getvalue()), "isPart": False})
    assert np.array(table["columns"]).T.tolist() == values.reshape(7, -1).tolist()


def test_the_beginning_of_a_long_numpy_file_is_read(evaluate: Evaluate) -> None:
    file = io.BytesIO()
    np.save(file, np.arange(100.0).reshape(50, 2))
    part = list(file.getvalue()[:-160])
    table = evaluate("files/npy.js", PARSE_NPY, {"bytes": part, "isPart": True})
    assert [len(column) for column in table["columns"]] == [40, 40]
    whole = evaluate("files/npy.js", PARSE_NPY, {"bytes": part, "isPart": False})
    assert whole["title"] == "a.npy is cut off"


@pytest.mark.parametrize(
    "values",
    [
        np.array([True]),
        np.array(["x"]),
        np.array(1.0),
        np.zeros((2, 2, 2)),
        np.array([]),
        np.array([1j]),
        np.array([1.0, np.nan]),
        np.array([("a", 1)], dtype=[("x", "U1"), ("y", "i4")]),
    ],
)
def test_numpy_files_without_a_signal_are_refused(evaluate: Evaluate, values: Any) -> None:  # noqa: ANN401  any array
    file = io.BytesIO()
    np.save(file, values)
    argument = {"bytes": list(file.getvalue()), "isPart": False}
    assert "columns" not in evaluate("files/npy.js", PARSE_NPY, argument)
    assert "columns" not in evaluate("files/npy.js", PARSE_NPY, {"bytes": [1, 2], "isPart": False})


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
        (["100.dat"], "The header is missing"),
        (["a.csv", "b.csv"], "One signal at a time"),
        (["a.edf", "b.edf"], "One recording at a time"),
        (["a.edf", "b.csv"], "One recording at a time"),
        (["a.pdf"], "a.pdf is of no kind that can be read"),
    ],
)
def test_files_are_sorted_by_what_they_are(
    evaluate: Evaluate, names: list[str], result: str
) -> None:
    sort = """
        const files = argument.map((name) => new File(['x'], name));
        try { return m.sortFiles(files).kind; } catch (problem) { return problem.title; }
    """
    assert evaluate("files/recording_files.js", sort, names) == result


def test_samples_are_brought_to_millivolt(evaluate: Evaluate) -> None:
    convert = """
        const {samples, unit} = argument;
        return [...m.toMillivolt(Float64Array.from(samples), {unit, countsPerMv: 200})];
    """

    def to_mv(samples: list[float], unit: str) -> list[float]:
        result: list[float] = evaluate(
            "files/request.js", convert, {"samples": samples, "unit": unit}
        )
        return result

    assert to_mv([0.123456789, -1], "mV") == [0.12346, -1]
    assert to_mv([1500, -20], "uV") == [1.5, -0.02]
    assert to_mv([0.001], "V") == [1]
    assert to_mv([1024, 1224, 1024, 1024, 924], "counts") == [0, 1, 0, 0, -0.5]


@pytest.mark.parametrize(
    ("samples", "unit"),
    [([-1.2, 2.5], "mV"), ([900, 1300, 1024], "counts"), ([-800.5, 1500.25], "uV")],
)
def test_the_unit_is_guessed_from_the_samples(
    evaluate: Evaluate, samples: list[float], unit: str
) -> None:
    guess = "return m.guessUnit(Float64Array.from(argument));"
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
