"""A client of the service, for Python: typed answers, problems as exceptions, retries that wait.

::

    with EcgClient("http://127.0.0.1:3000") as client:
        prediction = client.predict(signal_mv, sampling_rate=250)
        for beat in prediction.ventricular:
            print(beat.position_sample, beat.probability_v)

It needs httpx and numpy and nothing else of this project, so this file may be copied.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self, TypeVar

import httpx
import numpy as np
from numpy.typing import ArrayLike, NDArray

RETRIED: Final = frozenset({429, 503})
"""Statuses after which a request is sent again, after the time that the service states."""

BeatClass = Literal["N", "V"]
T = TypeVar("T")

_FIRST_WAIT_S: Final = 0.5


class ClientError(Exception):
    """Base of what the client raises."""


class UnreachableError(ClientError):
    """The service cannot be reached, or does not answer."""


class UnexpectedAnswerError(ClientError):
    """The answer is not from this service, or a version that this client does not know."""


class ServiceProblemError(ClientError):
    """The service answered with a problem (RFC 9457).

    Parameters
    ----------
    problem : dict
        Its body.
    request_id : str
        What the log of the service calls the request.
    retry_after_s : float, optional
        When it may be worth another try.

    """

    def __init__(
        self, problem: Mapping[str, Any], *, request_id: str, retry_after_s: float | None
    ) -> None:
        self.name = str(problem.get("type", "")).rpartition("/")[2]
        """Stable name, such as ``signal-too-short``."""
        self.status = int(problem.get("status", 0))
        self.title = str(problem.get("title", ""))
        self.detail = str(problem.get("detail", ""))
        self.errors = tuple(
            (str(error["field"]), str(error["reason"])) for error in problem.get("errors", ())
        )
        """Fields that are wrong, and why."""
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        super().__init__(f"{self.status} {self.name}: {self.detail} (request {request_id})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """One beat; class and probabilities are None unless its quality is ``ok``."""

    beat_index: int
    position_sample: int
    """R-peak, in samples of the signal that was sent."""
    arrhythmia_type: BeatClass | None
    confidence: float | None
    rr_previous: float | None
    rr_next: float | None
    probability_v: float | None
    qrs_width_ms: float | None
    rule: str | None
    quality: str
    form: str | None = None
    """Letter of the beats of its shape; None for one that looks like no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The model that answered."""

    name: str
    version: str
    bento_tag: str
    bundle_hash: str
    run_id: str
    dataset_version: str
    git_commit: str
    source: str
    data: str
    """The training data: ``mitdb`` or ``simulated``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The beats of a signal and what they amount to."""

    prediction_id: str
    timestamp: datetime
    overall_arrhythmia_type: BeatClass | None
    """None when no beat has a class."""
    confidence: float | None
    risk_level: str
    risk_reasons: tuple[str, ...]
    total_beats_detected: int
    normal_beats: int
    ventricular_beats: int
    paced_beats: int
    unreadable_beats: int
    beats: tuple[Beat, ...]
    rhythm: Mapping[str, Any]
    signal_quality: Mapping[str, Any]
    threshold: float
    sampling_rate: float
    derivation: str
    second_lead: str | None = None
    duration_s: float
    model: Model
    raw: Mapping[str, Any] = field(repr=False)
    """The whole answer, with what this client does not name."""

    @property
    def ventricular(self) -> tuple[Beat, ...]:
        """The V beats."""
        return tuple(beat for beat in self.beats if beat.arrhythmia_type == "V")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackReceipt:
    """Feedback was taken."""

    feedback_id: str
    prediction_id: str | None
    """None when it is of a recording."""
    timestamp: datetime
    verified: bool
    recording_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How the service is."""

    status: str
    version: str
    model_loaded: bool
    model: Model | None


class ExampleStrip(NamedTuple):
    """A simulated strip."""

    signal_mv: NDArray[np.float64]
    sampling_rate: float


class EcgClient:
    """Talks with one service; safe to use from several threads.

    Parameters
    ----------
    base_url : str
        Address of the service.
    api_key : str, optional
        For services that ask for one.
    timeout_s : float
        How long to wait for an answer.
    attempts : int
        How often a request is sent when the service is busy (429, 503) or not there yet.
    longest_wait_s : float
        A service that wants more patience than this is not asked again.
    sleep : callable
        Waits some seconds.

    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:3000",
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        attempts: int = 4,
        longest_wait_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if attempts < 1:
            msg = f"attempts must be at least 1, got {attempts}"
            raise ValueError(msg)
        self._http = httpx.Client(
            base_url=base_url,
            timeout=timeout_s,
            headers={"X-API-Key": api_key} if api_key else None,
        )
        self._attempts = attempts
        self._longest_wait_s = longest_wait_s
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(
        self,
        signal_mv: ArrayLike,
        *,
        sampling_rate: float = 360.0,
        derivation: str = "MLII",
        leads: Mapping[str, ArrayLike] | None = None,
        patient_id: str | None = None,
        apply_ruleguard: bool = True,
        device: str | None = None,
        site: str | None = None,
    ) -> Prediction:
        """Find and classify the beats of one lead.

        The samples are sent as they are: float32 in half the bytes of float64. With a patient's
        identifier everything goes into a JSON body, as proxies log addresses; so it does with other
        leads.

        Parameters
        ----------
        signal_mv : array_like of shape (n_samples,)
            Samples in mV, from 10 s to 30 min.
        sampling_rate : float
            Samples per second, 100 to 1000.
        derivation : str
            Name of the lead.
        leads : mapping of str to array_like, optional
            Other leads of the same time by name, in mV, each as long as `signal_mv`; one of them
            is used in the classification.
        patient_id : str, optional
            Whose ECG it is; the service keeps a keyed hash.
        apply_ruleguard : bool
            Let the physiological rules correct unsure classes.
        device, site : str, optional
            Model of the recorder and where it was used; monitoring compares by them.

        Raises
        ------
        ServiceProblemError
            If the service refuses the signal, or is too busy still.
        UnreachableError
            If there is no answer.

        """
        samples = np.asarray(signal_mv)
        if samples.dtype.kind != "f" or samples.dtype.itemsize not in {4, 8}:
            samples = samples.astype(np.float64)
        said: dict[str, Any] = {
            "sampling_rate": sampling_rate,
            "derivation": derivation,
            "apply_ruleguard": apply_ruleguard,
            **({} if device is None else {"device": device}),
            **({} if site is None else {"site": site}),
        }
        if patient_id is not None or leads:
            others = {name: np.asarray(lead).tolist() for name, lead in (leads or {}).items()}
            body = {
                "signal_data": samples.tolist(),
                **({} if patient_id is None else {"patient_id": patient_id}),
                **({"leads": others} if others else {}),
                **said,
            }
            answer = self._ask("POST", "/api/v1/predictions/", json=body)
        else:
            file = io.BytesIO()
            np.lib.format.write_array(file, np.ascontiguousarray(samples), allow_pickle=False)
            answer = self._ask(
                "POST",
                "/api/v1/predictions/",
                params={**said, "apply_ruleguard": str(apply_ruleguard).lower()},
                content=file.getvalue(),
                headers={"Content-Type": "application/x-npy"},
            )
        return _prediction_of(answer)

    def get_prediction(self, prediction_id: str) -> Prediction:
        """Get a prediction that was made before.

        Raises
        ------
        ServiceProblemError
            With the name ``unknown-prediction`` if there is none.

        """
        return _prediction_of(self._ask("GET", f"/api/v1/predictions/{prediction_id}"))

    def give_feedback(
        self,
        prediction_id: str,
        labels: Mapping[int, BeatClass],
        *,
        missed: Mapping[int, BeatClass] | None = None,
        false_detections: Sequence[int] = (),
        is_complete: bool = False,
        annotator: str | None = None,
    ) -> FeedbackReceipt:
        """Send the marks that a reader makes on beats.

        Parameters
        ----------
        prediction_id : str
        labels : mapping of int to str
            ``N`` or ``V`` by index of the beat.
        missed : mapping of int to str, optional
            ``N`` or ``V`` of beats that were not detected, by sample of the request.
        false_detections : sequence of int
            Indices of detections that are not beats.
        is_complete : bool
            Confirm the class of all beats that are not named.
        annotator : str, optional
            Who read the beats.

        """
        body: dict[str, Any] = {
            "prediction_id": prediction_id,
            "labels": [
                {"beat_index": index, "arrhythmia_type": label} for index, label in labels.items()
            ],
        }
        if missed:
            body["missed_beats"] = [
                {"position_sample": sample, "arrhythmia_type": label}
                for sample, label in missed.items()
            ]
        if false_detections:
            body["false_detections"] = [{"beat_index": index} for index in false_detections]
        if is_complete:
            body["is_complete"] = True
        if annotator is not None:
            body["annotator"] = annotator
        answer = self._ask("POST", "/api/v1/feedback/", json=body)
        return _build(FeedbackReceipt, answer, timestamp=_moment(answer))

    def get_health(self) -> Health:
        """Ask how the service is; one without a model answers too."""
        answer = self._ask("GET", "/health", accepted=(200, 503))
        model = answer.get("model")
        return _build(Health, answer, model=_build(Model, model) if model else None)

    def get_example(self, kind: str = "isolated_pvc") -> ExampleStrip:
        """Get a simulated strip whose rhythm is known; an error for a wrong kind lists all."""
        answer = self._ask("GET", f"/api/v1/examples/{kind}")
        return ExampleStrip(np.array(answer["signal_data"]), answer["sampling_rate"])

    def get_model_card(self) -> dict[str, Any]:
        """Get figures, constants and origin of the model that answers."""
        return self._ask("GET", "/api/v1/model/")

    def _ask(
        self,
        method: str,
        path: str,
        *,
        accepted: tuple[int, ...] = (200, 201),
        **options: Any,  # noqa: ANN401  httpx's own
    ) -> dict[str, Any]:
        wait_s = _FIRST_WAIT_S
        for attempt in range(1, self._attempts + 1):
            is_last = attempt == self._attempts
            try:
                answered = self._http.request(method, path, **options)
            except httpx.ConnectError as error:
                if is_last:
                    raise UnreachableError(_explain(error)) from error
            except httpx.HTTPError as error:
                # It may have been taken: whoever sends it again does so knowingly.
                raise UnreachableError(_explain(error)) from error
            else:
                if answered.status_code in accepted:
                    return _read(answered)
                problem = _problem_of(answered)
                wait_s = problem.retry_after_s or wait_s
                if answered.status_code not in RETRIED or is_last or wait_s > self._longest_wait_s:
                    raise problem
            self._sleep(wait_s)
            wait_s *= 2
        raise AssertionError  # the last attempt returns or raises


def _explain(error: httpx.HTTPError) -> str:
    return f"the service does not answer: {type(error).__name__} {error}".rstrip()


def _read(answered: httpx.Response) -> dict[str, Any]:
    try:
        body = answered.json()
    except ValueError as error:
        msg = f"the answer must be JSON, got {answered.headers.get('content-type', 'nothing')}"
        raise UnexpectedAnswerError(msg) from error
    if not isinstance(body, dict):
        msg = f"the answer must be an object, got {type(body).__name__}"
        raise UnexpectedAnswerError(msg)
    return body


def _problem_of(answered: httpx.Response) -> ServiceProblemError:
    if answered.headers.get("content-type") != "application/problem+json":
        msg = f"an error of the service is a problem, got {answered.status_code} of something else"
        raise UnexpectedAnswerError(msg)
    after = answered.headers.get("retry-after", "")
    return ServiceProblemError(
        _read(answered),
        request_id=answered.headers.get("x-request-id", ""),
        retry_after_s=float(after) if after.isdigit() else None,
    )


def _prediction_of(answer: dict[str, Any]) -> Prediction:
    try:
        return _build(
            Prediction,
            answer,
            timestamp=_moment(answer),
            risk_reasons=tuple(answer["risk_reasons"]),
            beats=tuple(_build(Beat, beat) for beat in answer["beat_predictions"]),
            model=_build(Model, answer["model"]),
            raw=answer,
        )
    except KeyError as error:
        msg = f"the answer must have {error}"
        raise UnexpectedAnswerError(msg) from error


def _moment(answer: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(answer["timestamp"])


def _build(kind: type[T], answer: Mapping[str, Any], **read: Any) -> T:  # noqa: ANN401  JSON
    """Make a value of the fields that it has; a newer service may send others too."""
    wanted = {one.name for one in fields(kind)}  # type: ignore[arg-type]  # all are dataclasses
    known = {name: answer[name] for name in wanted if name in answer} | read
    missing = {
        one.name
        for one in fields(kind)  # type: ignore[arg-type]  # all are dataclasses
        if one.name not in known and one.default is MISSING
    }
    if missing:
        msg = f"the answer must have {', '.join(sorted(missing))}"
        raise UnexpectedAnswerError(msg)
    return kind(**known)
