"""Flow ``analyze-recordings``: long recordings, several at a time, by the released model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.settings import read_settings
from ecg_lib.recordings.summary import ResultFormat
from ecg_lib.records.atomic_files import require_room
from flows.doors.ui.run_names import name_run
from flows.recordings.analyzed_files import (
    AnalysisError,
    AnalyzedFile,
    Request,
    analyze_apart,
    describe_file,
    describe_model,
    list_recordings,
)

AT_ONCE = 2
"""Files that are analysed at a time, each by a process; for many machines give the flow Prefect's
Dask runner by ``with_options(task_runner=...)``."""


class UnitChoice(StrEnum):
    """Units of files that state none."""

    AS_STATED = "as stated"
    MILLIVOLT = "mV"
    MICROVOLT = "uV"
    VOLT = "V"


MIN_RATE_HZ = 100.0

_RUNNER: Any = ThreadPoolTaskRunner(max_workers=AT_ONCE)  # its own type does not fit flow's


@flow(name="analyze-recordings", task_runner=_RUNNER)
def analyze_recordings(
    paths: Annotated[list[str], Field(min_length=1)],
    output_dir: str = "",
    formats: Annotated[list[ResultFormat], Field(min_length=1)] = list(ResultFormat),  # noqa: B006  Prefect shows it and never changes it
    lead: str = "",
    sampling_rate: Annotated[float, Field(ge=0, le=1000)] = 0.0,
    unit: UnitChoice = UnitChoice.AS_STATED,
) -> dict[str, Any]:
    """Analyse recordings of up to 14 days, each in a process of its own; a broken one is skipped.

    Args:
        paths: Files (WFDB headers, EDF, CSV, NPY, DICOM, ISHNE, SCP-ECG, XML, ATC, zip) and
            directories of them.
        output_dir: Where results go; when empty, `reports/recordings` under ECG_HOME.
        formats: What to write of each.
        lead: Name of the lead; when empty, the one that is an ECG by its name.
        sampling_rate: 100 to 1000 Hz, for CSV without a column of time and for NPY; 0 for that of
            the file.
        unit: Unit of NPY, and of CSV that states none; `as stated` takes mV there.

    Returns:
        How many were analysed, and why others were not.
    """
    from flows.release.load_released import load_bundle_to_use

    if 0 < sampling_rate < MIN_RATE_HZ:
        msg = f"sampling_rate must be 0 or {MIN_RATE_HZ:g} to 1000 Hz, got {sampling_rate:g}"
        raise ConfigurationError(msg)
    settings = read_settings()
    require_room(settings.home)
    logger = get_run_logger()
    version, bundle = load_bundle_to_use(settings)
    target = Path(output_dir) if output_dir else settings.reports_dir / "recordings"
    files, refused = list_recordings([Path(path) for path in paths])
    logger.info("%d recordings, model %s, results go to %s", len(files), version, target)
    for path, reason in refused.items():
        logger.error("%s is left out: %s", path.name, reason)
    model = describe_model(bundle, version=version)
    futures = [
        analyze_one.submit(
            Request(
                path=str(path.absolute()),
                output_dir=str(target.absolute()),
                formats=tuple(kind.value for kind in formats),
                lead=lead or None,
                sampling_rate=sampling_rate or None,
                unit=None if unit is UnitChoice.AS_STATED else unit.value,
            ),
            bundle_directory=bundle.directory,
            model=model,
        )
        for path in files
    ]
    results: dict[Path, AnalyzedFile | str] = {
        path: future.result() for path, future in zip(files, futures, strict=True)
    }
    results |= refused
    _show(results)
    failed = {str(path): result for path, result in results.items() if isinstance(result, str)}
    if len(failed) == len(results):
        msg = f"at least one recording must be analysed, all {len(results)} failed: {failed}"
        raise AnalysisError(msg)
    name_run(f"{len(results) - len(failed)} of {len(results)} recordings analysed")
    return {"analysed": len(results) - len(failed), "failed": failed, "output_dir": str(target)}


@task(cache_policy=NO_CACHE)
def analyze_one(
    request: Request, *, bundle_directory: Path, model: dict[str, str]
) -> AnalyzedFile | str:
    """Analyse one recording; a broken one gives its reason."""
    logger = get_run_logger()
    try:
        done = analyze_apart(request, bundle_directory=bundle_directory, model=model)
    except AnalysisError as error:
        logger.error("%s is left out: %s", Path(request.path).name, error)  # noqa: TRY400  the reason is enough
        return str(error)
    logger.info("%s", describe_file(done))
    return done


def _show(results: dict[Path, AnalyzedFile | str]) -> None:
    create_table_artifact(
        key="recordings",
        description="Recordings that were analysed, and those that were left out",
        table=[
            {"file": path.name, "attention": "LEFT OUT", "reason": result}
            if isinstance(result, str)
            else {
                "file": path.name,
                "attention": result.risk_level,
                "lead": result.lead,
                "hours": round(result.duration_s / 3600, 2),
                "beats": result.beats,
                "V": result.v_beats,
                "runs": result.runs,
                "unreadable s": round(result.unreadable_s),
            }
            for path, result in results.items()
        ],
    )
