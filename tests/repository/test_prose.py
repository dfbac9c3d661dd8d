"""The prose linter finds what it is meant to find, and only that."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def prose() -> ModuleType:
    specification = importlib.util.spec_from_file_location("prose", HERE / "prose.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def _find(prose: ModuleType, text: str, kind: str) -> list[tuple[int, str]]:
    rules = prose.read_rules(tomllib.loads((HERE / "prose.toml").read_text(encoding="utf-8")))
    return [(one.line, one.words) for one in prose.check("x", text, kind, rules)]


@pytest.mark.parametrize(
    "text",
    [
        "The body is no multipart form.",
        "A bad recording costs itself.",
        "Processes that outlast their host.",
        "They hurry the others, and bury them.",
        "Workers obey the release.",
        "It is kept for ever.",
        "This strays from the standard.",
    ],
)
def test_translated_and_theatrical_english_is_found(prose: ModuleType, text: str) -> None:
    assert len(_find(prose, text, "markdown")) >= 1


@pytest.mark.parametrize(
    "text",
    [
        "There is no model yet.",
        "It is no longer served.",
        "The beats, of which three are V, are listed so that they can be read.",
        "Which of them is chosen is stated.",
        "Run `obey --hurry` in a shell.",
        "```sh\nobey\n```\nText.",
    ],
)
def test_plain_english_and_code_are_left_alone(prose: ModuleType, text: str) -> None:
    assert _find(prose, text, "markdown") == []


def test_docstrings_comments_messages_and_names_of_tests_are_read(prose: ModuleType) -> None:
    text = (
        '"""Who may import what."""\n'
        "\n"
        "# It is no error.\n"
        "def test_a_lead_is_no_unit() -> None:\n"
        '    """Say what runs."""\n'
        '    raise ValueError(f"{x} is no number")\n'
        "obey = 1\n"
    )
    assert [line for line, _ in _find(prose, text, "python")] == [1, 3, 4, 5, 6]


def test_a_finding_across_a_line_break_names_the_line_where_it_begins(prose: ModuleType) -> None:
    assert _find(prose, "One\ntwo is\nno number.\n", "markdown") == [(2, "is no number")]


def test_a_line_that_says_so_is_left_alone(prose: ModuleType) -> None:
    assert _find(prose, "# It is no error.  prose: ok\n", "python") == []


def test_comments_of_javascript_are_read_and_its_addresses_are_not(prose: ModuleType) -> None:
    text = 'const a = "http://is.no/x"; // It is no error.\n/* obey */\n'
    assert [line for line, _ in _find(prose, text, "javascript")] == [1, 2]
