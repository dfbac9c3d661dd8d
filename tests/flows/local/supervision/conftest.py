"""Supervisors with the lines that they print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flows.local.supervision.supervisor import Supervisor


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def make_supervisor(tmp_path: Path, lines: list[str]) -> Callable[..., Supervisor]:
    def make(grace_s: float = 5.0) -> Supervisor:
        return Supervisor(
            tmp_path / "processes.json",
            states_path=tmp_path / "helpers.json",
            logs_dir=tmp_path / "logs",
            report=lines.append,
            grace_s=grace_s,
        )

    return make
