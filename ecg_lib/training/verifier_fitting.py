"""Fit the network that judges candidates of the R-peak detector, and write its weights.

``python -m ecg_lib.training.verifier_fitting MITDB_DIR NSTDB_DIR`` writes
``ecg_lib/signal_path/r_peaks/verifier.npz`` from DS1, the paced records and simulated patients:
whole records, strips of 10 s, second leads, and mixtures with channel 1 of the recorded noise
(channel 0 is for evaluation). It also writes five networks, each blind to a fifth of the subjects,
for figures out of fold (:mod:`ecg_lib.evaluation.blind_verifiers`). DS2 is never read.

Deterministic: the same data give the same weights on the same machine.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.evaluation.blind_verifiers import save_blind_verifiers
from ecg_lib.records.annotations import DS1, PACED, Annotations
from ecg_lib.records.noise import mix_at_snr
from ecg_lib.records.record import read_wfdb
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.signal_path.r_peaks.candidate_features import measure_candidates
from ecg_lib.signal_path.r_peaks.detection import DetectionConfig, accept_by_rules, find_candidates
from ecg_lib.signal_path.r_peaks.matching import MATCH_TOLERANCE_S, match_beats
from ecg_lib.signal_path.r_peaks.verifier import WEIGHTS, BeatVerifier

logger = logging.getLogger(__name__)

N_FOLDS: Final = 5
_TOLERANCE: Final = round(MATCH_TOLERANCE_S * 360)
_STRIP: Final = 3600
_SHORTEST: Final = 720
_CLASS_WEIGHTS: Final = {"V": 5.0, "S": 2.0, "F": 2.0}
"""A lost ventricular beat costs most; what is no beat, and N, weighs 1."""
_EASY_SHARE: Final = 0.2
"""Share of the candidates kept, and weighted up, of those whose height leaves no doubt."""
_DOUBTFUL: Final = (0.12, 0.75)
_NOISES: Final = (("ma", 12, 0.3), ("ma", 6, 0.15), ("bw", 6, 0.3), ("ma", 18, 0.3))
"""(noise record, dB, weight) of the mixtures of half a record each."""
_STRIP_NOISE: Final = ("ma", 9, 0.2)
_PATIENTS: Final = 80
_HIDDEN: Final = (32, 16)
_EPOCHS: Final = 4
_BATCH: Final = 1024
_RATE: Final = 3e-3
_DECAY: Final = 1e-3


class _Stretch(NamedTuple):
    signal: NDArray[np.float64]
    annotations: Annotations
    weight: float


class Samples(NamedTuple):
    """Candidates to learn from."""

    features: NDArray[np.float32]
    is_beat: NDArray[np.bool_]
    weight: NDArray[np.float64]


def read_samples(mitdb_dir: Path, nstdb_dir: Path) -> dict[str, Samples]:
    """Measure the candidates of DS1 and the paced records, by record.

    Args:
        mitdb_dir: The MIT-BIH Arrhythmia Database.
        nstdb_dir: ``bw`` and ``ma`` of the MIT-BIH Noise Stress Test Database.
    """
    noises = {
        name: read_wfdb(nstdb_dir / name).signals_mv[:, 1].astype(np.float64)
        for name in ("bw", "ma")
    }
    samples = {}
    for name in DS1 + PACED:
        record = read_wfdb(mitdb_dir / name, with_annotations=True)
        if record.annotations is None:
            msg = f"record must have annotations, {name} has none"
            raise ValueError(msg)
        lead = record.choose_lead()
        other = next(each for each in record.leads if each != lead)
        samples[name] = _join(
            _measure(stretch)
            for stretch in _cut_record(
                record.signal_mv(lead).astype(np.float64),
                record.signal_mv(other).astype(np.float64),
                record.annotations,
                noises,
            )
        )
        logger.info("%s: %d candidates", name, len(samples[name].weight))
    return samples


def simulate_samples() -> Samples:
    """Measure the candidates of simulated patients."""
    stretches = []
    for seed in range(1000, 1000 + _PATIENTS):
        record = simulate_record(f"p{seed}", patient=draw_patient(seed), duration_s=90.0, seed=seed)
        if record.annotations is None:
            msg = f"a simulated record must have annotations, {record.name} has none"
            raise ValueError(msg)
        signal = record.signal_mv().astype(np.float64)
        for first_s, last_s in ((0, 60), (62, 72), (75, 85)):
            stretches.append(
                _cut(signal, record.annotations, first_s * 360, last_s * 360, weight=0.3)
            )
    return _join(_measure(stretch) for stretch in stretches)


def _cut_record(
    signal: NDArray[np.float64],
    second_lead: NDArray[np.float64],
    annotations: Annotations,
    noises: dict[str, NDArray[np.float64]],
) -> Iterator[_Stretch]:
    n_samples, half = len(signal), len(signal) // 2
    is_usual = ~np.isin(annotations.beat_classes, ["V", "F"])

    def mix(name: str, snr_db: float) -> NDArray[np.float64]:
        return mix_at_snr(
            signal,
            noises[name],
            snr_db=snr_db,
            r_peaks=annotations.beat_samples[is_usual],
            fs=360.0,
        )

    yield _cut(signal, annotations, 0, n_samples, weight=1.0)
    for first in range(0, n_samples - _SHORTEST, _STRIP):
        yield _cut(signal, annotations, first, first + _STRIP, weight=0.7)
    yield _cut(second_lead, annotations, 0, half, weight=0.15)
    for index, (name, snr_db, weight) in enumerate(_NOISES):
        first = index % 2 * half
        yield _cut(mix(name, snr_db), annotations, first, first + half, weight=weight)
    name, snr_db, weight = _STRIP_NOISE
    mixture = mix(name, snr_db)
    for first in range(0, n_samples - _SHORTEST, 2 * _STRIP):
        yield _cut(mixture, annotations, first, first + _STRIP, weight=weight)


def _cut(
    signal: NDArray[np.float64], annotations: Annotations, first: int, last: int, *, weight: float
) -> _Stretch:
    """Cut a stretch; flutter that began before it is moved to begin with it."""
    samples, symbols = annotations.samples, annotations.symbols
    inside = (samples >= first) & (samples < last)
    moved, marks = samples[inside] - first, symbols[inside]
    if annotations.is_in_flutter(np.array([first]))[0]:
        moved, marks = np.insert(moved, 0, 0), np.insert(marks, 0, "[")
    return _Stretch(signal[first:last], Annotations(samples=moved, symbols=marks), weight)


def _measure(stretch: _Stretch) -> Samples:
    """Features, truth and weights of the candidates outside flutter."""
    config = DetectionConfig()
    candidates, envelopes = find_candidates(stretch.signal, config=config)
    by_rules = accept_by_rules(candidates, config=config)
    annotations = stretch.annotations
    match = match_beats(annotations.beat_samples, candidates.position, tolerance=_TOLERANCE)
    is_beat = match.of_detected >= 0
    weight = np.full(len(is_beat), stretch.weight)
    classes = annotations.beat_classes[match.of_detected[is_beat]]
    weight[is_beat] *= [_CLASS_WEIGHTS.get(str(each), 1.0) for each in classes]
    is_doubtful = (candidates.height > _DOUBTFUL[0]) & (candidates.height < _DOUBTFUL[1])
    is_doubtful |= by_rules != is_beat
    is_drawn = np.random.default_rng(len(is_beat)).random(len(is_beat)) < _EASY_SHARE
    weight[~is_doubtful] /= _EASY_SHARE
    kept = (is_doubtful | is_drawn) & ~annotations.is_in_flutter(candidates.position)
    features = measure_candidates(candidates, envelopes, by_rules)
    return Samples(features[kept], is_beat[kept], weight[kept])


def _join(parts: Iterator[Samples] | Sequence[Samples]) -> Samples:
    features, is_beat, weight = zip(*parts, strict=True)
    return Samples(np.concatenate(features), np.concatenate(is_beat), np.concatenate(weight))


def fit_verifier(samples: Samples, *, seed: int = 0) -> BeatVerifier:
    """Fit the network by Adam on the weighted cross-entropy, with a cosine schedule.

    Args:
        samples: Candidates to learn from.
        seed: Seed of the first weights and of the order.
    """
    rng = np.random.default_rng(seed)
    mean = samples.features.mean(axis=0)
    scale = samples.features.std(axis=0) + np.float32(1e-3)
    inputs = (samples.features - mean) / scale
    truth = samples.is_beat.astype(np.float32)
    weight = (samples.weight / samples.weight.mean()).astype(np.float32)
    widths = (inputs.shape[1], *_HIDDEN, 1)
    parameters: list[NDArray[np.float32]] = []
    for n_in, n_out in pairwise(widths):
        drawn = rng.standard_normal((n_in, n_out)) * np.sqrt(2 / n_in)
        parameters += [drawn.astype(np.float32), np.zeros(n_out, dtype=np.float32)]
    first_moment = [np.zeros_like(each) for each in parameters]
    second_moment = [np.zeros_like(each) for each in parameters]
    n_batches = len(inputs) // _BATCH
    step = 0
    for _ in range(_EPOCHS):
        order = rng.permutation(len(inputs))
        for batch in order[: n_batches * _BATCH].reshape(n_batches, _BATCH):
            step += 1
            rate = _RATE * 0.5 * (1 + np.cos(np.pi * step / (_EPOCHS * n_batches)))
            gradients = _differentiate(parameters, inputs[batch], truth[batch], weight[batch])
            for index, gradient in enumerate(gradients):
                first_moment[index] += 0.1 * (gradient - first_moment[index])
                second_moment[index] += 0.001 * (gradient**2 - second_moment[index])
                first = first_moment[index] / (1 - 0.9**step)
                second = second_moment[index] / (1 - 0.999**step)
                change = rate * first / (np.sqrt(second) + 1e-7)
                parameters[index] = (parameters[index] - change).astype(np.float32)
    layers = tuple(zip(parameters[::2], parameters[1::2], strict=True))
    return BeatVerifier(mean=mean, scale=scale, layers=layers)


def _differentiate(
    parameters: list[NDArray[np.float32]],
    inputs: NDArray[np.float32],
    truth: NDArray[np.float32],
    weight: NDArray[np.float32],
) -> list[NDArray[np.float32]]:
    """Gradients of the mean loss of a batch, in the order of the parameters."""
    n_layers = len(parameters) // 2
    values = [inputs]
    for layer in range(n_layers):
        value = values[-1] @ parameters[2 * layer] + parameters[2 * layer + 1]
        values.append(np.maximum(value, 0.0) if layer < n_layers - 1 else value)
    probability = 1 / (1 + np.exp(-values.pop()[:, 0]))
    slope = ((probability - truth) * weight / len(truth))[:, None].astype(np.float32)
    gradients: list[NDArray[np.float32]] = []
    for layer in reversed(range(n_layers)):
        weights = parameters[2 * layer]
        gradients[:0] = [values[layer].T @ slope + _DECAY * weights, slope.sum(axis=0)]
        slope = (slope @ weights.T) * (values[layer] > 0)
    return gradients


def assign_folds(names: Sequence[str]) -> dict[str, int]:
    """Deal records to folds; each is a subject of its own in DS1 and the paced records."""
    return {name: index % N_FOLDS for index, name in enumerate(sorted(names))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit and write, as the module's text says."""
    parser = argparse.ArgumentParser(description="Fit the verifier of the R-peak detector.")
    parser.add_argument("mitdb_dir", type=Path)
    parser.add_argument("nstdb_dir", type=Path)
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    samples = read_samples(asked.mitdb_dir, asked.nstdb_dir)
    simulated = simulate_samples()
    folds = assign_folds(list(samples))
    blind = []
    for fold in range(N_FOLDS):
        seen = [each for name, each in samples.items() if folds[name] != fold]
        blind.append(fit_verifier(_join([*seen, simulated])))
    save_blind_verifiers(blind, folds)
    fit_verifier(_join([*samples.values(), simulated])).save(WEIGHTS)


if __name__ == "__main__":
    main()
