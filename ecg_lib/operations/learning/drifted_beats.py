"""The beats of kept signals that lie farthest from the reference, as strips on ECG paper.

A drift check writes which beats they are, without their signals; the service draws them when the
page of the check is opened. So a signal that is deleted, by age or at the request of its patient,
is no longer on any page.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ecg_lib.errors import ConfigurationError, SignalStoreError
from ecg_lib.operations.learning.kept_signals import KeptSignal, SignalStore
from ecg_lib.records.atomic_files import write_whole
from ecg_lib.records.documents.drawing import (
    Anchor,
    Colour,
    Drawing,
    Shape,
    Text,
    draw_paper,
    line,
    to_themed_svg,
)
from ecg_lib.records.documents.drawing import Path as Curve
from ecg_lib.records.documents.pages import write_html

logger = logging.getLogger(__name__)

SUFFIX: Final = ".beats.json"
"""End of the name of the file, beside the page of its check."""

BEGIN: Final = "<!-- drifted beats -->"
END: Final = "<!-- end of drifted beats -->"
"""Marks in the page, around what is shown where the service does not draw the beats."""

_TEMPLATE: Final = Path(__file__).with_name("drifted_beats.html.jinja")

_MM_PER_S: Final = 25.0
_GAINS_MM_PER_MV: Final = (10.0, 5.0, 2.5, 1.0)
_STRIP_S: Final = 7.0
_HEIGHT_MM: Final = 35.0
_TOP_MM: Final = 5.0


class DriftedBeat(BaseModel):
    """A beat, named so that its signal can be found as long as it is kept."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    patient_key: str
    """Keyed hash of the patient's identifier."""
    prediction_id: str
    created_at: datetime
    sample: int
    """Its R-peak, in samples of the signal."""
    called: str
    """The class that it was given."""
    value: str
    """Its measurement, with the unit."""


class DriftedBeats(BaseModel):
    """The most drifted beats of a check."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    are_kept: bool
    """Whether signals are kept at all."""
    column: str
    """The column that drifted most."""
    usual: str
    """Quartiles or shares of that column in the reference."""
    beats: tuple[DriftedBeat, ...] = ()


def write_drifted_beats(page: Path, found: DriftedBeats) -> None:
    """Write the beats beside the page of their check."""
    write_whole(path_beside(page), found.model_dump_json(indent=2))


def path_beside(page: Path) -> Path:
    """Path of the file of beats that belongs to the page of a check."""
    return page.with_name(page.stem + SUFFIX)


def list_beats(directory: Path) -> list[Path]:
    """List the files of beats of all checks."""
    return sorted(directory.glob(f"*{SUFFIX}"))


def remove_orphans(directory: Path) -> int:
    """Remove the files of beats whose page is gone, and return how many they were."""
    orphans = [
        beats
        for beats in list_beats(directory)
        if not beats.with_name(beats.name.removesuffix(SUFFIX) + ".html").exists()
    ]
    for beats in orphans:
        beats.unlink(missing_ok=True)
    return len(orphans)


def remove_patient(directory: Path, patient_key: str) -> tuple[Path, ...]:
    """Remove the beats of a patient from the files of all checks.

    A file that does not hold beats is removed: whose they were is not known.

    Returns
    -------
    tuple of Path
        Files that could not be changed.

    """
    return _remove(directory, lambda beat: beat.patient_key == patient_key)


def remove_patients(directory: Path, deleted: Mapping[str, datetime]) -> tuple[Path, ...]:
    """Remove the beats of patients up to the time when each was deleted, as `remove_patient`."""
    return _remove(
        directory,
        lambda beat: beat.patient_key in deleted and beat.created_at <= deleted[beat.patient_key],
    )


def _remove(directory: Path, is_due: Callable[[DriftedBeat], bool]) -> tuple[Path, ...]:
    left = []
    for path in list_beats(directory):
        try:
            _remove_from(path, is_due)
        except OSError:
            logger.exception("the beats of a patient cannot be removed from %s", path.name)
            left.append(path)
    return tuple(left)


def _remove_from(path: Path, is_due: Callable[[DriftedBeat], bool]) -> None:
    try:
        found = DriftedBeats.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return
    except ValueError:
        logger.warning("%s does not hold beats and is removed", path.name)
        path.unlink(missing_ok=True)
        return
    others = tuple(beat for beat in found.beats if not is_due(beat))
    if len(others) < len(found.beats):
        changed = found.model_copy(update={"beats": others})
        write_whole(path, changed.model_dump_json(indent=2))


def show_drifted_beats(page: bytes, beats: Path, store: SignalStore) -> bytes:
    """Put the strips of the drifted beats into the page of a check, or why there are none.

    Parameters
    ----------
    page : bytes
        The page; one without the marks, such as an older one, is returned as it is.
    beats : Path
        File of its beats; the page stays as it is without one.
    store : SignalStore
        The kept signals.

    """
    before, mark, rest = page.partition(BEGIN.encode())
    _, end, after = rest.partition(END.encode())
    if not mark or not end:
        return page
    try:
        found = DriftedBeats.model_validate_json(beats.read_bytes())
    except FileNotFoundError:
        return page
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read or does not hold beats: %s", beats.name, error)
        found = None
    return before + draw_section(found, store).encode() + after


def draw_section(found: DriftedBeats | None, store: SignalStore) -> str:
    """Write the section of the page: the strips, or why there are none; None for unknown beats."""
    strips, gone, n_unreadable = [], 0, 0
    for beat in found.beats if found else ():
        try:
            signal = store.read(beat.patient_key, beat.prediction_id, may_wait=False)
        except (ConfigurationError, SignalStoreError, OSError) as error:
            # Not on the page: the text may name files of this machine.
            logger.warning("a strip of a drift check cannot be shown: %s", error)
            n_unreadable += 1
            continue
        if signal is None:
            gone += 1
        else:
            strips.append({"beat": beat, "svg": draw_strip(signal, beat), "lead": signal.lead})
    values: Mapping[str, object] = {
        "found": found,
        "strips": strips,
        "gone": gone,
        "n_unreadable": n_unreadable,
    }
    return write_html(_TEMPLATE, values)


def draw_strip(signal: KeptSignal, beat: DriftedBeat) -> str:
    """Draw seven seconds around a beat on ECG paper, the beat marked, as SVG."""
    samples, fs = signal.signal_mv.astype(np.float64), signal.fs
    length = round(_STRIP_S * fs)
    first = max(0, min(beat.sample - length // 2, len(samples) - length))
    shown = samples[first : first + length]
    left = (beat.sample - first) / fs * _MM_PER_S
    shapes = draw_paper(0, _TOP_MM, _STRIP_S * _MM_PER_S, _HEIGHT_MM)
    shapes += _draw_trace(shown, fs=fs)
    shapes += [
        line(left, _TOP_MM, left, _TOP_MM + 2.5, Colour.RED, 0.5),
        Text(left, 3.6, beat.called, 3.4, Colour.RED, Anchor.MIDDLE, is_bold=True),
    ]
    drawing = Drawing(
        width=_STRIP_S * _MM_PER_S,
        height=_TOP_MM + _HEIGHT_MM + 5,
        shapes=tuple(shapes),
        title=f"Lead {signal.lead}, a beat called {beat.called} with {beat.value}",
    )
    return to_themed_svg(drawing, css_class="paper")


def _draw_trace(shown: NDArray[np.float64], *, fs: float) -> list[Shape]:
    known = shown[np.isfinite(shown)]
    if not len(known):
        return []
    low, high = float(known.min()), float(known.max())
    fitting = [gain for gain in _GAINS_MM_PER_MV if (high - low) * gain <= _HEIGHT_MM]
    gain = fitting[0] if fitting else _GAINS_MM_PER_MV[-1]
    middle = _TOP_MM + _HEIGHT_MM / 2
    heights = np.clip(middle - (shown - (low + high) / 2) * gain, _TOP_MM, _TOP_MM + _HEIGHT_MM)
    across = np.arange(len(shown)) / fs * _MM_PER_S
    is_known = np.isfinite(heights)
    points = np.stack([across[is_known], heights[is_known]], axis=1)
    scale = f"25 mm/s   {gain:g} mm/mV"
    base = _TOP_MM + _HEIGHT_MM + 3.6
    colour = Colour.SOFT if gain == _GAINS_MM_PER_MV[0] else Colour.RED
    return [
        Curve(points, Colour.INK, 0.25),
        Text(_STRIP_S * _MM_PER_S, base, scale, 3.0, colour, Anchor.END),
    ]
