"""The environment of a process that reads the signals of clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecg_lib.operations.processes.limits import environment_with

_LOGIN = "ecg:hunter2"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ECG_API_KEY", "hunter2"),
        ("PREFECT_API_AUTH_STRING", _LOGIN),
        ("MLFLOW_TRACKING_PASSWORD", "hunter2"),
        ("MLFLOW_TRACKING_TOKEN", "hunter2"),
        ("MLFLOW_TRACKING_URI", f"https://{_LOGIN}@mlflow.example"),
        ("ECG_MONITORING_URL", f"postgresql+psycopg://{_LOGIN}@db/ecg"),
        ("ECG_STUDY_URL", "postgresql://db/ecg?user=ecg&password=hunter2"),
        ("ECG_MLFLOW_STORE_URL", f"postgresql://{_LOGIN}@db/mlflow"),
        ("ECG_LEDGER_REMOTE", "https://hunter2@git.example/ledger.git"),
        ("PREFECT_API_DATABASE_CONNECTION_URL", f"postgresql+asyncpg://{_LOGIN}@db/prefect"),
        ("HTTPS_PROXY", f"http://{_LOGIN}@proxy.example:3128"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ("AWS_ACCESS_KEY_ID", "hunter2"),
        ("SSH_AUTH_SOCK", "/run/user/1000/hunter2"),
    ],
)
def test_a_process_that_reads_files_of_clients_gets_no_login(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert name not in environment_with(Path("code"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ECG_HOME", "/srv/ecg"),
        ("ECG_MONITORING_URL", "sqlite:////srv/ecg/monitoring.db"),
        ("ECG_PHYSIONET_URL", "https://physionet.org/files/mitdb/1.0.0/"),
        ("LD_LIBRARY_PATH", "/opt/lib"),
        ("TMPDIR", "/scratch"),
    ],
)
def test_it_gets_what_has_no_login(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert environment_with(Path("code"))[name] == value
