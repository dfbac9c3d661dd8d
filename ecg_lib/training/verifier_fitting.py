"""Fit the network that judges candidates of the R-peak detector, and write its weights.

``python -m ecg_lib.training.verifier_fitting MITDB_DIR NSTDB_DIR`` writes
``ecg_lib/signal_path/r_peaks/verifier.npz`` from DS1, the paced records and simulated patients:
whole records, strips of 10 s, second leads, and mixtures with channel 1 of the recorded noise
(channel 0 is for evaluation). It also writes five networks, each blind to a fifth of the subjects,
for figures out of fold (:mod:`ecg_lib.evaluation.blind_verifiers`). DS2 is never read.

The weights that ship were fitted by the same equations in NumPy. They are data and stay as they
are; a new fit gives weights of equal quality, not the same ones.

Deterministic: the same data give the same weights on the same machine.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import keras
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
"""A missed ventricular beat costs most; N beats and candidates that are not beats weigh 1."""
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

    Parameters
    ----------
    mitdb_dir : Path
        The MIT-BIH Arrhythmia Database.
    nstdb_dir : Path
        ``bw`` and ``ma`` of the MIT-BIH Noise Stress Test Database.

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
    """Cut a stretch; flutter that began before it begins with it."""
    samples, symbols = annotations.samples, annotations.symbols
    inside = (samples >= first) & (samples < last)
    moved, marks = samples[inside] - first, symbols[inside]
    if annotations.is_in_flutter(np.array([first]))[0]:
        moved, marks = np.insert(moved, 0, 0), np.insert(marks, 0, "[")
    return _Stretch(signal[first:last], Annotations(samples=moved, symbols=marks), weight)


def _measure(stretch: _Stretch) -> Samples:
    """Measure features, truth and weights of the candidates outside flutter."""
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

    Parameters
    ----------
    samples : Samples
        Candidates to learn from, at least one batch of them.
    seed : int
        Seed of the first weights and of the order.

    """
    rng = np.random.default_rng(seed)
    mean = samples.features.mean(axis=0)
    scale = samples.features.std(axis=0) + np.float32(1e-3)
    inputs = (samples.features - mean) / scale
    truth = samples.is_beat.astype(np.float32)
    weight = (samples.weight / samples.weight.mean()).astype(np.float32)
    model = _build_network(inputs.shape[1], rng)
    n_batches = len(inputs) // _BATCH
    n_steps = _EPOCHS * n_batches
    step = 0
    for _ in range(_EPOCHS):
        order = rng.permutation(len(inputs))
        for batch in order[: n_batches * _BATCH].reshape(n_batches, _BATCH):
            step += 1
            rate = _RATE * 0.5 * (1 + np.cos(np.pi * step / n_steps))
            model.optimizer.learning_rate.assign(rate)
            model.train_on_batch(inputs[batch], truth[batch][:, None], sample_weight=weight[batch])
    layers = tuple(
        (np.asarray(weights, np.float32), np.asarray(offsets, np.float32))
        for weights, offsets in (layer.get_weights() for layer in model.layers)
    )
    return BeatVerifier(mean=mean, scale=scale, layers=layers)


def _build_network(n_features: int, rng: np.random.Generator) -> Any:  # noqa: ANN401  keras has no types
    """Build the perceptron.

    The first weights are random, after He et al. 2015, DOI 10.1109/ICCV.2015.123.
    """
    keras.backend.clear_session()
    # Half, because Keras adds the square and not half of it.
    decay = keras.regularizers.L2(_DECAY / 2)
    model = keras.Sequential([keras.Input((n_features,))])
    for n_out in _HIDDEN:
        model.add(keras.layers.Dense(n_out, activation="relu", kernel_regularizer=decay))
    model.add(keras.layers.Dense(1, kernel_regularizer=decay))
    for layer, (n_in, n_out) in zip(model.layers, pairwise((n_features, *_HIDDEN, 1)), strict=True):
        drawn = rng.standard_normal((n_in, n_out)) * np.sqrt(2 / n_in)
        layer.set_weights([drawn.astype(np.float32), np.zeros(n_out, dtype=np.float32)])
    model.compile(
        optimizer=keras.optimizers.Adam(_RATE),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    return model


def assign_folds(names: Sequence[str]) -> dict[str, int]:
    """Deal records to folds; each is a subject of its own in DS1 and the paced records."""
    return {name: index % N_FOLDS for index, name in enumerate(sorted(names))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the networks and write their weights."""
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
