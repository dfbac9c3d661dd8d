"""A release, and the traffic that it was trained for."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.drift.observation import observe_beats, read_reference
from ecg_lib.operations.releases import Release, bento_source
from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.records.noise import mix_at_snr, muscle_noise
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from flows.release.switch_service import find_bundle
from tests.flows.monitoring.drift_check.observed_traffic import (
    MINUTE,
    NOW,
    PATIENT,
    ROOT,
    TAG,
    Observed,
    Serve,
    _for_log,
    _observed_of,
)


@pytest.fixture(scope="session")
def replayed(toy_bundle: Bundle) -> list[Observed]:
    """The strips of the reference, as the log holds them."""
    reference = read_reference(toy_bundle.read_drift_reference())
    return [
        _observed_of(reference, strip) | {PATIENT: [str(reference.group[strip])]}
        for strip in range(reference.n_strips)
    ]


@pytest.fixture(scope="session")
def noisy(toy_bundle: Bundle) -> list[Observed]:
    """The patients of the reference under muscle noise at 6 dB."""
    classifier = BeatClassifier.load(toy_bundle)
    strips = []
    for seed in range(12):
        record = simulate_record(
            f"sim{seed}", patient=draw_patient(seed), duration_s=120.0, seed=seed
        )
        assert record.annotations is not None
        clean = record.signal_mv()
        noise = muscle_noise(len(clean), fs=record.fs, rms_mv=0.1, rng=np.random.default_rng(seed))
        signal = mix_at_snr(
            clean, noise, snr_db=6.0, r_peaks=record.annotations.beat_samples, fs=record.fs
        )
        for strip in np.split(signal, 12):
            columns = observe_beats(classifier.classify(strip, fs=record.fs))
            if len(columns["rule"]):
                strips.append(_for_log(columns) | {PATIENT: [f"sim{seed}"]})
    assert len(strips) > 100
    return strips


@pytest.fixture
def settings() -> Settings:
    settings = read_settings()
    settings.home.mkdir(parents=True)
    return settings


@pytest.fixture
def release(settings: Settings, toy_bundle: Bundle, serve_release: Serve) -> Release:
    """The toy bundle, released two hours ago."""
    current = Release(
        bento_tag=TAG,
        model_tag="ecg_bundle:abc",
        bundle_hash=toy_bundle.hash,
        model_version="2",
        code_hash="c" * 64,
        released_at=(NOW - 120 * MINUTE).isoformat(),
    )
    shutil.copytree(toy_bundle.directory, find_bundle(settings, current.model_tag))
    source = bento_source(settings.bentoml_home, current)
    source.mkdir(parents=True)
    caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ecg_lib", source / "ecg_lib", ignore=caches)
    serve_release(settings, current)
    return current
