"""What a dataset version depends on."""

from __future__ import annotations

import ast
from pathlib import Path

import ecg_lib
from flows.data.dataset_versions import _PREPARING, _TRAINING

ROOT = Path(ecg_lib.__file__).parent


def _folders_needed_by(name: str) -> set[str]:
    """The folders of ecg_lib that a folder imports from, and those that these import from."""
    found, waiting = set(), [name]
    while waiting:
        folder = waiting.pop()
        if folder in found or not (ROOT / folder).is_dir():
            continue
        found.add(folder)
        for path in (ROOT / folder).rglob("*.py"):
            waiting += [
                node.module.split(".")[1]
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ecg_lib.")
            ]
    return found


def test_records_are_prepared_again_when_any_code_that_makes_beats_changes() -> None:
    assert set(_PREPARING) >= _folders_needed_by("signal_path")


def test_a_sweep_is_another_when_any_code_that_trains_changes() -> None:
    assert set(_PREPARING + _TRAINING) == _folders_needed_by("training")
