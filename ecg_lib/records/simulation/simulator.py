"""Make ECG records whose R-peaks and beat classes are known: virtual patients with PVCs.

The waveform model is that of McSharry et al. 2003, DOI 10.1109/TBME.2003.808805: each of P, Q, R,
S and T is a Gaussian, heart rate varies with breathing and with the 0.1 Hz rhythm, and the T wave
follows the square root of the RR interval. Deviations: the Gaussians are summed beat by beat
instead of integrating the ODE whose solution they are; they may be asymmetric; a wave is one
electrical event seen by two leads; and ventricular and atrial premature beats are added, with a
sinus node that goes on beating while the ventricles are refractory, so that compensatory pauses
come about as they do in the heart.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.annotations import Annotations
from ecg_lib.records.limits import check_sampling_rate
from ecg_lib.records.noise import baseline_wander, mains_hum, muscle_noise, shaped_noise
from ecg_lib.records.record import Record
from ecg_lib.records.simulation.patients import (
    LEADS,
    PATIENT_STREAM,
    NoiseLevels,
    Patient,
    PvcPattern,
    Wave,
    draw_patient,
    draw_textbook_patient,
    generator,
)

MIN_DURATION_S: Final = 2.0
"""Shortest record, in seconds."""

MIN_STRIP_S: Final = 10.0
"""Shortest strip, in seconds: what one pattern and its surroundings need."""

ADC_LIMIT_MV: Final = 5.0
"""Where the converter of a saturated strip clips, in mV (MIT-BIH: 11 bits over 10 mV)."""

_RHYTHM_STREAM, _ECTOPY_STREAM, _NOISE_STREAM, _STRIP_STREAM = range(1, 5)
_RECORD_NAME: Final = re.compile(r"[A-Za-z0-9_]+")
_TACHOGRAM_HZ: Final = 4.0
_LEAD_IN_S: Final = 2.0  # what is simulated before the first sample, so that its T wave is there
_CUT_REACH_S: Final = 1.5  # how far the cut may move to pass between two beats
_PEAK_REACH_S: Final = 0.06
_WAVE_REACH: Final = 4.5  # in standard deviations; what is cut off is below 5e-5 of the wave
_BEATS_AT_ONCE: Final = 1000


class StripKind(StrEnum):
    """The subject of a strip."""

    NORMAL = "normal"
    """Sinus rhythm."""
    ISOLATED_PVC = "isolated_pvc"
    """Sinus rhythm with single PVCs."""
    COUPLET = "couplet"
    """Sinus rhythm with two PVCs in a row."""
    BIGEMINY = "bigeminy"
    """A PVC after each conducted beat."""
    RUN = "run"
    """Sinus rhythm with five PVCs in a row."""
    NOISY = "noisy"
    """Sinus rhythm under wander, muscle noise and hum, readable."""
    FLAT = "flat"
    """A line of zeros, as from a lead that is off."""
    NOISE_ONLY = "noise_only"
    """Muscle noise and wander, and no ECG."""
    SATURATED = "saturated"
    """An amplifier at its limits from end to end, behind which the ECG is lost."""


def simulate_record(
    name: str, *, patient: Patient, duration_s: float, seed: int, fs: float = 360.0
) -> Record:
    """Simulate a record of a patient.

    Rhythm and noise have random streams of their own, so that with the same `seed` a patient
    without noise has the same beats, and another `fs` samples the same heart.

    Parameters
    ----------
    name : str
        Letters, digits and underscores.
    patient : Patient
    duration_s : float
        Length in seconds, at least 2.
    seed : int
        Not negative; the same arguments give the same record.
    fs : float
        Sampling rate in Hz, 100 to 1000.

    Returns
    -------
    Record
        Leads MLII and V1. Each annotation (``N`` or ``L`` or ``R``, ``V``, ``A``) is at the
        extremum of the main QRS deflection of MLII without noise. The record is cut between
        beats: there is no QRS at its edges.

    Raises
    ------
    ValueError
        If `name`, `duration_s` or `seed` is not as said above.
    InvalidSamplingRateError
        If `fs` is out of range.

    """
    _check_request(name, duration_s, fs, shortest_s=MIN_DURATION_S)
    ectopy_at = _random_ectopy(patient, generator(seed, _ECTOPY_STREAM))
    return _render(name, patient, ectopy_at, duration_s=duration_s, seed=seed, fs=fs)


def simulate_cohort_member(
    number: int,
    *,
    duration_s: float,
    seed: int,
    draw: Callable[[int], Patient] = draw_patient,
) -> Record:
    """Simulate the record of one of many patients, called ``sim001``, ``sim002`` and so on.

    Number and seed decide the record, at 360 Hz, however many others there are. `draw` makes a
    patient of a seed.

    Raises
    ------
    ValueError
        If `number` or `seed` is negative, or `duration_s` less than 2.

    """
    if number < 0:
        raise ValueError(f"number must not be negative, got number={number}")
    generator(seed, PATIENT_STREAM)  # checks the seed
    patient_seed, record_seed = np.random.SeedSequence([seed, number]).generate_state(2).tolist()
    return simulate_record(
        f"sim{number:03d}",
        patient=draw(patient_seed),
        duration_s=duration_s,
        seed=record_seed,
    )


def simulate_strip(
    kind: StripKind, *, seed: int = 0, duration_s: float = 10.0, fs: float = 360.0
) -> Record:
    """Simulate a strip of which nobody doubts what it shows.

    The patient has a usual narrow QRS at 62 to 78 beats a minute, and PVCs of 140 to 170 ms with
    the main deflection down. Patterns are whole within the strip; longer strips repeat them.

    Parameters
    ----------
    kind : StripKind
    seed : int
        Draws the patient and the noise; not negative.
    duration_s : float
        Length in seconds, at least 10.
    fs : float
        Sampling rate in Hz, 100 to 1000.

    Returns
    -------
    Record
        As :func:`simulate_record`; without annotated beats where none can be read (``FLAT``,
        ``NOISE_ONLY``, ``SATURATED``).

    Raises
    ------
    ValueError
        If `kind`, `duration_s` or `seed` is not as said above.
    InvalidSamplingRateError
        If `fs` is out of range.

    """
    kind = StripKind(kind)
    name = f"strip_{kind.value}_{seed}"
    rng = generator(seed, _STRIP_STREAM)
    _check_request(name, duration_s, fs, shortest_s=MIN_STRIP_S)
    patient = draw_textbook_patient(rng, is_noisy=kind is StripKind.NOISY)
    ectopy_at = _scripted_ectopy(kind, duration_s)
    record = _render(name, patient, ectopy_at, duration_s=duration_s, seed=seed, fs=fs)
    if kind not in {StripKind.FLAT, StripKind.NOISE_ONLY, StripKind.SATURATED}:
        return record
    n_samples = len(record.signals_mv)
    leads = [_unreadable(kind, n_samples, fs, rng) for _ in LEADS]
    return replace(
        record,
        signals_mv=np.stack(leads, axis=1).astype(np.float32),
        annotations=_annotations(np.zeros(0, np.int64), np.zeros(0, "U1")),
    )


def _check_request(name: str, duration_s: float, fs: float, *, shortest_s: float) -> None:
    if not _RECORD_NAME.fullmatch(name):
        raise ValueError(f"name must be letters, digits and underscores, got name={name!r}")
    if not (duration_s >= shortest_s and np.isfinite(duration_s)):
        msg = f"duration_s must be at least {shortest_s:g} s, got duration_s={duration_s!r}"
        raise ValueError(msg)
    check_sampling_rate(fs)


def _unreadable(
    kind: StripKind, n_samples: int, fs: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    if kind is StripKind.FLAT:
        return np.zeros(n_samples)
    if kind is StripKind.NOISE_ONLY:
        wander = baseline_wander(n_samples, fs=fs, rms_mv=0.2, rng=rng)
        return wander + muscle_noise(n_samples, fs=fs, rms_mv=0.3, rng=rng)
    overload = baseline_wander(n_samples, fs=fs, rms_mv=200.0, rng=rng)
    return np.clip(overload, -ADC_LIMIT_MV, ADC_LIMIT_MV)


class _Ectopy(NamedTuple):
    """The ectopic beats after a conducted beat."""

    n_ventricular: int = 0
    """So many PVCs in a row."""
    is_interpolated: bool = False
    """Without a pause, when the next conducted beat leaves the room."""
    is_multiform: bool = False
    """Of both shapes, when the patient has two."""
    is_atrial: bool = False
    """An atrial premature beat instead."""


_NO_ECTOPY: Final = _Ectopy()
_ONE_PVC: Final = _Ectopy(1)

_EctopyAt = Callable[[float], _Ectopy]
"""Returns what follows a conducted beat, given its time in seconds."""


def _random_ectopy(patient: Patient, rng: np.random.Generator) -> _EctopyAt:
    weights = np.asarray(patient.pattern_weights) / sum(patient.pattern_weights)
    patterns = list(PvcPattern)
    pvc_chance = patient.pvc_episodes_per_min / patient.heart_rate_bpm
    apb_chance = patient.apbs_per_min / patient.heart_rate_bpm
    planned: deque[_Ectopy] = deque()

    def ectopy_at(_time_s: float) -> _Ectopy:
        if not planned:
            draw = rng.random()
            if draw < pvc_chance:
                planned.extend(_episode(patterns[rng.choice(len(patterns), p=weights)], rng))
            elif draw < pvc_chance + apb_chance:
                planned.append(_Ectopy(is_atrial=True))
        return planned.popleft() if planned else _NO_ECTOPY

    return ectopy_at


def _episode(pattern: PvcPattern, rng: np.random.Generator) -> list[_Ectopy]:
    """Draw the ectopic beats after this conducted beat and the next ones."""
    match pattern:
        case PvcPattern.ISOLATED:
            return [_ONE_PVC, _NO_ECTOPY]
        case PvcPattern.INTERPOLATED:
            return [_Ectopy(1, is_interpolated=True), _NO_ECTOPY]
        case PvcPattern.BIGEMINY:
            return [_ONE_PVC] * int(rng.integers(3, 12))
        case PvcPattern.TRIGEMINY:
            return [_ONE_PVC, _NO_ECTOPY] * int(rng.integers(3, 8))
        case PvcPattern.COUPLET:
            return [_Ectopy(2, is_multiform=bool(rng.random() < 0.3)), _NO_ECTOPY]
        case PvcPattern.RUN:
            return [_Ectopy(int(rng.integers(3, 9))), _NO_ECTOPY]


def _scripted_ectopy(kind: StripKind, duration_s: float) -> _EctopyAt:
    """The pattern of a strip: after 3 s, and again as long as it will be whole."""
    ectopy, every_s = {
        StripKind.ISOLATED_PVC: (_ONE_PVC, 6.0),
        StripKind.COUPLET: (_Ectopy(2), 8.0),
        StripKind.RUN: (_Ectopy(5), 10.0),
    }.get(kind, (_NO_ECTOPY, np.inf))
    if kind is StripKind.BIGEMINY:
        return lambda _time_s: _ONE_PVC
    due_s = _LEAD_IN_S + 3.0
    last_s = _LEAD_IN_S + duration_s - 5.0

    def ectopy_at(time_s: float) -> _Ectopy:
        nonlocal due_s
        if not due_s <= time_s <= last_s:
            return _NO_ECTOPY
        due_s += every_s
        return ectopy

    return ectopy_at


def _render(
    name: str,
    patient: Patient,
    ectopy_at: _EctopyAt,
    *,
    duration_s: float,
    seed: int,
    fs: float,
) -> Record:
    rng = generator(seed, _RHYTHM_STREAM)
    rhythm = _play(patient, ectopy_at, rng, until_s=_LEAD_IN_S + duration_s + 2 * _CUT_REACH_S)
    rhythm = rhythm.moved(-_gap_between_beats(rhythm, duration_s))
    if patient.alternans:
        rhythm = _alternate(rhythm, patient.alternans)
    n_samples = round(duration_s * fs)
    leads = _draw_waves(patient, rhythm, n_samples, fs)
    r_peaks, symbols = _find_r_peaks(leads[0], patient, rhythm, fs)
    noise = _make_noise(patient.noise, n_samples, fs, generator(seed, _NOISE_STREAM))
    signals = patient.gain * (leads + noise)
    return Record(
        name=name,
        fs=float(fs),
        leads=LEADS,
        signals_mv=np.ascontiguousarray(signals.T, dtype=np.float32),  # (n_samples, 2)
        annotations=_annotations(r_peaks, symbols),
        comments=(
            "simulated by ecg_lib.records.simulation.simulator, not a recording of a person",
        ),
    )


def _annotations(r_peaks: NDArray[np.int64], symbols: NDArray[np.str_]) -> Annotations:
    return Annotations(samples=r_peaks.astype(np.int64), symbols=symbols.astype("U1"))


class _Rhythm(NamedTuple):
    """The beats of the ventricles and of the atria, in time order, arrays of one length each."""

    at_s: NDArray[np.float64]
    """Times of the R-peaks."""
    symbol: NDArray[np.str_]
    shape: NDArray[np.int64]
    """0 for the conducted morphology, 1 and 2 for the PVCs, the next one for aberrant beats."""
    rr_s: NDArray[np.float64]
    """RR interval of the sinus rhythm at that time, which the T wave follows."""
    qrs_gain: NDArray[np.float64]
    t_gain: NDArray[np.float64]
    stretch: NDArray[np.float64]
    p_at_s: NDArray[np.float64]
    p_is_premature: NDArray[np.bool_]

    def moved(self, by_s: float) -> _Rhythm:
        """The same rhythm, later by some seconds."""
        return self._replace(at_s=self.at_s + by_s, p_at_s=self.p_at_s + by_s)


@dataclass(slots=True)
class _Events:
    """The beats and P waves so far; times in seconds."""

    beats: list[tuple[float, str, int, float]] = field(default_factory=list)
    """R-peak, symbol, shape, RR interval of the sinus rhythm."""
    p_waves: list[tuple[float, bool]] = field(default_factory=list)
    """Middle of the P wave, is it premature."""


def _play(
    patient: Patient, ectopy_at: _EctopyAt, rng: np.random.Generator, *, until_s: float
) -> _Rhythm:
    """Let the heart beat from time zero; `sinus_s` is where the sinus node puts the next R-peak."""
    rr_at, breath_at = _vary_heart_rate(patient, rng, until_s)
    events = _Events()
    sinus_s = delay_s = 0.0
    while sinus_s < until_s:
        rr_s = rr_at(sinus_s)
        events.p_waves.append((sinus_s - patient.pr_s, False))
        events.beats.append((sinus_s + delay_s, patient.conduction.value, 0, rr_s))
        ectopy = ectopy_at(sinus_s)
        delay_s = 0.0
        if ectopy.is_atrial:
            sinus_s = _beat_early(events, patient, rng, sinus_s, rr_s)
        elif ectopy.n_ventricular:
            last_s = _beat_ventricles(events, patient, rng, ectopy, sinus_s, rr_s)
            sinus_s += rr_s
            if ectopy.is_interpolated and sinus_s - last_s > 0.4:
                delay_s = 0.04  # the node above is still tired
                continue
            while sinus_s < last_s + 0.65 * rr_s:
                events.p_waves.append((sinus_s - patient.pr_s, False))
                sinus_s += rr_at(sinus_s)
        else:
            sinus_s += rr_s
    return _as_rhythm(events, breath_at, rng)


def _beat_early(
    events: _Events, patient: Patient, rng: np.random.Generator, sinus_s: float, rr_s: float
) -> float:
    """An atrial premature beat; it resets the sinus node, so the pause is not compensatory."""
    early_s = sinus_s + max(rng.uniform(0.6, 0.78) * rr_s, 0.36)
    events.p_waves.append((early_s - patient.pr_s, True))
    shape = 0 if patient.aberrant is None else len(patient.shapes) - 1
    events.beats.append((early_s, "A", shape, rr_s))
    return early_s + rng.uniform(1.0, 1.12) * rr_s


def _beat_ventricles(
    events: _Events,
    patient: Patient,
    rng: np.random.Generator,
    ectopy: _Ectopy,
    sinus_s: float,
    rr_s: float,
) -> float:
    """One PVC or several; returns the time of the last."""
    coupling_s = patient.coupling_s * rng.normal(1.0, 0.02)
    if ectopy.is_interpolated:
        coupling_s = 0.45 * rr_s
    at_s = sinus_s + float(np.clip(coupling_s, 0.34, max(0.34, 0.8 * rr_s)))
    shape = 2 if len(patient.pvcs) == 2 and rng.random() < 0.25 else 1
    for number in range(ectopy.n_ventricular):
        if number:
            at_s += patient.run_interval_s * float(rng.normal(1.0, 0.03))
            if ectopy.is_multiform and len(patient.pvcs) == 2:
                shape = 3 - shape
        events.beats.append((at_s, "V", shape, rr_s))
    return at_s


def _vary_heart_rate(
    patient: Patient, rng: np.random.Generator, until_s: float
) -> tuple[Callable[[float], float], Callable[[NDArray[np.float64]], NDArray[np.float64]]]:
    """RR interval and depth of breath (mean 0, deviation 1) as functions of time.

    The RR interval has the two peaks of McSharry et al. 2003, at 0.1 Hz and at the frequency of
    breathing, and a slow drift.
    """
    # At least five minutes: a part of a drift is not to be scaled to the whole of it.
    size = int(max(until_s + 10.0, 300.0) * _TACHOGRAM_HZ)

    def peak(hz: float, width_hz: float) -> NDArray[np.float64]:
        return shaped_noise(
            size,
            fs=_TACHOGRAM_HZ,
            rms=1.0,
            rng=rng,
            amplitude_at=lambda f: np.exp(-0.25 * ((f - hz) / width_hz) ** 2),
        )

    breath = peak(patient.respiration_hz, 0.01)
    slow = peak(0.1, 0.01)
    drift = peak(0.0, 0.01)
    change = patient.respiratory_hrv * breath + patient.low_frequency_hrv * slow + 0.02 * drift
    rr_s = (60.0 / patient.heart_rate_bpm * np.exp(change)).tolist()

    def rr_at(time_s: float) -> float:
        return float(rr_s[min(int(time_s * _TACHOGRAM_HZ), size - 1)])

    def breath_at(times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.interp(times_s * _TACHOGRAM_HZ, np.arange(size), breath))

    return rr_at, breath_at


def _as_rhythm(
    events: _Events,
    breath_at: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    rng: np.random.Generator,
) -> _Rhythm:
    at_s, symbol, shape, rr_s = (np.array(column) for column in zip(*events.beats, strict=True))
    p_at_s, p_is_premature = (np.array(column) for column in zip(*events.p_waves, strict=True))
    is_pvc = shape > 0
    breathing = 1 + 0.04 * breath_at(at_s)
    qrs_gain = breathing + np.where(is_pvc, 0.04, 0.015) * rng.standard_normal(len(at_s))
    return _Rhythm(
        at_s=at_s,
        symbol=symbol,
        shape=shape,
        rr_s=rr_s,
        qrs_gain=qrs_gain,
        t_gain=breathing + 0.04 * rng.standard_normal(len(at_s)),
        stretch=1 + np.where(is_pvc, 0.02, 0.005) * rng.standard_normal(len(at_s)),
        p_at_s=p_at_s,
        p_is_premature=p_is_premature,
    )


def _alternate(rhythm: _Rhythm, share: float) -> _Rhythm:
    """Make every second conducted QRS complex smaller by a share."""
    gains = rhythm.qrs_gain.copy()
    gains[np.flatnonzero(rhythm.shape == 0)[1::2]] *= 1 - share
    return rhythm._replace(qrs_gain=gains)


def _gap_between_beats(rhythm: _Rhythm, duration_s: float) -> float:
    """Start of a stretch of the rhythm both ends of which are far from R-peaks."""
    starts = _LEAD_IN_S + np.arange(0, _CUT_REACH_S, 0.01)
    edges = np.stack([starts, starts + duration_s])  # (2, n_starts)
    after = np.clip(np.searchsorted(rhythm.at_s, edges), 1, len(rhythm.at_s) - 1)
    room = np.minimum(edges - rhythm.at_s[after - 1], rhythm.at_s[after] - edges).min(axis=0)
    return float(starts[room.argmax()])


def _draw_waves(
    patient: Patient, rhythm: _Rhythm, n_samples: int, fs: float
) -> NDArray[np.float64]:
    """Sum the waves of all beats, shape ``(2, n_samples)``, in mV without gain and noise."""
    leads = np.zeros((len(LEADS), n_samples))
    for premature, p_wave in ((False, patient.p_wave), (True, patient.premature_p_wave)):
        at_s = rhythm.p_at_s[rhythm.p_is_premature == premature]
        ones = np.ones(len(at_s))
        _add_waves(leads, p_wave, at_s=at_s, gains=ones, stretch=ones, fs=fs)
    for number, shape in enumerate(patient.shapes):
        mine = rhythm.shape == number
        at_s, stretch = rhythm.at_s[mine], rhythm.stretch[mine]
        qrs_gain, t_gain = rhythm.qrs_gain[mine], rhythm.t_gain[mine]
        _add_waves(leads, shape.qrs, at_s=at_s, gains=qrs_gain, stretch=stretch, fs=fs)
        stretch = np.sqrt(rhythm.rr_s[mine])
        _add_waves(leads, shape.t, at_s=at_s, gains=t_gain, stretch=stretch, fs=fs)
    return leads


def _add_waves(
    leads: NDArray[np.float64],
    waves: tuple[Wave, ...],
    *,
    at_s: NDArray[np.float64],
    gains: NDArray[np.float64],
    stretch: NDArray[np.float64],
    fs: float,
) -> None:
    """Add the waves of beats at some times to the leads (in place)."""
    n_samples = leads.shape[1]
    for start in range(0, len(at_s), _BEATS_AT_ONCE):
        part = slice(start, start + _BEATS_AT_ONCE)
        scale = stretch[part, None]
        for wave in waves:
            centre = at_s[part, None] + scale * wave.centre_s
            reach = _WAVE_REACH * max(wave.rise_s, wave.fall_s) * float(scale.max())
            steps = np.arange(-int(reach * fs) - 1, int(reach * fs) + 2)
            index = np.rint(centre * fs).astype(np.int64) + steps  # (n_beats, n_steps)
            offset = index / fs - centre
            width = np.where(offset < 0, wave.rise_s, wave.fall_s) * scale
            bump = gains[part, None] * np.exp(-0.5 * (offset / width) ** 2)
            inside = (index >= 0) & (index < n_samples)
            if not inside.any():
                continue
            index, bump = index[inside], bump[inside]
            first, last = int(index.min()), int(index.max())
            total = np.bincount(index - first, weights=bump)
            leads[:, first : last + 1] += np.outer(wave.amplitudes_mv, total)


def _find_r_peaks(
    mlii: NDArray[np.float64], patient: Patient, rhythm: _Rhythm, fs: float
) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Extremum of the main deflection of each beat within the record, and its symbol."""
    n_samples = len(mlii)
    middle = np.rint(rhythm.at_s * fs).astype(np.int64)
    inside = (middle >= 0) & (middle < n_samples)
    upright = np.array([shape.is_upright for shape in patient.shapes])
    sign = np.where(upright, 1.0, -1.0)[rhythm.shape[inside]]
    reach = round(_PEAK_REACH_S * fs)
    index = middle[inside][:, None] + np.arange(-reach, reach + 1)  # (n_beats, 2 reach + 1)
    index = np.clip(index, 0, n_samples - 1)
    best = (sign[:, None] * mlii[index]).argmax(axis=1)
    return index[np.arange(len(index)), best], rhythm.symbol[inside]


def _make_noise(
    levels: NoiseLevels, n_samples: int, fs: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Noise of each lead on its own, shape ``(2, n_samples)``."""
    return np.stack(
        [
            baseline_wander(n_samples, fs=fs, rms_mv=levels.wander_mv, rng=rng)
            + muscle_noise(n_samples, fs=fs, rms_mv=levels.muscle_mv, rng=rng)
            + mains_hum(n_samples, fs=fs, rms_mv=levels.hum_mv, mains_hz=levels.mains_hz, rng=rng)
            for _ in LEADS
        ]
    )
