"""The service behind a proxy that serves it below a path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from bentos.runtime.live_model import LoadedModel

RequestMaker = Callable[..., dict[str, Any]]
Proxied = Callable[..., httpx.Response]

BASE = "https://hospital.example/ecg/"


@pytest.fixture
def proxied(start_service: Callable[..., Any], toy_model: LoadedModel) -> Iterator[Proxied]:
    """Ask by the address that a client of the proxy uses; the proxy strips its path."""
    service = start_service(trusted_proxies="127.0.0.1")
    service.runtime.live.use(toy_model)

    def ask(method: str, address: str, **options: Any) -> httpx.Response:  # noqa: ANN401  httpx's own
        assert address.startswith(BASE)
        headers = {
            "X-Forwarded-Prefix": "/ecg",
            "X-Forwarded-Proto": "https",
            **options.pop("headers", {}),
        }
        answered: httpx.Response = service.http.request(
            method, f"/{address.removeprefix(BASE)}", headers=headers, **options
        )
        return answered

    yield ask
    service.close()


@pytest.mark.parametrize("page", ["", "docs"])
def test_what_a_page_loads_is_below_the_path(proxied: Proxied, page: str) -> None:
    text = proxied("GET", f"{BASE}{page}").text
    loaded = re.findall(r"""(?:src|href)="([^"#]+)\"""", text)
    loaded += re.findall(r"url: '([^']+)'", text)
    files = [urljoin(f"{BASE}{page}", one) for one in loaded if not one.startswith("data:")]
    assert len(files) >= 3
    for file in files:
        assert proxied("GET", file).status_code == 200, file


@pytest.mark.parametrize("path", ["api/v1/predictions", "api/v1/predictions/"])
def test_a_prediction_is_found_where_its_answer_says(
    proxied: Proxied, make_request: RequestMaker, path: str
) -> None:
    answered = proxied("POST", f"{BASE}{path}", json=make_request())
    assert answered.status_code == 201
    where = urljoin(f"{BASE}{path}", answered.headers["location"])
    assert proxied("GET", where).json()["prediction_id"] == answered.json()["prediction_id"]


def test_the_description_names_the_service_by_its_own_place(proxied: Proxied) -> None:
    (server,) = proxied("GET", f"{BASE}openapi.json").json()["servers"]
    assert urljoin(f"{BASE}openapi.json", server["url"]) == BASE


@pytest.mark.parametrize(
    "prefix", ["//evil.example", "/../x", "https://evil.example", "/a b", "/a\tb", "ecg", "/é"]
)
def test_a_prefix_that_is_not_a_path_is_left_out(
    proxied: Proxied, make_request: RequestMaker, prefix: str
) -> None:
    answered = proxied(
        "POST", f"{BASE}api/v1/predictions/", json=make_request(),
        headers={"X-Forwarded-Prefix": prefix.encode()},
    )  # fmt: skip
    assert answered.headers["location"].startswith("/api/v1/predictions/")


def test_without_a_trusted_proxy_a_prefix_is_left_out(
    http: httpx.Client, make_request: RequestMaker
) -> None:
    answered = http.post(
        "/api/v1/predictions", json=make_request(), headers={"X-Forwarded-Prefix": "/ecg"}
    )
    assert answered.headers["location"].startswith("/api/v1/predictions/")
