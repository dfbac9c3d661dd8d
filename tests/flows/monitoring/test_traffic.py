"""Strips that are sent to the service."""

from __future__ import annotations

import httpx

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.operations.settings import Settings, read_settings
from flows.monitoring.traffic import STRIP_S, demo_strip, send
from flows.release.load_released import read_reference


def test_before_any_record_the_demo_is_simulated_and_says_so() -> None:
    strip = demo_strip(read_settings())
    assert strip.name == "a simulated strip"
    assert len(strip.signal_mv) == round(STRIP_S * strip.fs)
    found = BeatClassifier.load(read_reference()).classify(strip.signal_mv, fs=strip.fs)
    assert found.is_v.sum() >= 3


def test_a_key_is_sent_where_there_is_one() -> None:
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("x-api-key"))
        return httpx.Response(201, json={})

    strip = demo_strip(read_settings())
    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        send(strip, client=client, settings=Settings())
        send(strip, client=client, settings=Settings(api_key="open sesame"))
    assert seen == [None, "open sesame"]
