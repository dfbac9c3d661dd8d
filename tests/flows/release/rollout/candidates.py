"""Candidates that are tried beside a served release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from ecg_lib.operations.learning.rollout.candidate import Plan, Stage, read_candidate
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import read_ledger
from flows.release.rollout import journal
from flows.release.switch_service import read_current
from flows.release.transaction import Steps
from tests.homes import KilledError

Make = Callable[..., Release]
PLAN = Plan(
    stages=tuple(
        Stage(share=share, min_hours=1, min_strips=2, min_groups=2) for share in (0.0, 0.1, 0.5)
    )
)


class Service(Protocol):
    """The stand-in for the service, see ``conftest.py``."""

    is_running: bool
    bad: set[str]
    served: Release | None

    @property
    def steps(self) -> Steps: ...


def kinds(settings: Settings) -> list[str]:
    entries = read_ledger(settings.ledger_dir).entries
    return [entry.event.kind.value for entry in reversed(entries)]


def candidate_file(settings: Settings) -> Path:
    return settings.serving_dir / "candidate.json"


def tried(settings: Settings) -> str | None:
    found = read_candidate(candidate_file(settings))
    return None if found is None else found.release.bento_tag


def served(settings: Settings) -> str | None:
    current = read_current(settings)
    return None if current is None else current.bento_tag


def kill_at(monkeypatch: pytest.MonkeyPatch, name: str, *, call: int) -> None:
    """Kill the process at a call of a function of the journal."""
    real, calls = getattr(journal, name), []

    def kill(*arguments: object, **named: object) -> object:
        calls.append(name)
        if len(calls) == call:
            raise KilledError
        return real(*arguments, **named)

    monkeypatch.setattr(journal, name, kill)
