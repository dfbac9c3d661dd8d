"""Requests that a page of another site can make a browser send."""

from __future__ import annotations

from typing import Any

import pytest

ORIGINS = [
    "https://evil.example", "http://evil.example:3000", "null", "file://", "http://localhost.evil",
    "http://127.0.0.1.evil.example", "https://127.0.0.1", "http://user@evil.example", "", "//",
    "http://[::1]:1", "chrome-extension://abc",
]  # fmt: skip
ROUTES = [
    "/api/v1/predictions/",
    "/api/v1/predictions",
    "/api/v1/feedback/",
    "/api/v1/recordings/",
    "/api/v1/signals/",
]


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("path", ROUTES)
def test_a_page_of_another_site_sends_nothing(open_service: Any, origin: str, path: str) -> None:  # noqa: ANN401  of a conftest
    answered = open_service.ask(
        "POST", path, headers={"Origin": origin, "Content-Type": "text/plain"}, content=b"{}"
    )
    assert (answered.status_code, answered.json()["type"]) == (403, "/problems/foreign-origin")
    assert not any(name.startswith("access-control-") for name in answered.headers)


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("path", ["/api/v1/model/", "/health", "/metrics"])
def test_a_page_of_another_site_reads_nothing(open_service: Any, origin: str, path: str) -> None:  # noqa: ANN401  of a conftest
    answered = open_service.ask("GET", path, headers={"Origin": origin})
    assert not any(name.startswith("access-control-") for name in answered.headers)
    assert answered.headers["cross-origin-resource-policy"] == "same-origin"


HOSTS = [
    "evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "0",
    "2130706433", "0x7f000001", "127.1", "localhost:3000@evil.example", "[::ffff:7f00:1]",
    "127.0.0.1:80:80", "",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("path", ["/", "/api/v1/model/", "/metrics"])
def test_a_rebound_name_is_not_answered(open_service: Any, host: str, path: str) -> None:  # noqa: ANN401  of a conftest
    answered = open_service.ask("GET", path, headers={"Host": host})
    assert (answered.status_code, answered.json()["type"]) == (421, "/problems/foreign-host")


PAYLOADS = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "javascript:alert(1)",
    "{{7*7}}", "${7*7}", "'-alert(1)-'",
]  # fmt: skip


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize(
    "path",
    [
        "/{}",
        "/api/v1/examples/{}",
        "/api/v1/predictions/{}",
        "/api/v1/recordings/{}",
        "/api/v1/recordings/x/signal?max_points={}",
        "/api/v1/recordings/x/result?format={}",
    ],
)
def test_what_a_client_writes_is_never_a_page(open_service: Any, payload: str, path: str) -> None:  # noqa: ANN401  of a conftest
    answered = open_service.ask("GET", path.format(payload))
    assert answered.status_code in {404, 422}
    assert answered.headers["content-type"] == "application/problem+json"
    assert answered.headers["x-content-type-options"] == "nosniff"
    assert "49" not in answered.json()["detail"]
    assert payload not in answered.text


@pytest.mark.parametrize("value", ["a\tb", "<script>", "x" * 65, "é", "a b", '"', "a;b", "../x"])
def test_a_request_id_that_is_not_one_is_replaced(open_service: Any, value: str) -> None:  # noqa: ANN401  of a conftest
    answered = open_service.ask("GET", "/health", headers={"X-Request-ID": value.encode("latin-1")})
    assert len(answered.headers["x-request-id"]) == 32


@pytest.mark.parametrize("path", ["/viewer", "/api/v1/model", "/api/v1/predictions", "/docs/"])
def test_no_redirect_names_the_host_that_was_sent(serve: Any, path: str) -> None:  # noqa: ANN401  of a conftest
    service = serve(trusted_proxies="127.0.0.1")
    answered = service.ask("GET", path, headers={"Host": "evil.example"})
    assert "evil.example" not in answered.headers.get("location", "")
    assert answered.status_code in {200, 404, 405}
