"""Open a test part: check the conditions, score it, and record the opening in the project.

Every score on a record of DS2, or of the test part of the Supraventricular Arrhythmia Database, is
an opening. Only ``ecg evaluate --final`` makes one, in one pass and with every condition, because a
later question would be another opening.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from ecg_lib.classifier.bundle import Bundle, DataSource
from ecg_lib.evaluation.report.conditions import EvaluationError
from ecg_lib.evaluation.report.figures import Document
from ecg_lib.evaluation.report.record_scores import (
    OWN,
    REFERENCE,
    SECOND_LEAD,
    Extent,
    noise_condition,
)
from ecg_lib.evaluation.report.scoring import Part
from ecg_lib.operations.settings import Settings
from ecg_lib.records.annotations import DS2
from flows.data.databases import SVDB, Role
from flows.data.dataset_versions import DatasetVersion
from flows.data.records.sources import find_directory
from flows.doors.ledger import NO_REPOSITORY
from flows.evaluation.database_evaluation import evaluate_database
from flows.evaluation.ec57_evaluation import (
    OPENING,
    Evaluation,
    OnRecord,
    WrittenReport,
    describe_data,
    evaluate,
    percent,
    share,
    write_evaluation,
)

OPENINGS: Final = Path("docs") / "ds2-openings.md"
SVDB_OPENINGS: Final = Path("docs") / "svdb-openings.md"
REPORTS: Final = Path("docs") / "evaluation"

_HEAD: Final = """# Openings of DS2

Every score on a DS2 record is an opening. Only `ecg evaluate --final` does it, and it writes the
line here and the report beside it. Thresholds, rules and hyperparameters are chosen on DS1; what
changed between two openings, and why, is in the reason and in the changelog.

| Date (UTC) | Commit | Bundle | Reason | V-F1 | strict | without 202 | Se | +P | FPR | reference R-peaks | after 5 min | 10 s strips | second lead | `ma` 6 dB | `bw` 6 dB | accuracy | QRS Se | QRS +P | Report |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501  one row of a table is one line


_SVDB_HEAD: Final = _HEAD.replace(
    """# Openings of DS2

Every score on a DS2 record is an opening.""",
    """# Openings of the test part of svdb

Every score on one of the 38 test records of the MIT-BIH Supraventricular Arrhythmia Database is an
opening.""",
).replace("`ecg evaluate --final` does", "`ecg evaluate --final --part svdb` does")


class TestPart(StrEnum):
    """A part of a database that is opened, and never tuned on."""

    DS2 = "ds2"
    SVDB = "svdb"


def check_code_and_reason(bundle: Bundle, *, part: str, reason: str, commit: str) -> None:
    """Reject an opening that could not be traced to code and bundle.

    Raises:
        EvaluationError: Without a reason, in a tree with changes, or of a classifier of simulated
            patients.
    """
    refusals = {
        "it must have a --reason": not reason.strip(),
        "the code must be a commit without changes, so that the table can name it; "
        f"it is {commit}": commit == NO_REPOSITORY or commit.endswith("+changes"),
        "the classifier must be trained on real records": (
            bundle.provenance.data_source is DataSource.SIMULATED
        ),
    }
    _refuse(part, refusals)


def _refuse(part: str, refusals: Mapping[str, bool]) -> None:
    for words, is_refused in refusals.items():
        if is_refused:
            msg = f"{part} is not opened: {words}"
            raise EvaluationError(msg)


def open_svdb(
    bundle: Bundle,
    *,
    reason: str,
    commit: str,
    settings: Settings,
    on_record: OnRecord | None = None,
) -> Evaluation:
    """Score the test part of svdb with the network that is served, once.

    Raises:
        EvaluationError: See :func:`check_code_and_reason`, and without one of the 38 records.
    """
    part = "the test part of svdb"
    check_code_and_reason(bundle, part=part, reason=reason, commit=commit)
    directory = find_directory(SVDB, settings)
    wanted = [name for name, role in SVDB.roles.items() if role is Role.TEST]
    lacking = [
        name for name in wanted if directory is None or not (directory / f"{name}.hea").is_file()
    ]
    _refuse(
        part, {f"every record must be there, these are not: {', '.join(lacking)}": bool(lacking)}
    )
    found = evaluate_database(
        bundle, SVDB, directory or Path(), roles=(Role.TEST,), on_record=on_record
    )
    title = "EC57 evaluation: test part of svdb"
    return found._replace(document={**found.document, "title": title, "reason": reason})


def check_opening(
    bundle: Bundle, version: DatasetVersion, *, reason: str, commit: str, settings: Settings
) -> None:
    """Reject an opening that would be incomplete, or could not be traced to code and bundle.

    Raises:
        EvaluationError: See :func:`check_code_and_reason`; and without the noise records, or
            without one of the records.
    """
    check_code_and_reason(bundle, part="DS2", reason=reason, commit=commit)
    present = {record.name for record in version.records_of(Role.TEST)}
    lacking = sorted(set(DS2) - present)
    _refuse(
        "DS2",
        {
            "ECG_NSTDB_DIR must be set, so that noise is part of it": settings.nstdb_dir is None,
            f"every record must be in the dataset, these are not: {', '.join(lacking)}": bool(
                lacking
            ),
        },
    )


def open_ds2(
    bundle: Bundle,
    version: DatasetVersion,
    *,
    reason: str,
    settings: Settings,
    on_record: OnRecord | None = None,
) -> Evaluation:
    """Score DS2 with the network that is served, in every condition, once.

    R-peaks of the other records are scored too, so that the report has figures of all 48.
    """
    records = version.records_of(Role.TEST)
    return evaluate(
        bundle,
        version,
        records=[(record, None) for record in records],
        others=(*version.records_of(Role.DEVELOPMENT), *version.records_of(Role.PACED)),
        extent=Extent.FULL,
        settings=settings,
        header={
            "title": "EC57 evaluation: DS2",
            "kind": OPENING,
            "reason": reason,
            "data": describe_data("DS2", records, version),
        },
        on_record=on_record,
    )


def note_opening(
    root: Path, evaluation: Evaluation, *, commit: str, part: TestPart = TestPart.DS2
) -> WrittenReport:
    """Append an opening to the table of the project, and write its report beside it.

    These files are committed, so they hold figures and no ECG; the errors are in the report below
    ``ECG_HOME``.

    Args:
        root: The project.
        evaluation: The figures.
        commit: Commit of the code.
        part: The test part that was opened.
    """
    openings, head = (OPENINGS, _HEAD) if part is TestPart.DS2 else (SVDB_OPENINGS, _SVDB_HEAD)
    document = evaluation.document
    made_at = document["made_at"][:16].replace("T", "-").replace(":", "")
    stem = f"{part}-{made_at}-{document['bundle']['hash'][:12]}"
    written = WrittenReport(root / REPORTS / f"{stem}.json", root / REPORTS / f"{stem}.html")
    without_errors = {
        **document,
        "errors": [],
        "missing": [*document["missing"], "Errors: left out of what is committed."],
    }
    if written.json.exists():
        msg = f"an opening must not replace {written.json.name}, which is there"
        raise EvaluationError(msg)
    write_evaluation(Evaluation(without_errors, ()), written)
    path = root / openings
    if not path.exists():
        path.write_text(head, encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        file.write(f"| {' | '.join(_cells(document, commit, written))} |\n")
    return written


def _cells(document: Document, commit: str, written: WrittenReport) -> list[str]:
    conditions = document["conditions"]

    def f1(condition: str, part: Part = Part.WHOLE) -> str:
        if condition not in conditions:
            return "-"
        return share(_figures(conditions[condition], part)["v_f1"]["gross"])

    own = _figures(conditions[OWN], Part.WHOLE)
    low, high = (share(own["v_f1"][bound], 3) for bound in ("low", "high"))
    interval = f"{share(own['v_f1']['gross'])} ({low} to {high})"
    alone = conditions[OWN]["without_shared_subject"]
    return [
        document["made_at"][:16].replace("T", " "),
        f"`{commit[:12]}`",
        f"`{document['bundle']['hash'][:12]}`",
        document["reason"].replace("|", "/").replace("\n", " "),
        interval,
        share(own["v_f1_strict"]["gross"]),
        "-" if alone is None else share(_figures(alone, Part.WHOLE)["v_f1"]["gross"]),
        percent(own["v_sensitivity"]["gross"]),
        percent(own["v_predictivity"]["gross"]),
        percent(own["v_false_positive_rate"]["gross"], 3),
        f1(REFERENCE),
        f1(OWN, Part.AFTER_5_MIN),
        f1("strips_10_s"),
        f1(SECOND_LEAD),
        f1(noise_condition("ma", 6), Part.NOISY_MINUTES),
        f1(noise_condition("bw", 6), Part.NOISY_MINUTES),
        share(own["accuracy"]["gross"]),
        percent(own["qrs_sensitivity"]["gross"]),
        percent(own["qrs_predictivity"]["gross"]),
        f"[page](evaluation/{written.html.name}), [JSON](evaluation/{written.json.name})",
    ]


def _figures(condition: Document, part: Part) -> dict[str, Any]:
    figures: dict[str, Any] = condition["parts"][part.value]["figures"]
    return figures
