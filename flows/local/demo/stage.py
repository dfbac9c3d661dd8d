"""The parts that the steps of the demo share: requests, flow runs, waiting and printing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

import httpx

from ecg_lib.errors import EcgError
from ecg_lib.operations.learning.rollout.candidate import Candidate
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import CANDIDATE_ID, DriftCheckRow
from ecg_lib.operations.settings import Settings
from flows.doors.addresses import find_addresses
from flows.local.flow_runs import follow_run, run_and_follow
from flows.monitoring.evidence import open_log
from flows.monitoring.traffic import Strip, send
from flows.release.switch_service import service_url

T = TypeVar("T")

_LOGGED_S: Final = 60.0
_ASKED_S: Final = 120.0
_TIMEOUT_S: Final = 60.0
_TELLING: Final = (
    *("KEEP: ", "RETRAIN: ", "ROLLBACK: ", "gate ", "asked for flow run", "labelled traffic for"),
    *("out of fold: V-F1", " is promoted", "not promoted", "rolled back"),
)
"""Parts of the lines of flow logs that are printed; all lines are in the log of the demo."""


class StepError(EcgError):
    """A step of the demo came out otherwise than it must."""


class Outcome(NamedTuple):
    """How a step ended."""

    word: str
    """KEEP, RETRAIN, promoted or ROLLBACK."""
    what: str
    link: str


@dataclass(slots=True)
class Stage:
    """The platform of the demo, as its steps see it."""

    settings: Settings
    check: Callable[[], None]
    """Restarts what ended; to be called while waiting."""
    say: Callable[[str], None]
    log_file: Path
    outcomes: list[Outcome] = field(default_factory=list)

    def follow(self, line: str) -> None:
        """Take a line of a flow's log: keep it, and print those that tell what is decided."""
        with self.log_file.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        if any(part in line for part in _TELLING):
            self.say(f"    {line}")

    def end_step(self, word: str, what: str, link: str) -> None:
        """Note and print how a step ended."""
        self.outcomes.append(Outcome(word, what, link))
        self.say(f"  => {word}: {what}")
        self.say(f"     {link}")

    def run_flow(self, deployment: str, **parameters: Any) -> UUID:  # noqa: ANN401  flows' own
        """Run a deployment to its end."""
        return run_and_follow(
            deployment, parameters=parameters, report=self.follow, check=self.check
        )

    def follow_run(self, run_id: UUID) -> None:
        """Follow a run that the platform started by itself, to its end."""
        follow_run(run_id, report=self.follow, check=self.check)

    def link_run(self, run_id: UUID | str) -> str:
        """Return the address of the page of a flow run."""
        return f"{find_addresses(self.settings).prefect}/runs/flow-run/{run_id}"

    def wait_for(self, find: Callable[[], T | None], what: str, *, limit_s: float) -> T:
        """Wait until something is there.

        Raises:
            StepError: If it is not in time.
        """
        deadline_s = time.monotonic() + limit_s
        while (found := find()) is None:
            if time.monotonic() > deadline_s:
                msg = f"{what} must be there after {limit_s:.0f} s, there is none"
                raise StepError(msg)
            self.check()
            time.sleep(0.2)
        return found

    def send_strips(self, strips: Iterable[Strip]) -> list[dict[str, Any] | None]:
        """Send strips as requests and wait until the last answer is logged.

        Returns:
            The answer to each; None where it was refused.

        Raises:
            StepError: If none is answered.
        """
        answers: list[dict[str, Any] | None] = []
        with httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as client:
            for strip in strips:
                response = send(strip, client=client, settings=self.settings)
                is_answered = response.status_code == httpx.codes.CREATED
                answers.append(response.json() if is_answered else None)
        given = [answer for answer in answers if answer is not None]
        if not given:
            msg = f"the service must answer strips, it refused all {len(answers)}"
            raise StepError(msg)
        last = given[-1]["prediction_id"]
        with open_log(self.settings) as log:
            self.wait_for(lambda: log.get_prediction(last), "the last answer", limit_s=_LOGGED_S)
        n_v = sum(answer["ventricular_beats"] for answer in given)
        n_beats = sum(answer["total_beats_detected"] for answer in given)
        self.say(
            f"  {len(given)} strips answered, {len(answers) - len(given)} refused; "
            f"{n_v} of {n_beats} beats called V"
        )
        return answers

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Post to the service.

        Raises:
            StepError: If it refuses.
        """
        response = httpx.post(
            f"{service_url(self.settings)}{path}", json=dict(body), timeout=_TIMEOUT_S,
            trust_env=False,
        )  # fmt: skip
        if not response.is_success:
            msg = f"the service must accept POST {path}, it answers {response.text[:300]}"
            raise StepError(msg)
        answer: dict[str, Any] = response.json()
        return answer

    def get(self, path: str, **query: Any) -> Any:  # noqa: ANN401  JSON
        """Read from the service."""
        response = httpx.get(
            f"{service_url(self.settings)}{path}", params=query, timeout=_TIMEOUT_S,
            trust_env=False,
        )  # fmt: skip
        return response.raise_for_status().json()

    def check_drift(self, **parameters: Any) -> tuple[DriftCheckRow, str]:  # noqa: ANN401  flow's
        """Run `monitor-drift` and read the check that it stored; with the link to its run."""
        run_id = self.run_flow("monitor-drift", **parameters)
        with open_log(self.settings) as log:
            (check,) = log.read_drift_checks(limit=1)
        return check, self.link_run(run_id)

    def check_rollout(self, candidate: Candidate) -> tuple[DriftCheckRow, str]:
        """Run `watch-rollout` and read its decision on a candidate; with the link to its run.

        Raises:
            StepError: If it decided nothing.
        """
        run_id = self.run_flow("watch-rollout")
        with open_log(self.settings) as log:
            decided = log.read_drift_checks(are_decisions=True)
        for check in decided:
            if check.summary.get(CANDIDATE_ID) == candidate.id:
                return check, self.link_run(run_id)
        msg = f"the watch must take {candidate.release.bento_tag} back, it decided nothing on it"
        raise StepError(msg)

    def wait_for_decision(self, check: DriftCheckRow) -> UUID:
        """Wait until the run that a check decided on was asked of Prefect."""
        with open_log(self.settings) as log:
            found = self.wait_for(
                lambda: _find_run(log, check), "the run of the decision", limit_s=_ASKED_S
            )
        return UUID(found)


def _find_run(log: PredictionLog, check: DriftCheckRow) -> str | None:
    for decision in log.read_open_decisions():
        if decision.decision_id == check.check_id:
            return decision.run_id
    return None


def expect(found: str, wanted: str, why: str) -> None:
    """Check how a step came out.

    Raises:
        StepError: If otherwise.
    """
    if found != wanted:
        msg = f"the step must come out as {wanted}, it came out as {found}: {why}"
        raise StepError(msg)
