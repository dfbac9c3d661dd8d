"""Flows that write much leave room on the disk for what must go on."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from ecg_lib.records.atomic_files import LEAST_FREE_BYTES
from flows.data.ingest_records import ingest_records
from flows.evaluation.evaluate_champion import evaluate_champion
from flows.recordings.analyze_recordings import analyze_recordings
from flows.release.package_bento import package_bento
from flows.training.reproduce_reference import reproduce_reference
from flows.training.train_sweep import train_sweep
from flows.training.workers.work_on_sweep import work_on_sweep


@pytest.mark.parametrize(
    ("flow", "arguments"),
    [
        (ingest_records, {}),
        (train_sweep, {}),
        (work_on_sweep, {}),
        (analyze_recordings, {"paths": ["r.csv"]}),
        (package_bento, {}),
        (evaluate_champion, {}),
        (reproduce_reference, {}),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
def test_a_flow_that_writes_much_does_not_begin_on_a_full_disk(
    prefect_server: None,
    tmp_path: Path,
    flow: Any,  # noqa: ANN401
    arguments: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ECG_HOME", str(tmp_path))
    usage = shutil.disk_usage(tmp_path)._replace(free=LEAST_FREE_BYTES - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"bytes of the disk of .* must be free") as raised:
        flow(**arguments)
    assert raised.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
