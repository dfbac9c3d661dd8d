"""Measure what the limit of runs of V rejects, chosen without each person in turn.

Reads the out-of-fold predictions of the bundle that ships: DS1 and svdb development, whole records,
with the R-peak detector as it ships. Prints how many false and true runs are reported.
"""

from __future__ import annotations

import sys
from typing import Final

import numpy as np

from ecg_lib.classifier.bundle import Bundle, read_bundle
from ecg_lib.records.annotations import DS1
from ecg_lib.training.out_of_fold import RecordCalls, choose_run_threshold, judge_runs
from ecg_lib.training.views import WHOLE
from flows.release.load_released import REFERENCE

_FS_HZ: Final = 360.0
_SVDB_FS_HZ: Final = 128.0


def main() -> None:
    """Choose without each person, and count their runs."""
    bundle = read_bundle(REFERENCE)
    threshold = bundle.config.threshold
    people = _read_calls(bundle)
    kept, of_true = [], []
    for person, mine in people.items():
        others = [one for name, calls in people.items() if name != person for one in calls]
        limit = choose_run_threshold(others, threshold=threshold)
        means, is_true = judge_runs(mine, threshold=threshold)
        kept.append(means >= limit)
        of_true.append(is_true)
    is_kept, is_true = np.concatenate(kept), np.concatenate(of_true)
    for word, runs in (("false", ~is_true), ("true", is_true)):
        sys.stdout.write(f"{word} runs: {runs.sum()}, reported {(runs & is_kept).sum()}\n")


def _read_calls(bundle: Bundle) -> dict[str, list[RecordCalls]]:
    """Read the predictions of each record, by person."""
    table = bundle.read_out_of_fold().to_pandas()
    whole = table[table["view"] == str(WHOLE)].sort_values(["record", "position"])
    people: dict[str, list[RecordCalls]] = {}
    for (person, record), beats in whole.groupby(["subject", "record"]):
        calls = RecordCalls(
            positions=beats["position"].to_numpy(),
            is_readable=beats["is_readable"].to_numpy(),
            is_v=beats["is_v"].to_numpy(),
            probability_v=beats["probability_v"].to_numpy(),
            label=beats["label"].to_numpy().astype(np.str_),
            fs=_FS_HZ if record in DS1 else _SVDB_FS_HZ,
            database="mitdb" if record in DS1 else "svdb",
        )
        people.setdefault(str(person), []).append(calls)
    return people


if __name__ == "__main__":
    main()
