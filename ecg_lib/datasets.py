"""Labelled beats for training and out-of-fold scoring, cut from records in several views.

A *view* is one way to look at a record: a lead, whole or cut into strips. Two leads make any
number of virtual ones, because a lead is a projection of the heart's dipole: training sees each
subject from several sides and in strips of several lengths, scoring sees the lead and the lengths
that are served. Splits and folds are by subject.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ecg_lib.annotations import Annotations
from ecg_lib.beats import FEATURE_NAMES, ShapeBlock
from ecg_lib.detection import MATCH_TOLERANCE_S, match_beats
from ecg_lib.errors import DatasetError
from ecg_lib.noise import mix_at_snr, muscle_noise
from ecg_lib.preprocessing import PreparedBeats, PreprocessingConfig, prepare_beats
from ecg_lib.records import Record

NO_BEAT: Final = "-"
"""Label of a detection that belongs to no annotated beat."""

IN_FLUTTER: Final = "!"
"""Label of a detection inside ventricular flutter, which is neither trained nor scored."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class View:
    """One way to look at a record.

    Parameters
    ----------
    angle_deg : int
        0 is the record's own lead. Other angles mix it with the next lead, both scaled to one
        range: ``cos(angle) * lead + sin(angle) * other``; 90 is the other lead alone.
    strip_s : int, optional
        Length of the strips in seconds; the whole record when left out.
    noise_db : int, optional
        Signal-to-noise ratio (that of ``nst``) of simulated muscle noise that is added to the
        lead; no noise when left out.

    """

    angle_deg: int = 0
    strip_s: int | None = None
    noise_db: int | None = None

    def __post_init__(self) -> None:
        if self.strip_s is not None and self.strip_s < 5:
            msg = f"strip_s must be at least 5, got strip_s={self.strip_s!r}"
            raise ValueError(msg)

    def __str__(self) -> str:
        length = "whole" if self.strip_s is None else f"{self.strip_s} s"
        noise = "" if self.noise_db is None else f", noise of {self.noise_db} dB"
        return f"{self.angle_deg} deg, {length}{noise}"


WHOLE: Final = View()
"""The record's own lead from end to end: the headline figure."""

STRIPS_10_S: Final = View(strip_s=10)
"""The record's own lead in strips like those of requests."""


def label_beats(
    annotations: Annotations, r_peaks: NDArray[np.int64], *, fs: float
) -> NDArray[np.str_]:
    """Give each detection the class of its annotation.

    Returns
    -------
    ndarray of str, shape of `r_peaks`
        One of ``N S V F Q``, :data:`NO_BEAT` or :data:`IN_FLUTTER`.

    """
    match = match_beats(annotations.beat_samples, r_peaks, tolerance=round(MATCH_TOLERANCE_S * fs))
    labels = np.full(len(r_peaks), NO_BEAT, dtype="U1")
    is_matched = match.of_detected >= 0
    labels[is_matched] = annotations.beat_classes[match.of_detected[is_matched]]
    labels[annotations.is_in_flutter(r_peaks)] = IN_FLUTTER
    return labels


def view_signal(record: Record, view: View) -> NDArray[np.float32]:
    """Compute the lead that a view looks at, shape ``(n_samples,)``.

    Raises
    ------
    DatasetError
        If the view needs a second lead and the record has one only, or has noise and the record
        no annotations, which say where the QRS complexes are.

    """
    signal = _turn(record, view)
    return signal if view.noise_db is None else _add_noise(signal, record, view)


def _turn(record: Record, view: View) -> NDArray[np.float32]:
    own = record.choose_lead()
    signal = record.signal_mv(own)
    if view.angle_deg == 0:
        return signal
    others = [lead for lead in record.leads if lead != own]
    if not others:
        msg = f"view {view} needs two leads, record {record.name} has {own} only"
        raise DatasetError(msg)
    angle = np.deg2rad(view.angle_deg)
    mixed = np.cos(angle) * _scaled(signal) + np.sin(angle) * _scaled(record.signal_mv(others[0]))
    return np.asarray(mixed, dtype=np.float32)


def _add_noise(signal: NDArray[np.float32], record: Record, view: View) -> NDArray[np.float32]:
    if record.annotations is None or view.noise_db is None:
        msg = f"view {view} needs annotations, record {record.name} has none"
        raise DatasetError(msg)
    rng = _seeded(f"{record.name} {view}")
    beats = record.annotations.beat_samples[record.annotations.beat_classes != "V"]
    return mix_at_snr(
        signal,
        muscle_noise(len(signal), fs=record.fs, rms_mv=1.0, rng=rng),
        snr_db=view.noise_db,
        r_peaks=beats,
        fs=record.fs,
    ).astype(np.float32)


def _seeded(text: str) -> np.random.Generator:
    """Make a generator whose seed is the hash of a text."""
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _scaled(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale a lead to a range of one between its 0.5 and 99.5 percentiles."""
    low, high = np.percentile(signal, [0.5, 99.5])
    return np.asarray(signal / max(float(high - low), 1e-6), dtype=np.float32)


def prepare_view(
    record: Record, view: View, *, config: PreprocessingConfig | None = None
) -> list[tuple[int, PreparedBeats]]:
    """Prepare the beats of each strip of a view.

    Parameters
    ----------
    record : Record
    view : View
    config : PreprocessingConfig, optional

    Returns
    -------
    list of (int, PreparedBeats)
        First sample of each strip in the record, and its beats; strips do not overlap, and a
        rest shorter than a strip is left out.

    """
    signal = view_signal(record, view)
    if view.strip_s is None:
        return [(0, prepare_beats(signal, fs=record.fs, config=config))]
    length = round(view.strip_s * record.fs)
    return [
        (start, prepare_beats(signal[start : start + length], fs=record.fs, config=config))
        for start in range(0, len(signal) - length + 1, length)
    ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BeatDataset:
    """Beats of many records and views; every array has one row for each beat.

    Rows of one record and view are in time order.
    """

    record_names: tuple[str, ...]
    views: tuple[View, ...]
    record: NDArray[np.int16]
    """Index into `record_names`."""

    view: NDArray[np.int16]
    """Index into `views`."""

    position: NDArray[np.int64]
    """R-peak in samples of the record."""

    label: NDArray[np.str_]
    """One of ``N S V F Q``, :data:`NO_BEAT` or :data:`IN_FLUTTER`."""

    is_readable: NDArray[np.bool_]
    windows: NDArray[np.float32]
    """Shape ``(n_beats, 360, 2)``; mapped from disk after :meth:`load`."""

    features: NDArray[np.float32]
    """Shape ``(n_beats, len(FEATURE_NAMES))``."""

    shapes: tuple[ShapeBlock, ...]
    """Which beats of the scoring views are of one shape; rows and columns are those of here."""

    def __len__(self) -> int:
        return len(self.record)

    @property
    def is_v(self) -> NDArray[np.bool_]:
        """True for ventricular ectopic beats."""
        return np.asarray(self.label == "V")

    @property
    def is_trainable(self) -> NDArray[np.bool_]:
        """True for beats that a network may be fitted to.

        Fusion, paced and unclassifiable beats and flutter are left out; detections that are no
        beat are trained as not V.
        """
        return np.isin(self.label, ["N", "S", "V", NO_BEAT])

    def rows_of(
        self, *, records: Iterable[str] | None = None, view: View | None = None
    ) -> NDArray[np.int64]:
        """Find the rows of some records, of one view, or both, in order.

        Raises
        ------
        DatasetError
            If the dataset does not hold one of the records, or the view.

        """
        keep = np.ones(len(self), dtype=np.bool_)
        if records is not None:
            wanted = set(records)
            unknown = sorted(wanted - set(self.record_names))
            if unknown:
                msg = f"records must be in the dataset, these are not: {', '.join(unknown)}"
                raise DatasetError(msg)
            keep &= np.isin(self.record, [self.record_names.index(name) for name in wanted])
        if view is not None:
            if view not in self.views:
                msg = f"the dataset must be cut in view {view}, got {[str(v) for v in self.views]}"
                raise DatasetError(msg)
            keep &= self.view == self.views.index(view)
        return np.flatnonzero(keep)

    def save(self, directory: Path) -> None:
        """Write the dataset as a directory that :meth:`load` reads."""
        directory.mkdir(parents=True, exist_ok=True)
        np.save(directory / "windows.npy", self.windows)
        np.save(directory / "features.npy", self.features)
        _save_shapes(self.shapes, directory)
        table = pa.table(
            {
                "record": self.record,
                "view": self.view,
                "position": self.position,
                "label": self.label,
                "is_readable": self.is_readable,
            }
        )
        pq.write_table(table, directory / "beats.parquet")
        description = {
            "record_names": self.record_names,
            "views": [asdict(view) for view in self.views],
            "feature_names": FEATURE_NAMES,
            "n_beats": len(self),
        }
        (directory / "dataset.json").write_text(json.dumps(description, indent=2))

    @classmethod
    def load(cls, directory: Path) -> BeatDataset:
        """Read a dataset; windows stay on disk until they are used.

        Raises
        ------
        DatasetError
            If the directory holds no dataset, one of other features, or parts of several.

        """
        try:
            description = json.loads((directory / "dataset.json").read_text())
            table = pq.read_table(directory / "beats.parquet")
            windows = np.load(directory / "windows.npy", mmap_mode="r")
            features = np.load(directory / "features.npy")
            shapes = _load_shapes(directory, n_beats=table.num_rows)
            feature_names = tuple(description["feature_names"])
            record_names = tuple(description["record_names"])
            views = tuple(View(**view) for view in description["views"])
        except (LookupError, OSError, TypeError, ValueError) as error:
            msg = f"no readable dataset in {directory.name}: {error}"
            raise DatasetError(msg) from error
        if feature_names != FEATURE_NAMES:
            msg = f"dataset {directory.name} has the features of another version"
            raise DatasetError(msg)
        lengths = {table.num_rows, len(windows), len(features)}
        if lengths != {description["n_beats"]}:
            msg = f"all files of {directory.name} must have one row for each beat, got {lengths}"
            raise DatasetError(msg)
        return cls(
            record_names=record_names,
            views=views,
            record=table["record"].to_numpy(),
            view=table["view"].to_numpy(),
            position=table["position"].to_numpy(),
            label=table["label"].to_numpy().astype("U1"),
            is_readable=table["is_readable"].to_numpy(),
            windows=windows,
            features=features,
            shapes=shapes,
        )


def _save_shapes(shapes: Sequence[ShapeBlock], directory: Path) -> None:
    bounds = [(rows.start, rows.stop, columns.start, columns.stop) for rows, columns, _ in shapes]
    np.save(directory / "shape_bounds.npy", np.array(bounds, dtype=np.int64).reshape(-1, 4))
    # As they are: votes of beats that were loaded must be those of beats that are served.
    flat = [block.sameness.ravel() for block in shapes]
    np.save(directory / "sameness.npy", np.concatenate([np.zeros(0, np.float32), *flat]))


def _load_shapes(directory: Path, *, n_beats: int) -> tuple[ShapeBlock, ...]:
    """Load the blocks.

    Raises
    ------
    ValueError
        If they do not fit the beats, or each other.

    """
    flat = np.load(directory / "sameness.npy")
    bounds = np.load(directory / "shape_bounds.npy")  # (n_blocks, 4)
    starts, stops = bounds[:, ::2], bounds[:, 1::2]
    if not ((starts >= 0) & (starts <= stops) & (stops <= n_beats)).all():
        msg = f"blocks of shapes must be of the {n_beats} beats, one reaches beyond them"
        raise ValueError(msg)
    sizes = (stops - starts).prod(axis=1)
    if len(flat) != sizes.sum() or flat.dtype != np.float32:
        msg = f"blocks must have {sizes.sum()} float32 figures, got {len(flat)} of {flat.dtype}"
        raise ValueError(msg)
    return tuple(
        ShapeBlock(
            slice(start, stop),
            slice(left, right),
            flat[end - size : end].reshape(stop - start, right - left),
        )
        for (start, stop, left, right), size, end in zip(
            bounds.tolist(), sizes.tolist(), np.cumsum(sizes).tolist(), strict=True
        )
    )


def _shift(shapes: Iterable[ShapeBlock], by: int) -> tuple[ShapeBlock, ...]:
    return tuple(
        ShapeBlock(
            slice(rows.start + by, rows.stop + by),
            slice(columns.start + by, columns.stop + by),
            sameness,
        )
        for rows, columns, sameness in shapes
    )


def build_beats(
    record: Record,
    *,
    scoring_views: Sequence[View],
    training_views: Sequence[View],
    conducted_share: float,
    seed: int = 0,
    config: PreprocessingConfig | None = None,
) -> BeatDataset:
    """Cut the labelled beats of one record.

    Parameters
    ----------
    record : Record
        With annotations.
    scoring_views : sequence of View
        Views of which every beat is kept.
    training_views : sequence of View
        Further views of which only trainable beats are kept: all V, S and false detections, and
        a random share of N. Views that need a second lead are left out when there is none.
    conducted_share : float
        That share, 0 to 1.
    seed : int
        Seed of the choice.
    config : PreprocessingConfig, optional

    Returns
    -------
    BeatDataset
        Of one record.

    Raises
    ------
    DatasetError
        If the record has no annotations.

    """
    if record.annotations is None:
        msg = f"record {record.name} must have annotations"
        raise DatasetError(msg)
    views = [*scoring_views, *training_views]
    rng = _seeded(f"{seed} {record.name}")
    parts: list[BeatDataset] = []
    for index, view in enumerate(views):
        if view.angle_deg != 0 and len(record.leads) < 2:
            continue
        for start, beats in prepare_view(record, view, config=config):
            position = beats.r_peaks + start
            label = label_beats(record.annotations, position, fs=record.fs)
            keep = np.ones(len(beats), dtype=np.bool_)
            if view not in scoring_views:
                keep = np.isin(label, ["N", "S", "V", NO_BEAT])
                keep &= (label != "N") | (rng.random(len(beats)) < conducted_share)
            parts.append(
                BeatDataset(
                    record_names=(record.name,),
                    views=tuple(views),
                    record=np.zeros(int(keep.sum()), dtype=np.int16),
                    view=np.full(int(keep.sum()), index, dtype=np.int16),
                    position=position[keep],
                    label=label[keep],
                    is_readable=beats.is_readable[keep],
                    windows=beats.windows[keep],
                    features=beats.features[keep],
                    shapes=beats.shapes if view in scoring_views else (),
                )
            )
    return _join(parts)


def join_records(parts: Sequence[BeatDataset]) -> BeatDataset:
    """Join the datasets of several records, cut in the same views.

    Raises
    ------
    DatasetError
        If there is none, or the views differ.

    """
    if not parts:
        msg = "there must be at least one record, got none"
        raise DatasetError(msg)
    if any(part.views != parts[0].views for part in parts):
        msg = "all records must be cut in the same views"
        raise DatasetError(msg)
    names: list[str] = []
    shifted: list[BeatDataset] = []
    for part in parts:
        shifted.append(replace(part, record=(part.record + len(names)).astype(np.int16)))
        names += part.record_names
    return replace(_join(shifted), record_names=tuple(names))


def _join(parts: Sequence[BeatDataset]) -> BeatDataset:
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])]).tolist()
    return BeatDataset(
        record_names=parts[0].record_names,
        views=parts[0].views,
        record=np.concatenate([part.record for part in parts]),
        view=np.concatenate([part.view for part in parts]),
        position=np.concatenate([part.position for part in parts]),
        label=np.concatenate([part.label for part in parts]),
        is_readable=np.concatenate([part.is_readable for part in parts]),
        windows=np.concatenate([part.windows for part in parts]),
        features=np.concatenate([part.features for part in parts]),
        shapes=tuple(
            block
            for part, first in zip(parts, starts, strict=True)
            for block in _shift(part.shapes, first)
        ),
    )


def assign_folds(v_beats_of_subject: dict[str, int], *, n_folds: int) -> dict[str, int]:
    """Deal subjects to folds so that each fold has about as many V beats and subjects.

    The subject with most V beats goes first, each to the fold that has least so far; the result
    depends on the counts and names alone.

    Parameters
    ----------
    v_beats_of_subject : dict
        Number of V beats of each subject.
    n_folds : int
        Number of folds, 2 or more.

    Returns
    -------
    dict
        Fold of each subject, 0 to ``n_folds - 1``.

    Raises
    ------
    DatasetError
        If there are fewer subjects than folds, or fewer than two folds.

    """
    if not 2 <= n_folds <= len(v_beats_of_subject):
        msg = f"n_folds must be 2 to {len(v_beats_of_subject)} subjects, got {n_folds}"
        raise DatasetError(msg)
    weights = [0.0] * n_folds
    folds: dict[str, int] = {}
    # A subject without V beats still weighs: folds should have subjects alike in number.
    base = max(1.0, sum(v_beats_of_subject.values()) / len(v_beats_of_subject) / 5)
    for subject in sorted(v_beats_of_subject, key=lambda name: (-v_beats_of_subject[name], name)):
        fold = min(range(n_folds), key=lambda index: (weights[index], index))
        folds[subject] = fold
        weights[fold] += v_beats_of_subject[subject] + base
    return folds
