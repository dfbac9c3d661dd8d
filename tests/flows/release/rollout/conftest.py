"""A rollout that has begun."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ecg_lib.operations.learning.rollout.candidate import Candidate
from ecg_lib.operations.settings import Settings
from flows.release.rollout.steps import start_rollout
from flows.release.transaction import release_model
from tests.flows.release.rollout.candidates import PLAN, Make, Service


@pytest.fixture
def start(settings: Settings, service: Service, make_stored: Make) -> Callable[..., Candidate]:
    """Serve model 1 and try another."""
    release_model(settings, make_stored("1"), why="the first", steps=service.steps)

    def begin(version: str = "2", **options: Any) -> Candidate:  # noqa: ANN401  as the function
        return start_rollout(
            settings,
            make_stored(version),
            plan=PLAN,
            why="better",
            who="Ada",
            steps=service.steps,
            **options,
        )

    return begin
