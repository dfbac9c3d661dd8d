"""Correct unsure classes by physiological rules; a changed class carries the name of its rule.

A rule applies only where the network is unsure: its probability lies in a band around the
threshold. The catalogue holds the questions that an ECG reader would ask about such a beat. The
rule in force is the only one that lowered V-F1 of the reference bundle in no condition of DS1 out
of fold, clean or noisy; its limits were chosen on the same predictions. Each out-of-fold evaluation
shows the effect of every rule (``docs/evaluation.md``), and a bundle for which the rules would
lower V-F1 of whole records is made without them.

Sources: Wagner & Strauss, *Marriott's Practical Electrocardiography*, 12th ed. 2014, for premature,
interpolated and escape beats and their pauses; Surawicz et al. 2009 (AHA/ACCF/HRS),
DOI 10.1016/j.jacc.2008.12.013, for the width of the QRS complex.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.signal_path.features import FEATURE_NAMES


class Rule(StrEnum):
    """The rules of the catalogue, and NONE for an unchanged class."""

    NONE = ""
    PREMATURE_AND_WIDE = "premature_and_wide"
    """N to V: early, wide, unlike a conducted beat, and followed by a pause."""
    COMPENSATORY_PAUSE = "compensatory_pause"
    """N to V: wide and unlike; with the interval before it the pause makes two usual intervals."""
    INTERPOLATED = "interpolated"
    """N to V: wide and unlike, between two conducted beats that are a usual interval apart."""
    VENTRICULAR_ESCAPE = "ventricular_escape"
    """N to V: late, wide and unlike."""
    RUN = "run"
    """N to V: early, unlike, and of the shape of a V beat next to it."""
    CONDUCTED_SHAPE = "conducted_shape"
    """V to N: of the shape of conducted beats, and on time."""
    CONDUCTED_WIDTH = "conducted_width"
    """V to N: as narrow as conducted beats, and much like them."""
    CONDUCTED_P_WAVE = "conducted_p_wave"
    """V to N: the usual P wave before it, on time, and like conducted beats."""


IN_FORCE: Final = (Rule.PREMATURE_AND_WIDE,)
"""The rules that change classes, in order: the first that applies is named."""

CATALOGUE: Final = tuple(rule for rule in Rule if rule is not Rule.NONE)
"""All rules."""

_EARLY: Final = math.log(0.9)
_LATE: Final = math.log(1.2)
"""Logarithm of the interval before a beat over the usual one."""
_LIKE: Final = 0.95
_NEARLY_LIKE: Final = 0.9
_NOT_QUITE_LIKE: Final = 0.8
"""Correlation with the template, or with the beat beside it."""
_NO_WIDER: Final = math.log(1.1)
"""Logarithm of the QRS width over that of the template."""
_TWO_USUAL: Final = 0.1
_ONE_USUAL: Final = 0.15
"""Largest distance of the sum of two intervals from two, or from one, in usual intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleGuardConfig:
    """Limits of the rules that are in force; saved in the bundle."""

    band_logit: float = 2.0
    """Largest distance from the threshold, in logits, at which rules apply; 0 turns them off."""
    premature_rr_ratio: float = 0.8
    """RR interval over the usual one, below which a beat is early (Marriott: "premature")."""
    wide_qrs_s: float = 0.12
    """Least QRS width of ventricular origin (AHA/ACCF/HRS 2009, DOI 10.1016/j.jacc.2008.12.013)."""
    wide_similarity: float = 0.6
    """Correlation with the template, below which the shape is another."""

    @property
    def in_force(self) -> tuple[Rule, ...]:
        """The rules that change classes: none if the band has no width."""
        return IN_FORCE if self.band_logit > 0 else ()


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
    """Classify beats by the threshold, then apply the rules.

    Parameters
    ----------
    probability_v : ndarray of shape (n_beats,)
        Calibrated probability of V.
    features : ndarray of shape (n_beats, n_features)
        See :data:`ecg_lib.signal_path.features.FEATURE_NAMES`.
    threshold : float
        Probability from which on a beat is called V.
    config : RuleGuardConfig, optional

    Returns
    -------
    GuardedBeats

    """
    config = config or RuleGuardConfig()
    beats = _Beats(features, probability_v >= threshold)
    rule = np.full(len(features), Rule.NONE.value, dtype="U24")
    if not config.in_force:
        return GuardedBeats(beats.is_v, rule)
    is_unsure = _is_unsure(probability_v, threshold, config)
    for name in config.in_force:
        rule[is_unsure & (rule == Rule.NONE.value) & _applies(name, beats, config)] = name.value
    return GuardedBeats(beats.is_v ^ (rule != Rule.NONE.value), rule)


def propose_changes(
    probability_v: NDArray[np.float64],
    features: NDArray[np.float32],
    *,
    threshold: float,
    config: RuleGuardConfig | None = None,
) -> NDArray[np.bool_]:
    """Find the classes that each rule of the catalogue would change if it were the only one.

    Parameters
    ----------
    probability_v, features, threshold, config
        See :func:`apply_rules`. If no rule is in force, the default band is used.

    Returns
    -------
    ndarray of bool, shape (n_beats, n_rules)
        Columns as in :data:`CATALOGUE`.

    """
    config = config or RuleGuardConfig()
    if not config.in_force:
        config = replace(config, band_logit=RuleGuardConfig().band_logit)
    beats = _Beats(features, probability_v >= threshold)
    is_unsure = _is_unsure(probability_v, threshold, config)
    return np.stack([is_unsure & _applies(rule, beats, config) for rule in CATALOGUE], axis=1)


class _Beats:
    """Features of the beats, with the classes of the network."""

    def __init__(self, features: NDArray[np.float32], is_v: NDArray[np.bool_]) -> None:
        self._features = features
        self.is_v = is_v

    def feature(self, name: str) -> NDArray[np.float64]:
        return self._features[:, FEATURE_NAMES.index(name)].astype(np.float64)

    def usual_intervals(self) -> NDArray[np.float64]:
        """Add both intervals of each beat, in usual intervals."""
        before, after = self.feature("rr_prev_ratio"), self.feature("rr_next_ratio")
        return np.asarray(np.exp(before) + np.exp(after))

    def is_wide_and_unlike(self, config: RuleGuardConfig, *, like: float) -> NDArray[np.bool_]:
        is_wide = self.feature("qrs_width_s") >= config.wide_qrs_s
        return np.asarray(is_wide & (self.feature("qrs_similarity") < like))


def _applies(rule: Rule, beats: _Beats, config: RuleGuardConfig) -> NDArray[np.bool_]:
    """Find the beats for which a rule contradicts the network."""
    finds, to_v = _RULES[rule]
    return np.asarray((beats.is_v != to_v) & finds(beats, config))


def _is_premature_and_wide(beats: _Beats, config: RuleGuardConfig) -> NDArray[np.bool_]:
    is_early = beats.feature("rr_prev_ratio") <= math.log(config.premature_rr_ratio)
    has_pause = beats.feature("rr_next_ratio") > 0
    return is_early & has_pause & beats.is_wide_and_unlike(config, like=config.wide_similarity)


def _has_compensatory_pause(beats: _Beats, config: RuleGuardConfig) -> NDArray[np.bool_]:
    is_early = beats.feature("rr_prev_ratio") <= _EARLY
    is_compensated = np.abs(beats.usual_intervals() - 2) < _TWO_USUAL
    return is_early & is_compensated & beats.is_wide_and_unlike(config, like=_NOT_QUITE_LIKE)


def _is_interpolated(beats: _Beats, config: RuleGuardConfig) -> NDArray[np.bool_]:
    is_between = np.abs(beats.usual_intervals() - 1) < _ONE_USUAL
    return is_between & beats.is_wide_and_unlike(config, like=config.wide_similarity)


def _is_escape(beats: _Beats, config: RuleGuardConfig) -> NDArray[np.bool_]:
    is_late = beats.feature("rr_prev_ratio") >= _LATE
    return is_late & beats.is_wide_and_unlike(config, like=config.wide_similarity)


def _is_of_run(beats: _Beats, config: RuleGuardConfig) -> NDArray[np.bool_]:
    follows = np.concatenate([[False], beats.is_v[:-1]])[: len(beats.is_v)]
    precedes = np.concatenate([beats.is_v[1:], [False]])[: len(beats.is_v)]
    is_of_shape = follows & (beats.feature("similarity_to_previous") >= _NEARLY_LIKE)
    is_of_shape |= precedes & (beats.feature("similarity_to_next") >= _NEARLY_LIKE)
    is_early = beats.feature("rr_prev_ratio") <= _EARLY
    return is_of_shape & is_early & (beats.feature("qrs_similarity") < config.wide_similarity)


def _has_conducted_shape(beats: _Beats, _: RuleGuardConfig) -> NDArray[np.bool_]:
    is_on_time = beats.feature("rr_prev_ratio") > _EARLY
    return is_on_time & (beats.feature("qrs_similarity") >= _LIKE)


def _has_conducted_width(beats: _Beats, config: RuleGuardConfig) -> NDArray[np.bool_]:
    is_narrow = beats.feature("qrs_width_s") < config.wide_qrs_s
    is_narrow &= beats.feature("qrs_width_ratio") < _NO_WIDER
    return is_narrow & (beats.feature("qrs_similarity") >= _NEARLY_LIKE)


def _has_conducted_p_wave(beats: _Beats, _: RuleGuardConfig) -> NDArray[np.bool_]:
    is_on_time = beats.feature("rr_prev_ratio") > _EARLY
    has_p_wave = beats.feature("p_similarity") >= _NEARLY_LIKE
    return is_on_time & has_p_wave & (beats.feature("qrs_similarity") >= _NEARLY_LIKE)


_RULES: Final[dict[Rule, tuple[Callable[[_Beats, RuleGuardConfig], NDArray[np.bool_]], bool]]] = {
    Rule.PREMATURE_AND_WIDE: (_is_premature_and_wide, True),
    Rule.COMPENSATORY_PAUSE: (_has_compensatory_pause, True),
    Rule.INTERPOLATED: (_is_interpolated, True),
    Rule.VENTRICULAR_ESCAPE: (_is_escape, True),
    Rule.RUN: (_is_of_run, True),
    Rule.CONDUCTED_SHAPE: (_has_conducted_shape, False),
    Rule.CONDUCTED_WIDTH: (_has_conducted_width, False),
    Rule.CONDUCTED_P_WAVE: (_has_conducted_p_wave, False),
}
"""Condition of each rule, and whether it changes the class to V."""


def _is_unsure(
    probability_v: NDArray[np.float64], threshold: float, config: RuleGuardConfig
) -> NDArray[np.bool_]:
    distance = np.abs(_logit(probability_v) - _logit(np.array(threshold)))
    return np.asarray(distance < config.band_logit)


def _logit(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(probability, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))
