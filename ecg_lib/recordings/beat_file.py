"""The beats of a recording on disk, of which any stretch is read at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.rule_guard import Rule
from ecg_lib.recordings.summary import RecordingSummary
from ecg_lib.signal_path.readability.findings import BEAT_QUALITIES

BEATS: Final = "beats.npy"
NAMES: Final = "beats.json"
"""The meaning of the codes in :data:`BEATS`, and the sampling rate."""

BEAT_DTYPE: Final = np.dtype(
    [
        ("sample", "<i8"),
        ("type", "i1"),
        ("form", "i1"),
        ("rule", "u1"),
        ("quality", "u1"),
        ("probability_v", "<f4"),
        ("rr_s", "<f4"),
    ]
)
"""One beat: type is 1 for V, 0 for N, -1 for a beat without a class."""

_TYPES: Final = {1: "V", 0: "N"}


def write_beats(summary: RecordingSummary, directory: Path) -> None:
    """Write the beats so that any stretch of them is read at once."""
    beats = summary.beats
    rules = [rule.value for rule in Rule]
    qualities = list(BEAT_QUALITIES)
    table = np.zeros(len(beats), dtype=BEAT_DTYPE)
    table["sample"] = beats.r_peaks
    table["type"] = np.where(beats.has_class, beats.is_v, -1)
    table["form"] = summary.form_of_beats
    table["rule"] = _encode(beats.rule, rules)
    table["quality"] = _encode(beats.quality, qualities)
    table["probability_v"] = np.where(beats.has_class, beats.probability_v, np.nan)
    table["rr_s"] = beats.rr_prev_s
    np.save(directory / BEATS, table)
    names = {"fs": beats.fs, "rules": rules, "qualities": qualities}
    (directory / NAMES).write_text(json.dumps(names), encoding="utf-8")


def _encode(values: NDArray[np.str_], names: list[str]) -> NDArray[np.uint8]:
    codes = np.zeros(len(values), dtype=np.uint8)
    for code, name in enumerate(names):
        codes[values == name] = code
    return codes


class BeatStretch(NamedTuple):
    """Beats of a stretch, as parallel lists."""

    first_beat: int
    """Index of the first one in the recording."""
    total: int
    """Beats of the stretch; more than are listed when it has too many."""
    columns: dict[str, list[Any]]


def read_beats(
    directory: Path, *, start_s: float, duration_s: float, max_beats: int
) -> BeatStretch:
    """Read the beats of a stretch, at most `max_beats` of them, from its beginning."""
    names = json.loads((directory / NAMES).read_text(encoding="utf-8"))
    fs, rules, qualities = names["fs"], names["rules"], names["qualities"]
    table = np.load(directory / BEATS, mmap_mode="r")
    first, last = np.searchsorted(table["sample"], [start_s * fs, (start_s + duration_s) * fs])
    part = np.array(table[first : min(last, first + max_beats)])
    return BeatStretch(
        first_beat=int(first),
        total=int(last - first),
        columns={
            "time_s": np.round(part["sample"] / fs, 5).tolist(),
            "type": [_TYPES.get(code) for code in part["type"].tolist()],
            "probability_v": _nullable(part["probability_v"], 6),
            "rr_s": _nullable(part["rr_s"], 4),
            "rule": [rules[code] or None for code in part["rule"].tolist()],
            "quality": [qualities[code] for code in part["quality"].tolist()],
            "form": [code if code >= 0 else None for code in part["form"].tolist()],
        },
    )


def read_called(directory: Path) -> tuple[list[str | None], list[int]]:
    """Read class and form of every beat; None without a class, -1 without a form."""
    table = np.load(directory / BEATS, mmap_mode="r")
    called = [_TYPES.get(code) for code in table["type"].tolist()]
    return called, table["form"].tolist()


def _nullable(values: NDArray[np.float32], digits: int) -> list[float | None]:
    rounded = np.round(values.astype(np.float64), digits).tolist()
    return [None if value != value else value for value in rounded]  # noqa: PLR0124  NaN
