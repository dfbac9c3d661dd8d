"""Limits of a process that analyses one recording, for the service and the command line alike.

Nothing is imported here, so that the environment can be set before NumPy is loaded.
"""

from __future__ import annotations

from typing import Final

MAX_ANALYSIS_S: Final = 3600.0
"""Time after which an analysis is stopped; 14 days take minutes."""

ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Parts of a recording are analysed by threads of our own, which those of BLAS would slow down."""
