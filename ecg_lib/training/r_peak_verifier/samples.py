"""Samples for the network of the R-peak detector: candidates, and which of them are beats.

Of each person: whole records, strips of 10 s, the second lead, mixtures with recorded noise
(channel 1 of ``bw`` and ``ma``; channel 0 is for evaluation), and simulated movement of 0 to 18 dB
with rests between. Simulated patients add what the databases have little of: T waves taller than
the QRS complex, ST elevation, alternans and rates of up to 250 beats a minute.

For the second look the same candidates are measured with the verdicts of networks of the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.annotations import Annotations
from ecg_lib.records.noise import mix_at_snr, muscle_noise, noise_gain
from ecg_lib.records.simulation.movement import simulate_movement
from ecg_lib.records.simulation.patients import Unusual, draw_patient, draw_unusual_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.signal_path.r_peaks.candidate_features import (
    CANDIDATE_FEATURES,
    look_again,
    measure_candidates,
)
from ecg_lib.signal_path.r_peaks.detection import DetectionConfig, accept_by_rules, find_candidates
from ecg_lib.signal_path.r_peaks.matching import MATCH_TOLERANCE_S, match_beats
from ecg_lib.signal_path.r_peaks.verifier import Perceptron

_FS: Final = 360
_TOLERANCE: Final = round(MATCH_TOLERANCE_S * _FS)
_STRIP: Final = 10 * _FS
_SHORTEST: Final = 2 * _FS
_CLASS_WEIGHTS: Final = {"V": 10.0, "S": 2.0, "F": 2.0}
"""A missed ventricular beat costs most; N beats and candidates that are not beats weigh 1."""
_EASY_SHARE: Final = 0.2
"""Share of the candidates kept, and weighted up, of those whose height leaves no doubt."""
_DOUBTFUL: Final = (0.12, 0.75)
_NOISES: Final = (("ma", 12, 0.3), ("ma", 6, 0.15), ("bw", 6, 0.3), ("ma", 18, 0.3))
"""(noise record, dB, weight) of the mixtures of half a record each."""
_STRIP_NOISE: Final = ("ma", 9, 0.2)
_MOVEMENT_DB: Final = (18, 12, 6, 0, 15, 9, 3)
_MOVEMENT_PART_S: Final = 40.0
_RARE: Final = 0.3
"""Weight of patients whose PVCs are as smooth as T waves: fewer people have those than tall T
waves."""
_PATIENTS: Final = range(1000, 1080)
_UNUSUAL_PATIENTS: Final = range(2000, 2060)


class Samples(NamedTuple):
    """Candidates to learn from."""

    features: NDArray[np.float32]
    """Shape ``(n, n_features)``; for a second look ``(n, n_firsts, n_features)``."""
    is_beat: NDArray[np.bool_]
    weight: NDArray[np.float64]

    def after(self, first: int) -> Samples:
        """The samples for a second look after one of the networks of the first look."""
        return self._replace(features=self.features[:, first])


_NO_SAMPLES: Final = Samples(
    np.zeros((0, len(CANDIDATE_FEATURES)), np.float32), np.zeros(0, np.bool_), np.zeros(0)
)


class _Stretch(NamedTuple):
    signal: NDArray[np.float64]
    annotations: Annotations
    weight: float


def measure_record(
    signal: NDArray[np.float64],
    second_lead: NDArray[np.float64],
    annotations: Annotations,
    *,
    noises: Mapping[str, NDArray[np.float64]],
    seed: int,
    firsts: Sequence[Perceptron] = (),
) -> Samples:
    """Measure the candidates of a record of MIT-BIH.

    Parameters
    ----------
    signal, second_lead : ndarray of shape (n_samples,)
        At 360 Hz, in mV.
    annotations : Annotations
    noises : mapping of str to ndarray
        ``bw`` and ``ma`` at 360 Hz.
    seed : int
        Of the movement.
    firsts : sequence of Perceptron, optional
        Networks of the first look, to measure for a second.

    """
    stretches = [*_cut_record(signal, second_lead, annotations, noises)]
    for index, (lead, weight) in enumerate(((signal, 0.5), (signal, 0.5), (second_lead, 0.15))):
        moved = move(lead, annotations, seed=(7, seed, index))
        stretches.append(cut(moved, annotations, 0, len(moved), weight=weight))
        if index == 1:
            stretches += _cut_strips(moved, annotations, weight=0.3, every=2 * _STRIP)
    return join(_measure(stretch, firsts) for stretch in stretches)


def measure_ambulatory(
    leads: Sequence[NDArray[np.float64]],
    annotations: Annotations,
    *,
    seed: int,
    firsts: Sequence[Perceptron] = (),
) -> Samples:
    """Measure the candidates of a record of two ambulatory leads at 360 Hz; flat leads are left."""
    parts = []
    for index, (signal, weight) in enumerate(zip(leads, (0.5, 0.2), strict=True)):
        if np.ptp(signal) < 0.05:
            continue
        moved = move(signal, annotations, seed=(8, seed, index))
        stretches = [
            cut(signal, annotations, 0, len(signal), weight=weight),
            *_cut_strips(signal, annotations, weight=0.4 * weight, every=3 * _STRIP),
            cut(moved, annotations, 0, len(moved), weight=0.6 * weight),
        ]
        parts += [_measure(stretch, firsts) for stretch in stretches]
    return join(parts)


def measure_marked(
    signal: NDArray[np.float64], r_peaks: NDArray[np.int64], *, firsts: Sequence[Perceptron] = ()
) -> Samples:
    """Measure the candidates between the first and the last mark of a lead at 360 Hz."""
    marks = Annotations(samples=r_peaks, symbols=np.full(len(r_peaks), "N"))
    first, last = r_peaks[0] - _TOLERANCE, r_peaks[-1] + _TOLERANCE
    return _measure(_Stretch(signal, marks, 0.5), firsts, inside=(int(first), int(last)))


def measure_patients(firsts: Sequence[Perceptron] = ()) -> Samples:
    """Measure the candidates of simulated patients, usual and unusual ones."""
    kinds: list[tuple[Unusual | None, int]] = [(None, seed) for seed in _PATIENTS]
    kinds += [(kind, seed) for kind in Unusual for seed in _UNUSUAL_PATIENTS]
    return join(_measure_patient(kind, seed, firsts) for kind, seed in kinds)


def _measure_patient(kind: Unusual | None, seed: int, firsts: Sequence[Perceptron]) -> Samples:
    patient = draw_patient(seed) if kind is None else draw_unusual_patient(seed, kind)
    record = simulate_record(f"p{seed}", patient=patient, duration_s=90.0, seed=seed)
    if record.annotations is None:
        msg = f"a simulated record must have annotations, {record.name} has none"
        raise ValueError(msg)
    annotations, stretches = record.annotations, []
    usual = _RARE if kind is Unusual.SLOW_PVC else 1.0
    for lead, share in enumerate((usual,) if kind is None else (usual, 0.6 * usual)):
        signal = record.signals_mv[:, lead].astype(np.float64)
        stretches += [
            cut(signal, annotations, first_s * _FS, last_s * _FS, weight=0.3 * share)
            for first_s, last_s in ((0, 60), (62, 72), (75, 85))
        ]
        if seed % 2 == 0:
            moved = move(signal, annotations, seed=(9, seed, lead), part_s=12.0)
            stretches.append(cut(moved, annotations, 0, len(moved), weight=0.2 * share))
    return join(_measure(stretch, firsts) for stretch in stretches)


def move(
    signal: NDArray[np.float64],
    annotations: Annotations,
    *,
    seed: Sequence[int],
    part_s: float = _MOVEMENT_PART_S,
) -> NDArray[np.float64]:
    """Add movement of 0 to 18 dB to every second part of a lead at 360 Hz."""
    rng = np.random.default_rng(seed)
    n_samples = len(signal)
    noise = simulate_movement(n_samples, fs=_FS, rms_mv=1.0, rng=rng)
    if rng.random() < 0.3:
        noise = noise + 0.5 * muscle_noise(n_samples, fs=_FS, rms_mv=1.0, rng=rng)
    is_usual = ~np.isin(annotations.beat_classes, ["V", "F"])
    beats = annotations.beat_samples[is_usual]
    if len(beats) < 3:
        beats = annotations.beat_samples
    gain_at_0_db = noise_gain(signal, noise, snr_db=0.0, r_peaks=beats, fs=_FS)
    gain, width = np.zeros(n_samples), int(part_s * _FS)
    offset = int(rng.integers(0, len(_MOVEMENT_DB)))
    for part, start in enumerate(range(0, n_samples, width)):
        if part % 2:
            snr_db = _MOVEMENT_DB[(part // 2 + offset) % len(_MOVEMENT_DB)]
            gain[start : start + width] = gain_at_0_db * 10 ** (-snr_db / 20)
    reach = int(0.3 * _FS)
    smooth = np.convolve(np.pad(gain, reach, mode="edge"), np.ones(reach) / reach, "same")
    return np.asarray(signal + smooth[reach:-reach] * noise)


def _cut_strips(
    signal: NDArray[np.float64], annotations: Annotations, *, weight: float, every: int
) -> Iterator[_Stretch]:
    for first in range(0, len(signal) - _SHORTEST, every):
        yield cut(signal, annotations, first, first + _STRIP, weight=weight)


def _cut_record(
    signal: NDArray[np.float64],
    second_lead: NDArray[np.float64],
    annotations: Annotations,
    noises: Mapping[str, NDArray[np.float64]],
) -> Iterator[_Stretch]:
    n_samples, half = len(signal), len(signal) // 2
    is_usual = ~np.isin(annotations.beat_classes, ["V", "F"])

    def mix(name: str, snr_db: float) -> NDArray[np.float64]:
        return mix_at_snr(
            signal,
            noises[name],
            snr_db=snr_db,
            r_peaks=annotations.beat_samples[is_usual],
            fs=_FS,
        )

    yield cut(signal, annotations, 0, n_samples, weight=1.0)
    for first in range(0, n_samples - _SHORTEST, _STRIP):
        yield cut(signal, annotations, first, first + _STRIP, weight=0.7)
    yield cut(second_lead, annotations, 0, half, weight=0.15)
    for index, (name, snr_db, weight) in enumerate(_NOISES):
        first = index % 2 * half
        yield cut(mix(name, snr_db), annotations, first, first + half, weight=weight)
    name, snr_db, weight = _STRIP_NOISE
    mixture = mix(name, snr_db)
    for first in range(0, n_samples - _SHORTEST, 2 * _STRIP):
        yield cut(mixture, annotations, first, first + _STRIP, weight=weight)


def cut(
    signal: NDArray[np.float64], annotations: Annotations, first: int, last: int, *, weight: float
) -> _Stretch:
    """Cut a stretch; flutter that began before it begins with it."""
    samples, symbols = annotations.samples, annotations.symbols
    inside = (samples >= first) & (samples < last)
    moved, marks = samples[inside] - first, symbols[inside]
    if annotations.is_in_flutter(np.array([first]))[0]:
        moved, marks = np.insert(moved, 0, 0), np.insert(marks, 0, "[")
    return _Stretch(signal[first:last], Annotations(samples=moved, symbols=marks), weight)


def _measure(
    stretch: _Stretch,
    firsts: Sequence[Perceptron] = (),
    *,
    inside: tuple[int, int] | None = None,
) -> Samples:
    """Measure features, truth and weights of the candidates outside flutter.

    With `inside`, all candidates between two positions are kept; else a share of those that are
    easy.
    """
    config = DetectionConfig()
    candidates, envelopes = find_candidates(stretch.signal, config=config)
    by_rules = accept_by_rules(candidates, config=config)
    annotations = stretch.annotations
    match = match_beats(annotations.beat_samples, candidates.position, tolerance=_TOLERANCE)
    is_beat = match.of_detected >= 0
    weight = np.full(len(is_beat), stretch.weight)
    classes = annotations.beat_classes[match.of_detected[is_beat]]
    weight[is_beat] *= [_CLASS_WEIGHTS.get(str(each), 1.0) for each in classes]
    look = measure_candidates(candidates, envelopes, by_rules)
    features = look.features
    if firsts:
        again = [
            look_again(candidates, look, by_rules, first.logits(look.features)) for first in firsts
        ]
        features = np.stack(again, axis=1)
    if inside is not None:
        first, last = inside
        kept = (candidates.position >= first) & (candidates.position <= last)
        return Samples(features[kept], is_beat[kept], weight[kept])
    is_doubtful = (candidates.height > _DOUBTFUL[0]) & (candidates.height < _DOUBTFUL[1])
    is_doubtful |= by_rules != is_beat
    is_drawn = np.random.default_rng(len(is_beat)).random(len(is_beat)) < _EASY_SHARE
    weight[~is_doubtful] /= _EASY_SHARE
    kept = (is_doubtful | is_drawn) & ~annotations.is_in_flutter(candidates.position)
    return Samples(features[kept], is_beat[kept], weight[kept])


def join(parts: Iterable[Samples]) -> Samples:
    """Put samples together; none where there are no parts."""
    whole = [part for part in parts if len(part.weight)] or [_NO_SAMPLES]
    features, is_beat, weight = zip(*whole, strict=True)
    return Samples(np.concatenate(features), np.concatenate(is_beat), np.concatenate(weight))
