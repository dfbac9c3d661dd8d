"""Steps of a migration that skip what exists already, made by code from before versions."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op


def add_column(table: str, column: sa.Column[Any]) -> None:
    """Add a column unless the table has it."""
    if column.name not in _columns(table):
        op.add_column(table, column)


def drop_column(table: str, name: str) -> None:
    """Drop a column if the table has it."""
    if name in _columns(table):
        op.drop_column(table, name)


def add_index(name: str, table: str, columns: list[str]) -> None:
    """Make an index unless one of that name exists."""
    op.create_index(name, table, columns, if_not_exists=True)


def drop_index(name: str, table: str) -> None:
    """Drop an index if it exists."""
    op.drop_index(name, table, if_exists=True)


def add_table(name: str, *parts: Any) -> bool:  # noqa: ANN401  columns and constraints
    """Make a table unless one of that name exists; return whether it was made.

    Indices of its columns are added separately.
    """
    if sa.inspect(op.get_bind()).has_table(name):
        return False
    op.create_table(name, *parts)
    return True


def drop_table(name: str) -> None:
    """Drop a table if it exists."""
    op.drop_table(name, if_exists=True)


def _columns(table: str) -> set[str]:
    return {one["name"] for one in sa.inspect(op.get_bind()).get_columns(table)}
