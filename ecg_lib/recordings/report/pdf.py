"""Write a report as PDF, A4, with the same drawings as on the page; the only door to reportlab.

Text uses the fonts that every PDF reader has, which know Latin letters; others become question
marks.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from reportlab.lib.colors import HexColor
from reportlab.lib.units import mm
from reportlab.lib.utils import simpleSplit
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas
from reportlab.pdfgen.pathobject import PDFPathObject

from ecg_lib.recordings.report.content import (
    Block,
    Facts,
    Figure,
    Heading,
    Paragraph,
    Report,
    Table,
)
from ecg_lib.records.documents.drawing import (
    Anchor,
    Area,
    Box,
    Colour,
    Dot,
    Drawing,
    Grid,
    Path,
    Text,
)

_WIDTH: Final = 210.0
_HEIGHT: Final = 297.0
_MARGIN: Final = 15.0
_ROW: Final = 4.6
_FACTS_LEFT: Final = 58.0
_FONTS: Final = {False: "Helvetica", True: "Helvetica-Bold"}
_LEVELS: Final = {"HIGH": Colour.RED, "MEDIUM": "#c98a00", "LOW": "#3f7d4e"}


def write_pdf(report: Report) -> bytes:
    """Write the document."""
    buffer = BytesIO()
    pages = _Pages(Canvas(buffer, pagesize=(_WIDTH * mm, _HEIGHT * mm), invariant=1), report)
    pages.write_head()
    for block in report.blocks:
        pages.write(block)
    pages.finish()
    return buffer.getvalue()


class _Pages:
    """The pages, written from top to bottom; lengths in millimetres."""

    def __init__(self, canvas: Canvas, report: Report) -> None:
        self._canvas = canvas
        self._report = report
        self._top = _MARGIN
        self._page = 1
        canvas.setTitle(report.title)
        canvas.setCreator("ecg")

    def write_head(self) -> None:
        report = self._report
        self._text(_MARGIN, self._top + 5, report.title, size=6.0, is_bold=True)
        self._text(_MARGIN, self._top + 11, report.subtitle, size=3.2, colour=Colour.SOFT)
        self._top += 16
        height = 7.0 + 4.4 * len(report.reasons)
        colour = _LEVELS.get(report.level, Colour.SOFT)
        self._box(_MARGIN, self._top, _WIDTH - 2 * _MARGIN, height, "#f8f6f3")
        self._box(_MARGIN, self._top, 1.3, height, colour)
        self._text(
            _MARGIN + 4, self._top + 4.8, f"Attention: {report.level}", size=3.9, is_bold=True
        )
        for number, reason in enumerate(report.reasons):
            self._text(_MARGIN + 4, self._top + 9.4 + 4.4 * number, f"- {reason}", size=3.1)
        self._top += height + 5

    def write(self, block: Block) -> None:
        match block:
            case Heading(text):
                # Keep a heading with its first block.
                self._need(40.0)
                self._top += 4
                self._text(_MARGIN, self._top + 4, text, size=4.2, is_bold=True)
                self._top += 7.5
            case Paragraph(text, is_soft):
                self._paragraph(text, Colour.SOFT if is_soft else Colour.INK)
            case Facts(rows):
                for name, value in rows:
                    self._fact(name, value)
                self._top += 2
            case Table(columns, rows):
                self._table(columns, rows)
            case Figure(drawing):
                self._need(drawing.height + 4)
                self._draw(drawing)
                self._top += drawing.height + 4

    def finish(self) -> None:
        self._end_page()
        self._canvas.save()

    def _need(self, height: float) -> None:
        if self._top + height > _HEIGHT - _MARGIN - 6:
            self._end_page()
            self._page += 1
            self._top = _MARGIN

    def _end_page(self) -> None:
        foot = _HEIGHT - _MARGIN + 2
        self._text(_MARGIN, foot, self._report.notice, size=2.6, colour=Colour.SOFT)
        right = f"page {self._page}"
        self._text(_WIDTH - _MARGIN, foot, right, size=2.6, colour=Colour.SOFT, anchor=Anchor.END)
        self._canvas.showPage()

    def _paragraph(self, text: str, colour: Colour) -> None:
        width = (_WIDTH - 2 * _MARGIN) * mm
        for line in simpleSplit(_latin(text), "Helvetica", 3.2 * mm, width):
            self._need(_ROW)
            self._text(_MARGIN, self._top + 3.4, line, size=3.2, colour=colour)
            self._top += _ROW
        self._top += 1.5

    def _fact(self, name: str, value: str) -> None:
        width = (_WIDTH - 2 * _MARGIN - _FACTS_LEFT) * mm
        lines = simpleSplit(_latin(value), "Helvetica", 3.2 * mm, width) or [""]
        self._need(_ROW * len(lines))
        self._text(_MARGIN, self._top + 3.4, name, size=3.2, colour=Colour.SOFT)
        for line in lines:
            self._text(_MARGIN + _FACTS_LEFT, self._top + 3.4, line, size=3.2)
            self._top += _ROW

    def _table(self, columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> None:
        widths = [
            max(
                stringWidth(_latin(row[place]), "Helvetica-Bold", 3.1 * mm)
                for row in (columns, *rows)
            )
            / mm
            for place in range(len(columns))
        ]
        room = (_WIDTH - 2 * _MARGIN - sum(widths)) / len(columns)
        self._need(2 * _ROW)
        self._row(columns, widths, room, is_head=True)
        for row in rows:
            if self._top + _ROW > _HEIGHT - _MARGIN - 6:
                self._need(_ROW)
                self._row(columns, widths, room, is_head=True)
            self._row(row, widths, room)
        self._top += 2

    def _row(
        self, cells: tuple[str, ...], widths: list[float], room: float, *, is_head: bool = False
    ) -> None:
        left = _MARGIN
        colour = Colour.SOFT if is_head else Colour.INK
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            at, anchor = (left, Anchor.START) if place == 0 else (left + room + width, Anchor.END)
            self._text(
                at, self._top + 3.3, cell, size=3.1, colour=colour, anchor=anchor, is_bold=is_head
            )
            left += room + width
        self._top += _ROW
        self._canvas.setStrokeColor(HexColor(Colour.LINE))
        self._canvas.setLineWidth(0.1 * mm)
        y = (_HEIGHT - self._top) * mm
        self._canvas.line(_MARGIN * mm, y, (_WIDTH - _MARGIN) * mm, y)

    def _draw(self, drawing: Drawing) -> None:
        canvas = self._canvas
        for shape in drawing.shapes:
            match shape:
                case Path(points, colour, width, dashes):
                    canvas.setStrokeColor(HexColor(colour))
                    canvas.setLineWidth(width * mm)
                    canvas.setLineJoin(1)
                    canvas.setDash([dash * mm for dash in dashes])
                    canvas.drawPath(self._path(points))
                    canvas.setDash([])
                case Area(points, colour, opacity):
                    canvas.setFillColor(HexColor(colour), alpha=opacity)
                    canvas.drawPath(self._path(points), stroke=0, fill=1)
                    canvas.setFillAlpha(1)
                case Dot(x, y, radius, colour):
                    canvas.setFillColor(HexColor(colour))
                    centre = ((_MARGIN + x) * mm, (_HEIGHT - self._top - y) * mm)
                    canvas.circle(*centre, radius * mm, stroke=0, fill=1)
                case Grid():
                    self._grid(shape)
                case Box(left, top, width, height, colour, _):
                    self._box(_MARGIN + left, self._top + top, width, height, colour)
                case Text(left, base, text, size, colour, anchor, is_bold, _):
                    self._text(
                        _MARGIN + left,
                        self._top + base,
                        text,
                        size=size,
                        colour=colour,
                        anchor=anchor,
                        is_bold=is_bold,
                    )

    def _path(self, points: NDArray[np.float64]) -> PDFPathObject:
        path = self._canvas.beginPath()
        for number, (x, y) in enumerate(points.tolist()):
            step = path.lineTo if number else path.moveTo
            step((_MARGIN + x) * mm, (_HEIGHT - self._top - y) * mm)
        return path

    def _grid(self, grid: Grid) -> None:
        left, top = (_MARGIN + grid.left) * mm, (_HEIGHT - self._top - grid.top) * mm
        right, bottom = left + grid.width * mm, top - grid.height * mm
        across, down = grid.lines
        self._canvas.setStrokeColor(HexColor(grid.colour))
        self._canvas.setLineWidth(grid.stroke * mm)
        self._canvas.lines(
            [
                *((left + x * mm, top, left + x * mm, bottom) for x in across.tolist()),
                *((left, top - y * mm, right, top - y * mm) for y in down.tolist()),
            ]
        )

    def _box(self, left: float, top: float, width: float, height: float, colour: str) -> None:
        self._canvas.setFillColor(HexColor(colour))
        self._canvas.rect(
            left * mm, (_HEIGHT - top - height) * mm, width * mm, height * mm, stroke=0, fill=1
        )

    def _text(
        self,
        left: float,
        base: float,
        text: str,
        *,
        size: float,
        colour: str = Colour.INK,
        anchor: Anchor = Anchor.START,
        is_bold: bool = False,
    ) -> None:
        canvas = self._canvas
        canvas.setFont(_FONTS[is_bold], size * mm)
        canvas.setFillColor(HexColor(colour))
        draw = {
            Anchor.START: canvas.drawString,
            Anchor.MIDDLE: canvas.drawCentredString,
            Anchor.END: canvas.drawRightString,
        }[anchor]
        draw(left * mm, (_HEIGHT - base) * mm, _latin(text))


def _latin(text: str) -> str:
    return text.encode("latin-1", "replace").decode("latin-1")
