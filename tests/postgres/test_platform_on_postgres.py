"""The platform on PostgreSQL by settings alone; `make test-postgres` runs it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.settings import Settings
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from flows.doors.addresses import PROJECT_DIR
from flows.doors.registry import Alias, Registry, RunKind
from flows.local.supervision.environments import make_flow_environment
from tests.postgres.server import Postgres

pytestmark = pytest.mark.slow

PASSWORD = "Never-in-a-log-7f3a"  # noqa: S105  of a server that asks for none


@pytest.fixture(autouse=True)
def _only_where_it_is_asked_for(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--postgres"):
        pytest.skip("needs --postgres: make test-postgres")


def _with_password(url: str) -> str:
    return url.replace("ecg@", f"ecg:{PASSWORD}@")


@pytest.fixture
def urls(postgres: Postgres) -> dict[str, str]:
    """A database for each store."""
    made = {
        "ECG_MONITORING_URL": postgres.make_database(),
        "ECG_STUDY_URL": postgres.make_database(),
        "ECG_MLFLOW_STORE_URL": postgres.make_database(),
        "PREFECT_API_DATABASE_CONNECTION_URL": postgres.make_database("asyncpg"),
    }
    return {name: _with_password(url) for name, url in made.items()}


def test_a_champion_is_registered_and_found_on_postgres(
    postgres: Postgres, tmp_path: Path, toy_bundle: Bundle
) -> None:
    url = postgres.make_database()
    registry = Registry(Settings(home=tmp_path, mlflow_store_url=url))
    run_id = registry.start_run("candidate", kind=RunKind.CANDIDATE, tags={})
    registry.log(run_id, metrics={"oof_v_f1": 0.9})
    registry.log_bundle(run_id, toy_bundle)
    registry.end_run(run_id)
    registry.make_champion(registry.register(run_id, tags={}).version)
    again = Registry(Settings(home=tmp_path, mlflow_store_url=url))
    champion = again.get_alias(Alias.CHAMPION)
    assert champion is not None
    assert again.fetch_bundle(champion.run_id).hash == toy_bundle.hash
    assert not (tmp_path / "mlflow" / "mlflow.db").exists()
    assert again.remove_runs([again.start_run("x", kind=RunKind.TRIAL, tags={})]) == []


def test_the_registry_answers_after_postgres_has_ended_its_connections(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.make_database()
    settings = Settings(home=tmp_path, mlflow_store_url=url)
    pool = "MLFLOW_SQLALCHEMYSTORE_POOLCLASS"
    monkeypatch.setenv(pool, make_flow_environment(settings)[pool])
    registry = Registry(settings)
    run_id = registry.start_run("candidate", kind=RunKind.CANDIDATE, tags={})
    for count in range(5):
        postgres.run_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
            database=url.rpartition("/")[2],
        )
        registry.log(run_id, metrics={f"m{count}": 1.0})
    assert [run.run_id for run in registry.list_runs()] == [run_id]


def _find_free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def _up(environment: dict[str, str], log: Path) -> Iterator[Callable[[], str]]:
    """Run ``ecg up`` without a pipeline; gives what it has printed."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", "from flows.local.cli import main; main()"),
                *("up", "--no-pipeline"),
            ],
            env=environment,
            cwd=PROJECT_DIR,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def read() -> str:
        assert process.poll() is None, log.read_text()
        return log.read_text()

    try:
        yield read
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(90)


@pytest.mark.timeout(600)
def test_the_platform_keeps_everything_on_postgres_and_no_password_in_a_log(
    postgres: Postgres, urls: dict[str, str], tmp_path: Path
) -> None:
    home, (service, prefect, mlflow) = tmp_path / "home", _find_free_ports(3)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ECG_")},
        **urls,
        "ECG_HOME": str(home),
        "ECG_SERVICE_PORT": str(service),
        "ECG_SERVICE_WORKERS": "1",
        "ECG_PREFECT_PORT": str(prefect),
        "ECG_MLFLOW_PORT": str(mlflow),
    }
    strip = simulate_strip(StripKind.RUN, seed=3)
    body: dict[str, Any] = {"signal_data": strip.signal_mv().tolist(), "sampling_rate": strip.fs}
    database = {name: url.rpartition("/")[2] for name, url in urls.items()}
    with _up(environment, tmp_path / "up.log") as read:
        deadline_s = time.monotonic() + 400
        while "READY" not in read():
            assert time.monotonic() < deadline_s, read()
            time.sleep(1)
        answers = [
            httpx.post(f"http://127.0.0.1:{service}/api/v1/predictions/", json=body, timeout=60.0)
            for _ in range(5)
        ]
        ids = {answer.json()["prediction_id"] for answer in answers}
        kept: set[str] = set()
        while not ids <= kept:
            assert time.monotonic() < deadline_s
            time.sleep(0.5)
            found = postgres.run_sql(
                "SELECT prediction_id FROM predictions", database=database["ECG_MONITORING_URL"]
            )
            kept = set(found.splitlines())
        runs = postgres.run_sql(
            "SELECT state_type FROM flow_run",
            database=database["PREFECT_API_DATABASE_CONNECTION_URL"],
        )
        assert runs.splitlines().count("COMPLETED") >= 2  # to install, and to release
        aliases = postgres.run_sql(
            "SELECT alias, version FROM registered_model_aliases",
            database=database["ECG_MLFLOW_STORE_URL"],
        )
        assert "champion|1" in aliases.splitlines()
    assert [path.name for path in home.rglob("*.db")] == []
    logs = [tmp_path / "up.log", *home.joinpath("logs").glob("*")]
    assert [path.name for path in logs if PASSWORD in path.read_text(errors="replace")] == []
