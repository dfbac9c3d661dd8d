"""``python -m bentos.runtime.prediction.rollout.shadow_process FD``: compare two models.

It has a low priority, and it is the first that the system kills when memory runs out.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from contextlib import nullcontext
from multiprocessing.connection import Connection
from typing import Any, Final

import orjson

from bentos.runtime.live_model import LoadedModel
from bentos.runtime.logs import set_up_logging
from bentos.runtime.prediction.answer import answer
from bentos.runtime.prediction.process import LoadedModels
from bentos.runtime.prediction.rollout.shadow import ShadowOutcome, ShadowTask
from bentos.wire.problems import ProblemError
from ecg_lib.operations.learning.rollout.comparison import compare_answers
from ecg_lib.recordings.process_limits import lower_priority

_logger: Final = logging.getLogger(__name__)


def main() -> int:
    """Compare what comes over the connection until its other end is closed."""
    lower_priority()
    set_up_logging()
    loaded = LoadedModels()
    with Connection(int(sys.argv[1])) as connection, contextlib.suppress(EOFError, BrokenPipeError):
        connection.send(True)
        while True:
            task: ShadowTask = connection.recv()
            connection.send(compare(loaded, task))
    return 0


def compare(loaded: LoadedModels, task: ShadowTask) -> ShadowOutcome:
    """Ask the model that did not answer, and compare."""
    given: dict[str, Any] = orjson.loads(task.answered)
    champion = loaded.load(task.champion)
    try:
        candidate = loaded.load(task.candidate)
        other = _ask(champion if task.is_by_candidate else candidate, task)
        again = (
            _ask(candidate if task.is_by_candidate else champion, task) if task.is_timed else None
        )
    except ProblemError as error:
        refused = None if task.is_by_candidate else f"refused: {error.kind.name}"
        return ShadowOutcome(failure=refused)
    except Exception as error:
        _logger.exception("%s failed", task.candidate.info["bento_tag"])
        return ShadowOutcome(failure=f"failed: {type(error).__name__}")
    pair = (other, given) if task.is_by_candidate else (given, other)
    times = [None, None] if again is None else [_ms_of(other), _ms_of(again)]
    if not task.is_by_candidate:
        times.reverse()
    return ShadowOutcome(
        comparison=compare_answers(*pair), ms_champion=times[0], ms_candidate=times[1]
    )


def _ask(model: LoadedModel, task: ShadowTask) -> dict[str, Any]:
    made = answer(model, task.question, observe=lambda _: nullcontext())
    body: dict[str, Any] = orjson.loads(made.body)
    return body


def _ms_of(body: dict[str, Any]) -> float:
    return float(body["processing_time_ms"])


if __name__ == "__main__":
    sys.exit(main())
