"""The client of Prefect's API sends a request again while the server's database is locked."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from flows.doors.ui.prefect_api import RetryingTransport


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
