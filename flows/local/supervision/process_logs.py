"""The log file of a process: its end for error messages, and a bound on its size."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

_TAIL_LINES: Final = 15
_MAX_LOG_BYTES: Final = 64 * 2**20
"""A larger log is set aside and replaces the one that was set aside before."""


def bound_log(log: Path) -> None:
    """Set a large log aside; lines written between the copy and the cut are lost."""
    if not log.exists() or log.stat().st_size <= _MAX_LOG_BYTES:
        return
    try:
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    except OSError as error:  # a full disk needs the cut all the more
        logger.warning("%s cannot be set aside: %s", log.name, error.strerror)
    os.truncate(log, 0)


def quote_end(log: Path) -> str:
    """Quote the last lines of a log, for an error message."""
    if not log.exists():
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    return "\n".join([f"; the end of {log}:", *(f"  | {line}" for line in lines)])
