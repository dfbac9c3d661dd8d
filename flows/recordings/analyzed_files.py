"""Analyse files of recordings by a bundle, without a server: one by one, or each in a process.

``python -m flows.recordings.analyzed_files`` analyses the file that its standard input describes as
JSON, and writes the outcome to standard output; a file that ends its process is skipped.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ecg_lib.errors import EcgError
from ecg_lib.recordings.analysis import analyze_recording, write_result
from ecg_lib.recordings.process_limits import MAX_ANALYSIS_S, ONE_THREAD, without_secrets
from ecg_lib.recordings.summary import RecordingSource, ResultFormat
from ecg_lib.records.files.archives import (
    ARCHIVE_SUFFIXES,
    PEEK_BYTES,
    is_litter,
    name_of,
    unpacked,
)
from ecg_lib.records.files.opening import SUFFIXES, begins_as_recording, begins_as_samples
from ecg_lib.records.files.parts import open_parts
from ecg_lib.records.files.text.csv_file import may_be_recording
from ecg_lib.records.files.wfdb.wfdb_file import read_wfdb_header
from flows.doors.addresses import PROJECT_DIR

if TYPE_CHECKING:
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.classifier.bundle import Bundle

_logger = logging.getLogger(__name__)

_TAKEN: Final = (*SUFFIXES, *ARCHIVE_SUFFIXES)


class AnalysisError(EcgError):
    """A file could not be analysed."""


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


class ListedRecordings(NamedTuple):
    """The recordings among files and directories."""

    paths: list[Path]
    refused: dict[Path, str]
    """Why others are not analysed."""


def list_recordings(paths: Sequence[Path], *, are_parts: bool = False) -> ListedRecordings:
    """List the recordings among files and directories; of a WFDB record its header.

    Results that lie in a directory are passed over. Results have the names of their recordings,
    so recordings that share one are refused, and the others are not; parts of one recording may
    share a name. Segments of a WFDB record are not recordings of their own, and a directory
    without any is refused.
    """
    found: list[Path] = []
    empty: dict[Path, str] = {}
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        files = sorted(path.iterdir())
        inside = [one for one in files if _is_recording(one)]
        # Under other names, what is called as a recording may be its annotations.
        taken = {name_of(one) for one in inside}
        inside = sorted(
            {*inside, *(one for one in files if one.stem not in taken and _holds_samples(one))}
        )
        segments = {name for one in inside for name in _segments_of(one)}
        inside = [one for one in inside if one.suffix.lower() != ".hea" or one.stem not in segments]
        if not inside:
            empty[path] = f"the directory holds no recording that is read ({', '.join(_TAKEN)})"
        found += inside
    found = list(dict.fromkeys(found))
    names = Counter(name_of(path) for path in (found if not are_parts else ()))
    return ListedRecordings(
        paths=[path for path in found if names[name_of(path)] <= 1],
        refused=empty
        | {
            path: f"a recording must have a name of its own, {names[name]} are {name}"
            for path in found
            if names[name := name_of(path)] > 1
        },
    )


def _segments_of(path: Path) -> list[str]:
    """Name the segments of a WFDB record; a header that is broken is told of when it is read."""
    if path.suffix.lower() != ".hea":
        return []
    try:
        return [segment.name for segment in read_wfdb_header(path).segments]
    except EcgError:
        return []


def _holds_samples(path: Path) -> bool:
    """Return whether a file of a name that is not read is text of samples, or NPY."""
    return path.suffix.lower() not in _TAKEN and _may_be_read(path) and _begins_as_samples(path)


def _begins_as_samples(path: Path) -> bool:
    start, is_whole = _read_start(path)
    return begins_as_samples(start, is_whole=is_whole)


def _may_be_read(path: Path) -> bool:
    is_result = path.name.lower().endswith(ResultFormat.CSV.suffix)
    return not is_result and not is_litter(path.name) and path.is_file()


def _read_start(path: Path) -> tuple[bytes, bool]:
    with path.open("rb") as file:
        start = file.read(PEEK_BYTES)
    return start, len(start) < PEEK_BYTES


def _is_recording(path: Path) -> bool:
    suffix = path.suffix.lower()
    if not _may_be_read(path):
        return False
    if suffix == ".gz":
        return PurePosixPath(path.stem).suffix.lower() in SUFFIXES
    if suffix in _TAKEN and suffix != ".txt":
        return True
    start, is_whole = _read_start(path)
    return begins_as_recording(start) or (
        suffix == ".txt" and may_be_recording(start, is_whole=is_whole)
    )


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
    """
    path, output_dir = Path(request.path), Path(request.output_dir)
    name = name_of(path)
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
            threads=min(2, os.cpu_count() or 1),
            source=RecordingSource(file=path.name, patient=request.patient),
        )
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
    )


def describe_file(done: AnalyzedFile) -> str:
    """Describe what came of a file in a line."""
    return (
        f"{done.name}: lead {done.lead}, {done.duration_s / 3600:.2f} h, {done.v_beats} V of "
        f"{done.beats} beats, {done.runs} runs, attention {done.risk_level}, "
        f"{done.unreadable_s:.0f} s unreadable"
        + "".join(f"\n  warning: {warning}" for warning in done.warnings)
    )


def analyze_apart(
    request: Request, *, bundle_directory: Path, model: Mapping[str, Any]
) -> AnalyzedFile:
    """Analyse a file in a process of its own.

    Raises:
        AnalysisError: If it cannot be analysed; says why.
    """
    task = {"request": asdict(request), "bundle": str(bundle_directory), "model": dict(model)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "flows.recordings.analyzed_files"],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            check=False,
            timeout=MAX_ANALYSIS_S,
            cwd=PROJECT_DIR,
            env={**without_secrets(os.environ), **ONE_THREAD},
        )
    except subprocess.TimeoutExpired as error:
        msg = f"an analysis must end within {MAX_ANALYSIS_S:g} s, this one did not"
        raise AnalysisError(msg) from error
    if done.returncode != 0:
        _logger.error("the analysis of %s failed: %s", request.path, done.stderr[-2000:])
        msg = f"the process that analysed it ended with status {done.returncode}"
        raise AnalysisError(msg)
    answer = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise AnalysisError(answer["error"])
    answer |= {name: tuple(answer[name]) for name in ("results", "warnings")}
    return AnalyzedFile(**answer)


def _main() -> None:
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.classifier.bundle import read_bundle

    task = json.load(sys.stdin)
    for name in ("formats", "more_parts"):
        task["request"][name] = tuple(task["request"][name])
    try:
        classifier = BeatClassifier.load(read_bundle(Path(task["bundle"])))
        done = analyze_file(Request(**task["request"]), classifier=classifier, model=task["model"])
        answer = asdict(done)
    except EcgError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    _main()
