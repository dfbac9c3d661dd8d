"""Drawings as values: shapes in millimetres, for whoever writes them as SVG or PDF.

A drawing is made once and is the same on the page and on paper; ECG paper has its true scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Colour(StrEnum):
    """The few colours of a report."""

    INK = "#1b2430"
    SOFT = "#5b6776"
    LINE = "#d9d3cc"
    PAPER = "#fff8f6"
    PAPER_THIN = "#f7d9d3"
    PAPER_THICK = "#eeb0a6"
    RED = "#b3261e"
    BLUE = "#2a5d9f"


class Anchor(StrEnum):
    """What of a text is at its place."""

    START = "start"
    MIDDLE = "middle"
    END = "end"


class Path(NamedTuple):
    """Lines from point to point."""

    points: NDArray[np.float64]
    """Shape ``(n_points, 2)``, millimetres from the top left."""
    colour: Colour
    width: float


class Box(NamedTuple):
    """A filled rectangle."""

    left: float
    top: float
    width: float
    height: float
    colour: Colour


class Text(NamedTuple):
    """A line of text; the place is on its base line."""

    left: float
    base: float
    text: str
    size: float = 2.6
    colour: Colour = Colour.INK
    anchor: Anchor = Anchor.START
    is_bold: bool = False


Shape = Path | Box | Text


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawing:
    """Shapes on an area, in the order in which they are drawn."""

    width: float
    height: float
    shapes: tuple[Shape, ...]
    title: str
    """What it shows, for those who cannot see it."""


def line(
    left: float, top: float, right: float, bottom: float, colour: Colour, width: float = 0.15
) -> Path:
    """Make a straight line."""
    return Path(np.array([[left, top], [right, bottom]]), colour, width)


def to_svg(drawing: Drawing) -> str:
    """Write a drawing as an SVG element of its true size."""
    shapes = "".join(map(_write_shape, drawing.shapes))
    size = f'width="{drawing.width:g}mm" height="{drawing.height:g}mm"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
        f'viewBox="0 0 {drawing.width:g} {drawing.height:g}" role="img" '
        f'aria-label="{escape(drawing.title)}" font-family="Helvetica,Arial,sans-serif">'
        f"{shapes}</svg>"
    )


def _write_shape(shape: Shape) -> str:
    if isinstance(shape, Path):
        points = " ".join(f"{x:.2f},{y:.2f}" for x, y in shape.points.tolist())
        return (
            f'<polyline points="{points}" fill="none" stroke="{shape.colour}" '
            f'stroke-width="{shape.width:g}" stroke-linejoin="round"/>'
        )
    if isinstance(shape, Box):
        return (
            f'<rect x="{shape.left:.2f}" y="{shape.top:.2f}" width="{shape.width:.2f}" '
            f'height="{shape.height:.2f}" fill="{shape.colour}"/>'
        )
    weight = ' font-weight="bold"' if shape.is_bold else ""
    return (
        f'<text x="{shape.left:.2f}" y="{shape.base:.2f}" font-size="{shape.size:g}" '
        f'fill="{shape.colour}" text-anchor="{shape.anchor}"{weight}>{escape(shape.text)}</text>'
    )
