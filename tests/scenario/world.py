"""The servers and homes of the scenario: PostgreSQL, an S3 API, a directory for each machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ecg_lib.operations.keys.patient_key import read_patient_key
from ecg_lib.operations.keys.signatures import make_key
from ecg_lib.operations.settings import Profile, Settings
from flows.local.demo.home import find_free_ports
from tests.object_store.server import ObjectServer
from tests.object_store.server import serving as serving_objects
from tests.postgres.server import Postgres, find_programs, serving

NOWHERE: Final = "http://127.0.0.1:9/mitdb/1.0.0/"
"""Nothing is downloaded: the port of the discard service."""

_DATABASES: Final = {
    "ECG_MONITORING_URL": "pg8000",
    "ECG_STUDY_URL": "pg8000",
    "ECG_MLFLOW_STORE_URL": "pg8000",
    "PREFECT_API_DATABASE_CONNECTION_URL": "asyncpg",
}


class ScenarioError(Exception):
    """The scenario cannot go on."""


@dataclass(frozen=True)
class World:
    """PostgreSQL, an S3 API, and homes that share them."""

    root: Path
    postgres: Postgres
    objects: ObjectServer
    urls: dict[str, str]
    store_url: str
    prefect_port: int
    mlflow_port: int

    @property
    def settings(self) -> dict[str, str]:
        """The variables that all machines share."""
        return {
            **self.urls,
            **self.objects.variables,
            "ECG_STORE_URL": self.store_url,
            "ECG_RELEASE_KEY_FILE": str(self.root / "release-key"),
            "ECG_PATIENT_KEY_FILE": str(self.root / "patient.key"),
            "ECG_PROFILE": Profile.DEMO.value,
            "ECG_PHYSIONET_URL": NOWHERE,
            "ECG_SERVICE_WORKERS": "1",
            "ECG_PREFECT_PORT": str(self.prefect_port),
            "ECG_MLFLOW_PORT": str(self.mlflow_port),
        }

    def settings_of(self, machine: str, *, port: int = 3000) -> Settings:
        """Return the settings of a machine with a home of its own."""
        return Settings(
            home=self.root / machine,
            profile=Profile.DEMO,
            physionet_url=NOWHERE,
            store_url=self.store_url,
            release_key_file=self.root / "release-key",
            patient_key_file=self.root / "patient.key",
            monitoring_url=self.urls["ECG_MONITORING_URL"],
            study_url=self.urls["ECG_STUDY_URL"],
            mlflow_store_url=self.urls["ECG_MLFLOW_STORE_URL"],
            service_port=port,
            service_workers=1,
            prefect_port=self.prefect_port,
            mlflow_port=self.mlflow_port,
        )

    def make_keys(self) -> None:
        """Make the keys of releases and patients, which a person copies to each machine."""
        make_key(self.settings_of("flows"))
        read_patient_key(self.root / "patient.key")

    def read_logged(self) -> list[str]:
        """Read the ids of all predictions in the log, by psql."""
        database = self.urls["ECG_MONITORING_URL"].rpartition("/")[2]
        found = self.postgres.run_sql("SELECT prediction_id FROM predictions", database=database)
        return found.splitlines()

    def end_connections(self) -> int:
        """Let PostgreSQL end every connection; return how many there were."""
        ended = self.postgres.run_sql(
            "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend') AS ended",
            database="postgres",
        )
        return int(ended)

    def freeze_objects(self, seconds: float) -> None:
        """Let the S3 server answer nothing for some seconds."""
        os.kill(self.objects.process.pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(self.objects.process.pid, signal.SIGCONT)


@contextmanager
def making_world(root: Path) -> Iterator[World]:
    """Start PostgreSQL and the S3 server, and end them after the block.

    Raises
    ------
    ScenarioError
        If PostgreSQL is not installed.

    """
    programs = find_programs()
    if programs is None:
        msg = "the scenario needs a PostgreSQL server, initdb was not found: install postgresql"
        raise ScenarioError(msg)
    with serving(programs) as postgres, serving_objects() as objects:
        urls = {name: postgres.make_database(driver) for name, driver in _DATABASES.items()}
        prefect_port, mlflow_port = find_free_ports(2)
        world = World(
            root=root,
            postgres=postgres,
            objects=objects,
            urls=urls,
            store_url=f"s3://{objects.make_bucket()}/ecg",
            prefect_port=prefect_port,
            mlflow_port=mlflow_port,
        )
        world.make_keys()
        yield world
