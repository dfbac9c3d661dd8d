"""HL7 aECG, GE MUSE and Philips XML, and XML that is made to do harm."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, RecordTooLongError, UnsupportedRecordError
from ecg_lib.records.files.lead import RecordingFile

Counts = dict[str, NDArray[np.int64]]
Open = Callable[..., RecordingFile]
Read = Callable[..., NDArray[np.float32]]


STANDARD = ("I", "II", "III", "aVR", "aVL", "aVF")

# XML.


@pytest.mark.parametrize(
    "prolog",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x [<!ENTITY % a SYSTEM "http://127.0.0.1:9/x.dtd"> %a;]>',
    ],
)
def test_entities_are_refused(
    prolog: str, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    with pytest.raises(UnsupportedRecordError, match="must not declare entities"):
        opened(writers.write_aecg(counts, fs=250, prolog=prolog))


def test_a_dtd_that_is_named_is_not_fetched(
    writers: ModuleType, counts: Counts, opened: Open
) -> None:
    prolog = '<!DOCTYPE AnnotatedECG SYSTEM "http://127.0.0.1:9/never.dtd">'
    assert opened(writers.write_aecg(counts, fs=250, prolog=prolog)).kind == "aecg"


def test_xml_of_another_kind_is_refused(opened: Open) -> None:
    with pytest.raises(UnsupportedRecordError, match=r"AnnotatedECG.*RestingECG.*restingecgdata"):
        opened(b"<?xml version='1.0'?><gpx><trk/></gpx>")


@pytest.mark.parametrize(
    "bomb",
    [
        b"<a/>" * 200_001,
        b"<a>" * 65 + b"</a>" * 65,
        b"<!--" + b"x" * (3 * 2**20) + b"-->",
        b"<a " + b" ".join(b'a%d=""' % number for number in range(300_000)) + b"/>",
    ],
    ids=["elements", "depth", "comment", "attributes"],
)
def test_xml_that_would_take_much_memory_is_refused(
    bomb: bytes, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    content = writers.write_aecg(counts, fs=250)
    with pytest.raises(CorruptRecordError, match="at most"):
        opened(content.replace(b"</AnnotatedECG>", bomb + b"</AnnotatedECG>"))


def test_xml_of_more_than_64_mib_is_refused(
    writers: ModuleType, counts: Counts, opened: Open
) -> None:
    content = writers.write_aecg(counts, fs=250)
    with pytest.raises(RecordTooLongError, match="at most 64 MiB"):
        opened(content.ljust(64 * 2**20 + 1))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_other_encodings_of_xml_are_read(
    encoding: str, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    text = writers.write_aecg(counts, fs=250).decode().replace('encoding="UTF-8"', "")
    assert opened(text.encode(encoding)).kind == "aecg"


@pytest.mark.parametrize("encoding", ["x-unknown", "shift_jis", "utf-7"])
def test_an_encoding_that_the_parser_does_not_take_is_refused(encoding: str, opened: Open) -> None:
    with pytest.raises((CorruptRecordError, UnsupportedRecordError)):
        opened(f'<?xml version="1.0" encoding="{encoding}"?><RestingECG>'.encode() + b"\xff" * 99)


# HL7 aECG.


def test_origin_and_scale_in_units_of_their_own_give_millivolts(
    writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    content = writers.write_aecg({"II": counts["II"]}, fs=250)
    content = content.replace(b'origin value="0" unit="uV"', b'origin value="-0.3" unit="mV"')
    np.testing.assert_allclose(read(opened(content)), counts["II"] * 0.005 - 0.3, atol=1e-6)


@pytest.mark.parametrize(
    ("increment", "fs"),
    [
        ('<increment value="0.002" unit="s"/>', 500.0),
        ('<increment value="4" unit="ms"/>', 250.0),
        ('<increment value="0.002778" unit="s"/>', 360.0),
        ('<increment value="7812.5" unit="us"/>', 128.0),
    ],
)
def test_the_rate_comes_from_the_increment_of_time(
    increment: str, fs: float, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    assert opened(writers.write_aecg(counts, fs=250, increment=increment)).leads[0].fs == fs


@pytest.mark.parametrize(
    ("increment", "match"),
    [
        ("<x/>", "must be in one of s, ms, us"),
        ('<increment value="1" unit="mm"/>', "must be in one of s, ms, us"),
        ('<increment value="0" unit="s"/>', "must be above 0"),
        ('<increment value="-0.004" unit="s"/>', "must be above 0"),
        ('<increment value="1e-320" unit="s"/>', "must be"),
        ('<increment value="nan" unit="s"/>', "must be a number"),
    ],
)
def test_impossible_increments_are_refused(
    increment: str, match: str, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    with pytest.raises((CorruptRecordError, UnsupportedRecordError), match=match):
        opened(writers.write_aecg(counts, fs=250, increment=increment))


def test_samples_that_are_not_numbers_are_missing_or_refused(
    writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    words = list(map(str, counts["II"]))
    words[9] = "NaN"
    samples = read(opened(writers.write_aecg({"II": words}, fs=250)))
    assert np.flatnonzero(np.isnan(samples)).tolist() == [9]
    for word in ("x", "inf", "1,5"):
        words[9] = word
        with pytest.raises(CorruptRecordError, match="digits of an aECG file"):
            opened(writers.write_aecg({"II": words}, fs=250))


def test_a_signal_that_is_not_a_voltage_is_left_out(
    writers: ModuleType, counts: Counts, opened: Open
) -> None:
    content = writers.write_aecg(counts, fs=250)
    content = content.replace(b'scale value="5.0" unit="uV"', b'scale value="5.0" unit="mm"', 1)
    assert [lead.name for lead in opened(content).leads] == ["II"]
    content = content.replace(b'scale value="5.0" unit="uV"', b'scale value="5.0" unit="mm"')
    with pytest.raises(UnsupportedRecordError, match="ECG lead in volts"):
        opened(content)


# GE MUSE.


def test_the_limb_leads_follow_from_i_and_ii(
    writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    recording = opened(writers.write_muse({**counts, "V1": counts["I"]}, fs=250, gain_uv=5))
    names = [lead.name for lead in recording.leads]
    assert names == ["I", "II", "V1", "III", "aVR", "aVL", "aVF"]
    one, two = counts["I"] * 0.005, counts["II"] * 0.005
    np.testing.assert_allclose(read(recording, "III"), two - one, atol=1e-6)
    np.testing.assert_allclose(read(recording, "aVR"), -(one + two) / 2, atol=1e-6)
    np.testing.assert_allclose(read(recording, "aVL"), one - two / 2, atol=1e-6)
    np.testing.assert_allclose(read(recording, "aVF"), two - one / 2, atol=1e-6)


def test_missing_samples_of_i_are_missing_in_what_follows_from_it(
    writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    one = counts["I"].copy()
    one[40:50] = -32768
    recording = opened(writers.write_muse({"I": one, "II": counts["II"]}, fs=250))
    for name in ("I", "III", "aVF"):
        assert np.flatnonzero(np.isnan(read(recording, name))).tolist() == list(range(40, 50))
    assert not np.isnan(read(recording, "II")).any()


def test_leads_that_are_stored_are_not_derived(
    writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    recording = opened(writers.write_muse({**counts, "III": counts["I"]}, fs=250, gain_uv=5))
    np.testing.assert_allclose(read(recording, "III"), counts["I"] * 0.005, atol=1e-6)


def test_the_median_beats_of_muse_are_left_out(
    writers: ModuleType, counts: Counts, opened: Open
) -> None:
    median = {name: values[:600] for name, values in counts.items()}
    recording = opened(writers.write_muse(counts, fs=250, median=median))
    assert {lead.n_samples for lead in recording.leads} == {5000}


def test_the_rate_of_muse_has_an_exponent(
    writers: ModuleType, counts: Counts, opened: Open
) -> None:
    content = writers.write_muse(counts, fs=25).replace(b"Exponent>0<", b"Exponent>1<")
    assert opened(content).leads[0].fs == 250.0


@pytest.mark.parametrize(
    ("old", "new", "error", "match"),
    [
        (b"MICROVOLTS", b"FURLONGS", UnsupportedRecordError, "MICROVOLTS or MILLIVOLTS"),
        (b"SampleSize>2<", b"SampleSize>4<", UnsupportedRecordError, "must have 2 bytes"),
        (b"FirstSample>0<", b"FirstSample>9<", UnsupportedRecordError, "begin together"),
        (b"CountTotal>5000<", b"CountTotal>5001<", CorruptRecordError, "must hold 5001"),
        (b"WaveFormData>\n", b"WaveFormData>\n*", CorruptRecordError, "must be base64"),
        (b"SampleBase>250<", b"SampleBase>0<", CorruptRecordError, "above 0 Hz"),
        (b"SampleBase>250<", b"SampleBase>1e300<", CorruptRecordError, "below 1 MHz"),
        (b"Exponent>0<", b"Exponent>999<", CorruptRecordError, "below 1 MHz"),
        (b"UnitsPerBit>4.88<", b"UnitsPerBit><", CorruptRecordError, "must be a number"),
        (b"UnitsPerBit>4.88<", b"UnitsPerBit>0<", CorruptRecordError, "other than 0"),
        (b">Rhythm<", b">Median<", UnsupportedRecordError, "must hold an ECG lead"),
    ],
)
def test_what_muse_does_not_write_is_refused(
    old: bytes,
    new: bytes,
    error: type[Exception],
    match: str,
    writers: ModuleType,
    counts: Counts,
    opened: Open,
) -> None:
    content = writers.write_muse(counts, fs=250)
    assert old in content
    with pytest.raises(error, match=match):
        opened(content.replace(old, new))


# Philips.


def _limb_leads(counts: Counts) -> tuple[dict[str, Any], list[Any]]:
    """Give limb leads, and what XLI stores of them: III to aVF as the rest from I and II."""
    one, two = counts["I"], counts["II"]
    three = two - one + 1
    right, left, foot = -(one + two) // 2, (one - three) // 2 + 2, (two + three) // 2 - 1
    stored = [
        one,
        two,
        two - one - three,
        -right - (one + two) // 2,
        (one - three) // 2 - left,
        (two + three) // 2 - foot,
    ]
    return dict(zip(STANDARD, (one, two, three, right, left, foot), strict=True)), stored


def test_xli_is_unpacked(writers: ModuleType, counts: Counts, opened: Open, read: Read) -> None:
    leads, stored = _limb_leads(counts)
    content = writers.write_philips(leads, fs=250, packed=writers.pack_xli(stored))
    recording = opened(content)
    for name, values in leads.items():
        np.testing.assert_allclose(read(recording, name), values * 0.005, atol=1e-6)


def test_the_attributes_of_version_1_03_are_read(
    writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    leads, stored = _limb_leads(counts)
    content = writers.write_philips(
        leads,
        fs=250,
        packed=writers.pack_xli(stored),
        method='compressflag="True" compressmethod="XLI"',
    )
    labels = f'numberofleads="6" leadlabels="{" ".join(STANDARD)}"'.encode()
    assert labels in content
    content = content.replace(labels, b"").replace(b"resolution>", b"signalresolution>")
    content = content.replace(
        b"<bitspersample>",
        b"<numberchannelsallocated>6</numberchannelsallocated><bitspersample>",
    )
    np.testing.assert_allclose(read(opened(content), "aVF"), leads["aVF"] * 0.005, atol=1e-6)


def test_limb_leads_that_are_not_compressed_are_whole(
    writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    leads, _ = _limb_leads(counts)
    recording = opened(writers.write_philips(leads, fs=250))
    np.testing.assert_allclose(read(recording, "III"), leads["III"] * 0.005, atol=1e-6)


def test_the_calibration_pulse_at_the_end_of_every_lead_is_cut_off(
    writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    pulse = np.repeat([0, 200, 200, 0], 25)  # 0.1 s of zero, 0.2 s of 1 mV, 0.1 s of zero
    leads = {name: np.concatenate([values, pulse]) for name, values in counts.items()}
    recording = opened(writers.write_philips(leads, fs=250))
    np.testing.assert_allclose(read(recording), counts["II"] * 0.005, atol=1e-6)
    leads["I"][-50] += 1
    assert opened(writers.write_philips(leads, fs=250)).leads[0].n_samples == 5100


def test_xli_that_does_not_end_is_refused(
    writers: ModuleType, counts: Counts, opened: Open
) -> None:
    # A run of zeros takes few codes: 20,000 bytes of them, and 200 are asked for.
    zeros = [np.zeros(10_000, dtype=np.int64)]
    content = writers.write_philips(
        {"II": counts["II"][:100]}, fs=250, packed=writers.pack_xli(zeros)
    )
    with pytest.raises(CorruptRecordError, match="must end with its samples"):
        opened(content)


@pytest.mark.parametrize(
    ("packed", "match"),
    [
        (b"", "cut off"),
        (b"\xff\xff\xff\xff\x01\0\0\0" + b"\0" * 100, "cut off"),
        (b"\x10\0\0\0\x01\0\0\0" + b"\xfe" * 16, "one is unknown"),
    ],
)
def test_damaged_xli_is_refused(
    packed: bytes, match: str, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    with pytest.raises(CorruptRecordError, match=match):
        opened(writers.write_philips({"II": counts["II"]}, fs=250, packed=packed))


@pytest.mark.parametrize(
    ("old", "new", "error", "match"),
    [
        (b'"Base64"', b'"Hex"', UnsupportedRecordError, "must be in base64"),
        (b"bitspersample>16", b"bitspersample>12", UnsupportedRecordError, "must have 16 bits"),
        (b'channel="20000"', b'channel="20004"', CorruptRecordError, "must hold 5001"),
        (b'channel="20000"', b'channel="0"', CorruptRecordError, "above 0"),
        (b'durationperchannel="20000"', b"", CorruptRecordError, "must be a number"),
        (b"rate>250<", b"rate>1e300<", CorruptRecordError, "above 0"),
        (b"resolution>5.0<", b"resolution>0<", CorruptRecordError, "other than 0"),
        (b"resolution>5.0<", b"resolution>five<", CorruptRecordError, "must be a number"),
        (b"parsedwaveforms", b"otherwaveforms", UnsupportedRecordError, "parsed waveforms"),
        (b'"Base64" ', b'"Base64" compression="Huffman"', UnsupportedRecordError, "by XLI or not"),
    ],
)
def test_what_philips_does_not_write_is_refused(
    old: bytes,
    new: bytes,
    error: type[Exception],
    match: str,
    writers: ModuleType,
    counts: Counts,
    opened: Open,
) -> None:
    content = writers.write_philips(counts, fs=250)
    assert old in content
    with pytest.raises(error, match=match):
        opened(content.replace(old, new))
