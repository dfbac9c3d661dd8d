"""Physiological rules over the network's answer; each names itself when it changes a class.

A rule speaks only where the network is unsure: its answer lies in a band around the threshold.
The limits were chosen on the out-of-fold predictions of DS1. What each rule does, clean and under
noise, is in every report of an evaluation (``docs/evaluation.md``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.beats import FEATURE_NAMES


class Rule(StrEnum):
    """The rules, and NONE where none changed a class."""

    NONE = ""
    PREMATURE_AND_WIDE = "premature_and_wide"
    """N to V: early, wide, unlike a conducted beat, and followed by a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleGuardConfig:
    """Limits of the rules; saved in the bundle."""

    band_logit: float = 2.0
    """How far from the threshold, in logits, a rule may change the answer."""
    premature_rr_ratio: float = 0.8
    """RR interval over the usual one, below which a beat is early (Marriott: "premature")."""
    wide_qrs_s: float = 0.12
    """Least QRS width of ventricular origin (AHA/ACCF/HRS 2009, DOI 10.1016/j.jacc.2008.12.013)."""
    wide_similarity: float = 0.6
    """Correlation with the template, below which the shape is another."""


class GuardedBeats(NamedTuple):
    """Classes after the rules."""

    is_v: NDArray[np.bool_]
    rule: NDArray[np.str_]
    """The :class:`Rule` that changed the class of each beat, or an empty string."""


def apply_rules(
    probability_v: NDArray[np.float64],
    features: NDArray[np.float32],
    *,
    threshold: float,
    config: RuleGuardConfig | None = None,
) -> GuardedBeats:
    """Call beats V or N by the threshold, then let the rules speak.

    Parameters
    ----------
    probability_v : ndarray of shape (n_beats,)
        Calibrated probability of V.
    features : ndarray of shape (n_beats, n_features)
        See :data:`ecg_lib.beats.FEATURE_NAMES`.
    threshold : float
        Probability from which on a beat is called V.
    config : RuleGuardConfig, optional

    Returns
    -------
    GuardedBeats

    """
    config = config or RuleGuardConfig()
    is_v = probability_v >= threshold
    is_unsure = np.abs(_logit(probability_v) - _logit(np.array(threshold))) < config.band_logit

    def feature(name: str) -> NDArray[np.float64]:
        return features[:, FEATURE_NAMES.index(name)].astype(np.float64)

    is_ventricular = (
        (feature("rr_prev_ratio") <= np.log(config.premature_rr_ratio))
        & (feature("rr_next_ratio") > 0)
        & (feature("qrs_width_s") >= config.wide_qrs_s)
        & (feature("qrs_similarity") < config.wide_similarity)
    )
    rule = np.full(len(is_v), Rule.NONE.value, dtype="U24")
    rule[~is_v & is_unsure & is_ventricular] = Rule.PREMATURE_AND_WIDE.value
    is_changed = rule != Rule.NONE.value
    return GuardedBeats(is_v ^ is_changed, rule)


def _logit(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(probability, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))
