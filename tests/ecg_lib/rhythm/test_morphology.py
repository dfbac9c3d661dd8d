"""Forms of V beats of simulated patients, who have one or two."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ecg_lib.records.simulation.patients import Morphology, Patient, draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.rhythm.morphology import (
    OTHER,
    Morphologies,
    MorphologyConfig,
    _join_alike,
    cut_shapes,
    group_shapes,
)
from ecg_lib.signal_path.preprocessing import prepare_beats


def _forms(patient: Patient, *, seed: int, duration_s: float = 420.0) -> Morphologies:
    record = simulate_record("sim", patient=patient, duration_s=duration_s, seed=seed)
    assert record.annotations is not None
    beats = record.annotations.beat_samples
    prepared = prepare_beats(record.signal_mv(), fs=record.fs, r_peaks=beats)
    is_v = record.annotations.beat_classes == "V"
    return group_shapes(cut_shapes(prepared.windows[is_v, :, 0]))


def _draw(shape: Morphology) -> np.ndarray:
    """A form as MLII sees it."""
    at_s = np.arange(-0.16, 0.24, 1 / 360)
    trace = np.zeros_like(at_s)
    for wave in (*shape.qrs, *shape.t):
        offset = at_s - wave.centre_s
        width = np.where(offset < 0, wave.rise_s, wave.fall_s)
        trace += wave.amplitudes_mv[0] * np.exp(-0.5 * (offset / width) ** 2)
    return trace


def _likeness(patient: Patient) -> float:
    """Correlation of both forms in MLII, at the best shift."""
    first, second = map(_draw, patient.pvcs)
    return max(
        float(np.corrcoef(first[12 + shift : 132 + shift], second[12:132])[0, 1])
        for shift in range(-12, 13)
    )


def _patients(n_forms: int) -> list[tuple[int, Patient]]:
    """Patients with many V beats of one form, or of two that MLII can tell apart."""
    drawn = ((seed, draw_patient(seed)) for seed in range(90))
    return [
        (seed, replace(patient, pvc_episodes_per_min=8.0))
        for seed, patient in drawn
        if len(patient.pvcs) == n_forms and (n_forms == 1 or _likeness(patient) < 0.8)
    ][:6]


def test_a_uniform_patient_has_one_form() -> None:
    counts = [_forms(patient, seed=seed).n_forms for seed, patient in _patients(1)]
    assert counts.count(1) >= 5
    assert max(counts) <= 2


def test_a_multiform_patient_has_two_forms() -> None:
    counts = [_forms(patient, seed=seed).n_forms for seed, patient in _patients(2)]
    assert counts == [2] * 6


def _bumps(centres: list[int], n_each: int, *, noise: float = 0.02) -> np.ndarray:
    rng = np.random.default_rng(1)
    at = np.arange(144)
    shapes = [
        np.exp(-0.5 * ((at - abs(centre)) / 6.0) ** 2) * np.sign(centre) for centre in centres
    ]
    rows = np.repeat(shapes, n_each, axis=0)
    return (rows + noise * rng.standard_normal(rows.shape)).astype(np.float32)


def test_polarity_makes_a_form_and_gain_does_not() -> None:
    shapes = _bumps([58, -58], 20)
    shapes[::3] *= 5
    found = group_shapes(shapes)
    assert found.n_forms == 2
    assert len(set(found.labels[:20])) == len(set(found.labels[20:])) == 1


def test_the_most_frequent_form_comes_first_and_examples_have_it() -> None:
    shapes = np.concatenate([_bumps([40], 10), _bumps([-70], 50)])
    found = group_shapes(shapes)
    assert np.bincount(found.labels).tolist() == [50, 10]
    assert found.labels[found.examples].tolist() == [0, 1]


def test_a_form_needs_five_beats_and_two_percent() -> None:
    assert group_shapes(_bumps([58], 4)).n_forms == 0
    assert group_shapes(_bumps([58], 5)).n_forms == 1
    few = np.concatenate([_bumps([58], 400), _bumps([-40], 7)])
    found = group_shapes(few)
    assert found.n_forms == 1
    assert set(found.labels[400:]) == {OTHER}


@pytest.mark.parametrize("n_beats", [0, 1, 4])
def test_too_few_beats_have_no_form(n_beats: int) -> None:
    found = group_shapes(np.zeros((n_beats, 144), dtype=np.float32))
    assert (found.n_forms, len(found.labels)) == (0, n_beats)


def test_noise_ends_and_flat_beats_are_nothing() -> None:
    rng = np.random.default_rng(0)
    assert group_shapes(rng.standard_normal((3000, 144)).astype(np.float32)).n_forms == 0
    assert group_shapes(np.zeros((3000, 144), dtype=np.float32)).n_forms == 0


def test_many_beats_are_grouped_as_few_are() -> None:
    shapes = np.concatenate([_bumps([58], 9000), _bumps([-58], 3000)])
    order = np.random.default_rng(2).permutation(len(shapes))
    found = group_shapes(shapes[order])
    assert sorted(np.bincount(found.labels).tolist()) == [3000, 9000]


def test_the_limits_are_those_that_were_chosen() -> None:
    assert MorphologyConfig() == MorphologyConfig(
        same_form=0.85, one_form=0.9, min_beats=5, min_share=0.02
    )


def _noise(seed: int, n_samples: int = 200) -> np.ndarray:
    """A trace that is like itself at no other shift."""
    return np.random.default_rng(seed).standard_normal(n_samples).astype(np.float32)


@pytest.mark.parametrize("least", [3, 2])
def test_three_beats_found_a_form_and_two_do_not(least: int) -> None:
    config = MorphologyConfig(min_beats=least)
    assert group_shapes(_bumps([58], least, noise=0.0), config=config).n_forms == (least == 3)


def test_beats_that_are_cut_a_little_off_are_of_one_form() -> None:
    trace = _noise(0)
    shapes = np.stack([trace[20 + shift : 164 + shift] for shift in (0, -4, 4, -8, 8, -12, 12)])
    found = group_shapes(np.repeat(shapes, 10, axis=0))
    assert found.labels.tolist() == [0] * 70
    beyond = np.stack([trace[20:164]] * 10 + [trace[34:178]] * 4)
    assert set(group_shapes(beyond).labels[10:]) == {OTHER}


def _two_alike(correlation: float) -> tuple[np.ndarray, np.ndarray]:
    """Two traces of unit power with a correlation, and none at other shifts."""
    one, two = (row - row.mean() for row in (_noise(1, 120), _noise(2, 120)))
    one /= np.linalg.norm(one)
    two -= one * (one @ two)
    two /= np.linalg.norm(two)
    return one, correlation * one + np.sqrt(1 - correlation**2) * two


@pytest.mark.parametrize(("correlation", "n_forms"), [(0.89, 2), (0.91, 1)])
def test_forms_that_are_alike_are_joined(correlation: float, n_forms: int) -> None:
    forms = np.stack([*_two_alike(correlation), _noise(3, 120)]).astype(np.float32)
    assert len(_join_alike(forms, MorphologyConfig())) == n_forms + 1
    assert len(_join_alike(forms[::-1], MorphologyConfig())) == n_forms + 1


@pytest.mark.parametrize(("correlation", "n_forms"), [(0.83, 2), (0.87, 1)])
def test_beats_that_are_alike_found_one_form(correlation: float, n_forms: int) -> None:
    shapes = np.pad(np.stack(_two_alike(correlation)), ((0, 0), (12, 12)), mode="edge")
    found = group_shapes(np.repeat(shapes, 20, axis=0).astype(np.float32))
    assert found.n_forms == n_forms


def test_each_beat_is_of_the_form_that_it_resembles_most() -> None:
    found = group_shapes(np.concatenate([_bumps([40], 10), _bumps([-70], 30), _bumps([100], 20)]))
    assert found.labels.tolist() == [2] * 10 + [0] * 30 + [1] * 20
