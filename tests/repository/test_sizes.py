"""Files and folders are small enough to be read as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MOST_LINES = 600


@pytest.mark.parametrize("folder", ["bentos", "ecg_lib", "flows", "tests", "benchmarks", "docs"])
def test_no_file_of_python_is_longer_than_600_lines(folder: str) -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    assert lengths
    assert {path: n for path, n in lengths.items() if n > MOST_LINES} == {}
