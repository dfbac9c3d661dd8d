"""Artifacts of flow runs in Markdown: text that is escaped, and a failure that fails no run."""

from __future__ import annotations

import logging
import re
from typing import Final

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import MissingContextError, PrefectException

PREFECT_ERRORS: Final = (httpx.HTTPError, PrefectException, RuntimeError)
"""Errors of a call to Prefect; a server that does not answer is a RuntimeError."""

_MARKUP: Final = re.compile(r"[\\\[\]!|<>*_`~#&]|^[-+=]")


def escape_markdown(text: str) -> str:
    """Take the meaning from characters of Markdown and HTML, and write the text on one line."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def shorten(text: str, *, longest: int) -> str:
    """Cut a long text, with an ellipsis at its end.

    >>> shorten("a long name", longest=8), shorten("a name", longest=6)
    ('a long…', 'a name')

    """
    return text if len(text) <= longest else f"{text[: longest - 1].rstrip()}…"


def show_artifact(markdown: str, *, key: str, description: str | None = None) -> None:
    """Show an artifact of the run that calls this; a failure is logged and changes nothing.

    Args:
        markdown: What is shown.
        key: Key of the artifact.
        description: Its title.
    """
    try:
        create_markdown_artifact(markdown, key=key, description=description)
    except PREFECT_ERRORS as error:
        find_logger().warning(
            "the artifact %s is not shown: %s", key, str(error) or type(error).__name__
        )


def find_logger() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """Find the logger of the run, or one of this module outside of a run."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger(__name__)
