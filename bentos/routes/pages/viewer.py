"""The viewer at ``/``: a static page and its files, which call the service as any client does."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

_VIEWER: Final = Path(__file__).parents[2] / "viewer"

_HEADERS: Final = {
    # Browsers ask whether a file has changed, so that after a release no old and new modules mix.
    "Cache-Control": "no-cache",
    # On the files too: the policy of the reader's thread is that of its script.
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
}


def add_viewer(app: FastAPI) -> None:
    """Serve the viewer at ``/`` and its files below ``/viewer``."""
    app.mount("/viewer", _ViewerFiles(directory=_VIEWER), name="viewer")
    app.add_api_route("/", _show_viewer, methods=["GET"], include_in_schema=False)


class _ViewerFiles(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


async def _show_viewer() -> Response:
    return FileResponse(_VIEWER / "index.html", headers=_HEADERS)
