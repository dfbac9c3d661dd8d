"""The contracts of pyproject.toml on imports, and what they cannot express."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent

OWN = ("bentos", "ecg_lib", "flows")

EVERYWHERE = {"numpy", "scipy", "pyarrow"}

SERVING = (
    "classifier.beat_classifier",
    "classifier.golden",
    "operations.drift.observation",
    "operations.drift.traffic_log",
    "operations.prediction_log",
)

NOT_SERVED = {"evidently", "imblearn", "keras", "mlflow", "optuna", "prefect", "sklearn"}
NOT_SERVED |= {"bentoml", "pandas", "tensorflow", "tf2onnx", "wfdb"}


def _contracts() -> dict[str, dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {one["id"]: one for one in settings["tool"]["importlinter"]["contracts"]}


def _imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} must import by full names, line {node.lineno}"
            assert node.module is not None
            yield node.module


def test_contracts_are_kept() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Contracts: {len(_contracts())} kept, 0 broken." in done.stdout


@pytest.mark.parametrize("package", OWN)
def test_a_library_that_is_imported_has_its_doors_in_the_contract(package: str) -> None:
    known = EVERYWHERE | set(_contracts()["doors"]["forbidden_modules"]) | set(OWN)
    for path in sorted((ROOT / package).rglob("*.py")):
        imported = {name.split(".")[0] for name in _imports(path)}
        assert imported <= known | set(sys.stdlib_module_names), path.name


def test_what_is_imported_is_asked_for() -> None:
    """A library that only another one brings along can be gone with its next version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["scale"]]
    asked = {canonicalize_name(Requirement(line).name) for line in lines}
    # Their versions are chosen by the package that they are a part of.
    asked |= {"keras", "pydantic-core"}
    imported = {
        name.split(".")[0]
        for package in OWN
        for path in (ROOT / package).rglob("*.py")
        for name in _imports(path)
    }
    distributions = packages_distributions()
    missing = {
        name
        for name in imported - set(sys.stdlib_module_names) - set(OWN)
        if not any(canonicalize_name(one) in asked for one in distributions[name])
    }
    assert missing == set()


def _children(folder: Path) -> list[str]:
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.name not in {"__pycache__", "__init__.py", "py.typed"}
        and (path.suffix == ".py" or path.is_dir())
    )


@pytest.mark.parametrize("package", OWN)
def test_no_folder_has_more_than_nine_children(package: str) -> None:
    folders = [ROOT / package, *(one.parent for one in (ROOT / package).rglob("__init__.py"))]
    crowded = {
        str(folder.relative_to(ROOT)): len(_children(folder))
        for folder in folders
        if len(_children(folder)) > 9
    }
    assert crowded == {}


def test_packages_import_nothing_by_themselves() -> None:
    for path in (ROOT / "ecg_lib").rglob("__init__.py"):
        assert list(_imports(path)) == [], path


def test_the_serving_path_loads_no_training_and_no_orchestration() -> None:
    code = "; ".join([*(f"import ecg_lib.{name}" for name in SERVING), "import sys"])
    code += "; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    modules = set(done.stdout.split())
    loaded = {name.split(".")[0] for name in modules}
    assert {"ecg_lib", "onnxruntime", "sqlalchemy"} <= loaded
    assert not loaded & NOT_SERVED
    # It takes a second to load, and 40 MB.
    assert "scipy.signal" not in modules


def test_processes_that_prepare_records_load_neither_prefect_nor_scipy() -> None:
    """Each takes a second or two of their start, of the seven that 48 records take."""
    code = "import sys, flows.data.records.preparation, ecg_lib.records.record; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"prefect", "scipy.signal", "tensorflow", "mlflow"} & set(done.stdout.split())
