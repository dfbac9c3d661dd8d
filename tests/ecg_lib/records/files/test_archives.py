"""Zip archives: records, and the tricks that are played with them."""

from __future__ import annotations

import errno
import resource
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ecg_lib.records.files.archives as module
from ecg_lib.errors import EcgError
from ecg_lib.records.files.archives import unpack_record

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
        unpack_record(archive, target)


@pytest.mark.parametrize("folder", ["", "some/where/", "some\\where\\"])
@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_record_comes_out_under_other_names(
    tmp_path: Path, target: Path, folder: str, packing: int
) -> None:
    files = {f"{folder}r.hea": HEADER, f"{folder}r.dat": b"12", f"{folder}r.atr": b"x"}
    found = unpack_record(_zip(tmp_path / "a.zip", files, compression=packing), target)
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
        ({"r.dat": b"12"}, "it holds 0"),
        ({"r.hea": HEADER, "s.hea": HEADER}, "it holds 2"),
        ({"r.hea": HEADER, **{f"{n}.dat": b"" for n in range(64)}}, "at most 64 files"),
    ],
)
def test_tricks_are_refused_before_anything_is_written(
    tmp_path: Path, target: Path, files: dict[str, bytes | str], reason: str
) -> None:
    with pytest.raises(EcgError, match=reason):
        unpack_record(_zip(tmp_path / "a.zip", files), target)
    assert list(target.iterdir()) == []


def test_a_link_is_refused(tmp_path: Path, target: Path) -> None:
    link = zipfile.ZipInfo("r.dat")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("r.hea", HEADER)
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(EcgError, match="a link"):
        unpack_record(tmp_path / "a.zip", target)


def test_a_bomb_is_stopped_by_its_ratio(tmp_path: Path, target: Path) -> None:
    files: dict[str, bytes | str] = {"r.hea": HEADER, "r.dat": bytes(64 * 2**20)}
    bomb = _zip(tmp_path / "a.zip", files, compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(EcgError, match="100 times its size"):
        unpack_record(bomb, target)
    assert sum(path.stat().st_size for path in target.iterdir()) < 16 * 2**20


def test_a_large_record_is_stopped_by_its_size(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 3 * 2**20)
    files: dict[str, bytes | str] = {"r.hea": HEADER, "r.dat": bytes(4 * 2**20)}
    with pytest.raises(EcgError, match="at most 3145728 bytes"):
        unpack_record(_zip(tmp_path / "a.zip", files), target)


def test_a_full_disk_is_not_damage_of_the_archive(tmp_path: Path, target: Path) -> None:
    files: dict[str, bytes | str] = {"r.hea": HEADER, "r.dat": bytes(2**18)}
    archive = _zip(tmp_path / "a.zip", files)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with pytest.raises(OSError, match=r".") as raised:
            unpack_record(archive, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.errno == errno.EFBIG


def test_a_packing_that_is_not_usual_is_refused(tmp_path: Path, target: Path) -> None:
    archive = _zip(tmp_path / "a.zip", {"r.hea": HEADER}, compression=zipfile.ZIP_LZMA)
    with pytest.raises(EcgError, match="packed otherwise"):
        unpack_record(archive, target)


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
        unpack_record(archive, directory)
    except EcgError as error:
        said = str(error)
    assert str(tmp_path) not in said
    assert all(path.name.startswith("part") for path in directory.iterdir())
