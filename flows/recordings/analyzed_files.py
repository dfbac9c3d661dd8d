"""Analyse files of recordings by a bundle, without a server, and write the results.

:mod:`flows.recordings.analysis_process` does it in another process.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecg_lib.errors import EcgError
from ecg_lib.recordings.analysis import analyze_recording, write_result
from ecg_lib.recordings.summary import RecordingSource, ResultFormat
from ecg_lib.records.files.archives import name_of, unpacked
from ecg_lib.records.files.parts import open_parts

if TYPE_CHECKING:
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.classifier.bundle import Bundle


class AnalysisError(EcgError):
    """A file could not be analysed."""


class WriteError(EcgError):
    """A disk is full, or results cannot be written, whatever the recording is."""


def is_full(error: BaseException) -> bool:
    """Return whether an error says that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def writing(place: str) -> Iterator[None]:
    """Tell errors of writing results from those of a recording.

    Raises:
        WriteError: If the block cannot write. A name that is too long is the recording's.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise
        msg = f"results must be written to {place}, which fails: {error}"
        raise WriteError(msg) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The task for a file."""

    path: str
    """The file, or the first part; results have its name."""
    output_dir: str
    formats: tuple[str, ...]
    lead: str | None = None
    sampling_rate: float | None = None
    unit: str | None = None
    patient: str | None = None
    """Reference of the patient, for the results."""
    more_parts: tuple[str, ...] = ()
    """Files that go on with the recording, in order."""
    threads: int = 2
    """Parts of a long recording that are analysed at a time; the results do not depend on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzedFile:
    """The outcome of a file."""

    name: str
    lead: str
    duration_s: float
    beats: int
    v_beats: int
    runs: int
    risk_level: str
    unreadable_s: float
    results: tuple[str, ...]
    """Files that were written."""
    warnings: tuple[str, ...] = ()
    """Assumptions about the file, and doubts that the signal raises."""
    cpu_s: float = 0.0
    """Seconds of a processor that the analysis took."""


def describe_model(bundle: Bundle, *, version: str) -> dict[str, str]:
    """Describe a bundle as results do."""
    provenance = bundle.provenance
    return {
        "name": "ecg",
        "version": version,
        "bundle_hash": bundle.hash,
        "run_id": provenance.run_id,
        "dataset_version": provenance.dataset_version,
        "git_commit": provenance.git_commit,
        "source": provenance.source.value,
        "data": provenance.data_source.value,
    }


def analyze_file(
    request: Request, *, classifier: BeatClassifier, model: Mapping[str, Any]
) -> AnalyzedFile:
    """Analyse a file, and write its results as ``NAME.json``, ``NAME.beats.csv`` and so on.

    Args:
        request: What is to be done.
        classifier: The classifier to use.
        model: What results say about it.

    Raises:
        EcgError: If the file cannot be read or analysed.
        WriteError: If the results cannot be written.
    """
    path, output_dir = Path(request.path), Path(request.output_dir)
    name = name_of(path)
    started_s = time.process_time()
    targets = {
        kind: output_dir / f"{name}{kind.suffix}" for kind in map(ResultFormat, request.formats)
    }
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="ecg-"))
        parts = [
            stack.enter_context(unpacked(part)) for part in (path, *map(Path, request.more_parts))
        ]
        analysis = analyze_recording(
            open_parts(parts, fs=request.sampling_rate, unit=request.unit),
            lead=request.lead,
            classifier=classifier,
            model=model,
            directory=Path(scratch),
            threads=min(request.threads, os.cpu_count() or 1),
            source=RecordingSource(file=path.name, patient=request.patient),
        )
        with writing(str(output_dir)):
            output_dir.mkdir(parents=True, exist_ok=True)
            for kind, target in targets.items():
                write_result(analysis, target, kind=kind, recording_id=name)
    summary = analysis.summary
    return AnalyzedFile(
        name=name,
        lead=summary.lead,
        duration_s=summary.beats.duration_s,
        beats=summary.rhythm.beats,
        v_beats=summary.rhythm.v_beats,
        runs=len(summary.rhythm.runs),
        risk_level=summary.risk.level.value,
        unreadable_s=summary.beats.unreadable_s,
        results=tuple(str(target) for target in targets.values()),
        warnings=summary.warnings,
        cpu_s=time.process_time() - started_s,
    )


def describe_file(done: AnalyzedFile) -> str:
    """Describe what came of a file in a line."""
    return (
        f"{done.name}: lead {done.lead}, {done.duration_s / 3600:.2f} h, {done.v_beats} V of "
        f"{done.beats} beats, {done.runs} runs, attention {done.risk_level}, "
        f"{done.unreadable_s:.0f} s unreadable"
        + "".join(f"\n  warning: {warning}" for warning in done.warnings)
    )
