"""A running service without a host: a toy bundle on a real uvicorn server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from bentos.recordings.job_queue import JobQueue
from bentos.recordings.job_runner import JobRunner
from bentos.recordings.job_store import JobStore
from bentos.routes import live
from bentos.routes.app import make_app
from bentos.routes.edge import Edge
from bentos.runtime.limits.connections import GuardedWebSocket, make_protocol
from bentos.runtime.live_model import LoadedModel
from bentos.runtime.predictor import Runtime
from bentos.wire.live_messages import MAX_MESSAGE_BYTES
from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.classifier.live.live_lead import LiveConfig
from ecg_lib.operations.settings import Settings
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import StripKind, simulate_record, simulate_strip

RequestMaker = Callable[..., dict[str, Any]]

LIVE_FS = 200.0
"""Sampling rate of the lead that the tests stream, in Hz."""


def load_toy(bundle: Bundle, *, version: str = "1", bento_tag: str = "ecg:toy") -> LoadedModel:
    provenance = bundle.provenance
    return LoadedModel(
        classifier=BeatClassifier.load(bundle),
        bundle=bundle,
        info={
            "name": "ecg",
            "version": version,
            "bento_tag": bento_tag,
            "bundle_hash": bundle.hash,
            "run_id": provenance.run_id,
            "dataset_version": provenance.dataset_version,
            "git_commit": provenance.git_commit,
            "source": provenance.source.value,
            "data": provenance.data_source.value,
        },
    )


@pytest.fixture(scope="session")
def toy_model(toy_bundle: Bundle) -> LoadedModel:
    return load_toy(toy_bundle)


class Service:
    """A server in a thread of this process."""

    def __init__(self, home: Path, **settings: Any) -> None:  # noqa: ANN401  any settings
        self.home = home
        self.runtime = Runtime(Settings(home=home, **settings), has_host=False)
        self.runtime.start()
        app = make_app()
        store = JobStore(self.runtime.settings.recordings_dir)
        self.runner = JobRunner(
            store,
            self.runtime.settings,
            model=lambda: self.runtime.live.current,
            note=self.runtime.note_request,
        )
        self.runner.start()
        self.recordings = JobQueue(store, self.runtime.settings, wake=self.runner.wake)
        app.state.runtime, app.state.recordings = self.runtime, self.recordings
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            Edge(app),
            http=make_protocol(1024),
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
        self.http = httpx.Client(base_url=self.url, timeout=30.0)

    def predict(self, **fields: Any) -> httpx.Response:  # noqa: ANN401  any JSON
        return self.http.post("/api/v1/predictions/", json=fields)

    def samples(self) -> list[Sample]:
        """Everything that /metrics tells."""
        families = text_string_to_metric_families(self.http.get("/metrics").text)
        return [sample for family in families for sample in family.samples]

    def close(self) -> None:
        self.http.close()
        self._server.should_exit = True
        self._thread.join()
        self.runner.close()
        self.recordings.close()
        self.runtime.close()


@pytest.fixture(scope="module")
def service(toy_model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("service-home"))
    service.runtime.live.use(toy_model)
    yield service
    service.close()


@pytest.fixture(scope="module")
def short_blocks() -> Iterator[None]:
    """Make beats final after 40 s, so that a minute and a half has some of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "CONFIG", LiveConfig(block_s=20.0, ahead_s=20.0, history_s=60.0))
        yield


@pytest.fixture(scope="session")
def signal() -> NDArray[np.float32]:
    """A lead of a minute and a half, in mV, to be streamed."""
    record = simulate_record("live", patient=draw_patient(6), duration_s=90.0, seed=6, fs=LIVE_FS)
    return record.signal_mv().astype(np.float32)


@pytest.fixture
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Service]:
    """Start a service with settings of its own, without a model; who starts it closes it."""
    return lambda **settings: Service(tmp_path_factory.mktemp("own-home"), **settings)


@pytest.fixture
def http(service: Service) -> httpx.Client:
    return service.http


@pytest.fixture
def read_samples(service: Service) -> Callable[[], list[Sample]]:
    return service.samples


@pytest.fixture
def predict(service: Service) -> Callable[..., httpx.Response]:
    return service.predict


@pytest.fixture
def runtime(service: Service) -> Runtime:
    return service.runtime


@pytest.fixture
def url(service: Service) -> str:
    return service.url


@pytest.fixture
def home(service: Service) -> Path:
    return service.home


@pytest.fixture(scope="session")
def make_request() -> RequestMaker:
    """Make requests of strips; `gain` multiplies the samples."""

    def make(
        kind: StripKind = StripKind.ISOLATED_PVC,
        *,
        fs: float = 360.0,
        gain: float = 1.0,
        seed: int = 3,
        **fields: Any,  # noqa: ANN401  any JSON
    ) -> dict[str, Any]:
        signal = simulate_strip(kind, seed=seed, fs=fs).signal_mv().astype(float) * gain
        return {
            "signal_data": [round(sample, 6) for sample in signal.tolist()],
            "sampling_rate": fs,
            **fields,
        }

    return make


@pytest.fixture
def recordings(service: Service) -> JobQueue:
    return service.recordings
