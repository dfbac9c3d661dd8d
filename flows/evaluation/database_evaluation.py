"""Judge the network that is served on an annotated WFDB database, whoever's it is.

Nothing is tuned or trained on these records, and they need no ingestion. Each record is classified
as the service classifies a recording, so that a day needs no more memory than an hour.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.classifier.rule_guard import CATALOGUE
from ecg_lib.errors import EcgError
from ecg_lib.evaluation.blind_verifiers import load_blind_verifier
from ecg_lib.evaluation.report.conditions import Calls, EvaluationError, quality_at
from ecg_lib.evaluation.report.figures import Document, lead_condition
from ecg_lib.evaluation.report.record_scores import OWN, RecordScores, summarize_record
from ecg_lib.evaluation.report.scoring import ConditionScorer, Part
from ecg_lib.evaluation.report.summary import summarize
from ecg_lib.recordings.long_recordings import RecordingBeats, classify_recording
from ecg_lib.records.files.wfdb.annotated_record import read_annotated_record
from ecg_lib.records.record import Record
from flows.data.databases import Database, KnownRecord, Role
from flows.doors.ledger import read_git_commit
from flows.doors.parallel import run_in_processes
from flows.evaluation.ec57_evaluation import Evaluation, OnRecord

DATABASE: Final = "database"
"""Kind of the document."""

_PARTS: Final = (Part.WHOLE, Part.AFTER_5_MIN)
_OF_LEAD: Final = ("v_f1", "qrs_sensitivity", "qrs_predictivity")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A record that is not scored, with the reason."""

    name: str
    reason: str


def evaluate_database(
    bundle: Bundle,
    database: Database,
    directory: Path,
    *,
    lead: str | None = None,
    with_all_leads: bool = True,
    with_folds: bool = False,
    known: Mapping[str, KnownRecord] | None = None,
    roles: Sequence[Role] = (Role.DEVELOPMENT, Role.PACED, Role.TEST),
    on_record: OnRecord | None = None,
) -> Evaluation:
    """Score the records of a database.

    Records that cannot be read or scored are left out with their reason.

    Args:
        bundle: The classifier.
        database: Its records, persons and annotations.
        directory: Where the records are.
        lead: The lead to score; when left out the one that the product analyses.
        with_all_leads: Score the other leads of each record too, as further conditions.
        with_folds: Judge each person of the bundle's folds by the network that has not seen the
            person; the network that is served when false, and for all others.
        known: Records that are copies of published ones, see
            :func:`flows.data.databases.find_known`. Those of a test part are left out, as only an
            opening scores them; those that the model was trained on are named.
        roles: Parts of the database that are scored.
        on_record: Called after each record.

    Raises:
        EvaluationError: If no record can be scored.
    """
    started_s = time.monotonic()
    known = known or {}
    closed = [name for name, one in known.items() if one.role is Role.TEST]
    names = [n for n, role in database.roles.items() if role in roles and n not in closed]
    jobs = [
        partial(
            _score,
            bundle,
            database,
            directory,
            name,
            lead=lead,
            with_all_leads=with_all_leads and lead is None,
            fold=bundle.folds.get(database.person_of(name)) if with_folds else None,
        )
        for name in names
    ]
    scores: list[RecordScores] = []
    left_out = [
        LeftOut(
            name=name,
            reason=f"it is {known[name]}, of a test part that `ecg evaluate --final` alone scores",
        )
        for name in closed
    ]
    for done, result in enumerate(run_in_processes(jobs), 1):
        if isinstance(result, LeftOut):
            left_out.append(result)
        else:
            scores.append(result)
        if on_record is not None:
            on_record(done, len(jobs))
    if not scores:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in left_out[:5])
        msg = f"a record of {database.title} must be scored, none could be ({reasons})"
        raise EvaluationError(msg)
    is_blind = all(score.fold is not None for score in scores)
    document = summarize(
        scores,
        bundle=bundle,
        peaks={},
        header={
            "title": f"EC57 evaluation: {database.title}",
            "kind": DATABASE,
            "reason": None,
            "data": describe_database(database, scores, left_out, is_blind=is_blind),
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started_s, 1),
            "extent": DATABASE,
            "code_commit": read_git_commit(),
        },
        missing=[
            *(f"Record {one.name}: {one.reason}" for one in left_out),
            *(note for score in scores for note in score.notes),
            *_explain_trained(bundle, known),
        ],
    )
    return Evaluation(document, tuple(error for score in scores for error in score.errors))


def _explain_trained(bundle: Bundle, known: Mapping[str, KnownRecord]) -> list[str]:
    trained = [name for name, one in known.items() if one.person in bundle.folds]
    if not trained:
        return []
    note = (
        "Figures of unseen people alone: the model was trained on the people of records "
        f"{', '.join(trained)}, whose figures are too good."
    )
    return [note]


def describe_database(
    database: Database,
    scores: Sequence[RecordScores],
    left_out: Sequence[LeftOut],
    *,
    is_blind: bool,
) -> dict[str, Any]:
    """Describe the records that are judged, for the header of a document."""
    return {
        "name": database.title,
        "source": database.name,
        "dataset_version": database.version or None,
        "licence": database.licence,
        "citation": database.citation or None,
        "annotations": ", ".join(database.annotations),
        "judged_by": "fold" if is_blind else "served",
        "records": len(scores),
        "subjects": len({score.subject for score in scores}),
        "duration_s": round(sum(score.duration_s for score in scores), 1),
        "annotated": {aami: sum(score.annotated[aami] for score in scores) for aami in "NSVFQ"},
        "left_out": [one.name for one in left_out],
    }


def _score(
    bundle: Bundle,
    database: Database,
    directory: Path,
    name: str,
    *,
    lead: str | None,
    with_all_leads: bool,
    fold: int | None,
) -> RecordScores | LeftOut:
    """Read, classify and score a record, in its own process."""
    try:
        record = read_annotated_record(
            directory / name,
            annotations=database.annotations[0],
            name=database.full_name(name),
            person=database.person_of(name),
            lead=lead,
        )
        return score_database_record(
            record, bundle=bundle, fold=fold, with_all_leads=with_all_leads
        )
    except EcgError as error:
        return LeftOut(name=name, reason=str(error))


def score_database_record(
    record: Record, *, bundle: Bundle, fold: int | None, with_all_leads: bool
) -> RecordScores:
    """Classify and score the leads of a record.

    All beats of a further lead that cannot be classified count as missed, and a note says why.

    Raises:
        EvaluationError: If it has no annotated beat.
        EcgError: If a lead cannot be classified.
    """
    annotations = record.annotations
    if annotations is None or len(annotations.beat_samples) == 0:
        msg = "it must have annotated beats, it has none"
        raise EvaluationError(msg)
    verifier = None if fold is None else load_blind_verifier(record.name)
    classifier = BeatClassifier.load(bundle, fold=fold, verifier=verifier)
    score = ConditionScorer(annotations, fs=record.fs, duration_s=record.duration_s)
    own_lead = record.choose_lead()
    classified = _classify(record, own_lead, classifier)
    own = _calls_of(classified)
    score.add(OWN, own, _PARTS)
    others = [lead for lead in record.leads if lead != own_lead] if with_all_leads else []
    notes = []
    for lead in others:
        try:
            calls = _calls_of(_classify(record, lead, classifier))
        except EcgError as error:
            notes.append(f"Record {record.name}, lead {lead}: {error}")
            calls = _nothing()
        score.add(lead_condition(lead), calls, _PARTS)
    scores = summarize_record(
        record,
        annotations,
        score=score,
        own=own,
        lead=own_lead,
        second_lead=others[0] if others else None,
        fold=fold,
        unreadable_s=classified.unreadable_s,
    )
    return replace(scores, notes=tuple(notes))


def _classify(record: Record, lead: str, classifier: BeatClassifier) -> RecordingBeats:
    return classify_recording(record.signal_mv(lead), fs=record.fs, classifier=classifier)


def _calls_of(beats: RecordingBeats) -> Calls:
    n_beats = len(beats)
    return Calls(
        detections=beats.r_peaks,
        is_v=beats.is_v,
        is_v_unguarded=(beats.probability_v >= beats.threshold) & beats.has_class,
        rule=beats.rule,
        probability_v=beats.probability_v,
        proposed=np.zeros((n_beats, len(CATALOGUE)), dtype=np.bool_),
        has_class=beats.has_class,
        quality=quality_at(beats.r_peaks, beats.quality_per_second, fs=beats.fs),
        is_credible=beats.is_credible,
    )


def _nothing() -> Calls:
    nothing = np.zeros(0, dtype=np.bool_)
    return Calls(
        detections=np.zeros(0, dtype=np.int64),
        is_v=nothing,
        is_v_unguarded=nothing,
        rule=np.zeros(0, dtype="U1"),
        probability_v=np.zeros(0),
        proposed=np.zeros((0, len(CATALOGUE)), dtype=np.bool_),
        has_class=nothing,
        quality=np.zeros(0, dtype=np.float32),
        is_credible=nothing,
    )


def summarize_database(document: Document) -> dict[str, str]:
    """Choose the figures of a database that are shown first."""
    own = document["conditions"][OWN]["parts"][Part.WHOLE]
    figures, alarms = own["figures"], own["alarms"]

    def percent(name: str) -> str:
        value = figures[name]["gross"]
        return "-" if value is None else f"{100 * value:.2f} %"

    def plain(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    f1, worst = figures["v_f1"], alarms["worst_qrs_predictivity"]
    return {
        "records, hours": f"{document['data']['records']}, {plain(alarms['hours'], 1)}",
        "V-F1": f"{plain(f1['gross'], 4)} ({plain(f1['low'], 3)} to {plain(f1['high'], 3)})",
        "strict": plain(figures["v_f1_strict"]["gross"], 4),
        "VEB Se": percent("v_sensitivity"),
        "VEB +P": percent("v_predictivity"),
        "S called V": percent("s_called_v"),
        "false V an hour": f"{plain(alarms['false_v_an_hour'], 2)} "
        f"({len(alarms['records_without_v'])} records without V)",
        "false V runs an hour": plain(alarms["false_runs_an_hour"], 3),
        "QRS Se": percent("qrs_sensitivity"),
        "QRS +P": percent("qrs_predictivity"),
        "worst record's QRS +P": "-"
        if worst is None
        else f"{100 * worst['value']:.2f} % ({worst['record']})",
        "beats unreadable": percent("unreadable_share"),
        **_show_leads(document),
    }


def _show_leads(document: Document) -> dict[str, str]:
    shown = {}
    for condition in document["conditions"].values():
        if condition["label"].startswith("lead "):
            figures = condition["parts"][Part.WHOLE]["figures"]
            values = [figures[name]["gross"] for name in _OF_LEAD]
            words = ["-" if value is None else f"{value:.4f}" for value in values]
            shown[condition["label"]] = "V-F1 {}, QRS Se {}, +P {}".format(*words)
    return shown
