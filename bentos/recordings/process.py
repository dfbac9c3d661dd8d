"""``python -m bentos.recordings.process``: analyse one recording, and end.

``task.json`` in the directory of the job says what to do; ``progress`` receives how far it is, and
``outcome.json`` how it ended. The process ends when its parent does, and it is the first that the
system kills when memory runs out.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bentos.recordings.job_store import INPUT, OBSERVED, OUTCOME, PROGRESS, RESULTS, TASK
from bentos.recordings.kept_names import KeptNames
from ecg_lib.classifier.beat_classifier import BeatClassifier, require_readable
from ecg_lib.classifier.bundle import read_bundle
from ecg_lib.errors import EcgError, InvalidSignalError
from ecg_lib.operations.drift.observation import (
    OBSERVED_COLUMNS,
    POINTS_DOWN,
    STRETCH,
    Piece,
    cut_pieces,
    observe_beats,
    observe_polarity,
)
from ecg_lib.recordings.analysis import analyze_recording, write_result
from ecg_lib.recordings.beat_file import NAMES, write_beats
from ecg_lib.recordings.signal_file import read_signal
from ecg_lib.recordings.summary import ResultFormat
from ecg_lib.records.atomic_files import write_whole
from ecg_lib.records.files.parts import open_parts

_MAX_MEMORY_BYTES: Final = 3 * 2**30
_THREADS: Final = 2


def main() -> int:
    """Analyse the recording of the job that the first argument names."""
    job = Path(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _analyze(job, json.loads((job / TASK).read_bytes()))
        outcome: dict[str, Any] = {"error": None}
    except MemoryError:
        outcome = {"error": {"class": "MemoryError", "message": ""}}
    except EcgError as error:
        outcome = {
            "error": {
                "class": type(error).__name__,
                "message": str(error),
                "detail": getattr(error, "detail", None),
            }
        }
    write_whole(job / OUTCOME, json.dumps(outcome))
    return 0


def _end_with_parent() -> None:
    # The other end of our standard input is closed when the parent ends, however it ends. Not by
    # sys.stdin, whose lock would be held when this process ends by itself.
    while os.read(0, 1):
        pass
    os._exit(1)


def _analyze(job: Path, task: dict[str, Any]) -> None:
    classifier = BeatClassifier.load(read_bundle(Path(task["bundle"])))
    # A job that an older version of the service took names no parts.
    parts = [job / INPUT / name for name in (task["file"], *task.get("more_parts", ()))]
    opened = KeptNames(open_parts(parts, fs=task["sampling_rate"], unit=task["unit"]))
    results = job / RESULTS
    results.mkdir(exist_ok=True)
    analysis = analyze_recording(
        opened,
        lead=task["lead"],
        second_lead=task.get("second_lead"),
        classifier=classifier,
        model=task["model"],
        directory=results,
        threads=min(_THREADS, os.cpu_count() or 1),
        report=lambda share: write_whole(job / PROGRESS, f"{share:.4f}"),
        warnings=task.get("warnings", ()),
    )
    analysis.described["job_id"] = job.name
    for kind in ResultFormat:
        write_result(analysis, results / kind.file_name, kind=kind, recording_id=job.name)
    write_beats(analysis.summary, results)
    pieces = cut_pieces(
        read_signal(results), fs=json.loads((results / NAMES).read_bytes())["fs"], seed=job.name
    )
    write_whole(job / OBSERVED, json.dumps(_observe(pieces, classifier)))


def _observe(pieces: Iterator[Piece], classifier: BeatClassifier) -> dict[str, Any]:
    """Observe pieces as requests are, whose strips are as long."""
    observed: dict[str, list[Any]] = {
        name: [] for name in (*OBSERVED_COLUMNS, POINTS_DOWN, STRETCH)
    }
    n_pieces = n_refused = 0
    for number, (signal_mv, fs) in enumerate(pieces):
        n_pieces += 1
        classified = classifier.classify(signal_mv, fs=fs)
        try:
            require_readable(classified.prepared)
        except InvalidSignalError:
            n_refused += 1
            continue
        found = observe_beats(classified) | observe_polarity(classified)
        for name, values in found.items():
            # JSON has no NaN.
            observed[name] += [None if value != value else value for value in values.tolist()]  # noqa: PLR0124
        observed[STRETCH] += [number] * (len(observed["rule"]) - len(observed[STRETCH]))
    return {"pieces": n_pieces, "refused": n_refused, "observed": observed}


if __name__ == "__main__":
    sys.exit(main())
