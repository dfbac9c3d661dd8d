"""The demo has a home, ports and settings of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ecg_lib.operations.keys.patient_key import hash_patient, read_patient_key
from ecg_lib.operations.settings import Profile
from flows.data.records.site import is_held_out
from flows.local.cli import app
from flows.local.demo.home import enter_home, find_free_ports, make_home


@pytest.fixture(autouse=True)
def _environment_and_umask_of_before() -> Iterator[None]:
    """The demo changes the environment and the umask of its process."""
    variables, mask = dict(os.environ), os.umask(0o022)
    os.umask(mask)
    yield
    os.umask(mask)
    os.environ.clear()
    os.environ.update(variables)


def test_settings_of_the_user_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = tmp_path / "of the user"
    monkeypatch.setenv("ECG_HOME", str(users))
    monkeypatch.setenv("ECG_MITDB_DIR", str(tmp_path))
    monkeypatch.setenv("ECG_MLFLOW_TRACKING_URI", "http://mlflow.example")
    monkeypatch.setenv("ECG_API_KEY", "secret")
    settings = enter_home(make_home(tmp_path / "home"))
    assert settings.home == tmp_path / "home"
    assert not users.exists()
    assert (settings.mitdb_dir, settings.mlflow_tracking_uri, settings.api_key) == (None,) * 3
    assert settings.profile is Profile.DEMO
    assert settings.keep_signals
    assert len({settings.service_port, settings.prefect_port, settings.mlflow_port}) == 3
    assert os.environ["PREFECT_API_URL"] == f"http://127.0.0.1:{settings.prefect_port}/api"


def test_each_run_labels_all_strips_and_holds_the_same_people_out(tmp_path: Path) -> None:
    held_out = []
    for name in "ab":
        settings = enter_home(make_home(tmp_path / name))
        assert settings.audit_share == 1.0
        key = read_patient_key(settings.patient_key_path)
        people = [f"new person {number}" for number in range(32)]
        held_out.append([one for one in people if is_held_out(hash_patient(one, key=key))])
    assert held_out[0] == held_out[1]
    assert len(held_out[0]) == 12
    assert settings.patient_key_path.stat().st_mode & 0o777 == 0o600


def test_ports_that_are_found_can_be_bound() -> None:
    for port in find_free_ports(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_a_home_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = CliRunner().invoke(app, ["demo", "loop", "--home", str(tmp_path)])
    assert done.exit_code == 2
    assert "the demo needs an empty directory" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_without_a_name_the_home_is_a_new_directory() -> None:
    first, second = make_home(None), make_home(None)
    try:
        assert first != second
        assert list(first.iterdir()) == []
    finally:
        first.rmdir()
        second.rmdir()
