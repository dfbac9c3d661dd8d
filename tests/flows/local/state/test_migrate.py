"""The command that brings our tables to a version."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ecg_lib.operations.learning.schema.migrations import HEAD
from flows.local.cli import app


@pytest.fixture(autouse=True)
def _umask_of_before() -> Iterator[None]:
    mask = os.umask(0o022)
    yield
    os.umask(mask)


def _migrate(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["migrate", *arguments])
    assert done.exit_code == 0, done.output
    return done.output.strip()


def test_tables_are_brought_forwards_and_backwards_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECG_HOME", str(tmp_path / "home"))
    assert _migrate("--show") == f"version none; this code needs {HEAD}"
    assert not (tmp_path / "home").exists()
    assert _migrate() == f"version {HEAD}; this code needs {HEAD}"
    assert _migrate("--to", "r0001") == f"version r0001; this code needs {HEAD}"
    assert _migrate("--show") == f"version r0001; this code needs {HEAD}"
    assert _migrate("--to", "base") == f"version none; this code needs {HEAD}"
    refused = CliRunner().invoke(app, ["migrate", "--to", "r9"])
    assert "must be one of base, r0001" in str(refused.exception)
