"""Files of samples that are read for a page, over HTTP."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bentos.recordings import tables
from bentos.recordings.job_queue import JobQueue
from bentos.recordings.tables import MAX_TABLE_BYTES
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip

SIGNALS = "/api/v1/signals/"
ROWS = 2500


def _post(http: httpx.Client, name: str, content: bytes, **fields: str) -> httpx.Response:
    return http.post(SIGNALS, files=[("files", (name, content))], data=fields)


def _read(http: httpx.Client, name: str, content: bytes, **fields: str) -> dict[str, Any]:
    answered = _post(http, name, content, **fields)
    assert answered.status_code == 200, answered.text
    table: dict[str, Any] = answered.json()
    return table


def _npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def _csv(heading: str, *, rows: int = ROWS, fs: float = 250.0) -> str:
    lines = (f"{row / fs:.6f},{row % 9 / 8 - 0.5}\n" for row in range(rows))
    return f"{heading}\n" + "".join(lines)


def test_a_file_is_read_and_nothing_of_it_is_kept(http: httpx.Client, home: Path) -> None:
    table = _read(http, "Jane Doe.csv", _csv("time,II [uV]").encode())
    column = table.pop("columns")
    assert table == {
        "kind": "csv",
        "leads": ["II"],
        "has_lead_names": True,
        "lead": "II",
        "sampling_rate": 250.0,
        "units": ["mV"],
        "missing": [],
        "warnings": [],
    }
    np.testing.assert_allclose(column, [[(n % 9 / 8 - 0.5) / 1000 for n in range(ROWS)]], atol=1e-9)
    incoming = home / "recordings" / ".incoming"
    assert [path.name for path in incoming.glob("*/*") if path.name != ".owner"] == []


def _zip(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def test_a_compressed_file_is_shown_as_it_is(http: httpx.Client) -> None:
    content = _csv("time,II [uV]").encode()
    table = _read(http, "r.csv", content)
    assert _read(http, "r.csv.gz", gzip.compress(content)) == table
    assert _read(http, "r.zip", _zip("a/r.csv", content)) == table
    beginning = gzip.compress(content)[:-2000]
    part = _read(http, "r.csv.gz", beginning, is_part="true")
    (column,), (whole,) = part.pop("columns"), table.pop("columns")
    assert part == table
    assert 0 < len(column) < len(whole)
    assert column == whole[: len(column)]


@pytest.mark.parametrize(
    ("name", "content", "status", "words"),
    [
        ("r.csv.gz", gzip.compress(b"1\n" * 1000, mtime=0)[:-9], 422, "gzip file cannot be read"),
        (
            "r.edf.gz",
            gzip.compress(b"0       " + bytes(500), mtime=0),
            415,
            "send others as recordings",
        ),
        ("r.zip", _zip("r.hea", b"r 1 250 5000\nr.dat 16\n"), 415, "send others as recordings"),
    ],
)
def test_a_compressed_file_that_is_not_shown_is_refused(
    http: httpx.Client, name: str, content: bytes, status: int, words: str
) -> None:
    answered = _post(http, name, content)
    assert answered.status_code == status
    assert words in answered.json()["detail"]


def test_the_rate_of_stamps_that_repeat_is_asked_for_and_the_samples_are_shown(
    http: httpx.Client,
) -> None:
    rows = "".join(f"2024-03-14 09:15:{n // 250:02d},{n % 9 / 8 - 0.5}\n" for n in range(ROWS))
    table = _read(http, "r.csv", f"time,ECG\n{rows}".encode())
    assert (table["sampling_rate"], table["missing"]) == (None, ["sampling_rate"])
    assert len(table["columns"][0]) == ROWS


def test_headings_are_read_by_the_one_reader(http: httpx.Client, csv_case: Any) -> None:  # noqa: ANN401  of the conftest
    """The library is held to the same table by ``tests/ecg_lib/records/files/test_opening.py``."""
    answered = _post(http, "a.csv", csv_case.text.encode())
    if csv_case.leads is None:
        assert answered.status_code in {415, 422}
        return
    table = answered.json()
    if not table.get("leads"):
        # Counts need the gain of a device, which no heading states.
        assert "counts" in csv_case.units
        assert "counts" in table["detail"]
        return
    named = dict(zip(csv_case.leads, csv_case.units, strict=True))
    assert table["leads"] == [lead for lead, unit in named.items() if unit != "counts"]
    assert table["sampling_rate"] == csv_case.fs
    assert ("sampling_rate" in table["missing"]) == (csv_case.fs is None)
    shown = [named[lead] is not None for lead in table["leads"]]
    assert [unit is not None for unit in table["units"]] == shown


def test_what_a_file_does_not_state_is_listed_and_its_samples_are_as_they_stand(
    http: httpx.Client,
) -> None:
    counts = 1024 + 200 * np.sin(np.arange(ROWS) / 9).round(2)
    table = _read(http, "a.npy", _npy(counts.astype(np.int16)))
    assert (table["sampling_rate"], table["units"], table["lead"]) == (None, [None], "MLII")
    assert (table["missing"], table["has_lead_names"]) == (["sampling_rate"], False)
    assert table["columns"][0] == counts.astype(np.int16).tolist()


def test_contradictory_units_are_asked_for(http: httpx.Client) -> None:
    text = "# unit: mV\n# unit: uV\n" + _csv("time,II")
    table = _read(http, "a.csv", text.encode())
    assert (table["units"], table["missing"]) == ([None], ["unit"])
    assert table["columns"][0][:2] == pytest.approx([-0.5, -0.375])


def test_a_lead_that_is_not_clearly_an_ecg_is_not_chosen(http: httpx.Client) -> None:
    text = "a,b\n" + "".join(f"{n % 9 / 8},{n % 7 / 8}\n" for n in range(ROWS))
    table = _read(http, "a.csv", text.encode())
    assert (table["leads"], table["lead"]) == (["a", "b"], None)


def test_a_unit_is_that_of_its_lead_alone(http: httpx.Client) -> None:
    rows = "".join(f"{n / 250:.3f},{n % 9},{900 + n % 9}\n" for n in range(ROWS))
    table = _read(http, "a.csv", f"time,V1 [uV],II\n{rows}".encode())
    units = dict(zip(table["leads"], table["units"], strict=True))
    assert units == {"V1": "mV", "II": None}
    columns = dict(zip(table["leads"], table["columns"], strict=True))
    assert (columns["V1"][1], columns["II"][1]) == (pytest.approx(0.001), 901.0)


def test_a_lead_in_volts_without_a_unit_is_not_called_flat(http: httpx.Client) -> None:
    signal = simulate_strip(StripKind.NORMAL, seed=11, duration_s=20.0).signal_mv()
    for first, lead, word in ((signal / 1000, "II", ""), (0 * signal, "I", "lead II is flat")):
        rows = "".join(f"{one:.7f},{other:.7f}\n" for one, other in zip(first, signal, strict=True))
        table = _read(http, "a.csv", f"II,I\n{rows}".encode())
        assert (table["lead"], table["units"]) == (lead, [None, None])
        assert word in " ".join(table["warnings"])
        assert ("flat" in " ".join(table["warnings"])) is bool(word)


def test_missing_samples_are_null(http: httpx.Client) -> None:
    rows = [f"{n % 9 / 8}" for n in range(ROWS)]
    rows[7], rows[9] = "NaN", "-32768"
    table = _read(http, "a.csv", ("II\n" + "\n".join(rows)).encode())
    column = table["columns"][0]
    assert next(at for at, value in enumerate(column) if value is None) == 7
    assert column[8] == pytest.approx(8 / 8)


def test_a_gap_in_time_is_missing_and_not_a_lower_rate(http: httpx.Client) -> None:
    times = (n / 250 + 2.0 * (n >= 1500) for n in range(ROWS))
    text = "time,II\n" + "".join(f"{time:.3f},0.1\n" for time in times)
    table = _read(http, "a.csv", text.encode())
    assert table["sampling_rate"] == 250.0
    assert sum(value is None for value in table["columns"][0]) == pytest.approx(500, abs=2)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2", "i1", "<i8", "u2"])
def test_numpy_files_are_read_as_numpy_does(http: httpx.Client, dtype: str, order: Any) -> None:  # noqa: ANN401  a literal
    values = (np.arange(3 * ROWS).reshape(ROWS, 3) % 100).astype(dtype, order=order)
    table = _read(http, "a.npy", _npy(values))
    assert table["leads"] == ["lead1", "lead2", "lead3"]
    np.testing.assert_allclose(np.array(table["columns"]).T, values, rtol=1e-6)


def test_the_beginning_of_a_file_is_read_up_to_its_last_whole_row(http: httpx.Client) -> None:
    whole = _npy(np.arange(2.0 * ROWS).reshape(ROWS, 2))
    part = _read(http, "a.npy", whole[:-164], is_part="true")
    assert [len(column) for column in part["columns"]] == [ROWS - 11, ROWS - 11]
    assert _post(http, "a.npy", whole[:-164]).status_code == 422
    text = _csv("time,II")
    for encoding in ("utf-8", "utf-16"):
        cut = text.encode(encoding)[:-7]
        part = _read(http, "a.csv", cut, is_part="true")
        assert len(part["columns"][0]) == ROWS - 1


def test_the_beginning_of_a_file_with_lone_carriage_returns_is_read(http: httpx.Client) -> None:
    content = _csv("time,II").replace("\n", "\r").encode()[:-7]
    part = _read(http, "a.csv", content, is_part="true")
    assert len(part["columns"][0]) == ROWS - 1


def test_a_numpy_file_that_ends_within_its_header_is_refused(http: httpx.Client) -> None:
    whole = _npy(np.arange(100.0))
    longer = whole[:8] + (4000).to_bytes(2, "little") + whole[10:128] + b" " * 10
    for fields in ({}, {"is_part": "true"}):
        assert _post(http, "a.npy", longer, **fields).status_code == 422


def test_many_columns_do_not_keep_the_reader_for_long(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "LONGEST_READ_S", 0.0)
    answered = _post(http, "a.csv", _csv("time,II").encode())
    assert answered.status_code == 413
    assert "to read; send it as a recording" in answered.json()["detail"]


def test_a_full_queue_of_recordings_does_not_stop_a_look(
    http: httpx.Client, recordings: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "_places", 0)
    assert _post(http, "a.csv", _csv("time,II").encode()).status_code == 200


def test_a_look_is_rejected_when_many_wait(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MAX_WAITING", 0)
    answered = _post(http, "a.csv", _csv("time,II").encode())
    assert (answered.status_code, answered.headers["retry-after"]) == (503, "5")


def test_an_export_under_a_name_of_text_is_sent_as_a_recording(http: httpx.Client) -> None:
    edf = b"0       " + b" " * 400
    answered = _post(http, "a.csv", edf)
    assert answered.status_code in {415, 422}


@pytest.mark.parametrize(
    ("name", "content", "status", "word"),
    [
        ("a.csv", b"", 422, "rows of numbers"),
        ("a.csv", b"PLETH,RESP\n0,1\n0.5,2\n" * 1, 422, "PLETH"),
        ("a.csv", b"II\n1\nx\n", 422, ""),
        ("a.npy", b"\x93NUMPY", 422, "NumPy"),
        ("a.edf", b"0" * 300, 415, "recordings"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_word(
    http: httpx.Client, name: str, content: bytes, status: int, word: str
) -> None:
    answered = _post(http, name, content)
    assert answered.status_code == status, answered.text
    assert word in answered.text


def test_one_file_of_16_mib_is_taken_and_no_other_field(http: httpx.Client) -> None:
    two = [("files", (name, b"II\n1\n")) for name in ("a.csv", "b.csv")]
    assert http.post(SIGNALS, files=two).status_code == 422
    assert _post(http, "a.csv", b"II\n1\n", lead="II").status_code == 422
    assert _post(http, "a.csv", b"1" * MAX_TABLE_BYTES).status_code == 413


def test_more_samples_than_a_page_can_show_are_refused(http: httpx.Client) -> None:
    answered = _post(http, "a.npy", _npy(np.zeros((100_000, 48), dtype=np.int8)))
    assert answered.status_code == 413
    assert "recording" in answered.json()["detail"]


def test_a_rate_that_the_time_stamps_leave_open_is_missing(http: httpx.Client) -> None:
    rows = "".join(f"{row / 250:.2f},{row % 9 / 8 - 0.5}\n" for row in range(ROWS))
    table = _read(http, "rounded.csv", f"time,II [mV]\n{rows}".encode())
    assert (table["sampling_rate"], table["missing"]) == (None, ["sampling_rate"])
    (warning,) = table["warnings"]
    assert "they give about 250 Hz" in warning
    assert len(table["columns"][0]) == ROWS
