"""Write a report as one HTML page that needs nothing from elsewhere, on screen and on paper."""

from __future__ import annotations

from html import escape
from typing import Final

from ecg_lib.recordings.report.content import (
    Block,
    Facts,
    Figure,
    Heading,
    Paragraph,
    Report,
    Table,
)
from ecg_lib.recordings.report.drawing import to_svg

_STYLE: Final = """
:root{--ink:#1b2430;--soft:#5b6776;--line:#e3ddd6;--red:#b3261e}
*{box-sizing:border-box}
body{margin:0;background:#f1eeea;color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}
main{max-width:calc(200mm + 4px);margin:8mm auto;padding:10mm;background:#fff;
border:1px solid var(--line)}
h1{font-size:23px;line-height:1.2;margin:0 0 2px}h2{font-size:16px;margin:26px 0 8px}
.soft{color:var(--soft)}p{margin:4px 0 8px}
.level{border-left:5px solid var(--soft);padding:6px 12px;margin:14px 0 18px;background:#f8f6f3}
.level b{font-size:17px}.HIGH{border-color:var(--red)}.MEDIUM{border-color:#c98a00}
.LOW{border-color:#3f7d4e}ul{margin:3px 0 0;padding-left:20px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 18px;margin:0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:3px 8px;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:600}th:first-child,td:first-child{text-align:left}
figure{margin:10px 0;overflow-x:auto;break-inside:avoid}svg{display:block;max-width:none}
footer{margin-top:26px;padding-top:8px;border-top:1px solid var(--line);color:var(--soft)}
@page{size:A4;margin:12mm 10mm}
@media print{body{background:#fff}main{margin:0;border:0;padding:0;max-width:none}}
"""


def write_html(report: Report) -> str:
    """Write the page."""
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in report.reasons)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{escape(report.title)}</title><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body><main>"
        f'<h1>{escape(report.title)}</h1><p class="soft">{escape(report.subtitle)}</p>'
        f'<div class="level {escape(report.level)}">Attention: <b>{escape(report.level)}</b>'
        f"<ul>{reasons}</ul></div>"
        f"{''.join(map(_write_block, report.blocks))}"
        f"<footer>{escape(report.notice)}</footer></main></body></html>\n"
    )


def _write_block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Paragraph(text, is_soft):
            return f"<p{' class=soft' if is_soft else ''}>{escape(text)}</p>"
        case Facts(rows):
            pairs = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
            return f"<dl>{''.join(pairs)}</dl>"
        case Table(columns, rows):
            head = "".join(f"<th>{escape(column)}</th>" for column in columns)
            body = "".join(
                f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
            )
            return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        case Figure(drawing):
            return f"<figure>{to_svg(drawing)}</figure>"
