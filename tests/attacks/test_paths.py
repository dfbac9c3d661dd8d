"""Ways around the key: other spellings of a path, other methods, files beside those served."""

from __future__ import annotations

from typing import Any

import pytest

PAGE = "20260301T120000000000Z"
FORMS = [
    "/api/v1/model/", "/api/v1/model", "//api/v1/model/", "///api/v1/model/", "/./api/v1/model/",
    "/api/./v1/model/", "/api//v1/model/", "/api/v1//model/", "/API/v1/model/", "/Api/V1/Model/",
    "/%61pi/v1/model/", "/api%2fv1%2fmodel%2f", "/%2fapi/v1/model/", "/api/v1/model/%2e",
    "/api/v1/model/.", "/api/v1/model/..;/", "/api;x/v1/model/", "/api/v1/model;x",
    "/api/v1/model/;",
    "/viewer/../api/v1/model/", "/viewer/%2e%2e/api/v1/model/", "/health/../api/v1/model/",
    "/health/..%2fapi/v1/model/", "/api/v1/model/?x=/health", "/api/v1/model/#/health",
    "/docs/..;/api/v1/model/", "/api%00/v1/model/", "/api/v1/model%00", "/api/v1/model/%20",
    "/ api/v1/model/", "/\\api\\v1\\model", "/api\\v1\\model\\", "/%5capi/v1/model/",
    "/metrics", "/metrics/", "//metrics", "/%6detrics", "/METRICS", "/metrics%00", "/metrics;x",
    "/metrics/../metrics", "/metrics?x", "/health/../metrics", "/.//metrics", "/metrics%2f",
    "/api/v1/ops/", "//api/v1/ops/", "/api/v1//ops/", "/API/v1/ops/", "/ops/../api/v1/ops/",
    f"/ops/drift/{PAGE}", f"//ops/drift/{PAGE}", f"/ops//drift/{PAGE}", f"/ops/drift//{PAGE}",
    f"/ops%2fdrift%2f{PAGE}", f"/ops/%64rift/{PAGE}", f"/ops/./drift/{PAGE}", f"/OPS/drift/{PAGE}",
    f"/ops/drift;x/{PAGE}", f"/ops/review/../drift/{PAGE}", f"/viewer/../ops/drift/{PAGE}",
    f"/viewer/ops/%2e%2e/%2e%2e/ops/drift/{PAGE}", f"/ops/drift/..%2fdrift%2f{PAGE}",
    "http://127.0.0.1/api/v1/model/", "http://evil.example/api/v1/model/", "*", "api/v1/model/",
]  # fmt: skip


@pytest.mark.parametrize("path", FORMS)
def test_no_spelling_of_a_path_needs_no_key(keyed: Any, path: str) -> None:  # noqa: ANN401  of a conftest
    pages = keyed.home / "reports" / "drift"
    pages.mkdir(parents=True, exist_ok=True)
    (pages / f"{PAGE}.html").write_text("the page of a drift check")
    got = keyed.send(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    )
    assert got.split(b" ")[1][:1] == b"4", got[:200]
    assert b"bundle_hash" not in got
    assert b"ecg_requests" not in got
    assert b"the page of a drift check" not in got


METHODS = (
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND",
    "TRACK", "get", "GETX",
)  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/model/",
        "/api/v1/predictions/",
        "/api/v1/recordings/",
        "/api/v1/signals/",
        "/metrics",
    ],
)
def test_no_method_needs_no_key(keyed: Any, method: str, path: str) -> None:  # noqa: ANN401  of a conftest
    got = keyed.send(
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n"
        "Connection: close\r\n\r\n".encode()
    )
    assert got.split(b" ")[1][:1] == b"4", got[:200]
    assert b"bundle_hash" not in got


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/health", "/docs", "/openapi.json", "/viewer/js/main.js"])
def test_pages_take_no_other_method(open_service: Any, method: str, path: str) -> None:  # noqa: ANN401  of a conftest
    got = open_service.send(
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n"
        "Connection: close\r\n\r\n".encode()
    )
    assert got.split(b" ")[1] in {b"400", b"404", b"405"}, got[:200]


UPWARDS = [
    "../index.html", "../../pyproject.toml", "..%2f..%2fpyproject.toml", "%2e%2e/%2e%2e/service.py",
    "..;/..;/service.py", "....//....//service.py", "..\\..\\service.py", "..%5c..%5cservice.py",
    "%252e%252e%252fservice.py", "/etc/passwd", "//etc/passwd", "../../../../../../etc/passwd",
    "..%2f..%2f..%2f..%2f..%2fetc%2fpasswd", "..%c0%af..%c0%afetc/passwd", "%00",
    "js/main.js%00.png",
    ".", "..", "js/..", "js/../../service.py", "../bentos/service.py", "~root/.ssh/id_rsa",
    "..%ef%bc%8f..%ef%bc%8fetc/passwd", "js%2f..%2f..%2f..%2fservice.py",
]  # fmt: skip


@pytest.mark.parametrize("folder", ["viewer", "static_content"])
@pytest.mark.parametrize("path", UPWARDS)
def test_files_beside_those_served_are_not_found(
    open_service: Any,  # noqa: ANN401  of a conftest
    folder: str,
    path: str,
) -> None:
    got = open_service.send(
        f"GET /{folder}/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    )
    assert got.split(b" ")[1] in {b"400", b"404", b"405"}, got[:200]
    for content in (b"root:", b"[project]", b"import bentoml", b"Traceback"):
        assert content not in got
