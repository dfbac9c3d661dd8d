"""``python -m bentos.runtime.prediction.rollout.shadow_process FD``: ask two models, and compare.

It has a low priority, and it is the first that the system kills when memory runs out.
"""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext
from functools import partial
from typing import Any, Final

import orjson

from bentos.runtime.prediction.answer import answer
from bentos.runtime.prediction.answer_process import serve
from bentos.runtime.prediction.process import LoadedModels
from bentos.runtime.prediction.rollout.shadow import ShadowOutcome, ShadowTask
from bentos.wire.problems import ProblemError
from ecg_lib.operations.learning.rollout.comparison import compare_answers

_logger: Final = logging.getLogger(__name__)


def main() -> int:
    """Ask what comes over the connection until its other end is closed."""
    serve(int(sys.argv[1]), partial(perform, LoadedModels()))
    return 0


def perform(loaded: LoadedModels, task: ShadowTask) -> ShadowOutcome:
    """Load a model, ask it, and compare its answer with the one that was given, as far as asked."""
    try:
        model = loaded.load(task.model)
    except Exception as error:
        _logger.exception("%s cannot be loaded", task.model.info["bento_tag"])
        return ShadowOutcome(unloadable=type(error).__name__)
    if task.question is None:
        return ShadowOutcome()
    try:
        made = answer(model, task.question, observe=lambda _: nullcontext())
    except ProblemError as error:
        return ShadowOutcome(failure=f"refused: {error.kind.name}")
    except Exception as error:
        _logger.exception("%s failed", model.bento_tag)
        return ShadowOutcome(failure=f"failed: {type(error).__name__}")
    body: dict[str, Any] = orjson.loads(made.body)
    ms = float(body["processing_time_ms"])
    if task.answered is None:
        return ShadowOutcome(ms=ms)
    given: dict[str, Any] = orjson.loads(task.answered)
    pair = (given, body) if task.is_candidate else (body, given)
    return ShadowOutcome(ms=ms, comparison=compare_answers(*pair))


if __name__ == "__main__":
    sys.exit(main())
