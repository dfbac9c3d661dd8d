from __future__ import annotations

import contextlib
import json
import sqlite3

import pytest

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.settings import Settings
from flows.doors.registry import ELIGIBLE, Alias, ModelVersion, Registry, RunKind
from flows.release.integrity.aliases import (
    find_alias_problem,
    follow_pending,
    note_pending,
    read_pending,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One SQLite registry for the module: making its tables takes seconds."""
    return Registry(Settings(home=tmp_path_factory.mktemp("registry")))


def _register(registry: Registry, bundle: Bundle) -> ModelVersion:
    run_id = registry.start_run("candidate", kind=RunKind.CANDIDATE, tags={ELIGIBLE: "true"})
    registry.log_bundle(run_id, bundle)
    registry.end_run(run_id)
    return registry.register(run_id, tags={})


@pytest.mark.parametrize("fault", ["down", "locked"])
def test_aliases_follow_later_when_mlflow_cannot_be_used(
    registry: Registry, toy_bundle: Bundle, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    version = _register(registry, toy_bundle)
    settings = registry._settings
    note_pending(settings, version.version)
    if fault == "down":
        down = Settings(home=settings.home, mlflow_tracking_uri="http://127.0.0.1:9")
        assert not follow_pending(down)
    else:
        with contextlib.closing(sqlite3.connect(settings.mlflow_dir / "mlflow.db")) as database:
            database.execute("BEGIN EXCLUSIVE")
            assert not follow_pending(settings)
    assert "MLflow cannot be used" in caplog.text
    pending = read_pending(settings)
    assert pending is not None
    assert pending.version == version.version

    assert follow_pending(settings)

    champion = registry.get_alias(Alias.CHAMPION)
    assert champion is not None
    assert champion.version == version.version
    assert read_pending(settings) is None


def test_a_note_of_earlier_code_is_followed(registry: Registry, toy_bundle: Bundle) -> None:
    settings = registry._settings
    old, new = _register(registry, toy_bundle), _register(registry, toy_bundle)
    text = json.dumps({"version": old.version, "rolled_back": new.version})
    (settings.home / "registry-pending.json").write_text(text)
    assert find_alias_problem(settings, old.version, worse={new.version}) != ""
    assert follow_pending(settings)
    assert registry.get_version(new.version).tags["rolled_back"] == "true"
    assert find_alias_problem(settings, old.version, worse={new.version}) == ""
    assert "is served" in find_alias_problem(settings, new.version, worse=set())


def test_a_served_version_that_mlflow_does_not_know_holds_up_nothing(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    settings = registry._settings
    champion = registry.get_alias(Alias.CHAMPION)
    note_pending(settings, "998", rolled_back="999")
    assert follow_pending(settings)
    assert "model 998 is served and is not in MLflow" in caplog.text
    assert registry.get_alias(Alias.CHAMPION) == champion
