"""A store with releases and a service that answers as the real one, without its processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from ecg_lib.operations.releases import CURRENT, Release, ReleaseError, read_release
from ecg_lib.operations.settings import Settings
from flows.release.switch_service import Health, Presence
from flows.release.transaction import Steps
from tests.homes import store_release


@dataclass
class FakeService:
    """Serves what ``current.json`` says, unless it refuses it."""

    settings: Settings
    is_running: bool = True
    bad: set[str] = field(default_factory=set)
    """Bento tags that it refuses."""
    served: Release | None = None
    refused: str | None = None

    def ask(self, _: Settings) -> Health:
        if not self.is_running:
            return Health(Presence.ABSENT)
        try:
            current = read_release(self.settings.serving_dir / CURRENT)
        except ReleaseError:
            current = self.served
        if current is not None:
            if current.bento_tag in self.bad:
                self.refused = current.bento_tag
            else:
                self.served, self.refused = current, None
        return Health(
            Presence.ANSWERS,
            (self.served.bento_tag, self.served.model_version) if self.served else None,
            (self.refused, "golden requests failed") if self.refused else None,
        )

    @property
    def steps(self) -> Steps:
        return Steps(ask=self.ask, timeout_s=5.0, lock_timeout_s=0.2)


@pytest.fixture(name="make_stored")
def _make_stored(settings: Settings) -> Callable[..., Release]:
    return partial(store_release, settings)


@pytest.fixture
def make_release() -> Callable[..., Release]:
    return store_release


@pytest.fixture
def make_service() -> type[FakeService]:
    return FakeService


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def service(settings: Settings) -> FakeService:
    return FakeService(settings)
