"""The content of a recording's report, in order; HTML and PDF are written from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.recordings.report.charts import (
    GAINS_MM_PER_MV,
    draw_burden,
    draw_heart_rate,
    draw_intervals,
    draw_strip,
)
from ecg_lib.recordings.summary import RecordingSummary, format_clock
from ecg_lib.records.documents.drawing import Drawing
from ecg_lib.rhythm.morphology import MorphologyConfig
from ecg_lib.rhythm.patterns import Run, RunKind
from ecg_lib.rhythm.risk import BURDEN_FROM_S, NOTICE
from ecg_lib.signal_path.readability.findings import FINDING_WORDS, FindingKind
from ecg_lib.signal_path.readability.quality import UnreadableReason

TITLE: Final = "Long-term ECG: ventricular beats"

_MAX_ROWS: Final = 12
_KIND_WORDS: Final = {
    RunKind.NSVT: "VT, non-sustained",
    RunKind.SUSTAINED_VT: "VT, sustained (30 s or more)",
    RunKind.AIVR: "AIVR rate (50 to 100/min)",
    RunKind.ESCAPE: "escape rate (below 50/min)",
}


class Heading(NamedTuple):
    """A heading."""

    text: str

    @property
    def kind(self) -> str:
        """Name of the kind of block, for the template of the page."""
        return "heading"


class Paragraph(NamedTuple):
    """Some sentences."""

    text: str
    is_soft: bool = False

    @property
    def kind(self) -> str:
        """See :class:`Heading`."""
        return "paragraph"


class Facts(NamedTuple):
    """Names with their values."""

    rows: tuple[tuple[str, str], ...]

    @property
    def kind(self) -> str:
        """See :class:`Heading`."""
        return "facts"


class Table(NamedTuple):
    """Columns of figures; the first is text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def kind(self) -> str:
        """See :class:`Heading`."""
        return "table"


class Figure(NamedTuple):
    """A drawing."""

    drawing: Drawing

    @property
    def kind(self) -> str:
        """See :class:`Heading`."""
        return "figure"


Block = Heading | Paragraph | Facts | Table | Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report from top to bottom."""

    title: str
    subtitle: str
    level: str
    """Level of attention."""
    reasons: tuple[str, ...]
    """Why the level is what it is, and what that does not cover."""
    blocks: tuple[Block, ...]
    notice: str


def make_report(
    summary: RecordingSummary,
    signal_mv: NDArray[np.floating],
    *,
    model: Mapping[str, Any],
    analysed_at: str,
) -> Report:
    """Make the report of a recording.

    Parameters
    ----------
    summary : RecordingSummary
    signal_mv : ndarray of shape (n_samples,)
        The lead that was analysed, for strips.
    model : mapping
        Description of the model.
    analysed_at : str
        When, ISO 8601.

    """
    beats = summary.beats
    second = "" if summary.second_lead is None else f" with {summary.second_lead}"
    subtitle = f"lead {summary.lead}{second}, {_duration(beats.duration_s)}"
    if summary.start_clock_s is not None:
        subtitle += f", from {format_clock(summary.start_clock_s)}"
    limits = []
    if summary.risk.is_provisional:
        limits.append("The burden counts provisionally: it rests on less than 24 h.")
    if beats.duration_s < BURDEN_FROM_S:
        limits.append("The burden does not count: that needs an hour or more.")
    return Report(
        title=TITLE,
        subtitle=f"{subtitle}; analysed {analysed_at[:16].replace('T', ' ')} UTC",
        level=summary.risk.level.value,
        reasons=(*summary.risk.reasons, *limits),
        blocks=tuple(_list_blocks(summary, signal_mv, model)),
        notice=NOTICE,
    )


def _list_blocks(
    summary: RecordingSummary, signal_mv: NDArray[np.floating], model: Mapping[str, Any]
) -> Iterator[Block]:
    yield Facts(_list_origin(summary))
    yield Facts(_list_facts(summary))
    yield Heading("Over the recording")
    yield Figure(draw_heart_rate(summary))
    yield Figure(draw_burden(summary))
    yield Figure(draw_intervals(summary))
    yield Heading("Strips")
    yield Paragraph(
        "Each beat is marked N, V, P where a pacemaker seems to have made it, or ? where the "
        "signal cannot be read; between them are RR intervals in milliseconds. In the strip of a "
        "form its beats are marked with V and the letter of the form. A strip that does not fit at "
        f"{GAINS_MM_PER_MV[0]:g} mm/mV is drawn at a lower gain, and says so in red.",
        is_soft=True,
    )
    yield from (
        Figure(
            draw_strip(
                summary, signal_mv, middle_s=strip.middle_s, title=strip.title, form=strip.form
            )
        )
        for strip in _choose_strips(summary)
    )
    yield from _list_runs(summary)
    yield Heading("Hour by hour")
    yield _list_hours(summary)
    yield Paragraph(
        "Least and greatest heart rates are those of any eight RR intervals in a row, in the "
        "summary as in each hour.",
        is_soft=True,
    )
    yield Heading("Signal")
    yield Paragraph(_describe_quality(summary))
    yield from _list_findings(summary)
    yield Heading("How this was made")
    yield Facts(tuple((name, str(value)) for name, value in model.items()))


def _list_origin(summary: RecordingSummary) -> tuple[tuple[str, str], ...]:
    """Name file, patient and start where they are known."""
    start_s, source = summary.start_clock_s, summary.source
    return (
        ("File", source.file or "not stated"),
        ("Patient reference", source.patient or "not stated"),
        ("Starts at", "not stated" if start_s is None else format_clock(start_s)),
    )


def _list_facts(summary: RecordingSummary) -> tuple[tuple[str, str], ...]:
    rhythm, hrv = summary.rhythm, summary.variability
    rows = [
        ("Beats that can be read", f"{rhythm.beats:,}"),
        (
            "V beats",
            f"{rhythm.v_beats:,}, {rhythm.burden:.2%} of all, {summary.v_per_hour:.1f} an hour",
        ),
        (
            "Isolated, couplets, runs",
            f"{rhythm.isolated:,}, {rhythm.couplets:,}, {len(rhythm.runs):,}",
        ),
        (
            "V beats in bigeminy, trigeminy",
            f"{rhythm.bigeminy_beats:,}, {rhythm.trigeminy_beats:,}",
        ),
        ("Forms of V beats", _describe_forms(summary)),
        ("R-on-T candidates", f"{rhythm.r_on_t:,}"),
        (
            "Heart rate, least, mean, greatest",
            ", ".join(
                _rate(rate)
                for rate in (
                    rhythm.heart_rate_min_bpm,
                    rhythm.heart_rate_mean_bpm,
                    rhythm.heart_rate_max_bpm,
                )
            ),
        ),
        (
            "Pauses of more than 2 s, 3 s",
            f"{len(rhythm.pauses)}, {rhythm.long_pauses}"
            + (
                f"; the longest {max(pause.duration_s for pause in rhythm.pauses):.1f} s"
                if rhythm.pauses
                else ""
            ),
        ),
    ]
    if rhythm.coupling is not None:
        coupling = rhythm.coupling
        rows.append(
            (
                "Coupling of V beats",
                (
                    f"median {coupling.median_s * 1e3:.0f} ms, quartiles "
                    f"{coupling.iqr_s * 1e3:.0f} ms apart, "
                    f"shortest {coupling.shortest_s * 1e3:.0f} ms"
                ),
            )
        )
    rows.append(
        (
            "Variability of normal intervals",
            f"SDNN {hrv.sdnn_ms:.0f} ms, RMSSD {hrv.rmssd_ms:.0f} ms"
            if hrv.sdnn_ms is not None and hrv.rmssd_ms is not None
            else "not given: too few normal intervals, or too many others",
        )
    )
    share = summary.beats.readable_s / summary.beats.duration_s
    rows.append(("Could be read", f"{share:.1%} of {_duration(summary.beats.duration_s)}"))
    return tuple(rows)


def _describe_forms(summary: RecordingSummary) -> str:
    if not summary.forms:
        needed = MorphologyConfig()
        return (
            f"none that counts ({needed.min_beats} beats and {needed.min_share:.0%} of the V beats "
            "are needed)"
        )
    named = ", ".join(f"{form.name} {form.beats:,}" for form in summary.forms)
    other = int((summary.form_of_v < 0).sum())
    return f"{len(summary.forms)}: {named}" + (f"; {other:,} others" if other else "")


class _Strip(NamedTuple):
    middle_s: float
    title: str
    form: int | None = None
    """Index of the form whose beats are marked with its letter."""


def _choose_strips(summary: RecordingSummary) -> Iterator[_Strip]:
    for number, form in enumerate(summary.forms):
        title = f"Form {form.name} of V beats ({form.beats:,} beats)"
        yield _Strip(form.example_s, title, number)
    runs = summary.rhythm.runs
    if runs:
        longest = max(runs, key=lambda run: (run.beats, run.rate_bpm))
        title = f"Longest run: {longest.beats} beats at {longest.rate_bpm:.0f}/min"
        yield _Strip(_middle_of(longest), title)
        fastest = max(runs, key=lambda run: run.rate_bpm)
        if fastest is not longest:
            title = f"Fastest run: {fastest.beats} beats at {fastest.rate_bpm:.0f}/min"
            yield _Strip(_middle_of(fastest), title)
    if summary.rhythm.pauses:
        pause = max(summary.rhythm.pauses, key=lambda pause: pause.duration_s)
        title = f"Longest pause: {pause.duration_s:.1f} s"
        yield _Strip(pause.start_s + pause.duration_s / 2, title)
    if not (summary.forms or runs) and summary.rhythm.v_beats:
        first = int(np.flatnonzero(summary.beats.is_v)[0])
        yield _Strip(float(summary.beats.r_peaks[first] / summary.beats.fs), "First V beat")
    if not summary.rhythm.v_beats and summary.rhythm.beats:
        middle = int(np.flatnonzero(summary.beats.is_readable)[summary.rhythm.beats // 2])
        yield _Strip(float(summary.beats.r_peaks[middle] / summary.beats.fs), "From the middle")


def _middle_of(run: Run) -> float:
    # The beginning of a run that is longer than a strip, with a second before it.
    return run.start_s + min(run.duration_s / 2, 2.5)


def _list_runs(summary: RecordingSummary) -> Iterator[Block]:
    yield from _table_of_runs("Runs of three or more V beats", summary, summary.rhythm.runs)
    title = "Doubtful runs: too uncertain to count as runs"
    yield from _table_of_runs(title, summary, summary.rhythm.doubtful_runs)


def _table_of_runs(
    title: str, summary: RecordingSummary, found: tuple[Run, ...]
) -> Iterator[Block]:
    runs = sorted(found, key=lambda run: (-run.beats, run.start_s))
    if not runs:
        return
    yield Heading(title)
    if len(runs) > _MAX_ROWS:
        yield Paragraph(f"The {_MAX_ROWS} longest of {len(runs):,}.", is_soft=True)
    yield Table(
        ("Begins", "Beats", "Lasts (s)", "Rate (/min)", "Kind by rate and length"),
        tuple(
            (
                summary.name_time(run.start_s),
                f"{run.beats}",
                f"{run.duration_s:.1f}",
                f"{run.rate_bpm:.0f}",
                _KIND_WORDS[run.kind],
            )
            for run in runs[:_MAX_ROWS]
        ),
    )


def _list_hours(summary: RecordingSummary) -> Table:
    return Table(
        ("From", "Beats", "V", "V share", "Couplets", "Runs", "HR min", "mean", "max", "Read"),
        tuple(
            (
                summary.name_time(hour.start_s)[:-3],
                f"{hour.beats:,}",
                f"{hour.v_beats:,}",
                "-" if hour.burden is None else f"{hour.burden:.2%}",
                f"{hour.couplets}",
                f"{hour.runs}",
                *(
                    _number(rate)
                    for rate in (
                        hour.heart_rate_min_bpm,
                        hour.heart_rate_mean_bpm,
                        hour.heart_rate_max_bpm,
                    )
                ),
                f"{hour.readable_s / hour.duration_s:.0%}",
            )
            for hour in summary.hours
        ),
    )


def _list_findings(summary: RecordingSummary) -> Iterator[Block]:
    findings = summary.beats.findings
    if not findings:
        return
    yield Heading("Suspected")
    if len(findings) > _MAX_ROWS:
        yield Paragraph(f"The first {_MAX_ROWS} of {len(findings):,}.", is_soft=True)
    fs = summary.beats.fs
    yield Table(
        ("What", "Begins", "Lasts (s)"),
        tuple(
            (
                FINDING_WORDS[finding.kind],
                summary.name_time(finding.start / fs),
                f"{(finding.stop - finding.start) / fs:.1f}",
            )
            for finding in sorted(findings, key=lambda finding: finding.kind is FindingKind.PACING)[
                :_MAX_ROWS
            ]
        ),
    )


def _describe_quality(summary: RecordingSummary) -> str:
    beats = summary.beats
    unread = [s for s in beats.unreadable if s.reason is not UnreadableReason.FLUTTER]
    if not unread:
        text = "All of the recording could be read."
    else:
        seconds: dict[str, float] = {}
        for stretch in unread:
            length_s = (stretch.stop - stretch.start) / beats.fs
            seconds[stretch.reason.value] = seconds.get(stretch.reason.value, 0.0) + length_s
        named = ", ".join(f"{reason} {_duration(length_s)}" for reason, length_s in seconds.items())
        stretches = "1 stretch" if len(unread) == 1 else f"{len(unread):,} stretches"
        text = (
            f"{_duration(beats.unreadable_s)} in {stretches} could not be "
            f"read ({named}); beats there have no class and are not counted."
        )
    if beats.flutter_s:
        text += (
            f" {_duration(beats.flutter_s)} of what could be read is suspected flutter, "
            "whose waves are not beats."
        )
    if beats.invalid_samples:
        text += f" {beats.invalid_samples:,} samples are marked as missing in the file."
    return " ".join([text, *(f"Warning: {warning}." for warning in summary.warnings)])


def _rate(rate_bpm: float | None) -> str:
    return "-" if rate_bpm is None else f"{rate_bpm:.0f}/min"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _duration(duration_s: float) -> str:
    hours, minutes = divmod(round(duration_s) // 60, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {round(duration_s) % 60:02d} s" if minutes else f"{duration_s:.1f} s"
