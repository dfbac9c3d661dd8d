"""Flow ``analyze-recordings``: recordings by the million, by the released model, on a cluster."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import uuid4

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from pydantic import Field

from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.recordings.summary import ResultFormat
from ecg_lib.records.atomic_files import require_room
from flows.data.progress import ProgressBar
from flows.doors.ui.run_names import name_run
from flows.recordings.analyzed_files import AnalysisError, describe_model
from flows.recordings.batches.batch import Batch, Wanted, analyze_batch, make_failed
from flows.recordings.batches.cluster import (
    BATCHES_A_PROCESS,
    Cluster,
    WorkerDiedError,
    open_cluster,
)
from flows.recordings.batches.found import Recording, find_recordings, require_inputs
from flows.recordings.batches.only_run import only_run_on
from flows.recordings.batches.places import open_place
from flows.recordings.batches.results import ROWS_AT_ONCE, Output, Row, Status


class UnitChoice(StrEnum):
    """Units of files that state none."""

    AS_STATED = "as stated"
    MILLIVOLT = "mV"
    MICROVOLT = "uV"
    VOLT = "V"


MIN_RATE_HZ: Final = 100.0

MAX_BATCH: Final = 64
"""Recordings of a batch at most: a task costs Prefect's server the same for one and for many."""

_BATCHES_A_RUN: Final = BATCHES_A_PROCESS
"""Batches for each process at least, where there are few recordings; each loads the model again."""

_SHOWN: Final = 200
"""Recordings in the table of the run, and failures in its result; the dataset has all."""

_LOGGED: Final = 20


@flow(name="analyze-recordings")
def analyze_recordings(
    paths: Annotated[list[str], Field(min_length=1)],
    output_dir: str = "",
    formats: list[ResultFormat] = list(ResultFormat),  # noqa: B006  Prefect shows it and never changes it
    lead: str = "",
    sampling_rate: Annotated[float, Field(ge=0, le=1000)] = 0.0,
    unit: UnitChoice = UnitChoice.AS_STATED,
    processes: Annotated[int, Field(ge=0, le=1024)] = 0,
    *,
    again_failed: bool = False,
) -> dict[str, Any]:
    """Analyse recordings of up to 14 days on a Dask cluster; a broken one is a row with its error.

    A run that names an output goes on where the last one on it stopped: each recording is analysed
    once, and by the model of the first run.

    Args:
        paths: Files (WFDB headers, EDF, CSV, NPY, DICOM, ISHNE, SCP-ECG, XML, ATC, zip),
            directories with all below them, and URLs of stores, such as `s3://bucket/holters`.
        output_dir: Directory or URL that results go to; when empty, a new directory in
            `reports/recordings` under ECG_HOME.
        formats: What to write of each; with none, only the dataset `recordings`.
        lead: Name of the lead; when empty, the one that is an ECG by its name.
        sampling_rate: 100 to 1000 Hz, for CSV without a column of time and for NPY; 0 for that of
            the file.
        unit: Unit of NPY, and of CSV that states none; `as stated` takes mV there.
        processes: Processes of a cluster on this machine; 0 for one a core. With ECG_DASK_ADDRESS
            that cluster is used as it is.
        again_failed: Analyse those of `paths` again that failed in earlier runs.

    Returns:
        How many recordings of the output were analysed, and why others were not.
    """
    if 0 < sampling_rate < MIN_RATE_HZ:
        msg = f"sampling_rate must be 0 or {MIN_RATE_HZ:g} to 1000 Hz, got {sampling_rate:g}"
        raise ConfigurationError(msg)
    settings = read_settings()
    require_room(settings.home)
    output = Output(open_place(output_dir or str(_new_directory(settings))))
    wanted = Wanted(
        output=output.place.url,
        formats=tuple(kind.value for kind in formats),
        lead=lead or None,
        sampling_rate=sampling_rate or None,
        unit=None if unit is UnitChoice.AS_STATED else unit.value,
    )
    require_inputs(paths)
    with only_run_on(output.place):
        model = pin_model(output, wanted, settings)
        todo, empty = find_work(paths, output, model, again_failed=again_failed)
        if todo:
            at_most = processes or os.cpu_count() or 1
            with open_cluster(settings.dask_address, processes=min(at_most, len(todo))) as cluster:
                analyze_all(todo, cluster, output, wanted)
        return conclude(output, empty)


def _new_directory(settings: Settings) -> Path:
    stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
    return settings.reports_dir / "recordings" / f"{stamp}-{uuid4().hex[:4]}"


def pin_model(output: Output, wanted: Wanted, settings: Settings) -> dict[str, str]:
    """Note request and model in a new output; of one that earlier runs began, read the model.

    Raises:
        ConfigurationError: If earlier runs asked for something else.
    """
    from flows.release.load_released import load_bundle_to_use

    version, bundle = load_bundle_to_use(settings)
    request = {name: value for name, value in asdict(wanted).items() if name != "output"}
    request["formats"] = list(wanted.formats)
    output.pin(request, bundle, describe_model(bundle, version=version))
    with tempfile.TemporaryDirectory(prefix="ecg-") as scratch:
        output.fetch_bundle(Path(scratch))  # or say now that it was changed
    model = output.read_model()
    logger = get_run_logger()
    logger.info("model %s, results go to %s", model["version"], output.place.url)
    if model["bundle_hash"] != bundle.hash:
        logger.warning(
            "the runs on this output use model %s, and not %s, which is released now",
            model["version"],
            version,
        )
    return model


def find_work(
    paths: Sequence[str], output: Output, model: dict[str, str], *, again_failed: bool = False
) -> tuple[list[Recording], dict[str, str]]:
    """Find the recordings without a row; those that must not be analysed get one.

    A recording whose results would replace those of another one, of an earlier run, is refused.

    Returns:
        Recordings, and the directories and prefixes without any or without a listing.
    """
    logger = get_run_logger()
    done, owners = output.settle()
    found = find_recordings(paths, output=output.place)
    if again_failed:
        every = (*found.recordings, *(one for one, _ in found.refused))
        done -= output.forget_failed(one.path for one in every)
    for url, reason in found.empty.items():
        logger.error("%s: %s", url, reason)
    new = [one for one in found.recordings if one.path not in done]
    taken = [
        (one, _refuse_taken(one, owner))
        for one in new
        if (owner := owners.get((one.folder, one.name)))
    ]
    refused = [
        make_failed(one, reason, model=model)
        for one, reason in (*found.refused, *taken)
        if one.path not in done
    ]
    for row in refused:
        output.note(row)
    output.publish(refused)
    todo = [one for one in new if (one.folder, one.name) not in owners]
    logger.info(
        "%d recordings to analyse, %d have a row already, %d are refused",
        len(todo),
        len(found.recordings) - len(new),
        len(found.refused) + len(taken),
    )
    return todo, found.empty


def _refuse_taken(recording: Recording, owner: str) -> str:
    place = f"{recording.folder}/{recording.name}" if recording.folder else recording.name
    return (
        f"a recording must have a name of its own in an output, and {place} has the results of "
        f"{owner}; name another output_dir, or the directory above both"
    )


def analyze_all(
    todo: Sequence[Recording], cluster: Cluster, output: Output, wanted: Wanted
) -> None:
    """Analyse recordings in batches, few of them at a time, and publish their rows.

    Raises:
        AnalysisError: If a batch fails for another reason than its recordings, such as a full
            disk. What is done has its rows, and the next run on the output goes on.
    """
    logger = get_run_logger()
    bar = ProgressBar("Recordings analysed")
    model = output.read_model()
    batches = deque(_split(todo, wanted, processes=cluster.count_processes()))
    n_batches, n_done, n_logged = len(batches), 0, 0
    gathered: list[Row] = []
    failures: list[Exception] = []
    for batch, outcome in cluster.run_bounded(analyze_batch, batches, name="batch"):
        rows: list[Row] = []
        if isinstance(outcome, WorkerDiedError):
            rows, alone = _blame(batch, outcome, output, model, first_number=n_batches)
            n_batches += len(alone)
            batches.extend(alone)
        elif isinstance(outcome, Exception):
            failures.append(outcome)
            batches.clear()
        else:
            rows = outcome
        for row in rows:
            if row.status is Status.FAILED and (n_logged := n_logged + 1) <= _LOGGED:
                logger.error("%s is left out: %s", row.path.rpartition("/")[2], row.error)
        n_done += len(rows)
        bar.update(n_done, len(todo))
        gathered += rows
        if len(gathered) >= ROWS_AT_ONCE:
            output.publish(gathered)
            gathered = []
    output.publish(gathered)
    if failures:
        msg = (
            f"{len(todo) - n_done} recordings have no row yet, as {len(failures)} batches failed; "
            f"run it again on {output.place.url} when the reason is gone: {failures[0]}"
        )
        raise AnalysisError(msg) from failures[0]


def _split(recordings: Sequence[Recording], wanted: Wanted, *, processes: int) -> list[Batch]:
    parts = _BATCHES_A_RUN * max(1, processes)
    size = min(MAX_BATCH, -(-len(recordings) // parts))
    return [
        Batch(number=number, recordings=tuple(recordings[start : start + size]), wanted=wanted)
        for number, start in enumerate(range(0, len(recordings), size))
    ]


def _blame(
    batch: Batch,
    death: WorkerDiedError,
    output: Output,
    model: dict[str, str],
    *,
    first_number: int,
) -> tuple[list[Row], list[Batch]]:
    """Find the recording that ends processes: what is left of a batch is run one by one."""
    noted = [output.find_waiting(one.path) for one in batch.recordings]
    rows = [row for row in noted if row is not None]
    left = [one for one, row in zip(batch.recordings, noted, strict=True) if row is None]
    if len(batch.recordings) == 1 and left:
        row = make_failed(left[0], str(death), model=model)
        output.note(row)
        return [row], []
    get_run_logger().warning(
        "batch %d is run again, one recording at a time: %s", batch.number, death
    )
    return rows, [
        Batch(number=number, recordings=(one,), wanted=batch.wanted)
        for number, one in enumerate(left, first_number)
    ]


def conclude(output: Output, empty: Mapping[str, str]) -> dict[str, Any]:
    """Show what came of the recordings of an output, and count them.

    Raises:
        AnalysisError: If none was analysed.
    """
    totals = output.count()
    failed = output.read_failures(_SHOWN) | dict(empty)
    n_failed = totals.failed + len(empty)
    shown = output.read_table(_COLUMNS, limit=_SHOWN)
    create_table_artifact(
        key="recordings",
        description="Recordings that were left out, and those of the highest risk",
        table=[
            *(
                {"file": path, "attention": "LEFT OUT", "reason": reason}
                for path, reason in failed.items()
            ),
            *(
                {
                    "file": row["path"],
                    "attention": row["risk_level"],
                    "lead": row["lead"],
                    "hours": round(row["duration_s"] / 3600, 2),
                    "beats": row["beats"],
                    "V": row["v_beats"],
                    "runs": row["runs"],
                    "unreadable s": round(row["unreadable_s"]),
                }
                for row in shown
            ),
        ],
    )
    if not totals.analysed:
        msg = f"at least one recording must be analysed, all {n_failed} failed: {failed}"
        raise AnalysisError(msg)
    get_run_logger().info(
        "%d recordings analysed (%.1f hours of ECG, %.0f s of processors), %d left out",
        totals.analysed,
        totals.hours,
        totals.cpu_s,
        n_failed,
    )
    name_run(f"{totals.analysed} of {totals.analysed + n_failed} recordings analysed")
    return {
        "analysed": totals.analysed,
        "left_out": n_failed,
        "failed": failed,
        "output_dir": output.place.url,
        "dataset": output.place.below("recordings").url,
    }


_COLUMNS: Final = (
    "path", "risk_level", "lead", "duration_s", "beats", "v_beats", "runs", "unreadable_s",
)  # fmt: skip
