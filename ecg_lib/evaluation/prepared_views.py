"""Prepared beats of a record in the views that are trained on and scored, and their files.

A record is prepared once; training, the drift reference and reports read the files. Which views
are kept, and where, is decided in :mod:`flows.data.prepared_views`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import DatasetError
from ecg_lib.evaluation.blind_verifiers import load_blind_verifier
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.atomic_files import replacing
from ecg_lib.records.record import Record
from ecg_lib.signal_path.preprocessing import PreparedBeats, PreprocessingConfig, prepare_beats
from ecg_lib.signal_path.r_peaks.matching import MATCH_TOLERANCE_S, match_beats
from ecg_lib.signal_path.readability.findings import Finding, FindingKind
from ecg_lib.signal_path.readability.quality import Stretch, UnreadableReason
from ecg_lib.signal_path.template import ShapeBlock

T = TypeVar("T")


class Peaks(StrEnum):
    """Source of the R-peaks of a view."""

    DETECTED = "detected"
    """The detector as it is served."""
    BLIND = "blind"
    """The detector with the network that has not seen the record, to score it out of fold."""
    REFERENCE = "reference"
    """The annotated beats."""


class PreparedStrip(NamedTuple):
    """The beats of a strip, or of a whole record."""

    start: int
    """First sample of the strip in the record."""
    beats: PreparedBeats


class ScoredView(NamedTuple):
    """One way to prepare the lead of a record that is analysed."""

    strip_s: int | None = None
    """Length of the strips in seconds; the whole record when None."""
    peaks: Peaks = Peaks.DETECTED

    @property
    def name(self) -> str:
        """Name of the view, for files."""
        length = "whole" if self.strip_s is None else f"strips-{self.strip_s}-s"
        return f"{length}-{self.peaks}"


Prepare = Callable[[ScoredView], Sequence[PreparedStrip]]
"""Returns a record's beats in a view, prepared now or read from files."""


def place_reference(
    annotations: Annotations, detections: NDArray[np.int64], *, fs: float
) -> NDArray[np.int64]:
    """Place reference R-peaks where the marks of a database are not at the R-peaks.

    The detection that belongs to a mark is its R-peak. A mark without one is moved by the median
    distance of the others.

    Parameters
    ----------
    annotations : Annotations
    detections : ndarray of int64, shape (n_detections,)
        R-peaks that were found, in samples of the record.
    fs : float
        Sampling rate of the record in Hz.

    Returns
    -------
    ndarray of int64
        Ascending positions, one for each annotated beat, unless two fall on one sample.

    """
    marks = annotations.beat_samples
    match = match_beats(marks, detections, tolerance=round(MATCH_TOLERANCE_S * fs))
    is_found = match.of_reference >= 0
    places = marks.copy()
    places[is_found] = detections[match.of_reference[is_found]]
    if is_found.any():
        places[~is_found] += round(float(np.median(places[is_found] - marks[is_found])))
    return np.unique(np.maximum(places, 0))


def prepare_scored_view(
    record: Record,
    view: ScoredView,
    *,
    config: PreprocessingConfig | None = None,
    reference: NDArray[np.int64] | None = None,
) -> list[PreparedStrip]:
    """Prepare the beats of each strip of a view.

    Strips do not overlap; a rest shorter than a strip is left out.

    Parameters
    ----------
    record : Record
    view : ScoredView
    config : PreprocessingConfig, optional
    reference : ndarray of int64, optional
        Reference R-peaks; the annotated beats when left out.

    Raises
    ------
    DatasetError
        If the view needs annotations, or is of strips with reference R-peaks.

    """
    signal, fs = record.signal_mv(), record.fs
    verifier = load_blind_verifier(record.name) if view.peaks is Peaks.BLIND else None
    r_peaks = None
    if view.peaks is Peaks.REFERENCE:
        if record.annotations is None or view.strip_s is not None:
            msg = (
                "reference R-peaks need a whole record with annotations, "
                f"got view {view.name} of record {record.name}"
            )
            raise DatasetError(msg)
        r_peaks = record.annotations.beat_samples if reference is None else reference
    if view.strip_s is None:
        beats = prepare_beats(signal, fs=fs, r_peaks=r_peaks, config=config, verifier=verifier)
        return [PreparedStrip(0, beats)]
    length = round(view.strip_s * fs)
    return [
        PreparedStrip(
            start,
            prepare_beats(signal[start : start + length], fs=fs, config=config, verifier=verifier),
        )
        for start in range(0, len(signal) - length + 1, length)
    ]


_BEAT_ARRAYS: Final = (
    "r_peaks", "windows", "features", "rr_prev_s", "rr_next_s", "qrs_width_s", "amplitude_mv",
    "qrs_hz", "t_peak_s", "stray_line_hz", "deflection", "beat_quality",
)  # fmt: skip
_SCALARS: Final = ("fs", "duration_s", "unreadable_s", "flutter_s", "missing_s")


def save_strips(strips: Sequence[PreparedStrip], path: Path) -> None:
    """Write prepared strips as one NPZ file that :func:`load_strips` reads; whole or not at all."""
    if not strips:
        arrays: dict[str, NDArray[Any]] = {"starts": np.zeros(0, np.int64)}
    else:
        beats = [strip.beats for strip in strips]
        shapes = [block for one in beats for block in one.shapes]
        arrays = {
            "starts": np.array([strip.start for strip in strips], dtype=np.int64),
            "n_beats": _lengths(beats),
            **{n: np.concatenate([getattr(one, n) for one in beats]) for n in _BEAT_ARRAYS},
            **{n: np.array([getattr(one, n) for one in beats]) for n in _SCALARS},
            "n_seconds": _lengths(one.quality_per_second for one in beats),
            "quality_per_second": np.concatenate([one.quality_per_second for one in beats]),
            "n_shapes": _lengths(one.shapes for one in beats),
            "shape_bounds": np.array(
                [(r.start, r.stop, c.start, c.stop) for r, c, _ in shapes], dtype=np.int64
            ).reshape(-1, 4),
            "sameness": np.concatenate(
                [np.zeros(0, np.float32), *(block.sameness.ravel() for block in shapes)]
            ),
            **_flatten(
                "unreadable", [[(s, e, r.value) for s, e, r in b.unreadable] for b in beats]
            ),
            **_flatten("findings", [[(s, e, k.value) for k, s, e in b.findings] for b in beats]),
        }
    with replacing(path) as draft, draft.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_strips(path: Path) -> list[PreparedStrip]:
    """Read what :func:`save_strips` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    DatasetError
        If it cannot be read.

    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
        return _split(arrays) if len(arrays["starts"]) else []
    except FileNotFoundError:
        raise
    except (BadZipFile, LookupError, OSError, ValueError) as error:
        msg = f"prepared beats {path.parent.name}/{path.name} cannot be read: {error}"
        raise DatasetError(msg) from error


def _split(arrays: dict[str, NDArray[Any]]) -> list[PreparedStrip]:
    of_beats = _slices(arrays["n_beats"])
    of_seconds = _slices(arrays["n_seconds"])
    shapes = _group(_load_shapes(arrays), arrays["n_shapes"])
    unreadable = _group(_unflatten(arrays, "unreadable"), arrays["n_unreadable"])
    findings = _group(_unflatten(arrays, "findings"), arrays["n_findings"])
    strips = []
    for at, start in enumerate(arrays["starts"].tolist()):
        columns: dict[str, Any] = {name: arrays[name][of_beats[at]] for name in _BEAT_ARRAYS}
        columns |= {name: float(arrays[name][at]) for name in _SCALARS}
        beats = PreparedBeats(
            **columns,
            shapes=tuple(shapes[at]),
            unreadable=tuple(Stretch(s, e, UnreadableReason(r)) for s, e, r in unreadable[at]),
            findings=tuple(Finding(FindingKind(k), s, e) for s, e, k in findings[at]),
            quality_per_second=arrays["quality_per_second"][of_seconds[at]],
        )
        strips.append(PreparedStrip(start, beats))
    return strips


def _load_shapes(arrays: dict[str, NDArray[Any]]) -> list[ShapeBlock]:
    bounds = arrays["shape_bounds"]
    sizes = (bounds[:, 1::2] - bounds[:, ::2]).prod(axis=1)
    return [
        ShapeBlock(
            slice(start, stop),
            slice(left, right),
            arrays["sameness"][of].reshape(stop - start, right - left),
        )
        for (start, stop, left, right), of in zip(bounds.tolist(), _slices(sizes), strict=True)
    ]


def _flatten(name: str, spans: Sequence[Sequence[tuple[int, int, str]]]) -> dict[str, NDArray[Any]]:
    flat = [span for of_strip in spans for span in of_strip]
    return {
        f"n_{name}": _lengths(spans),
        f"{name}_bounds": np.array([span[:2] for span in flat], dtype=np.int64).reshape(-1, 2),
        f"{name}_kinds": np.array([span[2] for span in flat], dtype=np.str_),
    }


def _unflatten(arrays: dict[str, NDArray[Any]], name: str) -> list[tuple[int, int, str]]:
    bounds, kinds = arrays[f"{name}_bounds"].tolist(), arrays[f"{name}_kinds"].tolist()
    return [(start, stop, kind) for (start, stop), kind in zip(bounds, kinds, strict=True)]


def _lengths(parts: Iterable[Sequence[Any] | NDArray[Any] | PreparedBeats]) -> NDArray[np.int64]:
    return np.array([len(part) for part in parts], dtype=np.int64)


def _slices(lengths: NDArray[np.int64]) -> list[slice]:
    stops = np.cumsum(lengths).tolist()
    return [
        slice(stop - length, stop) for stop, length in zip(stops, lengths.tolist(), strict=True)
    ]


def _group(items: Sequence[T], counts: NDArray[np.int64]) -> list[Sequence[T]]:
    return [items[part] for part in _slices(counts)]


def save_annotations(annotations: Annotations, path: Path) -> None:
    """Write annotations as NPZ; whole or not at all."""
    with replacing(path) as draft, draft.open("wb") as file:
        np.savez(file, samples=annotations.samples, symbols=annotations.symbols)


def load_annotations(path: Path) -> Annotations:
    """Read what :func:`save_annotations` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.

    """
    with np.load(path, allow_pickle=False) as arrays:
        return Annotations(samples=arrays["samples"], symbols=arrays["symbols"])
