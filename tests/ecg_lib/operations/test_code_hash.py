"""The hash of the serving code: it moves with the code and with nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ecg_lib.operations.releases import hash_code


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "src"
    for name, text in {
        "bentos/__init__.py": "",
        "bentos/viewer/index.html": "<p>",
        "ecg_lib/a.py": "A = 1\n",
        "ecg_lib/b.py": "B = 2\n",
        "flows/pipeline.py": "C = 3\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_copy_elsewhere_has_the_same_hash(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "elsewhere")
    assert hash_code(tmp_path / "elsewhere") == hash_code(tree)
    assert len(hash_code(tree)) == 64


def _swap(root: Path) -> None:
    (root / "ecg_lib/a.py").write_text("B = 2\n")
    (root / "ecg_lib/b.py").write_text("A = 1\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "ecg_lib/a.py").write_text("A = 2\n"),
        lambda root: (root / "bentos/viewer/index.html").write_text("<b>"),
        lambda root: (root / "ecg_lib/a.py").rename(root / "ecg_lib/c.py"),
        lambda root: (root / "ecg_lib/a.py").rename(root / "bentos/a.py"),
        lambda root: (root / "ecg_lib/b.py").unlink(),
        lambda root: (root / "bentos/new.py").write_text(""),
        _swap,
    ],
)
def test_any_change_of_the_serving_code_changes_the_hash(
    tree: Path, change: Callable[[Path], object]
) -> None:
    before = hash_code(tree)
    change(tree)
    assert hash_code(tree) != before


def test_caches_and_other_packages_do_not_count(tree: Path) -> None:
    before = hash_code(tree)
    (tree / "ecg_lib/__pycache__").mkdir()
    (tree / "ecg_lib/__pycache__/a.cpython-311.pyc").write_bytes(b"x")
    (tree / "flows/pipeline.py").write_text("C = 4\n")
    (tree / "README.md").write_text("x")
    assert hash_code(tree) == before


@pytest.mark.parametrize("package", ["bentos", "ecg_lib"])
def test_a_missing_package_is_named(tree: Path, package: str) -> None:
    shutil.rmtree(tree / package)
    with pytest.raises(FileNotFoundError, match=f"{package} is missing"):
        hash_code(tree)


def test_a_checkout_below_a_cache_directory_has_a_hash_of_its_content(
    tree: Path, tmp_path: Path
) -> None:
    below = tmp_path / "__pycache__" / "src"
    shutil.copytree(tree, below)
    assert hash_code(below) == hash_code(tree)
