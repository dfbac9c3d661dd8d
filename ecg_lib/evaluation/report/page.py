"""Write an evaluation as one HTML page: no request to anywhere, light and dark, on paper too.

The words and the look are in ``page.html.jinja``; this module turns the document into rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from ecg_lib.evaluation.beat_scoring import BeatCounts
from ecg_lib.evaluation.report.charts import draw_interval, draw_noise, draw_reliability, draw_strip
from ecg_lib.evaluation.report.figures import Document
from ecg_lib.evaluation.report.mistakes import BeatError
from ecg_lib.evaluation.report.record_scores import (
    NOISES,
    OWN,
    SIMULATED_NOISES,
    SNRS_DB,
    noise_condition,
)
from ecg_lib.evaluation.report.scoring import Part
from ecg_lib.records.documents.pages import write_html

_TEMPLATE: Final = Path(__file__).with_name("page.html.jinja")
_NOTHING: Final = "\N{EN DASH}"
_MAX_STRIPS: Final = 24
_STRIPS_OF_RECORD: Final = 3

_PART_WORDS: Final = {
    Part.WHOLE.value: "whole",
    Part.AFTER_5_MIN.value: "after 5 min",
    Part.NOISY_MINUTES.value: "noisy minutes",
}
_RUN_WORDS: Final = {
    "couplet": "couplets (2)",
    "short_run": "short runs (3 to 5)",
    "long_run": "long runs (6 and more)",
}


class ConditionRow(NamedTuple):
    """A row of the table of conditions."""

    label: str
    part: str
    figures: Mapping[str, Any]
    counts: Mapping[str, int]
    interval: str
    is_first: bool
    alarms: Mapping[str, Any] | None


class DatabaseRow(NamedTuple):
    """A row of the table of databases."""

    name: str
    judged_by: str
    lead: str
    slice: Mapping[str, Any]
    is_first: bool


class RecordRow(NamedTuple):
    """A row of the table of records."""

    name: str
    about: Mapping[str, Any]
    counts: BeatCounts
    after: BeatCounts
    missed_share: float
    """Length of the bars, relative to the record with most errors."""
    wrong_share: float
    false_share: float


class RuleRow(NamedTuple):
    """A row of the table of the catalogue of rules."""

    rule: str
    is_in_force: bool
    own: Mapping[str, Any]
    worst: Mapping[str, Any]
    worst_label: str
    best: Mapping[str, Any]
    best_label: str
    n_lowered: int
    n_conditions: int


class Strip(NamedTuple):
    """An error with its drawing."""

    error: BeatError
    words: str
    svg: str


def write_page(document: Document, errors: Sequence[BeatError] = ()) -> str:
    """Write the page.

    Parameters
    ----------
    document : mapping
        See :func:`ecg_lib.evaluation.report.summary.summarize`.
    errors : sequence of BeatError
        The errors to draw; without any the page has no gallery.

    """
    own = document["conditions"][OWN]
    strips, n_left = _choose_strips(errors)
    values = {
        "d": document,
        "own": own["parts"][Part.WHOLE.value],
        "later": own["parts"][Part.AFTER_5_MIN.value],
        "rows": _condition_rows(document),
        "databases": _database_rows(document),
        "records": _record_rows(document),
        "noise": _noise_charts(document),
        "reliability": draw_reliability(document["reliability"]["bins"]),
        "runs": [(words, document["runs"][name]) for name, words in _RUN_WORDS.items()],
        "part_words": _PART_WORDS,
        "catalogue": _rule_rows(document),
        "strips": strips,
        "n_left": n_left,
    }
    filters = {"share": _share, "percent": _percent, "count": _count}
    return write_html(_TEMPLATE, values, filters=filters)


def _condition_rows(document: Document) -> list[ConditionRow]:
    slices = []
    for condition in document["conditions"].values():
        for part, slice_ in condition["parts"].items():
            slices.append((condition["label"], _PART_WORDS[part], slice_))
        alone = condition["without_shared_subject"]
        if alone is not None:
            for part, slice_ in alone["parts"].items():
                words = f"{_PART_WORDS[part]}, without {', '.join(alone['records'])}"
                slices.append((condition["label"], words, slice_))
    rows: list[ConditionRow] = []
    for label, part, slice_ in slices:
        rows.append(
            ConditionRow(
                label=label,
                part=part,
                figures=slice_["figures"],
                counts=slice_["counts"],
                interval=draw_interval(slice_["figures"]["v_f1"], lowest=0.5),
                is_first=not rows or rows[-1].label != label,
                alarms=slice_.get("alarms"),
            )
        )
    return rows


_JUDGED_BY: Final = {"fold": "out of fold", "served": "network as served"}


def _database_rows(document: Document) -> list[DatabaseRow]:
    rows = []
    for found in document.get("databases", {}).values():
        for name, condition in found["conditions"].items():
            about = found["data"]
            lead = "as chosen" if name == OWN else condition["label"]
            whole = condition["parts"][Part.WHOLE.value]
            judged_by = _JUDGED_BY[about["judged_by"]]
            rows.append(DatabaseRow(about["name"], judged_by, lead, whole, name == OWN))
    return rows


def _record_rows(document: Document) -> list[RecordRow]:
    parts = document["conditions"][OWN]["parts"]
    whole = {name: BeatCounts(**c) for name, c in parts[Part.WHOLE.value]["by_record"].items()}
    later = parts[Part.AFTER_5_MIN.value]["by_record"]
    most = max((c.v_beats - c.v_true + c.v_false for c in whole.values()), default=0) or 1
    return [
        RecordRow(
            name=name,
            about=document["records"][name],
            counts=counts,
            after=BeatCounts(**later[name]),
            missed_share=(counts.v_beats - counts.v_true - counts.v_wrong) / most,
            wrong_share=counts.v_wrong / most,
            false_share=counts.v_false / most,
        )
        for name, counts in sorted(whole.items())
    ]


def _rule_rows(document: Document) -> list[RuleRow]:
    rows = []
    for rule, about in (document["rule_catalogue"] or {}).items():
        judged = about["conditions"]
        known = {name: one for name, one in judged.items() if one["difference"] is not None}
        if OWN not in known:
            continue
        worst = min(known, key=lambda name: known[name]["difference"])
        best = max(known, key=lambda name: known[name]["difference"])
        rows.append(
            RuleRow(
                rule=rule,
                is_in_force=about["in_force"],
                own=known[OWN],
                worst=known[worst],
                worst_label=document["conditions"][worst]["label"],
                best=known[best],
                best_label=document["conditions"][best]["label"],
                n_lowered=sum(one["difference"] < 0 for one in known.values()),
                n_conditions=len(known),
            )
        )
    return rows


def _noise_charts(document: Document) -> list[tuple[str, str]]:
    conditions, rules = document["conditions"], document["rule_guard"]
    clean = conditions[OWN]["parts"][Part.AFTER_5_MIN.value]["figures"]["v_f1"]["gross"]
    charts = []
    for noise in (*NOISES, *SIMULATED_NOISES):
        points = []
        for snr_db in SNRS_DB:
            name = noise_condition(noise, snr_db)
            if name in conditions:
                noisy = conditions[name]["parts"][Part.NOISY_MINUTES.value]
                points.append((snr_db, noisy["figures"]["v_f1"], rules[name]["without"]["v_f1"]))
        if points:
            charts.append((noise, draw_noise(points, clean=clean, title=f"V-F1 under {noise}")))
    return charts


def _choose_strips(errors: Sequence[BeatError]) -> tuple[list[Strip], int]:
    """Choose a few errors of each record, those of the records with most errors first."""
    by_record: dict[str, list[BeatError]] = {}
    for error in errors:
        by_record.setdefault(error.record, []).append(error)
    chosen: list[BeatError] = []
    for name in sorted(by_record, key=lambda name: (-len(by_record[name]), name)):
        # In turn a V that was missed, one that was called N, and a false one.
        kinds: dict[str, list[BeatError]] = {}
        for error in by_record[name]:
            kinds.setdefault(f"{error.truth == 'V'}{error.call}", []).append(error)
        first = [kind[0] for kind in kinds.values()]
        rest = [error for kind in kinds.values() for error in kind[1:]]
        chosen += [*first, *rest][:_STRIPS_OF_RECORD]
    chosen = sorted(chosen[:_MAX_STRIPS], key=lambda error: (error.record, error.time_s))
    return [Strip(error, _describe(error), draw_strip(error)) for error in chosen], (
        len(errors) - len(chosen)
    )


def _describe(error: BeatError) -> str:
    if error.probability_v is None:
        return "V beat without a detection"
    what = {"V": "V beat called N", "O": "no beat, called V"}.get(
        error.truth, f"{error.truth} beat called V"
    )
    rule = f", by rule {error.rule}" if error.rule else ""
    return f"{what}, p(V) {error.probability_v:.3f}{rule}"


def _share(value: float | None, digits: int = 4) -> str:
    return _NOTHING if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _percent(value: float | None, digits: int = 2) -> str:
    return _NOTHING if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def _count(value: int) -> str:
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
