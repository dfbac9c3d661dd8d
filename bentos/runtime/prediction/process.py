"""``python -m bentos.runtime.prediction.process FD``: answer long strips over a connection.

It has a low priority, and it is the first that the system kills when memory runs out.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from time import perf_counter, time
from typing import Any

from bentos.runtime.live_model import LoadedModel
from bentos.runtime.logs import set_up_logging
from bentos.runtime.prediction.answer import Answer, Question, RefusedSignalError, answer
from bentos.runtime.prediction.long_strips import Outcome, Stage, Task
from bentos.wire.problems import ProblemError
from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import read_bundle
from ecg_lib.recordings.process_limits import lower_priority


def main() -> int:
    """Answer what comes over the connection until its other end is closed."""
    lower_priority()
    set_up_logging()
    model: LoadedModel | None = None
    with Connection(int(sys.argv[1])) as connection, contextlib.suppress(EOFError, BrokenPipeError):
        connection.send(True)
        while True:
            task: Task = connection.recv()
            if model is None or model.bundle.hash != task.bundle_hash or model.info != task.info:
                model = _load(task)
            connection.send(_answer(model, task.question))
    return 0


def _load(task: Task) -> LoadedModel:
    """Load the bundle that the worker has loaded and tried."""
    bundle = read_bundle(task.directory)
    if bundle.hash != task.bundle_hash:
        msg = f"the bundle must have the hash {task.bundle_hash}, got {bundle.hash}"
        raise ValueError(msg)
    return LoadedModel(classifier=BeatClassifier.load(bundle), bundle=bundle, info=task.info)


def _answer(model: LoadedModel, question: Question) -> Outcome:
    stages: list[Stage] = []

    @contextlib.contextmanager
    def observe(name: str) -> Iterator[None]:
        started_at_s, start = time(), perf_counter()
        yield
        stages.append(Stage(name, started_at_s, perf_counter() - start))

    made: Answer | dict[str, Any]
    refused_row: bytes | None = None
    try:
        made = answer(model, question, observe=observe)
    except ProblemError as error:
        refused_row = error.row if isinstance(error, RefusedSignalError) else None
        made = {
            "kind": error.kind,
            "detail": error.detail,
            "errors": error.errors,
            "retry_after_s": error.retry_after_s,
        }
    return Outcome(made=made, refused_row=refused_row, stages=stages)


if __name__ == "__main__":
    sys.exit(main())
