from __future__ import annotations

import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from ecg_lib.errors import ConfigurationError, SignalStoreError
from ecg_lib.operations.learning.kept_signals import KeptSignal, SignalStore

PATIENT, OTHER = "a" * 64, "b" * 64


def signal(prediction_id: str = "p1", patient_key: str = PATIENT) -> KeptSignal:
    return KeptSignal(
        prediction_id=prediction_id,
        patient_key=patient_key,
        created_at=datetime(2026, 3, 1, tzinfo=UTC),
        fs=250.0,
        lead="V1",
        signal_mv=np.linspace(-1, 1, 2500, dtype=np.float32),
    )


@pytest.fixture
def store(tmp_path: Path) -> SignalStore:
    return SignalStore(tmp_path / "signals", tmp_path / "signals.key")


@pytest.mark.parametrize("is_waiting", [True, False])
def test_a_signal_comes_back_as_it_was(store: SignalStore, *, is_waiting: bool) -> None:
    store.add(signal(), is_waiting=is_waiting)
    found = store.read(PATIENT, "p1")
    assert found is not None
    np.testing.assert_array_equal(found.signal_mv, signal().signal_mv)
    assert (found.fs, found.lead, found.created_at) == (250.0, "V1", signal().created_at)
    assert store.read(PATIENT, "p2") is None


def test_files_hold_nothing_readable_and_only_this_user_may_open_them(
    store: SignalStore, tmp_path: Path
) -> None:
    store.add(signal(), is_waiting=False)
    (file,) = store.list_files()
    content = file.path.read_bytes()
    assert signal().signal_mv.tobytes()[:64] not in content
    # Shorter words are in random bytes by chance.
    assert b'"fs":' not in content
    assert b'"lead":' not in content
    assert file.path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "signals").stat().st_mode & 0o077 == 0
    assert (tmp_path / "signals.key").stat().st_mode & 0o777 == 0o600
    # The same signal is never encrypted to the same bytes.
    store.add(signal(), is_waiting=False)
    assert file.path.read_bytes() != content


def test_a_file_that_was_changed_or_moved_to_another_patient_is_rejected(
    store: SignalStore,
) -> None:
    store.add(signal(), is_waiting=False)
    store.add(signal("p1", OTHER), is_waiting=False)
    mine, theirs = sorted(file.path for file in store.list_files())
    whole = mine.read_bytes()
    mine.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(SignalStoreError, match="p1 cannot be opened"):
        store.read(PATIENT, "p1")
    shutil.copy(theirs, mine)
    with pytest.raises(SignalStoreError, match="it was changed"):
        store.read(PATIENT, "p1")
    assert store.read(OTHER, "p1") is not None


def test_another_key_opens_nothing_and_an_open_one_is_rejected(
    store: SignalStore, tmp_path: Path
) -> None:
    store.add(signal(), is_waiting=False)
    key = tmp_path / "signals.key"
    key.write_text("0" * 64)
    with pytest.raises(SignalStoreError):
        SignalStore(tmp_path / "signals", key).read(PATIENT, "p1")
    key.chmod(0o640)
    with pytest.raises(ConfigurationError, match="mode 0600"):
        SignalStore(tmp_path / "signals", key).read(PATIENT, "p1")
    key.chmod(0o600)
    key.write_text("0" * 62)
    with pytest.raises(ConfigurationError, match="must have 32 bytes, got 31"):
        SignalStore(tmp_path / "signals", key).read(PATIENT, "p1")


@pytest.mark.parametrize("is_waiting", [True, False])
def test_no_key_is_made_while_there_are_signals_and_the_old_one_reads_them_again(
    store: SignalStore, tmp_path: Path, *, is_waiting: bool
) -> None:
    store.add(signal(), is_waiting=is_waiting)
    key, away = tmp_path / "signals.key", tmp_path / "away.key"
    key.rename(away)
    for one in (store, SignalStore(tmp_path / "signals", key)):
        with pytest.raises(ConfigurationError, match=f"must be in {key}.* put the file back"):
            one.add(signal("p2"), is_waiting=False)
        with pytest.raises(ConfigurationError, match=f"must be in {key}.* put the file back"):
            one.read(PATIENT, "p1")
    assert not key.exists()
    assert [file.prediction_id for file in store.list_files()] == ["p1"]
    away.rename(key)
    store.add(signal("p2"), is_waiting=False)
    assert SignalStore(tmp_path / "signals", key).read(PATIENT, "p1") is not None
    assert SignalStore(tmp_path / "signals", key).read(PATIENT, "p2") is not None


def test_a_store_that_is_open_follows_its_key_file(store: SignalStore, tmp_path: Path) -> None:
    store.add(signal(), is_waiting=False)
    assert store.delete_patient(PATIENT) == 1
    key = tmp_path / "signals.key"
    first = key.read_text()
    key.unlink()
    # Without any signal a new key is made, and a signal is encrypted under the one on disk.
    store.add(signal(), is_waiting=False)
    assert key.read_text() != first
    assert SignalStore(tmp_path / "signals", key).read(PATIENT, "p1") is not None
    second = key.read_text()
    key.write_text(first)
    os.utime(key, ns=(0, 0))
    with pytest.raises(SignalStoreError, match="p1 cannot be opened"):
        store.read(PATIENT, "p1")
    key.write_text(second)
    assert store.read(PATIENT, "p1") is not None


def test_a_signal_that_waits_is_kept_when_asked(store: SignalStore) -> None:
    store.add(signal(), is_waiting=True)
    assert [file.is_waiting for file in store.list_files()] == [True]
    assert store.keep(PATIENT, "p1")
    assert [file.is_waiting for file in store.list_files()] == [False]
    assert store.keep(PATIENT, "p1")
    assert not store.keep(PATIENT, "p2")


def test_all_signals_of_a_patient_are_deleted_and_no_other(store: SignalStore) -> None:
    store.add(signal("p1"), is_waiting=True)
    store.add(signal("p2"), is_waiting=False)
    store.add(signal("p3", OTHER), is_waiting=False)
    counts = store.count()
    assert (counts.kept, counts.waiting, counts.patients) == (2, 1, 2)
    assert store.delete_patient(PATIENT) == 2
    assert [file.prediction_id for file in store.list_files()] == ["p3"]
    assert store.delete_patient(PATIENT) == 0
    with pytest.raises(ConfigurationError, match="64 hexadecimal digits"):
        store.delete_patient("../kept")


@pytest.mark.parametrize("name", ["../x", "", "a/b", "x" * 65])
def test_a_name_that_leads_elsewhere_is_rejected(store: SignalStore, name: str) -> None:
    with pytest.raises(SignalStoreError, match="must be named by"):
        store.add(replace(signal(), prediction_id=name), is_waiting=False)


@pytest.mark.parametrize(("free_bytes", "is_kept"), [(2**30 - 1, False), (2**30, True)])
def test_signals_leave_a_gibibyte_of_the_disk_free(
    store: SignalStore, monkeypatch: pytest.MonkeyPatch, free_bytes: int, *, is_kept: bool
) -> None:
    usage = shutil._ntuple_diskusage(2**40, 2**40 - free_bytes, free_bytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    if is_kept:
        store.add(signal(), is_waiting=False)
    else:
        with pytest.raises(OSError, match="bytes of the disk of"):
            store.add(signal(), is_waiting=False)
    assert len(list(store.list_files())) == is_kept
