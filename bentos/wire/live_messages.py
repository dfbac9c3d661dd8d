"""The messages of a live lead, as JSON and as binary frames.

``docs/reference/live-protocol.md`` describes them.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bentos.wire.answers import describe_finding, describe_stretch, round_known
from bentos.wire.problems import (
    INVALID_REQUEST,
    MALFORMED_JSON,
    ProblemError,
    explain_validation_error,
)
from ecg_lib.classifier.live.beats import LiveBeats, Mark
from ecg_lib.classifier.live.live_lead import LiveConfig
from ecg_lib.records.limits import MAX_FS_HZ, MIN_FS_HZ

MAX_MESSAGE_BYTES: Final = 2**18
"""Of one message; three minutes of float32 at 360 Hz."""

SUBPROTOCOL: Final = "ecg-live.v1"

_POSITION: Final = struct.Struct("<Q")
_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "float32": np.dtype("<f4"),
    "int16": np.dtype("<i2"),
}
_MISSING: Final = -(2**15)
"""The int16 that marks a missing sample, as in WFDB format 16."""

_MAX_POSITION: Final = 2**53

Position = Annotated[int, Field(ge=0, le=_MAX_POSITION, strict=True)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class MarkOfClient(_Message):
    """The mark of the last final beats that the client holds."""

    block: Position = 0
    position: Position = 0


class Start(_Message):
    """The first message of a connection."""

    type: Literal["start"]
    session: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{16,64}$")]
    sampling_rate: Annotated[float, Field(ge=MIN_FS_HZ, le=MAX_FS_HZ)]
    encoding: Literal["float32", "int16"] = "float32"
    units_per_mv: Annotated[float, Field(gt=0, le=1e6)] | None = None
    position: Position = 0
    """Position of the first sample that the client still holds."""
    mark: MarkOfClient = MarkOfClient()

    @model_validator(mode="after")
    def _check_unit(self) -> Self:
        if (self.encoding == "int16") != (self.units_per_mv is not None):
            msg = "units_per_mv must be given with int16, and not with float32, which is in mV"
            raise ValueError(msg)
        return self


class Gap(_Message):
    """Samples that were not recorded."""

    type: Literal["gap"]
    position: Position
    samples: Annotated[int, Field(ge=1, le=_MAX_POSITION, strict=True)]


class Finish(_Message):
    """The client has sent everything."""

    type: Literal["finish"]


_KINDS: Final[dict[str, type[Start | Gap | Finish]]] = {
    "start": Start,
    "gap": Gap,
    "finish": Finish,
}


def read_message(text: str) -> Start | Gap | Finish:
    """Read a message in JSON.

    Raises
    ------
    ProblemError
        If it is not one.

    """
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ProblemError(MALFORMED_JSON, "the message must be JSON") from error
    named = content.get("type") if isinstance(content, dict) else None
    kind = _KINDS.get(named) if isinstance(named, str) else None
    if kind is None:
        raise ProblemError(
            INVALID_REQUEST, f"the type of a message must be one of {', '.join(_KINDS)}"
        )
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise explain_validation_error(error) from error


class Piece(NamedTuple):
    """Samples of one binary message."""

    position: int
    """Of the first one."""
    samples_mv: NDArray[np.float32]


def read_piece(content: bytes, start: Start) -> Piece:
    """Read a binary frame: the position as 8 bytes, then the samples, all little-endian.

    Raises
    ------
    ProblemError
        If its length fits no whole number of samples, or it has none.

    """
    dtype = _DTYPES[start.encoding]
    n_bytes = len(content) - _POSITION.size
    if n_bytes <= 0 or n_bytes % dtype.itemsize:
        raise ProblemError(
            INVALID_REQUEST,
            f"a binary message must be a position of {_POSITION.size} bytes and samples of "
            f"{dtype.itemsize}, got {len(content)} bytes",
        )
    (position,) = _POSITION.unpack_from(content)
    samples = np.frombuffer(content, dtype=dtype, offset=_POSITION.size)
    if start.units_per_mv is None:
        return Piece(position, samples)
    samples_mv = samples.astype(np.float32) / np.float32(start.units_per_mv)
    samples_mv[samples == _MISSING] = np.nan
    return Piece(position, samples_mv)


def write_started(
    start: Start, *, send_from: int, mark: Mark, model: dict[str, str], config: LiveConfig
) -> str:
    """Answer the first message."""
    return _dump(
        {
            "type": "started",
            "session": start.session,
            "send_from": send_from,
            "mark": mark._asdict(),
            "final_after_s": config.final_after_s,
            "history_s": config.history_s,
            "model": model,
        }
    )


def write_model(model: dict[str, str]) -> str:
    """Report that another model is used from now on."""
    return _dump({"type": "model", "model": model})


def write_finished(received_to: int) -> str:
    """Report that all beats are final and sent."""
    return _dump({"type": "finished", "received_to": received_to})


def write_problem(problem: ProblemError) -> str:
    """Report why the connection closes."""
    return _dump({"type": "problem", "problem": problem.describe()})


def write_beats(beats: LiveBeats, *, received_to: int, needed_from: int) -> str:
    """Write the beats of a stretch, which replace those sent for it before."""
    columns = zip(
        beats.r_peaks.tolist(),
        np.where(beats.is_v, "V", "N").tolist(),
        beats.has_class.tolist(),
        round_known(beats.probability_v, 4),
        round_known(beats.rr_prev_s, 4),
        beats.quality.tolist(),
        beats.rule.tolist(),
        strict=True,
    )
    return _dump(
        {
            "type": "beats",
            "final": beats.is_final,
            "from": beats.start,
            "to": beats.stop,
            "mark": beats.mark._asdict(),
            "received_to": received_to,
            "needed_from": needed_from,
            "beats": [
                {
                    "position_sample": position,
                    "arrhythmia_type": name if has_class else None,
                    "probability_v": probability_v if has_class else None,
                    "rr_previous": rr_previous,
                    "quality": quality,
                    "rule": rule or None,
                }
                for position, name, has_class, probability_v, rr_previous, quality, rule in columns
            ],
            "unreadable": [describe_stretch(stretch) for stretch in beats.unreadable],
            "findings": [describe_finding(finding) for finding in beats.findings],
            "signal_quality": round_known(np.array([beats.signal_quality]), 2)[0],
        }
    )


def _dump(message: dict[str, Any]) -> str:
    return orjson.dumps(message).decode()
