"""The mutants of `make mutants` change limits on both sides, and leave text alone."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def mutants() -> ModuleType:
    specification = importlib.util.spec_from_file_location("mutants", HERE / "mutants.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def _changes(mutants: ModuleType, source: str) -> list[str]:
    return [one.change for one in mutants.find_mutants("x.py", source)]


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ("LIMIT = 3\n", ["3 -> 4", "3 -> 2"]),
        ("LIMIT = 2.0\n", ["2.0 -> 2.1", "2.0 -> 1.9"]),
        ("LIMIT = 0.0\n", ["0.0 -> 1.0"]),
        ("ON = True\n", ["True -> False"]),
        ("x = a < b\n", ["a < b -> a <= b", "a < b -> a >= b"]),
        ("x = a and b\n", ["a and b -> a or b"]),
        ("x = a - b\n", ["a - b -> a + b"]),
        ("x = not a\n", ["not a -> a"]),
        ("x = min(a)\n", ["min -> max"]),
        ("send(a)\n", ["send(a) -> pass"]),
    ],
)
def test_a_place_is_changed_in_these_ways(
    mutants: ModuleType, source: str, changes: list[str]
) -> None:
    assert _changes(mutants, source) == [f"module: {change}" for change in changes]


@pytest.mark.parametrize(
    "source",
    [
        '"""1 < 2."""\n',
        "def f(x: Literal[1]) -> Literal[2]: ...\n",
        "@task(retries=3)\ndef f(): ...\n",
        'raise ValueError(f"must be {1 + 1}")\n',
        'logger.info("%s", 3)\n',
        "x = zip(a, b, strict=True)\n",
        "if TYPE_CHECKING:\n    import a\n",
    ],
)
def test_text_annotations_decorators_and_logs_are_left_alone(
    mutants: ModuleType, source: str
) -> None:
    assert _changes(mutants, source) == []


def test_defaults_of_dataclasses_and_functions_are_changed(mutants: ModuleType) -> None:
    source = "class A:\n    share: float = 0.2\n    def f(self, n=1): ...\n"
    assert _changes(mutants, source) == [
        "A: 0.2 -> 0.21000000000000002",
        "A: 0.2 -> 0.19",
        "A.f: 1 -> 2",
        "A.f: 1 -> 0",
    ]


def test_each_mutant_is_one_change_and_has_a_name_of_its_own(mutants: ModuleType) -> None:
    path = "ecg_lib/rhythm/risk.py"
    source = (ROOT / path).read_text(encoding="utf-8")
    made = list(mutants.find_mutants(path, source))
    whole = ast.unparse(ast.parse(source))
    assert len({one.name for one in made}) == len(made)
    assert whole not in {ast.unparse(one.tree) for one in made}


def test_pytest_starts_with_the_options_of_mutants(mutants: ModuleType) -> None:
    # Without xdist a hook of the conftest that only xdist knows ends pytest.
    command = [sys.executable, "-m", "pytest", "--collect-only", *mutants._PYTEST]
    command.append("tests/ecg_lib/rhythm/test_risk.py")
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_modules_and_tests_that_are_named_exist() -> None:
    settings = tomllib.loads((HERE / "mutants.toml").read_text(encoding="utf-8"))
    for path, tests in settings["modules"].items():
        assert (ROOT / path).is_file()
        assert all((ROOT / one).exists() for one in tests)


def test_a_survivor_that_is_listed_is_still_a_mutant(mutants: ModuleType) -> None:
    settings = tomllib.loads((HERE / "mutants.toml").read_text(encoding="utf-8"))
    names = {
        one.name
        for path in {one["mutant"].partition(":")[0] for one in settings.get("survivor", ())}
        for one in mutants.find_mutants(path, (ROOT / path).read_text(encoding="utf-8"))
    }
    assert {one["mutant"] for one in settings.get("survivor", ())} <= names
