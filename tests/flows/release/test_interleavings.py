"""A thousand random orders of release, rollback, promotion, faults and kills end consistently."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ecg_lib.errors import EcgError
from ecg_lib.operations.releases import CURRENT, is_same_release
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import read_ledger
from flows.doors.registry import Alias, ModelVersion
from flows.release.integrity.aliases import follow_pending, read_pending
from flows.release.integrity.doctor import examine
from flows.release.switch_service import read_current
from flows.release.transaction import (
    INTENT,
    Step,
    SupersededError,
    recover,
    release_model,
    roll_back,
)
from tests.homes import KilledError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

N_INTERLEAVINGS = 1000
MODELS = st.sampled_from(["1", "2", "3"])
KILLS = st.none() | st.sampled_from(list(Step))
TORN = st.sampled_from([CURRENT, INTENT, "registry-pending.json", "release.lock"])


class Aliases:
    """MLflow's registry, which may be out of reach."""

    def __init__(self) -> None:
        self.champion: str | None = None
        self.rolled_back: set[str] = set()

    def follow_release(self, version: str, *, rolled_back: list[str]) -> None:
        self.champion = version
        self.rolled_back |= set(rolled_back) - {version}

    def versions(self) -> list[ModelVersion]:
        return [self._find(version) for version in "123"]

    def get_alias(self, _: Alias) -> ModelVersion | None:
        return None if self.champion is None else self._find(self.champion)

    def _find(self, version: str) -> ModelVersion:
        tags = {"rolled_back": "true"} if version in self.rolled_back else {}
        return ModelVersion(version=version, run_id=version, tags=tags)


class Releases(RuleBasedStateMachine):
    """Commands of operators and flows against one home."""

    make_service: Callable[..., Any]
    make_release: Callable[..., Any]
    patch: pytest.MonkeyPatch
    n_ended: ClassVar[int] = 0

    @initialize()
    def begin(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="releases-"))
        self.settings = Settings(home=self.home, mlflow_tracking_uri="http://127.0.0.1:9")
        self.service = self.make_service(self.settings)
        self.aliases, self.is_mlflow_up = Aliases(), True
        self.patch.setattr("flows.doors.registry.Registry", lambda _: self.aliases)
        self.patch.setattr(
            "flows.doors.registry.explain_unreachable",
            lambda _: "" if self.is_mlflow_up else "down",
        )
        self.patch.setattr("flows.release.integrity.doctor.ask_service", self.service.ask)
        self.done: list[str] = []

    def attempt(self, act: Callable[..., Any], kill: Step | None, **arguments: object) -> None:
        def on_step(reached: Step) -> None:
            if reached is kill:
                raise KilledError

        steps = replace(self.service.steps, on_step=on_step, timeout_s=0.05)
        try:
            outcome = act(self.settings, steps=steps, **arguments)
        except (EcgError, KilledError):
            return
        if outcome.is_new:
            self.done.append(outcome.release.bento_tag)
            assert not (self.settings.serving_dir / INTENT).exists()
        follow_pending(self.settings)

    @rule(model=MODELS, code=st.sampled_from("ab"), kill=KILLS, force=st.booleans())
    def release(self, model: str, code: str, kill: Step | None, force: bool) -> None:  # noqa: FBT001  hypothesis passes by name
        wanted = self.make_release(self.settings, model, code)
        self.attempt(release_model, kill, wanted=wanted, why=f"release model {model}", force=force)

    @rule(model=MODELS, kill=KILLS)
    def promote(self, model: str, kill: Step | None) -> None:
        if follow_pending(self.settings) and self.is_mlflow_up:
            self.aliases.champion = model
            self.release(model, "a", kill, force=False)

    @rule(kill=KILLS, force=st.booleans(), to=st.none() | MODELS)
    def rollback(self, kill: Step | None, force: bool, to: str | None) -> None:  # noqa: FBT001  as above
        self.attempt(roll_back, kill, why="worse", to=to, force=force)

    @rule(tag=st.sampled_from(["ecg:1-a", "ecg:2-a", "ecg:3-b"]))
    def rollback_late(self, tag: str) -> None:
        before = recover(self.settings, steps=self.service.steps)
        try:
            roll_back(
                self.settings, why="drift", decided_against=tag, force=True,
                steps=self.service.steps,
            )  # fmt: skip
        except SupersededError:
            assert before is None or before.bento_tag != tag
        except EcgError:
            pass

    @rule(tag=st.sampled_from(["ecg:2-a", "ecg:3-a", "ecg:1-b"]), is_bad=st.booleans())
    def damage_or_repair(self, tag: str, is_bad: bool) -> None:  # noqa: FBT001  as above
        (self.service.bad.add if is_bad else self.service.bad.discard)(tag)

    @rule(is_running=st.booleans())
    def stop_or_start_service(self, is_running: bool) -> None:  # noqa: FBT001  as above
        self.service.is_running = is_running

    @rule(is_up=st.booleans())
    def stop_or_start_mlflow(self, is_up: bool) -> None:  # noqa: FBT001  as above
        self.is_mlflow_up = is_up

    @precondition(lambda self: read_ledger(self.settings.ledger_dir).latest is not None)
    @rule(name=TORN)
    def tear(self, name: str) -> None:
        for folder in (self.settings.home, self.settings.serving_dir):
            if (folder / name).exists():
                (folder / name).write_text('{"id": ')

    def teardown(self) -> None:
        if not hasattr(self, "home"):
            return
        self.service.is_running = self.is_mlflow_up = True
        current = recover(self.settings, steps=self.service.steps)
        # Promoted and not released, as the command was killed between them: the doctor sees it.
        findings = examine(self.settings)
        # The bundles of this store are empty, and what is released may be damaged.
        unmended = {one.store for one in findings if not one.is_mended}
        assert unmended <= {"bento store", "service"}
        history = read_ledger(self.settings.ledger_dir)
        assert history.torn == []
        ids = [entry.event.id for entry in history.entries]
        assert len(ids) == len(set(ids))
        assert not (self.settings.serving_dir / INTENT).exists()
        assert read_pending(self.settings) is None
        assert is_same_release(read_current(self.settings), current)
        if current is not None:
            assert history.latest is not None
            assert is_same_release(history.latest.release, current)
            assert self.aliases.champion == current.model_version
        else:
            assert history.latest is None
        noted = [entry.release.bento_tag for entry in history.entries if entry.is_served]
        assert all(noted.count(tag) >= self.done.count(tag) for tag in self.done)
        shutil.rmtree(self.home)
        type(self).n_ended += 1


def test_a_thousand_interleavings_end_with_stores_that_agree(
    make_service: Callable[..., Any],
    make_release: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # This tests the order of steps; writing to the disk and the copies for people take time.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr("flows.doors.ledger._write_copies", lambda *_: None)
    Releases.make_service = staticmethod(make_service)
    Releases.make_release = staticmethod(make_release)
    Releases.patch = monkeypatch
    run_state_machine_as_test(
        Releases,
        settings=settings(
            max_examples=N_INTERLEAVINGS,
            stateful_step_count=6,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Releases.n_ended >= N_INTERLEAVINGS
