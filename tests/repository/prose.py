"""Check the English of documents, docstrings, comments, messages and test names: ``make lint``.

Rules and files are in ``prose.toml``. A line that holds
``prose: ok`` is left alone.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]

Passage = tuple[int, str]
"""The line on which a text begins, and the text."""

_SPEAKS: Final = frozenset(
    {"debug", "info", "warning", "error", "exception", "echo", "secho", "_say", "print"}
)
_CODE: Final = re.compile(
    r"``[^`]+``|`[^`]+`|https?://\S+|\{[^}]*\}|^ *>>>.*$|(?<=\])\([^)\s]*\)", re.MULTILINE
)
_FENCE: Final = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_HTML: Final = re.compile(r"<!--.*?-->|<[^>\n]+>", re.DOTALL)
_JS_COMMENT: Final = re.compile(r"(?<![:'\"`])//(?P<line>[^\n]*)|/\*(?P<block>.*?)\*/", re.DOTALL)
_DIRECTIVE: Final = re.compile(
    r"^#:?\s?((noqa|type|pragma|fmt|ruff|mypy):\s?\S*(\s?[A-Z]+\d+,?)*)?"
)
_BLANK: Final = "x"
"""What stands for code: no rule knows this word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A pattern that is to be written otherwise."""

    pattern: re.Pattern[str]
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A place where a rule matches."""

    path: str
    line: int
    words: str
    advice: str


def _blank(found: re.Match[str]) -> str:
    return "\n" * found[0].count("\n")


def read_markdown(text: str) -> Iterator[Passage]:
    """Read the paragraphs of a document, without code blocks and comments."""
    text = _HTML.sub(_blank, _FENCE.sub(_blank, text))
    line = 1
    for paragraph in re.split(r"(\n(?:[ \t]*\n)+)", text):
        if paragraph.strip():
            yield line, paragraph
        line += paragraph.count("\n")


def read_python(text: str) -> Iterator[Passage]:
    """Read docstrings, comments and messages."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        # Docstrings of modules, classes, functions and attributes are strings that stand alone.
        if isinstance(node, ast.Expr) and _is_text(node.value):
            yield node.lineno, node.value.value  # type: ignore[attr-defined]
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name.removeprefix("test_").replace("_", " ")
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield from _read_arguments(node.exc)
        elif isinstance(node, ast.Call) and _name(node.func) in _SPEAKS:
            yield from _read_arguments(node)
        elif (isinstance(node, ast.Assign) and _name(node.targets[0]) in {"msg", "message"}) or (
            isinstance(node, ast.keyword) and node.arg in {"help", "description"}
        ):
            yield from _read_strings(node.value)
    block: list[str] = []
    begin = last = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        if block and token.start[0] != last + 1:
            yield begin, "\n".join(block)
            block = []
        begin = begin if block else token.start[0]
        last = token.start[0]
        block.append(_DIRECTIVE.sub("", token.string))
    if block:
        yield begin, "\n".join(block)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _name(node: ast.AST) -> str:
    return getattr(node, "attr", None) or getattr(node, "id", "")


def _read_arguments(call: ast.Call) -> Iterator[Passage]:
    for argument in call.args:
        yield from _read_strings(argument)


def _read_strings(node: ast.AST) -> Iterator[Passage]:
    """Read a string, or an f-string with what is filled in left out."""
    if isinstance(node, ast.JoinedStr):
        yield node.lineno, "".join(v.value if _is_text(v) else _BLANK for v in node.values)
    elif _is_text(node):
        yield node.lineno, node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from _read_strings(child)


def read_javascript(text: str) -> Iterator[Passage]:
    """Read comments."""
    for found in _JS_COMMENT.finditer(text):
        yield text.count("\n", 0, found.start()) + 1, found["line"] or found["block"] or ""


READERS: Final = {"markdown": read_markdown, "python": read_python, "javascript": read_javascript}


def read_rules(settings: dict[str, Any]) -> list[Rule]:
    """Compile the rules of ``prose.toml``; ``starts`` apply at the start of a passage alone."""
    flags = re.IGNORECASE
    words = [
        Rule(pattern=re.compile(rf"\b(?:{pattern})(?!\w)", flags), advice=advice)
        for pattern, advice in settings["words"].items()
    ]
    starts = [
        Rule(pattern=re.compile(rf"\A\s*(?:{pattern})(?!\w)"), advice=advice)
        for pattern, advice in settings["starts"].items()
    ]
    return words + starts


def check(path: str, text: str, kind: str, rules: list[Rule]) -> list[Finding]:
    """Apply the rules to the prose of one file."""
    lines = text.split("\n")
    found = set()
    for begin, raw in READERS[kind](text):
        passage = _CODE.sub(_BLANK, raw)
        # One space for a line break, so that words are found across it; lines are counted in raw.
        joined = re.sub(r"[ \t]*\n[ \t]*", "\n", passage)
        for rule in rules:
            for match in rule.pattern.finditer(joined.replace("\n", " ")):
                line = min(begin + joined.count("\n", 0, match.start()), len(lines))
                if "prose: ok" not in lines[line - 1]:
                    found.add((line, match[0].strip(), rule.advice))
    return [
        Finding(path=path, line=line, words=words, advice=advice)
        for line, words, advice in sorted(found)
    ]


def main() -> int:
    """Print the findings as ``file:line: "words": advice``; return 1 if there are any."""
    settings = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    rules = read_rules(settings)
    n_found = 0
    for kind, patterns in settings["files"].items():
        for path in sorted({p for pattern in patterns for p in ROOT.glob(pattern)}):
            name = path.relative_to(ROOT).as_posix()
            if name in settings["excluded"]:
                continue
            for finding in check(name, path.read_text(encoding="utf-8"), kind, rules):
                n_found += 1
                print(f'{name}:{finding.line}: "{finding.words}": {finding.advice}')
    return int(n_found > 0)


if __name__ == "__main__":
    sys.exit(main())
