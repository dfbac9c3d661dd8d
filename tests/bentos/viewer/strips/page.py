"""The page of the viewer with a strip in it."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

from ecg_lib.records.simulation.simulator import StripKind, simulate_strip

CSV = "text/csv"


def file(name: str, content: str | bytes) -> dict[str, Any]:
    body = content.encode() if isinstance(content, str) else content
    return {"name": name, "mimeType": CSV, "buffer": body}


def strip_csv(
    kind: StripKind,
    *,
    fs: float = 250.0,
    header: str = "time,MLII",
    row: str = "{time_s:.4f},{mv:.4f}",
) -> str:
    signal = simulate_strip(kind, seed=3, fs=fs).signal_mv()
    rows = (
        row.format(time_s=at / fs, mv=value, uv=value * 1000, count=round(value * 200))
        for at, value in enumerate(signal)
    )
    return f"{header}\n" + "\n".join(rows) + "\n"


def open_example(page: Page, url: str, kind: StripKind) -> None:
    page.goto(f"{url}/?example={kind.value}")
    page.locator("#summary").wait_for()


def choose(page: Page, *files: dict[str, Any]) -> None:
    page.set_input_files("#files", list(files))


def beat_rows(page: Page) -> list[list[str]]:
    rows: list[list[str]] = page.locator("#table tbody tr:not(.spacer)").evaluate_all(
        "rows => rows.map((row) => [...row.cells].map((cell) => cell.innerText.trim()))"
    )
    return rows
