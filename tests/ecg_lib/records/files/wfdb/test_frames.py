"""WFDB signal files with several samples in a frame, against wfdb."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import wfdb
from numpy.typing import NDArray
from wfdb.io._signal import wr_dat_file

from ecg_lib.errors import UnsupportedRecordError
from ecg_lib.records.files.opening import open_recording

FRAME_HZ = 62.5


def _write_header(path: Path, lines: list[str], n_frames: int) -> Path:
    path.write_text("\n".join([f"r {len(lines)} {FRAME_HZ} {n_frames}", *lines]) + "\n")
    return path


def _write_flac(directory: Path, encoding: int, per_frame: list[int], *, offset: int = 0) -> Path:
    """Write random samples, of which `offset` are before the first frame."""
    bits, n_frames = encoding - 500, 700
    rng = np.random.default_rng(encoding)
    limit = 2 ** (bits - 1) - 1
    shape = (n_frames * per_frame[0] + offset, len(per_frame))
    counts = rng.integers(-limit, limit, shape) << (32 - bits)
    counts[:3] = (-limit - 1) << (32 - bits)  # missing samples
    subtype = {8: "PCM_S8", 16: "PCM_16", 24: "PCM_24"}[bits]
    samples = counts.astype(np.int32)
    soundfile.write(directory / "r.dat", samples, 250, subtype=subtype, format="FLAC")
    start = f"+{offset}" if offset else ""
    lines = [
        f"r.dat {encoding}x{count}{start} {limit / 5}(3)/mV {bits} 0 0 0 0 ECG{number}"
        for number, count in enumerate(per_frame)
    ]
    return _write_header(directory / "r.hea", lines, n_frames)


@pytest.mark.parametrize("encoding", [508, 516, 524])
@pytest.mark.parametrize(("per_frame", "offset"), [([2], 0), ([4, 4], 0), ([4, 4, 4], 7)])
def test_frames_of_flac_are_read_as_wfdb_reads_them(
    tmp_path: Path, encoding: int, per_frame: list[int], offset: int
) -> None:
    opened = open_recording(_write_flac(tmp_path, encoding, per_frame, offset=offset))
    expected = wfdb.rdrecord(str(tmp_path / "r"), smooth_frames=False).e_p_signal
    assert [lead.fs for lead in opened.leads] == [FRAME_HZ * count for count in per_frame]
    for lead, samples_mv in zip(opened.leads, expected, strict=True):
        found = np.concatenate(list(opened.blocks(lead)))
        np.testing.assert_allclose(found, samples_mv, atol=1e-5)


def test_signals_of_one_flac_file_that_have_several_rates_are_refused(tmp_path: Path) -> None:
    path = _write_flac(tmp_path, 516, [4, 4])
    path.write_text(path.read_text().replace("516x4", "516x2", 1))
    with pytest.raises(UnsupportedRecordError, match="one rate, a frame has 2, 4 samples"):
        open_recording(path)


def test_flac_files_of_one_record_may_have_several_rates(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    fast, slow = (rng.integers(-3000, 3000, n).astype(np.int16) for n in (4 * 700, 700))
    soundfile.write(tmp_path / "fast.dat", fast, 250, subtype="PCM_16", format="FLAC")
    soundfile.write(tmp_path / "slow.dat", slow, 62, subtype="PCM_16", format="FLAC")
    lines = [
        "slow.dat 516 10/mmHg 16 0 0 0 0 ABP",
        "fast.dat 516x4 1000/mV 16 0 0 0 0 II",
    ]
    opened = open_recording(_write_header(tmp_path / "r.hea", lines, 700))
    (lead,) = opened.leads
    assert (lead.name, lead.fs, opened.others) == ("II", 250.0, ("ABP",))
    found = np.concatenate(list(opened.blocks(lead)))
    np.testing.assert_allclose(found, fast / 1000, atol=1e-6)


@pytest.mark.parametrize("encoding", ["16", "212", "24", "32", "80"])
@pytest.mark.parametrize("per_frame", [[4, 1, 2], [250, 3, 125]])
def test_signals_of_several_rates_in_one_file_are_read_as_wfdb_reads_them(
    tmp_path: Path, encoding: str, per_frame: list[int]
) -> None:
    limit = {"80": 120, "212": 2000}.get(encoding, 30_000)
    n_frames = 3001 if per_frame[0] == 4 else 49
    rng = np.random.default_rng(7)
    counts: list[NDArray[np.int64]] = [
        rng.integers(-limit, limit, n_frames * count) for count in per_frame
    ]
    wr_dat_file("r.dat", encoding, None, 0, True, counts, per_frame, write_dir=str(tmp_path))
    fs = FRAME_HZ if per_frame[0] == 4 else 1
    lines = [f"r 3 {fs} {n_frames}"]
    for name, count, samples in zip(("II", "RESP", "V1"), per_frame, counts, strict=True):
        checksum = int(samples.sum()) % 65_536
        lines.append(f"r.dat {encoding}x{count} 100(3)/mV 16 0 {samples[0]} {checksum} 0 {name}")
    (tmp_path / "r.hea").write_text("\n".join(lines) + "\n")
    opened = open_recording(tmp_path / "r.hea")
    expected = wfdb.rdrecord(str(tmp_path / "r"), smooth_frames=False).e_p_signal
    assert [lead.name for lead in opened.leads] == ["II", "V1"]
    for lead, place in zip(opened.leads, (0, 2), strict=True):
        found = np.concatenate(list(opened.blocks(lead)))
        np.testing.assert_allclose(found, expected[place], rtol=1e-5, atol=1e-5)
