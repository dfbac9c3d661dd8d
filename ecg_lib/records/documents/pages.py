"""Write HTML pages from templates; the only door to Jinja."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def write_html(
    template: Path,
    values: Mapping[str, Any],
    *,
    filters: Mapping[str, Callable[..., str]] | None = None,
) -> str:
    """Fill a template; values are escaped, and one that is missing is an error.

    Parameters
    ----------
    template : Path
        File of the template; it may include others of its directory.
    values : mapping
        Values by name.
    filters : mapping, optional
        Functions that format values, by name.

    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(template.name).render(**values)
