"""An ASGI gate that decides which requests reach the server behind it.

Every web page in the person's browser and every other user of the machine can connect to a server
on loopback. The gate passes a request on if

- its Host header is a known address of the server (this stops DNS rebinding),
- it was not sent by a page of another site (HTTP and WebSocket), and
- it carries the credentials, unless the server behind the gate checks them itself.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

logger = logging.getLogger(__name__)

SIGN_IN: Final = "/ecg-sign-in"
"""Page that reads the credentials from the fragment (after ``#``) of its own address."""
CHECK: Final = "/ecg-check"
"""Answers 204 to valid credentials. It is in the root, so that the browser reuses them for all."""
OWN_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
"""Names of this machine that a Host header may use."""

# Another port of the same host counts as the same site, so "same-site" is foreign too.
_FOREIGN_SITES: Final = ("cross-site", "same-site")

# Prefect's page reports each visit to amplitude.com, whatever its settings say.
_CONNECT_POLICY: Final = b"connect-src 'self' data: blob:"

_REPORT_S: Final = 60.0

FIRST_MESSAGE_S: Final = 30.0
"""Time in which a WebSocket without credentials must send its first message, which has them."""

DESCRIPTIONS: Final = frozenset({"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"})
"""Paths of FastAPI that no page needs before the login; Prefect takes seconds to make the first."""

_PAGE: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Sign in</title>
<p id="message">Signing in</p><script>%s</script></html>"""
# The fragment of an address is sent to no server, and appears in no log and no Referer header.
_SCRIPT: Final = """
const login = decodeURIComponent(location.hash.slice(1));
history.replaceState(null, "", location.pathname);
const key = %s, colon = login.indexOf(":");
const request = new XMLHttpRequest();
request.open("GET", "%s", true, login.slice(0, colon), login.slice(colon + 1));
request.onloadend = () => {
  if (request.status !== 204) {
    document.getElementById("message").textContent =
      "This server does not accept these credentials.";
    return;
  }
  if (key) localStorage.setItem(key, btoa(login));
  location.replace("/");
};
request.send();
"""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Credentials:
    """A user name and a password."""

    user: str
    password: str

    def __repr__(self) -> str:
        """Leave the password out, so that it cannot reach a log."""
        return f"credentials of {self.user}"

    @property
    def login(self) -> str:
        """``user:password``, the form of HTTP Basic and of Prefect's settings."""
        return f"{self.user}:{self.password}"

    def match(self, authorization: str | None) -> bool:
        """Compare with an Authorization header, in constant time."""
        scheme, _, encoded = (authorization or "").partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(given, self.login.encode())


class Gate:
    """An ASGI application in front of another one.

    Args:
        app: The application behind the gate.
        credentials: What a request must carry.
        port: The port of the server, as clients see it.
        app_authenticates: Whether the application checks the credentials at every route and
            WebSocket itself. The gate then leaves that check to it, apart from descriptions of the
            API, and bounds the time until a WebSocket's first message.
        local_storage_key: Key of the browser's localStorage where the application's own page looks
            for the credentials.
        open_paths: Paths that answer GET without credentials.
        names: Host names that a request may use.
        public_origins: Addresses of proxies with TLS in front of the server, as a browser names
            them: ``https://host`` or ``https://host:port``. A proxy must pass the Host header on.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        credentials: Credentials,
        port: int,
        app_authenticates: bool = False,
        local_storage_key: str | None = None,
        open_paths: frozenset[str] = frozenset({"/health"}),
        names: tuple[str, ...] = OWN_NAMES,
        public_origins: tuple[str, ...] = (),
    ) -> None:
        self._app = app
        self._credentials = credentials
        self._app_authenticates = app_authenticates
        self._open_paths = open_paths
        own = [f"http://{name}:{port}" for name in names]
        if port == 80:  # browsers leave the default port out
            own += [f"http://{name}" for name in names]
        origins = [origin.lower() for origin in (*own, *public_origins)]
        self._origins = {origin.partition("://")[2]: origin for origin in origins}
        self._sign_in = _make_sign_in_page(local_storage_key)
        self._wrong_logins = 0
        self._reported_s = float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if (answer := self._answer(scope, headers)) is None:
            if scope["type"] == "websocket" and self._app_authenticates:
                receive = _bound_first_message(receive)
            await self._app(scope, receive, _confine(send))
        elif scope["type"] == "http":
            await answer(scope, receive, send)
        else:
            await WebSocketClose()(scope, receive, send)  # not accepted yet: HTTP 403

    def _answer(self, scope: Scope, headers: Headers) -> Response | None:
        """Make the gate's own answer; None passes the request on."""
        if (refusal := _refuse_origin(scope, headers, origins=self._origins)) is not None:
            logger.warning("refused %s: %s", scope["path"].encode("unicode_escape"), refusal)
            return PlainTextResponse(f"{refusal}\n", status_code=403)
        is_read = scope["type"] == "http" and scope["method"] in {"GET", "HEAD"}
        if is_read and scope["path"] == SIGN_IN:
            return self._sign_in
        authorization = headers.get("authorization")
        is_authenticated = self._credentials.match(authorization)
        if authorization is not None and not is_authenticated:
            self._note_wrong_login()
        if is_read and scope["path"] == CHECK:
            return Response(status_code=204) if is_authenticated else _challenge()
        is_open = is_read and scope["path"] in self._open_paths
        is_checked_later = self._app_authenticates and scope["path"] not in DESCRIPTIONS
        if is_checked_later or is_authenticated or is_open:
            return None
        return _challenge()

    def _note_wrong_login(self) -> None:
        """Log wrong logins, once a minute at most.

        They are not slowed down: a password of 256 random bits is not guessed, and every user of
        the machine has the same address, so that a limit would lock the owner out.
        """
        self._wrong_logins += 1
        now_s = time.monotonic()
        if now_s - self._reported_s >= _REPORT_S:
            logger.warning("requests with a wrong login: %d since the start", self._wrong_logins)
            self._reported_s = now_s


def _refuse_origin(scope: Scope, headers: Headers, *, origins: Mapping[str, str]) -> str | None:
    """Return why a request may come from a foreign page; None if it does not."""
    named = headers.getlist("host")
    if len(named) != 1 or (own := origins.get(named[0].lower())) is None:
        return (
            "the Host header must be an address of this server; behind a proxy with TLS, set "
            "ECG_PUBLIC_ORIGINS to the address in the browser"
        )
    is_foreign = any(origin.lower() != own for origin in headers.getlist("origin"))
    if headers.get("sec-fetch-site") in _FOREIGN_SITES and not _is_navigation(scope, headers):
        is_foreign = True
    return "the request must not come from a page of another site" if is_foreign else None


def _is_navigation(scope: Scope, headers: Headers) -> bool:
    """Return whether a person follows a link to the server; a GET changes nothing there."""
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


def _challenge() -> Response:
    return PlainTextResponse(
        "this server needs credentials; `ecg login` shows a link that signs in\n",
        status_code=401,
        headers={"WWW-Authenticate": 'Basic realm="ecg", charset="UTF-8"'},
    )


def _make_sign_in_page(local_storage_key: str | None) -> Response:
    script = _SCRIPT % (json.dumps(local_storage_key), CHECK)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    return HTMLResponse(
        _PAGE % script,
        headers={
            "Cache-Control": "no-store",
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
        },
    )


def _bound_first_message(receive: Receive) -> Receive:
    """End a WebSocket, as if its client had left, when its first message does not come soon."""
    received = 0

    async def receive_bounded() -> Message:
        nonlocal received
        received += 1
        if received != 2:  # the first is that the client connects
            return await receive()
        try:
            async with asyncio.timeout(FIRST_MESSAGE_S):
                return await receive()
        except TimeoutError:
            return {"type": "websocket.disconnect", "code": 1008, "reason": "no credentials came"}

    return receive_bounded


def _confine(send: Send) -> Send:
    """Keep the application's pages out of foreign frames, and from calling other sites."""

    async def send_confined(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            if not any(name.lower() == b"x-frame-options" for name, _ in headers):
                headers.append((b"x-frame-options", b"SAMEORIGIN"))
            headers.append((b"content-security-policy", _CONNECT_POLICY))
            message = {**message, "headers": headers}
        await send(message)

    return send_confined
