"""The interval of the estimate without labels, against a bootstrap written out here."""

from __future__ import annotations

import numpy as np
import pytest

from ecg_lib.operations.drift.comparison import Comparison
from ecg_lib.operations.drift.live_performance import estimate_performance
from ecg_lib.operations.drift.observation import ObservedBeats

SAME = Comparison(
    columns=(), n_strips=1, n_beats=1, n_groups=1, n_reference_groups=1, left_out=()
)  # fmt: skip
PROBABILITIES = np.random.default_rng(4).random((20, 2)).tolist()


def observe() -> ObservedBeats:
    """Two beats for each group; V from 0.5 on."""
    p = np.array([one for group in PROBABILITIES for one in group])
    return ObservedBeats(
        columns={
            "probability_v": p,
            "arrhythmia_type": np.where(p >= 0.5, "V", "N"),
            "readable_share": np.ones(len(p)),
        },
        strip=np.repeat(np.arange(len(PROBABILITIES)), 2),
        group=np.array([f"patient {n:02}" for n in range(len(PROBABILITIES))]),
        strip_s=np.full(len(PROBABILITIES), 10.0),
    )


@pytest.mark.parametrize("seed", [0, 7])
def test_the_interval_is_one_of_90_percent_of_400_draws_of_groups(seed: int) -> None:
    p = np.array(PROBABILITIES)
    true, called, expected = ((p * (p >= 0.5)).sum(1), (p >= 0.5).sum(1), p.sum(1))
    drawn = np.random.default_rng(seed).multinomial(20, np.full(20, 1 / 20), size=400)
    weights = np.vstack([np.ones(20), drawn])
    f1 = 2 * (weights @ true) / (weights @ (called + expected))
    low, high = np.quantile(f1, [0.05, 0.95])
    options = {} if seed == 0 else {"seed": seed}
    found = estimate_performance(observe(), drift=SAME, refused_share=0.0, **options).f1
    assert found.low == pytest.approx(low * 0.92, abs=1e-9)
    assert found.high == pytest.approx(high + 0.04, abs=1e-9)
    assert found.estimate == pytest.approx(f1[0] * 0.98, abs=1e-9)


def test_the_upper_bound_is_at_most_one() -> None:
    beats = observe()
    certain = beats.columns | {"probability_v": np.ones(40), "arrhythmia_type": np.full(40, "V")}
    sure = ObservedBeats(
        columns=certain, strip=beats.strip, group=beats.group, strip_s=beats.strip_s
    )
    found = estimate_performance(sure, drift=SAME, refused_share=0.0).f1
    assert found == pytest.approx((0.98, 0.92, 1.0))


def test_draws_without_any_v_are_left_out_of_the_interval() -> None:
    beats = ObservedBeats(
        columns={
            "probability_v": np.array([0.9, 0.0]),
            "arrhythmia_type": np.array(["V", "N"]),
            "readable_share": np.ones(2),
        },
        strip=np.array([0, 1]),
        group=np.array(["a", "b"]),
        strip_s=np.full(2, 10.0),
    )
    f1 = 2 * 0.9 / (1 + 0.9)  # of each draw that has group a
    found = estimate_performance(beats, drift=SAME, refused_share=0.0).f1
    assert found == pytest.approx((0.98 * f1, 0.92 * f1, f1 + 0.04))


def test_each_strip_counts_once_in_what_is_readable() -> None:
    beats = ObservedBeats(
        columns={
            "probability_v": np.array([0.9, 0.7, 0.4, 0.0]),
            "arrhythmia_type": np.array(["V", "V", "N", "N"]),
            "readable_share": np.array([1.0, 1.0, 1.0, 0.6]),
        },
        strip=np.array([0, 0, 0, 1]),
        group=np.array(["a", "a"]),
        strip_s=np.full(2, 10.0),
    )
    found = estimate_performance(beats, drift=SAME, refused_share=0.0).f1
    assert found.estimate == pytest.approx(0.98 * 2 * 1.6 / (2 + 2.0 / 0.8))
