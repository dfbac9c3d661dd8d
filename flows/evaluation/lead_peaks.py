"""Score the R-peaks of every lead of a database whose leads are annotated one by one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import EcgError
from ecg_lib.evaluation.blind_verifiers import load_blind_verifier
from ecg_lib.evaluation.peak_scoring import PeakScores, add_up_peaks, score_peaks
from ecg_lib.evaluation.report.conditions import EvaluationError
from ecg_lib.evaluation.report.figures import Document
from ecg_lib.evaluation.report.summary import describe_peaks
from ecg_lib.records.files.wfdb.annotated_record import read_annotated_record
from ecg_lib.signal_path.preprocessing import PreprocessingConfig, prepare_beats
from ecg_lib.signal_path.r_peaks.verifier import BeatVerifier
from flows.data.databases import Database
from flows.doors.parallel import run_in_processes


def evaluate_lead_peaks(
    bundle: Bundle, database: Database, directory: Path, *, names: Sequence[str]
) -> Document:
    """Score the R-peaks of each lead between its first and its last mark.

    The first and the last beat of a strip are often not annotated.

    Args:
        bundle: The classifier, whose preprocessing finds the R-peaks.
        database: The database.
        directory: Where the records are.
        names: Records to score.

    Raises:
        EvaluationError: If no record can be read.
    """
    jobs = [
        partial(
            _score,
            directory / name,
            database.annotations,
            bundle.config.preprocessing,
            database.full_name(name),
        )
        for name in names
    ]
    results = list(run_in_processes(jobs))
    found = [one for one in results if not isinstance(one, str)]
    reasons = [
        f"Record {database.full_name(name)}: {one}"
        for name, one in zip(names, results, strict=True)
        if isinstance(one, str)
    ]
    if not found:
        msg = f"records of {database.title} must be readable, none is ({'; '.join(reasons[:5])})"
        raise EvaluationError(msg)
    of_lead = {
        lead: describe_peaks(add_up_peaks([one[lead] for one in found if lead in one]))
        for lead in database.annotations
    }
    every = [scores for one in found for scores in one.values()]
    return {
        "title": database.title,
        "records": len(found),
        "left_out": reasons,
        "leads": {**of_lead, "all": describe_peaks(add_up_peaks(every))},
    }


def _score(
    path: Path, leads: Sequence[str], config: PreprocessingConfig, name: str
) -> dict[str, PeakScores] | str:
    """Score the leads of a record; the reason when it cannot be read."""
    try:
        verifier = load_blind_verifier(name)
        return {lead: score_lead(path, lead, config, verifier=verifier) for lead in leads}
    except EcgError as error:
        return str(error)


def score_lead(
    path: Path, lead: str, config: PreprocessingConfig, *, verifier: BeatVerifier | None = None
) -> PeakScores:
    """Score the R-peaks of one lead, whose annotations have its name as extension.

    The detector has not seen the person when it was fitted to others of the database.

    Raises:
        EcgError: If the lead or its annotations cannot be read.
    """
    record = read_annotated_record(path, annotations=lead, lead=lead)
    marks = record.annotations
    if marks is None or len(marks.samples) == 0:
        msg = f"lead {lead} must have annotations, it has none"
        raise EvaluationError(msg)
    r_peaks = prepare_beats(
        record.signal_mv(), fs=record.fs, config=config, verifier=verifier
    ).r_peaks
    is_between = (r_peaks >= marks.samples[0]) & (r_peaks <= marks.samples[-1])
    return score_peaks(marks, detections=r_peaks[is_between], fs=record.fs)
