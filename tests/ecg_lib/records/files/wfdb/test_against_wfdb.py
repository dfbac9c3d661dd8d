"""Formats, skew and segments of WFDB records: bytes that wfdb reads as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb
from numpy.typing import NDArray

from ecg_lib.records.files.opening import open_recording

N_FRAMES = 3001

BYTES_PER_SAMPLE = {"8": 1, "16": 2, "24": 3, "32": 4, "61": 2, "80": 1, "160": 2, "212": 1.5}
BYTES_PER_SAMPLE |= {"310": 4 / 3, "311": 4 / 3}


def _random_bytes(encoding: str, n_samples: int) -> bytes:
    packed = np.random.default_rng(int(encoding)).bytes(
        int(n_samples * BYTES_PER_SAMPLE[encoding]) // 12 * 12 + 24
    )
    if encoding == "311":  # the two highest bits are not used, and wfdb reads one of them
        words = np.frombuffer(packed, dtype="<u4") & 0x3FFF_FFFF
        packed = words.tobytes()
    return packed


def _compare(directory: Path, expected: list[NDArray[np.float64]], names: list[str]) -> None:
    opened = open_recording(directory / "r.hea")
    assert [lead.name for lead in opened.leads] == names
    for lead, samples_mv in zip(opened.leads, expected, strict=True):
        found = np.concatenate(list(opened.blocks(lead)))
        np.testing.assert_allclose(found, samples_mv, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("encoding", "skew"),
    # wfdb fails at a late signal of format 8, which has no value for missing samples.
    [
        (encoding, skew)
        for encoding in BYTES_PER_SAMPLE
        for skew in (0, 7)
        if (encoding, skew) != ("8", 7)
    ],
)
@pytest.mark.parametrize("per_frame", [(1, 1), (4, 2, 1)])
def test_any_bytes_are_read_as_wfdb_reads_them(
    tmp_path: Path, encoding: str, per_frame: tuple[int, ...], skew: int
) -> None:
    (tmp_path / "r.dat").write_bytes(_random_bytes(encoding, N_FRAMES * sum(per_frame)))
    n_frames = N_FRAMES - 10
    fs = 250 if len(per_frame) == 2 else 62.5
    gain = 1e6 if encoding == "32" else 1000
    lines = [f"r {len(per_frame)} {fs} {n_frames}"]
    names = ["I", "II", "III"][: len(per_frame)]
    for number, (name, count) in enumerate(zip(names, per_frame, strict=True)):
        late = f":{skew}" if number == 0 and skew else ""
        lines.append(f"r.dat {encoding}x{count}{late} {gain}(3)/mV 12 0 5 0 0 {name}")
    (tmp_path / "r.hea").write_text("\n".join(lines) + "\n")
    record = wfdb.rdrecord(str(tmp_path / "r"), smooth_frames=False)
    # Of the third signal the rate is below that of any ECG.
    fast = [place for place, count in enumerate(per_frame) if count * fs >= 100]
    _compare(
        tmp_path,
        [_without_end(record.e_p_signal[n], skew * per_frame[n] if n == 0 else 0) for n in fast],
        [names[n] for n in fast],
    )


def _without_end(samples_mv: NDArray[np.float64], n_samples: int) -> NDArray[np.float64]:
    """Take the samples at the end for missing, as they are not of the record's frames."""
    expected = samples_mv.copy()
    expected[len(expected) - n_samples :] = np.nan
    return expected


def test_segments_and_gaps_are_put_together_as_wfdb_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    for name, leads in (("a", ["II", "V5"]), ("b", ["V5"]), ("c", ["V5", "II"])):
        counts = rng.integers(-3000, 3000, (1500, len(leads)))
        wfdb.wrsamp(
            name, fs=250, units=["mV"] * len(leads), sig_name=leads, d_signal=counts,
            fmt=["16"] * len(leads), adc_gain=[1000.0] * len(leads), baseline=[3] * len(leads),
            write_dir=str(tmp_path),
        )  # fmt: skip
    (tmp_path / "layout.hea").write_text(
        "layout 2 250 0\n~ 0 1000(3)/mV 16 0 0 0 0 II\n~ 0 1000(3)/mV 16 0 0 0 0 V5\n"
    )
    (tmp_path / "r.hea").write_text(
        "r/5 2 250 5300 10:20:30 01/02/2003\nlayout 0\na 1500\n~ 800\nb 1500\nc 1500\n"
    )
    record = wfdb.rdrecord(str(tmp_path / "r"), m2s=True)
    _compare(tmp_path, list(record.p_signal.T), ["II", "V5"])
    assert np.isnan(record.p_signal[1500:2300]).all()
