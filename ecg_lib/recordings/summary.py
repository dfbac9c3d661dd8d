"""Sum up the beats of a recording: as values, and as the JSON of the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.recordings.long_recordings import RecordingBeats
from ecg_lib.rhythm.description import (
    describe_beat_counts,
    describe_pattern,
    describe_pause,
    describe_rhythm,
    describe_risk,
    describe_run,
)
from ecg_lib.rhythm.heart_rate import (
    HeartRateVariability,
    Hour,
    describe_hours,
    heart_rate_by_minute,
    measure_variability,
)
from ecg_lib.rhythm.morphology import Morphologies, MorphologyConfig, group_shapes
from ecg_lib.rhythm.patterns import LONG_PAUSE_S, PAUSE_S, RhythmSummary, summarize_rhythm
from ecg_lib.rhythm.risk import NOTICE, Risk, RiskBasis, assess_risk
from ecg_lib.rhythm.strip_forms import FORMS
from ecg_lib.signal_path.readability.findings import FINDING_WORDS, list_alarms
from ecg_lib.signal_path.readability.plausibility import list_doubts

_DAY_S: Final = 86_400.0


class ResultFormat(StrEnum):
    """Format of a result."""

    JSON = "json"
    CSV = "csv"
    ATR = "atr"
    FHIR = "fhir"
    HTML = "html"
    PDF = "pdf"

    @property
    def file_name(self) -> str:
        """Name of the file in a directory of results."""
        return {"json": "summary.json", "csv": "beats.csv", "atr": "beats.pvc"}.get(
            self.value, "fhir.json" if self is ResultFormat.FHIR else f"report.{self.value}"
        )

    @property
    def suffix(self) -> str:
        """Suffix after the name of a recording; files with it are results, not recordings."""
        suffixes = {"csv": ".beats.csv", "atr": ".pvc", "fhir": ".fhir.json"}
        return suffixes.get(self.value, f".{self.value}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Form:
    """V beats of one shape."""

    name: str
    """``A`` for the most frequent one, and so on."""
    beats: int
    example_s: float
    """Time of the beat that is most like all of them."""
    example_beat: int
    coupling_ms: float | None
    """Median interval from the conducted beat before; None when V beats come before all."""
    qrs_width_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingSource:
    """Where a recording is from, as far as it is known and may be written into results."""

    file: str | None = None
    """Name of the file."""
    patient: str | None = None
    """Reference of the patient."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordingSummary:
    """A recording, its beats and everything that was found out about them."""

    source: RecordingSource
    lead: str
    second_lead: str | None
    leads: tuple[str, ...]
    start_clock_s: float | None
    beats: RecordingBeats
    rhythm: RhythmSummary
    hours: tuple[Hour, ...]
    rate_by_minute_bpm: NDArray[np.float64]
    variability: HeartRateVariability
    forms: tuple[Form, ...]
    form_of_v: NDArray[np.int64]
    """Index into `forms` of each V beat, or -1."""
    risk: Risk
    warnings: tuple[str, ...] = ()
    """Assumptions about the file, and doubts that the signal raises."""

    @property
    def overall(self) -> str | None:
        """``V`` if any readable beat is V, else ``N``; None when no beat has a class."""
        if self.rhythm.v_beats:
            return "V"
        return "N" if self.beats.has_class.any() else None

    @property
    def form_of_beats(self) -> NDArray[np.int64]:
        """Index into `forms` of each beat, or -1."""
        forms = np.full(len(self.beats), -1)
        forms[self.beats.is_v] = self.form_of_v
        return forms

    @property
    def v_per_hour(self) -> float:
        """V beats in an hour that can be read."""
        return self.rhythm.v_per_hour(self.beats.readable_s)

    def name_time(self, time_s: float) -> str:
        """Format a time as ``HH:MM:SS``: of the day where that is known, else since the start.

        In recordings of more than a day the number of the day comes before the time of day:
        ``d2 06:30:00`` is on the day after the one on which the recording begins.
        """
        if self.start_clock_s is None:
            seconds = int(time_s)
            return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        clock_s = self.start_clock_s + time_s
        day = f"d{int(clock_s // _DAY_S) + 1} " if self.beats.duration_s > _DAY_S else ""
        return day + format_clock(clock_s)


def summarize_recording(
    beats: RecordingBeats,
    *,
    lead: str,
    second_lead: str | None = None,
    leads: tuple[str, ...],
    start_clock_s: float | None = None,
    source: RecordingSource | None = None,
    warnings: tuple[str, ...] = (),
) -> RecordingSummary:
    """Sum up a recording.

    Parameters
    ----------
    beats : RecordingBeats
    lead : str
        Name of the lead that was analysed.
    second_lead : str, optional
        Name of the second lead that was used in the classification.
    leads : tuple of str
        Names of all leads.
    start_clock_s : float, optional
        Time of day at which the recording begins, in seconds since midnight.
    source : RecordingSource, optional
        Where the recording is from; unknown when left out.
    warnings : tuple of str
        What was assumed of the file.

    """
    rhythm = summarize_rhythm(
        beats.r_peaks,
        is_v=beats.is_v,
        is_readable=beats.is_readable,
        fs=beats.fs,
        unreadable=beats.unreadable,
        is_paced=beats.is_paced,
        is_credible=beats.is_credible,
    )
    grouped = group_shapes(beats.v_shapes)
    doubts = list_doubts(beats, what="samples")
    return RecordingSummary(
        source=source or RecordingSource(),
        lead=lead,
        second_lead=second_lead,
        leads=leads,
        start_clock_s=start_clock_s,
        beats=beats,
        rhythm=rhythm,
        hours=describe_hours(
            beats.r_peaks,
            is_v=beats.is_v,
            is_readable=beats.is_readable,
            fs=beats.fs,
            duration_s=beats.duration_s,
            rhythm=rhythm,
            unreadable=beats.unreadable,
        ),
        rate_by_minute_bpm=heart_rate_by_minute(
            beats.r_peaks,
            is_readable=beats.is_readable,
            fs=beats.fs,
            duration_s=beats.duration_s,
            unreadable=beats.unreadable,
        ),
        variability=measure_variability(
            beats.r_peaks,
            is_v=beats.is_v,
            is_readable=beats.is_readable,
            fs=beats.fs,
            unreadable=beats.unreadable,
            is_paced=beats.is_paced,
        ),
        forms=tuple(_describe_forms(beats, grouped)),
        form_of_v=grouped.labels,
        risk=assess_risk(
            rhythm,
            duration_s=beats.duration_s,
            readable_s=beats.readable_s,
            alarms=list_alarms(beats.findings, fs=beats.fs),
            basis=RiskBasis.RECORDING,
            doubts=doubts,
        ),
        warnings=(*warnings, *doubts),
    )


def _describe_forms(beats: RecordingBeats, grouped: Morphologies) -> list[Form]:
    of_v = np.flatnonzero(beats.is_v)
    is_conducted = ~beats.is_v & beats.has_class
    follows = np.concatenate([[False], is_conducted[:-1]])
    forms = []
    for number, example in enumerate(grouped.examples.tolist()):
        mine = of_v[grouped.labels == number]
        coupling_s = beats.rr_prev_s[mine][follows[mine]]
        forms.append(
            Form(
                name=FORMS[number],
                beats=len(mine),
                example_s=float(beats.r_peaks[of_v[example]] / beats.fs),
                example_beat=int(of_v[example]),
                coupling_ms=float(np.median(coupling_s) * 1e3) if len(coupling_s) else None,
                qrs_width_ms=float(np.median(beats.qrs_width_s[mine]) * 1e3),
            )
        )
    return forms


def describe_summary(
    summary: RecordingSummary, *, model: Mapping[str, Any], analysed_at: str
) -> dict[str, Any]:
    """Describe a summary as a dict that is ready for JSON.

    Parameters
    ----------
    summary : RecordingSummary
    model : mapping
        What is said about the model that classified the beats.
    analysed_at : str
        When, ISO 8601.

    """
    beats, rhythm, risk = summary.beats, summary.rhythm, summary.risk
    return {
        "analysed_at": analysed_at,
        "recording": {
            "file": summary.source.file,
            "patient_reference": summary.source.patient,
            "duration_s": beats.duration_s,
            "sampling_rate": beats.fs,
            "samples": beats.n_samples,
            "lead": summary.lead,
            "second_lead": summary.second_lead,
            "leads": list(summary.leads),
            "start_clock": (
                None if summary.start_clock_s is None else format_clock(summary.start_clock_s)
            ),
        },
        "overall_arrhythmia_type": summary.overall,
        **describe_risk(risk),
        "risk_is_provisional": risk.is_provisional,
        **describe_beat_counts(rhythm, detected=len(beats), paced=int(beats.is_paced.sum())),
        "rhythm": _describe_rhythm(summary),
        "hours": [asdict(hour) for hour in summary.hours],
        "heart_rate_variability": asdict(summary.variability),
        "runs": [describe_run(run) for run in rhythm.runs],
        "doubtful_runs": [describe_run(run) for run in rhythm.doubtful_runs],
        "couplets": list(rhythm.couplet_starts_s),
        "r_on_t": list(rhythm.r_on_t_s),
        "patterns": [describe_pattern(pattern) for pattern in rhythm.patterns],
        "pauses": [describe_pause(pause) for pause in rhythm.pauses],
        "morphologies": {
            "count": len(summary.forms),
            "min_beats": MorphologyConfig().min_beats,
            "min_share": MorphologyConfig().min_share,
            "other_beats": int((summary.form_of_v < 0).sum()),
            "forms": [asdict(form) for form in summary.forms],
        },
        "signal_quality": {
            "usable_share": beats.readable_s / beats.duration_s,
            "unreadable_s": beats.unreadable_s,
            "missing_s": beats.missing_s,
            "warnings": list(summary.warnings),
            "invalid_samples": beats.invalid_samples,
            "unreadable": [
                {
                    "start_s": stretch.start / beats.fs,
                    "end_s": stretch.stop / beats.fs,
                    "reason": stretch.reason.value,
                }
                for stretch in beats.unreadable
            ],
            "per_minute": _quality_by_minute(beats),
            "findings": [
                {
                    "kind": finding.kind.value,
                    "start_s": finding.start / beats.fs,
                    "end_s": finding.stop / beats.fs,
                    "text": FINDING_WORDS[finding.kind],
                }
                for finding in beats.findings
            ],
        },
        "threshold": beats.threshold,
        "model": dict(model),
        "notice": NOTICE,
    }


def _quality_by_minute(beats: RecordingBeats) -> list[float | None]:
    """Mean quality of the seconds of each minute begun; None without a second to judge by."""
    per_second = beats.quality_per_second
    minutes = [per_second[start : start + 60] for start in range(0, len(per_second), 60)]
    known = [minute[np.isfinite(minute)] for minute in minutes]
    return [round(float(minute.mean()), 2) if len(minute) else None for minute in known]


def _describe_rhythm(summary: RecordingSummary) -> dict[str, Any]:
    rhythm, coupling = summary.rhythm, summary.rhythm.coupling
    return {
        **describe_rhythm(rhythm),
        "pvc_per_hour": summary.v_per_hour,
        "runs": len(rhythm.runs),
        "longest_run_beats": max((run.beats for run in rhythm.runs), default=0),
        "fastest_run_bpm": max((run.rate_bpm for run in rhythm.runs), default=None),
        "pauses": len(rhythm.pauses),
        "pause_limit_s": PAUSE_S,
        "long_pauses": rhythm.long_pauses,
        "long_pause_limit_s": LONG_PAUSE_S,
        "coupling_median_ms": coupling.median_s * 1e3 if coupling else None,
        "coupling_iqr_ms": coupling.iqr_s * 1e3 if coupling else None,
        "coupling_shortest_ms": coupling.shortest_s * 1e3 if coupling else None,
    }


def format_clock(clock_s: float) -> str:
    """Format seconds since midnight as ``HH:MM:SS``, past midnight too."""
    seconds = int(clock_s) % 86_400
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
