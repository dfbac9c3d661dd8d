"""Settings come from the environment, and say which variable is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.settings import Profile, Settings, read_settings


def test_defaults_are_those_of_the_documentation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("ECG_HOME", "ECG_MITDB_DIR", "ECG_NSTDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    settings = read_settings()
    assert settings.home == tmp_path / "var"
    assert (settings.service_port, settings.prefect_port, settings.mlflow_port) == (
        3000,
        4200,
        5000,
    )
    assert settings.service_host == "127.0.0.1"
    assert settings.profile is Profile.QUICK
    assert settings.mitdb_dir is None
    assert settings.nstdb_dir is None
    assert settings.rate_limit_per_min == 0
    assert not settings.fresh


def test_everything_written_lies_below_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ECG_HOME", str(tmp_path / "h"))
    settings = read_settings()
    directories = [
        settings.data_dir,
        settings.datasets_dir,
        settings.serving_dir,
        settings.ledger_dir,
        settings.reports_dir,
        settings.logs_dir,
        settings.bentoml_home,
        settings.mlflow_dir,
        settings.patient_key_path,
    ]
    assert len(set(directories)) == 9
    assert all(path.parent == tmp_path / "h" for path in directories)
    for url in (
        settings.tracking_uri,
        settings.study_storage_url,
        settings.monitoring_database_url,
    ):
        assert url.startswith(f"sqlite:///{tmp_path / 'h'}/")
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize(
    ("variable", "name", "value"),
    [
        ("ECG_MLFLOW_TRACKING_URI", "tracking_uri", "http://127.0.0.1:5000"),
        ("ECG_STUDY_URL", "study_storage_url", "postgresql://db/studies"),
        ("ECG_MONITORING_URL", "monitoring_database_url", "postgresql://db/log"),
    ],
)
def test_an_address_that_is_set_wins(
    monkeypatch: pytest.MonkeyPatch, variable: str, name: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert getattr(read_settings(), name) == value


def test_paths_are_absolute_and_the_tilde_is_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("ECG_HOME", "somewhere")
    monkeypatch.setenv("ECG_MITDB_DIR", "~/mitdb")
    monkeypatch.setenv("ECG_PATIENT_KEY_FILE", "keys/patient")
    settings = read_settings()
    assert settings.home == tmp_path / "somewhere"
    assert settings.mitdb_dir == tmp_path / "me" / "mitdb"
    assert settings.patient_key_path == tmp_path / "keys" / "patient"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ECG_MITDB_DIR", "ECG_PROFILE", "ECG_SERVICE_PORT", "ECG_FRESH"):
        monkeypatch.setenv(name, "")
    settings = read_settings()
    assert settings.mitdb_dir is None
    assert settings.service_port == 3000


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ECG_SERVICE_PORT", "70000"),
        ("ECG_PREFECT_PORT", "0"),
        ("ECG_MLFLOW_PORT", "s3cret-port"),
        ("ECG_PROFILE", "s3cret-profile"),
        ("ECG_FRESH", "s3cret-maybe"),
        ("ECG_RATE_LIMIT_PER_MIN", "-1"),
    ],
)
def test_a_wrong_variable_is_named_and_its_value_is_not(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable) as caught:
        read_settings()
    assert "s3cret" not in str(caught.value)


def test_all_wrong_variables_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECG_SERVICE_PORT", "x")
    monkeypatch.setenv("ECG_PROFILE", "x")
    with pytest.raises(ConfigurationError, match=r"ECG_PROFILE.*ECG_SERVICE_PORT"):
        read_settings()


def test_settings_do_not_change() -> None:
    settings = read_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.service_port = 1  # type: ignore[misc]


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())
