"""The command line as a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ecg_lib.operations.settings import Settings
from flows.local.cli import show_prediction

NOBODY = "1"
"""A port that no server has: tcpmux."""


def _run(home: Path) -> subprocess.CompletedProcess[str]:
    """Ask for a flow where no platform runs."""
    return subprocess.run(
        [sys.executable, "-c", "from flows.local.cli import main; main()", "run", "pipeline"],
        env={**os.environ, "ECG_HOME": str(home), "ECG_PREFECT_PORT": NOBODY},
        check=False,
        capture_output=True,
        text=True,
    )


def test_a_home_that_is_not_there_is_made_without_a_word(tmp_path: Path) -> None:
    done = _run(tmp_path / "a" / "b")
    assert done.returncode == 1
    assert done.stderr.startswith("error: Prefect must be running at http://127.0.0.1:")
    assert done.stderr.count("\n") == 1


def test_a_home_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = _run(tmp_path / "file" / "home")
    assert done.returncode == 1
    assert done.stderr == (
        "error: ECG_HOME must be a directory that can be written, got Not a directory\n"
    )


def test_a_demo_that_is_not_answered_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_prediction(Settings(home=tmp_path, service_port=int(NOBODY)))
    shown = capsys.readouterr().out
    assert "prediction for a simulated strip:\n  none: the service must answer at" in shown
