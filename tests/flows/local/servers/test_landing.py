"""MLflow's first page leads to the run list; links to other pages and files are left alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from flows.local.servers.landing import Landing

PAGE = "<!doctype html><html><head><title>MLflow</title></head></html>"


async def passed_on(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"passed {request.method} {request.url.path}")


def ask(index: Path, landing: str | None, method: str = "GET", path: str = "/") -> str:
    return send_to(index, lambda: landing, method, path)


def send_to(
    index: Path, find: Callable[[], str | None], method: str = "GET", path: str = "/"
) -> str:
    every = [Route("/{path:path}", passed_on, methods=["GET", "HEAD", "POST"])]
    app = Landing(Starlette(routes=every), index=index, find=find)

    async def send() -> str:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://mlflow") as client:
            return (await client.request(method, path)).text

    return anyio.run(send)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "index.html"
    path.write_text(PAGE)
    return path


def test_the_first_page_opens_the_run_list_unless_a_link_names_another(index: Path) -> None:
    page = ask(index, "#/experiments/1/runs?viewStateShareKey=ecg")
    script = page.partition("<head><script>")[2].partition("</script>")[0]
    assert 'if (!location.hash || location.hash === "#/")' in script
    assert '"#/experiments/1/runs?viewStateShareKey=ecg"' in script
    assert page.endswith("<title>MLflow</title></head></html>")


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/"), ("GET", "/static-files/a.js"), ("GET", "/api/2.0/x")]
)
def test_everything_else_is_passed_on(index: Path, method: str, path: str) -> None:
    assert ask(index, "#/x", method, path) == f"passed {method} {path}"


def test_mlflow_shows_its_own_page_while_there_is_no_experiment(index: Path) -> None:
    assert ask(index, None) == "passed GET /"
    index.write_text("<html>of another version</html>")
    assert ask(index, "#/x") == "passed GET /"


def test_mlflow_shows_its_own_page_when_the_look_up_fails(
    index: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def find() -> str:
        msg = "database is locked"
        raise sqlite3.OperationalError(msg)

    assert send_to(index, find) == "passed GET /"
    assert "database is locked" in caplog.text
    index.unlink()
    assert ask(index, "#/x") == "passed GET /"
