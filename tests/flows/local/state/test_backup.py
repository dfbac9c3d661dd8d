"""Backup and restore of a home: the same champion, predictions and ledger, elsewhere."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.keys.patient_key import hash_patient, read_patient_key
from ecg_lib.operations.keys.signatures import SignatureError
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import PredictionRow
from ecg_lib.operations.releases import Release, hash_code
from ecg_lib.operations.settings import Settings
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from flows.doors.ledger import read_ledger
from flows.doors.registry import Alias, Registry, RunKind
from flows.local.cli import app
from flows.local.state.archive import MANIFEST, BackupError, SecretsIn, own_version
from flows.local.state.backup import make_backup
from flows.local.state.restore import check_whole, restore_backup
from flows.local.supervision.platform_status import state_path
from flows.local.supervision.process_state import ProcessRecord, State
from flows.release.integrity.aliases import follow_pending
from flows.release.integrity.doctor import examine
from flows.release.load_released import load_released_bundle
from flows.release.transaction import release_model
from tests.homes import make_release
from tests.lists import list_predictions

NOBODY = 1
"""A port that no server has: tcpmux."""


def _row(number: int) -> PredictionRow:
    return PredictionRow(
        prediction_id=f"p{number:06}",
        created_at=datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=number),
        patient_key="k",
        bundle_hash="a",
        bento_tag="ecg:x",
        duration_s=10.0,
        response={"total_beats_detected": number, "beats": "N" * 2000},
        observed={},
    )


def _open(home: Path) -> Settings:
    home.mkdir(parents=True)
    return Settings(home=home, service_port=NOBODY)


def _store(settings: Settings, bundle: Bundle) -> Release:
    """Put a bundle and code of a bento into the store."""
    store = settings.bentoml_home
    source = store / "bentos" / "ecg" / "1" / "src"
    for package in ("bentos", "ecg_lib"):
        (source / package).mkdir(parents=True)
        (source / package / "code.py").write_text("A = 1\n")
    shutil.copytree(bundle.directory, store / "models" / "ecg_bundle" / "1" / "bundle")
    return make_release("1", bundle_hash=bundle.hash, code_hash=hash_code(source))


@pytest.fixture
def home(tmp_path: Path, toy_bundle: Bundle) -> Settings:
    """A home in which a model was released."""
    settings = _open(tmp_path / "a place" / "home")
    release_model(settings, _store(settings, toy_bundle), why="the first")
    read_patient_key(settings.patient_key_path)
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    log.add_predictions([_row(number) for number in range(100)])
    log.close()
    (settings.logs_dir).mkdir()
    (settings.logs_dir / "worker.log").write_text("a line")
    return settings


@pytest.fixture
def other(tmp_path: Path) -> Settings:
    """An empty home on another machine."""
    return _open(tmp_path / "elsewhere")


def _champion(settings: Settings) -> tuple[str, str]:
    registry = Registry(settings)
    found = registry.get_alias(Alias.CHAMPION)
    assert found is not None
    return found.version, registry.fetch_bundle(found.run_id).hash


def _probabilities(settings: Settings) -> list[float]:
    _, bundle = load_released_bundle(settings)
    strip = simulate_strip(StripKind.RUN, seed=3)
    found = BeatClassifier.load(bundle).classify(strip.signal_mv(), fs=strip.fs)
    return [float(one) for one in found.probability_v]


def _ids(settings: Settings) -> list[str]:
    log = PredictionLog(settings.monitoring_database_url)
    rows = list_predictions(log)
    log.close()
    return rows


@pytest.mark.slow
def test_a_backup_of_a_platform_that_writes_serves_the_same_elsewhere(
    home: Settings, other: Settings, toy_bundle: Bundle, tmp_path: Path
) -> None:
    registry = Registry(home)
    run_id = registry.start_run("reference bundle", kind=RunKind.REFERENCE, tags={})
    registry.log_bundle(run_id, toy_bundle)
    registry.end_run(run_id)
    tags = {"bundle_hash": toy_bundle.hash}
    registry.register(run_id, tags=tags)
    assert follow_pending(home)  # the alias of what was released
    champion, expected = _champion(home), _probabilities(home)
    is_over, written = threading.Event(), [100]

    def write() -> None:
        log = PredictionLog(home.monitoring_database_url)
        while not is_over.is_set():
            log.add_predictions([_row(number) for number in range(written[0], written[0] + 20)])
            written[0] += 20
        log.close()

    writer = threading.Thread(target=write)
    writer.start()
    file, key = tmp_path / "state.zip", tmp_path / "backup.key"
    try:
        made = make_backup(home, file, secrets=SecretsIn.ENCRYPTED, key_file=key)
    finally:
        is_over.set()
        writer.join()
    assert set(made.databases) == {"mlflow/mlflow.db", "monitoring.db"}
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(key.stat().st_mode) == 0o600
    restore_backup(other, file, key_file=key)
    shutil.rmtree(home.home)  # whatever still points there fails
    assert _champion(other) == champion
    np.testing.assert_array_equal(_probabilities(other), expected)
    ids = _ids(other)
    assert 100 <= len(ids) <= written[0]
    assert ids == [f"p{number:06}" for number in range(len(ids))]
    history = read_ledger(other.ledger_dir)
    assert history.torn == []
    assert [entry.reason for entry in history.entries] == ["the first"]
    assert examine(other, is_mending=False) == []


def test_secrets_are_left_out_unless_they_are_asked_for(
    home: Settings, other: Settings, tmp_path: Path
) -> None:
    manifest = make_backup(home, tmp_path / "state.zip").manifest
    assert manifest.secrets is SecretsIn.LEFT_OUT
    secrets = [(home.home / "secrets" / "release-key").read_bytes()]
    secrets.append(home.patient_key_path.read_bytes())
    with zipfile.ZipFile(tmp_path / "state.zip") as archive:
        for name in archive.namelist():
            assert not any(secret in archive.read(name) for secret in secrets), name
    restore_backup(other, tmp_path / "state.zip")
    assert not (other.home / "secrets").exists()
    assert not other.patient_key_path.exists()
    assert len(_ids(other)) == 100
    with pytest.raises(SignatureError, match="restore it from a backup"):
        load_released_bundle(other)


@pytest.mark.parametrize("secrets", [SecretsIn.CLEAR, SecretsIn.ENCRYPTED])
def test_a_restored_home_has_the_keys_of_the_backup(
    home: Settings, other: Settings, tmp_path: Path, secrets: SecretsIn
) -> None:
    key = tmp_path / "key" if secrets is SecretsIn.ENCRYPTED else None
    make_backup(home, tmp_path / "state.zip", secrets=secrets, key_file=key)
    restore_backup(other, tmp_path / "state.zip", key_file=key)
    ours, theirs = (
        hash_patient("Jane", key=read_patient_key(one.patient_key_path)) for one in (home, other)
    )
    assert ours == theirs
    assert stat.S_IMODE(other.patient_key_path.stat().st_mode) == 0o600
    load_released_bundle(other)


def test_encrypted_secrets_are_not_in_the_file_and_need_their_key(
    home: Settings, other: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "state.zip"
    make_backup(home, file, secrets=SecretsIn.ENCRYPTED, key_file=tmp_path / "key")
    secret = (home.home / "secrets" / "release-key").read_bytes()
    with zipfile.ZipFile(file) as archive:
        assert secret not in archive.read("secrets")
    with pytest.raises(BackupError, match="name --key-file"):
        restore_backup(other, file)
    make_backup(home, tmp_path / "b.zip", secrets=SecretsIn.ENCRYPTED, key_file=tmp_path / "wrong")
    with pytest.raises(BackupError, match="it is another key"):
        restore_backup(other, file, key_file=tmp_path / "wrong")
    assert list(other.home.iterdir()) == []
    restore_backup(other, file, with_secrets=False)
    assert not other.patient_key_path.exists()


def test_a_key_file_that_others_can_read_is_refused(home: Settings, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 40)
    key.chmod(0o644)
    with pytest.raises(ConfigurationError, match="mode 0600"):
        make_backup(home, tmp_path / "state.zip", secrets=SecretsIn.ENCRYPTED, key_file=key)
    assert not (tmp_path / "state.zip").exists()


def test_output_processes_and_passwords_in_pages_are_not_backed_up(
    home: Settings, tmp_path: Path
) -> None:
    (home.home / "sign-in.html").write_text("a password")
    (home.home / "before-20260101T000000").mkdir()
    (home.home / "before-20260101T000000" / "old").write_text("")
    (home.home / ".current.json.1.draft").write_text("half")
    made = make_backup(home, tmp_path / "state.zip")
    tops = {name.split("/")[0] for name in made.manifest.files}
    assert tops == {"bentoml", "ledger", "monitoring.db", "serving", "signatures"} | (
        {"registry-pending.json"}
    )
    assert not [name for name in made.manifest.files if name.endswith((".lock", "-wal", "-shm"))]


def test_state_outside_of_the_home_is_named_without_passwords(
    home: Settings, tmp_path: Path
) -> None:
    settings = home.model_copy(
        update={
            "monitoring_url": "postgresql+pg8000://u:hidden@db:5432/ecg",
            "patient_key_file": tmp_path / "patient",
        }
    )
    made = make_backup(settings, tmp_path / "state.zip")
    assert made.manifest.elsewhere == (
        "ECG_MONITORING_URL: postgresql at db",
        f"ECG_PATIENT_KEY_FILE: {tmp_path / 'patient'}",
    )


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
    assert len(_ids(other)) == 100


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
    assert len(_ids(other)) == 100
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


def test_a_name_that_is_not_utf8_is_refused_by_name(home: Settings, tmp_path: Path) -> None:
    (home.home / os.fsdecode(b"bad\xff")).mkdir()
    with pytest.raises(BackupError, match=r"'bad.udcff' is not; rename it"):
        make_backup(home, tmp_path / "state.zip")
    assert not list(tmp_path.glob("*.zip"))


def test_secrets_in_folders_and_drafts_of_keys_are_not_left_in_clear(
    home: Settings, tmp_path: Path
) -> None:
    deep = home.home / "secrets" / "other" / "key"
    deep.parent.mkdir()
    deep.write_text("deep")
    (home.home / ".patient.key.77.ab12").hardlink_to(home.patient_key_path)
    manifest = make_backup(home, tmp_path / "state.zip").manifest
    assert not [name for name in manifest.files if "key" in name]
    made = make_backup(home, tmp_path / "with.zip", secrets=SecretsIn.CLEAR)
    assert not [name for name in made.manifest.files if "key" in name]
    with zipfile.ZipFile(tmp_path / "with.zip") as archive:
        assert "secrets/other/key" in json.loads(archive.read("secrets"))


def test_bytes_that_were_changed_are_refused_with_a_reason(
    home: Settings, other: Settings, tmp_path: Path
) -> None:
    make_backup(home, tmp_path / "state.zip", secrets=SecretsIn.CLEAR)
    whole, random = (tmp_path / "state.zip").read_bytes(), np.random.default_rng(1)
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BackupError, match="cannot be restored"):
        restore_backup(other, tmp_path / "half.zip")
    n_refused = 0
    for _ in range(60):
        changed = bytearray(whole)
        changed[random.integers(len(whole))] ^= 0xFF
        (tmp_path / "half.zip").write_bytes(changed)
        try:
            restore_backup(other, tmp_path / "half.zip", is_replacing=True)
        except BackupError:
            n_refused += 1
        else:  # such as a time in the zip archive
            assert len(_ids(other)) == 100
    assert n_refused > 30


def test_a_secret_member_that_would_fill_the_memory_is_refused(
    home: Settings, other: Settings, tmp_path: Path
) -> None:
    make_backup(home, tmp_path / "state.zip", secrets=SecretsIn.CLEAR)
    _rewrite(
        tmp_path / "state.zip",
        lambda name, data: b" " * (16 * 2**20 + 1) if name == "secrets" else data,
    )
    with pytest.raises(BackupError, match="secrets must be at most"):
        restore_backup(other, tmp_path / "state.zip")


def test_a_platform_that_runs_is_not_restored_over(
    home: Settings, other: Settings, tmp_path: Path
) -> None:
    make_backup(home, tmp_path / "state.zip")
    me = psutil.Process()
    record = ProcessRecord(name="supervisor", pid=me.pid, created_at=me.create_time())
    State(mark="m", supervisor=record).write(state_path(other))
    with pytest.raises(BackupError, match="must be down"):
        restore_backup(other, tmp_path / "state.zip", is_replacing=True)


def _rewrite(file: Path, change: Callable[[str, bytes], bytes]) -> None:
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, change(name, data))


def _change_manifest(file: Path, **values: object) -> None:
    def change(name: str, data: bytes) -> bytes:
        return json.dumps(json.loads(data) | values).encode() if name == MANIFEST else data

    _rewrite(file, change)


def test_a_file_that_was_changed_is_found_by_its_hash(
    home: Settings, other: Settings, tmp_path: Path
) -> None:
    make_backup(home, tmp_path / "state.zip")
    _rewrite(
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
    _rewrite(file, lambda name, data: data + b" " * 2**24 if name == "secrets" else data)
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

    _rewrite(file, claim)
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


def test_the_commands_say_what_was_kept_and_what_was_not(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, mask = tmp_path / "state.zip", os.umask(0o022)
    try:
        monkeypatch.setenv("ECG_HOME", str(home.home))
        done = CliRunner().invoke(app, ["backup", str(file)])
        assert done.exit_code == 0, done.output
        assert "databases monitoring.db; secrets: left out" in done.output
        assert "--key-file includes them, encrypted" in done.output
        again = CliRunner().invoke(app, ["backup", str(file)])
        assert str(again.exception) == f"{file} exists; name a new file"
        monkeypatch.setenv("ECG_HOME", str(tmp_path / "new"))
        done = CliRunner().invoke(app, ["restore", str(file)])
        assert done.exit_code == 0, done.output
        assert "hashes checked; secrets: left out" in done.output
        lost = CliRunner().invoke(app, ["backup", str(tmp_path / "no folder" / "b.zip")])
        assert "the folder of the backup must exist" in str(lost.exception)
        lost = CliRunner().invoke(app, ["restore", str(tmp_path / "b.zip")])
        assert "the backup must be a file" in str(lost.exception)
        refused = CliRunner().invoke(app, ["restore", str(file)])
        assert "--replace" in str(refused.exception)
    finally:
        os.umask(mask)


def test_the_key_of_releases_is_a_secret_wherever_it_is_below_the_home(
    home: Settings, tmp_path: Path
) -> None:
    key = home.home / "keys" / "release"
    key.parent.mkdir()
    key.write_text("secret")
    named = home.model_copy(update={"release_key_file": key})
    made = make_backup(named, tmp_path / "state.zip")
    assert "keys/release" not in made.manifest.files


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
