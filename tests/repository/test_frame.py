"""The frame of the repository: locks, caps, make targets and the content of a bento."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from flows.doors.bento_store import PACKED

ROOT = Path(__file__).parents[2]
PACKAGES = ("ecg_lib", "flows", "bentos")


def _read_versions(lock: str) -> dict[str, Version]:
    lines = (ROOT / lock).read_text().splitlines()
    pins = [re.match(r"([a-z0-9][a-z0-9._-]*)(?:\[[^]]*\])?==([^ ;\\]+)", line) for line in lines]
    return {pin[1]: Version(pin[2]) for pin in pins if pin}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _serving_files() -> set[Path]:
    """Files of bentos, and those of ecg_lib that they import, directly or not."""
    todo = list((ROOT / "bentos").rglob("*.py"))
    found = set(todo)
    while todo:
        for name in _imports(todo.pop()):
            parts = name.split(".")
            path = ROOT.joinpath(*parts[:2]).with_suffix(".py")
            if parts[0] in PACKAGES and path.exists() and path not in found:
                found.add(path)
                todo.append(path)
    return found


@pytest.mark.parametrize(
    ("package", "cap"), [("pandas", "3.1"), ("fastapi", "0.151"), ("sqlalchemy", "2.1")]
)
@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-serving.lock"])
def test_packages_that_break_others_in_silence_stay_below_their_caps(
    lock: str, package: str, cap: str
) -> None:
    assert _read_versions(lock)[package] < Version(cap)


def test_both_locks_have_the_same_versions() -> None:
    everything, serving = map(_read_versions, ("requirements.lock", "requirements-serving.lock"))
    assert serving
    assert {name: everything.get(name) for name in serving} == serving


def test_fuzzing_changes_no_version_of_what_it_fuzzes() -> None:
    everything, fuzzing = map(_read_versions, ("requirements.lock", "requirements-fuzz.lock"))
    assert {"atheris", "schemathesis"} <= set(fuzzing)
    shared = set(fuzzing) & set(everything)
    assert {name: fuzzing[name] for name in shared} == {name: everything[name] for name in shared}


@pytest.mark.parametrize(
    "lock",
    [
        "requirements.lock",
        "requirements-serving.lock",
        "requirements-fuzz.lock",
        "requirements-docs.lock",
        "requirements-kernels.lock",
    ],
)
def test_locks_have_hashes_and_no_addresses_or_paths(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert " @ " not in text
    assert not re.search(r"(^|\s)/\w", text)
    pins = re.findall(r"^[a-z0-9].*?(?=^[a-z0-9]|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    assert [pin.split()[0] for pin in pins if "--hash=sha256:" not in pin] == []


def test_the_lock_holds_what_pyproject_asks_for_and_what_builds_it() -> None:
    locked = _read_versions("requirements.lock")
    assert {"hatchling", "editables", "uv", "pytest", "ruff", "mypy"} <= set(locked)
    # One of the two, by the machine.
    assert {"tensorflow", "tensorflow-cpu"} <= set(locked)


def test_the_serving_lock_has_what_the_service_imports() -> None:
    locked = _read_versions("requirements-serving.lock")
    distributions = packages_distributions()
    imported = {name.split(".")[0] for path in _serving_files() for name in _imports(path)}
    foreign = imported - set(sys.stdlib_module_names) - set(PACKAGES)
    missing = {
        name
        for name in foreign
        if not any(canonicalize_name(one) in locked for one in distributions[name])
    }
    assert missing == set()


def test_a_worker_starts_with_what_the_serving_lock_has() -> None:
    """Also what a library imports of others: uvicorn's parser is a library of its own."""
    locked = _read_versions("requirements-serving.lock")
    left_out = {
        name
        for name, distributions in packages_distributions().items()
        if not any(canonicalize_name(one) in locked for one in distributions)
    } - set(PACKAGES)
    start = (
        "import sys\n"
        f"sys.modules |= dict.fromkeys({sorted(left_out)!r})\n"
        "import bentos.host, bentos.worker, uvloop\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", start], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("package", ["tensorflow", "tensorflow-cpu", "keras", "mlflow", "prefect"])
def test_the_serving_lock_has_nothing_that_trains_or_orchestrates(package: str) -> None:
    assert package not in _read_versions("requirements-serving.lock")


def test_no_file_of_flows_is_named_like_a_library() -> None:
    # Prefect puts flows/ first on sys.path.
    names = {path.stem for path in (ROOT / "flows").glob("*.py")} - {"__init__"}
    assert names & (set(packages_distributions()) | set(sys.stdlib_module_names)) == set()


def test_a_bento_packs_the_locks_of_nothing_below_the_root() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of BentoML's own imports
        from bentoml._internal.bento.build_config import BentoPathSpec  # noqa: PLC0415  see above

        specification = BentoPathSpec(list(PACKED), [], str(ROOT / "bentos"))
    assert specification.includes("requirements-serving.lock")
    assert specification.includes("bentos/routes/app.py")
    for stray in (
        "var/bentoml/bentos/ecg/x/src/requirements-serving.lock",
        "var/x/bentos/routes/app.py",
    ):
        assert not specification.includes(stray)


def test_make_alone_says_what_can_be_made() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S607
    targets = "setup run down test check lint docs mutants bench fuzz soak lock format clean"
    for target in targets.split():
        assert f"make {target}\t" in shown
