"""A PostgreSQL server of its own, in a directory and on a socket of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

USER: Final = "ecg"
_PLACES: Final = ("/usr/lib/postgresql", "/usr/pgsql", "/opt/homebrew/opt", "/usr/local/opt")
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",  # the data are those of a test
    "max_connections": "60",
}


@dataclass(frozen=True)
class Postgres:
    """A server that runs."""

    programs: Path
    port: int

    def make_database(self, driver: str = "pg8000") -> str:
        """Make an empty database, and return its URL."""
        name = f"d{uuid.uuid4().hex}"
        self.run_sql(f"CREATE DATABASE {name}", database="postgres")
        return f"postgresql+{driver}://{USER}@127.0.0.1:{self.port}/{name}"

    def run_sql(self, sql: str, *, database: str) -> str:
        """Run SQL by psql, which knows nothing of our drivers; return its unadorned rows."""
        done = subprocess.run(
            [
                *(self.programs / "psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER),
                *("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, database),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()


def find_programs() -> Path | None:
    """Find the directory with initdb and pg_ctl; the newest version where there are several."""
    places = [Path(place) for base in _PLACES for place in Path(base).glob("*/bin")]
    if (found := shutil.which("initdb")) is not None:
        places.append(Path(found).resolve().parent)
    whole = [
        place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()
    ]
    return max(whole, key=str, default=None)


@contextmanager
def serving(programs: Path) -> Iterator[Postgres]:
    """Run a server until the end of the block; as `nobody` where this is root, who must not."""
    account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    who: dict[str, Any] = {}
    # Not below the directory of pytest, which is closed to other users.
    with tempfile.TemporaryDirectory(prefix="ecg-postgres-") as name:
        directory = Path(name)
        if account is not None:
            os.chown(directory, account.pw_uid, account.pw_gid)
            who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

        def run(program: str, *arguments: str) -> None:
            subprocess.run(
                [programs / program, "-D", directory / "data", *arguments],
                check=True,
                cwd=directory,
                stdout=subprocess.DEVNULL,
                **who,
            )

        run("initdb", "-A", "trust", "-U", USER, "--no-sync", "-E", "UTF8", "--locale=C")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
        options = " ".join(f"-c {key}={value}" for key, value in _SETTINGS.items())
        options = f"-p {port} -k {directory} {options}"
        run("pg_ctl", "-w", "-l", str(directory / "server.log"), "-o", options, "start")
        try:
            yield Postgres(programs, port)
        finally:
            run("pg_ctl", "-w", "-m", "fast", "stop")
