"""Tests of what the host of the workers tells them."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from bentos.host import Host, SharedDirectory, wait_for_listener
from bentos.runtime.worker_process import WorkerProcess
from ecg_lib.operations.processes.service_socket import PortTakenError
from ecg_lib.operations.releases import CURRENT, SERVED, Release, ReleaseError, write_release
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.following import Follower

RELEASE = Release(
    bento_tag="ecg:2",
    model_tag="ecg_bundle:2",
    bundle_hash="2" * 64,
    code_hash="c" * 64,
    model_version="2",
    released_at="2026-01-01T00:00:00.000+00:00",
)


class FakeWorker:
    def __init__(self, release: Release) -> None:
        self.serves = {
            "bento_tag": release.bento_tag,
            "version": release.model_version,
            "bundle_hash": release.bundle_hash,
        }
        self.serves_since = 0.0
        self.refusals: list[ReleaseError] = []

    def listen(self, _: Callable[[], None]) -> None:
        pass

    def tell(self, _: dict[str, Any]) -> None:
        pass

    def tell_refused(self, error: ReleaseError) -> None:
        self.refusals.append(error)


@pytest.mark.parametrize("is_repaired", [True, False])
def test_a_refusal_is_told_only_by_workers_that_serve_another_release(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, is_repaired: bool
) -> None:
    settings = Settings(home=tmp_path)
    settings.serving_dir.mkdir(parents=True)
    earlier = RELEASE.model_copy(update={"bento_tag": "ecg:1", "model_version": "1"})
    served = RELEASE if is_repaired else earlier
    write_release(settings.serving_dir / CURRENT, RELEASE)
    write_release(settings.serving_dir / SERVED, served)
    refusal = ReleaseError("one byte has changed", bento_tag="ecg:2")
    monkeypatch.setattr(Host, "_may_fall_back_on", lambda *_: True)

    async def start_release(self: Host, name: str, **_: bool) -> WorkerProcess | None:
        if name == CURRENT:
            raise refusal
        return cast("WorkerProcess", FakeWorker(served))

    monkeypatch.setattr(Host, "_start_release", start_release)

    async def start() -> FakeWorker:
        with socket.socket() as listener:
            host = Host(settings, listener, shared=SharedDirectory(tmp_path, 0))
            return cast("FakeWorker", await host._start_best())

    assert asyncio.run(start()).refusals == ([] if is_repaired else [refusal])


def test_a_release_that_the_store_does_not_give_is_told_once_and_to_new_workers_too(
    tmp_path: Path,
) -> None:
    settings = Settings(home=tmp_path, store_url=(tmp_path / "store").as_uri())
    follower = Follower(settings)
    workers = [FakeWorker(RELEASE), FakeWorker(RELEASE)]
    refusal = ReleaseError("one byte has changed", bento_tag="ecg:3")

    async def tell() -> None:
        with socket.socket() as listener:
            shared = SharedDirectory(tmp_path, 0)
            host = Host(settings, listener, shared=shared, follower=follower)
            host._add(cast("WorkerProcess", workers[0]))
            host._tell_not_taken()
            assert workers[0].refusals == []
            follower.refusal = refusal
            host._tell_not_taken()
            host._tell_not_taken()
            assert workers[0].refusals == [refusal]
            host._add(cast("WorkerProcess", workers[1]))
            host._tell_not_taken()

    asyncio.run(tell())
    assert workers[1].refusals == [refusal]


def test_a_host_waits_for_the_socket_of_a_host_that_was_killed(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        settings = Settings(home=tmp_path, service_port=held.getsockname()[1])
        threading.Timer(0.4, held.close).start()
        with wait_for_listener(settings) as listener:
            assert listener.getsockname() == ("127.0.0.1", settings.service_port)
    assert caplog.text.count("Address already in use; waiting up to 20 s") == 1


def test_a_port_that_stays_taken_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        settings = Settings(home=tmp_path, service_port=held.getsockname()[1])
        with pytest.raises(PortTakenError, match="cannot be used: Address already in use"):
            wait_for_listener(settings, wait_s=0.3)
