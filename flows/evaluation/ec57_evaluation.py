"""Evaluate a bundle on a set of records, and write the EC57 report.

Development records are scored out of fold, each by a network that has not seen the person. DS2 is
scored with the network that is served, and only by an opening
(:mod:`flows.evaluation.ds2_opening`). The code is the same for both.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ecg_lib.classifier.bundle import Bundle, DataSource
from ecg_lib.errors import ConfigurationError
from ecg_lib.evaluation.prepared_views import Peaks, ScoredView
from ecg_lib.evaluation.report.conditions import EvaluationError
from ecg_lib.evaluation.report.figures import Document
from ecg_lib.evaluation.report.mistakes import BeatError
from ecg_lib.evaluation.report.record_scores import (
    NOISES,
    OWN,
    REFERENCE,
    Extent,
    RecordScores,
    score_record,
    strips_condition,
)
from ecg_lib.evaluation.report.scoring import Part
from ecg_lib.evaluation.report.summary import summarize
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.objects import StoreError
from ecg_lib.records.atomic_files import write_whole
from flows.data.databases import MITDB, PUBLISHED, Role
from flows.data.dataset_versions import (
    DatasetVersion,
    PreparedRecord,
    list_versions,
)
from flows.data.prepared_views import PreparedViews
from flows.data.shared_versions import list_all_versions, open_own_version, open_version
from flows.doors.ledger import read_git_commit
from flows.doors.parallel import run_in_processes

if TYPE_CHECKING:
    from ecg_lib.evaluation.peak_scoring import PeakScores

logger = logging.getLogger(__name__)

OUT_OF_FOLD: Final = "out_of_fold"
OPENING: Final = "opening"

OnRecord = Callable[[int, int], None]
"""Called with the number of records that are done, and of all."""


class Evaluation(NamedTuple):
    """The figures of an evaluation, and the errors that the page shows."""

    document: Document
    errors: tuple[BeatError, ...]


class WrittenReport(NamedTuple):
    """Files of a report."""

    json: Path
    html: Path


def find_dataset(bundle: Bundle, settings: Settings) -> DatasetVersion:
    """Load the dataset that a bundle was made from, or the latest when there is no such version.

    It may be in this home or in the store. Folds go by subject, so a bundle that was made elsewhere
    can be judged on the same people. While the store cannot be reached, the copy of this home
    serves, and a warning says so.

    Raises:
        DatasetError: If there is no dataset.
        StoreError: If a store is set and cannot be reached, and this home lacks the dataset.
    """
    wanted = bundle.provenance.dataset_version
    try:
        is_known = wanted in list_all_versions(settings)
        return open_version(settings, wanted if is_known else None)
    except StoreError as error:
        if wanted not in list_versions(settings.datasets_dir):
            raise
        logger.warning("the copy of dataset %s in this home is evaluated: %s", wanted, error)
        return open_own_version(settings, wanted)


def evaluate_development(
    bundle: Bundle,
    version: DatasetVersion,
    *,
    extent: Extent,
    settings: Settings,
    on_record: OnRecord | None = None,
) -> Evaluation:
    """Score the development records out of fold.

    Raises:
        EvaluationError: If the bundle was made from other data.
        BundleError: If a subject is in none of its folds.
        ConfigurationError: If the directory of noise records is set and has none.
    """
    sources = (bundle.provenance.data_source, version.data_source)
    if (sources[0] is DataSource.SIMULATED) != (sources[1] is DataSource.SIMULATED):
        msg = (
            f"a bundle of {bundle.provenance.data_source} data must be judged on such, "
            f"got {version.data_source} data"
        )
        raise EvaluationError(msg)
    # Of several databases the figures of MIT-BIH are the headline; the others stand beside.
    is_of_mitdb = MITDB.name in version.databases
    records = [
        record
        for record in version.records_of(Role.DEVELOPMENT)
        if record.database == MITDB.name or not is_of_mitdb
    ]
    data = "DS1" if is_of_mitdb else f"development records of {', '.join(version.databases)}"
    if version.data_source is DataSource.SIMULATED:
        data = "simulated patients"
    return evaluate(
        bundle,
        version,
        records=[(record, bundle.fold_of(record.subject)) for record in records],
        others=version.records_of(Role.PACED),
        extent=extent,
        settings=settings,
        header={
            "title": f"EC57 evaluation: {data}, out of fold",
            "kind": OUT_OF_FOLD,
            "reason": None,
            "data": describe_data(data, records, version),
        },
        on_record=on_record,
    )


def evaluate(
    bundle: Bundle,
    version: DatasetVersion,
    *,
    records: Sequence[tuple[PreparedRecord, int | None]],
    others: Sequence[PreparedRecord],
    extent: Extent,
    settings: Settings,
    header: Mapping[str, Any],
    on_record: OnRecord | None = None,
) -> Evaluation:
    """Classify and score records in all conditions, two at a time.

    Args:
        bundle: The classifier.
        version: Dataset that the records are of.
        records: Records to judge, each with the fold whose network judges it; None for the
            network that is served.
        others: Records of which the R-peaks alone are scored.
        extent: Which conditions.
        settings: Where the noise records are.
        header: Title, kind, reason and data of the document.
        on_record: Called after each record.

    Raises:
        EvaluationError: If there is no record, or one is of DS2 and this is not an opening.
        ConfigurationError: If the directory of noise records is set and has none.
    """
    if not records:
        msg = "there must be records to evaluate, there is none"
        raise EvaluationError(msg)
    of_ds2 = [r.name for r in (*(r for r, _ in records), *others) if r.role is Role.TEST]
    if of_ds2 and header["kind"] != OPENING:
        msg = f"records of DS2 are scored by an opening alone, got {', '.join(of_ds2)}"
        raise EvaluationError(msg)
    started_s = time.monotonic()
    nstdb_dir = _find_noise(settings) if extent is Extent.FULL else None
    prepared = PreparedViews(version=version, datasets_dir=settings.datasets_dir)
    jobs: list[Callable[[], RecordScores | PeakScores]] = [
        partial(_score, prepared, record, bundle, fold, extent, nstdb_dir)
        for record, fold in records
    ]
    jobs += [partial(_score_peaks, prepared, record) for record in others]
    scores: list[RecordScores] = []
    peaks: dict[str, PeakScores] = {}
    for done, result in enumerate(run_in_processes(jobs), 1):
        if isinstance(result, RecordScores):
            scores.append(result)
        else:
            peaks[others[len(peaks)].name] = result
        if on_record is not None:
            on_record(done, len(jobs))
    document = summarize(
        scores,
        bundle=bundle,
        peaks=peaks,
        header={
            **header,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started_s, 1),
            "extent": extent.value,
            "code_commit": read_git_commit(),
        },
        missing=_find_missing(scores, bundle, extent, has_noise=nstdb_dir is not None),
    )
    return Evaluation(document, tuple(error for score in scores for error in score.errors))


def _score(
    prepared: PreparedViews,
    record: PreparedRecord,
    bundle: Bundle,
    fold: int | None,
    extent: Extent,
    nstdb_dir: Path | None,
) -> RecordScores:
    return score_record(
        prepared.version.read_source(record),
        bundle=bundle,
        fold=fold,
        extent=extent,
        nstdb_dir=nstdb_dir,
        prepare=partial(prepared.read, record, config=bundle.config.preprocessing),
    )


def _score_peaks(prepared: PreparedViews, record: PreparedRecord) -> PeakScores:
    from ecg_lib.evaluation.peak_scoring import score_peaks

    whole = prepared.read(record, ScoredView(None, Peaks.BLIND))[0].beats
    fs = prepared.version.read_source(record).fs
    return score_peaks(prepared.read_annotations(record), detections=whole.r_peaks, fs=fs)


def _find_noise(settings: Settings) -> Path | None:
    directory = settings.nstdb_dir
    if directory is None:
        return None
    lacking = [name for name in NOISES if not (directory / f"{name}.hea").is_file()]
    if lacking:
        msg = (
            "ECG_NSTDB_DIR must be a directory with the noise records bw and ma, "
            f"{', '.join(lacking)} is not in {directory}"
        )
        raise ConfigurationError(msg)
    return directory


def _find_missing(
    scores: Sequence[RecordScores], bundle: Bundle, extent: Extent, *, has_noise: bool
) -> list[str]:
    missing = []
    if extent is Extent.QUICK:
        missing.append(
            "Strips of 30 s and 5 min, noise and the second lead: not part of a quick evaluation; "
            "ecg evaluate has them."
        )
    elif not has_noise:
        missing.append(
            "Noise: ECG_NSTDB_DIR is not set, so the records bw and ma were not there to add."
        )
    alone = [score.name for score in scores if score.second_lead is None]
    if extent is Extent.FULL and alone:
        missing.append(f"Second lead: records with one lead only ({', '.join(alone)}).")
    if not bundle.metrics.get("seeds"):
        missing.append("Spread over seeds: the recipe was trained with one seed.")
    return missing


def describe_data(
    name: str, records: Sequence[PreparedRecord], version: DatasetVersion
) -> dict[str, Any]:
    """Describe the records that are judged, for the header of a document."""
    described = [
        database
        for database in PUBLISHED.values()
        if any(r.database == database.name for r in records)
    ]
    return {
        "name": name,
        "source": version.data_source.value,
        "licence": "; ".join(dict.fromkeys(one.licence for one in described)) or None,
        "citation": "; ".join(one.citation for one in described) or None,
        "dataset_version": version.version,
        "records": len(records),
        "subjects": len({record.subject for record in records}),
        "duration_s": round(sum(record.duration_s for record in records), 1),
        "annotated": {
            aami: sum(record.annotated.get(aami, 0) for record in records) for aami in "NSVFQ"
        },
        "left_out": [record.name for record in version.broken],
    }


def summarize_headline(document: Document) -> dict[str, str]:
    """Choose the figures of the headline."""
    conditions = document["conditions"]
    own = conditions[OWN]["parts"][Part.WHOLE]["figures"]
    strips = conditions[strips_condition(10)]["parts"][Part.WHOLE]["figures"]
    reference = conditions[REFERENCE]["parts"][Part.WHOLE]["figures"]
    f1 = own["v_f1"]
    return {
        "V-F1": f"{share(f1['gross'])} ({share(f1['low'], 3)} to {share(f1['high'], 3)})",
        "strict": share(own["v_f1_strict"]["gross"]),
        "VEB Se": percent(own["v_sensitivity"]["gross"]),
        "VEB +P": percent(own["v_predictivity"]["gross"]),
        "VEB FPR": percent(own["v_false_positive_rate"]["gross"], 3),
        "accuracy": share(own["accuracy"]["gross"]),
        "V-F1, reference R-peaks": share(reference["v_f1"]["gross"]),
        "V-F1, strips of 10 s": share(strips["v_f1"]["gross"]),
        "QRS Se": percent(own["qrs_sensitivity"]["gross"]),
        "QRS +P": percent(own["qrs_predictivity"]["gross"]),
    }


def share(value: float | None, digits: int = 4) -> str:
    """Write a share; a dash for what is not defined."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 2) -> str:
    """Write a share as a percentage; a dash for what is not defined."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def report_path(reports_dir: Path, bundle: Bundle, kind: str) -> WrittenReport:
    """Name the files of a report of a bundle."""
    stem = reports_dir / "evaluation" / f"{bundle.hash[:12]}-{kind}"
    return WrittenReport(stem.with_suffix(".json"), stem.with_suffix(".html"))


def write_evaluation(evaluation: Evaluation, written: WrittenReport) -> None:
    """Write the document as JSON and as a page."""
    from ecg_lib.evaluation.report.page import write_page

    written.json.parent.mkdir(parents=True, exist_ok=True)
    for path, text in (
        (written.html, write_page(evaluation.document, evaluation.errors)),
        (written.json, json.dumps(evaluation.document, allow_nan=False, separators=(",", ":"))),
    ):
        write_whole(path, text)
