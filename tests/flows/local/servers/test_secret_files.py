"""Secrets as files, made by several processes at a time."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.settings import Settings
from flows.local.servers.secret_files import read_mounted_secret, read_secret

_READER = """
import sys
from flows.local.servers.secret_files import read_secret
from ecg_lib.operations.settings import read_settings
sys.stdin.read()
print(read_secret(read_settings(), "prefect").login)
"""


def test_a_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    made = read_secret(settings, "prefect")
    assert made == read_secret(settings, "prefect")
    assert made != read_secret(settings, "mlflow")
    assert made.user == "ecg"
    assert len(made.password) == 43
    path = tmp_path / "secrets" / "prefect"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(one.name for one in path.parent.iterdir()) == ["mlflow", "prefect"]


def test_processes_that_start_together_share_a_secret(tmp_path: Path) -> None:
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", _READER],
            env={**os.environ, "ECG_HOME": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for reader in readers:
        assert reader.stdin is not None
        reader.stdin.close()
        reader.stdin = None
    assert len({reader.communicate(timeout=60)[0] for reader in readers}) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    settings = Settings(home=tmp_path)
    read_secret(settings, "prefect")
    (tmp_path / "secrets" / "prefect").chmod(mode)
    problem = rf"have mode 0600, it has mode {mode:04o}.*; remove it, and a new one is made"
    with pytest.raises(ConfigurationError, match=problem):
        read_secret(settings, "prefect")


@pytest.mark.parametrize(("length", "is_accepted"), [(31, False), (32, True)])
def test_a_short_secret_is_refused(tmp_path: Path, length: int, *, is_accepted: bool) -> None:
    path = tmp_path / "secrets" / "prefect"
    path.parent.mkdir()
    path.touch(mode=0o600)
    path.write_text("x" * length + "\n")
    if is_accepted:
        assert read_secret(Settings(home=tmp_path), "prefect").password == "x" * length
    else:
        problem = "at least 32 characters, it has 31; remove it, and a new one is made"
        with pytest.raises(ConfigurationError, match=problem):
            read_secret(Settings(home=tmp_path), "prefect")


def test_a_mounted_secret_may_be_readable_by_its_group(tmp_path: Path) -> None:
    path = tmp_path / "mounted"
    path.write_text("y" * 40)
    path.chmod(0o440)
    assert read_mounted_secret(path).login == "ecg:" + "y" * 40


def test_a_mounted_secret_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be used: No such file"):
        read_mounted_secret(tmp_path / "missing")


def test_a_mounted_secret_that_is_short_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mounted").write_text("y" * 31)
    with pytest.raises(ConfigurationError, match="at least 32 characters, it has 31"):
        read_mounted_secret(tmp_path / "mounted")
