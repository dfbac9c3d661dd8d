"""The gate in front of a small application; the real servers are in test_platform."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from flows.local.servers.gate import CHECK, SIGN_IN, Credentials, Gate

OURS = Credentials(user="ecg", password="s3:crèt")  # noqa: S106  of this test
LOGIN = {"Authorization": "Basic " + base64.b64encode(b"ecg:s3:cr\xc3\xa8t").decode()}
VISIT = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request with "ok", and accept every WebSocket."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


class _Client:
    """Calls a gate in this process."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  options of the gate
        self._gate = Gate(_app, credentials=OURS, **{"port": 5000, **options})

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return asyncio.run(self._send("GET", path, headers))

    def post(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return asyncio.run(self._send("POST", path, headers))

    def is_own(self, host: str, origin: str) -> bool:
        headers = LOGIN | {"Host": host, "Origin": origin}
        answers = {self.post("/", headers=headers).status_code}
        answers.add(200 if self.opens_websocket(headers) else 403)
        assert len(answers) == 1
        return answers == {200}

    async def _send(self, method: str, path: str, headers: dict[str, str] | None) -> httpx.Response:
        transport = httpx.ASGITransport(self._gate)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:5000"
        ) as client:
            return await client.request(method, path, headers=headers)

    def opens_websocket(self, headers: dict[str, str]) -> bool:
        sent = []

        async def send(message: Any) -> None:  # noqa: ANN401  ASGI
            sent.append(message["type"])

        async def receive() -> dict[str, str]:
            return {"type": "websocket.connect"}

        scope = {
            "type": "websocket",
            "path": "/socket",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
        asyncio.run(self._gate(scope, receive, send))
        return sent == ["websocket.accept"]


def test_a_request_without_credentials_is_challenged() -> None:
    answer = _Client().get("/")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic ")


def test_a_request_with_credentials_reaches_the_application() -> None:
    assert _Client().get("/", headers=LOGIN).text == "ok"
    assert _Client().post("/", headers=LOGIN).text == "ok"


@pytest.mark.parametrize(
    "header",
    ["", "Basic", "Basic !", "Basic ZWNn", "Bearer x", "Basic =========", "Basic ZWNnOg=="],
)
def test_a_wrong_login_is_challenged(header: str) -> None:
    assert _Client().get("/", headers={"Authorization": header}).status_code == 401


def test_health_is_open_to_reading_only() -> None:
    assert _Client().get("/health").status_code == 200
    assert _Client().post("/health").status_code == 401


def test_an_application_that_checks_the_login_itself_is_reached_without_one() -> None:
    assert _Client(app_authenticates=True).get("/").text == "ok"


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/%64ocs", "/redoc"])
def test_the_description_of_its_api_needs_a_login_all_the_same(path: str) -> None:
    client = _Client(app_authenticates=True)
    assert client.get(path).status_code == 401
    assert client.get(path, headers=LOGIN).status_code == 200


def test_the_check_confirms_a_login_and_the_sign_in_page_is_open() -> None:
    client = _Client(app_authenticates=True)
    assert client.get(CHECK).status_code == 401
    assert client.get(CHECK, headers=LOGIN).status_code == 204
    page = client.get(SIGN_IN)
    assert page.status_code == 200
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert "script-src 'sha256-" in page.headers["content-security-policy"]
    assert _Client().post(SIGN_IN).status_code == 401


def test_credentials_do_not_show_their_password() -> None:
    assert "s3" not in repr(OURS) + str(OURS) + f"{OURS}"


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example:5000", "127.0.0.1", "127.0.0.1:5001", "127.0.0.1:5000.evil.example", ""),
        *("127.0.0.1:5000@evil.example", "127.0.0.1.:5000", "2130706433:5000"),
    ],
)
def test_a_foreign_host_name_is_refused(host: str) -> None:
    answer = _Client().get("/health", headers=LOGIN | {"Host": host})
    assert answer.status_code == 403
    assert answer.text.startswith("the Host header must be an address of this server;")


@pytest.mark.parametrize("host", ["LOCALHOST:5000", "[::1]:5000", "127.0.0.1:5000"])
def test_every_name_of_this_machine_is_accepted(host: str) -> None:
    assert _Client().get("/health", headers={"Host": host}).status_code == 200


def test_a_further_name_is_accepted_when_it_was_given() -> None:
    host = {"Host": "mlflow:5000"}
    assert _Client().get("/health", headers=host).status_code == 403
    assert _Client(names=("mlflow",)).get("/health", headers=host).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "null", "https://127.0.0.1:5000", "http://127.0.0.1:5001"),
        *("http://localhost:5000", ""),
    ],
)
def test_a_foreign_origin_is_refused_over_http_and_websocket(origin: str) -> None:
    client = _Client(app_authenticates=True)
    headers = LOGIN | {"Origin": origin}
    assert client.post("/x", headers=headers).status_code == 403
    assert not client.opens_websocket({"Host": "127.0.0.1:5000"} | headers)


def test_the_own_origin_is_accepted() -> None:
    headers = LOGIN | {"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:5000"}
    assert _Client().post("/", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("options", "headers", "is_open"),
    [
        ({"app_authenticates": True}, {}, True),
        ({}, {}, False),
        ({}, LOGIN, True),
        ({}, LOGIN | {"Host": "evil.example:5000"}, False),
    ],
)
def test_a_websocket_passes_the_same_checks(
    options: dict[str, Any], headers: dict[str, str], *, is_open: bool
) -> None:
    client = _Client(**options)
    assert client.opens_websocket({"Host": "127.0.0.1:5000", **headers}) is is_open


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_foreign_page_may_link_to_the_server_and_do_nothing_else(site: str) -> None:
    headers = LOGIN | VISIT | {"Sec-Fetch-Site": site}
    assert _Client().get("/", headers=headers).status_code == 200
    assert _Client().get("/", headers=headers | {"Sec-Fetch-Dest": "iframe"}).status_code == 403
    assert _Client().get("/", headers=headers | {"Sec-Fetch-Mode": "no-cors"}).status_code == 403
    assert _Client().post("/", headers=headers).status_code == 403


def test_pages_stay_out_of_foreign_frames_and_call_no_other_site() -> None:
    answer = _Client().get("/", headers=LOGIN)
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert answer.headers["content-security-policy"] == "connect-src 'self' data: blob:"


def test_port_80_is_left_out_of_a_host_header() -> None:
    assert _Client(port=80).get("/health", headers={"Host": "127.0.0.1"}).status_code == 200
    assert _Client(port=80).get("/health", headers={"Host": "evil.example"}).status_code == 403


PUBLIC = ("https://ecg.example", "https://ml.example:8443")


@pytest.mark.parametrize(
    ("host", "origin", "is_own"),
    [
        ("ecg.example", "https://ecg.example", True),
        ("ECG.example", "https://ECG.example", True),
        ("ml.example:8443", "https://ml.example:8443", True),
        ("127.0.0.1:5000", "http://127.0.0.1:5000", True),
        ("ecg.example", "http://ecg.example", False),
        ("ecg.example", "https://ml.example:8443", False),
        ("ecg.example", "https://ecg.example.evil.example", False),
        ("ecg.example:443", "https://ecg.example", False),
        ("ml.example", "https://ml.example", False),
        ("127.0.0.1:5000", "https://ecg.example", False),
        ("evil.example", "https://evil.example", False),
    ],
)
def test_the_public_origin_of_a_proxy_with_tls_is_accepted_for_its_own_host(
    host: str, origin: str, *, is_own: bool
) -> None:
    assert _Client(public_origins=PUBLIC).is_own(host, origin) is is_own
    # Nothing is public unless it was set.
    assert _Client().is_own(host, origin) is (is_own and host.startswith("127"))


def test_a_page_of_another_site_does_nothing_to_a_public_origin() -> None:
    client = _Client(public_origins=PUBLIC)
    for headers in (
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
    ):
        assert (
            client.post("/", headers=LOGIN | {"Host": "ecg.example"} | headers).status_code == 403
        )


def test_wrong_logins_are_reported_once_a_minute_and_never_with_what_was_tried(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr("flows.local.servers.gate.time.monotonic", lambda: now_s)
    client = _Client()
    for _ in range(50):
        client.get("/", headers={"Authorization": "Basic ZWNnOmd1ZXNz"})
    now_s += 61
    client.get(CHECK, headers={"Authorization": "Basic ZWNnOmd1ZXNz"})
    client.get("/")
    assert [one.getMessage() for one in caplog.records] == [
        "requests with a wrong login: 1 since the start",
        "requests with a wrong login: 51 since the start",
    ]
