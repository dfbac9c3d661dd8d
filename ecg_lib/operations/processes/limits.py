"""Limits of processes that analyse signals, for the service and the command line alike.

No other module of ours is imported here, so that the environment can be set before NumPy is loaded.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

MAX_ANALYSIS_S: Final = 3600.0
"""Time after which an analysis is stopped; 14 days take minutes."""

ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Parts of a recording are analysed by threads of our own, which those of BLAS would slow down."""

_SECRET_NAME: Final = re.compile(
    r"PASSW|SECRET|TOKEN|CREDENTIAL|AUTH|_KEY(?:_ID)?$|^(?:AWS|FSSPEC)_", re.IGNORECASE
)
_LOGIN: Final = re.compile(r"://[^/?#\s]*@|passw\w*=", re.IGNORECASE)
"""The login in an address or a connection string."""

_NICENESS: Final = 10
_MOST_NICE: Final = 19

_logger = logging.getLogger(__name__)


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Copy an environment without logins, for a process that calls no server.

    Left out is what a name calls a secret, every address or connection string with a login, and the
    settings of stores.

    >>> without_secrets({"PATH": "/bin", "ECG_API_KEY": "k", "ECG_STUDY_URL": "postgresql://u:p@h/d"})
    {'PATH': '/bin'}

    """
    return {
        name: value
        for name, value in environment.items()
        if not (_SECRET_NAME.search(name) or _LOGIN.search(value))
    }


def environment_with(source: Path) -> dict[str, str]:
    """Build the environment of a Python process that runs the signed code below a directory.

    It reads signals and files of clients, calls no server, and gets no login.
    """
    return {
        **without_secrets(os.environ),
        "PYTHONPATH": str(source),
        # No signature covers compiled code.
        "PYTHONDONTWRITEBYTECODE": "1",
        **ONE_THREAD,
    }


def lower_priority(pid: int) -> None:
    """Give a child process a low priority, and let it be killed first when memory runs out.

    The child must be in the session of its parent: Linux divides processors among sessions first,
    and applies priorities within each. A refused change is logged: the child
    works without it.
    """
    own = os.getpriority(os.PRIO_PROCESS, os.getpid())
    score = Path(f"/proc/{pid}/oom_score_adj")
    try:
        os.setpriority(os.PRIO_PROCESS, pid, min(_MOST_NICE, own + _NICENESS))
        if score.exists():  # Linux
            score.write_text("900")
    except ProcessLookupError:
        pass  # it has ended already
    except OSError as error:
        _logger.warning("process %d keeps its priority: %s", pid, error)
