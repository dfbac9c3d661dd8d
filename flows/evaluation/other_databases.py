"""Add the figures of other databases that are at hand to the report of the development records."""

from __future__ import annotations

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.settings import Settings
from flows.data.databases import LUDB, SVDB, Database, Role
from flows.data.records.sources import find_directory, of_directory
from flows.evaluation.database_evaluation import evaluate_database
from flows.evaluation.ec57_evaluation import Evaluation, OnRecord
from flows.evaluation.lead_peaks import evaluate_lead_peaks


def add_databases(
    evaluation: Evaluation,
    bundle: Bundle,
    settings: Settings,
    *,
    on_record: OnRecord | None = None,
) -> Evaluation:
    """Add the development part of svdb, and the R-peaks of ludb by lead; say which is missing.

    Args:
        evaluation: The report of the development records.
        bundle: The classifier.
        settings: Where the databases are.
        on_record: Called after each record of svdb.
    """
    document = {**evaluation.document, "missing": list(evaluation.document["missing"])}
    supraventricular = find_directory(SVDB, settings)
    if supraventricular is None:
        document["missing"].append(_explain(SVDB))
    else:
        found = evaluate_database(
            bundle,
            SVDB,
            supraventricular,
            with_folds=True,
            roles=(Role.DEVELOPMENT,),
            on_record=on_record,
        ).document
        document["databases"] = {
            SVDB.name: {key: found[key] for key in ("data", "conditions", "missing")}
        }
    of_leads = find_directory(LUDB, settings)
    if of_leads is None:
        document["missing"].append(_explain(LUDB))
    else:
        document["r_peaks_by_lead"] = evaluate_lead_peaks(
            bundle, LUDB, of_leads, names=of_directory(LUDB, of_leads).names
        )
        document["missing"] += document["r_peaks_by_lead"]["left_out"]
    return Evaluation(document, evaluation.errors)


def _explain(database: Database) -> str:
    return (
        f"{database.title}: ECG_{database.name.upper()}_DIR is not set, and it was not downloaded "
        "by ingest-records."
    )
