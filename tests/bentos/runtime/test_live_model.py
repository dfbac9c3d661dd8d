"""The thread that follows the released model."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bentos.runtime import live_model
from bentos.runtime.live_model import LiveModel
from ecg_lib.operations.releases import CURRENT, Release, write_release
from ecg_lib.operations.settings import Settings


def test_a_look_that_raises_anything_is_repeated(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path)
    settings.serving_dir.mkdir(parents=True)
    release = Release(
        bento_tag="ecg:1",
        model_tag="ecg_bundle:1",
        bundle_hash="1" * 64,
        code_hash="c" * 64,
        model_version="1",
        released_at="2026-01-01T00:00:00.000+00:00",
    )
    write_release(settings.serving_dir / CURRENT, release)
    live = LiveModel(settings, code_hash="c" * 64, has_host=True)
    taken, is_taken = [], threading.Event()

    def take(wanted: Release) -> None:
        taken.append(wanted)
        if len(taken) == 1:
            raise MemoryError
        is_taken.set()

    monkeypatch.setattr(live, "take", take)
    monkeypatch.setattr(live_model, "_FIRST_RETRY_S", 0.01)
    live.start()
    try:
        assert is_taken.wait(20)
    finally:
        live.close()
    assert taken[:2] == [release, release]
    assert "is looked at again" in caplog.text
