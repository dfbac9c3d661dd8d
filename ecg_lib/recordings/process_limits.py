"""Limits of processes that analyse signals, for the service and the command line alike.

No other module of ours is imported here, so that the environment can be set before NumPy is loaded.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

MAX_ANALYSIS_S: Final = 3600.0
"""Time after which an analysis is stopped; 14 days take minutes."""

ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Parts of a recording are analysed by threads of our own, which those of BLAS would slow down."""

_NICENESS: Final = 10
_MOST_NICE: Final = 19


def environment_with(source: Path) -> dict[str, str]:
    """Build the environment of a Python process that runs the signed code below a directory."""
    return {
        **os.environ,
        "PYTHONPATH": str(source),
        # No signature covers compiled code.
        "PYTHONDONTWRITEBYTECODE": "1",
        **ONE_THREAD,
    }


def lower_priority(pid: int) -> None:
    """Let others go before a process that was just started, which memory runs out for first.

    It must not be in a session of its own: Linux shares processors between sessions first.
    """
    own = os.getpriority(os.PRIO_PROCESS, os.getpid())
    os.setpriority(os.PRIO_PROCESS, pid, min(_MOST_NICE, own + _NICENESS))
    score = Path(f"/proc/{pid}/oom_score_adj")
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        if score.exists():  # Linux
            score.write_text("900")
