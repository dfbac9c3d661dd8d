"""HTTP client of a Prefect server's API, without an import of Prefect."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import httpx

_PAUSES_S: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Pauses before a request is sent again."""


class RetryingTransport(httpx.BaseTransport):
    """Sends a request again while Prefect answers 503.

    Prefect gives this answer when another connection holds the lock of its database, and its own
    client sends the request again too. On PostgreSQL a connection that is lost looks the same, and
    then the request may have changed something: requests that must not be repeated have the
    extension ``{"repeats": False}``. The last answer is returned as it is.

    Args:
        send: Sends each request.
        sleep: Waits for as many seconds.
    """

    def __init__(
        self, send: httpx.BaseTransport, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._send = send
        self._sleep = sleep

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, up to seven times."""
        for pause_s in _PAUSES_S if request.extensions.get("repeats", True) else ():
            answer = self._send.handle_request(request)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return answer
            answer.close()
            self._sleep(pause_s)
        return self._send.handle_request(request)

    def close(self) -> None:
        """Close the connections."""
        self._send.close()


def open_api(
    url: str, *, auth: tuple[str, str] | None, timeout_s: float = 30.0, repeats: bool = True
) -> httpx.Client:
    """Open a client of a Prefect server; to be used as a context.

    Args:
        url: Of its API, such as ``http://127.0.0.1:4200/api``.
        auth: User and password.
        timeout_s: How long each answer may take.
        repeats: Send a request again, up to seven times in all, while Prefect answers 503.
    """
    send = httpx.HTTPTransport(trust_env=False)
    return httpx.Client(
        base_url=url,
        auth=auth,
        timeout=timeout_s,
        trust_env=False,  # a proxy does not reach loopback
        transport=RetryingTransport(send) if repeats else send,
    )
