"""The HTML of the pages below ``/ops``, which share their head and header bar."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final, Literal

from ecg_lib.records.documents.pages import write_html

_TEMPLATES: Final = Path(__file__).with_name("ops")


@cache
def write_ops_page(name: Literal["cockpit", "review", "rollout"]) -> str:
    """Write a page, which holds no data: its script asks for it with the key of the user."""
    root = "./" if name == "cockpit" else "../"
    return write_html(_TEMPLATES / f"{name}.html.jinja", {"name": name, "root": root})
