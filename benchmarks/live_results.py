"""The file of what the benchmarks of live leads measured, which pages of the docs show."""

from __future__ import annotations

import json
from typing import Any

from bench_service import RESULTS, describe_run


def write_results(**parts: dict[str, float]) -> None:
    """Replace parts of the file, each with the commit, time and load of its measurement."""
    path = RESULTS / "live.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for name, part in parts.items():
        results[name] = part | {"about": describe_run()}
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
