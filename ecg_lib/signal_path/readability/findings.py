"""Find what a reader must know before any beat: flutter, a standstill, a pacemaker.

All three are suspicions from one lead. Their beats are not N or V: in flutter there are none, in
a standstill what is detected is noise, and a paced beat is neither conducted nor ectopic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.filtering import Bands
from ecg_lib.signal_path.readability.asystole import AsystoleConfig, find_asystole
from ecg_lib.signal_path.readability.flutter import FlutterConfig, find_flutter
from ecg_lib.signal_path.readability.missing import are_near, subtract, touches
from ecg_lib.signal_path.readability.pacing import PacingConfig, find_paced
from ecg_lib.signal_path.readability.quality import (
    QualityConfig,
    Stretch,
    UnreadableReason,
    assess_quality,
    find_spans,
    is_inside,
    measure_slope_energy,
)

OK: Final = "ok"
ASYSTOLE: Final = "asystole"
PACED: Final = "paced"
"""Qualities of beats, beside the reasons of :class:`UnreadableReason`."""

BEAT_QUALITIES: Final = (OK, *(reason.value for reason in UnreadableReason), ASYSTOLE, PACED)


def are_readable(beat_quality: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Return True for readable beats; False in unreadable stretches, flutter and asystole."""
    return np.asarray((beat_quality == OK) | (beat_quality == PACED))


def are_paced(beat_quality: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Return True for beats that a pacemaker seems to have made; readable, but not N or V."""
    return np.asarray(beat_quality == PACED)


def have_class(beat_quality: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Return True for beats with a class, N or V: readable and not paced."""
    return np.asarray(beat_quality == OK)


_CELL: Final = 36
"""Samples of the grid on which stretches are laid over each other: 0.1 s."""


_CLEAR_S: Final = 1.0
"""Flutter must be this far from a gap, whose edges ring in the filters."""

_STRAIGHT_MV: Final = 1e-6
"""Second difference of a straight line; the least step of a recorder is a thousand times as much.
"""

_STRAIGHT_S: Final = 0.5

_MAX_STRAIGHT_SHARE: Final = 0.5
"""Share of a quiet line that may be straight: recorders with coarse steps hold a value for long."""


class FindingKind(StrEnum):
    """The kind of a suspected event."""

    FLUTTER = "ventricular_flutter"
    """Ventricular flutter or fibrillation."""
    ASYSTOLE = "asystole"
    """No beat for three seconds or more."""
    PACING = "pacing"
    """A pacemaker."""


class Finding(NamedTuple):
    """Something that is suspected in a part of the signal."""

    kind: FindingKind
    start: int
    """First sample."""
    stop: int
    """First sample after it."""


FINDING_WORDS: Final = {
    FindingKind.FLUTTER: "ventricular flutter or fibrillation suspected",
    FindingKind.ASYSTOLE: "no beat: asystole suspected, or an electrode that leads nothing",
    FindingKind.PACING: "pacemaker suspected: spikes begin wide complexes",
}


def list_alarms(findings: Sequence[Finding], *, fs: float) -> tuple[str, ...]:
    """Say in words which findings ask for a look at once: flutter and asystole, with seconds.

    Parameters
    ----------
    findings : sequence of Finding
        In samples of `fs`.
    fs : float
        Sampling rate in Hz.

    """
    alarms = []
    for kind in (FindingKind.FLUTTER, FindingKind.ASYSTOLE):
        lengths_s = [(found.stop - found.start) / fs for found in findings if found.kind is kind]
        if lengths_s:
            where = "" if len(lengths_s) == 1 else f" in {len(lengths_s)} stretches"
            alarms.append(f"{FINDING_WORDS[kind]} ({sum(lengths_s):.1f} s{where})")
    return tuple(alarms)


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingsConfig:
    """Limits of the detectors."""

    flutter: FlutterConfig = field(default_factory=FlutterConfig)
    asystole: AsystoleConfig = field(default_factory=AsystoleConfig)
    pacing: PacingConfig = field(default_factory=PacingConfig)


class Judgement(NamedTuple):
    """Where a signal can be read, how well, and what is suspected in it."""

    unreadable: tuple[Stretch, ...]
    """Stretches whose beats have no class, in time order, without overlap."""
    findings: tuple[Finding, ...]
    """In order of their beginnings."""
    per_second: NDArray[np.float64]
    """Quality of each second begun, 0 to 1; NaN where there is no beat to judge by, in flutter
    and asystole."""
    beat_quality: NDArray[np.str_]
    """One of :data:`BEAT_QUALITIES` for each R-peak."""
    energy: NDArray[np.float64]
    """:func:`ecg_lib.signal_path.readability.quality.measure_slope_energy` of the signal."""


def judge_signal(
    signal_mv: NDArray[np.float64],
    r_peaks: NDArray[np.int64],
    *,
    rail_share: NDArray[np.float64] | None = None,
    quality: QualityConfig | None = None,
    config: FindingsConfig | None = None,
    bands: Bands | None = None,
    missing: tuple[tuple[int, int], ...] = (),
) -> Judgement:
    """Judge a signal at 360 Hz.

    Parameters
    ----------
    signal_mv : ndarray of shape (n_samples,)
        One lead at 360 Hz in mV, not filtered.
    r_peaks : ndarray of int64, shape (n_beats,)
        The R-peaks in it.
    rail_share : ndarray, optional
        See :func:`ecg_lib.signal_path.readability.quality.assess_quality`.
    quality : QualityConfig, optional
    config : FindingsConfig, optional
    bands : Bands, optional
        Those of the signal, where others need them too.
    missing : tuple of (int, int)
        Spans that are bridged and were not recorded. Findings must not lean on them: what is quiet
        up to a gap is that of an electrode that came off.

    Returns
    -------
    Judgement
        In samples at 360 Hz.

    """
    config = config or FindingsConfig()
    bands = bands or Bands(signal_mv)
    energy = measure_slope_energy(signal_mv, bands=bands)
    found = assess_quality(
        signal_mv, r_peaks, energy=energy, rail_share=rail_share, config=quality, bands=bands
    )
    quiet = find_asystole(
        signal_mv,
        r_peaks,
        energy=energy,
        is_readable=~is_inside(r_peaks, found.unreadable),
        config=config.asystole,
    )
    flutter = find_flutter(signal_mv, config=config.flutter, bands=bands)
    shortest = config.asystole.min_s * FS_HZ - _CELL
    flat = _find_straight(signal_mv) if quiet.asystole else ()
    asystole, dead = _part_quiet(quiet.asystole, flat=flat, missing=missing, shortest=shortest)
    flutter = tuple(
        span for span in flutter if not touches(*span, missing, margin=round(_CLEAR_S * FS_HZ))
    )
    unreadable, quiet_parts, waves = _lay_over(
        found.unreadable,
        noise=tuple(span for span in quiet.drifting if not touches(*span, missing, margin=1)),
        asystole=asystole,
        flutter=flutter,
        dead=dead,
        n_samples=len(signal_mv),
    )
    # A quiet line that a flat line cuts short does not count.
    still = [(start, stop) for start, stop in quiet_parts if stop - start > shortest]
    beat_quality = _name_qualities(r_peaks, unreadable)
    for start, stop in still:
        beat_quality[(r_peaks >= start) & (r_peaks < stop) & (beat_quality == OK)] = ASYSTOLE
    is_paced, paced = find_paced(
        signal_mv, r_peaks, is_readable=beat_quality == OK, config=config.pacing
    )
    beat_quality[is_paced] = PACED
    per_second = found.per_second
    middles = (np.arange(len(per_second)) * FS_HZ + FS_HZ / 2).astype(np.int64)
    per_second[are_near(middles, missing)] = 0.0
    for start, stop in (*still, *waves):
        per_second[(middles >= start) & (middles < stop)] = np.nan
    findings = [
        *(Finding(FindingKind.FLUTTER, start, stop) for start, stop in waves),
        *(Finding(FindingKind.ASYSTOLE, start, stop) for start, stop in still),
        *(Finding(FindingKind.PACING, start, stop) for start, stop in paced),
    ]
    findings.sort(key=lambda finding: (finding.start, finding.stop))
    return Judgement(unreadable, tuple(findings), per_second, beat_quality, energy)


def _part_quiet(
    quiet: tuple[tuple[int, int], ...],
    *,
    flat: tuple[tuple[int, int], ...],
    missing: tuple[tuple[int, int], ...],
    shortest: float,
) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """Part quiet lines into asystole and lines that are flat or disconnected.

    Asystole is a recorded line, with the noise of an amplifier and beats on both sides of it (or
    an end of the recording): not one that is straight, nor one that ends in a gap.
    """
    asystole, dead = [], []
    for start, stop in quiet:
        straight_s = sum(
            max(0, min(stop, last) - max(start, first)) / FS_HZ for first, last in flat
        )
        if touches(start, stop, missing, margin=1):
            # The edges of a gap between two beats are quiet too, and say nothing.
            left = subtract(start, stop, missing)
            dead += [(first, last) for first, last in left if last - first > shortest]
        elif straight_s > _MAX_STRAIGHT_SHARE * (stop - start) / FS_HZ:
            dead.append((start, stop))
        else:
            asystole.append((start, stop))
    return tuple(asystole), tuple(dead)


def _find_straight(signal_mv: NDArray[np.float64]) -> tuple[tuple[int, int], ...]:
    """Find spans of half a second and more in which the line is straight: no amplifier lives."""
    is_straight = np.abs(np.diff(signal_mv, 2)) < _STRAIGHT_MV
    least = round(_STRAIGHT_S * FS_HZ)
    return tuple(
        (start, stop + 2) for start, stop in find_spans(is_straight) if stop - start >= least
    )


class _Layers(NamedTuple):
    unreadable: tuple[Stretch, ...]
    asystole: tuple[tuple[int, int], ...]
    flutter: tuple[tuple[int, int], ...]


def _lay_over(
    unreadable: tuple[Stretch, ...],
    *,
    noise: tuple[tuple[int, int], ...],
    asystole: tuple[tuple[int, int], ...],
    flutter: tuple[tuple[int, int], ...],
    dead: tuple[tuple[int, int], ...],
    n_samples: int,
) -> _Layers:
    """Let flutter and asystole be where nothing stands out, but not where the amplifier is."""
    if not (noise or asystole or flutter or dead):
        return _Layers(unreadable, (), ())
    names: list[str] = ["", *(reason.value for reason in UnreadableReason), ASYSTOLE]
    cells = np.zeros(-(-n_samples // _CELL), dtype=np.int8)
    layers = [
        *((start, stop, UnreadableReason.NOISE.value) for start, stop in noise),
        *((s.start, s.stop, s.reason.value) for s in unreadable if s.reason == "noise"),
        *((start, stop, ASYSTOLE) for start, stop in asystole),
        *((start, stop, UnreadableReason.FLUTTER.value) for start, stop in flutter),
        *((s.start, s.stop, s.reason.value) for s in unreadable if s.reason != "noise"),
        *((start, stop, UnreadableReason.FLAT.value) for start, stop in dead),
    ]
    for start, stop, name in layers:
        cells[start // _CELL : -(-stop // _CELL)] = names.index(name)
    edges = np.flatnonzero(np.diff(cells, prepend=-1, append=-1))
    parts = [
        (start * _CELL, min(stop * _CELL, n_samples), names[cells[start]])
        for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]
    return _Layers(
        tuple(
            Stretch(start, stop, UnreadableReason(name))
            for start, stop, name in parts
            if name not in ("", ASYSTOLE)
        ),
        tuple((start, stop) for start, stop, name in parts if name == ASYSTOLE),
        tuple((start, stop) for start, stop, name in parts if name == UnreadableReason.FLUTTER),
    )


def _name_qualities(
    r_peaks: NDArray[np.int64], unreadable: tuple[Stretch, ...]
) -> NDArray[np.str_]:
    qualities = np.full(len(r_peaks), OK, dtype="U8")
    for start, stop, reason in unreadable:
        first, last = np.searchsorted(r_peaks, [start, stop])
        qualities[first:last] = reason.value
    return qualities
