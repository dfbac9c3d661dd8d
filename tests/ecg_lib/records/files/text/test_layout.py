"""Layouts of text files: statements above the samples, missing samples, decimals, encodings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.errors import (
    MissingDetailError,
    RecordError,
    UnknownLeadError,
    UnsupportedRecordError,
)
from ecg_lib.records.files.lead import RecordingFile, choose_lead
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.files.text.preamble import find_rate

FS = 250.0
N = 3000

VALUES = np.round(np.random.default_rng(4).uniform(-1, 1, N), 4)
ROWS = [f"{value:.4f}" for value in VALUES]
TIMES = [f"{n / FS:.3f}" for n in range(N)]


def _open(tmp_path: Path, text: str | bytes, *, fs: float | None = None) -> RecordingFile:
    path = tmp_path / "r.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_recording(path, fs=fs)


def _read(opened: RecordingFile) -> NDArray[np.float32]:
    return np.concatenate(list(opened.blocks(choose_lead(opened.leads))))


@pytest.mark.parametrize(
    ("line", "fs"),
    [
        ("# Sample Rate = 250 Hz", 250.0),
        ("Sampling frequency (Hz),500", 500.0),
        ("Abtastrate: 512 Hz", 512.0),
        ("EKG_Abtastrate_Hz;256", 256.0),
        ("Frecuencia de muestreo;300", 300.0),
        ("# fs=128, lead II, 0.5-40 Hz", 128.0),
        ("sampling_rate_hz: 360", 360.0),
        ("# 200 samples per second", 200.0),
        ("# recorded at 1 kHz", 1000.0),
        ("Frequency: 250 Hz", 250.0),
        ('"Fréquence d\'échantillonnage";"500,0 hertz"', 500.0),
        ("# resp sampling rate: 125 Hz", None),
        ("PPG fs = 100", None),
        ("PPG fs = 125", None),
        ("RESP: sampling rate 125 Hz", None),
        ("Signals: II | ABP fs=125", None),
        ("ART fs: 125", None),
        ("ACC signal, resp 125 samples/s", None),
        ("# arterial blood pressure sampling rate: 125 Hz", None),
        ("Heart rate sampling rate: 125", None),
        ("Digital ECG recorder, sampling rate: 250 Hz", 250.0),
        ("Digital sampling rate: 250 Hz", 250.0),
        ("Heart monitor X1; sampling rate: 250", 250.0),
        ("Heart rate monitor sampling rate: 250", 250.0),
        ("EEG recorder sampling rate: 250", 250.0),
        ("ECG event recorder sampled at 250 Hz", 250.0),
        ("Event recorder sampled at 250 Hz", 250.0),
        ("Status: ok, fs=500", 500.0),
        ("Battery: 80 %; fs=500", 500.0),
        ("Zeit in s, Abtastrate: 500", 500.0),
        ("Time base: sampling rate 500", 500.0),
        ("Leads II | RESP off | fs=250", 250.0),
        ("Respiration belt off, temperature 21, sampling rate: 250", 250.0),
        ("Sampling frequency fs: 500 Hz", 500.0),
        ("ECG and RESP sampling rate: 250", 250.0),
        ("ECG, RESP sampling rate: 250", 250.0),
        ("RESP sampling rate: 125 Hz; ECG sampling rate: 250 Hz", 250.0),
        ("ECG sampling rate: 250 Hz; RESP sampling rate: 125 Hz", 250.0),
        ("RESP fs=125, fs=250", 250.0),
        ("# low-pass 150 Hz", None),
        ("# notch filter 50 Hz", None),
        ("Filter frequency: 100 Hz", None),
        ("# mains frequency = 60 Hz", None),
        ("Frequency: 60 Hz", None),
        ("# bandwidth 0.05-150 Hz", None),
        ("Filter,0.05-150 Hz", None),
        ("Cut-off frequency = 150 Hz", None),
        ("# heart rate: 72", None),
        ("# 250 Hz", None),
        ("# sampling rate: 250-500 Hz", None),
        ("# sampling rate: 1,000 Hz", None),
    ],
)
def test_only_what_is_called_a_sampling_rate_is_one(line: str, fs: float | None) -> None:
    assert find_rate(line) == fs


def test_the_rate_of_a_line_that_names_a_device_is_read(tmp_path: Path) -> None:
    rows = "ECG\n" + "\n".join(ROWS)
    for line in ("# ECG event recorder sampled at 250 Hz", "# Status: ok, fs=250"):
        assert _open(tmp_path, f"{line}\n{rows}").leads[0].fs == 250.0
    with pytest.raises(MissingDetailError, match="sampling_rate must be given"):
        _open(tmp_path, f"# RESP sampling rate: 250 Hz\n{rows}")


def test_a_column_of_time_wins_over_the_words_above_it_and_the_conflict_is_said(
    tmp_path: Path,
) -> None:
    rows = "\n".join(map(",".join, zip(TIMES, ROWS, strict=True)))
    opened = _open(tmp_path, f"# sampling rate: 500 Hz\ntime,ECG\n{rows}\n")
    assert opened.leads[0].fs == 250.0
    (said,) = opened.warnings
    assert "states 500 Hz" in said
    assert "gives 250 Hz, which is taken" in said
    assert _open(tmp_path, f"# sampling rate: 250 Hz\ntime,ECG\n{rows}\n").warnings == ()
    with pytest.raises(MissingDetailError, match="the file states 250 Hz"):
        _open(tmp_path, f"# sampling rate: 500 Hz\ntime,ECG\n{rows}\n", fs=500.0)


@pytest.mark.parametrize(
    "text",
    [
        "# unit: adu\ntime,ECG\n",
        "Unit,counts\ntime,ECG\n",
        "# Einheit: bits\ntime,ECG\n",
        "time,ECG (a.u.)\n",
        "time,ECG [ADC counts]\n",
        "time,ecg_counts\n",
        "time,ECG\ns,bits\n",
    ],
)
def test_counts_are_never_taken_for_millivolts(tmp_path: Path, text: str) -> None:
    rows = "".join(f"{time},{row}\n" for time, row in zip(TIMES, ROWS, strict=True))
    with pytest.raises(UnsupportedRecordError, match="counts, which need the gain"):
        _open(tmp_path, text + rows)


@pytest.mark.parametrize(
    "text", ["time,signal (mmHg)\n", "# unit: mmHg\ntime,signal\n", "time,wave [%]\n"]
)
def test_a_signal_with_the_unit_of_another_is_not_an_ecg(tmp_path: Path, text: str) -> None:
    rows = "".join(f"{time},{row}\n" for time, row in zip(TIMES, ROWS, strict=True))
    with pytest.raises(UnsupportedRecordError, match="must have a signal in V, mV or uV"):
        _open(tmp_path, text + rows)


def _rows(*columns: list[str]) -> str:
    return "".join(",".join(row) + "\n" for row in zip(TIMES, *columns, strict=True))


@pytest.mark.parametrize(
    ("above", "scale"),
    [
        ("# Sampling rate unit: Hz\n# Unit: uV\n", 1e-3),
        ("# ECG unit: uV\n# HR unit: bpm\n", 1e-3),
        ("# Unit: uV\n# Temperature unit: °C\n# Respiration unit: l/min\n", 1e-3),
        ("# Unit: uV\n# EMG unit: mV\n# RESP: V\n# Battery voltage: V\n", 1e-3),
        ("# Unit: uV\n# ADC resolution unit: bits\n", 1e-3),
        ("# Unit: uV\n# Channels: V\n", 1e-3),
        ("// Unit: uV\n// Frequency Units: Hz\n", 1e-3),
        ("# Units: uV, bpm\n", 1e-3),
        ("# Units: s;uV\n", 1e-3),
        ("# Unit: microvolts (uV)\n", 1e-3),
        ("# ecgUnit = uV\n", 1e-3),
        ("# Unit of the electrocardiogram signal: uV\n", 1e-3),
        ("# Unit: V\n# Frequency unit: Hz\n", 1e3),
        ("# Sampling rate unit: Hz\n", 1.0),
        ("# Frequency Units: Hz\n", 1.0),
        ("# Respiration unit: l/min\n", 1.0),
        ("Sampling rate unit,Hz\n", 1.0),
        ("# HR unit: bpm\n# Temp unit: °C\n", 1.0),
        ("# EMG unit: uV\n", 1.0),
        ("# Unit: Cardiology V\n", 1.0),
        ("# Unit: mV\n# ECG: mV\n", 1.0),
    ],
)
def test_the_unit_of_the_leads_is_not_that_of_something_else(
    tmp_path: Path, above: str, scale: float
) -> None:
    opened = _open(tmp_path, f"{above}time,ECG\n{_rows(ROWS)}")
    np.testing.assert_allclose(_read(opened), VALUES * scale, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("above", "said"),
    [
        ("# Unit: uV\n# ECG unit: mV\n", "mV and uV"),
        ("# Unit: uV\n# Range unit: mV\n", "mV and uV"),
        ("# Unit: bpm\n# Unit: uV\n", "bpm and uV"),
        ("# Unit: mV\n# ADC unit: counts\n", "counts and mV"),
        ("# Unit: uV per count\n", "counts and uV"),
        ("# Unit: 0.1 uV\n", "counts and uV"),
    ],
)
@pytest.mark.parametrize("headings", ["time,ECG", "time,value", ""])
def test_units_that_contradict_each_other_are_asked_for(
    tmp_path: Path, above: str, said: str, headings: str
) -> None:
    text = f"{above}{headings}\n{_rows(ROWS)}"
    with pytest.raises(MissingDetailError, match=f"the CSV file states {said}") as raised:
        _open(tmp_path, text)
    assert raised.value.detail == "unit"
    path = tmp_path / "r.csv"
    for unit, scale in (("uV", 1e-3), ("mV", 1.0)):
        opened = open_recording(path, unit=unit)
        np.testing.assert_allclose(_read(opened), VALUES * scale, rtol=1e-5, atol=1e-9)


def test_units_that_contradict_each_other_do_not_matter_to_a_lead_that_states_its_own(
    tmp_path: Path,
) -> None:
    above = "# Unit: uV\n# ECG unit: mV\n"
    opened = _open(tmp_path, f"{above}time,ECG (uV),RESP,aux\n{_rows(ROWS, TIMES, TIMES)}")
    assert [lead.name for lead in opened.leads] == ["ECG"]
    assert opened.others == ("RESP", "aux")
    np.testing.assert_allclose(_read(opened), VALUES / 1000, rtol=1e-5, atol=1e-9)
    with pytest.raises(MissingDetailError, match="states mV and uV"):
        _open(tmp_path, f"{above}time,chan (uV),ECG\n{_rows(TIMES, ROWS)}")
    with pytest.raises(UnsupportedRecordError, match="there is none among RESP"):
        _open(tmp_path, f"{above}time,RESP\n{_rows(ROWS)}")


@pytest.mark.parametrize("line", ["# Unit: %", "// Maßeinheit: mmHg", "# Unit of measurement: bpm"])
def test_the_only_unit_of_a_file_is_that_of_its_signal(tmp_path: Path, line: str) -> None:
    with pytest.raises(UnsupportedRecordError, match="must have a signal in V, mV or uV"):
        _open(tmp_path, f"{line}\ntime,signal\n{_rows(ROWS)}")


@pytest.mark.parametrize(
    "line", ["# ADC unit: counts", "# Digital unit: adu", "# Maßeinheit: bits"]
)
def test_counts_are_stated_in_many_words(tmp_path: Path, line: str) -> None:
    with pytest.raises(UnsupportedRecordError, match="counts, which need the gain"):
        _open(tmp_path, f"{line}\ntime,ECG\n{_rows(ROWS)}")


def test_the_name_of_a_lead_above_the_samples_is_not_a_unit(tmp_path: Path) -> None:
    rows = "".join(f"{time},{row}\n" for time, row in zip(TIMES, ROWS, strict=True))
    np.testing.assert_allclose(
        _read(_open(tmp_path, "# Lead: V\ntime,ECG\n" + rows)), VALUES, atol=1e-6
    )


@pytest.mark.parametrize("packet", [25, 73, 250])
def test_one_stamp_a_packet_gives_the_rate_of_its_rows(tmp_path: Path, packet: int) -> None:
    rows = "".join(f"{n // packet * packet / FS:.3f},{ROWS[n]}\n" for n in range(N))
    assert _open(tmp_path, f"time,ECG\n{rows}", fs=FS).leads[0].fs == FS
    with pytest.raises(MissingDetailError, match="they give about 250 Hz"):
        _open(tmp_path, f"time,ECG\n{rows}")
    with pytest.raises(MissingDetailError, match="the file states 250 Hz"):
        _open(tmp_path, f"time,ECG\n{rows}", fs=270.0)


def test_filters_above_the_samples_do_not_contradict_the_rate_that_is_given(tmp_path: Path) -> None:
    text = "# low-pass 150 Hz\n# notch filter 50 Hz\nECG\n" + "\n".join(ROWS)
    assert _open(tmp_path, text, fs=FS).leads[0].fs == 250.0
    with pytest.raises(MissingDetailError, match="sampling_rate must be given"):
        _open(tmp_path, text)


@pytest.mark.parametrize(
    "word",
    [
        *("", '""', "NaN", "#N/A", "n/a", "<NA>", "?", "#NV", "#DIV/0!", "NULL", "1.#QNAN", "--"),
        *("k.A.", "n.v.", "s/d", "---", "-32768"),
    ],
)
@pytest.mark.parametrize("start", [0, 1000])
def test_missing_samples_of_one_column_keep_their_time(
    tmp_path: Path, word: str, start: int
) -> None:
    rows = list(ROWS)
    rows[start : start + 500] = [word] * 500
    samples = _read(_open(tmp_path, "ECG\n" + "\n".join(rows) + "\n\n", fs=FS))
    assert len(samples) == N
    assert np.flatnonzero(np.isnan(samples)).tolist() == list(range(start, start + 500))
    known = np.flatnonzero(~np.isnan(samples))
    np.testing.assert_allclose(samples[known], VALUES[known], atol=1e-6)


@pytest.mark.parametrize("word", ["", "#N/A", "?", "<NA>", "NaN"])
@pytest.mark.parametrize("start", [0, 1000])
@pytest.mark.parametrize("first", ["time", "sample", "V1"])
def test_missing_samples_of_several_columns_keep_their_time(
    tmp_path: Path, word: str, start: int, first: str
) -> None:
    rows = list(ROWS)
    rows[start : start + 500] = [word] * 500
    others = {"time": TIMES, "sample": list(map(str, range(N))), "V1": rows}[first]
    text = f"{first},II\n" + "\n".join(map(",".join, zip(others, rows, strict=True)))
    samples = _read(_open(tmp_path, text, fs=FS))
    assert len(samples) == N
    assert np.flatnonzero(np.isnan(samples)).tolist() == list(range(start, start + 500))


@pytest.mark.parametrize(
    ("start", "between"),
    [("ECG\n", "\n\n"), ("ECG\n\n", "\n"), ("ECG\n\n\n", "\n"), ("", "\r\r\n")],
)
def test_blank_lines_of_the_layout_are_not_samples(
    tmp_path: Path, start: str, between: str
) -> None:
    samples = _read(_open(tmp_path, start + between.join(ROWS), fs=FS))
    np.testing.assert_allclose(samples, VALUES, atol=1e-6)


def test_blank_lines_that_would_fill_memory_are_refused(tmp_path: Path) -> None:
    text = "ECG\n" + "\n".join(ROWS) + "\n" * (2**22 + 2) + "\n".join(ROWS)
    with pytest.raises(RecordError, match="may be blank one after the other"):
        _read(_open(tmp_path, text, fs=FS))


def _swap(text: str) -> str:
    return text.replace(".", ",")


def test_decimal_commas_in_quotes_may_stand_beside_commas(tmp_path: Path) -> None:
    rows = [f'"{_swap(time)}","{_swap(row)}"' for time, row in zip(TIMES, ROWS, strict=True)]
    opened = _open(tmp_path, "time,ECG\n" + "\n".join(rows))
    assert opened.leads[0].fs == 250.0
    np.testing.assert_allclose(_read(opened), VALUES, atol=1e-6)
    bare = [row.replace('"', "") for row in rows]
    with pytest.raises(UnsupportedRecordError, match="decimal commas must not stand beside"):
        _open(tmp_path, "time,ECG\n" + "\n".join(bare))


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"]
)
def test_texts_of_any_usual_encoding_are_read(tmp_path: Path, encoding: str) -> None:
    rows = [f"{_swap(time)};{_swap(row)}" for time, row in zip(TIMES, ROWS, strict=True)]
    text = "Zeit [s];EKG II [µV]\r\n" + "\r\n".join(rows)
    opened = _open(tmp_path, text.encode(encoding))
    assert [(lead.name, lead.fs) for lead in opened.leads] == [("EKG II", 250.0)]
    np.testing.assert_allclose(_read(opened), VALUES / 1000, atol=1e-8)


@pytest.mark.parametrize(
    "form",
    [
        "2024-03-31T23:59:{:06.3f}Z",
        "2024-03-31 23:59:{:06.3f}+02:00",
        "2024-03-31 23:59:{:06.3f} +0200",
        "2024-03-31 23:59:{:06.3f} UTC",
        "31.03.2024 23:59:{:06.3f}",
        "31.03.24 23:59:{:06.3f}",
        "3/31/2024 11:59:{:06.3f} PM",
        "23:59:{:06.3f}",
    ],
)
@pytest.mark.parametrize("heading", ["timestamp", "Zeitstempel", "fecha y hora", None])
def test_times_of_day_give_the_rate_across_midnight(
    tmp_path: Path, form: str, heading: str | None
) -> None:
    next_day = (
        form.replace("23:59", "00:00")
        .replace("11:59", "12:00")
        .replace("PM", "AM")
        .replace("2024-03-31", "2024-04-01")
        .replace("31.03.", "01.04.")
        .replace("3/31", "4/1")
    )
    stamps = [
        (form if second < 60 else next_day).format(second % 60)
        for second in (55 + np.arange(N) / FS).tolist()
    ]
    names = "" if heading is None else f"{heading},ECG\n"
    opened = _open(tmp_path, names + "\n".join(map(",".join, zip(stamps, ROWS, strict=True))))
    assert opened.leads[0].fs == 250.0
    np.testing.assert_allclose(_read(opened), VALUES, atol=1e-6)


def test_a_first_column_that_counts_in_equal_steps_is_not_a_lead(tmp_path: Path) -> None:
    rows = [f"{4 * n},{row}" for n, row in enumerate(ROWS)]
    opened = _open(tmp_path, "\n".join(rows), fs=FS)
    assert [lead.name for lead in opened.leads] == ["MLII"]
    np.testing.assert_allclose(_read(opened), VALUES, atol=1e-6)


@pytest.mark.parametrize("unit", ["counts", "adu"])
def test_another_voltage_is_not_taken_for_an_ecg_in_counts(tmp_path: Path, unit: str) -> None:
    rows = "\n".join(f"{time},{row},{row}" for time, row in zip(TIMES, ROWS, strict=True))
    opened = _open(tmp_path, f"time,ECG II ({unit}),chan1 (mV)\n{rows}")
    with pytest.raises(UnknownLeadError, match=r"ECG II.* is not; lead must name another.*chan1"):
        choose_lead(opened.leads, others=opened.others)
    assert choose_lead(opened.leads, "chan1", others=opened.others).name == "chan1"


def _write_opensignals(columns: str = "", **device: Any) -> str:  # noqa: ANN401  JSON
    header = {
        "device": "bitalino_rev",
        "sampling rate": 1000,
        "resolution": [4, 1, 1, 1, 1, 10],
        "sensor": ["ECG"],
        "label": ["A2"],
        "column": ["nSeq", "I1", "I2", "O1", "O2", "A2"],
        **device,
    }
    text = json.dumps({"20:16:02:14:04:22": header})
    bits = header["resolution"][-1]
    counts = np.arange(12_000) % 2**bits
    rows = "\n".join(f"{n % 16}\t0\t1\t0\t0\t{count}{columns}" for n, count in enumerate(counts))
    return f"# OpenSignals Text File Format\n# {text}\n# EndOfHeader\n{rows}\n"


@pytest.mark.parametrize("end", ["", "\t"])
@pytest.mark.parametrize(
    ("device", "span_mv"),
    [
        ({}, 3.0),
        ({"sensor": ["ECGBIT"], "device": "bitalino"}, 3.0),
        ({"device": "biosignalsplux", "resolution": [4, 1, 1, 1, 1, 16]}, 3.0),
        ({"convertedValues": 1}, None),
    ],
)
def test_counts_of_opensignals_are_converted_as_the_maker_says(
    tmp_path: Path, device: dict[str, Any], span_mv: float | None, end: str
) -> None:
    opened = _open(tmp_path, _write_opensignals(end, **device))
    assert [(lead.name, lead.fs) for lead in opened.leads] == [("ECG", 1000.0)]
    bits = device.get("resolution", [10])[-1]
    counts = np.arange(12_000) % 2**bits
    expected = counts if span_mv is None else (counts / 2**bits - 0.5) * span_mv
    np.testing.assert_allclose(_read(opened), expected, atol=1e-5)
    assert "formula that the maker publishes" in opened.warnings[0]


@pytest.mark.parametrize("device", [{"device": "other"}, {"sensor": ["RAW"]}, {"sensor": ["EMG"]}])
def test_counts_of_opensignals_without_a_formula_need_the_gain(
    tmp_path: Path, device: dict[str, Any]
) -> None:
    with pytest.raises(UnsupportedRecordError, match="counts, which need the gain"):
        _open(tmp_path, _write_opensignals(**device))


def test_an_export_of_openbci_without_headings_does_not_analyse_its_counter(
    tmp_path: Path,
) -> None:
    rows = "\n".join(f"{n % 256}, {value * 1000:.2f}, 0.0" for n, value in enumerate(VALUES))
    head = "%OpenBCI Raw EEG Data\n%Number of channels = 2\n%Sample Rate = 250.0 Hz\n"
    opened = _open(tmp_path, head + rows)
    lead = choose_lead(opened.leads)
    assert lead.fs == 250.0
    np.testing.assert_allclose(next(opened.blocks(lead))[:1000], VALUES[:1000], atol=1e-4)


@pytest.mark.parametrize(
    "head",
    [
        "Name,Hans\nMessrate,512 Hertz\n\nAbleitung,Ableitung I\nEinheit,µV\n\n",
        "Name;Hans\nAbtastrate;512 Hertz\n\nAbleitung;Ableitung I\nEinheit;µV\n\n",
        "Nombre,Juan\nFrecuencia de muestreo,512 hercios\n\nDerivación,Derivación I\nUnidad,µV\n\n",
        "Name,John\nSample Rate,512 hertz\n\nLead,Lead I\nUnit,µV\n\n",
        "Naam,Jan\nSamplefrequentie,512 hertz\n\nAfleiding,Afleiding I\nEenheid,µV\n\n",
        "Namn,Jan\nSamplingsfrekvens,512 hertz\n\nAvledning,Avledning I\nEnhet,µV\n\n",
        "Frequenza di campionamento,512 hertz\n\nDerivazione,Derivazione I\nUnità,µV\n\n",
        "Имя,Иван\nЧастота дискретизации,512 Гц\n\nОтведение,Отведение I\nЕдиница,мкВ\n\n",  # noqa: RUF001
    ],
)
@pytest.mark.parametrize("form", ["{}", '"{}"'])
def test_exports_of_apple_health_are_read_in_their_languages(
    tmp_path: Path, head: str, form: str
) -> None:
    values = np.resize(VALUES, 6000)
    rows = "\n".join(form.format(_swap(f"{value * 1000:.3f}")) for value in values)
    opened = _open(tmp_path, head + rows)
    (lead,) = opened.leads
    assert lead.fs == 512.0
    assert lead.name.endswith(" I")
    np.testing.assert_allclose(_read(opened), values, atol=1e-5)


def test_headings_of_rdsamp_are_parted_by_more_than_one_blank(tmp_path: Path) -> None:
    rows = "\n".join(f"   0:{n / FS:06.3f}   {row}   0.1" for n, row in enumerate(ROWS))
    head = "  Elapsed time   MLII   V1\n(hh:mm:ss.mmm)   (mV)   (mV)\n"
    opened = _open(tmp_path, head + rows)
    assert [(lead.name, lead.fs) for lead in opened.leads] == [("MLII", 250.0), ("V1", 250.0)]
    np.testing.assert_allclose(_read(opened), VALUES, atol=1e-6)


@pytest.mark.parametrize("head", ["# II", "# II\n#", "#####\n# II\n#####", "# II\n# "])
def test_a_rule_below_a_commented_heading_hides_no_name(tmp_path: Path, head: str) -> None:
    opened = _open(tmp_path, "\n".join([head, *ROWS]), fs=FS)
    assert [lead.name for lead in opened.leads] == ["II"]
