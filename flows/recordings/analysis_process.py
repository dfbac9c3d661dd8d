"""A process that analyses files one after the other; a file that ends it ends nothing else.

``python -m flows.recordings.analysis_process`` reads lines of JSON from its standard input: bundle
and model first, then a request a line. It answers each with a line.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from ecg_lib.errors import EcgError
from ecg_lib.operations.processes.limits import MAX_ANALYSIS_S, ONE_THREAD, without_secrets
from flows.doors.addresses import PROJECT_DIR
from flows.recordings.analyzed_files import (
    AnalysisError,
    AnalyzedFile,
    Request,
    WriteError,
    analyze_file,
    is_full,
)

_ERROR_BYTES: Final = 2000
"""Of what a process that failed wrote last."""
_END_S: Final = 10.0


class AnalysisProcess:
    """A process with a loaded bundle; a file that ends it is an error, and the next starts another.

    Parameters
    ----------
    bundle_directory : Path
        Directory of the bundle to use.
    model : mapping
        What results say about it.
    limit_s : float
        Time after which the analysis of a file is stopped.

    """

    def __init__(
        self, bundle_directory: Path, model: Mapping[str, Any], *, limit_s: float = MAX_ANALYSIS_S
    ) -> None:
        self._task = {"bundle": str(bundle_directory), "model": dict(model)}
        self._limit_s = limit_s
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def analyze(self, request: Request) -> AnalyzedFile:
        """Analyse a file.

        Raises:
            AnalysisError: If it cannot be analysed, takes too long, or ends the process.
            WriteError: If results cannot be written, or a disk is full.
        """
        process = self._process or self._start()
        assert process.stdin is not None  # noqa: S101  pipes were asked for
        assert process.stdout is not None  # noqa: S101
        stopped = threading.Event()
        timer = threading.Timer(self._limit_s, _stop, (process, stopped))
        timer.start()
        try:
            answer = _ask(process.stdin, process.stdout, asdict(request))
        finally:
            timer.cancel()
        if answer is None:
            raise AnalysisError(self._explain_end(is_too_long=stopped.is_set()))
        if "error" in answer:
            raise (WriteError if answer["is_of_writing"] else AnalysisError)(answer["error"])
        answer |= {name: tuple(answer[name]) for name in ("results", "warnings")}
        return AnalyzedFile(**answer)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        try:
            process.stdin.close()  # a process without a request ends by itself
            process.wait(_END_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            process.kill()
        finally:
            process.wait()
            process.stdout.close()
            if self._errors is not None:
                self._errors.close()

    def _start(self) -> subprocess.Popen[str]:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  it is read when the process has ended
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.recordings.analysis_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=PROJECT_DIR,
            env={**without_secrets(os.environ), **ONE_THREAD},
        )
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.write(json.dumps(self._task) + "\n")
        return self._process

    def _explain_end(self, *, is_too_long: bool) -> str:
        process, errors = self._process, self._errors
        assert process is not None  # noqa: S101
        assert errors is not None  # noqa: S101
        status = process.wait()
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - _ERROR_BYTES))
        text = errors.read().decode(errors="replace").strip()
        self.close()
        if is_too_long:
            return f"an analysis must end within {self._limit_s:g} s, this one did not"
        last = text.splitlines()[-1] if text else "it wrote no error"
        return f"the process that analysed it ended with status {status}: {last}"


def _stop(process: subprocess.Popen[str], stopped: threading.Event) -> None:
    stopped.set()
    process.kill()


def _ask(stdin: IO[str], stdout: IO[str], request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Send a request, and read its answer; None when the process has ended."""
    try:
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        line = stdout.readline()
    except BrokenPipeError:
        return None
    return json.loads(line) if line.endswith("\n") else None


def _main() -> None:
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.classifier.bundle import read_bundle

    # A library may print; standard output carries answers alone.
    answers, sys.stdout = sys.stdout, sys.stderr
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored by inheritance
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_read_lines, args=(lines,), daemon=True).start()
    classifier = BeatClassifier.load(read_bundle(Path(task["bundle"])))
    while True:
        values = json.loads(lines.get())
        values |= {name: tuple(values[name]) for name in ("formats", "more_parts")}
        answer: dict[str, Any]
        try:
            done = analyze_file(Request(**values), classifier=classifier, model=task["model"])
            answer = asdict(done)
        except (EcgError, OSError) as error:
            is_of_writing = isinstance(error, WriteError) or is_full(error)
            answer = {"error": str(error), "is_of_writing": is_of_writing}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _read_lines(lines: queue.SimpleQueue[str]) -> None:
    """Pass lines on, and interrupt the main thread when there is nobody left to answer to."""
    for line in sys.stdin:
        lines.put(line)
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    try:
        _main()
    except KeyboardInterrupt:
        sys.exit(0)
