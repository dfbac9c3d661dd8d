"""Views of a record for training and scoring: a lead or a mixture, a strip length, noise."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import DatasetError, InvalidSignalError
from ecg_lib.evaluation.prepared_views import PreparedStrip
from ecg_lib.records.noise import (
    measure_qrs_amplitude,
    mix_at_snr,
    muscle_noise,
    noise_gain,
)
from ecg_lib.records.record import Record
from ecg_lib.records.simulation.movement import simulate_movement
from ecg_lib.signal_path.preprocessing import PreprocessingConfig, prepare_beats


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class View:
    """One way to look at a record.

    Parameters
    ----------
    angle_deg : int
        0 is the record's own lead. Other angles mix it with the next lead, both scaled to one
        range: ``cos(angle) * lead + sin(angle) * other``; 90 is the other lead alone.
    strip_s : int, optional
        Length of the strips in seconds; the whole record when left out.
    noise_db : int, optional
        Signal-to-noise ratio (that of ``nst``) of simulated muscle noise that is added to the
        lead; no noise when left out.
    movement_db : int, optional
        The same of simulated movement of the electrodes. A whole record has it in every second
        part of 40 s, at this ratio and 6 dB above and below it in turn.

    """

    angle_deg: int = 0
    strip_s: int | None = None
    noise_db: int | None = None
    movement_db: int | None = None

    def __post_init__(self) -> None:
        if self.strip_s is not None and self.strip_s < 5:
            msg = f"strip_s must be at least 5, got strip_s={self.strip_s!r}"
            raise ValueError(msg)

    def __str__(self) -> str:
        length = "whole" if self.strip_s is None else f"{self.strip_s} s"
        noise = "" if self.noise_db is None else f", noise of {self.noise_db} dB"
        movement = "" if self.movement_db is None else f", movement of {self.movement_db} dB"
        return f"{self.angle_deg} deg, {length}{noise}{movement}"


WHOLE: Final = View()
"""The record's own lead from end to end: the headline figure."""


def has_view(record: Record, view: View) -> bool:
    """Return False if the record lacks what the view needs.

    A mixture needs a second lead. Noise needs a QRS complex whose amplitude it is scaled by: a
    labelled strip may hold none.
    """
    if view.angle_deg != 0 and len(record.leads) < 2:
        return False
    if (view.noise_db is None and view.movement_db is None) or record.annotations is None:
        return True
    try:
        amplitude_mv = measure_qrs_amplitude(
            _turn(record, view), r_peaks=_measured_beats(record, view), fs=record.fs
        )
    except InvalidSignalError:
        return False
    return amplitude_mv > 0


def view_signal(record: Record, view: View) -> NDArray[np.float32]:
    """Compute the lead that a view looks at, shape ``(n_samples,)``.

    Raises
    ------
    DatasetError
        If the view needs a second lead and the record has one only, or has noise and the record
        no annotations, which say where the QRS complexes are.
    InvalidSignalError
        If the view has noise and the record no QRS complex to scale it by, see :func:`has_view`.

    """
    signal = _turn(record, view)
    if view.noise_db is not None:
        signal = _add_noise(signal, record, view, snr_db=view.noise_db)
    if view.movement_db is not None:
        signal = _add_movement(signal, record, view, snr_db=view.movement_db)
    return signal


def _turn(record: Record, view: View) -> NDArray[np.float32]:
    own = record.choose_lead()
    signal = record.signal_mv(own)
    if view.angle_deg == 0:
        return signal
    others = [lead for lead in record.leads if lead != own]
    if not others:
        msg = f"view {view} needs two leads, record {record.name} has {own} only"
        raise DatasetError(msg)
    angle = np.deg2rad(view.angle_deg)
    mixed = np.cos(angle) * _scaled(signal) + np.sin(angle) * _scaled(record.signal_mv(others[0]))
    return np.asarray(mixed, dtype=np.float32)


def _measured_beats(record: Record, view: View) -> NDArray[np.int64]:
    """Find the beats that noise is scaled by: those that are not V, or all where all are V."""
    if record.annotations is None:
        msg = f"view {view} needs annotations, record {record.name} has none"
        raise DatasetError(msg)
    beats = record.annotations.beat_samples
    others = beats[record.annotations.beat_classes != "V"]
    return others if len(others) else beats


def _add_noise(
    signal: NDArray[np.float32], record: Record, view: View, *, snr_db: float
) -> NDArray[np.float32]:
    beats = _measured_beats(record, view)
    rng = seed_generator(f"{record.name} {view}")
    return mix_at_snr(
        signal,
        muscle_noise(len(signal), fs=record.fs, rms_mv=1.0, rng=rng),
        snr_db=snr_db,
        r_peaks=beats,
        fs=record.fs,
    ).astype(np.float32)


_MOVEMENT_PART_S: Final = 40.0
_MOVEMENT_STEPS_DB: Final = (0, -6, 6)


def _add_movement(
    signal: NDArray[np.float32], record: Record, view: View, *, snr_db: float
) -> NDArray[np.float32]:
    beats = _measured_beats(record, view)
    rng = seed_generator(f"{record.name} {view}")
    movement = simulate_movement(len(signal), fs=record.fs, rms_mv=1.0, rng=rng)
    gain = noise_gain(signal, movement, snr_db=snr_db, r_peaks=beats, fs=record.fs)
    if view.strip_s is None:
        part = np.arange(len(signal)) // round(_MOVEMENT_PART_S * record.fs)
        steps_db = np.array(_MOVEMENT_STEPS_DB)[part // 2 % len(_MOVEMENT_STEPS_DB)]
        movement = movement * np.where(part % 2, 10 ** (-steps_db / 20), 0.0)
    return np.asarray(signal + gain * movement, dtype=np.float32)


def seed_generator(text: str) -> np.random.Generator:
    """Make a generator whose seed is the hash of a text."""
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _scaled(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale a lead to a range of one between its 0.5 and 99.5 percentiles."""
    low, high = np.percentile(signal, [0.5, 99.5])
    return np.asarray(signal / max(float(high - low), 1e-6), dtype=np.float32)


def prepare_view(
    record: Record, view: View, *, config: PreprocessingConfig | None = None
) -> list[PreparedStrip]:
    """Prepare the beats of each strip of a view.

    Parameters
    ----------
    record : Record
    view : View
    config : PreprocessingConfig, optional

    Returns
    -------
    list of PreparedStrip
        Strips do not overlap, and a
        rest shorter than a strip is left out.

    """
    signal = view_signal(record, view)
    if view.strip_s is None:
        return [PreparedStrip(0, prepare_beats(signal, fs=record.fs, config=config))]
    length = round(view.strip_s * record.fs)
    return [
        PreparedStrip(
            start, prepare_beats(signal[start : start + length], fs=record.fs, config=config)
        )
        for start in range(0, len(signal) - length + 1, length)
    ]
