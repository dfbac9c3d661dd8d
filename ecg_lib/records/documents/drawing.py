"""Drawings as values, written as SVG here and as PDF by :mod:`ecg_lib.recordings.report.pdf`.

Every written report is drawn with these shapes. A drawing has one unit of length, millimetres where
its true size matters, as that of ECG paper does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from html import escape
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Colour(StrEnum):
    """The few colours of reports, as they are on paper."""

    INK = "#1b2430"
    SOFT = "#5b6776"
    LINE = "#d9d3cc"
    PAPER = "#fff8f6"
    PAPER_THIN = "#f7d9d3"
    PAPER_THICK = "#eeb0a6"
    RED = "#b3261e"
    BLUE = "#2a5d9f"
    PALE = "#cfe0f4"
    AMBER = "#b07400"
    WHITE = "#ffffff"


THEME: Final[Mapping[Colour, str]] = MappingProxyType(
    {
        Colour.INK: "var(--ink)",
        Colour.SOFT: "var(--soft)",
        Colour.LINE: "var(--line)",
        Colour.PAPER: "var(--paper)",
        Colour.PAPER_THIN: "var(--thin)",
        Colour.PAPER_THICK: "var(--thick)",
        Colour.RED: "var(--red)",
        Colour.BLUE: "var(--accent)",
        Colour.PALE: "var(--pale)",
        Colour.AMBER: "var(--amber)",
        Colour.WHITE: "var(--card)",
    }
)
"""Variables of a page that is light or dark, by colour."""


class Anchor(StrEnum):
    """The part of a text that is at its place."""

    START = "start"
    MIDDLE = "middle"
    END = "end"


class Path(NamedTuple):
    """Lines from point to point."""

    points: NDArray[np.float64]
    """Shape ``(n_points, 2)``, from the top left."""
    colour: Colour
    width: float
    dashes: tuple[float, ...] = ()


class Area(NamedTuple):
    """A filled polygon."""

    points: NDArray[np.float64]
    colour: Colour
    opacity: float = 1.0


class Box(NamedTuple):
    """A filled rectangle."""

    left: float
    top: float
    width: float
    height: float
    colour: Colour
    hint: str = ""
    """Text that a page shows when the mouse is over it."""


class Dot(NamedTuple):
    """A filled circle."""

    x: float
    y: float
    radius: float
    colour: Colour


class Grid(NamedTuple):
    """Lines down and across a rectangle, a step apart."""

    left: float
    top: float
    width: float
    height: float
    step: float
    colour: Colour
    stroke: float

    @property
    def lines(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Places of the lines down, from the left, and of those across, from the top."""
        across = np.arange(0, self.width + self.step / 2, self.step)
        return across, np.arange(0, self.height + self.step / 2, self.step)


class Text(NamedTuple):
    """A line of text; the place is on its base line."""

    left: float
    base: float
    text: str
    size: float = 2.6
    colour: Colour = Colour.INK
    anchor: Anchor = Anchor.START
    is_bold: bool = False
    has_halo: bool = False
    """True to keep it readable over lines, on a page."""


Shape = Path | Area | Box | Dot | Grid | Text


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawing:
    """Shapes on an area, in the order in which they are drawn."""

    width: float
    height: float
    shapes: tuple[Shape, ...]
    title: str
    """Description for readers who cannot see it; empty when the text beside it says the same."""


def line(
    left: float, top: float, right: float, bottom: float, colour: Colour, width: float = 0.15
) -> Path:
    """Make a straight line."""
    return Path(np.array([[left, top], [right, bottom]]), colour, width)


def draw_paper(left: float, top: float, width: float, height: float) -> list[Shape]:
    """Draw ECG paper with squares of 1 mm and 5 mm; lengths are millimetres."""
    return [
        Box(left, top, width, height, Colour.PAPER),
        Grid(left, top, width, height, 1.0, Colour.PAPER_THIN, 0.08),
        Grid(left, top, width, height, 5.0, Colour.PAPER_THICK, 0.14),
    ]


def to_svg(drawing: Drawing) -> str:
    """Write a drawing as an SVG element of its true size in millimetres, as on paper."""
    size = f'width="{drawing.width:g}mm" height="{drawing.height:g}mm"'
    return _write(drawing, f'{size} font-family="Helvetica,Arial,sans-serif"', {})


def to_themed_svg(drawing: Drawing, *, css_class: str) -> str:
    """Write a drawing as an SVG element that takes size, font and colours from the page."""
    return _write(drawing, f'class="{css_class}"', THEME)


def _write(drawing: Drawing, attributes: str, theme: Mapping[Colour, str]) -> str:
    shapes = "".join(_write_shape(shape, theme) for shape in drawing.shapes)
    hidden = 'aria-hidden="true"'
    title = f'role="img" aria-label="{escape(drawing.title)}"' if drawing.title else hidden
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {attributes} '
        f'viewBox="0 0 {drawing.width:g} {drawing.height:g}" '
        f"{title}>{shapes}</svg>"
    )


def _write_shape(shape: Shape, theme: Mapping[Colour, str]) -> str:
    colour = theme.get(shape.colour, shape.colour.value)
    match shape:
        case Path(points, _, width, dashes):
            dashed = f' stroke-dasharray="{" ".join(f"{d:g}" for d in dashes)}"' if dashes else ""
            return (
                f'<polyline points="{_points(points)}" fill="none" stroke="{colour}" '
                f'stroke-width="{width:g}" stroke-linejoin="round"{dashed}/>'
            )
        case Area(points, _, opacity):
            faint = f' opacity="{opacity:g}"' if opacity < 1 else ""
            return f'<polygon points="{_points(points)}" fill="{colour}"{faint}/>'
        case Box(left, top, width, height, _, hint):
            rect = (
                f'<rect x="{left:.2f}" y="{top:.2f}" width="{width:.2f}" '
                f'height="{height:.2f}" fill="{colour}"'
            )
            return f"{rect}><title>{escape(hint)}</title></rect>" if hint else f"{rect}/>"
        case Dot(x, y, radius):
            return f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{radius:g}" fill="{colour}"/>'
        case Grid():
            return _write_grid(shape, colour)
        case Text():
            return _write_text(shape, colour, theme)


def _write_grid(grid: Grid, colour: str) -> str:
    across, down = grid.lines
    lines = "".join(f"M{grid.left + x:g} {grid.top:g}v{grid.height:g}" for x in across.tolist())
    lines += "".join(f"M{grid.left:g} {grid.top + y:g}h{grid.width:g}" for y in down.tolist())
    return f'<path d="{lines}" fill="none" stroke="{colour}" stroke-width="{grid.stroke:g}"/>'


def _write_text(text: Text, colour: str, theme: Mapping[Colour, str]) -> str:
    weight = ' font-weight="bold"' if text.is_bold else ""
    halo = ""
    if text.has_halo:
        behind = theme.get(Colour.WHITE, Colour.WHITE.value)
        halo = (
            f' paint-order="stroke" stroke="{behind}" stroke-width="{text.size / 4:g}" '
            'stroke-linejoin="round"'
        )
    return (
        f'<text x="{text.left:.2f}" y="{text.base:.2f}" font-size="{text.size:g}" '
        f'fill="{colour}" text-anchor="{text.anchor}"{weight}{halo}>{escape(text.text)}</text>'
    )


def _points(points: NDArray[np.float64]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points.tolist())
