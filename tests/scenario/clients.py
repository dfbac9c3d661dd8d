"""Clients that send predictions to two replicas all the while, as behind a load balancer."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import httpx

_TRY_S: Final = 60.0
"""A request that no replica has answered by then has failed."""
_ANSWER_S: Final = 20.0
_PAUSE_S: Final = 0.2


@dataclass(slots=True)
class Sent:
    """The fate of the requests."""

    answered: list[str] = field(default_factory=list)
    """Prediction ids of the answers with status 201."""
    failed: list[str] = field(default_factory=list)
    """Why requests were given up."""
    tried_again: int = 0
    """Attempts without an answer, after which another replica was asked."""
    by_model: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0

    @property
    def requests(self) -> int:
        """How many requests have ended."""
        return len(self.answered) + len(self.failed)


class Clients:
    """Threads that send one request after the other, from `__enter__` to `__exit__`.

    A request goes to the replicas in turn until one answers; as long as none does, it is tried for
    a minute.
    """

    def __init__(
        self, urls: Sequence[str], bodies: Sequence[dict[str, Any]], *, pace_per_s: float
    ) -> None:
        self.sent = Sent()
        self._urls, self._bodies, self._interval_s = urls, bodies, 2 / pace_per_s
        self._over, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._send_all, args=(n,)) for n in range(2)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _send_all(self, number: int) -> None:
        order = itertools.cycle([*self._urls[number:], *self._urls[:number]])
        with httpx.Client(timeout=_ANSWER_S, trust_env=False) as client:
            for count in itertools.count(number, 2):
                if self._over.wait(self._interval_s):
                    return
                self._send(client, order, self._bodies[count % len(self._bodies)])

    def _send(
        self, client: httpx.Client, order: itertools.cycle[str], body: dict[str, Any]
    ) -> None:
        started_s, problem = time.monotonic(), ""
        while time.monotonic() - started_s < _TRY_S:
            url = next(order)
            try:
                answer = client.post(f"{url}/api/v1/predictions/", json=body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__} of {url}"
            else:
                if answer.status_code == httpx.codes.CREATED:
                    self._note(answer.json(), time.monotonic() - started_s)
                    return
                problem = f"{answer.status_code} of {url}: {answer.text[:200]}"
                if answer.is_client_error:
                    break
            with self._lock:
                self.sent.tried_again += 1
            time.sleep(_PAUSE_S)
        with self._lock:
            self.sent.failed.append(problem)

    def _note(self, answer: dict[str, Any], seconds: float) -> None:
        with self._lock:
            self.sent.answered.append(str(answer["prediction_id"]))
            self.sent.by_model[str(answer["model"]["version"])] += 1
            self.sent.slowest_s = max(self.sent.slowest_s, seconds)
