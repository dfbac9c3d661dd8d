"""Logs as JSON, one object a line, with the id of the request that a line belongs to.

What an exception says may quote the request, and nothing of a signal or a patient may be in a log:
so of an exception that is not one of our own only its type and where it arose are written.
"""

from __future__ import annotations

import contextvars
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from ecg_lib.errors import EcgError

ACCESS_LOGGER: Final = "bentos.access"

request_id: Final[contextvars.ContextVar[str | None]] = contextvars.ContextVar(
    "request_id", default=None
)
"""Id of the request that is being answered."""


class JsonFormatter(logging.Formatter):
    """Writes a record as a JSON object; what is passed as ``extra={"fields": ...}`` joins it."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if (current := request_id.get()) is not None:
            line.setdefault("request_id", current)
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = _describe(record.exc_info[1])
        return orjson.dumps(line, default=str).decode()


def _describe(error: BaseException) -> dict[str, Any]:
    described: dict[str, Any] = {
        "type": type(error).__qualname__,
        "stack": [
            f"{frame.name} ({frame.filename.rpartition('/')[2]}:{frame.lineno})"
            for frame in traceback.extract_tb(error.__traceback__)
        ],
    }
    if isinstance(error, EcgError):
        described["message"] = str(error)
    if error.__cause__ is not None:
        described["cause"] = _describe(error.__cause__)
    return described


def set_up_logging() -> None:
    """Send all logs to standard error, and the access log to standard output."""
    # Each record would look for what JsonFormatter does not write.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001  so says the HOWTO of logging, "Optimization"
    errors, accesses = logging.StreamHandler(), logging.StreamHandler(sys.stdout)
    for handler in (errors, accesses):
        handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[errors], force=True)
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns of each malformed form; the access log has those.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    access = logging.getLogger(ACCESS_LOGGER)
    access.handlers = [accesses]
    access.propagate = False
