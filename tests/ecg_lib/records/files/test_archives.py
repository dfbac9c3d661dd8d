"""Zip archives: records, and the tricks that are played with them."""

from __future__ import annotations

import errno
import gzip
import io
import resource
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ecg_lib.records.files.archives as module
from ecg_lib.errors import EcgError, RecordTooLongError, UnsupportedRecordError
from ecg_lib.records.files.archives import unpack_recording
from ecg_lib.records.files.opening import open_recording

HEADER = "r 1 250 5000\nr.dat 16\n"


def _zip(path: Path, files: dict[str, bytes | str], **options: int) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    directory = tmp_path / "target"
    directory.mkdir()
    return directory


def test_a_name_that_is_empty_is_refused(tmp_path: Path, target: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {"r.hea": HEADER, "r.dat": b"12", "x": b"x"})
    content = archive.read_bytes()
    # The central directory: the length of the last name becomes 0, its letter a comment.
    at = content.rindex(b"PK\x01\x02")
    entry = bytearray(content[at:])
    entry[28:30], entry[32:34] = b"\0\0", b"\1\0"
    archive.write_bytes(content[:at] + bytes(entry))
    with pytest.raises(EcgError, match="names in the zip archive must be plain"):
        unpack_recording(archive, target)


@pytest.mark.parametrize("folder", ["", "some/where/", "some\\where\\"])
@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_record_comes_out_under_other_names(
    tmp_path: Path, target: Path, folder: str, packing: int
) -> None:
    files = {f"{folder}r.hea": HEADER, f"{folder}r.dat": b"12", f"{folder}r.atr": b"x"}
    found = unpack_recording(_zip(tmp_path / "a.zip", files, compression=packing), target)
    assert {name: path.read_bytes() for name, path in found.items()} == {
        "r.hea": HEADER.encode(),
        "r.dat": b"12",
    }
    assert {path.name for path in target.iterdir()} == {"part0", "part1"}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"../r.hea": HEADER}, "leads elsewhere"),
        ({"/r.hea": HEADER}, "leads elsewhere"),
        ({"a/../../r.hea": HEADER}, "leads elsewhere"),
        ({"C:r.hea": HEADER}, "leads elsewhere"),
        ({"r.hea": HEADER, "inner.zip": b"PK"}, "another archive"),
        ({"r.hea": HEADER, "inner.tar.gz": b"x"}, "another archive"),
        ({"r.dat": b"12"}, "it holds r.dat"),
        ({"r.hea": HEADER, "s.hea": HEADER}, "it holds 2: r.hea, s.hea"),
        ({"r.hea": HEADER, **{f"{n}.dat": b"" for n in range(64)}}, "at most 64 files"),
    ],
)
def test_tricks_are_refused_before_anything_is_written(
    tmp_path: Path, target: Path, files: dict[str, bytes | str], reason: str
) -> None:
    with pytest.raises(EcgError, match=reason):
        unpack_recording(_zip(tmp_path / "a.zip", files), target)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("name", ["r.rec", "EDF0001", "notes.txt"])
def test_the_recording_of_a_zip_is_known_by_its_content(
    tmp_path: Path, target: Path, name: str
) -> None:
    files: dict[str, bytes | str] = {"a.pdf": b"%PDF", name: EDF, "DICOMDIR": DICOMDIR}
    assert list(unpack_recording(_zip(tmp_path / "a.zip", files), target)) == [name]


def test_a_link_is_refused(tmp_path: Path, target: Path) -> None:
    link = zipfile.ZipInfo("r.dat")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("r.hea", HEADER)
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(EcgError, match="a link"):
        unpack_recording(tmp_path / "a.zip", target)


def test_a_bomb_is_stopped_by_its_ratio(tmp_path: Path, target: Path) -> None:
    files: dict[str, bytes | str] = {"r.hea": HEADER, "r.dat": bytes(64 * 2**20)}
    bomb = _zip(tmp_path / "a.zip", files, compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(EcgError, match="100 times its size"):
        unpack_recording(bomb, target)
    assert sum(path.stat().st_size for path in target.iterdir()) < 16 * 2**20


def test_a_large_record_is_stopped_by_its_size(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 3 * 2**20)
    files: dict[str, bytes | str] = {"r.hea": HEADER, "r.dat": bytes(4 * 2**20)}
    with pytest.raises(EcgError, match="at most 3145728 bytes"):
        unpack_recording(_zip(tmp_path / "a.zip", files), target)


def test_a_full_disk_is_not_damage_of_the_archive(tmp_path: Path, target: Path) -> None:
    files: dict[str, bytes | str] = {"r.hea": HEADER, "r.dat": bytes(2**18)}
    archive = _zip(tmp_path / "a.zip", files)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with pytest.raises(OSError, match=r".") as raised:
            unpack_recording(archive, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.errno == errno.EFBIG


TABLE = "time,ECG\n" + "".join(f"{n / 250},{n % 7}\n" for n in range(3000))

DICOMDIR = bytes(128) + b"DICM" + bytes(200)

EDF = b"0       " + b"Mustermann".ljust(80) + b"Startdate 02-MAR-2020 Ward 7".ljust(80) + bytes(88)


@pytest.mark.parametrize(
    "files",
    [
        {"r.csv": TABLE},
        {"a/b/r.csv": TABLE, "a/README.txt": "a word or two", "a/.DS_Store": b"x"},
        {"r.csv": TABLE, "metadata.xml": "<study/>", "notes.txt": "1\n2\n"},
        {"r.asc": TABLE, "README": "a word or two", "a.pdf": b"%PDF"},
        {"r.csv": TABLE, "r.ann": TABLE},
        {"polar_ECG.csv": TABLE, "polar_ACC.csv": TABLE, "polar_HR.csv": TABLE},
    ],
    ids=["alone", "with words", "with a description", "other name", "notes", "with other signals"],
)
def test_the_only_recording_is_found_among_other_files(
    tmp_path: Path, target: Path, files: dict[str, bytes | str]
) -> None:
    (path,) = unpack_recording(_zip(tmp_path / "a.zip", files), target).values()
    assert path.read_text() == TABLE
    with module.unpacked(tmp_path / "a.zip") as unpacked:
        assert open_recording(unpacked).leads[0].name == "ECG"


def test_an_array_in_a_zip_is_known_by_its_content(tmp_path: Path, target: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.zeros(3600))
    archive = _zip(tmp_path / "a.zip", {"signal.data": array.getvalue()})
    assert list(unpack_recording(archive, target)) == ["signal.data"]
    with module.unpacked(archive) as unpacked:
        assert open_recording(unpacked, fs=360.0).kind == "npy"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.csv": TABLE, "b/c.csv": TABLE}, "one recording, it holds 2: a.csv, c.csv; give one"),
        ({"a.csv": TABLE, "b.edf": EDF}, "it holds 2: a.csv, b.edf"),
        ({"r.hea": HEADER, "r.dat": b"", "b.edf": EDF}, "it holds 2: r.hea, b.edf"),
        ({"ACC.csv": TABLE, "BVP.csv": TABLE}, "ACC.csv, BVP.csv, and none is named as an ECG"),
        ({"a.txt": "some words"}, "must hold a recording .*; it holds a.txt"),
        ({"a.csv": "1\n" * 99}, "must hold a recording"),
        ({}, "it is empty"),
        ({f"{n}.csv": TABLE for n in range(10)}, "it holds 10: .*7.csv and 2 more"),
    ],
)
def test_an_archive_without_one_recording_is_refused_by_names(
    tmp_path: Path, target: Path, files: dict[str, bytes | str], words: str
) -> None:
    with pytest.raises(UnsupportedRecordError, match=words):
        unpack_recording(_zip(tmp_path / "a.zip", files), target)
    assert list(target.iterdir()) == []


def test_a_text_with_enough_rows_is_a_recording(tmp_path: Path, target: Path) -> None:
    assert unpack_recording(_zip(tmp_path / "a.zip", {"a.csv": "1\n" * 100}), target)


def test_an_export_of_a_device_is_told_from_other_xml(tmp_path: Path, target: Path) -> None:
    export = '<?xml version="1.0"?><AnnotatedECG xmlns="urn:hl7-org:v3"/>'
    files: dict[str, bytes | str] = {"a.xml": export, "b.xml": "<HealthData/>"}
    assert list(unpack_recording(_zip(tmp_path / "a.zip", files), target)) == ["a.xml"]


@pytest.mark.parametrize("suffix", ["zip", "gz"])
def test_identity_of_an_edf_file_is_not_written(tmp_path: Path, target: Path, suffix: str) -> None:
    path = tmp_path / f"r.edf.{suffix}"
    if suffix == "zip":
        _zip(path, {"r.edf": EDF})
    else:
        path.write_bytes(gzip.compress(EDF))
    (unpacked,) = unpack_recording(path, target).values()
    content = unpacked.read_bytes()
    assert len(content) == len(EDF)
    assert b"Mustermann" not in content
    assert b"Ward" not in content


@pytest.mark.parametrize("name", ["r.csv.gz", "R.CSV.GZ", "r.csv"])
def test_gzip_is_read_by_its_name_or_its_content(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(TABLE[:9000].encode()) + gzip.compress(b""))
    with module.unpacked(tmp_path / name) as unpacked:
        assert unpacked.suffix.lower() == ".csv"
        assert unpacked.read_text() == TABLE[:9000]
    assert module.name_of(tmp_path / name).lower() == "r"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r.tar.gz", gzip.compress(b"x", mtime=0), "another archive"),
        ("r.zip.gz", gzip.compress(b"x", mtime=0), "another archive"),
        ("r.dat.gz", gzip.compress(b"x", mtime=0), "pack the header .* in a zip"),
        (
            "r.csv.gz",
            gzip.compress(TABLE.encode(), mtime=0)[:-20],
            "gzip file cannot be read: it is damaged",
        ),
        ("r.csv.gz", b"time,ECG", "gzip file cannot be read: it is damaged"),
        ("r.csv.gz", gzip.compress(TABLE.encode(), mtime=0) + b"more", "damaged"),
        ("r.csv.gz", gzip.compress(bytes(2**24), mtime=0), "100 times its size"),
    ],
)
def test_gzip_that_cannot_be_used_is_refused(
    tmp_path: Path, target: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EcgError, match=words):
        unpack_recording(tmp_path / name, target)
    assert sum(path.stat().st_size for path in target.iterdir()) <= 2**20


@pytest.mark.parametrize(
    ("inner", "suffix"),
    [("r.csv", ".csv"), ("R.EDF", ".edf"), ("", ".unknown"), ("r.exe", ".unknown")],
)
def test_the_kind_of_a_gzip_file_may_be_in_the_name_that_it_keeps(
    tmp_path: Path, target: Path, inner: str, suffix: str
) -> None:
    with (tmp_path / "r.gz").open("wb") as file, gzip.GzipFile(inner, "wb", fileobj=file) as packed:
        packed.write(TABLE.encode())
    (name,) = unpack_recording(tmp_path / "r.gz", target)
    assert name == f"r{suffix}"
    if suffix == ".unknown":
        with module.unpacked(tmp_path / "r.gz") as unpacked:
            assert open_recording(unpacked).kind == "csv"


def test_gzip_unpacks_to_a_limit(tmp_path: Path, target: Path) -> None:
    content = bytes(range(256)) * 40
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(content))
    with pytest.raises(RecordTooLongError, match="at most 10239 bytes"):
        unpack_recording(tmp_path / "r.csv.gz", target, max_bytes=10_239)
    (target / "part0").unlink()
    (path,) = unpack_recording(tmp_path / "r.csv.gz", target, max_bytes=10_240).values()
    assert path.stat().st_size == 10_240


def test_the_beginning_of_a_gzip_file_is_unpacked_when_it_is_said_to_be_one(
    tmp_path: Path, target: Path
) -> None:
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(TABLE.encode())[:-500])
    (path,) = unpack_recording(tmp_path / "r.csv.gz", target, is_part=True).values()
    assert TABLE.startswith(path.read_text())
    with pytest.raises(UnsupportedRecordError, match="beginning of a zip"):
        unpack_recording(_zip(tmp_path / "a.zip", {"r.csv": TABLE}), target, is_part=True)


def test_an_npz_file_of_one_array_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "r.npz", ecg=np.arange(3000) % 50)
    with module.unpacked(tmp_path / "r.npz") as unpacked:
        (lead,) = open_recording(unpacked, fs=250.0).leads
    assert lead.n_samples == 3000


def test_an_npz_file_of_several_arrays_is_refused_by_their_names(
    tmp_path: Path, target: Path
) -> None:
    np.savez(tmp_path / "r.npz", ecg=np.zeros(3000), fs=250)
    with pytest.raises(UnsupportedRecordError, match=r"one array, it holds ecg.npy, fs.npy; save"):
        unpack_recording(tmp_path / "r.npz", target)


def test_a_packing_that_is_not_usual_is_refused(tmp_path: Path, target: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {"r.hea": HEADER}, compression=zipfile.ZIP_LZMA)
    with pytest.raises(EcgError, match="packed otherwise"):
        unpack_recording(archive, target)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_changed_archive_is_unpacked_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    directory = tmp_path / "fuzz"
    directory.mkdir(exist_ok=True)
    for path in directory.iterdir():
        path.unlink()
    files: dict[str, bytes | str] = {"r.hea": HEADER, "r.dat": b"0123456789" * 200}
    archive = _zip(tmp_path / "a.zip", files, compression=zipfile.ZIP_DEFLATED)
    content = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    archive.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    said = ""
    try:
        unpack_recording(archive, directory)
    except EcgError as error:
        said = str(error)
    assert str(tmp_path) not in said
    assert all(path.name.startswith("part") for path in directory.iterdir())
