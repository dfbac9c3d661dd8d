"""The variables of the caller that each process gets, and those that it does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ecg_lib.operations.settings import Settings
from flows.local.servers.secret_files import read_secret
from flows.local.supervision import environments
from flows.local.supervision.process_state import MARK

Make = Callable[[Settings], dict[str, str]]

ALL: list[Make] = [
    environments.make_prefect_server_environment,
    environments.make_mlflow_server_environment,
    environments.make_deploy_environment,
    environments.make_flow_environment,
    environments.make_service_environment,
]
FLOWS, SERVICE = ALL[3], ALL[4]


def _name(make: Make) -> str:
    return make.__name__.removeprefix("make_").removesuffix("_environment")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path,
        prefect_port=4321,
        mitdb_dir=tmp_path / "mitdb",
        api_key="key of the caller",
        study_url="postgresql://u:study-password@db/studies",
        monitoring_url="postgresql://u:log-password@db/log",
    )


@pytest.mark.parametrize("make", ALL, ids=_name)
def test_no_process_gets_a_key_or_a_variable_of_another_program(
    make: Make, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ECG_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "PYTHONPATH", "PIP_X"):
        monkeypatch.setenv(name, "of the caller")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "of another server")
    given = make(settings)
    assert "of the caller" not in " ".join(given.values())
    assert "of another server" not in given.values()
    assert MARK not in given
    assert given["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("make", ALL, ids=_name)
def test_the_login_of_prefect_is_given_to_its_clients_alone(make: Make, settings: Settings) -> None:
    prefect, mlflow = (read_secret(settings, name) for name in ("prefect", "mlflow"))
    given = make(settings)
    is_client = make in (environments.make_deploy_environment, FLOWS)
    assert (given.get("PREFECT_API_AUTH_STRING") == prefect.login) is is_client
    values = " ".join(value for name, value in given.items() if name != "PREFECT_API_AUTH_STRING")
    assert prefect.password not in values
    assert mlflow.password not in values


@pytest.mark.parametrize("make", ALL, ids=_name)
def test_passwords_of_databases_reach_only_what_uses_the_database(
    make: Make, settings: Settings
) -> None:
    values = " ".join(make(settings).values())
    assert ("study-password" in values) is (make is FLOWS)
    assert ("log-password" in values) is (make in (FLOWS, SERVICE))


@pytest.mark.parametrize("make", ALL, ids=_name)
def test_the_credentials_of_the_store_reach_only_what_reads_it(
    make: Make, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "store-password")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://store:9000")
    shared = settings.model_copy(update={"store_url": "s3://bucket/ecg"})
    found = make(shared)
    reads = make in {FLOWS, SERVICE, environments.make_mlflow_server_environment}
    assert ("AWS_SECRET_ACCESS_KEY" in found) is reads
    assert ("ECG_STORE_URL" in found) is reads
    # A store of one's own seldom has a name in the DNS for each bucket.
    assert (found.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE") == "path") is reads
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    assert "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE" not in make(shared)


@pytest.mark.parametrize("make", ALL, ids=_name)
def test_no_process_sends_telemetry_or_asks_a_proxy_for_loopback(
    make: Make, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet.example")
    given = make(settings)
    # Libraries differ in the spelling of true that they accept.
    assert given["DO_NOT_TRACK"] == "true"
    assert given["BENTOML_DO_NOT_TRACK"] == "True"
    assert given["NO_PROXY"] == given["no_proxy"] == "intranet.example,127.0.0.1,localhost"


@pytest.mark.parametrize("origins", [(), ("https://a.example", "http://b.example:8080")])
def test_flows_and_service_see_every_setting_that_they_use(
    tmp_path: Path, origins: tuple[str, ...]
) -> None:
    settings = Settings(
        home=tmp_path, prefect_port=4321, mitdb_dir=tmp_path / "mitdb", allowed_origins=origins
    )
    for make in (FLOWS, SERVICE):
        given = make(settings)
        read = {
            name: given[f"ECG_{name.upper()}"]
            for name in Settings.model_fields
            if f"ECG_{name.upper()}" in given
        }
        assert Settings.model_validate(read) == settings
        assert given["BENTOML_HOME"] == str(settings.bentoml_home)


def test_flows_find_the_servers_and_write_below_the_home(settings: Settings) -> None:
    given = FLOWS(settings)
    assert given["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"
    assert given["PREFECT_HOME"] == str(settings.home / "prefect")
    assert given["MLFLOW_TRACKING_URI"] == settings.tracking_uri
    for name in ("KERAS_HOME", "MPLCONFIGDIR"):
        assert Path(given[name]).parent == settings.home / "cache"


@pytest.mark.parametrize(
    ("name", "makers"),
    [
        ("PREFECT_API_DATABASE_CONNECTION_URL", {ALL[0]}),
        ("PREFECT_SERVER_DATABASE_TIMEOUT", {ALL[0]}),
        ("HTTPS_PROXY", {FLOWS}),
        ("SSH_AUTH_SOCK", {FLOWS}),
        ("MLFLOW_TRACKING_PASSWORD", {FLOWS}),
        ("DASK_DISTRIBUTED__COMM__TLS__CA_FILE", {FLOWS}),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", {SERVICE}),
        ("SSL_CERT_FILE", set(ALL)),
        ("LC_ALL", set(ALL)),
    ],
)
def test_a_variable_of_the_caller_reaches_those_that_use_it(
    name: str, makers: set[Make], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "given")
    assert {make for make in ALL if make(settings).get(name) == "given"} == makers


def test_threads_are_limited_unless_the_caller_says_otherwise(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert SERVICE(settings)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert SERVICE(settings)["OMP_NUM_THREADS"] == "3"


def test_mlflow_keeps_no_connections_to_a_database_server_unless_its_operator_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "MLFLOW_SQLALCHEMYSTORE_POOLCLASS"
    server = environments.make_mlflow_server_environment
    monkeypatch.delenv(name, raising=False)
    alone = Settings(home=tmp_path)
    on_a_server = Settings(home=tmp_path, mlflow_store_url="postgresql+pg8000://db/mlflow")
    for make in (FLOWS, server):
        assert name not in make(alone)
        assert make(on_a_server)[name] == "NullPool"
    monkeypatch.setenv(name, "QueuePool")
    assert server(on_a_server)[name] == "QueuePool"
