"""The wire: what the service accepts and what it answers, with limits and descriptions.

Requests are validated by these models. Answers are built as plain dicts
(:mod:`bentos.wire.answers`), because a 24 h recording has 100,000 beats; the models of answers are
their documentation, and tests hold the one against the other.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal, NamedTuple, Self

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ecg_lib.classifier.bundle import BundleSource, DataSource
from ecg_lib.records.annotations import BeatType
from ecg_lib.records.limits import FS_HZ, MAX_FS_HZ, MIN_FS_HZ
from ecg_lib.rhythm.patterns import PatternKind, RunKind
from ecg_lib.rhythm.risk import RiskBasis, RiskLevel
from ecg_lib.signal_path.readability.findings import FindingKind
from ecg_lib.signal_path.readability.quality import UnreadableReason

MIN_DURATION_S: Final = 10.0
MAX_DURATION_S: Final = 30 * 60.0
MAX_SAMPLES: Final = round(MAX_DURATION_S * MAX_FS_HZ)
MAX_LABELS: Final = 10_000
MAX_OTHER_LEADS: Final = 14

_LAST: Final = 2**31 - 1
"""Last index of a beat or sample: 24 h at the highest sampling rate are fewer."""

Lead = Literal[
    "I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6",
    "MLI", "MLII", "MLIII", "MV1", "MV2", "V3R", "V4R", "V7", "V8", "V9",
    "CC5", "CM2", "CM5", "ML5", "CS2", "D3", "D4", "ES", "AS", "AI", "X", "Y", "Z",
    "ECG", "ECG1", "ECG2", "ECG3",
]  # fmt: skip
"""Names of leads: the standard twelve, right and posterior ones, Holter, EASI, Frank, unnamed."""


_PLACE: Final = r"^[A-Za-z0-9][A-Za-z0-9 ._:/-]*$"


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class PredictionParameters(_Request):
    """Parameters of a signal."""

    sampling_rate: float = Field(
        default=FS_HZ,
        ge=MIN_FS_HZ,
        le=MAX_FS_HZ,
        description="Samples per second; the signal is resampled from it.",
    )
    derivation: Lead = Field(default="MLII", description="Name of the lead.")
    patient_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="Whose ECG it is; kept only as a keyed hash.",
    )
    apply_ruleguard: bool = Field(
        default=True, description="Let the physiological rules correct unsure classes."
    )
    device: str | None = Field(
        default=None,
        max_length=64,
        pattern=_PLACE,
        description="Model of the recorder, by which monitoring compares; not its serial number.",
    )
    site: str | None = Field(
        default=None,
        max_length=64,
        pattern=_PLACE,
        description="Where it was recorded, such as a ward, by which monitoring compares.",
    )


class WrongDuration(NamedTuple):
    """Why a signal is too short or too long."""

    is_short: bool
    reason: str


def explain_duration(n_samples: int, sampling_rate: float) -> WrongDuration | None:
    """Explain why the length of a signal is wrong; None when it is right."""
    duration_s = n_samples / sampling_rate
    # Ten seconds at 128.5 Hz are 1285 samples or, cut to whole ones, 1284.
    is_short = n_samples < int(MIN_DURATION_S * sampling_rate)
    if not is_short and duration_s <= MAX_DURATION_S:
        return None
    bound = f"at least {MIN_DURATION_S:g}" if is_short else f"at most {MAX_DURATION_S:g}"
    return WrongDuration(is_short, f"signal_data must last {bound} s, got {duration_s:.2f} s")


class PredictionRequest(PredictionParameters):
    """One lead of an ECG."""

    signal_data: Annotated[list[float], FailFast()] = Field(
        description="Samples of one lead in mV, from 10 s to 30 min.",
        max_length=MAX_SAMPLES,
        # Not min_length: the error for a signal that is too short is in seconds.
        json_schema_extra={"minItems": round(MIN_DURATION_S * MIN_FS_HZ)},
    )

    leads: dict[Lead, Annotated[list[float], FailFast()]] = Field(
        default_factory=dict,
        max_length=MAX_OTHER_LEADS,
        description="Other leads of the same time in mV, each as long as `signal_data`; V1, else "
        "V5, V2 or the first, is used in the classification too. At most "
        f"{MAX_SAMPLES} samples with those of `signal_data`.",
    )

    @model_validator(mode="after")
    def _check_duration(self) -> Self:
        wrong = explain_duration(len(self.signal_data), self.sampling_rate)
        if wrong is None:
            return self
        code = "signal_too_short" if wrong.is_short else "signal_too_long"
        raise PydanticCustomError(code, "{reason}", {"reason": wrong.reason})

    @model_validator(mode="after")
    def _check_leads(self) -> Self:
        if self.derivation in self.leads:
            raise PydanticCustomError(
                "lead_twice",
                "{lead} is the lead of signal_data, leads must be others",
                {"lead": self.derivation},
            )
        for name, samples in self.leads.items():
            if len(samples) != len(self.signal_data):
                raise PydanticCustomError(
                    "lead_length",
                    "{lead} must have as many samples as signal_data, {expected}, got {found}",
                    {"lead": name, "expected": len(self.signal_data), "found": len(samples)},
                )
        return self


class BeatLabel(_Request):
    """The class that a reader gives to a beat."""

    beat_index: int = Field(ge=0, le=_LAST, description="`beat_index` of the prediction.")
    arrhythmia_type: Literal["N", "V"] = Field(description="The class by the reader.")


class FormLabel(_Request):
    """The class that a reader gives to all beats of one shape."""

    form: str = Field(
        pattern="^[A-Z]$",
        description="Name of the form, such as `B`: `form` of the beats of a prediction, or one of "
        "`morphologies.forms` of a recording.",
    )
    arrhythmia_type: Literal["N", "V"] = Field(description="The class by the reader.")


class MissedBeat(_Request):
    """A beat that was not detected."""

    position_sample: int = Field(
        ge=0,
        le=_LAST,
        description="R-peak, in samples of the request or of the recording's lead.",
    )
    arrhythmia_type: Literal["N", "V"] = Field(description="The class by the reader.")


class FalseDetection(_Request):
    """A detection that is not a beat."""

    beat_index: int = Field(ge=0, le=_LAST, description="`beat_index` of the prediction.")


class FeedbackRequest(_Request):
    """A reader's marks on a prediction or a recording."""

    prediction_id: str | None = Field(default=None, min_length=1, max_length=64)
    recording_id: str | None = Field(
        default=None, min_length=1, max_length=64, description="`job_id` of a recording."
    )
    labels: Annotated[list[BeatLabel], FailFast()] = Field(
        default_factory=list, max_length=MAX_LABELS
    )
    forms: Annotated[list[FormLabel], FailFast()] = Field(
        default_factory=list,
        max_length=26,
        description="Classes of all beats of a form; `labels` override them.",
    )
    missed_beats: Annotated[list[MissedBeat], FailFast()] = Field(
        default_factory=list, max_length=MAX_LABELS
    )
    false_detections: Annotated[list[FalseDetection], FailFast()] = Field(
        default_factory=list, max_length=MAX_LABELS
    )
    is_complete: bool = Field(
        default=False,
        description="The reader looked at every beat and confirms the class of those that are not "
        "named.",
    )
    annotator: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="The reader of the beats.",
    )

    @property
    def subject_id(self) -> str:
        """Id of the prediction or recording."""
        return self.prediction_id or self.recording_id or ""

    @model_validator(mode="after")
    def _check_subject(self) -> Self:
        if (self.prediction_id is None) == (self.recording_id is None):
            raise PydanticCustomError(
                "one_subject", "feedback must name one of prediction_id and recording_id"
            )
        return self

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        marked = (self.labels, self.forms, self.missed_beats, self.false_detections)
        if not any(marked) and not self.is_complete:
            raise PydanticCustomError("no_mark", "feedback must have at least one mark, got none")
        beats = [label.beat_index for label in self.labels]
        beats += [found.beat_index for found in self.false_detections]
        forms = [label.form for label in self.forms]
        missed = [beat.position_sample for beat in self.missed_beats]
        if len(set(beats)) < len(beats):
            raise PydanticCustomError(
                "repeated_beat",
                "labels and false_detections must name each beat_index once, one is there twice",
            )
        if len(set(forms)) < len(forms) or len(set(missed)) < len(missed):
            raise PydanticCustomError(
                "repeated_mark", "each form and position must be there once, one is there twice"
            )
        return self


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelInfo(_Answer):
    """Which model answered, and where it comes from."""

    name: str
    version: str = Field(description="Version in the registry, or `unregistered`.")
    bento_tag: str
    bundle_hash: str
    run_id: str
    dataset_version: str
    git_commit: str
    source: BundleSource
    data: DataSource = Field(description="The training data.")


class BeatPrediction(_Answer):
    """One detected beat; class and probabilities are null unless its quality is `ok`."""

    beat_index: int
    position_sample: int = Field(description="R-peak, in samples of the request.")
    arrhythmia_type: BeatType | None
    confidence: float | None = Field(description="Calibrated probability of the class reported.")
    rr_previous: float | None = Field(description="Seconds since the previous R-peak.")
    rr_next: float | None = Field(description="Seconds to the next R-peak.")
    probability_v: float | None
    qrs_width_ms: float | None
    rule: str | None = Field(description="The rule that changed the class.")
    quality: Literal["ok", "flat", "clipped", "noise", "flutter", "asystole", "paced"] = Field(
        description="Why a beat has no class; `ok` when it has one."
    )
    form: str | None = Field(
        description="Letter of the shape of the beat, `A` for the most frequent; null for a shape "
        "of its own. Feedback may label all beats of a form."
    )


class VentricularRun(_Answer):
    """Three or more V beats in a row."""

    first_beat: int
    beats: int
    start_s: float
    rate_bpm: float
    duration_s: float = Field(description="From the first R-peak to the last.")
    kind: RunKind = Field(description="The name for runs of this rate and length.")


class RhythmPattern(_Answer):
    """An episode of bigeminy or trigeminy."""

    kind: PatternKind
    start_s: float = Field(description="Time of its first V beat.")
    stop_s: float = Field(description="Time of its last V beat.")
    v_beats: int


class LongInterval(_Answer):
    """An RR interval of more than two seconds."""

    start_s: float
    duration_s: float
    follows_v: bool = Field(description="True after a V beat; part of it may be compensatory.")


class Rhythm(_Answer):
    """The rhythm of the readable beats."""

    heart_rate_bpm: float | None
    heart_rate_min_bpm: float | None
    heart_rate_max_bpm: float | None
    heart_rate_mean_bpm: float | None
    longest_rr_s: float | None
    pvc_burden: float = Field(description="Share of readable beats that are V, 0 to 1.")
    isolated: int
    couplets: int
    bigeminy_beats: int
    trigeminy_beats: int
    r_on_t: int
    couplet_starts_s: list[float] = Field(description="Time of the first beat of each couplet.")
    runs: list[VentricularRun]
    doubtful_runs: list[VentricularRun] = Field(
        description="Three and more V beats in a row that are too uncertain to count as a run."
    )
    patterns: list[RhythmPattern]
    pauses: list[LongInterval]


class UnreadableStretch(_Answer):
    """Samples in which no beats can be read."""

    start_sample: int
    end_sample: int = Field(description="First sample after the stretch.")
    reason: UnreadableReason


class SuspectedFinding(_Answer):
    """A suspicion in a part of the signal; not a diagnosis."""

    kind: FindingKind
    start_sample: int
    end_sample: int = Field(description="First sample after it.")
    text: str


class SignalQuality(_Answer):
    """How much of the signal could be read."""

    usable_share: float = Field(description="Share that is not flat, clipped, noise or missing.")
    warnings: list[str]
    per_second: list[float | None] = Field(
        description="Of each second begun, from 0 (no QRS complex stands out, or unreadable) to 1; "
        "null in suspected flutter and asystole, where there is none to judge by."
    )
    unreadable: list[UnreadableStretch]
    findings: list[SuspectedFinding] = Field(
        description="Ventricular flutter or fibrillation, asystole and pacing, as suspicions."
    )


class Prediction(_Answer):
    """The beats of the signal with their classes, and what they amount to."""

    prediction_id: str
    timestamp: datetime
    overall_arrhythmia_type: BeatType | None = Field(
        description="V if any readable beat is V, else N; null when no beat has a class."
    )
    confidence: float | None
    risk_level: RiskLevel = Field(description="How much attention it deserves; no diagnosis.")
    risk_basis: RiskBasis
    risk_reasons: list[str]
    total_beats_detected: int
    normal_beats: int
    ventricular_beats: int
    paced_beats: int = Field(description="Beats of a suspected pacemaker: neither N nor V.")
    unreadable_beats: int
    beat_predictions: list[BeatPrediction]
    rhythm: Rhythm
    signal_quality: SignalQuality
    threshold: float
    sampling_rate: float
    derivation: Lead
    second_lead: Lead | None = Field(
        description="The second lead that was used in the classification; null if none was."
    )
    duration_s: float
    ruleguard_applied: bool
    drawn_for_review: bool = Field(
        description="Part of the random sample that performance is measured on, when labelled."
    )
    processing_time_ms: float
    model: ModelInfo
    notice: str


class Feedback(_Answer):
    """The feedback was taken."""

    feedback_id: str
    prediction_id: str | None = Field(description="Null when it is of a recording.")
    recording_id: str | None = Field(description="Null when it is of a prediction.")
    timestamp: datetime
    verified: bool = Field(
        description="False when the prediction log could not be reached to check the beats."
    )


class GivenFeedback(_Answer):
    """Feedback that was given, as it was sent."""

    feedback_id: str
    timestamp: datetime
    annotator: str | None
    owner: str | None = Field(description="Hash of the API key that sent it; null without keys.")
    labels: list[BeatLabel]
    forms: list[FormLabel]
    missed_beats: list[MissedBeat]
    false_detections: list[FalseDetection]
    is_complete: bool
    is_withdrawn: bool


class MarkedCounts(_Answer):
    """Beats by class, as the marks correct them."""

    normal_beats: int
    ventricular_beats: int


class Marks(_Answer):
    """All marks on a prediction or a recording."""

    labels: list[BeatLabel] = Field(description="The latest class of each marked beat.")
    missed_beats: list[MissedBeat]
    false_detections: list[FalseDetection]
    is_complete: bool
    counts: MarkedCounts
    feedback: list[GivenFeedback] = Field(description="Oldest first, with what was withdrawn.")


class QueuedPrediction(_Answer):
    """A prediction that waits for a reader."""

    prediction_id: str
    timestamp: datetime
    drawn_for_review: bool = Field(description="Part of the random sample, which comes first.")
    doubt: float = Field(description="0 to 1.")
    reasons: list[str] = Field(description="Why it is worth a look, the strongest first.")
    derivation: Lead | None
    duration_s: float | None
    overall_arrhythmia_type: BeatType | None


class ReviewQueue(_Answer):
    """Predictions without labels that are most worth a look."""

    predictions: list[QueuedPrediction]


class ReviewQuery(BaseModel):
    """How much of the queue."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    limit: int = Field(default=20, ge=1, le=200)
    days: float = Field(default=14, gt=0, le=365, description="How far back predictions are.")


class RefusedRelease(_Answer):
    """A release that the service did not take."""

    bento_tag: str
    reason: str


class SpoolState(_Answer):
    """Answers that wait to be written into the prediction log."""

    waiting: int
    lost: int = Field(description="Rows that could be kept nowhere.")
    problem: str | None = Field(description="Why the log cannot be written now.")


class Health(_Answer):
    """How the service is."""

    status: Literal["ok", "degraded", "starting", "draining"]
    version: str
    model_loaded: bool
    timestamp: datetime
    model: ModelInfo | None
    refused: RefusedRelease | None
    prediction_log: SpoolState
    degraded: dict[str, str] = Field(
        description="Helpers of the platform that do not run now, and what they do."
    )


class ModelCard(_Answer):
    """The model that answers now."""

    model: ModelInfo
    created_at: str
    metrics: dict[str, object]
    config: dict[str, object] = Field(description="Every constant of the classifier.")
    library_versions: dict[str, str]
    model_card: str = Field(description="Markdown.")
    notice: str


class FieldError(_Answer):
    """The reason why a field is rejected."""

    field: str
    reason: str


class Problem(_Answer):
    """A problem (RFC 9457)."""

    type: str = Field(description="Stable name of the problem, like `/problems/signal-too-short`.")
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = None


class SignalTable(BaseModel):
    """The samples of a file, and what it says about them."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    kind: str = Field(description="`csv` or `npy`.")
    leads: tuple[str, ...]
    has_lead_names: bool = Field(description="False where names stand for places of columns.")
    lead: str | None = Field(description="The ECG by its name; null when it must be chosen.")
    sampling_rate: float | None = Field(description="Hz; null when the file does not state it.")
    units: tuple[str | None, ...] = Field(
        description="Of each lead: `mV`, or null when the file states none: samples are as they "
        "stand there."
    )
    missing: tuple[str, ...] = Field(
        description="Of `sampling_rate` and `unit` what must be asked for."
    )
    warnings: tuple[str, ...]
    columns: Annotated[
        tuple[NDArray[np.float32], ...],
        WithJsonSchema(TypeAdapter(list[list[float | None]]).json_schema()),
    ] = Field(description="Samples of each lead; null where one is missing.")

    def as_json(self) -> bytes:
        """Write as JSON; NaN is null."""
        return orjson.dumps(dict(self), option=orjson.OPT_SERIALIZE_NUMPY)
