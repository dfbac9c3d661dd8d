"""The page at ``/``: what this is, what is served, and how to call it; nothing from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Final

from bentos.schemas import NOTICE

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1b2430;--soft:#5b6776;--page:#f6f4f1;--card:#fff;
--line:#e3ddd6;--grid:#f3d9d4;--trace:#1b2430;--accent:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebef;--soft:#9aa5b2;--page:#12161b;
--card:#1a2027;--line:#2b333d;--grid:#3a2624;--trace:#e8ebef;--accent:#ff8a7a}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:60rem;margin:0 auto;padding:2.5rem 1.25rem 3rem}
h1{font-size:clamp(1.6rem,4vw,2.3rem);line-height:1.2;margin:0 0 .4rem;letter-spacing:-.01em}
h2{font-size:1.05rem;margin:0 0 .8rem}
p{margin:.3rem 0 1rem;max-width:44rem}
.soft{color:var(--soft)}
svg{display:block;width:100%;height:auto;margin:1.4rem 0;border:1px solid var(--line);
border-radius:10px;background:var(--card)}
nav{display:flex;flex-wrap:wrap;gap:.6rem;margin:1rem 0 1.8rem}
nav a{padding:.45rem .9rem;border:1px solid var(--line);border-radius:999px;background:var(--card);
color:var(--ink);text-decoration:none}
nav a:hover,nav a:focus-visible{border-color:var(--accent);color:var(--accent)}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:1.2rem 1.3rem;margin:0 0 1.2rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.35rem 1.2rem;margin:0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
pre{margin:0;overflow-x:auto;font:13.5px/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
footer{border-left:3px solid var(--accent);padding-left:.9rem;margin-top:1.8rem}
@media(max-width:30rem){dl{grid-template-columns:1fr;gap:0 0}dd{margin-bottom:.5rem}}
"""

_BEAT: Final = "h46q6-9 12 0h12l5 6 8-62 9 78 6-22h14q11-22 24 0h28"
_PVC: Final = "h16l8 14 14-84 16 92 14 6q14 14 24-22h62"
_TRACE: Final = f"M0 92{_BEAT}{_BEAT}{_PVC}{_BEAT}{_BEAT}"

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>ECG beat service</title><link rel="icon" href="data:,"><style>{style}</style></head>
<body><main>
<h1>Ventricular beats in an ECG, beat by beat</h1>
<p class="soft">Send ten seconds or more of one lead; get every beat with its class, its
probability and the rhythm they make.</p>
<svg viewBox="0 0 800 150" role="img" aria-label="An ECG trace with one premature beat">
<defs><pattern id="g" width="10" height="10" patternUnits="userSpaceOnUse">
<path d="M10 0H0V10" fill="none" stroke="var(--grid)"/></pattern></defs>
<rect width="800" height="150" fill="url(#g)"/>
<path d="{trace}" fill="none" stroke="var(--trace)" stroke-width="2" stroke-linejoin="round"/></svg>
<nav aria-label="Pages"><a href="/docs">API documentation</a><a href="/api/v1/model/">Model card</a>
<a href="/health">Health</a><a href="/metrics">Metrics</a><a href="/openapi.json">OpenAPI</a></nav>
<section><h2>Try it</h2><pre><code>{curl}</code></pre></section>
<section><h2>Served now</h2>{model}</section>
<footer>{notice}</footer>
</main></body></html>
"""


def write_home(base_url: str, model: dict[str, str] | None) -> str:
    """Write the page.

    Parameters
    ----------
    base_url : str
        Address of the service as the reader sees it, with a slash at the end.
    model : dict, optional
        The ``model`` object of answers; None when no model is loaded.

    """
    curl = (
        f"curl -s {base_url}api/v1/examples/isolated_pvc |\n"
        f"  curl -s -X POST {base_url}api/v1/predictions/ \\\n"
        '    -H "Content-Type: application/json" -d @-'
    )
    return _PAGE.format(
        style=_STYLE,
        trace=_TRACE,
        curl=escape(curl),
        model=_describe(model),
        notice=escape(NOTICE),
    )


def _describe(model: dict[str, str] | None) -> str:
    if model is None:
        return "<p>No model is loaded yet.</p>"
    rows = {
        "Version": f"{model['version']} ({model['source']}, trained on {model['data']})",
        "Bento": model["bento_tag"],
        "Bundle": model["bundle_hash"][:16],
        "Run": model["run_id"],
        "Dataset": model["dataset_version"],
        "Commit": model["git_commit"][:12],
    }
    return f"<dl>{''.join(f'<dt>{k}</dt><dd>{escape(v)}</dd>' for k, v in rows.items())}</dl>"
