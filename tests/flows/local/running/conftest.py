"""One platform for all tests, and browsers that look at it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, sync_playwright

from ecg_lib.operations.settings import Settings
from tests.flows.local.running.started import API_KEY, ECG, Started, find_free_ports


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """`ecg up` without the pipeline, started by a shell with an open umask."""
    home = tmp_path_factory.mktemp("platform") / "home"
    home.mkdir(mode=0o755)
    settings = Settings(home=home, **find_free_ports())
    printed = home.parent / "printed"
    with printed.open("wb") as output:
        started = Started(settings=settings, printed=printed, supervisor=None)  # type: ignore[arg-type]
        process = subprocess.Popen(
            [sys.executable, "-c", ECG, "up", "--no-pipeline"],
            env={**started.environment, "ECG_API_KEY": API_KEY, "STRANGERS_TOKEN": API_KEY},
            stdout=output,
            stderr=subprocess.STDOUT,
            umask=0,
        )
    try:
        deadline_s = time.monotonic() + 500
        while "READY" not in printed.read_text():
            assert process.poll() is None, printed.read_text()
            assert time.monotonic() < deadline_s, printed.read_text()
            time.sleep(0.5)
        yield Started(settings=settings, printed=printed, supervisor=process)
    finally:
        process.terminate()
        process.wait(timeout=90)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if found is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    arguments.append("--host-resolver-rules=MAP evil.example 127.0.0.1")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def foreign_page() -> Iterator[str]:
    """Address of a page on another port, which keeps what it is sent."""

    class _Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>another site</title>")

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()
