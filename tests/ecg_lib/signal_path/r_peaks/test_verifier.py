"""The features of candidates by invariance and by brute force, and the network by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecg_lib.errors import BundleIntegrityError
from ecg_lib.records.simulation.patients import Unusual, draw_unusual_patient
from ecg_lib.records.simulation.simulator import StripKind, simulate_record, simulate_strip
from ecg_lib.signal_path.r_peaks import candidate_features
from ecg_lib.signal_path.r_peaks.candidate_features import look_again, measure_candidates
from ecg_lib.signal_path.r_peaks.detection import DetectionConfig, accept_by_rules, find_candidates
from ecg_lib.signal_path.r_peaks.verifier import BeatVerifier, Perceptron, load_verifier

N_FEATURES = 94
N_AGAIN = 104
CONFIG = DetectionConfig()


def _measure(signal: NDArray[np.float64]) -> NDArray[np.float32]:
    candidates, envelopes = find_candidates(signal, config=CONFIG)
    by_rules = accept_by_rules(candidates, config=CONFIG)
    return measure_candidates(candidates, envelopes, by_rules).features


def _strip(kind: StripKind = StripKind.ISOLATED_PVC) -> NDArray[np.float64]:
    return simulate_strip(kind, seed=3, duration_s=20.0).signal_mv().astype(np.float64)


def test_every_feature_has_a_name_of_its_own() -> None:
    names = candidate_features.CANDIDATE_FEATURES
    assert len(set(names)) == len(names) == N_FEATURES
    features = dict(zip(names, _measure(_strip()).T, strict=True))
    assert set(features["is_beat_by_rules"].tolist()) == {0.0, 1.0}
    assert features["time_from_start_s"].max() == features["time_to_end_s"].max() == 2.0
    assert np.argmax(features["time_from_start_s"] < features["time_to_end_s"]) == 0
    assert features["best_likeness_to_beats"].min() >= -1.0
    assert features["best_likeness_to_beats"].max() <= 1.0 + 1e-6
    assert (features["best_likeness_to_beats"] >= features["mean_likeness_to_beats"] - 1e-6).all()


@pytest.mark.parametrize("factor", [-1.0, 0.1, -10.0])
def test_gain_and_polarity_leave_the_features_alone(factor: float) -> None:
    signal = _strip()
    np.testing.assert_allclose(_measure(factor * signal), _measure(signal), atol=1e-3)


def test_features_are_finite_whatever_the_context() -> None:
    candidates, envelopes = find_candidates(_strip(), config=CONFIG)
    n = len(candidates.position)
    for is_beat in (np.zeros(n, bool), np.ones(n, bool), np.arange(n) == 3):
        features = measure_candidates(candidates, envelopes, is_beat).features
        assert features.shape == (n, N_FEATURES)
        assert features.dtype == np.float32
        assert np.isfinite(features).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), n_samples=st.integers(720, 3600))
def test_features_of_noise_are_finite(seed: int, n_samples: int) -> None:
    signal = np.random.default_rng(seed).standard_normal(n_samples).cumsum()
    assert np.isfinite(_measure(signal)).all()


def test_a_candidate_is_not_its_own_context() -> None:
    candidates, envelopes = find_candidates(_strip(), config=CONFIG)
    is_beat = accept_by_rules(candidates, config=CONFIG)
    before = measure_candidates(candidates, envelopes, is_beat).features
    for index in (0, 5, len(is_beat) - 1):
        turned = is_beat.copy()
        turned[index] = ~turned[index]
        after = measure_candidates(candidates, envelopes, turned).features
        np.testing.assert_array_equal(after[index, :-1], before[index, :-1])
        assert after[index, -1] != before[index, -1]


def test_a_t_wave_bends_less_than_the_qrs_complex_before_it_however_tall_it_is() -> None:
    patient = draw_unusual_patient(3, Unusual.ST_ELEVATION)
    record = simulate_record("r", patient=patient, duration_s=20.0, seed=3)
    assert record.annotations is not None
    candidates, envelopes = find_candidates(record.signal_mv().astype(np.float64), config=CONFIG)
    by_rules = accept_by_rules(candidates, config=CONFIG)
    features = dict(
        zip(
            candidate_features.CANDIDATE_FEATURES,
            measure_candidates(candidates, envelopes, by_rules).features.T,
            strict=True,
        )
    )
    beats = record.annotations.beat_samples
    is_beat = np.abs(candidates.position[:, None] - beats).min(axis=1) < 54
    bend = features["curvature_at_0_ms"]
    assert np.median(bend[is_beat]) > 3 * np.median(bend[~is_beat])
    assert np.median(features["curvature_over_last_beat"][~is_beat]) < -0.5


def test_a_second_look_knows_the_verdicts_on_the_neighbours() -> None:
    candidates, envelopes = find_candidates(_strip(), config=CONFIG)
    by_rules = accept_by_rules(candidates, config=CONFIG)
    n = len(by_rules)
    verdicts = np.linspace(-12, 12, n).astype(np.float32)
    look = measure_candidates(candidates, envelopes, by_rules)
    again = look_again(candidates, look, by_rules, verdicts)
    assert again.shape == (n, N_AGAIN)
    assert again.dtype == np.float32
    np.testing.assert_array_equal(
        again[:, :N_FEATURES], measure_candidates(candidates, envelopes, verdicts > 0).features
    )
    bounded = np.clip(verdicts, -10, 10)
    time_s = candidates.position / 360
    for index in (0, 1, 7, n - 2, n - 1):
        beside = [bounded[at] if 0 <= at < n else -10 for at in _beside(index)]
        away_s = [
            min(abs(time_s[at] - time_s[index]), 2) if 0 <= at < n else 2 for at in _beside(index)
        ]
        expected = [bounded[index], *beside, *away_s, by_rules[index]]
        np.testing.assert_allclose(again[index, N_FEATURES:], expected, atol=1e-6)


def _beside(index: int) -> tuple[int, ...]:
    return index - 1, index - 2, index + 1, index + 2


def test_the_second_look_decides_after_the_first() -> None:
    candidates, envelopes = find_candidates(_strip(), config=CONFIG)
    by_rules = accept_by_rules(candidates, config=CONFIG)
    verifier = load_verifier()
    look = measure_candidates(candidates, envelopes, by_rules)
    first = verifier.first.logits(look.features)
    second = verifier.second.logits(look_again(candidates, look, by_rules, first))
    np.testing.assert_array_equal(verifier.judge(candidates, envelopes, by_rules), second)


def _tiny() -> Perceptron:
    return Perceptron(
        mean=np.array([1, 2], np.float32),
        scale=np.array([2, 1], np.float32),
        layers=(
            (np.array([[1, -1], [1, 0]], np.float32), np.array([0, 1], np.float32)),
            (np.array([[2], [3]], np.float32), np.array([-1], np.float32)),
        ),
    )


def test_a_logit_by_hand() -> None:
    # (3, 5) -> (1, 3) -> hidden (4, 0) -> 2 * 4 + 3 * 0 - 1; (1, -8) -> (0, -10) -> (0, 1) -> 2
    features = np.array([[3, 5], [1, -8]], np.float32)
    assert _tiny().logits(features).tolist() == [7.0, 2.0]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "verifier.npz"
    load_verifier().save(path)
    loaded = BeatVerifier.load(path)
    candidates, envelopes = find_candidates(_strip(), config=CONFIG)
    by_rules = accept_by_rules(candidates, config=CONFIG)
    np.testing.assert_array_equal(
        loaded.judge(candidates, envelopes, by_rules),
        load_verifier().judge(candidates, envelopes, by_rules),
    )


@pytest.mark.parametrize("width", [2, N_FEATURES])
def test_networks_of_other_features_are_refused(tmp_path: Path, width: int) -> None:
    one = Perceptron(
        mean=np.zeros(width, np.float32),
        scale=np.ones(width, np.float32),
        layers=((np.zeros((width, 1), np.float32), np.zeros(1, np.float32)),),
    )
    path = tmp_path / "verifier.npz"
    BeatVerifier(first=one, second=one).save(path)
    with pytest.raises(
        BundleIntegrityError, match=r"networks of 94 and 104 features.* fit it again"
    ):
        BeatVerifier.load(path)


def test_the_weights_of_earlier_code_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "verifier.npz"
    np.savez(path, mean=np.zeros(73, np.float32), scale=np.ones(73, np.float32))
    with pytest.raises(BundleIntegrityError, match=r"got \[\]; fit it again"):
        BeatVerifier.load(path)


def test_layers_that_do_not_fit_are_refused() -> None:
    tiny = _tiny()
    with pytest.raises(ValueError, match="layers must follow each other"):
        Perceptron(mean=tiny.mean[:1], scale=tiny.scale[:1], layers=tiny.layers)
    with pytest.raises(ValueError, match="layers must follow each other"):
        Perceptron(mean=tiny.mean, scale=tiny.scale, layers=tiny.layers[:1])


def test_the_committed_network_takes_the_features() -> None:
    assert len(load_verifier().first.mean) == N_FEATURES
    assert len(load_verifier().second.mean) == N_AGAIN
    assert load_verifier() is load_verifier()
