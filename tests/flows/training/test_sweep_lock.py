"""Two sweeps at once, with the same parameters or with others."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ecg_lib.operations.settings import Settings
from flows.data import training_data
from flows.data.dataset_versions import DatasetVersion
from flows.data.training_data import QUICK_VIEWS
from flows.training import sweep

OPEN = """
import sys
from flows.training.workers.search_space import open_study
sys.stdin.read()
url = f"sqlite:///{sys.argv[1]}/studies.db"
study = open_study(f"sweep-{sys.argv[2]}", storage_url=url, seed=0)
study.tell(study.ask(), 0.5)
print(len(study.trials))
"""
HOLD = """
import sys
from pathlib import Path
from flows.training import sweep
assert sweep._hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_sweep_of_a_live_process_is_left_alone_and_of_a_killed_one_is_free(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "key-1"
    directory.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert not sweep._hold(directory)
        assert sweep._take_number(tmp_path, "key", after=0) == 2
        sweep._let_go(tmp_path / "key-2")
        other.kill()
        other.wait()
        assert sweep._hold(directory)
        sweep._let_go(directory)


def test_sweeps_that_start_together_make_one_set_of_tables_and_a_study_each(
    tmp_path: Path,
) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, str(tmp_path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for process in started:  # all have been imported
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    for process in started:
        out, errors = process.communicate(timeout=120)
        assert (process.returncode, out) == (0, "1\n"), errors


def test_beats_that_two_sweeps_need_are_cut_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut: list[Path] = []

    def make(_prepared: object, _plan: object, directory: Path) -> None:
        cut.append(directory)
        time.sleep(0.1)
        directory.mkdir()

    both = threading.Barrier(2)
    monkeypatch.setattr(training_data, "_make", make)
    monkeypatch.setattr(training_data, "_key", lambda *_: "key")

    def find() -> Path:
        both.wait(timeout=10)
        return training_data.find_training_data(version, QUICK_VIEWS, Settings(home=tmp_path))

    version = DatasetVersion.__new__(DatasetVersion)
    monkeypatch.setattr(DatasetVersion, "records_of", lambda *_: ())
    with ThreadPoolExecutor(2) as sweeps:
        found = {one.result() for one in [sweeps.submit(find) for _ in range(2)]}
    assert list(found) == cut
