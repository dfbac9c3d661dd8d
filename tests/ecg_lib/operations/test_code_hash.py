"""The hash of the serving code: it moves with the code and with nothing else."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ecg_lib.operations.releases import CodeError, check_bento_code, hash_code


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


@pytest.fixture
def bento(tree: Path) -> Path:
    shutil.rmtree(tree / "flows")
    for name in ("requirements-serving.lock", "bentofile.yaml"):
        (tree / name).write_text("")
    return tree


def test_a_bento_has_its_packages_its_lock_and_compiled_code(bento: Path) -> None:
    (bento / "bentos/__pycache__").mkdir()
    (bento / "bentos/__pycache__/a.cpython-311.pyc").write_bytes(b"x")
    # Earlier code packed the locks of other bentos that lay below the checkout.
    (bento / "var/bentoml").mkdir(parents=True)
    (bento / "var/bentoml/requirements-serving.lock").write_text("")
    check_bento_code(bento, hash_code(bento))


@pytest.mark.parametrize(
    "name",
    [
        *("sitecustomize.py", "numpy.py", "numpy/__init__.py", "numpy.so", "bentos.py"),
        *("ecg_lib/training/cnn.py", "var/requirements-serving.lock/a.py"),
    ],
)
def test_a_file_of_a_bento_that_its_hash_does_not_cover_is_named(bento: Path, name: str) -> None:
    code_hash = hash_code(bento)
    (bento / name).parent.mkdir(parents=True, exist_ok=True)
    (bento / name).write_text("")
    with pytest.raises(CodeError, match=f"must hold the code alone, it also has {name}"):
        check_bento_code(bento, code_hash)


def test_training_code_of_an_earlier_bento_is_covered_by_its_hash(bento: Path) -> None:
    (bento / "ecg_lib/training").mkdir()
    (bento / "ecg_lib/training/cnn.py").write_text("")
    code_hash = _hash_as_earlier_code(bento)
    assert code_hash != hash_code(bento)
    check_bento_code(bento, code_hash)
    (bento / "ecg_lib/training/cnn.py").write_text("changed")
    with pytest.raises(CodeError, match=f"does not have the hash {code_hash[:12]}"):
        check_bento_code(bento, code_hash)


def _hash_as_earlier_code(root: Path) -> str:
    digest = hashlib.sha256()
    for path in (*sorted((root / "bentos").rglob("*")), *sorted((root / "ecg_lib").rglob("*"))):
        if path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def test_a_bento_with_a_link_is_rejected_although_its_hash_is_the_same(
    bento: Path, tmp_path: Path
) -> None:
    code_hash = hash_code(bento)
    (bento / "ecg_lib/a").symlink_to(tmp_path)  # a package in place of a.py
    assert hash_code(bento) == code_hash
    with pytest.raises(CodeError, match="a must be a file or a directory, it is a link"):
        check_bento_code(bento, code_hash)
