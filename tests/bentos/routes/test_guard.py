"""Keys, rate limit and time limit of requests, and the headers of answers for browsers."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from bentos.runtime.limits.rate_limit import RateLimit
from bentos.runtime.live_model import LoadedModel
from bentos.runtime.predictor import Runtime
from ecg_lib.operations.keys.api_keys import add_api_key, read_api_keys
from ecg_lib.operations.settings import Settings

RequestMaker = Callable[..., dict[str, Any]]
Predict = Callable[..., httpx.Response]
Serve = Callable[..., Any]

PREDICTIONS = "/api/v1/predictions/"
SITE = "https://ecg.example.org"


@pytest.fixture
def serve(start_service: Callable[..., Any], toy_model: LoadedModel) -> Iterator[Serve]:
    """Start services with settings of their own."""
    started = []

    def serve(**settings: Any) -> Any:  # noqa: ANN401  the class of a conftest
        service = start_service(**settings)
        service.runtime.live.use(toy_model)
        started.append(service)
        return service

    yield serve
    for service in started:
        service.close()


def check_problem(answered: httpx.Response, status: int, name: str) -> None:
    assert answered.status_code == status, answered.text
    assert answered.headers["content-type"] == "application/problem+json"
    assert answered.json()["type"] == f"/problems/{name}"


# How often.


def test_over_the_limit_is_told_when_to_come_again(
    runtime: Runtime, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "rate_limit", RateLimit(2))
    assert [http.get("/api/v1/model/").status_code for _ in range(3)] == [200, 200, 429]
    refused = http.get("/api/v1/model/")
    check_problem(refused, 429, "too-many-requests")
    assert 1 <= int(refused.headers["retry-after"]) <= 120
    assert http.get("/health").status_code == 200
    assert http.get("/docs").status_code == 200


def test_clients_with_keys_have_a_count_each_and_wrong_keys_count_by_address(
    runtime: Runtime, http: httpx.Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for key in ("one", "two"):
        add_api_key(tmp_path / "keys", key)
    monkeypatch.setattr(runtime, "api_keys", read_api_keys(tmp_path / "keys"))
    monkeypatch.setattr(runtime, "rate_limit", RateLimit(2))

    def ask(key: str) -> int:
        return http.get("/api/v1/model/", headers={"X-API-Key": key}).status_code

    assert [ask("one") for _ in range(3)] == [200, 200, 429]
    assert [ask("two") for _ in range(3)] == [200, 200, 429]
    assert [ask(f"wrong {number}") for number in range(4)] == [401, 401, 429, 429]


def test_a_key_that_is_added_or_taken_back_counts_at_once(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    add_api_key(path, "one")
    service = serve(api_keys_file=path)

    def ask(key: str) -> int:
        status: int = service.http.get("/api/v1/model/", headers={"X-API-Key": key}).status_code
        return status

    assert (ask("one"), ask("two")) == (200, 401)
    lines = path.read_text()
    add_api_key(path, "two")
    service.runtime.refresh()
    assert (ask("one"), ask("two")) == (200, 200)
    path.write_text(path.read_text().removeprefix(lines))
    service.runtime.refresh()
    assert (ask("one"), ask("two")) == (401, 200)
    path.write_text(f"what?\n{path.read_text()}")
    service.runtime.refresh()
    assert (ask("one"), ask("two")) == (401, 200)


@pytest.mark.parametrize("left", [None, "", "# revoked\n", "what?\n"])
def test_without_a_key_in_the_file_no_key_is_accepted(
    serve: Serve, tmp_path: Path, left: str | None
) -> None:
    path = tmp_path / "keys"
    add_api_key(path, "one")
    service = serve(api_keys_file=path)

    def ask(key: str) -> int:
        status: int = service.http.get("/api/v1/model/", headers={"X-API-Key": key}).status_code
        return status

    assert ask("one") == 200
    if left is None:
        path.unlink()
    else:
        path.write_text(left)
    service.runtime.refresh()
    assert ask("one") == 401
    add_api_key(path, "two")
    service.runtime.refresh()
    assert (ask("one"), ask("two")) == (401, 200)


def test_a_file_that_becomes_writable_by_all_accepts_no_key(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    add_api_key(path, "one")
    service = serve(api_keys_file=path)

    def ask() -> int:
        service.runtime.refresh()
        headers = {"X-API-Key": "one"}
        status: int = service.http.get("/api/v1/model/", headers=headers).status_code
        return status

    assert ask() == 200
    path.chmod(0o606)
    assert ask() == 401
    path.chmod(0o600)
    assert ask() == 200


# For how long.


def test_an_answer_that_takes_too_long_is_a_problem(
    serve: Serve, make_request: RequestMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serve(answer_limit_s=0.2)
    release = threading.Event()
    monkeypatch.setattr(service.runtime, "predict", lambda *_, **__: release.wait(10))
    answered = service.predict(**make_request())
    check_problem(answered, 504, "time-limit")
    assert 0.2 <= answered.elapsed.total_seconds() < 2
    release.set()
    monkeypatch.undo()
    assert service.predict(**make_request()).status_code == 201
    assert service.runtime.turns.unfinished == 0


def test_a_body_that_does_not_come_is_a_problem(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bentos.routes.edge.BODY_GRACE_S", 0.2)
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(
            b"POST /api/v1/predictions/ HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        start = time.monotonic()
        answered = connection.recv(65536)
        assert answered.startswith(b"HTTP/1.1 408 ")
        assert b"/problems/body-stalled" in answered + connection.recv(65536)
        assert b"connection: close" in answered.lower()
        assert time.monotonic() - start < 4


def test_more_than_can_wait_is_refused(
    runtime: Runtime,
    predict: Predict,
    make_request: RequestMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime.turns, "unfinished", 64)
    refused = predict(**make_request())
    check_problem(refused, 503, "overloaded")
    assert refused.headers["retry-after"] == "1"


# Headers for browsers.


@pytest.mark.parametrize("path", ["/", "/docs", "/health", "/api/v1/model/", "/nix", "/metrics"])
def test_every_answer_has_the_headers_that_protect_it(http: httpx.Client, path: str) -> None:
    headers = http.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy or "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "script-src" not in policy or "unsafe-inline" not in policy.partition("script-src")[2]
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers


def test_answers_about_patients_are_kept_by_no_cache(
    http: httpx.Client, predict: Predict, make_request: RequestMaker
) -> None:
    answered = predict(**make_request())
    assert answered.headers["cache-control"] == "no-store"
    assert http.get(answered.headers["location"]).headers["cache-control"] == "no-store"


def test_the_scripts_of_the_documentation_are_those_that_its_policy_names(
    http: httpx.Client,
) -> None:
    page = http.get("/docs")
    inline = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert len(inline) == len(re.findall(r"'sha256-", page.headers["content-security-policy"])) == 1


def preflight(http: httpx.Client, origin: str) -> httpx.Response:
    return http.options(
        PREDICTIONS,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,x-api-key",
        },
    )


def test_pages_of_other_sites_may_not_call(http: httpx.Client, make_request: RequestMaker) -> None:
    assert "access-control-allow-origin" not in preflight(http, SITE).headers
    refused = http.post(PREDICTIONS, json=make_request(), headers={"Origin": SITE})
    check_problem(refused, 403, "foreign-origin")
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize(
    "origin", ["null", "http://[x", "http://", "://", "[", "127.0.0.1", "\xff"]
)
def test_an_origin_that_is_none_is_foreign(
    http: httpx.Client, make_request: RequestMaker, origin: str
) -> None:
    refused = http.post(
        PREDICTIONS, json=make_request(), headers={"Origin": origin.encode("latin-1")}
    )
    check_problem(refused, 403, "foreign-origin")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/", "/health", "/metrics", PREDICTIONS])
@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:3000", "localhost.evil.example", "127.0.0.1.nip.io", "", "["],
)
def test_another_name_of_this_machine_is_refused(
    http: httpx.Client, method: str, path: str, host: str
) -> None:
    refused = http.request(method, path, headers={"Host": host, "Origin": f"http://{host}"})
    check_problem(refused, 421, "foreign-host")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:3000", "127.0.0.1", "127.0.0.2:1", "[::1]:3000"]
)
def test_the_names_of_this_machine_are_answered(http: httpx.Client, host: str) -> None:
    assert http.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "settings",
    [{"service_host": "0.0.0.0"}, {"trusted_proxies": "127.0.0.1"}],  # noqa: S104  only said
)
def test_a_service_for_others_has_whatever_name(serve: Serve, settings: dict[str, str]) -> None:
    http = serve(**settings).http
    assert http.get("/health", headers={"Host": "ecg.example.org"}).status_code == 200


def test_own_pages_may_call(http: httpx.Client, url: str, make_request: RequestMaker) -> None:
    answered = http.post(PREDICTIONS, json=make_request(), headers={"Origin": url})
    assert answered.status_code == 201


def test_pages_of_sites_that_the_settings_name_may_call(
    serve: Serve, make_request: RequestMaker
) -> None:
    http = serve(allowed_origins=(SITE,)).http
    allowed = preflight(http, SITE)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == SITE
    assert "access-control-allow-credentials" not in allowed.headers
    answered = http.post(PREDICTIONS, json=make_request(), headers={"Origin": SITE})
    assert answered.status_code == 201
    assert answered.headers["access-control-allow-origin"] == SITE
    exposed = set(answered.headers["access-control-expose-headers"].split(", "))
    assert exposed == {
        "Location", "Retry-After", "X-Request-ID",
        "X-ECG-Kind", "X-ECG-Start-S", "X-ECG-Step-S", "X-ECG-Points",
    }  # fmt: skip
    check_problem(
        http.post(PREDICTIONS, json=make_request(), headers={"Origin": "https://evil.example"}),
        403,
        "foreign-origin",
    )
    assert "access-control-allow-origin" not in preflight(http, "https://evil.example").headers


@pytest.mark.parametrize("origins", ["*", "ecg.example.org", "https://a.org/path", "https://*.org"])
def test_origins_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, origins: str) -> None:
    monkeypatch.setenv("ECG_ALLOWED_ORIGINS", origins)
    with pytest.raises(ValueError, match="allowed_origins"):
        Settings()


def test_origins_are_given_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECG_ALLOWED_ORIGINS", f"{SITE},http://127.0.0.1:8080")
    assert Settings().allowed_origins == (SITE, "http://127.0.0.1:8080")
