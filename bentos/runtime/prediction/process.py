"""``python -m bentos.runtime.prediction.process FD``: answer long strips over a connection.

It has a low priority, and it is the first that the system kills when memory runs out.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from time import perf_counter, time
from typing import Any, Final

from bentos.runtime.live_model import LoadedModel
from bentos.runtime.prediction.answer import (
    Answer,
    Question,
    RefusedSignalError,
    answer,
)
from bentos.runtime.prediction.answer_process import serve
from bentos.runtime.prediction.long_strips import Outcome, Stage, StoredModel, Task
from bentos.wire.problems import ProblemError
from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import read_bundle

_logger: Final = logging.getLogger(__name__)


def main() -> int:
    """Answer what comes over the connection until its other end is closed."""
    loaded = LoadedModels()

    def perform(task: Task) -> Outcome:
        return _answer(loaded.load(task.model), task.question)

    serve(int(sys.argv[1]), perform)
    return 0


class LoadedModels:
    """The two models that were used last, such as champion and candidate."""

    def __init__(self) -> None:
        self._models: list[LoadedModel] = []

    def load(self, stored: StoredModel) -> LoadedModel:
        """Load a bundle that the worker has loaded and tried, unless it is loaded."""
        found = next(
            (
                model
                for model in self._models
                if model.bundle.hash == stored.bundle_hash and model.info == stored.info
            ),
            None,
        )
        if found is None:
            bundle = read_bundle(stored.directory)
            if bundle.hash != stored.bundle_hash:
                msg = f"the bundle must have the hash {stored.bundle_hash}, got {bundle.hash}"
                raise ValueError(msg)
            found = LoadedModel(
                classifier=BeatClassifier.load(bundle), bundle=bundle, info=stored.info
            )
        self._models = [found, *(one for one in self._models if one is not found)][:2]
        return found


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
