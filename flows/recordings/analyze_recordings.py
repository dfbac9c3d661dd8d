"""Flow ``analyze-recordings``: long recordings, several at a time, by the released model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from ecg_lib.operations.settings import read_settings
from ecg_lib.recordings.summary import ResultFormat
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


_RUNNER: Any = ThreadPoolTaskRunner(max_workers=AT_ONCE)  # its own type does not fit flow's


@flow(name="analyze-recordings", task_runner=_RUNNER)
def analyze_recordings(
    paths: Annotated[list[str], Field(min_length=1)],
    output_dir: str | None = None,
    formats: Annotated[list[ResultFormat], Field(min_length=1)] = list(ResultFormat),  # noqa: B006  Prefect shows it and never changes it
    lead: str | None = None,
    sampling_rate: Annotated[float | None, Field(ge=100, le=1000)] = None,
    unit: str | None = None,
) -> dict[str, Any]:
    """Analyse recordings of up to 14 days, each in a process of its own; a broken one is skipped.

    Args:
        paths: Files (WFDB headers, EDF, CSV, NPY, DICOM, ISHNE, SCP-ECG, XML, ATC, zip) and
            directories of them.
        output_dir: Where results go; `reports/recordings` under ECG_HOME when left out.
        formats: What to write of each.
        lead: Name of the lead; the one that is an ECG by its name when left out.
        sampling_rate: Hz, for CSV without a column of time and for NPY.
        unit: Unit of NPY, and of CSV that states none: mV (when left out), uV or V.

    Returns:
        How many were analysed, and why others were not.
    """
    from flows.release.load_released import load_bundle_to_use

    settings = read_settings()
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
                lead=lead,
                sampling_rate=sampling_rate,
                unit=unit,
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
