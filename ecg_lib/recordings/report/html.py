"""Write a report as one HTML page that needs nothing from elsewhere, on screen and on paper.

The words come from :mod:`ecg_lib.recordings.report.content`, the look from ``page.html.jinja``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ecg_lib.recordings.report.content import Report
from ecg_lib.records.documents.drawing import to_svg
from ecg_lib.records.documents.pages import write_html as fill_template

_TEMPLATE: Final = Path(__file__).with_name("page.html.jinja")


def write_html(report: Report) -> str:
    """Write the page."""
    return fill_template(_TEMPLATE, {"report": report, "to_svg": to_svg})
