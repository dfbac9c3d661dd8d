"""Check requests before they are answered: host, origin, API key and its scopes, rate limit."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from typing import Final

from starlette.types import Scope as Connection

from bentos.routes.routing import note_caller
from bentos.runtime.limits.caller import Caller
from bentos.runtime.predictor import Runtime
from bentos.wire.problems import (
    FOREIGN_HOST,
    FOREIGN_ORIGIN,
    KEY_REQUIRED,
    MISSING_SCOPE,
    REPEATED_HEADER,
    TOO_MANY_REQUESTS,
    ProblemError,
)
from ecg_lib.operations.keys.api_keys import Scope, find_api_key

GUARDED: Final = ("/api/", "/metrics", "/ops/drift/", "/ops/evaluation/")
"""Prefixes of paths that require a key and count as requests; pages without data do not."""

KEY_HEADER: Final = b"x-api-key"
"""Where a client puts its API key."""

_SIGNALS: Final = "/api/v1/ops/rollout/signals"

_SINGLE: Final = (KEY_HEADER, b"host", b"origin", b"content-type", b"content-encoding")
"""Headers of which a proxy and the service might each believe another one."""

_OWN_HOST: Final = re.compile(rb"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d*)?", re.IGNORECASE)
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~-]+)*")


def check_request(runtime: Runtime, scope: Connection) -> None:
    """Check where a request comes from and what it may do, and note its caller.

    Raises
    ------
    ProblemError
        If the request must not be answered.

    """
    _check_repeated(scope)
    headers = dict(scope["headers"])
    _check_host(runtime, scope, headers)
    # Browsers let every page open a WebSocket to every site, and say only whose page it is.
    if _method_of(scope) not in _SAFE_METHODS:
        _check_origin(runtime, headers)
    caller = _find_caller(runtime, scope, headers)
    note_caller(scope, caller, prefix=_find_prefix(runtime, scope))
    if not scope["path"].startswith(GUARDED):
        return
    if runtime.rate_limit is not None and (wait_s := runtime.rate_limit.take(caller.name.encode())):
        limit = runtime.settings.rate_limit_per_min
        raise ProblemError(
            TOO_MANY_REQUESTS,
            f"a client may send {limit} requests a minute; the next one in {wait_s} s",
            retry_after_s=wait_s,
        )
    if caller.asks_keys and caller.key is None:
        raise ProblemError(KEY_REQUIRED, "the header X-API-Key must hold a valid key")
    _check_scope(caller, scope)


def _method_of(scope: Connection) -> str:
    """Return the method of a request; a WebSocket, which has none, sends like a POST."""
    method: str = scope.get("method", "POST")
    return method


def _find_prefix(runtime: Runtime, scope: Connection) -> str:
    """Return the path below which a proxy serves this service, if the proxy is trusted."""
    stated = [value for name, value in scope["headers"] if name == b"x-forwarded-prefix"]
    if len(stated) != 1 or not runtime.settings.trusted_proxies:
        return ""
    prefix = stated[0].decode("latin-1").rstrip("/")
    return prefix if _PREFIX.fullmatch(prefix) and "/.." not in prefix else ""


def _find_caller(runtime: Runtime, scope: Connection, headers: dict[bytes, bytes]) -> Caller:
    keys = runtime.api_keys
    if keys is None:
        return Caller(name=_name_client(scope))
    key = find_api_key(headers.get(KEY_HEADER), keys)
    # A key is one client, whatever address it is used from.
    return Caller(name=key.hash if key else _name_client(scope), key=key, asks_keys=True)


def _check_scope(caller: Caller, scope: Connection) -> None:
    path: str = scope["path"]
    if path.startswith(_SIGNALS) and not caller.may(Scope.LABEL):
        # A part of a patient's signal, of any key: a reader may see it, and an operator alone not.
        raise ProblemError(MISSING_SCOPE, "the API key must have the scopes label and operate")
    if path.startswith("/metrics"):
        wanted = Scope.METRICS
    elif path.startswith(("/api/v1/ops", "/ops/drift/", "/ops/evaluation/")):
        wanted = Scope.OPERATE
    elif path.startswith(("/api/v1/feedback", "/api/v1/review-queue")):
        wanted = Scope.LABEL
    else:
        wanted = Scope.PREDICT
    # An operator reads and deletes what exists, and needs no other scope for it.
    sends_nothing = _method_of(scope) in {*_SAFE_METHODS, "DELETE"}
    may_operate = wanted is Scope.PREDICT and sends_nothing and caller.may(Scope.OPERATE)
    if not caller.may(wanted) and not may_operate:
        raise ProblemError(MISSING_SCOPE, f"the API key must have the scope {wanted}")


def _check_repeated(scope: Connection) -> None:
    """Reject headers that are there twice: a proxy may go by one, and the service by the other."""
    names = [name for name, _ in scope["headers"]]
    for name in _SINGLE:
        if names.count(name) > 1:
            raise ProblemError(
                REPEATED_HEADER, f"the header {name.decode()} must be there at most once"
            )


def _check_host(runtime: Runtime, scope: Connection, headers: dict[bytes, bytes]) -> None:
    """Reject other names of this machine: a page may give its own site our address (DNS rebinding).

    Only where the service is for this machine alone; elsewhere its names are not known, and keys
    guard it. Browsers always send the name.
    """
    host = headers.get(b"host")
    if host is None or _OWN_HOST.fullmatch(host) or runtime.settings.trusted_proxies:
        return
    asked: str = (scope.get("server") or ("",))[0]
    if _is_loopback(runtime.settings.service_host) and _is_loopback(asked):
        raise ProblemError(
            FOREIGN_HOST,
            "a service on a loopback address must be asked as localhost, 127.0.0.1 or [::1]; "
            "behind a proxy on this machine set ECG_TRUSTED_PROXIES",
        )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:  # a name, which the host has resolved, or a socket of another kind
        return address == "localhost"


def _check_origin(runtime: Runtime, headers: dict[bytes, bytes]) -> None:
    """Reject what a page of another site sends: a browser sends forms anywhere without asking."""
    origin = headers.get(b"origin")
    if origin is None or origin.decode("latin-1") in runtime.settings.allowed_origins:
        return
    if origin.partition(b"://")[2] != headers.get(b"host"):
        raise ProblemError(
            FOREIGN_ORIGIN, "pages of other sites may call only if ECG_ALLOWED_ORIGINS names them"
        )


def _name_client(scope: Connection) -> str:
    """Return the address of a client; of IPv6 the network, all of whose addresses it may have."""
    address: str = (scope.get("client") or ("",))[0]
    if ":" in address:
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_network(f"{address}/64", strict=False))
    return address
