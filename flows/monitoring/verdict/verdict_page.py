"""The verdict of a drift check as a page and as Markdown: first what was found, then the figures.

The look of the page is in ``verdict.html.jinja``. A page of a check is kept as long as the check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from ecg_lib.operations.drift.comparison import ColumnDrift
from ecg_lib.operations.drift.decision import (
    DriftAction,
    DriftDecision,
    DriftEvidence,
    DriftPolicy,
    PastCheck,
)
from ecg_lib.operations.drift.observation import CATEGORICAL_COLUMNS, HARMLESS_COLUMNS
from ecg_lib.operations.drift.slices import SliceDrift
from ecg_lib.operations.drift.traffic_log import Volume
from ecg_lib.operations.learning.drifted_beats import (
    BEGIN,
    END,
    list_beats,
    path_beside,
    remove_orphans,
)
from ecg_lib.operations.releases import Release
from ecg_lib.records.atomic_files import write_whole
from ecg_lib.records.documents.pages import write_html
from flows.doors.drift_report import EVIDENCE, PAGE
from flows.doors.ui.artifacts import escape_markdown
from flows.evaluation.retraining_outcome import HELD
from flows.monitoring.verdict.drifted_strips import choose_drifted
from flows.monitoring.verdict.trends import N_SHOWN, TrendPoint, draw_trends, trend_point

_TEMPLATE: Final = Path(__file__).with_name("verdict.html.jinja")
_N_HISTORY: Final = 12
_STAMP: Final = "%Y%m%dT%H%M%S%fZ"
_SHOWN_TIME: Final = "%Y-%m-%d %H:%M UTC"

_DRY_RUN: Final = "Nothing: this is a dry run, which stores and starts nothing."
_DONE: Final = {
    DriftAction.KEEP: "Nothing is started; the model goes on answering.",
    DriftAction.RETRAIN: "The pipeline is asked of Prefect: it trains a challenger, which replaces "
    "this model only if it is better.",
    DriftAction.ROLLBACK: "A rollback to the release before is asked of Prefect.",
}


class PastRow(NamedTuple):
    """An earlier check, in words."""

    at: str
    release: str
    action: str
    finding: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A check in words and figures."""

    action: DriftAction
    headline: str
    since: str
    certainty: str
    done: str
    is_evidence: bool
    """True when an action rests on it, so that its page is kept."""
    advice: tuple[str, ...]
    reasons: tuple[str, ...]
    alarms: tuple[str, ...]
    model: tuple[tuple[str, str], ...]
    window: tuple[tuple[str, str], ...]
    columns: tuple[ColumnDrift, ...]
    slices: tuple[SliceDrift, ...]
    history: tuple[PastRow, ...]
    trend: tuple[TrendPoint, ...] = ()
    """The last checks, this one too, oldest first."""
    policy: DriftPolicy
    """The limits."""

    @property
    def has_strips(self) -> bool:
        """True when a column drifted whose beats are shown as strips."""
        return choose_drifted(self.columns) is not None

    @property
    def answers(self) -> tuple[tuple[str, str], ...]:
        """The four questions of whoever opens the page."""
        return (
            ("Since when", self.since),
            ("How sure", self.certainty),
            ("What is done", self.done),
            ("What you can do", " ".join(self.advice)),
        )


def make_verdict(
    release: Release,
    decision: DriftDecision,
    evidence: DriftEvidence,
    volume: Volume,
    history: Sequence[PastCheck],
    *,
    since: datetime,
    now: datetime,
    policy: DriftPolicy,
    is_dry_run: bool = False,
    trend: tuple[TrendPoint, ...] = (),
) -> Verdict:
    """Put a check into words.

    Args:
        release: The served release.
        decision: What the check came to.
        evidence: What it found.
        volume: The traffic of its window.
        history: Earlier checks, latest first.
        since: Start of the window.
        now: Time of the check, and end of the window.
        policy: The limits.
        is_dry_run: True when nothing is done about it.
        trend: Figures of earlier checks, oldest first.
    """
    traffic = evidence.traffic
    refused = volume.refused
    return Verdict(
        action=decision.action,
        headline=_headline(decision),
        since=_since(decision, history, release, now=now),
        certainty=_certainty(decision, evidence, policy),
        done=_DRY_RUN if is_dry_run else _DONE[decision.action],
        is_evidence=decision.action is not DriftAction.KEEP and not is_dry_run,
        advice=_advise(decision, evidence),
        reasons=decision.reasons,
        alarms=decision.alarms,
        model=(
            ("Release", release.bento_tag),
            ("Model version", release.model_version),
            ("Bundle", release.bundle_hash[:12]),
            ("Released", _show(datetime.fromisoformat(release.released_at))),
        ),
        window=(
            ("Window", f"{_show(since)} to {_show(now)}"),
            ("Requests", f"{volume.answered + refused}, of which {refused} refused"),
            ("Compared", f"{traffic.n_strips} strips with {traffic.n_beats} beats"),
            ("Groups", f"{traffic.n_groups} patients, or clients that name none"),
            ("Reference", f"{traffic.n_reference_groups} people"),
        ),
        columns=traffic.columns,
        slices=evidence.slices,
        history=tuple(
            PastRow(_show(check.created_at), check.bento_tag, check.action.value, _found(check))
            for check in history[:_N_HISTORY]
        ),
        trend=(
            *trend,
            trend_point(
                now,
                release.bento_tag,
                decision.figures,
                is_conclusive=decision.is_conclusive,
            ),
        )[-N_SHOWN:],
        policy=policy,
    )


def _headline(decision: DriftDecision) -> str:  # noqa: PLR0911  one for each outcome
    usual = "what this site accepted as usual"
    if "baseline" not in decision.figures:
        usual = "what the model was made for"
    if decision.action is DriftAction.ROLLBACK:
        return "There is evidence against the model."
    if decision.action is DriftAction.RETRAIN:
        return f"The traffic is no longer {usual}."
    if HELD in decision.reasons[0]:
        return "A retraining is due, and held back until there is something new to learn from."
    if "cool-down" in decision.reasons[0]:
        return "An action is due, and held back because one was taken shortly before."
    if decision.is_breach:
        return "The traffic has moved; the next check, on new traffic, must confirm it."
    if not decision.is_conclusive:
        return "There is too little traffic of different people to tell."
    return f"The traffic is {usual}."


def _since(
    decision: DriftDecision, history: Sequence[PastCheck], release: Release, *, now: datetime
) -> str:
    if not decision.is_breach:
        return "No drift is open."
    drifted = [one for one in history if one.bundle_hash == release.bundle_hash and one.is_breach]
    n_before = decision.figures["n_breaches"] - 1
    first = drifted[n_before - 1].created_at if n_before else now
    return f"First seen in the check of {_show(first)}."


def _certainty(decision: DriftDecision, evidence: DriftEvidence, policy: DriftPolicy) -> str:
    if not decision.is_conclusive:
        return "Not at all: nothing is concluded from so little."
    columns = [one for one in evidence.traffic.columns if one.column not in HARMLESS_COLUMNS]
    if not columns:
        return "No column could be compared."
    least = min(columns, key=lambda one: (one.p_adjusted, -one.distance))
    chance = f"p = {least.p_adjusted:.3f} after correction for all columns ({least.column})"
    if decision.is_breach:
        return (
            f"A difference like this comes by chance with {chance}; "
            f"{policy.n_breaches} checks on separate traffic must agree before anything starts."
        )
    return f"The least likely column has {chance}; drift is called at {policy.comparison.alpha:g}."


def _advise(decision: DriftDecision, evidence: DriftEvidence) -> tuple[str, ...]:
    advice = []
    if not decision.is_conclusive:
        advice.append(
            "Send patient_id with each request: it is stored as a keyed hash, and traffic of "
            "clients that name no patient counts as that of one person a client."
        )
    if evidence.refused is not None and any("refused" in alarm for alarm in decision.alarms):
        advice.append("Look at electrodes, cables and the unit of the samples.")
    if any(one.is_drifted for one in evidence.slices):
        advice.append("Look at the slices below: one lead, device, site, rate or key differs.")
    if HELD in decision.reasons[0]:
        advice.append("Keep signals and label those of GET /api/v1/review-queue/.")
    elif decision.is_breach:
        advice.append("Label some of the new traffic: labels tell whether the classes are wrong.")
    if decision.action is DriftAction.ROLLBACK:
        advice.append("See `ecg releases` for what is served, `ecg rollback` for another release.")
    return tuple(advice) or ("Nothing needs to be done.",)


def _found(check: PastCheck) -> str:
    if not check.is_conclusive:
        return "too little traffic"
    return "drift" if check.is_breach else "no drift"


def _show(moment: datetime) -> str:
    return moment.strftime(_SHOWN_TIME)


def page_name(now: datetime) -> str:
    """Name the pages of a check, without suffix."""
    return f"{now:{_STAMP}}"


def write_page(verdict: Verdict, directory: Path, name: str, *, evidently: Path | None) -> Path:
    """Write the page of a verdict; `evidently` is a page beside it."""
    directory.mkdir(parents=True, exist_ok=True)
    end = EVIDENCE if verdict.is_evidence else ""
    path = directory / f"{name}{end}.html"
    values = {
        "v": verdict,
        "evidently": None if evidently is None else evidently.name,
        "harmless": HARMLESS_COLUMNS,
        "trends": draw_trends(verdict.trend, verdict.policy),
        "marks": (BEGIN, END),
    }
    write_whole(path, write_html(_TEMPLATE, values, filters={"effect": describe_effect}))
    return path


def describe_effect(drift: ColumnDrift) -> str:
    """Describe how far the middle of the groups moved, and in which unit."""
    if drift.effect is None:
        return "no spread"
    if drift.column in CATEGORICAL_COLUMNS:
        return f"{100 * drift.effect:+.1f} points"
    return f"{drift.effect:+.2f} IQR"


def remove_old_pages(directory: Path, *, before: datetime) -> int:
    """Remove the pages of checks that are no longer kept, and return how many they were."""
    limit, n_removed = page_name(before), 0
    for page in directory.glob("*.html"):
        if not page.stem.endswith((EVIDENCE, PAGE)) and page.stem < limit:
            path_beside(page).unlink(missing_ok=True)
            page.unlink(missing_ok=True)
            n_removed += 1
    return n_removed


def remove_old_beats(directory: Path, *, before: datetime) -> int:
    """Remove the beats of checks whose signals are no longer kept, also next to evidence.

    Beats whose page is gone are removed too. Returns how many files there were.
    """
    limit = page_name(before)
    old = [beats for beats in list_beats(directory) if beats.name < limit]
    for beats in old:
        beats.unlink(missing_ok=True)
    return len(old) + remove_orphans(directory)


def link_page(service: str, page: Path) -> str:
    """Address of a page of a check, of which the service shows those of this home."""
    return f"{service}/ops/drift/{page.stem}"


def to_markdown(
    verdict: Verdict, *, page: Path, evidently: Path | None, service: str, model: str
) -> str:
    """Write a verdict as Markdown, for the Prefect UI, with links to its pages and its model.

    Args:
        verdict: The verdict.
        page: Its page.
        evidently: Evidently's page, where there is one.
        service: Address of the service.
        model: Address of the model version in MLflow.
    """
    lines = [
        f"# {verdict.action.value}",
        "",
        f"**{verdict.headline}**",
        "",
        *(f"- {name}: {text}" for name, text in verdict.answers),
        "",
        *(f"- **Alarm:** {escape_markdown(alarm)}" for alarm in verdict.alarms),
        *(
            f"- {escape_markdown(reason)}"
            for reason in verdict.reasons
            if reason not in verdict.alarms
        ),
        "",
        *(f"- {name}: {text}" for name, text in (*verdict.model, *verdict.window)),
        "",
    ]
    if verdict.columns:
        lines += [
            "| column | reference | traffic | distance | effect | p | p (Holm) | drifted |",
            "|---|---|---|---:|---:|---:|---:|---|",
            *(
                f"| {drift.column} | {drift.reference} | {drift.current} | {drift.distance:.3f} "
                f"| {describe_effect(drift)} | {drift.p_value:.3f} | {drift.p_adjusted:.3f} "
                f"| {_say_drifted(drift)} |"
                for drift in verdict.columns
            ),
            "",
        ]
    if verdict.slices:
        lines += [
            "| slice | groups | strips | farthest column | distance | p | p (Holm) | drifted |",
            "|---|---:|---:|---|---:|---:|---:|---|",
            *(
                f"| {one.dimension} {escape_markdown(one.value)} | {one.n_groups} | {one.n_strips} "
                f"| {one.column} | {one.distance:.3f} | {one.p_value:.3f} | {one.p_adjusted:.3f} "
                f"| {'yes' if one.is_drifted else 'no'} |"
                for one in verdict.slices
            ),
            "",
        ]
    evidence = (
        f"[Evidently's report]({link_page(service, evidently)})"
        if evidently
        else "No Evidently report: too little traffic"
    )
    lines.append(
        f"[Page of this check]({link_page(service, page)}) · {evidence} · "
        f"[All checks]({service}/ops) · [Model in MLflow]({model})"
    )
    return "\n".join(lines)


def _say_drifted(drift: ColumnDrift) -> str:
    if not drift.is_drifted:
        return "no"
    return "harmless" if drift.column in HARMLESS_COLUMNS else "yes"
