"""Strips that are sent to the service."""

from __future__ import annotations

from ecg_lib.classifier import BeatClassifier
from ecg_lib.settings import read_settings
from flows.reference import read_reference
from flows.traffic import STRIP_S, demo_strip


def test_before_any_record_the_demo_is_simulated_and_says_so() -> None:
    strip = demo_strip(read_settings())
    assert strip.name == "a simulated strip"
    assert len(strip.signal_mv) == round(STRIP_S * strip.fs)
    found = BeatClassifier.load(read_reference()).classify(strip.signal_mv, fs=strip.fs)
    assert found.is_v.sum() >= 3
