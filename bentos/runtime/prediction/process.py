"""``python -m bentos.runtime.prediction.process FD``: answer long strips over a connection.

It has a low priority, and it is the first that the system kills when memory runs out.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from time import perf_counter

from bentos.runtime.live_model import LoadedModel
from bentos.runtime.logs import set_up_logging
from bentos.runtime.prediction.answer import Question, answer
from bentos.runtime.prediction.long_strips import Outcome, Task
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
    stages: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def observe(name: str) -> Iterator[None]:
        start = perf_counter()
        yield
        stages.append((name, perf_counter() - start))

    made = problem = None
    try:
        made = answer(model, question, observe=observe)
    except ProblemError as error:
        problem = {
            "kind": error.kind,
            "detail": error.detail,
            "errors": error.errors,
            "retry_after_s": error.retry_after_s,
        }
    return Outcome(made=made, problem=problem, stages=stages)


if __name__ == "__main__":
    sys.exit(main())
