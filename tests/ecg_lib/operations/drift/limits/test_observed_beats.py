"""The columns of beats that are made by hand, so that each figure can be worked out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ecg_lib.classifier.beat_classifier import ClassifiedBeats
from ecg_lib.operations.drift.observation import (
    POINTS_DOWN,
    STRETCH,
    observe_beats,
    observe_polarity,
)
from ecg_lib.signal_path.features import FEATURE_NAMES
from ecg_lib.signal_path.preprocessing import PreparedBeats
from ecg_lib.signal_path.readability.quality import Stretch, UnreadableReason

FS = 100.0


def classify(
    at_s: list[float], *, duration_s: float, unreadable: tuple[Stretch, ...] = ()
) -> ClassifiedBeats:
    """Beats called N at these seconds."""
    n_beats = len(at_s)
    ones = np.ones(n_beats)
    prepared = PreparedBeats(
        r_peaks=(np.array(at_s) * FS).astype(np.int64),
        windows=np.ones((n_beats, 360, 2), dtype=np.float32),
        features=np.ones((n_beats, len(FEATURE_NAMES)), dtype=np.float32),
        rr_prev_s=ones,
        rr_next_s=ones,
        qrs_width_s=0.1 * ones,
        amplitude_mv=ones,
        qrs_hz=ones,
        t_peak_s=ones,
        stray_line_hz=ones,
        deflection=ones,
        beat_quality=np.full(n_beats, "ok"),
        shapes=(),
        unreadable=unreadable,
        findings=(),
        quality_per_second=np.ones(int(duration_s)),
        fs=FS,
        duration_s=duration_s,
        unreadable_s=sum(part.stop - part.start for part in unreadable) / FS,
        flutter_s=0.0,
        missing_s=0.0,
    )
    return ClassifiedBeats(
        prepared=prepared,
        probability_v=0.1 * ones,
        is_v=np.zeros(n_beats, dtype=np.bool_),
        rule=np.full(n_beats, ""),
        threshold=0.5,
        run_threshold=0.5,
    )


def test_the_width_of_a_qrs_complex_is_in_milliseconds() -> None:
    observed = observe_beats(classify([1.0, 2.0], duration_s=10.0))
    assert observed["qrs_width_ms"].tolist() == [100.0, 100.0]


@pytest.mark.parametrize(("at_peak", "is_down"), [(-0.1, True), (0.0, False), (0.1, False)])
def test_an_r_peak_points_down_below_the_baseline_only(at_peak: float, *, is_down: bool) -> None:
    classified = classify([1.0], duration_s=10.0)
    windows = np.zeros((1, 360, 2), dtype=np.float32)
    windows[0, 180, 0] = at_peak
    turned = replace(classified, prepared=replace(classified.prepared, windows=windows))
    assert observe_polarity(turned)[POINTS_DOWN].tolist() == [is_down]


def test_each_unreadable_part_lowers_the_share_of_its_own_stretches() -> None:
    parts = (
        Stretch(500, 1100, UnreadableReason.NOISE),  # 5 s to 11 s
        Stretch(2200, 2500, UnreadableReason.FLAT),
        Stretch(2600, 2700, UnreadableReason.MISSING),
    )
    classified = classify([1.0, 12.0, 28.0, 35.0, 42.0], duration_s=44.0, unreadable=parts)
    observed = observe_beats(classified)
    assert observed[STRETCH].tolist() == [0, 1, 2, 3, 4]
    assert observed["readable_share"].tolist() == pytest.approx([0.5, 0.9, 0.6, 1.0, 1.0])
