"""A service that asks for keys, and means to send it what no client library would send."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from bentos.recordings.job_queue import JobQueue
from bentos.recordings.job_runner import JobRunner
from bentos.recordings.job_store import JobStore
from bentos.routes.app import make_app
from bentos.routes.edge import Edge
from bentos.runtime.limits.connections import GuardedWebSocket, make_protocol
from bentos.runtime.live_model import LoadedModel
from bentos.runtime.predictor import Runtime
from bentos.wire.live_messages import MAX_MESSAGE_BYTES
from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.keys.api_keys import Scope, add_api_key
from ecg_lib.operations.settings import Settings
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip

KEYS: dict[str, tuple[Scope, ...]] = {
    "alice": (),
    "bob": (),
    "predictor": (Scope.PREDICT,),
    "labeller": (Scope.LABEL,),
    "operator": (Scope.OPERATE,),
    "monitor": (Scope.METRICS,),
    "all": tuple(Scope),
}
"""Keys by what they are called; they are their own names."""


class Service:
    """A server in a thread of this process."""

    def __init__(self, home: Path, model: LoadedModel, **settings: Any) -> None:  # noqa: ANN401  any settings
        self.home = home
        self.runtime = Runtime(Settings(home=home, **settings), has_host=False)
        self.runtime.live.use(model)
        self.runtime.start()
        store = JobStore(self.runtime.settings.recordings_dir)
        self.runner = JobRunner(store, self.runtime.settings, model=lambda: model)
        self.runner.start()
        self.recordings = JobQueue(store, self.runtime.settings, wake=self.runner.wake)
        app = make_app()
        app.state.runtime, app.state.recordings = self.runtime, self.recordings
        listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = listener.getsockname()
        self.protocol = make_protocol(1024)
        config = uvicorn.Config(
            Edge(app),
            http=self.protocol,
            ws=GuardedWebSocket,
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=bool(self.runtime.settings.trusted_proxies),
            forwarded_allow_ips=self.runtime.settings.trusted_proxies,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.address[1]}", timeout=30.0)

    def ask(self, method: str, path: str, key: str | None = None, **options: Any) -> httpx.Response:  # noqa: ANN401  httpx's own
        """Send a request with a key."""
        headers = {**({"X-API-Key": key} if key else {}), **options.pop("headers", {})}
        return self.http.request(method, path, headers=headers, **options)

    def send(self, *pieces: bytes, timeout_s: float = 2.0) -> bytes:
        """Send bytes as they are, and give all that comes until the end or the time."""
        got = b""
        with socket.create_connection(self.address, timeout=timeout_s) as connection:
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    connection.sendall(piece)
            with contextlib.suppress(TimeoutError, ConnectionError):
                while piece := connection.recv(65536):
                    got += piece
        return got

    def close(self) -> None:
        """End the server and all that it started."""
        self.http.close()
        self._server.should_exit = True
        self._thread.join()
        self.runner.close()
        self.recordings.close()
        self.runtime.close()


@pytest.fixture(scope="session")
def attacked_model(toy_bundle: Bundle) -> LoadedModel:
    provenance = toy_bundle.provenance
    return LoadedModel(
        classifier=BeatClassifier.load(toy_bundle),
        bundle=toy_bundle,
        info={
            "name": "ecg",
            "version": "1",
            "bento_tag": "ecg:toy",
            "bundle_hash": toy_bundle.hash,
            "run_id": provenance.run_id,
            "dataset_version": provenance.dataset_version,
            "git_commit": provenance.git_commit,
            "source": provenance.source.value,
            "data": provenance.data_source.value,
        },
    )


@pytest.fixture
def serve(
    attacked_model: LoadedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Service]]:
    """Start services with settings of their own."""
    started: list[Service] = []

    def start(**settings: Any) -> Service:  # noqa: ANN401  any settings
        started.append(Service(tmp_path_factory.mktemp("home"), attacked_model, **settings))
        return started[-1]

    yield start
    for service in started:
        service.close()


@pytest.fixture(scope="module")
def keyed(
    attacked_model: LoadedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service that asks for keys."""
    home = tmp_path_factory.mktemp("keyed")
    for key, scopes in KEYS.items():
        add_api_key(home / "keys", key, scopes=scopes)
    service = Service(home, attacked_model, api_keys_file=home / "keys")
    yield service
    service.close()


@pytest.fixture(scope="module")
def open_service(
    attacked_model: LoadedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service on a loopback address, without keys."""
    service = Service(tmp_path_factory.mktemp("open"), attacked_model)
    yield service
    service.close()


@pytest.fixture(scope="session")
def strip() -> dict[str, Any]:
    signal = simulate_strip(StripKind.ISOLATED_PVC, seed=3, fs=100.0).signal_mv()
    return {"signal_data": [round(float(one), 4) for one in signal], "sampling_rate": 100.0}
