"""What a dataset version depends on."""

from __future__ import annotations

import ast
from pathlib import Path

import ecg_lib
from flows.dataset_versions import _PREPARING_FILES, _TRAINING_FILES

ROOT = Path(ecg_lib.__file__).parent

NOT_OF_BEATS = {"errors.py"}
"""Nothing in here changes a beat."""


def _needs(module: str) -> set[str]:
    """The files of ecg_lib that a module imports, and those that these import."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        waiting += [
            f"{node.module.removeprefix('ecg_lib.')}.py"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ecg_lib.")
        ]
    return found


def test_beats_are_prepared_again_when_any_file_that_makes_them_changes() -> None:
    data = {path.name for path in ROOT.glob("*.np*")}
    assert set(_PREPARING_FILES) == (_needs("datasets.py") | data) - NOT_OF_BEATS


def test_a_sweep_is_another_when_any_file_that_trains_changes() -> None:
    needed = _needs("cross_validation.py") - _needs("datasets.py") - NOT_OF_BEATS
    assert set(_TRAINING_FILES) == needed
