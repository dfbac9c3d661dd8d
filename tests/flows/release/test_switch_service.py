"""Questions to the service and the wait for its answer, by a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from ecg_lib.operations.releases import CURRENT, Release, write_release
from ecg_lib.operations.settings import Settings
from flows.release import switch_service
from flows.release.switch_service import (
    Health,
    Presence,
    Switch,
    ask_service,
    make_release,
    read_current,
    wait_until_served,
)

WANTED = Release(
    bento_tag="ecg:2",
    model_tag="ecg_bundle:2",
    bundle_hash="b" * 8,
    code_hash="c" * 8,
    model_version="2",
    released_at="2026-01-01T00:00:00.000+00:00",
)
BEFORE = Health(Presence.ANSWERS, served=("ecg:1", "1"))
SERVED = Health(Presence.ANSWERS, served=("ecg:2", "2"))
REFUSED = BEFORE._replace(refused=("ecg:2", "golden requests failed"))


class Clock:
    """Time that passes when somebody sleeps, or as a list of times says."""

    def __init__(self, times_s: Iterable[float] = ()) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []
        self.times_s = [self.now_s + one for one in times_s]

    def monotonic(self) -> float:
        return self.times_s.pop(0) if self.times_s else self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(
        switch_service, "time", SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep)
    )
    return clock


def wait(
    settings: Settings,
    *answers: Health,
    before: Health = BEFORE,
    timeout_s: float = 90.0,
) -> tuple[Switch, int]:
    """Wait for a service that gives these answers, the last one again and again; count them."""
    asked = 0

    def ask(_: Settings) -> Health:
        nonlocal asked
        asked += 1
        return answers[min(asked, len(answers)) - 1]

    switch = wait_until_served(WANTED, settings, before=before, ask=ask, timeout_s=timeout_s)
    return switch, asked


def test_where_no_service_runs_nothing_is_waited_for(settings: Settings, clock: Clock) -> None:
    found = wait(settings, SERVED, before=Health(Presence.ABSENT))
    assert found == (Switch(is_running=False, seconds=0.0, refusal=""), 0)
    assert clock.slept == []


def test_a_release_that_is_served_is_seen_at_once(settings: Settings, clock: Clock) -> None:
    assert wait(settings, SERVED) == (Switch(is_running=True, seconds=0.0), 1)
    assert clock.slept == []


def test_the_service_is_asked_soon_and_then_five_times_a_second(
    settings: Settings, clock: Clock
) -> None:
    switch, asked = wait(settings, *[BEFORE] * 6, SERVED)
    assert clock.slept == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.2, 0.2])
    assert asked == 7
    assert switch == Switch(is_running=True, seconds=pytest.approx(0.7), refusal="")


@pytest.mark.parametrize("served", [("ecg:2", "1"), ("ecg:1", "2"), None])
def test_code_and_model_must_be_those_of_the_release(
    settings: Settings, clock: Clock, served: tuple[str, str] | None
) -> None:
    switch, asked = wait(settings, BEFORE._replace(served=served), SERVED)
    assert (asked, switch.refusal) == (2, "")
    assert clock.slept == [0.02]


def test_a_refusal_is_told_at_once_with_its_reason(settings: Settings, clock: Clock) -> None:
    switch, asked = wait(settings, BEFORE, REFUSED)
    assert switch == (True, pytest.approx(0.02), "golden requests failed")
    assert asked == 2
    assert clock.slept == [0.02]


@pytest.mark.parametrize(
    "before", [BEFORE, BEFORE._replace(refused=("ecg:2", "another reason")), REFUSED]
)
def test_only_the_same_refusal_as_before_is_one_of_an_earlier_attempt(
    settings: Settings, clock: Clock, before: Health
) -> None:
    switch, asked = wait(settings, REFUSED, SERVED, before=before)
    is_waited_for = before is REFUSED
    assert asked == (2 if is_waited_for else 1)
    assert switch.refusal == ("" if is_waited_for else "golden requests failed")
    assert clock.slept == ([0.02] if is_waited_for else [])


def test_the_refusal_of_another_release_is_passed_over(settings: Settings, clock: Clock) -> None:
    other = BEFORE._replace(refused=("ecg:7", "too old"))
    assert wait(settings, other, SERVED)[0].refusal == ""
    assert clock.slept == [0.02]


def test_a_refusal_that_stood_there_counts_after_three_seconds(
    settings: Settings, clock: Clock
) -> None:
    clock.times_s = [1000.0, 1000.0, 1002.9, 1003.0]
    switch, asked = wait(settings, REFUSED, before=REFUSED)
    assert switch == Switch(is_running=True, seconds=3.0, refusal="golden requests failed")
    assert asked == 3


@pytest.mark.parametrize(
    ("presence", "said"),
    [
        (Presence.ABSENT, "the service ended meanwhile"),
        (Presence.SILENT, "the service does not answer"),
        (Presence.ANSWERS, "it was not taken"),
    ],
)
@pytest.mark.parametrize("timeout_s", [5.0, 0.5])
def test_what_was_seen_last_is_said_when_time_is_up(
    settings: Settings, clock: Clock, presence: Presence, said: str, timeout_s: float
) -> None:
    clock.times_s = [1000.0, 1000.0, 1000.0 + timeout_s]
    switch, asked = wait(settings, Health(presence), timeout_s=timeout_s)
    assert switch == (True, timeout_s, f"{said} within {timeout_s:g} s")
    assert asked == 1


def test_without_time_the_service_is_not_asked_again(settings: Settings, clock: Clock) -> None:
    switch, asked = wait(settings, SERVED, before=Health(Presence.SILENT), timeout_s=0.0)
    assert switch == (True, 0.0, "the service does not answer within 0 s")
    assert (asked, clock.slept) == (0, [])


def test_a_release_is_waited_for_ninety_seconds(settings: Settings, clock: Clock) -> None:
    found = wait_until_served(WANTED, settings, before=BEFORE, ask=lambda _: BEFORE)
    assert found == (True, 90.0, "it was not taken within 90 s")
    assert sum(clock.slept) == pytest.approx(90.0, abs=0.2)


class Asked:
    """The requests that are made, answered without a network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer: httpx.Response | Exception = httpx.Response(200, json={})
        self.request: httpx.Request | None = None
        self.options: dict[str, Any] = {}
        client = httpx.Client

        def make(**options: Any) -> httpx.Client:  # noqa: ANN401
            self.options = options
            return client(transport=httpx.MockTransport(self._handle), **options)

        monkeypatch.setattr(switch_service.httpx, "Client", make)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.request = request
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def health(self, settings: Settings, body: object) -> Health:
        self.answer = httpx.Response(200, json=body)
        return ask_service(settings)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


def test_the_service_says_what_it_serves_and_what_it_refused(
    settings: Settings, asked: Asked
) -> None:
    body: dict[str, Any] = {"model_loaded": True, "model": None, "refused": None}
    assert asked.health(settings, body) == Health(Presence.ANSWERS)
    assert asked.health(settings, {"model_loaded": False}) == Health(Presence.ANSWERS)
    body |= {"model": {"bento_tag": "ecg:1", "version": 1}}
    assert asked.health(settings, body) == Health(Presence.ANSWERS, ("ecg:1", "1"))
    body |= {"refused": {"bento_tag": "ecg:2", "reason": "too old"}}
    assert asked.health(settings, body) == (
        Presence.ANSWERS,
        ("ecg:1", "1"),
        ("ecg:2", "too old"),
    )


@pytest.mark.parametrize("body", [[], ["model_loaded"], {}, {"status": "ok"}, None, 7])
def test_another_program_at_the_port_is_silent(
    settings: Settings, asked: Asked, body: object
) -> None:
    assert asked.health(settings, body) == Health(Presence.SILENT)


def test_a_closed_port_means_absent_and_a_slow_one_silent(settings: Settings, asked: Asked) -> None:
    asked.answer = httpx.ConnectError("refused")
    assert ask_service(settings) == Health(Presence.ABSENT)
    asked.answer = httpx.ReadTimeout("slow")
    assert ask_service(settings) == Health(Presence.SILENT)
    asked.answer = httpx.Response(200, text="<html>")
    assert ask_service(settings) == Health(Presence.SILENT)


def test_the_service_has_five_seconds_and_is_asked_past_any_proxy(
    settings: Settings, asked: Asked
) -> None:
    asked.health(settings, {"model_loaded": True})
    assert asked.options == {"timeout": 5.0, "trust_env": False}
    assert asked.request is not None
    assert asked.request.url.path == "/health"
    assert "X-API-Key" not in asked.request.headers
    asked.health(settings.model_copy(update={"api_key": "secret"}), {})
    assert asked.request.headers["X-API-Key"] == "secret"


def test_a_release_is_made_as_of_now() -> None:
    made = make_release(
        bento_tag="ecg:1", model_tag="ecg_bundle:1", bundle_hash="b", code_hash="c",
        model_version="1",
    )  # fmt: skip
    age = datetime.now(UTC) - datetime.fromisoformat(made.released_at)
    assert 0 <= age.total_seconds() < 60


def test_the_release_to_serve_is_read(settings: Settings) -> None:
    assert read_current(settings) is None
    write_release(settings.serving_dir / CURRENT, WANTED)
    assert read_current(settings) == WANTED
