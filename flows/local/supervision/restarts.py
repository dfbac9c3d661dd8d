"""When a process that ended is started again, and when it is given up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """Pauses between restarts, which double up to a longest one.

    A process that was ready for `stable_s` counts as recovered: its failures are forgotten.
    """

    first_pause_s: float = 0.5
    longest_pause_s: float = 60.0
    stable_s: float = 60.0
    max_failures: int | None = None
    """Failures in a row after which the process is given up; None restarts it without limit."""

    def __post_init__(self) -> None:
        """Check the times."""
        if not 0 < self.first_pause_s <= self.longest_pause_s:
            msg = (
                "first_pause_s must be above 0 and at most longest_pause_s, "
                f"got {self.first_pause_s} and {self.longest_pause_s}"
            )
            raise ValueError(msg)


@dataclass(slots=True)
class Restarts:
    """The failures of one process under a policy."""

    policy: RestartPolicy
    total: int = 0
    failures: int = 0
    """Failures in a row."""

    def note_end(self, *, ran_s: float) -> float | None:
        """Count an end and return the pause before the next start; None gives the process up.

        Args:
            ran_s: How long the process was ready before it ended.
        """
        if ran_s >= self.policy.stable_s:
            self.failures = 0
        self.failures += 1
        limit = self.policy.max_failures
        if limit is not None and self.failures > limit:
            return None
        self.total += 1
        doublings = min(self.failures - 1, 30)
        return min(self.policy.longest_pause_s, self.policy.first_pause_s * 2.0**doublings)
