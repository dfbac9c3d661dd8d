"""Limits of processes that analyse signals, for the service and the command line alike.

No other module of ours is imported here, so that the environment can be set before NumPy is loaded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

MAX_ANALYSIS_S: Final = 3600.0
"""Time after which an analysis is stopped; 14 days take minutes."""

ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Parts of a recording are analysed by threads of our own, which those of BLAS would slow down."""

_NICENESS: Final = 10


def environment_with(source: Path) -> dict[str, str]:
    """Build the environment of a Python process that runs the signed code below a directory."""
    return {
        **os.environ,
        "PYTHONPATH": str(source),
        # No signature covers compiled code.
        "PYTHONDONTWRITEBYTECODE": "1",
        **ONE_THREAD,
    }


def lower_priority() -> None:
    """Let other processes go first, and be the first to be killed when memory runs out."""
    os.nice(_NICENESS)
    score = Path("/proc/self/oom_score_adj")
    if score.exists():  # Linux
        score.write_text("900")
