"""A platform that `ecg up` started, attacked as a page, a client and another user, and by kills."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
from playwright.sync_api import Browser
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from flows.local.servers.sign_in import make_sign_in_links
from flows.local.supervision.platform_status import read_status
from tests.flows.local.running.started import API_KEY, PUBLIC, Started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


HELPERS = ("prefect-server", "mlflow-server", "worker")


_ATTACK = """async ([prefect, mlflow, deployment]) => {
  const open = (url) => new Promise((done) => {
    const socket = new WebSocket(url, ["prefect"]);
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
  });
  const send = async (url, type, body) => {
    try {
      const answer = await fetch(url, {
        method: "POST", credentials: "include", mode: type ? "cors" : "no-cors",
        headers: {"content-type": type || "text/plain"}, body: JSON.stringify(body),
      });
      return answer.type + answer.status;
    } catch { return "failed"; }
  };
  const read = async (url) => {
    try { return (await fetch(url, {credentials: "include"})).status; } catch { return "failed"; }
  };
  const run = `${prefect}/api/deployments/${deployment}/create_flow_run`;
  const event = [{
    id: crypto.randomUUID ? crypto.randomUUID() : "00000000-0000-4000-8000-000000000000",
    occurred: new Date().toISOString(), event: "ecg.drift.rollback",
    resource: {"prefect.resource.id": "ecg.model.attack"}, payload: {reason: "attack"},
  }];
  return {
    run: [await send(run, "application/json", {}), await send(run, "", {})],
    event: [await send(`${prefect}/api/events`, "application/json", event),
            await send(`${prefect}/api/events`, "", event)],
    socket: await open(prefect.replace("http", "ws") + "/api/events/in"),
    mlflow: [await send(`${mlflow}/api/2.0/mlflow/experiments/create`, "", {name: "attack"}),
             await read(`${mlflow}/api/2.0/mlflow/experiments/search?max_results=5`)],
    read: await read(`${prefect}/api/admin/settings`),
  };
}"""


@pytest.mark.parametrize(
    ("server", "path", "without", "with_login"),
    [
        ("prefect", "/api/health", 200, 200),
        ("prefect", "/api/admin/version", 401, 200),
        ("prefect", "/api/admin/settings", 401, 200),
        ("prefect", "/docs", 401, 200),
        ("prefect", "/ecg-check", 401, 204),
        ("mlflow", "/health", 200, 200),
        ("mlflow", "/", 401, 200),
        ("mlflow", "/api/2.0/mlflow/experiments/search?max_results=1", 401, 200),
        ("mlflow", "/ecg-check", 401, 204),
    ],
)
def test_a_path_answers_only_to_the_login(
    platform: Started, server: str, path: str, without: int, with_login: int
) -> None:
    url = getattr(platform, server) + path
    assert httpx.get(url).status_code == without
    assert httpx.get(url, auth=platform.login(server)).status_code == with_login
    other = "mlflow" if server == "prefect" else "prefect"
    assert httpx.get(url, auth=platform.login(other)).status_code == without


@pytest.mark.parametrize("server", ["prefect", "mlflow"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_a_request_of_a_foreign_page_is_refused_even_with_the_login(
    platform: Started, server: str, headers: dict[str, str]
) -> None:
    for path in ("/health", "/api/health", "/api/admin/version", "/"):
        url = getattr(platform, server) + path
        answer = httpx.post(url, headers=headers, auth=platform.login(server))
        assert answer.status_code == 403, (path, answer.text)


@pytest.mark.parametrize(
    ("server", "path", "body"),
    [
        ("prefect", "/api/flows/filter", {}),
        ("mlflow", "/api/2.0/mlflow/experiments/search", {"max_results": 1}),
    ],
)
@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("ecg.example", PUBLIC, 200),
        ("ecg.example", "https://evil.example", 403),
        ("evil.example", PUBLIC, 403),
        ("evil.example", "https://evil.example", 403),
    ],
)
def test_a_page_behind_a_proxy_with_tls_reaches_its_own_server_alone(
    platform: Started,
    server: str,
    path: str,
    body: dict[str, int],
    host: str,
    origin: str,
    status: int,
) -> None:
    headers = {"Host": host, "Origin": origin}
    url, login = getattr(platform, server) + path, platform.login(server)
    assert httpx.post(url, json=body, headers=headers, auth=login).status_code == status
    assert httpx.post(url, json=body, headers=headers).status_code == (
        401 if status == 200 else status
    )


@pytest.mark.parametrize("server", ["prefect", "mlflow"])
@pytest.mark.parametrize(("size", "statuses"), [(16_000, {200}), (2**20, {400}), (2**24, {400})])
def test_the_head_of_a_request_is_bounded_before_the_login(
    platform: Started, server: str, size: int, statuses: set[int]
) -> None:
    url = httpx.URL(getattr(platform, server))
    assert url.port is not None
    path = {"prefect": "/api/health", "mlflow": "/health"}[server]
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{url.port}\r\nConnection: close\r\nX: "
    got = b""
    with socket.create_connection(("127.0.0.1", url.port), timeout=20) as connection:
        try:
            connection.sendall(head.encode() + b"a" * size + b"\r\n\r\n")
            got = connection.recv(100)
        except ConnectionError:  # closed while it was being sent
            got = got or b"HTTP/1.1 400"
    assert int(got.split(b" ")[1]) in statuses


@pytest.mark.parametrize(
    "path", ["/events/in", "/events/out", "/logs/out", "/task_runs/subscriptions/scheduled"]
)
@pytest.mark.parametrize(
    ("headers", "has_token", "is_open"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"Origin": "http://evil.example"}, True, False),
        ({"Host": "evil.example"}, True, False),
        ({"Sec-Fetch-Site": "same-site"}, True, False),
        ({"Host": "ecg.example", "Origin": PUBLIC}, True, True),
        ({"Host": "ecg.example", "Origin": PUBLIC}, False, False),
        ({"Host": "ecg.example", "Origin": "https://evil.example"}, True, False),
    ],
)
def test_a_websocket_opens_only_to_the_login_and_to_no_foreign_page(
    platform: Started, path: str, headers: dict[str, str], *, has_token: bool, is_open: bool
) -> None:
    token = ":".join(platform.login("prefect")) if has_token else None

    others = {name: value for name, value in headers.items() if name != "Host"}
    port = platform.settings.prefect_port

    async def open_socket() -> bool:
        try:
            async with connect(
                f"ws://{headers.get('Host', f'127.0.0.1:{port}')}/api{path}",
                host="127.0.0.1",
                port=port,
                subprotocols=["prefect"],
                additional_headers=others,
                proxy=None,  # type: ignore[list-item]
            ) as sock:
                await sock.send(json.dumps({"type": "auth", "token": token}))
                answer = json.loads(await asyncio.wait_for(sock.recv(), 10))
                return bool(answer["type"] == "auth_success")
        except InvalidStatus as error:
            assert error.response.status_code == 403  # noqa: PT017
            return False
        except ConnectionClosed:
            return False

    with ThreadPoolExecutor(1) as thread:  # Playwright has a loop in this one
        assert thread.submit(asyncio.run, open_socket()).result() is is_open


def test_a_page_on_another_port_starts_no_run_sends_no_event_and_reads_nothing(
    platform: Started, browser: Browser, foreign_page: str
) -> None:
    deployment = platform.call("/deployments/name/ingest-records/ingest-records")["id"]
    page = browser.new_context().new_page()
    for link in make_sign_in_links(platform.settings).values():  # the browser has the logins
        page.goto(link)
        page.wait_for_url(re.compile(r"^(?!.*ecg-sign-in)"))
    before = len(platform.call("/flow_runs/filter", {}))
    # localhost is another site than 127.0.0.1, another port is the same.
    for origin in (foreign_page, foreign_page.replace("127.0.0.1", "localhost")):
        page.goto(origin)
        found = page.evaluate(_ATTACK, [platform.prefect, platform.mlflow, deployment])
        assert found["run"] == ["failed", "opaque0"]
        assert found["event"] == ["failed", "opaque0"]
        assert found["socket"] == "refused"
        assert found["mlflow"] == ["opaque0", "failed"]
        assert found["read"] == "failed"
    runs = platform.call("/flow_runs/filter", {})
    assert len([run for run in runs if run["deployment_id"] == deployment]) == 0
    assert len(runs) <= before + 1  # the schedule may have made one
    search = f"{platform.mlflow}/api/2.0/mlflow/experiments/search?max_results=50"
    names = {
        one["name"]
        for one in httpx.get(search, auth=platform.login("mlflow")).json()["experiments"]
    }
    assert "attack" not in names


def test_a_name_that_was_rebound_to_loopback_is_refused(
    platform: Started, browser: Browser
) -> None:
    page = browser.new_page()
    for port in (platform.settings.prefect_port, platform.settings.mlflow_port):
        answer = page.goto(f"http://evil.example:{port}/")
        assert answer is not None
        assert answer.status == 403


def test_the_sign_in_page_opens_both_uis_and_leaves_no_secret_in_the_address(
    platform: Started, browser: Browser
) -> None:
    page_file = platform.settings.home / "sign-in.html"
    assert f"sign in  {page_file.as_uri()}" in platform.printed.read_text()
    context = browser.new_context()
    strangers: list[str] = []
    context.on(
        "requestfinished",
        lambda request: (
            None
            if re.match(r"(http://([^@/]*@)?127\.0\.0\.1:\d+/|file:|data:|blob:)", request.url)
            else strangers.append(request.url)
        ),
    )
    # A word that each page shows once a person is signed in.
    for title, password, word in (
        ("Prefect", "prefect", "Deployments"),
        ("MLflow", "mlflow", "Experiments"),
    ):
        page = context.new_page()
        failed: list[str] = []
        page.on(
            "response",
            lambda answer, failed=failed: (
                failed.append(answer.url) if answer.status in {401, 403} else None
            ),
        )
        page.goto(page_file.as_uri())
        page.click(f"text={title}")
        page.wait_for_url(re.compile(r"^http(?!.*ecg-sign-in)"))
        page.wait_for_function(f"document.body.innerText.includes('{word}')", timeout=120_000)
        assert platform.login(password)[1] not in page.evaluate("location.href")
        assert failed == []
    assert strangers == []


def test_a_wrong_link_signs_nobody_in(platform: Started, browser: Browser) -> None:
    page = browser.new_context().new_page()
    page.goto(f"{platform.mlflow}/ecg-sign-in#ecg:wrong")
    page.wait_for_selector("text=This server does not accept these credentials.")
    assert "wrong" not in page.url


def test_no_process_has_a_key_or_a_secret_that_it_does_not_need(platform: Started) -> None:
    secrets = {name: platform.login(name)[1] for name in ("prefect", "mlflow")}
    holders = set()
    for one in read_status(platform.settings):
        if one.name == "supervisor":
            continue
        process = psutil.Process(one.pid)
        for part in (process, *process.children(recursive=True)):
            given = part.environ()
            assert API_KEY not in given.values(), part.cmdline()
            assert "STRANGERS_TOKEN" not in given
            values = " ".join([*given.values(), *part.cmdline()])
            assert secrets["mlflow"] not in values
            if secrets["prefect"] in values:
                holders.add(one.name)
    assert holders == {"worker"}


def test_nothing_is_readable_by_others_and_no_log_has_a_secret(platform: Started) -> None:
    home = platform.settings.home
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for name in ("monitoring.db", "sign-in.html", "secrets/prefect", "secrets/mlflow"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600, name
    for name in ("serving", "bentoml", "logs", "secrets", "mlflow", "prefect"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o700, name
    secrets = [platform.login(name)[1] for name in ("prefect", "mlflow")]
    secrets += [base64.b64encode(f"ecg:{one}".encode()).decode() for one in secrets]
    for log in (platform.printed, *(home / "logs").iterdir()):
        text = log.read_text(errors="replace")
        assert not [one for one in [*secrets, API_KEY] if one in text], log.name


def test_login_prints_the_links_on_a_terminal_only(platform: Started) -> None:
    done = platform.ecg("login")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"open in a browser: {(platform.settings.home / 'sign-in.html').as_uri()}\n"
    )


def test_a_command_signs_in_by_itself(platform: Started) -> None:
    done = platform.ecg("run", "no-such-flow")
    assert done.returncode == 1
    assert done.stderr == (
        "error: there must be a deployment no-such-flow/no-such-flow, Prefect has none\n"
    )


@pytest.mark.parametrize("name", HELPERS)
def test_the_service_answers_while_a_helper_is_killed_and_started_again(
    platform: Started, name: str
) -> None:
    strip = httpx.get(f"{platform.service}/api/v1/examples/normal", timeout=30).json()
    statuses: list[int] = []
    seen: set[str] = set()

    def ask() -> dict[str, Any]:
        with httpx.Client(base_url=platform.service, timeout=30) as client:  # a new connection
            statuses.append(client.post("/api/v1/predictions/", json=strip).status_code)
            health: dict[str, Any] = client.get("/health").json()
        assert health["status"] == "ok"
        seen.update(health["degraded"])
        return health

    def is_again() -> bool:
        status = {one.name: one for one in read_status(platform.settings)}[name]
        assert status.helper is not None
        return ask()["degraded"] == {} and status.helper.restarts == 1 and status.is_alive

    before, started_s = platform.pid(name), time.monotonic()
    os.kill(before, signal.SIGKILL)
    _wait(lambda: ask()["degraded"] != {}, timeout_s=20)
    assert name in platform.ecg("status").stdout.split("degraded: ")[1]
    _wait(is_again, timeout_s=240)
    sys.stdout.write(f"{name} is killed: {time.monotonic() - started_s:.0f} s\n")
    assert platform.pid(name) != before
    assert seen == {name}
    assert set(statuses) == {201}
    assert platform.supervisor.poll() is None
    assert "degraded" not in platform.ecg("status").stdout


def test_a_host_of_the_service_that_is_killed_fails_no_request(platform: Started) -> None:
    before = platform.pid("service")
    strip = httpx.get(f"{platform.service}/api/v1/examples/normal", timeout=30).json()
    statuses: list[int] = []
    is_over = threading.Event()

    def ask(*, again: bool) -> None:
        with httpx.Client(base_url=platform.service, timeout=60) as kept:
            while not is_over.is_set():
                if again:  # on one connection
                    statuses.append(kept.post("/api/v1/predictions/", json=strip).status_code)
                else:
                    url = f"{platform.service}/api/v1/predictions/"
                    statuses.append(httpx.post(url, json=strip, timeout=60).status_code)

    with ThreadPoolExecutor(3) as clients:
        asked = [clients.submit(ask, again=again) for again in (True, True, False)]
        try:
            _wait(lambda: len(statuses) > 20, timeout_s=60)
            workers = psutil.Process(before).children()
            started_s = time.monotonic()
            os.kill(before, signal.SIGKILL)
            _wait(lambda: platform.pid("service") != before, timeout_s=20)
            # Those of the killed host end their connections; from then on only new ones answer.
            psutil.wait_procs(workers, timeout=60)
            _wait(lambda: _is_loaded(platform.service), timeout_s=120)
            sys.stdout.write(f"the host is killed: {time.monotonic() - started_s:.1f} s\n")
            n_before = len(statuses)
            _wait(lambda: len(statuses) > n_before + 20, timeout_s=60)
        finally:
            is_over.set()
        for one in asked:
            one.result()
    assert set(statuses) == {201}
    assert psutil.wait_procs(workers, timeout=30)[1] == []
    assert platform.supervisor.poll() is None


@pytest.mark.parametrize("name", ["mlflow-server", "prefect-server", "worker", "service"])
def test_a_process_that_hangs_is_killed_and_started_again(platform: Started, name: str) -> None:
    before, started_s = platform.pid(name), time.monotonic()
    n_before = platform.count_restarts(name)
    others = {one: platform.pid(one) for one in (*HELPERS, "service") if one != name}
    os.kill(before, signal.SIGSTOP)
    _wait(lambda: platform.pid(name) != before, timeout_s=90)
    # Its last answer is up to 5 s older, and a suspended process is not killed at once.
    assert time.monotonic() - started_s > 20
    assert not psutil.pid_exists(before)
    _wait(lambda: platform.is_whole(name), timeout_s=400)
    _wait(lambda: _is_loaded(platform.service), timeout_s=120)
    sys.stdout.write(f"{name} hangs: {time.monotonic() - started_s:.0f} s\n")
    assert f"{name} runs and no longer answers" in platform.printed.read_text()
    # Nothing that was healthy is killed with it, and nothing is killed twice.
    assert {one: platform.pid(one) for one in others} == others
    assert platform.count_restarts(name) == n_before + 1


def test_down_ends_everything(platform: Started) -> None:
    pids = [one.pid for one in read_status(platform.settings)]
    assert len(pids) == 5
    done = platform.ecg("down")
    assert done.returncode == 0, done.stderr
    platform.supervisor.wait(timeout=30)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert platform.ecg("status").stdout.startswith("nothing is running\n")
    assert platform.ecg("run", "pipeline").stderr.startswith("error: Prefect must be running at")


def _is_loaded(service: str) -> bool:
    try:
        return bool(httpx.get(f"{service}/health", timeout=10).json()["model_loaded"])
    except httpx.TransportError:
        return False


def _wait(condition: Callable[[], bool], *, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "what was waited for did not happen"
        time.sleep(0.1)
