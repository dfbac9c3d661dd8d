"""Restoring: into an empty home or over one, killed, without room, from files that were changed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from ecg_lib.operations.settings import Settings
from flows.local.state.archive import MANIFEST, BackupError, SecretsIn, own_version
from flows.local.state.backup import make_backup
from flows.local.state.restore import check_whole, restore_backup
from flows.local.supervision.platform_status import state_path
from flows.local.supervision.process_state import ProcessRecord, State
from tests.flows.local.state.homes import list_ids, rewrite


def test_a_home_with_files_is_not_restored_over_unless_it_is_asked_for(
    home: Settings, other: Settings, tmp_path: Path
) -> None:
    make_backup(home, tmp_path / "state.zip")
    (other.home / "note").write_text("mine")
    with pytest.raises(BackupError, match="into an empty home"):
        restore_backup(other, tmp_path / "state.zip")
    assert [one.name for one in other.home.iterdir()] == ["note"]
    restore_backup(other, tmp_path / "state.zip", is_replacing=True)
    (aside,) = other.home.glob("before-*")
    assert (aside / "note").read_text() == "mine"
    assert not (other.home / "note").exists()
    assert len(list_ids(other)) == 100


KILLED = """
import os, signal, sys
from pathlib import Path
from ecg_lib.operations.settings import Settings
from flows.local.state.restore import restore_backup

left, rename = int(sys.argv[3]), Path.rename

def kill_at(self, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return rename(self, target)

Path.rename = kill_at
settings = Settings(home=Path(sys.argv[1]), service_port=1)
restore_backup(settings, Path(sys.argv[2]), is_replacing=True)
"""


@pytest.mark.parametrize("n_moved", [0, 1, 2, 5])
def test_a_restore_that_is_killed_loses_nothing_and_is_not_taken_for_whole(
    home: Settings, other: Settings, tmp_path: Path, n_moved: int
) -> None:
    file = tmp_path / "state.zip"
    expected = make_backup(home, file).manifest
    for name in ("mine", "yours"):
        (other.home / name).write_text(name)
    command = [sys.executable, "-c", KILLED, str(other.home), str(file), str(n_moved)]
    done = subprocess.run(command, check=False)
    assert done.returncode == -signal.SIGKILL
    for use in (check_whole, lambda _: make_backup(other, tmp_path / "half.zip")):
        with pytest.raises(BackupError, match="half restored"):
            use(other.home)
    restore_backup(other, file, is_replacing=True)
    check_whole(other.home)
    again = make_backup(other, tmp_path / "again.zip").manifest
    # SQLite notes in its file how it was opened last.
    assert again.files | {"monitoring.db": None} == expected.files | {"monitoring.db": None}
    assert len(list_ids(other)) == 100
    assert not list(other.home.glob(".restore-*"))
    for name in ("mine", "yours"):
        (kept,) = other.home.glob(f"before-*/{name}")
        assert kept.read_text() == name


def test_a_restore_that_is_killed_while_it_unpacks_leaves_an_empty_home_usable(
    home: Settings, other: Settings, tmp_path: Path
) -> None:
    make_backup(home, tmp_path / "state.zip")
    (other.home / ".restore-killed").mkdir()
    (other.home / ".restore-killed" / "half").write_text("")
    check_whole(other.home)
    restore_backup(other, tmp_path / "state.zip")
    assert not list(other.home.glob("*restore*"))


def test_files_that_cannot_be_moved_leave_the_home_as_it_was(
    home: Settings, other: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_backup(home, tmp_path / "state.zip")
    for name in ("mine", "yours"):
        (other.home / name).write_text(name)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "monitoring.db":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(BackupError, match=r"monitoring\.db"):
        restore_backup(other, tmp_path / "state.zip", is_replacing=True)
    assert sorted(path.name for path in other.home.rglob("*")) == ["mine", "yours"]


def test_a_disk_without_room_is_told_before_anything_is_written(
    home: Settings, other: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_backup(home, tmp_path / "state.zip")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(BackupError, match="0 MiB are free"):
        restore_backup(other, tmp_path / "state.zip")


def test_two_restores_of_a_home_do_not_run_at_once(
    home: Settings, other: Settings, tmp_path: Path
) -> None:
    make_backup(home, tmp_path / "state.zip")
    folder = os.open(other.home, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        with pytest.raises(BackupError, match="another process is restoring"):
            restore_backup(other, tmp_path / "state.zip")
    finally:
        os.close(folder)


def test_times_and_names_are_restored(home: Settings, other: Settings, tmp_path: Path) -> None:
    """Retention keeps what is newest by its time."""
    for number, name in enumerate(("zz", "Größe \\ ß", "aa")):
        folder = home.home / "bundles" / name
        folder.mkdir(parents=True)
        (folder / "network.onnx").write_text("x")
        for path in (folder / "network.onnx", folder):
            os.utime(path, (1e9 + number, 1e9 + number))
    (home.home / "bundles" / "empty").mkdir()
    make_backup(home, tmp_path / "state.zip")
    restore_backup(other, tmp_path / "state.zip")

    def times(of: Settings) -> dict[str, int]:
        top = of.home / "bundles"
        return {str(path.relative_to(top)): path.stat().st_mtime_ns for path in top.rglob("*")}

    assert times(other) == times(home)


def test_links_are_named_as_what_they_lead_to_is_not_in_the_backup(
    home: Settings, tmp_path: Path
) -> None:
    (home.home / "datasets").symlink_to(tmp_path)
    (home.home / "bentoml" / "file").symlink_to(tmp_path / "x")
    made = make_backup(home, tmp_path / "state.zip")
    assert made.manifest.elsewhere == (
        f"link datasets -> {tmp_path}",
        f"link bentoml/file -> {tmp_path / 'x'}",
    )


def test_a_platform_that_runs_is_not_restored_over(
    home: Settings, other: Settings, tmp_path: Path
) -> None:
    make_backup(home, tmp_path / "state.zip")
    me = psutil.Process()
    record = ProcessRecord(name="supervisor", pid=me.pid, created_at=me.create_time())
    State(mark="m", supervisor=record).write(state_path(other))
    with pytest.raises(BackupError, match="must be down"):
        restore_backup(other, tmp_path / "state.zip", is_replacing=True)


def _change_manifest(file: Path, **values: object) -> None:
    def change(name: str, data: bytes) -> bytes:
        return json.dumps(json.loads(data) | values).encode() if name == MANIFEST else data

    rewrite(file, change)


def test_a_file_that_was_changed_is_found_by_its_hash(
    home: Settings, other: Settings, tmp_path: Path
) -> None:
    make_backup(home, tmp_path / "state.zip")
    rewrite(
        tmp_path / "state.zip",
        lambda name, data: data[:-1] + b"X" if name.endswith("current.json") else data,
    )
    with pytest.raises(BackupError, match=r"serving/current\.json must match its hash"):
        restore_backup(other, tmp_path / "state.zip")
    assert list(other.home.iterdir()) == []


def test_a_manifest_that_was_rewritten_is_found_by_the_key(
    home: Settings, other: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "state.zip"
    make_backup(home, file, secrets=SecretsIn.ENCRYPTED, key_file=tmp_path / "key")
    _change_manifest(file, made_at="2020-01-01T00:00:00+00:00")
    with pytest.raises(BackupError, match="or the backup was changed"):
        restore_backup(other, file, key_file=tmp_path / "key")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"format": 2}, "must have the format 1, it has 2"),
        ({"software": "99.0.0"}, f"made by version 99.0.0, this is {own_version()}"),
        (
            {"files": {"../x": {"size": 0, "sha256": "0" * 64, "modified_ns": 0}}},
            "relative and plain",
        ),
        ({"folders": {"before-1": 0}}, "relative and plain"),
        ({"folders": {"a\0b": 0}}, "relative and plain"),
        ({"folders": {"a": 2**70}}, "less than"),
        ({"files": {}}, "must hold the files of its manifest"),
        (
            {"files": {"a\0": {"size": 0, "sha256": "0" * 64, "modified_ns": 0}}},
            "relative and plain",
        ),
        ({"home": "elsewhere"}, "must be absolute"),
    ],
)
def test_a_backup_of_another_format_or_with_strange_names_is_refused(
    home: Settings, other: Settings, tmp_path: Path, values: dict[str, object], reason: str
) -> None:
    make_backup(home, tmp_path / "state.zip")
    _change_manifest(tmp_path / "state.zip", **values)
    with pytest.raises(BackupError, match=reason):
        restore_backup(other, tmp_path / "state.zip")
    assert list(other.home.iterdir()) == []


def _spoil(file: Path, what: str) -> None:
    """Spoil the first member of a zip archive, or what the archive says of it."""
    with zipfile.ZipFile(file) as archive:
        first, directory = archive.infolist()[0], archive.start_dir
    data = bytearray(file.read_bytes())
    if what == "bytes":
        start = first.header_offset + 30 + len(first.filename)
        data[start : start + first.compress_size] = b"\xff" * first.compress_size
    else:
        offset, value = {"encrypted": (6, 1), "method": (8, 97)}[what]
        data[first.header_offset + offset] = data[directory + offset + 2] = value
    file.write_bytes(data)


@pytest.mark.parametrize("what", ["bytes", "encrypted", "method"])
def test_a_backup_that_cannot_be_unpacked_is_refused(
    home: Settings, other: Settings, tmp_path: Path, what: str
) -> None:
    make_backup(home, tmp_path / "state.zip")
    _spoil(tmp_path / "state.zip", what)
    with pytest.raises(BackupError, match=r"cannot be restored|must be packed as"):
        restore_backup(other, tmp_path / "state.zip")
    assert list(other.home.iterdir()) == []


def test_secrets_that_unpack_to_too_much_are_refused(
    home: Settings, other: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "state.zip"
    make_backup(home, file, secrets=SecretsIn.CLEAR)
    rewrite(file, lambda name, data: data + b" " * 2**24 if name == "secrets" else data)
    with pytest.raises(BackupError, match="secrets must be at most 16777216 bytes"):
        restore_backup(other, file)


def test_a_backup_for_which_there_is_no_room_is_refused(
    home: Settings, other: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "state.zip"
    make_backup(home, file)

    def claim(name: str, data: bytes) -> bytes:
        if name != MANIFEST:
            return data
        manifest = json.loads(data)
        manifest["files"]["serving/current.json"]["size"] = 2**60
        return json.dumps(manifest).encode()

    rewrite(file, claim)
    with pytest.raises(BackupError, match="make room"):
        restore_backup(other, file)
    assert list(other.home.iterdir()) == []


def test_a_database_that_is_damaged_is_not_backed_up_in_silence(
    home: Settings, tmp_path: Path
) -> None:
    path = home.home / "studies.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (x TEXT)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 500,)] * 200)
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 4096)
    with pytest.raises(BackupError, match=r"studies\.db"):
        make_backup(home, tmp_path / "state.zip")
    assert not (tmp_path / "state.zip").exists()


def test_a_second_restore_that_fails_leaves_the_home_marked_as_half_restored(
    home: Settings, other: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_backup(home, tmp_path / "state.zip")
    mark = other.home / ".restore-under-way"
    mark.touch()
    (other.home / "half").write_text("moved before the kill")

    def refuse(path: Path, target: Path) -> None:
        raise OSError(16, f"{path.name} is busy")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(BackupError):
        restore_backup(other, tmp_path / "state.zip", is_replacing=True)
    assert mark.exists()
    assert (other.home / "half").exists()
