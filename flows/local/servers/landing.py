"""MLflow's first page leads to the run list of the experiment, instead of to its start page.

Addresses within MLflow come after ``#`` and reach no server, so the page itself looks whether there
is one: a link to a run or a model version still opens what it names.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(__name__)

_HEAD: Final = "<head>"
_HEADERS: Final = {"Cache-Control": "no-store"}
_SCRIPT: Final = """<script>
if (!location.hash || location.hash === "#/") history.replaceState(null, "", %s);
for (const [key, value] of Object.entries(%s))
  if (localStorage.getItem(key) === null) localStorage.setItem(key, value);
</script>"""
_DEFAULTS: Final = {
    # Without these MLflow shows menus for language models, and opens an assistant of its own.
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
}


class Landing:
    """An ASGI application that answers ``/`` and passes on everything else.

    Args:
        app: MLflow's application.
        index: MLflow's page.
        find: Finds the part of the address after ``#``; None while there is nothing to show.
    """

    def __init__(self, app: ASGIApp, *, index: Path, find: Callable[[], str | None]) -> None:
        self._app = app
        self._index = index
        self._find = find

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        is_first = scope["type"] == "http" and scope["path"] == "/" and scope["method"] == "GET"
        page = await run_in_threadpool(self._make_page) if is_first else None
        answer = self._app if page is None else HTMLResponse(page, headers=_HEADERS)
        await answer(scope, receive, send)

    def _make_page(self) -> str | None:
        """Make the page; None leaves it to MLflow, also when the look-up fails."""
        try:
            landing = self._find()
            page = self._index.read_text(encoding="utf-8")
        except Exception:  # whatever fails here, MLflow has a page of its own
            logger.exception("the run list is not found, MLflow shows its own first page")
            return None
        if landing is None or _HEAD not in page:
            return None
        script = _SCRIPT % (json.dumps(landing), json.dumps(_DEFAULTS))
        return page.replace(_HEAD, _HEAD + script, 1)
