"""Make a built site self-contained, and fail if a page still loads something from another host.

Search of a site that is opened as a file needs a replacement for workers. Material loads it from a
CDN; ``docs/assets/iframe-worker.js`` is the same file (npm iframe-worker 1.0.4, MIT), kept here.
"""

from __future__ import annotations

import re
import sys
from os.path import relpath
from pathlib import Path
from typing import Final

_SHIM: Final = re.compile(r"https://unpkg\.com/iframe-worker/shim(?=\")")
_LOADS: Final = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//[^\" >]+"
    r"|<link\b[^>]*\brel=\"?(?:stylesheet|preconnect|icon)\b[^>]*\bhref=\"?(?:https?:)?//[^\" >]+"
)


def main() -> int:
    """Rewrite the pages below a folder; return 1 if one loads from another host."""
    site = Path(sys.argv[1])
    shim = site / "assets" / "iframe-worker.js"
    bad = 0
    for page in sorted(site.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        closed = _SHIM.sub(Path(relpath(shim, page.parent)).as_posix(), text)
        if closed != text:
            page.write_text(closed, encoding="utf-8")
        for found in _LOADS.findall(closed):
            print(f"{page}: {found}", file=sys.stderr)
            bad += 1
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
