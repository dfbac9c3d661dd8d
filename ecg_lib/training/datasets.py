"""Labelled beats for training and out-of-fold scoring, cut from records in several views.

A *view* is one way to look at a record: a lead, whole or cut into strips. Two leads make any
number of virtual ones, because a lead is a projection of the heart's dipole: training sees each
subject from several sides and in strips of several lengths, scoring sees the lead and the lengths
that are served. Splits and folds are by subject.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ecg_lib.errors import DatasetError
from ecg_lib.evaluation.beat_scoring import NO_BEAT, label_beats
from ecg_lib.evaluation.prepared_views import PreparedStrip
from ecg_lib.records.record import Record
from ecg_lib.signal_path.features import FEATURE_NAMES
from ecg_lib.signal_path.template import ShapeBlock
from ecg_lib.training.views import View, has_view, prepare_view, seed_generator

STRIPS_10_S: Final = View(strip_s=10)
"""The record's own lead in strips like those of requests."""

MOVED: Final = View(movement_db=6)
"""The record's own lead under simulated movement: what decides how much is read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BeatDataset:
    """Beats of many records and views; every array has one row for each beat.

    Rows of one record and view are in time order.
    """

    record_names: tuple[str, ...]
    subjects: tuple[str, ...]
    """The person of each record."""

    fs: tuple[float, ...]
    """Sampling rate of each record in Hz."""

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
    """Beats of the scoring views that are of one shape, by rows of this dataset."""

    def __len__(self) -> int:
        return len(self.record)

    @property
    def is_v(self) -> NDArray[np.bool_]:
        """True for ventricular ectopic beats."""
        return np.asarray(self.label == "V")

    @property
    def is_trainable(self) -> NDArray[np.bool_]:
        """True for beats that a network may be fitted to.

        Fusion, paced and unclassifiable beats and flutter are left out; detections that match
        no beat are trained as not V.
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
            "subjects": self.subjects,
            "fs": self.fs,
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
            subjects, fs = tuple(description["subjects"]), tuple(description["fs"])
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
            subjects=subjects,
            fs=fs,
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
    prepare: Callable[[View], Sequence[PreparedStrip]] | None = None,
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
        a random share of N. Views that need what the record lacks are left out, see
        :func:`ecg_lib.training.views.has_view`.
    conducted_share : float
        That share, 0 to 1.
    seed : int
        Seed of the choice.
    prepare : callable, optional
        Gives the prepared beats of a view, to read those that are prepared already; the default
        prepares each.

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
    rng = seed_generator(f"{seed} {record.name}")
    parts: list[BeatDataset] = []
    for index, view in enumerate(views):
        if not has_view(record, view):
            continue
        strips = prepare_view(record, view) if prepare is None else prepare(view)
        for start, beats in strips:
            position = beats.r_peaks + start
            label = label_beats(record.annotations, position, fs=record.fs)
            keep = np.ones(len(beats), dtype=np.bool_)
            if view not in scoring_views:
                keep = np.isin(label, ["N", "S", "V", NO_BEAT])
                keep &= (label != "N") | (rng.random(len(beats)) < conducted_share)
            parts.append(
                BeatDataset(
                    record_names=(record.name,),
                    subjects=(record.subject,),
                    fs=(record.fs,),
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
    return replace(
        _join(shifted),
        record_names=tuple(names),
        subjects=tuple(subject for part in parts for subject in part.subjects),
        fs=tuple(fs for part in parts for fs in part.fs),
    )


def _join(parts: Sequence[BeatDataset]) -> BeatDataset:
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])]).tolist()
    return BeatDataset(
        record_names=parts[0].record_names,
        subjects=parts[0].subjects,
        fs=parts[0].fs,
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
    """Assign subjects to folds so that each fold has about as many V beats and subjects.

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
