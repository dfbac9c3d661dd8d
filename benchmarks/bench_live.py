"""Measure leads that stream: how near to the analysis of recordings, and what one costs.

The development records of MIT-BIH (`ECG_MITDB_DIR`) are replayed through
:class:`ecg_lib.classifier.live.live_lead.LiveLead`, with networks that have not seen the person and
compared with the analysis of the whole record. Then one of them is streamed in pieces of a quarter
of a second, as a device sends it, and the processor time of each second is taken.

Writes ``benchmarks/results/live.json``: the part `engine`, and of all records the part `replay`.

::

    make bench-live
    make bench-live ARGS="--records 119 223 --no-replay"
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from live_results import write_results
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle, read_bundle
from ecg_lib.classifier.live.beats import LiveBeats
from ecg_lib.classifier.live.live_lead import LiveLead
from ecg_lib.evaluation.beat_scoring import BeatCounts, add_up, score_beats
from ecg_lib.evaluation.blind_verifiers import load_blind_verifier
from ecg_lib.operations.settings import read_settings
from ecg_lib.recordings.long_recordings import classify_recording
from ecg_lib.records.annotations import DS1
from ecg_lib.records.record import Record, read_wfdb
from ecg_lib.signal_path.r_peaks.matching import match_beats
from flows.release.load_released import REFERENCE

_PIECE_S: Final = 0.25
_TOLERANCE: Final = 1
"""Samples by which a beat may lie elsewhere."""


class Replay(NamedTuple):
    """A record that was streamed, against the analysis of the whole."""

    beats: int
    found: int
    extra: int
    same_class: int
    of_whole: BeatCounts
    of_stream: BeatCounts


def replay(record: Record, classifier: BeatClassifier) -> Replay:
    """Stream a record and compare its final beats."""
    annotations = record.annotations
    assert annotations is not None  # noqa: S101  read with them
    signal_mv, fs = record.signal_mv(record.choose_lead()).astype(np.float32), record.fs
    whole = classify_recording(signal_mv, fs=fs, classifier=classifier)
    lead, final = LiveLead(classifier, fs=fs), list[LiveBeats]()
    minute = round(60 * fs)
    for start in range(0, len(signal_mv), minute):
        lead.append(signal_mv[start : start + minute])
        final += lead.settle()
    final += lead.finish()
    r_peaks, is_v, has_class = (
        np.concatenate([getattr(one, name) for one in final])
        for name in ("r_peaks", "is_v", "has_class")
    )
    match = match_beats(whole.r_peaks, r_peaks, tolerance=_TOLERANCE)
    found = match.of_reference >= 0
    other = match.of_reference[found]
    is_same = (whole.is_v[found] == is_v[other]) & (whole.has_class[found] == has_class[other])
    return Replay(
        beats=len(found),
        found=int(found.sum()),
        extra=int((match.of_detected < 0).sum()),
        same_class=int(is_same.sum()),
        of_whole=score_beats(
            annotations,
            detections=whole.r_peaks,
            is_v=whole.is_v,
            is_readable=whole.has_class,
            fs=fs,
        ),
        of_stream=score_beats(
            annotations, detections=r_peaks, is_v=is_v, is_readable=has_class, fs=fs
        ),
    )


def _print_replays(records: list[Record], bundle: Bundle) -> dict[str, float]:
    replays = []
    for record in records:
        classifier = BeatClassifier.load(
            bundle, fold=bundle.fold_of(record.subject), verifier=load_blind_verifier(record.name)
        )
        done = replay(record, classifier)
        replays.append(done)
        _say(
            f"{record.name}: {done.beats} beats, {done.beats - done.found} not found, "
            f"{done.extra} more, {done.found - done.same_class} of another class; "
            f"V-F1 {done.of_whole.v_f1:.4f} of the whole, {done.of_stream.v_f1:.4f} streamed"
        )
    beats, found = (sum(getattr(one, name) for one in replays) for name in ("beats", "found"))
    extra, same = (sum(getattr(one, name) for one in replays) for name in ("extra", "same_class"))
    whole = add_up([one.of_whole for one in replays]).v_f1
    stream = add_up([one.of_stream for one in replays]).v_f1
    _say(
        f"all: {found / beats:.3%} of {beats} beats found, {extra / beats:.3%} more, "
        f"{same / found:.3%} of the same class; V-F1 {whole:.4f} of the whole, {stream:.4f} "
        f"streamed ({stream - whole:+.4f})"
    )
    return {
        "records": len(records),
        "beats": beats,
        "found": found / beats,
        "extra": extra / beats,
        "same_class": same / found,
        "v_f1_of_whole": whole,
        "v_f1_of_stream": stream,
    }


def _print_cost(record: Record, bundle: Bundle, minutes: float) -> dict[str, float]:
    """Stream a record in small pieces, and take the time of its two windows."""
    signal_mv, fs = record.signal_mv(record.choose_lead()).astype(np.float32), record.fs
    lead = LiveLead(BeatClassifier.load(bundle), fs=fs)
    begin = round((lead.config.history_s + lead.config.final_after_s) * fs)
    lead.append(signal_mv[:begin])
    list(lead.settle())
    lead.look()
    piece, ages = round(_PIECE_S * fs), list[float]()
    looks_s, blocks_s = list[float](), list[float]()
    stop = min(len(signal_mv), begin + round(minutes * 60 * fs))
    seen: set[int] = set()
    for start in range(begin, stop - piece, piece):
        lead.append(signal_mv[start : start + piece])
        if not lead.is_due:
            continue
        started = time.process_time()
        ended = list(lead.settle())
        settled = time.process_time()
        provisional = lead.look()
        looks_s.append(time.process_time() - settled)
        blocks_s += [settled - started] if ended else []
        if provisional is not None:
            ages += _ages_of(provisional, lead, seen)
    # Medians: other processes of the machine make some of them longer.
    look_s, block_s = float(np.median(looks_s)), float(np.median(blocks_s))
    of_looks, of_blocks = look_s / lead.config.look_every_s, block_s / lead.config.block_s
    _say(
        f"{record.name}, in pieces of {_PIECE_S} s: a look takes {1e3 * look_s:.2f} ms of a "
        f"processor, a block {1e3 * block_s:.1f} ms; together {1e3 * (of_looks + of_blocks):.2f} "
        f"ms for a second of signal: {1 / (of_looks + of_blocks):.0f} leads a core (mean of looks "
        f"{1e3 * np.mean(looks_s):.2f} ms)"
    )
    _say(
        f"a beat is first reported when its R-peak is {np.median(ages):.2f} s old (median), "
        f"{np.quantile(ages, 0.99):.2f} s (99 %), in time of the signal"
    )
    return {
        "ms_of_a_look": round(1e3 * look_s, 2),
        "ms_of_a_block": round(1e3 * block_s, 1),
        "ms_a_lead_second": round(1e3 * (of_looks + of_blocks), 2),
        "leads_a_core": round(1 / (of_looks + of_blocks)),
    }


def _ages_of(provisional: LiveBeats, lead: LiveLead, seen: set[int]) -> list[float]:
    """Return the ages of beats that are reported for the first time."""
    new: NDArray[np.int64] = provisional.r_peaks
    ages = [
        (lead.received_to - position) / lead.fs
        for position in new.tolist()
        if not any(near in seen for near in range(position - 7, position + 8))
    ]
    seen.update(new.tolist())
    return ages


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Replay the records, then take the cost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bundle", type=Path, default=REFERENCE)
    parser.add_argument("--records", nargs="+", default=sorted(DS1), choices=sorted(DS1))
    parser.add_argument("--no-replay", action="store_true", help="take the cost alone")
    parser.add_argument("--minutes", type=float, default=4.0, help="signal that the cost is of")
    arguments = parser.parse_args()
    directory = read_settings().mitdb_dir
    if directory is None:
        parser.error("ECG_MITDB_DIR must name the directory of the MIT-BIH records")
    bundle = read_bundle(arguments.bundle)
    records = [read_wfdb(directory / name, with_annotations=True) for name in arguments.records]
    if not arguments.no_replay:
        replayed = _print_replays(records, bundle)
        if len(records) == len(DS1):
            write_results(replay=replayed)
    write_results(engine=_print_cost(records[0], bundle, arguments.minutes))


if __name__ == "__main__":
    main()
