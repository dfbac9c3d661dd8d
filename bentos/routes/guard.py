"""Who may ask, and how often: API keys, the rate limit, and pages of other sites."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from typing import Final

from starlette.types import Scope

from bentos.runtime.predictor import Runtime
from bentos.wire.problems import (
    FOREIGN_HOST,
    FOREIGN_ORIGIN,
    KEY_REQUIRED,
    TOO_MANY_REQUESTS,
    ProblemError,
)
from ecg_lib.operations.api_keys import hash_api_key, is_accepted

GUARDED: Final = ("/api/", "/metrics")
"""Begin of the paths that ask for a key and count; pages and /health do not."""

KEY_HEADER: Final = b"x-api-key"
"""Where a client puts its API key."""

_OWN_HOST: Final = re.compile(rb"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d*)?", re.IGNORECASE)
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def check_request(runtime: Runtime, scope: Scope) -> None:
    """Check who asks, and how often.

    Raises
    ------
    ProblemError
        If the request is not to be answered.

    """
    headers = dict(scope["headers"])
    _check_host(runtime, scope, headers)
    if scope["method"] not in _SAFE_METHODS:
        _check_origin(runtime, headers)
    if not scope["path"].startswith(GUARDED):
        return
    key, client = headers.get(KEY_HEADER), _name_client(scope)
    needs_key = runtime.api_keys is not None
    is_known = runtime.api_keys is not None and is_accepted(key, runtime.api_keys)
    if key is not None and is_known:
        client = hash_api_key(key).encode()  # wherever it is used
    if runtime.rate_limit is not None and (wait_s := runtime.rate_limit.take(client)):
        limit = runtime.settings.rate_limit_per_min
        raise ProblemError(
            TOO_MANY_REQUESTS,
            f"a client may send {limit} requests a minute; the next one in {wait_s} s",
            retry_after_s=wait_s,
        )
    if needs_key and not is_known:
        raise ProblemError(KEY_REQUIRED, "the header X-API-Key must hold a valid key")


def _check_host(runtime: Runtime, scope: Scope, headers: dict[bytes, bytes]) -> None:
    """Refuse other names of this machine: a page may give its own site our address (DNS rebinding).

    Only where the service is for this machine alone; elsewhere its names are not known, and keys
    guard it. Browsers always say whom they ask.
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
    """Refuse what a page of another site sends: a browser sends forms anywhere without asking."""
    origin = headers.get(b"origin")
    if origin is None or origin.decode("latin-1") in runtime.settings.allowed_origins:
        return
    if origin.partition(b"://")[2] != headers.get(b"host"):
        raise ProblemError(
            FOREIGN_ORIGIN, "pages of other sites may call only if ECG_ALLOWED_ORIGINS names them"
        )


def _name_client(scope: Scope) -> bytes:
    """The address of a client; of IPv6 the network, of which a client has all addresses."""
    address: str = (scope.get("client") or ("",))[0]
    if ":" in address:
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_network(f"{address}/64", strict=False)).encode()
    return address.encode()
