"""Upgrade or downgrade the schema of the monitoring database, by Alembic.

One query shows that a database is up to date, without Alembic. A version may only add to the one
before it, so that an earlier release of the service still works after a rollback: it leaves a
version that it does not know as it is. A database from before versions existed is treated as an
empty one, as every step leaves what exists alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from ecg_lib.errors import PredictionLogError

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

HEAD: Final = "r0003"
"""The version that this code needs."""

NOTHING: Final = "base"
"""The version without tables."""

VERSION_TABLE: Final = "ecg_schema_version"
"""Not Alembic's default, which MLflow and Optuna use in their databases."""

_HERE: Final = Path(__file__).parent
_LOCK: Final = 0x6563_6731
"""Number of the advisory lock in PostgreSQL."""
_WAIT_MS: Final = 60_000

_logger = logging.getLogger(__name__)


def read_version(engine: Engine) -> str | None:
    """Read the version of a database; None if it has none, or does not exist yet."""
    if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").exists():
        return None  # to connect would make the file
    with engine.connect() as connection:
        return _read_version(connection)


def _read_version(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608  a constant
    return found.scalar()


def migrate(engine: Engine, version: str = HEAD) -> bool:
    """Bring a database to a version; several processes may do so at once.

    Parameters
    ----------
    engine : Engine
    version : str
        Such as ``r0002``; one before that of the database drops what was added since.

    Returns
    -------
    bool
        Whether there was anything to do.

    Raises
    ------
    PredictionLogError
        If the version does not exist.

    """
    if read_version(engine) == version:
        return False
    from alembic.script import ScriptDirectory  # noqa: PLC0415  half a second

    script = ScriptDirectory(str(_HERE), version_locations=[str(_HERE / "versions")])
    known = [one.revision for one in script.walk_revisions()][::-1]
    if version not in {NOTHING, *known}:
        msg = f"the version must be one of {NOTHING}, {', '.join(known)}, got {version}"
        raise PredictionLogError(msg)
    with _one_at_a_time(engine) as connection:
        found = _read_version(connection)
        if found == version:
            return False  # another process was first
        if found is not None and found not in known:
            _logger.info("the monitoring database has the later version %s and keeps it", found)
            return False
        _run(connection, script, version, is_forwards=_is_before(found, version, known))
    return True


def _is_before(found: str | None, version: str, known: list[str]) -> bool:
    order = [None, *known]
    return version != NOTHING and order.index(found) < order.index(version)


def _run(
    connection: Connection, script: ScriptDirectory, version: str, *, is_forwards: bool
) -> None:
    from alembic.config import Config  # noqa: PLC0415  see above
    from alembic.runtime.environment import EnvironmentContext  # noqa: PLC0415  see above

    def list_steps(found: Any, _context: object) -> Any:  # noqa: ANN401  Alembic's own types
        if is_forwards:
            return script._upgrade_revs(version, found)  # noqa: SLF001  as alembic.command does
        return script._downgrade_revs(version, found)  # noqa: SLF001  as alembic.command does

    with EnvironmentContext(Config(), script, fn=list_steps) as environment:
        environment.configure(connection=connection, version_table=VERSION_TABLE)
        environment.run_migrations()


@contextmanager
def _one_at_a_time(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that other migrations wait for; all steps are committed or none."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # Python's driver does not begin a transaction before it changes the schema.
            raw: Any = connection.connection.dbapi_connection
            raw.isolation_level = None
            connection.exec_driver_sql(f"PRAGMA busy_timeout={_WAIT_MS}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        yield connection
        connection.commit()
