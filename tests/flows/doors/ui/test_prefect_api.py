"""The client of Prefect's API sends a request again while the server's database is locked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flows.doors.ui import prefect_api
from flows.doors.ui.deployments import put_automations
from flows.doors.ui.prefect_api import RetryingTransport, open_api


def client_of(statuses: Iterator[int], seen: list[bytes], pauses: list[float]) -> httpx.Client:
    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.content)
        return httpx.Response(next(statuses))

    transport = RetryingTransport(httpx.MockTransport(answer), sleep=pauses.append)
    return httpx.Client(base_url="http://prefect.test", transport=transport)


def test_a_request_is_sent_again_with_its_body_while_the_database_is_locked() -> None:
    seen: list[bytes] = []
    pauses: list[float] = []
    with client_of(iter([503, 503, 201]), seen, pauses) as client:
        assert client.post("/flow_runs/", json={"n": 1}).status_code == 201
    assert seen == [b'{"n":1}'] * 3
    assert pauses == [0.1, 0.2]


def test_a_lasting_503_is_returned_after_seven_requests() -> None:
    seen: list[bytes] = []
    pauses: list[float] = []
    with client_of(iter([503] * 8), seen, pauses) as client:
        assert client.get("/flow_runs/").status_code == 503
    assert len(seen) == 7
    assert sum(pauses) == pytest.approx(6.3)


@pytest.mark.parametrize("status", [200, 404, 409, 422, 500, 502, 504])
def test_other_answers_are_returned_at_once(status: int) -> None:
    seen: list[bytes] = []
    with client_of(iter([status]), seen, []) as client:
        assert client.get("/flow_runs/").status_code == status
    assert len(seen) == 1


def test_a_request_that_must_not_be_repeated_is_sent_once() -> None:
    seen: list[bytes] = []
    with client_of(iter([503]), seen, []) as client:
        answer = client.post("/automations/", json={}, extensions={"repeats": False})
    assert answer.status_code == 503
    assert len(seen) == 1


@pytest.mark.parametrize(("repeats", "status", "asked"), [(True, 200, 2), (False, 503, 1)])
def test_a_client_repeats_unless_it_is_told_not_to(
    monkeypatch: pytest.MonkeyPatch, *, repeats: bool, status: int, asked: int
) -> None:
    answers = [503, 200]
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(answers[len(seen) - 1])

    made: list[bool] = []

    def make(*, trust_env: bool) -> httpx.MockTransport:
        made.append(trust_env)
        return httpx.MockTransport(answer)

    monkeypatch.setattr(prefect_api.httpx, "HTTPTransport", make)
    with open_api("http://prefect.test/api", auth=None, repeats=repeats) as client:
        assert client.get("/health").status_code == status
    assert seen == ["http://prefect.test/api/health"] * asked
    assert made == [False]


def test_certificates_of_the_environment_are_not_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    open_api("http://127.0.0.1:9/api", auth=None).close()


@pytest.mark.parametrize("was_made", [True, False])
def test_an_automation_whose_request_failed_is_made_once(
    monkeypatch: pytest.MonkeyPatch, *, was_made: bool
) -> None:
    """Prefect answers 503 also when the connection to its database is lost after the change."""
    monkeypatch.setattr("flows.doors.ui.deployments.time.sleep", lambda _: None)
    made: list[str] = []
    asked = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        if request.url.path.endswith("/deployments/filter"):
            return httpx.Response(200, json=[{"name": "monitor-drift", "id": "x"}])
        if request.url.path.endswith("/automations/filter"):
            return httpx.Response(200, json=[{"name": name, "id": name} for name in made])
        asked += 1
        if asked > 1 or was_made:
            made.append(json.loads(request.content)["name"])
        return httpx.Response(503 if asked == 1 else 201)

    transport = RetryingTransport(httpx.MockTransport(answer))
    with httpx.Client(base_url="http://prefect.test/api", transport=transport) as client:
        put_automations(client)
    assert len(made) == len(set(made)) == 2
    assert asked == 2 + (not was_made)
