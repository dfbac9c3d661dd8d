"""Read the signal of a prediction from the bodies that are accepted: JSON, raw float32, and NPY.

All of them end in one :class:`PredictionInput`, by the same limits and with the same problems.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from tokenize import TokenError
from typing import Final, TypeVar

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from bentos.wire.problems import (
    INVALID_REQUEST,
    MALFORMED_JSON,
    NOT_FINITE,
    OUT_OF_RANGE,
    TOO_LONG,
    TOO_SHORT,
    ProblemError,
    explain_validation_error,
)
from bentos.wire.schemas import (
    MAX_LABELS,
    MAX_SAMPLES,
    PredictionParameters,
    PredictionRequest,
    explain_duration,
)
from ecg_lib.records.files.lead import Lead, choose_usable_second_lead
from ecg_lib.records.limits import MAX_ABS_MV
from ecg_lib.signal_path.kernels.library import run_kernel

JSON: Final = "application/json"
FLOAT32: Final = "application/octet-stream"
NPY: Final = "application/x-npy"
MEDIA_TYPES: Final = (JSON, FLOAT32, NPY)
"""Media types that the predictions route takes."""

_COMPRESSED: Final = "it is compressed, which Content-Encoding must state"
_NOT_JSON: Final = (
    (b"\x1f\x8b", _COMPRESSED),
    (b"\x28\xb5\x2f\xfd", _COMPRESSED),
    (b"PK\x03\x04", _COMPRESSED),
    (codecs.BOM_UTF16_LE, "it is UTF-16"),
    (codecs.BOM_UTF16_BE, "it is UTF-16"),
    (b"\x93NUMPY", "it is a NumPy file, which Content-Type must state"),
)
"""First bytes of bodies that are sent as JSON by mistake."""

_SIGNAL: Final = b'"signal_data"'
_MOST_AROUND: Final = 4096
"""Bytes before and after the samples of a request that is read by a kernel."""

T = TypeVar("T", bound=BaseModel)

_MAX_MEMBERS: Final = 3 * MAX_LABELS
_OTHER_MEMBERS: Final = _MAX_MEMBERS
_NPY_VERSIONS: Final = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
_NPY_ERRORS: Final = (
    ValueError,
    KeyError,
    TypeError,
    SyntaxError,
    TokenError,
    RecursionError,
    MemoryError,
)
"""What NumPy raises of a header, which it evaluates as literals of Python 3, then of Python 2."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictionInput:
    """A signal and what is said of it."""

    signal_mv: NDArray[np.float64]
    parameters: PredictionParameters
    second_lead: str | None = None
    """The second lead of the classification."""
    second_mv: NDArray[np.float64] | None = None


def read_input(
    body: bytes, *, media_type: str, query: Sequence[tuple[str, str]] = ()
) -> PredictionInput:
    """Read a body of one of :data:`MEDIA_TYPES`.

    Parameters
    ----------
    body : bytes
    media_type : str
        Of the body.
    query : sequence of (name, value)
        Parameters of the address; those of a JSON body are in the body.

    Raises
    ------
    ProblemError
        If it is not a request that can be answered.

    """
    if media_type == JSON:
        most = _check_count(body)
        if (read := _read_one_lead(body, most=most)) is not None:
            return read
        request = parse(PredictionRequest, body)
        others: dict[str, NDArray[np.float64]] = {
            name: np.array(samples_mv, dtype=np.float64)
            for name, samples_mv in request.leads.items()
        }
        for name, lead_mv in others.items():
            _check_range(lead_mv, field=f"leads.{name}")
        signal_mv = np.array(request.signal_data, dtype=np.float64)
        second = _choose_second(request, signal_mv, others)
        read = PredictionInput(
            signal_mv=signal_mv,
            parameters=request,
            second_lead=second,
            second_mv=None if second is None else others[second],
        )
    else:
        samples = _read_npy(body) if media_type == NPY else _read_float32(body)
        with np.errstate(invalid="ignore"):  # a signalling NaN, which is refused below
            signal_mv = samples.astype(np.float64)
        read = PredictionInput(
            signal_mv=signal_mv, parameters=parse_query(PredictionParameters, query)
        )
        _check_samples(read)
    _check_range(read.signal_mv, field="signal_data")
    return read


class _OneLead(PredictionParameters):
    """A request without its samples."""

    signal_data: list[float] = Field(max_length=0)


def _read_one_lead(body: bytes, *, most: int) -> PredictionInput | None:
    """Read a request that has one lead and no fault, in a third of the time of `parse`.

    The samples, at most so many, are read by a kernel that knows numbers alone, and the rest is
    validated as ever. None for anything else, which `parse` reads, or refuses with the reason.
    """
    before, name, after = body.partition(_SIGNAL)
    start = after.find(b"[", 0, _MOST_AROUND)
    if start < 0 or len(before) > _MOST_AROUND:
        return None
    text, samples = np.frombuffer(after, dtype=np.uint8), np.empty(most)
    end = np.zeros(1, dtype=np.int64)
    n_samples = run_kernel("read_numbers", text, len(text), start + 1, samples, most, end)
    rest = after[int(end[0]) :]
    # Escapes may spell the same name again.
    is_plain = _SIGNAL not in rest and b"\\" not in before and b"\\" not in rest
    if n_samples == 0 or len(rest) > _MOST_AROUND or not is_plain:
        return None
    try:
        parameters = _OneLead.model_validate_json(before + name + after[: start + 1] + b"]" + rest)
    except ValidationError:
        return None
    signal_mv = samples[:n_samples]
    is_wrong = explain_duration(n_samples, parameters.sampling_rate) is not None
    if is_wrong or not _is_in_range(signal_mv):
        return None
    return PredictionInput(signal_mv=signal_mv, parameters=parameters)


def _choose_second(
    request: PredictionRequest,
    signal_mv: NDArray[np.float64],
    others: Mapping[str, NDArray[np.float64]],
) -> str | None:
    """Choose the second lead as for a recording."""
    if not others:
        return None
    fs, n_samples = request.sampling_rate, len(request.signal_data)
    first = Lead(request.derivation, fs, n_samples)
    chosen, _ = choose_usable_second_lead(
        tuple(Lead(name, fs, n_samples) for name in request.leads),
        first,
        blocks=lambda lead: [
            (signal_mv if lead == first else others[lead.name]).astype(np.float32)
        ],
    )
    return None if chosen is None else chosen.name


def estimate_samples(body: bytes, *, media_type: str) -> int:
    """Estimate how many samples a body holds, without reading it."""
    if media_type != JSON:
        return len(body) // 4
    # In a tenth of the time of body.count, which starts again after each comma.
    return int(np.count_nonzero(np.frombuffer(body, dtype=np.uint8) == ord(","))) + 1


def parse(model: type[T], body: bytes) -> T:
    """Validate the JSON text of a request.

    Raises
    ------
    ProblemError
        If it is not JSON, or does not fit the model.

    """
    body = body.removeprefix(codecs.BOM_UTF8)
    for start, what in _NOT_JSON:
        if body.startswith(start):
            raise ProblemError(MALFORMED_JSON, f"the body must be JSON in UTF-8, {what}")
    # Each unknown field costs an error of its own: a million of them would cost seconds.
    members = body.count(b":")
    if members > _MAX_MEMBERS:
        raise ProblemError(
            INVALID_REQUEST, f"the body must have at most {_MAX_MEMBERS} members, got {members}"
        )
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise explain_validation_error(error) from None


def parse_query(model: type[T], query: Sequence[tuple[str, str]]) -> T:
    """Validate the parameters of an address.

    Raises
    ------
    ProblemError
        If they are not what the model wants, or one is there twice.

    """
    fields = dict(query)
    if len(fields) < len(query):
        names = [name for name, _ in query]
        twice = next(name for name in names if names.count(name) > 1)
        raise _refuse(twice[:80], "the parameter must be given once")
    try:
        return model.model_validate_strings(fields)
    except ValidationError as error:
        raise explain_validation_error(error) from None


def _check_count(body: bytes) -> int:
    """Reject a body with more numbers than the longest signal, before they take memory.

    Returns the most samples that it may have.
    """
    most = estimate_samples(body, media_type=JSON)
    if most > MAX_SAMPLES + _OTHER_MEMBERS:
        reason = f"signal_data and leads must have at most {MAX_SAMPLES} samples together"
        raise ProblemError(TOO_LONG, reason, errors=[("signal_data", reason), ("leads", reason)])
    return most


def _read_float32(body: bytes) -> NDArray[np.floating]:
    if len(body) % 4:
        raise _refuse(
            "signal_data", f"samples must be float32 of 4 bytes each, got {len(body)} bytes"
        )
    return np.frombuffer(body, dtype="<f4")


def _read_npy(body: bytes) -> NDArray[np.floating]:
    """Read an NPY file of one row of float32 or float64; nothing in it is ever unpickled."""
    file = io.BytesIO(body)
    try:
        read_header = _NPY_VERSIONS[npy.read_magic(file)]
        shape, _, dtype = read_header(file)
    except _NPY_ERRORS:
        raise _refuse("signal_data", "the body must be a file of NPY format 1.0 or 2.0") from None
    if dtype.kind != "f" or dtype.itemsize not in {4, 8}:
        raise _refuse(
            "signal_data", f"samples must be float32 or float64, in mV, got {str(dtype)[:40]}"
        )
    if len(shape) != 1:
        raise _refuse("signal_data", f"the array must have one dimension, got {len(shape)}")
    start = file.tell()
    if len(body) - start != shape[0] * dtype.itemsize:
        raise _refuse(
            "signal_data",
            f"the file must hold the {shape[0]} samples that its header states, of "
            f"{dtype.itemsize} bytes each, got {len(body) - start} bytes",
        )
    return np.frombuffer(body, dtype=dtype, offset=start)


def _check_samples(read: PredictionInput) -> None:
    """Check what pydantic has checked of a JSON body."""
    samples = read.signal_mv
    found = explain_duration(len(samples), read.parameters.sampling_rate)
    if found is not None:
        kind = TOO_SHORT if found.is_short else TOO_LONG
        raise ProblemError(kind, found.reason, errors=[("signal_data", found.reason)])
    finite = np.isfinite(samples)
    if not finite.all():
        field = f"signal_data[{int(finite.argmin())}]"
        reason = "Input should be a finite number"
        raise ProblemError(NOT_FINITE, f"{field}: {reason}", errors=[(field, reason)])


def _is_in_range(signal_mv: NDArray[np.float64]) -> bool:
    return float(np.abs(signal_mv).max()) <= MAX_ABS_MV


def _check_range(signal_mv: NDArray[np.float64], *, field: str) -> None:
    if not _is_in_range(signal_mv):
        reason = f"samples must be in mV, between -{MAX_ABS_MV:g} and {MAX_ABS_MV:g}"
        where = "" if field == "signal_data" else f"{field}: "
        raise ProblemError(OUT_OF_RANGE, f"{where}{reason}", errors=[(field, reason)])


def _refuse(field: str, reason: str) -> ProblemError:
    return ProblemError(INVALID_REQUEST, f"{field}: {reason}", errors=[(field, reason)])
