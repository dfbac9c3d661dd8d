"""Names of the files by which the service and the processes that analyse recordings talk."""

from __future__ import annotations

from typing import Final

TASK: Final = "task.json"
"""What is to be done."""

PROGRESS: Final = "progress"
"""Share that is done, as text."""

OUTCOME: Final = "outcome.json"
"""How it ended; it is not there when the process did not get to the end."""

RESULTS: Final = "results"
"""Directory of what was found out."""
