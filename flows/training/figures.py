"""Figures of runs, as matplotlib figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.calibration import reliability_bins
from ecg_lib.evaluation.beat_scoring import BeatCounts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _new_figure(width: float = 5.5, height: float = 4.0) -> tuple[Figure, Axes]:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def draw_precision_recall(
    probabilities: NDArray[np.float64],
    is_v: NDArray[np.bool_],
    *,
    n_missed: int,
    threshold: float,
) -> Figure:
    """Draw +P over Se, with the chosen threshold; missed V beats hold Se below one."""
    order = np.argsort(-probabilities)
    true = np.cumsum(is_v[order])
    sensitivity = true / (is_v.sum() + n_missed)
    predictivity = true / np.arange(1, len(order) + 1)
    figure, axes = _new_figure()
    axes.plot(sensitivity, predictivity)
    at = int(np.searchsorted(-probabilities[order], -threshold))
    if at > 0:
        axes.plot(
            sensitivity[at - 1], predictivity[at - 1], "o", label=f"threshold {threshold:.3f}"
        )
        axes.legend(loc="lower left")
    axes.set(xlabel="VEB Se", ylabel="VEB +P", xlim=(0.5, 1.005), ylim=(0.5, 1.005))
    axes.set_title("Out-of-fold predictions")
    return figure


def draw_reliability(
    probabilities: NDArray[np.float64], is_v: NDArray[np.bool_], *, n_bins: int = 15
) -> Figure:
    """Draw the observed share of V over the stated probability."""
    bins = [one for one in reliability_bins(probabilities, is_v, n_bins=n_bins) if one.beats]
    figure, axes = _new_figure()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    axes.plot([one.stated for one in bins], [one.observed for one in bins], "o-")
    axes.set(xlabel="stated probability of V", ylabel="observed share of V")
    axes.set_title("Reliability, out of fold")
    return figure


def draw_losses(losses: Sequence[Sequence[float]]) -> Figure:
    """Draw the training loss of each fold over the epochs."""
    figure, axes = _new_figure()
    for fold, loss in enumerate(losses):
        axes.plot(np.arange(1, len(loss) + 1), loss, "o-", label=f"fold {fold}")
    axes.set(xlabel="epoch", ylabel="training loss")
    axes.legend()
    return figure


def draw_records(counts: Mapping[str, BeatCounts]) -> Figure:
    """Draw missed and false V beats of each record."""
    names = sorted(counts, key=lambda name: -(counts[name].v_false + _missed(counts[name])))
    figure, axes = _new_figure(width=8.0)
    at = np.arange(len(names))
    missed = [_missed(counts[name]) for name in names]
    axes.bar(at, missed, label="V missed or called N")
    axes.bar(at, [counts[name].v_false for name in names], bottom=missed, label="called V, is not")
    axes.set_xticks(at, names, rotation=90)
    axes.set(ylabel="beats", title="Errors of each record, out of fold")
    axes.legend()
    return figure


def _missed(counts: BeatCounts) -> int:
    return counts.v_beats - counts.v_true
