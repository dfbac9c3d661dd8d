"""Send what nobody should send to a running service, and look whether it still answers.

After each case ``/health`` is asked: it must answer 200 in time. A case fails when its answer is a
5xx, does not come, or when the connection ends without one (unless it was not HTTP). Recordings
that were taken are removed again, so that the fuzzing does not become an analysis of ECG.
"""

from __future__ import annotations

import json
import random
import re
import socket
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from fuzz_inputs import Case, draw_case

ANSWER_S: Final = 60.0
RAW_S: Final = 0.5
_HEALTH: Final = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_MAX_SHOWN: Final = 20


@dataclass(slots=True)
class FuzzReport:
    """The requests that were sent, their answers, and the failures."""

    cases: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        """Describe it for a file."""
        return {
            "cases": sum(self.cases.values()),
            "by_kind": dict(sorted(self.cases.items())),
            "by_status": dict(sorted(self.statuses.items())),
            "n_failures": len(self.failures),
            "failures": self.failures[:_MAX_SHOWN],
        }


def fuzz_http(port: int, *, cases: int, seed: int) -> FuzzReport:
    """Send cases to the service on a port of this machine.

    Raises
    ------
    OSError
        If it no longer answers ``/health``; the last failure says after which request.

    """
    rng = random.Random(seed)  # noqa: S311  nothing secret
    report = FuzzReport()
    for number in range(cases):
        case = draw_case(rng)
        report.cases[case.kind] += 1
        answered = _send(port, case)
        status = _status_of(answered)
        report.statuses[f"{case.kind} {status}"] += 1
        reason = _find_fault(case, status)
        if reason is not None:
            report.failures.append(
                {"number": number, "kind": case.kind, "reason": reason, **_show(case, answered)}
            )
        if case.kind == "recording" and status == 202:
            _remove(port, answered)
        _require_health(port, report, case, number)
    return report


def _send(port: int, case: Case) -> bytes | None:
    """Send a case over a connection of its own; None when no answer comes in time."""
    limit_s = RAW_S if case.may_close else ANSWER_S
    answer = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=limit_s) as connection:
        try:
            connection.sendall(case.request)
            while not _is_whole(answer):
                piece = connection.recv(1 << 18)
                if not piece:
                    break
                answer += piece
        except TimeoutError:
            return None
        except ConnectionError:
            pass
    return bytes(answer)


def _is_whole(answer: bytearray) -> bool:
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    length = _LENGTH.search(answer, 0, end)
    if length is None:
        return answer.endswith(b"0\r\n\r\n") or answer[9:12] in {b"204", b"304"}
    return len(answer) >= end + 4 + int(length[1])


def _status_of(answered: bytes | None) -> int | None:
    """Status of an answer; 0 for a connection that ended without one, None for no answer."""
    if answered is None:
        return None
    return int(answered[9:12]) if answered.startswith(b"HTTP/1.") else 0


def _find_fault(case: Case, status: int | None) -> str | None:
    if status is not None and status >= 500:
        return f"it was answered with {status}"
    if case.may_close:
        return None  # a request that is not whole waits for its rest
    if status is None:
        return f"no answer came within {ANSWER_S:g} s"
    return "the connection ended without an answer" if status == 0 else None


def _show(case: Case, answered: bytes | None) -> dict[str, str]:
    shown = case.request[:400] + (b" ... " if len(case.request) > 400 else b"")
    return {"request": repr(shown), "answer": repr((answered or b"")[-400:])}


def _remove(port: int, answered: bytes | None) -> None:
    job = json.loads((answered or b"").partition(b"\r\n\r\n")[2])
    path = f"/api/v1/recordings/{job['job_id']}"
    request = f"DELETE {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    _send(port, Case("delete", request))


def _require_health(port: int, report: FuzzReport, case: Case, number: int) -> None:
    answered = _send(port, Case("health", _HEALTH))
    status = _status_of(answered)
    if status != 200:
        reason = f"/health was answered with {status} after it"
        report.failures.append(
            {"number": number, "kind": case.kind, "reason": reason, **_show(case, answered)}
        )
