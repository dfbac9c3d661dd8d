"""The audit of the locks, against a package index of this test."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

HERE = Path(__file__).parent


ADVISORY: dict[str, Any] = {
    "id": "GHSA-1", "aliases": ["CVE-2026-1"], "fixed_in": ["2.1"], "summary": "It leaks.\nMuch.",
    "withdrawn": None,
}  # fmt: skip
Run = Callable[..., tuple[int, str, str]]
LOCK = """\
# a comment==1
good==1.0 \\
    --hash=sha256:00
bad[extra]==2.0 ; sys_platform == 'linux' \\
    --hash=sha256:01
"""


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    specification = importlib.util.spec_from_file_location("audit", HERE / "audit.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def run(audit: ModuleType, capsys: pytest.CaptureFixture[str]) -> Run:
    def start(*arguments: str) -> tuple[int, str, str]:
        status = audit.main(arguments)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return start


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.lock"
    path.write_text(LOCK)
    return path


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, bytes | int]], str]]:
    """Serve answers by path; return the address and keep the paths that were asked for."""
    started: list[ThreadingHTTPServer] = []

    def start(answers: dict[str, bytes | int]) -> str:
        class _Index(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = answers.get(self.path, 404)
                self.send_response(answer if isinstance(answer, int) else 200)
                self.end_headers()
                if isinstance(answer, bytes):
                    self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), _Index)
        threading.Thread(target=server.serve_forever).start()
        started.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/pypi"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def page(*advisories: dict[str, Any]) -> bytes:
    return json.dumps({"info": {}, "vulnerabilities": list(advisories)}).encode()


def test_packages_without_advisories_pass(lock: Path, serve: Callable[..., str], run: Run) -> None:
    api = serve({"/pypi/good/1.0/json": page(), "/pypi/bad/2.0/json": page()})
    assert run(str(lock), "--api", api) == (0, "0 advisories in 2 of 2 packages\n", "")


def test_an_advisory_is_named_with_the_version_that_mends_it(
    lock: Path, serve: Callable[..., str], run: Run
) -> None:
    withdrawn = ADVISORY | {"id": "GHSA-2", "withdrawn": "2026-01-01T00:00:00Z"}
    api = serve({"/pypi/good/1.0/json": page(), "/pypi/bad/2.0/json": page(ADVISORY, withdrawn)})
    status, out, _ = run(str(lock), "--api", api)
    assert status == 1
    assert out.splitlines() == [
        "bad 2.0: GHSA-1 CVE-2026-1, fixed in 2.1: It leaks.",
        "1 advisories in 2 of 2 packages",
    ]
    assert run(str(lock), "--api", api, "--accept", "CVE-2026-1")[0] == 0


@pytest.mark.parametrize("answer", [404, 500, b"<html>", b"{}", b"[]"])
def test_a_package_that_could_not_be_checked_is_a_failure(
    lock: Path, serve: Callable[..., str], run: Run, answer: bytes | int
) -> None:
    api = serve({"/pypi/bad/2.0/json": page(), "/pypi/good/1.0/json": answer})
    status, _, errors = run(str(lock), "--api", api)
    assert status == 2
    assert "good 1.0: " in errors
    assert f"1 of 2 packages could not be checked at {api}; the audit needs" in errors


def test_offline_is_said_after_one_question(lock: Path, run: Run) -> None:
    status, _, errors = run(str(lock), "--api", "http://127.0.0.1:9/pypi")
    assert status == 2
    assert "no answer, ConnectError" in errors
    assert "2 of 2 packages could not be checked" in errors


def test_the_login_of_an_index_is_not_printed(lock: Path, run: Run) -> None:
    status, out, errors = run(str(lock), "--api", "http://user:p%40ss@127.0.0.1:9/a@b/pypi")
    assert status == 2
    assert "packages could not be checked at http://127.0.0.1:9/a@b/pypi; the audit" in errors
    assert "p%40ss" not in out + errors


@pytest.mark.parametrize(
    ("environment", "api"),
    [
        ({}, "https://pypi.org/pypi"),
        ({"PIP_INDEX_URL": "https://mirror.example/a/simple/"}, "https://mirror.example/a/pypi"),
        (
            {"PIP_INDEX_URL": "https://a.example", "UV_DEFAULT_INDEX": "https://b.example/simple"},
            "https://b.example/pypi",
        ),
    ],
)
def test_the_index_that_is_configured_is_asked(
    audit: ModuleType, environment: dict[str, str], api: str
) -> None:
    assert audit.find_api(environment) == api


def test_every_package_of_the_locks_is_read(audit: ModuleType) -> None:
    pins = audit.gather_pins(audit.ROOT / name for name in audit.LOCKS)
    requirements = [
        Requirement(line.rstrip(" \\"))
        for name in audit.LOCKS
        for line in (audit.ROOT / name).read_text().splitlines()
        if line[:1].isalnum()
    ]
    assert len(requirements) > 100
    assert pins == sorted({(one.name, str(one.specifier).strip("=")) for one in requirements})
