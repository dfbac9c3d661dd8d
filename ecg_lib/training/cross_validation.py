"""Predict out of fold: each subject by a network that has not seen the person.

Calibration, threshold, rules, scores and the promotion gate all use the predictions that are kept
from the folds: the logit of every detection of every development record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.calibration import sigmoid
from ecg_lib.classifier.shape_vote import ShapeVoteConfig, vote
from ecg_lib.evaluation.beat_scoring import NO_BEAT, BeatCounts, score_beats
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.simulation.training_patients import is_simulated_patient
from ecg_lib.training.balancing import TrainingBeats
from ecg_lib.training.cnn import CnnConfig
from ecg_lib.training.datasets import BeatDataset
from ecg_lib.training.fitting import (
    FittedCnn,
    ThresholdChoice,
    TrainingConfig,
    choose_threshold,
    fit_cnn,
    predict_logits,
)
from ecg_lib.training.views import WHOLE, View

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All choices between a dataset and a network; with a seed they determine it."""

    cnn: CnnConfig = field(default_factory=CnnConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    conducted_share: float = 0.15
    """Share of the N beats of the scoring views that a network is trained on."""
    max_beats: int | None = None
    """At most so many training beats, drawn at random; all when None."""

    def __post_init__(self) -> None:
        if not 0 < self.conducted_share <= 1:
            msg = f"conducted_share must be above 0 and at most 1, got {self.conducted_share!r}"
            raise ValueError(msg)
        if self.max_beats is not None and self.max_beats < 100:
            msg = f"max_beats must be at least 100, got {self.max_beats!r}"
            raise ValueError(msg)


class FoldOutput(NamedTuple):
    """Predictions of one fold."""

    rows: NDArray[np.int64]
    """Rows of the dataset that were predicted: all detections of the fold's subjects."""

    logits: NDArray[np.float64]
    """Of V."""
    beat_logits: NDArray[np.float64]
    """Of being a beat."""
    loss: tuple[float, ...]
    """Training loss of each epoch."""

    n_training_beats: int
    model: Any = None
    """The keras model, where it was fitted."""


def fit_subjects(
    dataset: BeatDataset,
    *,
    subjects: set[str],
    scoring_views: Sequence[View],
    recipe: Recipe,
    seed: int,
    weights: Mapping[str, float] | None = None,
    on_epoch_end: Callable[[int, float], None] | None = None,
) -> FittedCnn:
    """Fit a network to the beats of some subjects; `weights` are those of :func:`predict_fold`."""
    rows = training_rows(
        dataset,
        subjects=subjects,
        scoring_views=scoring_views,
        recipe=recipe,
        seed=seed,
        weights=weights,
    )
    beats = TrainingBeats(
        windows=np.asarray(dataset.windows[rows]),
        features=dataset.features[rows],
        is_v=dataset.is_v[rows],
        is_beat=dataset.label[rows] != NO_BEAT,
        weights=_weigh(dataset, weights)[rows],
    )
    return fit_cnn(
        beats, cnn=recipe.cnn, training=recipe.training, seed=seed, on_epoch_end=on_epoch_end
    )


def training_rows(
    dataset: BeatDataset,
    *,
    subjects: set[str],
    scoring_views: Sequence[View],
    recipe: Recipe,
    seed: int,
    weights: Mapping[str, float] | None = None,
) -> NDArray[np.int64]:
    """Choose the rows that a network of some subjects is trained on, ascending.

    Simulated patients of :mod:`ecg_lib.records.simulation.training_patients` are always among
    them. All trainable beats of the training views (which hold a share of the N beats only); of the
    scoring views, which are whole, the same share of N. Where there is a greatest number of beats,
    those of records with a weight are taken first, for at most half of it.
    """
    rng = np.random.default_rng(seed)
    seen = subjects | {one for one in dataset.subjects if is_simulated_patient(one)}
    keep = dataset.is_trainable & dataset.is_readable & _is_of(dataset, seen)
    is_scoring = np.isin(dataset.view, [dataset.views.index(view) for view in scoring_views])
    is_thinned = is_scoring & (dataset.label == "N")
    keep &= ~is_thinned | (rng.random(len(dataset)) < recipe.conducted_share)
    rows = np.flatnonzero(keep)
    if recipe.max_beats is not None and len(rows) > recipe.max_beats:
        is_weighted = np.isin(dataset.record[rows], _records_of(dataset, weights))
        first, others = rows[is_weighted], rows[~is_weighted]
        if len(first) > recipe.max_beats // 2:
            first = rng.choice(first, recipe.max_beats // 2, replace=False)
        n_others = min(len(others), recipe.max_beats - len(first))
        drawn = rng.choice(others, n_others, replace=False)
        rows = np.sort(np.concatenate([first, drawn]))
    return rows


def _weigh(dataset: BeatDataset, weights: Mapping[str, float] | None) -> NDArray[np.float32]:
    """Return the weight of every row."""
    of_record = [(weights or {}).get(name, 1.0) for name in dataset.record_names]
    return np.array(of_record, dtype=np.float32)[dataset.record]


def _records_of(dataset: BeatDataset, weights: Mapping[str, float] | None) -> list[int]:
    return [index for index, name in enumerate(dataset.record_names) if name in (weights or {})]


def predict_fold(
    dataset: BeatDataset,
    *,
    folds: Mapping[str, int],
    fold: int,
    predicted_views: Sequence[View],
    scoring_views: Sequence[View],
    recipe: Recipe,
    seed: int,
    weights: Mapping[str, float] | None = None,
    on_epoch_end: Callable[[int, float], None] | None = None,
) -> FoldOutput:
    """Fit a network without the subjects of a fold and predict their beats.

    Parameters
    ----------
    dataset : BeatDataset
    folds : mapping of str to int
        Fold of each subject.
    fold : int
        The one to leave out and predict.
    predicted_views : sequence of View
        Scoring views that are predicted.
    scoring_views : sequence of View
        Views of which the dataset holds every beat.
    recipe : Recipe
    seed : int
    weights : mapping of str to float, optional
        Weight of the beats of a record in the loss, where that is not 1.
    on_epoch_end : callable, optional
        See :func:`ecg_lib.training.fitting.fit_cnn`.

    Returns
    -------
    FoldOutput

    Raises
    ------
    ValueError
        If no subject is in the fold, or all are.

    """
    left_out = {subject for subject, its_fold in folds.items() if its_fold == fold}
    others = set(folds) - left_out
    if not left_out or not others:
        msg = f"fold {fold} must leave subjects on both sides, got {len(left_out)} in it"
        raise ValueError(msg)
    fitted = fit_subjects(
        dataset,
        subjects=others,
        scoring_views=scoring_views,
        recipe=recipe,
        seed=seed,
        weights=weights,
        on_epoch_end=on_epoch_end,
    )
    wanted = np.isin(dataset.view, [dataset.views.index(view) for view in predicted_views])
    rows = np.flatnonzero(wanted & _is_of(dataset, left_out))
    logits = predict_logits(fitted.model, dataset.windows[rows], dataset.features[rows])
    n_training = len(
        training_rows(
            dataset,
            subjects=others,
            scoring_views=scoring_views,
            recipe=recipe,
            seed=seed,
            weights=weights,
        )
    )
    return FoldOutput(rows, logits[:, 0], logits[:, 1], fitted.loss, n_training, fitted.model)


def _is_of(dataset: BeatDataset, subjects: set[str]) -> NDArray[np.bool_]:
    of_subject = np.array([subject in subjects for subject in dataset.subjects])
    return np.asarray(of_subject[dataset.record])


def vote_out_of_fold(
    dataset: BeatDataset,
    rows: NDArray[np.int64],
    logits: NDArray[np.float64],
    *,
    config: ShapeVoteConfig | None = None,
) -> NDArray[np.float64]:
    """Let the predicted beats of one shape vote, as the classifier does.

    Parameters
    ----------
    dataset : BeatDataset
    rows, logits : ndarray of shape (n_rows,)
        Predicted rows, whole records or strips, and their logits.
    config : ShapeVoteConfig, optional

    Returns
    -------
    ndarray of shape (n_rows,)

    """
    is_predicted = np.zeros(len(dataset), dtype=np.bool_)
    is_predicted[rows] = True
    every = np.zeros(len(dataset))
    every[rows] = logits
    shapes = [block for block in dataset.shapes if is_predicted[block.rows].all()]
    return vote(every, shapes, is_readable=dataset.is_readable, config=config)[rows]


def call_nested(table: pa.Table, *, v_beats: Mapping[str, int]) -> NDArray[np.bool_]:
    """Call the beats of each fold by the threshold of the predictions of the other folds.

    The threshold of a bundle is chosen on all out-of-fold predictions, and so flatters them; the
    calls of this function it does not. Nothing is fitted: the scores are those of the bundle. Its
    calibration, a line on the logits, changes the order of no two beats and so no call. Beats that
    a rule called keep that call, and the limits of abstention are those of all predictions.

    Parameters
    ----------
    table : pyarrow.Table
        The out-of-fold predictions of a bundle.
    v_beats : mapping of str to int
        Annotated V beats of each subject: those without a readable detection are missed at any
        threshold.

    Returns
    -------
    ndarray of bool, shape (n_predictions,)
        True for V. A fold keeps its calls when the others have no V beat.

    """
    columns = {
        name: table[name].to_numpy(zero_copy_only=False)
        for name in ("subject", "view", "fold", "label", "is_readable", "probability_v", "is_v")
    }
    fold, probability = columns["fold"], columns["probability_v"]
    is_v = columns["label"] == "V"
    scored = (
        (columns["view"] == str(WHOLE))
        & columns["is_readable"].astype(np.bool_)
        & np.isin(columns["label"], ["N", "S", "V", NO_BEAT])
    )
    is_by_rule = np.array([rule != "" for rule in table["rule"].to_pylist()], dtype=np.bool_)
    called = np.array(columns["is_v"], dtype=np.bool_)
    for one in np.unique(fold):
        others = scored & (fold != one)
        if not is_v[others].any():
            continue
        mine = set(columns["subject"][fold == one].tolist())
        n_v = sum(count for subject, count in v_beats.items() if subject not in mine)
        choice = choose_threshold(
            probability[others],
            is_v[others],
            n_missed=max(0, n_v - int(is_v[others].sum())),
        )
        moved = (fold == one) & ~is_by_rule
        called[moved] = probability[moved] >= choice.threshold
    return called


def score_quickly(
    dataset: BeatDataset,
    rows: NDArray[np.int64],
    logits: NDArray[np.float64],
    *,
    view: View,
    missed_v: Mapping[str, int],
) -> ThresholdChoice:
    """Find the best V-F1 of some predictions of one view after the vote, over all thresholds.

    Counts as :func:`ecg_lib.evaluation.beat_scoring.score_beats` does: F, Q and flutter are left
    out, V beats without a readable detection are missed.

    Parameters
    ----------
    dataset : BeatDataset
    rows, logits : ndarray
        Predicted rows and their logits.
    view : View
        The view to score.
    missed_v : mapping of str to int
        V beats without a detection, of each record.

    """
    logits = vote_out_of_fold(dataset, rows, logits)
    of_view = dataset.view[rows] == dataset.views.index(view)
    rows, logits = rows[of_view], logits[of_view]
    label = dataset.label[rows]
    counts = np.isin(label, ["N", "S", "V", NO_BEAT])
    readable = dataset.is_readable[rows]
    names = {dataset.record_names[index] for index in np.unique(dataset.record[rows])}
    n_missed = sum(missed_v[name] for name in names) + int(((label == "V") & ~readable).sum())
    keep = counts & readable
    return choose_threshold(sigmoid(logits[keep]), dataset.is_v[rows[keep]], n_missed=n_missed)


def score_records(
    dataset: BeatDataset,
    rows: NDArray[np.int64],
    is_v: NDArray[np.bool_],
    *,
    view: View,
    annotations: Mapping[str, Annotations],
    duration_s: Mapping[str, float],
    start_s: float = 0.0,
) -> dict[str, BeatCounts]:
    """Score predictions of one view end to end, record by record.

    Parameters
    ----------
    dataset : BeatDataset
    rows : ndarray of int64
        All rows of the view, of the records to score.
    is_v : ndarray of bool, shape of `rows`
        Final classes.
    view : View
    annotations : mapping of str to Annotations
        Of each record to score.
    duration_s : mapping of str to float
        Length of each record; beats behind the last whole strip of a view of strips are left out.
    start_s : float
        Where scoring starts.

    Returns
    -------
    dict of BeatCounts
        By record.

    """
    counts = {}
    for index, name in enumerate(dataset.record_names):
        if name not in annotations:
            continue
        mine = (dataset.record[rows] == index) & (dataset.view[rows] == dataset.views.index(view))
        # Two strips may both see a beat that lies on their border, so order is not given.
        order = np.argsort(dataset.position[rows[mine]], kind="stable")
        selected = rows[mine][order]
        stop_s = float("inf")
        if view.strip_s is not None:
            stop_s = duration_s[name] // view.strip_s * view.strip_s
        counts[name] = score_beats(
            annotations[name],
            detections=dataset.position[selected],
            is_v=is_v[mine][order],
            is_readable=dataset.is_readable[selected],
            fs=dataset.fs[index],
            start_s=start_s,
            stop_s=stop_s,
        )
    return counts
