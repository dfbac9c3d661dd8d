"""A PostgreSQL server of its own, in a directory and on a socket of its own."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
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


_READY_S: Final = 60
_UNTIL_INPUT_ENDS: Final = f"""
place=$1
shift
"$0/initdb" -D "$place/data" -A trust -U {USER} --no-sync -E UTF8 --locale=C || exit
"$0/postgres" -D "$place/data" "$@" &
read -r _
kill -QUIT $!
wait
rm -rf "$place"
"""
"""Run a server as long as the input of the shell is open, which ends with this process.

It ends without a checkpoint: its data are removed, and hundreds of databases take minutes.
"""


@dataclass(frozen=True)
class Postgres:
    """A server that runs."""

    programs: Path
    directory: Path
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
    """Find the directory with initdb and postgres; the newest version where there are several."""
    places = [Path(place) for base in _PLACES for place in Path(base).glob("*/bin")]
    if (found := shutil.which("initdb")) is not None:
        places.append(Path(found).resolve().parent)
    needed = ("initdb", "postgres", "pg_isready", "psql")
    whole = [place for place in places if all((place / name).exists() for name in needed)]
    return max(whole, key=_version_of, default=None)


def _version_of(place: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", place.parent.name)]


@contextmanager
def serving(programs: Path) -> Iterator[Postgres]:
    """Run a server until the end of the block, or of this process, however that ends.

    As root, who may not run one, it runs as `nobody`.
    """
    account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    who: dict[str, Any] = {}
    # Not below the directory of pytest, which is closed to other users.
    with tempfile.TemporaryDirectory(prefix="ecg-postgres-") as name:
        directory = Path(name)
        if account is not None:
            os.chown(directory, account.pw_uid, account.pw_gid)
            who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
        options = [one for key, value in _SETTINGS.items() for one in ("-c", f"{key}={value}")]
        with (directory / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *("sh", "-c", _UNTIL_INPUT_ENDS, programs, directory),
                    *("-p", str(port), "-k", directory, *options),
                ],
                cwd=directory,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which may need it still
                **who,
            )
        try:
            _wait_until_ready(process, programs, port, directory / "server.log")
            yield Postgres(programs, directory, port)
        finally:
            process.communicate(timeout=300)


def _wait_until_ready(
    process: subprocess.Popen[bytes], programs: Path, port: int, log: Path
) -> None:
    ask = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", USER]
    deadline_s = time.monotonic() + _READY_S
    while subprocess.run(ask, check=False).returncode != 0:
        if process.poll() is not None or time.monotonic() > deadline_s:
            msg = f"PostgreSQL must answer within {_READY_S} s, it does not: {log.read_text()}"
            raise RuntimeError(msg)
        time.sleep(0.05)
