"""Draw virtual patients: what their beats look like, how fast they come, how often PVCs do.

A beat is a sum of Gaussian waves seen by two leads (McSharry et al. 2003,
DOI 10.1109/TBME.2003.808805); :mod:`ecg_lib.records.simulation.simulator` plays the patient as a
record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEADS: Final = ("MLII", "V1")
"""Leads of a simulated record, those of most MIT-BIH records."""

PATIENT_STREAM: Final = 0
"""Purpose of :func:`generator` when a patient is drawn."""

_UNUSUAL_STREAM: Final = 7
_ABERRANT_STREAM: Final = 8

_SHAPE_TIMES_S: Final = np.arange(-300, 301) / 1000.0  # grid on which shapes are compared


class Conduction(StrEnum):
    """How a conducted beat reaches the ventricles; the value is its WFDB symbol."""

    NORMAL = "N"
    LEFT_BLOCK = "L"
    RIGHT_BLOCK = "R"


class PvcPattern(StrEnum):
    """How ventricular beats come."""

    ISOLATED = "isolated"
    """One, early, with a compensatory pause."""
    INTERPOLATED = "interpolated"
    """One between two conducted beats, without a pause."""
    BIGEMINY = "bigeminy"
    """After each conducted beat, for some cycles."""
    TRIGEMINY = "trigeminy"
    """After every second conducted beat, for some cycles."""
    COUPLET = "couplet"
    """Two in a row."""
    RUN = "run"
    """Three to eight in a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """One electrical event: an asymmetric Gaussian, seen by each lead with its own amplitude."""

    centre_s: float
    """Time of its peak from the R-peak, or for a P wave from the middle of the P wave."""
    rise_s: float
    """Standard deviation before the peak."""
    fall_s: float
    """Standard deviation after the peak."""
    amplitudes_mv: tuple[float, float]
    """Height in MLII and in V1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Morphology:
    """The shape of a beat; the main deflection of its QRS in MLII peaks at time zero."""

    qrs: tuple[Wave, ...]
    t: tuple[Wave, ...]
    """The repolarisation at an RR interval of one second."""

    @property
    def is_upright(self) -> bool:
        """True if the main deflection of the QRS in MLII is positive."""
        mlii = _evaluate(self.qrs, _SHAPE_TIMES_S)[0]
        return bool(mlii.max() > -mlii.min())

    @property
    def qrs_width_s(self) -> float:
        """Time for which the QRS is above a twentieth of its height in either lead."""
        return _qrs_width_s(self.qrs)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseLevels:
    """Root mean square of each noise in mV."""

    wander_mv: float = 0.0
    muscle_mv: float = 0.0
    hum_mv: float = 0.0
    mains_hz: float = 50.0

    def __post_init__(self) -> None:
        if min(self.wander_mv, self.muscle_mv, self.hum_mv) < 0:
            raise ValueError(f"noise levels must not be negative, got {self}")


NO_NOISE: Final = NoiseLevels()
"""For clean records: ``dataclasses.replace(patient, noise=NO_NOISE)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """A virtual patient: what the heart does and what the electrodes see of it.

    Raises
    ------
    ValueError
        If a rate is out of range, or PVCs are to come but none has a shape or a pattern.

    """

    conduction: Conduction
    conducted: Morphology
    p_wave: tuple[Wave, ...]
    premature_p_wave: tuple[Wave, ...]
    pvcs: tuple[Morphology, ...]
    """One shape, or two of which the first is the usual one; may be empty without PVCs."""
    pr_s: float
    """From the middle of the P wave to the R-peak."""
    heart_rate_bpm: float
    respiration_hz: float
    respiratory_hrv: float
    """Standard deviation of the RR interval with breathing, as a share of its mean."""
    low_frequency_hrv: float
    """The same of the 0.1 Hz rhythm."""
    pvc_episodes_per_min: float
    pattern_weights: tuple[float, ...]
    """How frequent each :class:`PvcPattern` is, in its order."""
    coupling_s: float
    """From a conducted beat to the PVC that follows it."""
    run_interval_s: float
    """From PVC to PVC in couplets and runs."""
    apbs_per_min: float
    """Atrial premature beats (symbol ``A``)."""
    noise: NoiseLevels = field(default=NO_NOISE)
    gain: float = 1.0
    """Factor on everything, noise too."""
    alternans: float = 0.0
    """Share of its amplitude that every second conducted QRS complex lacks."""
    aberrant: Morphology | None = None
    """Shape of atrial premature beats; that of conducted beats when None."""

    @property
    def shapes(self) -> tuple[Morphology, ...]:
        """The conducted beat, the PVCs, and atrial premature beats where these are aberrant."""
        aberrant = () if self.aberrant is None else (self.aberrant,)
        return (self.conducted, *self.pvcs, *aberrant)

    def __post_init__(self) -> None:
        if not 0 <= self.alternans < 1:
            msg = f"alternans must be at least 0 and below 1, got {self.alternans!r}"
            raise ValueError(msg)
        if not 30 <= self.heart_rate_bpm <= 250:
            msg = f"heart_rate_bpm must be between 30 and 250, got {self.heart_rate_bpm!r}"
            raise ValueError(msg)
        if self.pvc_episodes_per_min < 0 or self.apbs_per_min < 0:
            msg = (
                "rates of premature beats must not be negative, "
                f"got {self.pvc_episodes_per_min!r} and {self.apbs_per_min!r}"
            )
            raise ValueError(msg)
        weights = self.pattern_weights
        if len(weights) != len(PvcPattern) or min(weights) < 0 or not sum(weights) > 0:
            msg = (
                f"pattern_weights must be {len(PvcPattern)} numbers, none negative and not all "
                f"zero, got {weights}"
            )
            raise ValueError(msg)
        if self.pvc_episodes_per_min > 0 and not self.pvcs:
            raise ValueError("a patient with PVCs must have a PVC morphology, got none")


def _evaluate(waves: tuple[Wave, ...], times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum waves at some times, shape ``(2, n_times)``."""
    total = np.zeros((len(LEADS), len(times_s)))
    for wave in waves:
        offset = times_s - wave.centre_s
        width = np.where(offset < 0, wave.rise_s, wave.fall_s)
        total += np.outer(wave.amplitudes_mv, np.exp(-0.5 * (offset / width) ** 2))
    return total


def _qrs_width_s(qrs: tuple[Wave, ...]) -> float:
    leads = np.abs(_evaluate(qrs, _SHAPE_TIMES_S))
    above = (leads > 0.05 * leads.max(axis=1, keepdims=True)).any(axis=0)
    return float(np.ptp(_SHAPE_TIMES_S[above]))


def draw_patient(seed: int) -> Patient:
    """Draw a patient; the same `seed` gives the same one.

    About one in seven has no PVC, one in four a bundle branch block, one in four an R wave in
    MLII that is small or not the main deflection. The ranges are chosen for variety and state no
    prevalence.

    Parameters
    ----------
    seed : int
        Not negative.

    Raises
    ------
    ValueError
        If `seed` is negative.

    """
    rng = generator(seed, PATIENT_STREAM)
    conduction = Conduction(rng.choice(list(Conduction), p=[0.76, 0.12, 0.12]))
    conducted = _draw_conducted(rng, conduction)
    p_wave = _draw_p_wave(rng, rng.uniform(0.04, 0.13))
    pvcs = [_draw_pvc(rng, conducted)]
    if rng.random() < 0.35:
        pvcs.append(_draw_pvc(rng, conducted))
    return Patient(
        conduction=conduction,
        conducted=conducted,
        p_wave=p_wave,
        premature_p_wave=_draw_p_wave(rng, rng.choice([-1, 1]) * rng.uniform(0.04, 0.1)),
        pvcs=tuple(pvcs),
        pr_s=rng.uniform(0.13, 0.19),
        heart_rate_bpm=float(np.clip(rng.normal(74, 13), 50, 110)),
        respiration_hz=rng.uniform(0.18, 0.32),
        respiratory_hrv=rng.uniform(0.005, 0.04),
        low_frequency_hrv=rng.uniform(0.005, 0.03),
        pvc_episodes_per_min=_draw_rate(rng, none=0.14, median=2.5, highest=12.0),
        pattern_weights=tuple(rng.dirichlet([2.5, 0.5, 0.6, 0.4, 0.7, 0.3]).tolist()),
        coupling_s=rng.uniform(0.38, 0.62),
        run_interval_s=rng.uniform(0.34, 0.48),
        apbs_per_min=_draw_rate(rng, none=0.4, median=1.0, highest=6.0),
        noise=NoiseLevels(
            wander_mv=rng.uniform(0.02, 0.15),
            muscle_mv=float(rng.lognormal(np.log(0.012), 0.6)),
            hum_mv=float(rng.choice([0.0, rng.uniform(0.001, 0.02)])),
            mains_hz=float(rng.choice([50.0, 60.0])),
        ),
        gain=float(np.clip(rng.lognormal(0.0, 0.3), 0.5, 2.0)),
    )


class Unusual(StrEnum):
    """Beats that mislead detectors of QRS complexes."""

    TALL_T = "tall_t"
    """T waves taller than the QRS complex, some of them narrow, as in hyperkalaemia."""
    ST_ELEVATION = "st_elevation"
    """The QRS complex runs into a dome and a tall T wave, as in acute ischaemia."""
    ALTERNANS = "alternans"
    """Every second QRS complex is small, as in pericardial effusion."""
    FAST = "fast"
    """A supraventricular tachycardia of 150 to 250 beats a minute."""
    SLOW_PVC = "slow_pvc"
    """PVCs of one smooth wave of 0.15 s to 0.3 s, which bends no more than a T wave does, as in
    hyperkalaemia or under drugs that slow conduction."""


def draw_unusual_patient(seed: int, kind: Unusual) -> Patient:
    """Draw a patient of a kind that misleads detectors; the same arguments give the same one.

    Parameters
    ----------
    seed : int
        Not negative.
    kind : Unusual

    Raises
    ------
    ValueError
        If `seed` is negative.

    """
    patient = draw_patient(seed)
    rng = generator(seed, _UNUSUAL_STREAM)
    if kind is Unusual.ALTERNANS:
        return replace(patient, alternans=rng.uniform(0.3, 0.7))
    if kind is Unusual.FAST:
        return replace(
            patient,
            heart_rate_bpm=rng.uniform(150, 250),
            respiratory_hrv=0.003,
            low_frequency_hrv=0.003,
            pvc_episodes_per_min=0.0,
            apbs_per_min=0.0,
            # The atria beat with the ventricles or behind them; their waves hide.
            p_wave=_draw_p_wave(rng, rng.uniform(0.0, 0.04)),
            conducted=_scale_t(patient.conducted, rng.uniform(0.4, 1.2)),
        )
    if kind is Unusual.SLOW_PVC:
        return replace(
            patient,
            pvcs=(_draw_slow_pvc(rng, patient.conducted),),
            pvc_episodes_per_min=rng.uniform(6.0, 12.0),
        )
    qrs = np.abs(_evaluate(patient.conducted.qrs, _SHAPE_TIMES_S)).max(axis=1)
    heights = np.clip(qrs, 0.2, None) * rng.uniform(0.9, 2.2) * rng.choice([1, 1, -1], 2)
    if kind is Unusual.TALL_T:
        rise = rng.uniform(20, 60)
        t: tuple[Wave, ...] = (
            _wave(rng.uniform(230, 310), rise, rng.uniform(0.6, 1.0) * rise, *heights),
        )
    else:
        dome = rng.uniform(0.3, 0.9)
        t = (
            _wave(rng.uniform(80, 130), 30, 60, *(dome * heights)),
            _wave(rng.uniform(200, 270), rng.uniform(50, 80), rng.uniform(35, 60), *heights),
        )
    return replace(patient, conducted=replace(patient.conducted, t=t))


def draw_aberrant_patient(seed: int) -> Patient:
    """Draw a patient in an irregular rhythm, with PVCs and aberrant beats; a seed, a patient.

    The rhythm is as irregular as in atrial fibrillation. The right bundle branch still rests when a
    beat comes early, so that it starts as the others do and ends late and wide: early and wide as a
    PVC, and none (the phenomenon of Gouaux and Ashman).

    Parameters
    ----------
    seed : int
        Not negative.

    Raises
    ------
    ValueError
        If `seed` is negative.

    """
    patient = draw_patient(seed)
    rng = generator(seed, _ABERRANT_STREAM)
    conducted = _draw_fitting(
        lambda: _draw_narrow(rng, is_usual=True), lambda shape: shape.is_upright
    )
    r = max(abs(wave.amplitudes_mv[0]) for wave in conducted.qrs)
    late = rng.uniform(0.5, 1.1)
    block = _wave(rng.uniform(50, 60), 16, 20, -rng.uniform(0.35, 0.6) * r, late)
    t = _draw_t_wave(rng, rng.uniform(0.15, 0.35) * r, -rng.uniform(0.2, 0.4) * late)
    no_p = _draw_p_wave(rng, 0.005)
    return replace(
        patient,
        conduction=Conduction.NORMAL,
        conducted=conducted,
        p_wave=no_p,
        premature_p_wave=no_p,
        heart_rate_bpm=rng.uniform(80, 105),
        respiratory_hrv=rng.uniform(0.12, 0.2),
        low_frequency_hrv=rng.uniform(0.06, 0.1),
        pvcs=(_draw_pvc(rng, conducted),),
        pvc_episodes_per_min=rng.uniform(5.0, 9.0),
        apbs_per_min=rng.uniform(12.0, 20.0),
        aberrant=Morphology(qrs=(*conducted.qrs, block), t=t),
    )


def _scale_t(morphology: Morphology, factor: float) -> Morphology:
    waves = (
        replace(wave, amplitudes_mv=(factor * mlii, factor * v1))
        for wave in morphology.t
        for mlii, v1 in (wave.amplitudes_mv,)
    )
    return replace(morphology, t=tuple(waves))


def draw_textbook_patient(rng: np.random.Generator, *, is_noisy: bool) -> Patient:
    """Draw a patient whose conducted beats and PVCs nobody would confuse.

    Upright narrow beats, wide PVCs of the other polarity, hardly any variation of the heart rate.
    """
    conducted = _draw_fitting(
        lambda: _draw_narrow(rng, is_usual=True),
        lambda shape: shape.is_upright and shape.t[0].amplitudes_mv[0] > 0,
    )
    return Patient(
        conduction=Conduction.NORMAL,
        conducted=conducted,
        p_wave=_draw_p_wave(rng, rng.uniform(0.08, 0.12)),
        premature_p_wave=_draw_p_wave(rng, 0.1),
        pvcs=(_draw_pvc(rng, conducted, mlii_sign=-1, width_s=(0.14, 0.17)),),
        pr_s=0.16,
        heart_rate_bpm=rng.uniform(62, 78),
        respiration_hz=0.25,
        respiratory_hrv=0.015,
        low_frequency_hrv=0.01,
        pvc_episodes_per_min=0.0,
        pattern_weights=(1.0,) * len(PvcPattern),
        coupling_s=rng.uniform(0.42, 0.48),
        run_interval_s=rng.uniform(0.36, 0.42),
        apbs_per_min=0.0,
        noise=NoiseLevels(
            wander_mv=0.3 if is_noisy else 0.04,
            muscle_mv=0.045 if is_noisy else 0.008,
            hum_mv=0.02 if is_noisy else 0.003,
        ),
    )


def generator(seed: int, stream: int) -> np.random.Generator:
    """Make the random generator of one purpose, so that one does not disturb another.

    Raises
    ------
    ValueError
        If `seed` is negative.

    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, got seed={seed}")
    return np.random.default_rng([seed, stream])


def _draw_rate(rng: np.random.Generator, *, none: float, median: float, highest: float) -> float:
    """A rate per minute: zero with probability `none`, else log-normal."""
    rate = min(float(rng.lognormal(np.log(median), 0.8)), highest)
    return 0.0 if rng.random() < none else rate


def _wave(centre_ms: float, rise_ms: float, fall_ms: float, mlii: float, v1: float) -> Wave:
    return Wave(
        centre_s=centre_ms / 1000,
        rise_s=rise_ms / 1000,
        fall_s=fall_ms / 1000,
        amplitudes_mv=(float(mlii), float(v1)),
    )


def _draw_p_wave(rng: np.random.Generator, height_mv: float) -> tuple[Wave, ...]:
    """Right and left atrium, one after the other: a rounded wave, biphasic in V1."""
    width = rng.uniform(17, 23)
    left = rng.uniform(0.5, 1.0)
    return (
        _wave(-14, width, width, height_mv, 0.6 * abs(height_mv)),
        _wave(18, width, width, left * height_mv, -0.5 * left * abs(height_mv)),
    )


def _draw_conducted(rng: np.random.Generator, conduction: Conduction) -> Morphology:
    if conduction is Conduction.LEFT_BLOCK:
        return _draw_fitting(lambda: _draw_left_block(rng), _has_main_deflection)
    if conduction is Conduction.RIGHT_BLOCK:
        return _draw_fitting(lambda: _draw_right_block(rng), _has_main_deflection)
    return _draw_fitting(lambda: _draw_narrow(rng), _has_main_deflection)


def _draw_narrow(rng: np.random.Generator, *, is_usual: bool = False) -> Morphology:
    """A narrow QRS: usual, of low voltage, rS (left axis), or QS (old inferior infarction)."""
    form = "usual" if is_usual else rng.choice(["usual", "low", "rS", "QS"], p=[0.7, 0.1, 0.1, 0.1])
    q, r, s = {
        "usual": (-rng.uniform(0.0, 0.15), rng.uniform(0.8, 1.7), -rng.uniform(0.05, 0.4)),
        "low": (-rng.uniform(0.0, 0.06), rng.uniform(0.3, 0.5), -rng.uniform(0.02, 0.12)),
        "rS": (0.0, rng.uniform(0.2, 0.45), -rng.uniform(0.7, 1.2)),
        "QS": (rng.uniform(0.02, 0.1), -rng.uniform(0.7, 1.3), -rng.uniform(0.05, 0.2)),
    }[str(form)]
    t_height = rng.uniform(0.12, 0.35) * max(abs(r), abs(s)) * rng.choice([1, 1, 1, 1.6])
    t_sign = rng.choice([-1, 1], p=[0.5, 0.5] if form == "QS" else [0.1, 0.9])
    width = rng.uniform(7.5, 10.5)
    return _morphology(
        qrs=(
            _wave(-26, 8, 8, q, rng.uniform(0.08, 0.35)),
            _wave(0, width, width, r, -rng.uniform(0.4, 1.2)),
            _wave(27, 9, 11, s, -rng.uniform(0.0, 0.3)),
        ),
        t=_draw_t_wave(rng, t_sign * t_height, rng.uniform(-0.15, 0.3)),
        width_s=rng.uniform(0.075, 0.1),
    )


def _draw_left_block(rng: np.random.Generator) -> Morphology:
    """Left bundle branch block: wide, notched and upright in MLII, QS in V1, discordant T."""
    r, s = rng.uniform(0.6, 1.2), rng.uniform(0.7, 1.4)
    notch = rng.choice([rng.uniform(0.55, 0.85), rng.uniform(1.12, 1.4)])  # one peak is the R-peak
    return _morphology(
        qrs=(
            _wave(-44, 10, 10, 0.0, rng.uniform(0.0, 0.15)),
            _wave(-16, 15, 17, r, -s),
            _wave(24, 17, 20, notch * r, -notch * s),
        ),
        t=_draw_t_wave(rng, -rng.uniform(0.15, 0.35) * r, rng.uniform(0.25, 0.45) * s),
        width_s=rng.uniform(0.125, 0.155),
    )


def _draw_right_block(rng: np.random.Generator) -> Morphology:
    """Right bundle branch block: late wide S in MLII, rSR' in V1, T against the late part."""
    r, late = rng.uniform(0.6, 1.4), rng.uniform(0.5, 1.1)
    return _morphology(
        qrs=(
            _wave(-24, 8, 8, -rng.uniform(0.0, 0.1), rng.uniform(0.1, 0.3)),
            _wave(0, 9, 10, r, -rng.uniform(0.3, 0.7)),
            _wave(48, 17, 20, -rng.uniform(0.25, 0.5) * r, late),
        ),
        t=_draw_t_wave(rng, rng.uniform(0.15, 0.35) * r, -rng.uniform(0.2, 0.4) * late),
        width_s=rng.uniform(0.12, 0.15),
    )


def _draw_pvc(
    rng: np.random.Generator,
    conducted: Morphology,
    *,
    mlii_sign: int | None = None,
    width_s: tuple[float, float] = (0.125, 0.175),
) -> Morphology:
    """A wide beat unlike the conducted one: main wave, notch, small opposite start and end."""

    def draw() -> Morphology:
        sign = mlii_sign or rng.choice([-1, 1])
        mlii = sign * rng.uniform(0.9, 2.2)
        v1 = rng.choice([-1, 1]) * rng.uniform(0.6, 1.8)
        notch, end = rng.choice([0, rng.uniform(0.3, 0.7)]), rng.uniform(0.0, 0.5)
        start = rng.uniform(0.0, 0.15)
        t_share = rng.uniform(0.25, 0.45)
        return _morphology(
            qrs=(
                _wave(-52, 13, 13, -start * mlii, rng.uniform(-0.2, 0.2)),
                _wave(0, rng.uniform(20, 28), rng.uniform(22, 30), mlii, v1),
                _wave(42, 18, 24, notch * mlii, rng.uniform(0.0, 0.7) * v1),
                _wave(82, 18, 24, -end * mlii, rng.uniform(-0.4, 0.2) * v1),
            ),
            t=_draw_t_wave(rng, -t_share * mlii, -t_share * v1, widening=1.25),
            width_s=rng.uniform(*width_s),
        )

    return _draw_fitting(
        draw,
        lambda pvc: _has_main_deflection(pvc) and _mlii_correlation(pvc, conducted) < 0.7,
    )


def _draw_slow_pvc(rng: np.random.Generator, conducted: Morphology) -> Morphology:
    """A beat of one smooth wave, and a T wave of the other polarity."""

    def draw() -> Morphology:
        mlii = rng.choice([-1, 1]) * rng.uniform(0.7, 2.2)
        v1 = rng.choice([-1, 1]) * rng.uniform(0.6, 1.8)
        rise = rng.uniform(32, 62)
        share = rng.uniform(0.0, 0.4)
        return Morphology(
            qrs=(_wave(0, rise, rng.uniform(0.8, 1.2) * rise, mlii, v1),),
            t=_draw_t_wave(rng, -share * mlii, -share * v1, widening=1.4),
        )

    return _draw_fitting(draw, lambda pvc: _mlii_correlation(pvc, conducted) < 0.7)


def _draw_t_wave(
    rng: np.random.Generator, mlii: float, v1: float, *, widening: float = 1.0
) -> tuple[Wave, ...]:
    """A wave that rises more slowly than it falls, at an RR interval of one second."""
    centre, rise = rng.uniform(275, 320), widening * rng.uniform(48, 62)
    return (_wave(centre, rise, rng.uniform(0.6, 0.8) * rise, mlii, v1),)


def _morphology(*, qrs: tuple[Wave, ...], t: tuple[Wave, ...], width_s: float) -> Morphology:
    """Stretch a QRS in time to a width, and move its main deflection in MLII to time zero."""
    stretch = width_s / _qrs_width_s(qrs)
    mlii = np.abs(_evaluate(qrs, _SHAPE_TIMES_S)[0])
    peak_s = float(_SHAPE_TIMES_S[mlii.argmax()])
    return Morphology(
        qrs=tuple(
            replace(
                wave,
                centre_s=stretch * (wave.centre_s - peak_s),
                rise_s=stretch * wave.rise_s,
                fall_s=stretch * wave.fall_s,
            )
            for wave in qrs
        ),
        t=t,
    )


def _draw_fitting(
    draw: Callable[[], Morphology], is_fitting: Callable[[Morphology], bool]
) -> Morphology:
    for _ in range(1000):
        morphology = draw()
        if is_fitting(morphology):
            return morphology
    raise RuntimeError("no morphology fitted in 1000 draws")


def _has_main_deflection(morphology: Morphology) -> bool:
    """True if one polarity of the QRS in MLII is a third taller than the other."""
    mlii = _evaluate(morphology.qrs, _SHAPE_TIMES_S)[0]
    up, down = max(mlii.max(), 1e-9), max(-mlii.min(), 1e-9)
    return bool(max(up, down) > 4 / 3 * min(up, down))


def _mlii_correlation(one: Morphology, other: Morphology) -> float:
    first, second = (_evaluate(shape.qrs, _SHAPE_TIMES_S)[0] for shape in (one, other))
    return float(np.corrcoef(first, second)[0, 1])
