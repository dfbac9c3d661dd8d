"""Change the deciding code in small ways and check that its tests fail: ``make mutants``.

Each change is tried in a forked process that loads the changed module from memory, so no file is
touched and the libraries are imported once. Limits are changed on both sides, constants outside
functions and defaults of dataclasses included, which `mutmut` and `cosmic-ray` leave alone
(docs/decisions/0005-mutation-testing.md). Text is not changed: neither strings, nor what is raised
or logged; nor is ``strict=True`` of ``zip``, which changes nothing while the code is right, nor
``if TYPE_CHECKING``, whose imports only type checkers read.

The modules, their tests and the survivors that were judged are in ``mutants.toml``.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import signal
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]
GOAL: Final = 0.97
"""The share of mutants that tests must kill, of those that change what the code does."""

# Libraries of the tests, imported once before the forks. None of them may start a thread.
_LIBRARIES: Final = (
    "numpy", "scipy.signal", "scipy.stats", "pyarrow.parquet", "pydantic_settings", "onnx",
    "onnxruntime", "wfdb",
)  # fmt: skip
_LIBRARIES_OF_FLOWS: Final = (
    "dulwich.porcelain", "httpx", "sqlalchemy", "prefect", "prefect.testing.utilities",
)  # fmt: skip
_PYTEST: Final = (
    "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
    # Of plugins that libraries have imported before pytest could rewrite them.
    "-W", "ignore::pytest.PytestAssertRewriteWarning",
)  # fmt: skip
_MARKS: Final = ("not slow and not data", "not data")
"""The tests that are run; the slow ones only for a module that has no others."""

_COMPARED: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_CALCULATED: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_OPPOSITES: Final = (
    ("min", "max"),
    ("minimum", "maximum"),
    ("argmin", "argmax"),
    ("any", "all"),
    ("floor", "ceil"),
    ("mean", "median"),
)
_NAMES: Final = {
    **dict(_OPPOSITES[:-1]),
    **{two: one for one, two in _OPPOSITES[:-1]},
    "median": "mean",
}
_LOGS: Final = frozenset({"debug", "info", "warning", "error", "exception"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One changed module."""

    path: str
    line: int
    change: str
    """Scope, text before and text after, numbered where a scope has the same change twice."""
    source: str
    site: int
    form: int

    @property
    def name(self) -> str:
        """The name by which ``mutants.toml`` lists a survivor: it does not depend on the line."""
        return f"{self.path}: {self.change}"

    @property
    def tree(self) -> ast.Module:
        """The changed module, made when it is asked for: the processes of the tests ask."""
        tree = ast.parse(self.source)
        node, _ = list(_find_sites(tree, ""))[self.site]
        changed: ast.Module = _Replace(node, list(_change(node))[self.form]).visit(tree)
        return ast.fix_missing_locations(changed)


def _find_sites(node: ast.AST, scope: str) -> Iterator[tuple[ast.AST, str]]:
    """Walk what can be changed: no annotations, decorators, docstrings or messages."""
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "returns", "decorator_list", "type_params"}:
            continue
        if isinstance(node, ast.keyword) and node.arg == "strict":
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.Raise) or _is_message(child) or _is_of_types(child):
                continue
            inner = scope
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{scope}.{child.name}" if scope else child.name
            yield child, inner
            yield from _find_sites(child, inner)


def _is_message(node: ast.AST) -> bool:
    if not isinstance(node, ast.Expr):
        return isinstance(node, ast.JoinedStr)
    if isinstance(node.value, ast.Constant):
        return True
    call = node.value
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in _LOGS
    )


def _is_of_types(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def _change_constant(value: object) -> list[object]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [1.0] if value == 0 else [value * 1.05, value * 0.95]
    return []


def _change(node: Any) -> Iterator[Any]:  # noqa: ANN401  nodes have no common fields
    """Make the changed forms of a node."""
    if isinstance(node, ast.Constant):
        yield from (ast.Constant(value) for value in _change_constant(node.value))
    elif isinstance(node, ast.Compare):
        for at, operator in enumerate(node.ops):
            for other in _COMPARED[type(operator)]:
                changed = copy.deepcopy(node)
                changed.ops[at] = other()
                yield changed
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield ast.BoolOp(other, node.values)
    elif isinstance(node, ast.BinOp) and type(node.op) in _CALCULATED:
        yield ast.BinOp(node.left, _CALCULATED[type(node.op)](), node.right)
    elif isinstance(node, ast.AugAssign) and type(node.op) in _CALCULATED:
        yield ast.AugAssign(node.target, _CALCULATED[type(node.op)](), node.value)
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield node.operand
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        if not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant):
            changed = copy.copy(node)
            changed.test = ast.UnaryOp(ast.Not(), node.test)
            yield changed
    elif isinstance(node, ast.Name | ast.Attribute):
        name = node.id if isinstance(node, ast.Name) else node.attr
        if isinstance(node.ctx, ast.Load) and name in _NAMES:
            changed = copy.copy(node)
            setattr(changed, "id" if isinstance(node, ast.Name) else "attr", _NAMES[name])
            yield changed
    elif isinstance(node, ast.Break):
        yield ast.Continue()
    elif isinstance(node, ast.Continue):
        yield ast.Break()
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await):
        yield ast.Pass()


def _say(node: ast.AST) -> str:
    """Write a node on one line; of a statement its head is enough."""
    if isinstance(node, ast.If | ast.While):
        return f"{type(node).__name__.lower()} {ast.unparse(node.test)}"
    return " ".join(ast.unparse(ast.fix_missing_locations(node)).split())


class _Replace(ast.NodeTransformer):
    def __init__(self, node: ast.AST, other: ast.AST) -> None:
        self.node, self.other = node, other

    def visit(self, node: ast.AST) -> Any:  # noqa: ANN401  as the base class has it
        if node is self.node:
            return ast.copy_location(self.other, node)
        return self.generic_visit(node)


def find_mutants(path: str, source: str) -> Iterator[Mutant]:
    """Make all mutants of a module, in the order of its text."""
    seen: Counter[str] = Counter()
    for site, (node, scope) in enumerate(_find_sites(ast.parse(source), "")):
        for form, other in enumerate(_change(node)):
            change = f"{scope or 'module'}: {_say(node)} -> {_say(other)}"
            seen[change] += 1
            if seen[change] > 1:
                change += f" #{seen[change]}"
            line = node.lineno  # type: ignore[attr-defined]
            yield Mutant(path=path, line=line, change=change, source=source, site=site, form=form)


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Load one module from a changed tree."""

    def __init__(self, mutant: Mutant) -> None:
        self.name = mutant.path.removesuffix(".py").replace("/", ".")
        self.mutant = mutant

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(
            fullname, ROOT / self.mutant.path, loader=self
        )

    def exec_module(self, module: ModuleType) -> None:
        code = compile(self.mutant.tree, str(ROOT / self.mutant.path), "exec")
        exec(code, module.__dict__)  # noqa: S102


def _start(mutant: Mutant | None, tests: list[str]) -> int:
    """Run the tests, with options, in a forked process, which is the leader of its own group."""
    if child := os.fork():
        return child
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    code = 1
    with contextlib.suppress(BaseException):
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        if mutant is not None:
            sys.meta_path.insert(0, _Changed(mutant))
        code = int(pytest.main([*_PYTEST, *tests]))
    os._exit(code)


def _end(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def _check_tests(tests: list[str]) -> tuple[list[str], float]:
    """Run the tests on the code as it is; return them with options, and how long they took."""
    for marks in _MARKS:
        begin = time.monotonic()
        chosen = ["-m", marks, *tests]
        _, status = os.waitpid(_start(None, chosen), 0)
        code = os.waitstatus_to_exitcode(status)
        if code == pytest.ExitCode.OK:
            return chosen, time.monotonic() - begin
        if code != pytest.ExitCode.NO_TESTS_COLLECTED:
            break
    sys.exit(f"the tests must pass before anything is changed: pytest {' '.join(tests)}")


def find_survivors(
    mutants: list[Mutant], tests: list[str], *, jobs: int, limit_s: float
) -> Iterator[Mutant]:
    """Run the tests against each mutant, and find those that no test notices.

    A mutant that takes longer than ``limit_s`` counts as noticed: a test run would hang.
    """
    running: dict[int, tuple[Mutant, float]] = {}
    waiting = list(reversed(mutants))
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            running[_start(mutant, tests)] = mutant, time.monotonic()
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            oldest = min(begin for _, begin in running.values())
            signal.sigtimedwait({signal.SIGCHLD}, max(oldest + limit_s - time.monotonic(), 0.01))
            for late, (_, begin) in running.items():
                if time.monotonic() - begin >= limit_s:
                    _end(late)
        elif child in running:
            mutant, _ = running.pop(child)
            _end(child)  # what its tests may have left running
            if os.waitstatus_to_exitcode(status) == 0:
                yield mutant


def main() -> int:
    """Print the survivors and the score; return 1 if a survivor has no reason, or too many live."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("only", nargs="*", help="parts of paths of modules; all when left out")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--sample", type=int, help="so many of each module, drawn with a fixed seed"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--list", action="store_true", help="name the mutants and run nothing")
    arguments = parser.parse_args()
    settings = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    judged: dict[str, str] = {one["mutant"]: one["reason"] for one in settings.get("survivor", ())}

    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # it waits for the loop to take it
    chosen = {
        path: tests
        for path, tests in settings["modules"].items()
        if not arguments.only or any(part in path for part in arguments.only)
    }
    libraries = list(_LIBRARIES)
    if any(path.startswith("flows/") for path in chosen):
        libraries += _LIBRARIES_OF_FLOWS
    for library in () if arguments.list else libraries:
        importlib.import_module(library)
    gc.freeze()
    total, alive, equivalent, unexplained = 0, 0, 0, 0
    for path, tests in chosen.items():
        mutants = list(find_mutants(path, (ROOT / path).read_text(encoding="utf-8")))
        if arguments.sample is not None and arguments.sample < len(mutants):
            mutants = random.Random(arguments.seed).sample(mutants, arguments.sample)
        if arguments.list:
            print(*(mutant.name for mutant in mutants), sep="\n")
            continue
        begin = time.monotonic()
        chosen_tests, passing_s = _check_tests(tests)
        survivors = list(
            find_survivors(mutants, chosen_tests, jobs=arguments.jobs, limit_s=5 * passing_s + 20)
        )
        for mutant in survivors:
            reason = judged.get(mutant.name)
            unexplained += reason is None
            equivalent += bool(reason and reason.startswith("equivalent"))
            print(f"{mutant.path}:{mutant.line}: {mutant.change}  [{reason or 'survives'}]")
        total += len(mutants)
        alive += len(survivors)
        print(f"{path}: {len(mutants) - len(survivors)} of {len(mutants)} killed in "
              f"{time.monotonic() - begin:.0f} s", flush=True)  # fmt: skip
    if arguments.list or not total:
        return 0
    score = (total - alive) / (total - equivalent)
    print(f"{total} mutants, {total - alive} killed, {equivalent} equivalent, "
          f"{alive - equivalent} survive, {unexplained} without a reason: {score:.1%}")  # fmt: skip
    return int(unexplained > 0 or score < GOAL)


if __name__ == "__main__":
    sys.exit(main())
