"""Backup and restore of a home: the same champion, predictions and ledger, elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.keys.patient_key import hash_patient, read_patient_key
from ecg_lib.operations.keys.signatures import SignatureError
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.settings import Settings
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from flows.doors.ledger import read_ledger
from flows.doors.registry import Alias, Registry, RunKind
from flows.local.cli import app
from flows.local.state.archive import BackupError, SecretsIn
from flows.local.state.backup import make_backup
from flows.local.state.restore import restore_backup
from flows.release.integrity.aliases import follow_pending
from flows.release.integrity.doctor import examine
from flows.release.load_released import load_released_bundle
from tests.flows.local.state.homes import list_ids, make_row, rewrite


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
            log.add_predictions([make_row(number) for number in range(written[0], written[0] + 20)])
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
    ids = list_ids(other)
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
    assert len(list_ids(other)) == 100
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
            assert len(list_ids(other)) == 100
    assert n_refused > 30


def test_a_secret_member_that_would_fill_the_memory_is_refused(
    home: Settings, other: Settings, tmp_path: Path
) -> None:
    make_backup(home, tmp_path / "state.zip", secrets=SecretsIn.CLEAR)
    rewrite(
        tmp_path / "state.zip",
        lambda name, data: b" " * (16 * 2**20 + 1) if name == "secrets" else data,
    )
    with pytest.raises(BackupError, match="secrets must be at most"):
        restore_backup(other, tmp_path / "state.zip")


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
