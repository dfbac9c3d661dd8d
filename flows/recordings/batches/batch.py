"""The task of a batch: its recordings one after the other, each with a row when it is done."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.recordings.analysis_process import AnalysisProcess
from flows.recordings.analyzed_files import (
    AnalysisError,
    AnalyzedFile,
    Request,
    WriteError,
    is_full,
    writing,
)
from flows.recordings.batches.found import Recording, fetch
from flows.recordings.batches.places import open_place
from flows.recordings.batches.results import RESULTS, Output, Row, Status
from flows.recordings.batches.s3_files import StoreAccessError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The same for all recordings of a run."""

    output: str
    """Path or URL."""
    formats: tuple[str, ...]
    lead: str | None = None
    sampling_rate: float | None = None
    unit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Recordings that one process analyses."""

    number: int
    recordings: tuple[Recording, ...]
    wanted: Wanted


@task(cache_policy=NO_CACHE, task_run_name="batch {batch.number}")
def analyze_batch(batch: Batch) -> list[Row]:
    """Analyse the recordings of a batch; one that cannot be analysed gives a row with its error.

    A batch that is run again, because its worker died, goes on where it stopped.

    Raises:
        WriteError: If results cannot be written, or a disk is full.
        OSError: If a row cannot be noted, or no recording of a store can be reached.
    """
    output = Output(open_place(batch.wanted.output))
    model = output.read_model()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="ecg-") as scratch:
        bundle_directory = output.fetch_bundle(Path(scratch))
        with AnalysisProcess(bundle_directory, model) as process:
            for recording in batch.recordings:
                row = output.find_waiting(recording.path)
                if row is None:
                    row = _analyze(recording, batch.wanted, output, process, model)
                    output.note(row)
                rows.append(row)
    n_failed = sum(row.status is Status.FAILED for row in rows)
    get_run_logger().info("%d recordings, %d of them failed", len(rows), n_failed)
    return rows


def _analyze(
    recording: Recording,
    wanted: Wanted,
    output: Output,
    process: AnalysisProcess,
    model: dict[str, str],
) -> Row:
    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ecg-") as scratch:
        try:
            done = _analyze_copy(recording, wanted, output, process, Path(scratch))
        except StoreAccessError:
            raise  # all others would fail like this one
        except (AnalysisError, OSError) as error:
            if is_full(error):
                msg = f"a worker must have room for a copy of {recording.path}: {error}"
                raise WriteError(msg) from error
            return make_failed(recording, str(error), model=model)
    return Row(
        **_describe(recording, model),
        status=Status.ANALYSED,
        lead=done.lead,
        duration_s=done.duration_s,
        unreadable_s=done.unreadable_s,
        beats=done.beats,
        v_beats=done.v_beats,
        runs=done.runs,
        risk_level=done.risk_level,
        warnings=done.warnings,
        results=tuple(
            "/".join(filter(None, (RESULTS, recording.folder, Path(path).name)))
            for path in done.results
        ),
        analysis_s=time.perf_counter() - started_s,
        cpu_s=done.cpu_s,
    )


def make_failed(recording: Recording, error: str, *, model: dict[str, str]) -> Row:
    """Make the row of a recording that could not be analysed."""
    return Row(**_describe(recording, model), status=Status.FAILED, error=error)


def _describe(recording: Recording, model: dict[str, str]) -> dict[str, Any]:
    return {
        "path": recording.path,
        "folder": recording.folder,
        "name": recording.name,
        "n_bytes": recording.n_bytes,
        "analysed_at": datetime.now(UTC).isoformat(timespec="microseconds"),
        "worker": f"{socket.gethostname()}:{os.getpid()}",
        "model_version": model["version"],
        "bundle_hash": model["bundle_hash"],
    }


def _analyze_copy(
    recording: Recording, wanted: Wanted, output: Output, process: AnalysisProcess, scratch: Path
) -> AnalyzedFile:
    """Analyse a file of this machine, or a copy; results go to a store from here."""
    inputs, results = scratch / "input", scratch / "results"
    inputs.mkdir()
    target = output.place.below(RESULTS, recording.folder)
    done = process.analyze(
        Request(
            path=str(fetch(recording, inputs)),
            output_dir=str(target.as_path() if target.is_local else results),
            formats=wanted.formats,
            lead=wanted.lead,
            sampling_rate=wanted.sampling_rate,
            unit=wanted.unit,
            threads=1,  # a process has one core
        )
    )
    if not target.is_local:
        for path in done.results:
            with writing(target.url):
                target.below(Path(path).name).upload(Path(path))
    return done
