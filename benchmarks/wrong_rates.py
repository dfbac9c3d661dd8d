"""Count the recordings that are read at a wrong sampling rate without a doubt.

Readings are stretches of a minute of DS1 and of the development part of the MIT-BIH
Supraventricular Arrhythmia Database, and the strips of 10 s of subjects 1 to 100 of LUDB. Each is
prepared at several times its own rate, as if a caller stated that rate. A reading that is neither
doubted nor rejected is counted; at its own rate all must be.

    python benchmarks/wrong_rates.py mitdb=DIR svdb=DIR ludb=DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import require_readable
from ecg_lib.errors import InvalidSignalError, UnreadableSignalError
from ecg_lib.records.annotations import DS1
from ecg_lib.records.files.lead import choose_lead
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.limits import MAX_FS_HZ, MIN_FS_HZ
from ecg_lib.signal_path.preprocessing import prepare_beats
from ecg_lib.signal_path.readability.plausibility import explain_rate
from flows.data.databases import SVDB, Role

FACTORS: Final = (0.36, 0.5, 0.69, 1.0, 1.39, 2.0, 2.78)
STARTS_S: Final = (300, 900, 1500)
STRETCH_S: Final = 60
LUDB_SUBJECTS: Final = 100


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("databases", nargs="+", help="NAME=DIR, of mitdb, svdb and ludb")
    _write("| Readings | " + " | ".join(f"x{factor:g}" for factor in FACTORS) + " |")
    _write("|---" * (len(FACTORS) + 1) + "|")
    for given in parser.parse_args().databases:
        name, _, directory = given.partition("=")
        counts = dict.fromkeys(FACTORS, (0, 0))
        for signal_mv, fs in read_stretches(name, Path(directory)):
            for factor in FACTORS:
                if MIN_FS_HZ <= fs * factor <= MAX_FS_HZ:
                    passed, total = counts[factor]
                    is_passed = passes(signal_mv, fs * factor)
                    counts[factor] = (passed + is_passed, total + 1)
        cells = [f"{passed} of {total}" if total else "-" for passed, total in counts.values()]
        _write(f"| {name} | " + " | ".join(cells) + " |")


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def read_stretches(name: str, directory: Path) -> Iterator[tuple[NDArray[np.float32], float]]:
    """Read the stretches of a database, with their sampling rate."""
    if name == "ludb":
        records = [str(number) for number in range(1, LUDB_SUBJECTS + 1)]
    elif name == "mitdb":
        records = list(DS1)
    else:
        # The limits were chosen on these readings, so the test part must not be among them.
        records = [name for name, role in SVDB.roles.items() if role is Role.DEVELOPMENT]
    for record in records:
        opened = open_recording(directory / f"{record}.hea")
        lead = choose_lead(opened.leads)
        signal = np.nan_to_num(np.concatenate(list(opened.blocks(lead))))
        if name == "ludb":
            yield signal, lead.fs
            continue
        for start_s in STARTS_S:
            yield signal[round(start_s * lead.fs) : round((start_s + STRETCH_S) * lead.fs)], lead.fs


def passes(signal_mv: NDArray[np.float32], fs: float) -> bool:
    """Return whether a signal is neither rejected nor doubted at a rate."""
    try:
        prepared = prepare_beats(signal_mv, fs=fs)
        require_readable(prepared)
    except (InvalidSignalError, UnreadableSignalError):
        return False
    return explain_rate(prepared) is None


if __name__ == "__main__":
    main()
