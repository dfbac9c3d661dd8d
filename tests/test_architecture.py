"""Who may import whom: the directions and doors of the design, read from the source.

import-linter holds the same rules in ``make lint``; this reads every import statement itself, so
it needs no installed package and sees imports inside functions.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ORDER = (
    "errors annotations records filtering wfdb_format edf_format csv_headings recording_files "
    "archives signal_file noise patients simulator beat_verifier detection quality flutter "
    "asystole pacing findings beats preprocessing datasets balancing cnn calibration training "
    "rule_guard shape_vote bundle rhythm heart_rate morphology risk evaluation bootstrap "
    "peak_scoring run_scoring cross_validation classifier long_recordings recording_summary "
    "beat_file fhir drawing recording_charts recording_report html_report pdf_report "
    "recording_analysis golden monitoring promotion comparison live_performance drift "
    "prediction_rows prediction_log settings api_keys code_hash releases"
).split()
"""The modules of ecg_lib; each imports only those before it."""

IMPURE = {"prediction_log", "settings"}

PLATFORM = {"prefect", "mlflow", "bentoml", "optuna", "evidently"}

EVERYWHERE = {"numpy", "scipy", "pyarrow"}

DOORS = {
    "records": {"wfdb"},
    "balancing": {"imblearn"},
    "cnn": {"keras", "tensorflow"},
    "training": {"keras", "tensorflow"},
    "classifier": {"onnxruntime"},
    "pdf_report": {"reportlab"},
    "prediction_log": {"orjson", "sqlalchemy"},
    "settings": {"pydantic", "pydantic_settings"},
    # Borders, where JSON from a disk is checked.
    "bundle": {"pydantic"},
    "releases": {"pydantic"},
}
"""What a module of ecg_lib may import besides the standard library and EVERYWHERE."""

SERVING = ("classifier", "golden", "monitoring", "prediction_log")

NOT_SERVED = PLATFORM - {"bentoml"} | {"tensorflow", "keras", "imblearn", "sklearn", "tf2onnx"}


def _imports(path: Path) -> set[str]:
    """Dotted names that a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} must import by full names, line {node.lineno}"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def _siblings(path: Path) -> set[str]:
    """Modules of ecg_lib that a file imports."""
    return {name.split(".")[1] for name in _imports(path) if name.startswith("ecg_lib.")}


def _files(package: str) -> Iterator[Path]:
    yield from sorted((ROOT / package).rglob("*.py"))


MODULES = [path for path in _files("ecg_lib") if path.name != "__init__.py"]


def test_the_order_names_every_module_once() -> None:
    assert sorted(ORDER) == sorted(path.stem for path in MODULES)
    assert {path.parent.name for path in MODULES} == {"ecg_lib"}, "ecg_lib is flat"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_imports_only_those_before_it(path: Path) -> None:
    earlier = set(ORDER[: ORDER.index(path.stem)])
    assert _siblings(path) <= earlier


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_imports_only_the_libraries_it_is_the_door_of(path: Path) -> None:
    libraries = _roots(_imports(path)) - set(sys.stdlib_module_names) - {"ecg_lib"}
    assert libraries <= EVERYWHERE | DOORS.get(path.stem, set())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_module_imports_settings_or_the_prediction_log(path: Path) -> None:
    assert not _siblings(path) & IMPURE


def test_every_door_is_used() -> None:
    """A door that is not would let a library in unnoticed."""
    for module, libraries in DOORS.items():
        assert _roots(_imports(ROOT / "ecg_lib" / f"{module}.py")) & libraries, module


def test_ecg_lib_knows_no_platform() -> None:
    for path in _files("ecg_lib"):
        assert not _roots(_imports(path)) & (PLATFORM | {"flows", "bentos"}), path.name


def test_the_package_itself_imports_nothing() -> None:
    assert _imports(ROOT / "ecg_lib" / "__init__.py") == set()


def test_flows_and_bentos_never_import_each_other() -> None:
    for package, other in (("flows", "bentos"), ("bentos", "flows")):
        for path in _files(package):
            assert other not in _roots(_imports(path)), f"{package}/{path.name}"


def test_bentos_imports_nothing_that_trains_or_orchestrates() -> None:
    for path in _files("bentos"):
        imported = _imports(path)
        assert not _roots(imported) & NOT_SERVED, path.name
        for module in ("balancing", "cnn", "training", "cross_validation"):
            assert not any(f"{name}.".startswith(f"ecg_lib.{module}.") for name in imported)


def test_the_serving_path_loads_no_training_and_no_orchestration() -> None:
    code = "; ".join([*(f"import ecg_lib.{name}" for name in SERVING), "import sys"])
    code += "; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    modules = set(done.stdout.split())
    loaded = _roots(modules)
    assert {"ecg_lib", "onnxruntime", "sqlalchemy"} <= loaded
    assert not loaded & (NOT_SERVED | {"bentoml", "pandas", "wfdb"})
    # It takes a second to load, and 40 MB.
    assert "scipy.signal" not in modules
