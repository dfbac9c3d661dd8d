"""A deliberately bad model, as somebody might register: the champion with a wrong threshold."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle, ClassifierConfig, write_bundle
from ecg_lib.classifier.golden import check_golden, make_golden
from ecg_lib.operations.settings import Settings
from flows.doors.registry import Alias, Registry, RegistryError, RunKind

_V_SHARES: Final = (0.8, 0.7, 0.6, 0.5, 0.4)
"""Shares of the beats of its own reference that the bad model may call V; a tenth of them are."""


def register_bad_model(settings: Settings) -> str:
    """Register the champion with a threshold that calls V far too often; return its version.

    It loads, answers its own golden requests and so passes all that is checked before a release;
    only its answers to traffic tell.

    Raises:
        RegistryError: If there is no champion, or it cannot be made bad enough.
    """
    registry = Registry(settings)
    champion = registry.get_alias(Alias.CHAMPION)
    if champion is None:
        msg = "there must be a champion to make a bad model of, there is none"
        raise RegistryError(msg)
    bundle = registry.fetch_bundle(champion.run_id)
    config, golden = _choose_wrong(bundle)
    run_id = registry.start_run("a wrong threshold, for the demo", kind=RunKind.CANDIDATE, tags={})
    with tempfile.TemporaryDirectory(dir=settings.home) as directory:
        bad = write_bundle(
            Path(directory) / "bundle",
            network=bundle.network,
            fold_networks=[
                bundle.fold_network(fold) for fold in sorted(set(bundle.folds.values()))
            ],
            folds=bundle.folds,
            config=config,
            provenance=replace(bundle.provenance, run_id=run_id),
            metrics=bundle.metrics,
            out_of_fold=bundle.read_out_of_fold(),
            drift_reference=bundle.read_drift_reference(),
            golden=golden,
            model_card=bundle.model_card,
        )
        registry.log_bundle(run_id, bad)
    registry.end_run(run_id)
    return registry.register(run_id, tags={}).version


def _choose_wrong(bundle: Bundle) -> tuple[ClassifierConfig, str]:
    """Choose a threshold as wrong as golden requests let pass: they must have N and V beats."""
    probability = bundle.read_drift_reference()["probability_v"].to_numpy().astype(np.float64)
    network = bundle.network.read_bytes()
    for share in _V_SHARES:
        config = replace(bundle.config, threshold=float(np.quantile(probability, 1 - share)))
        classifier = BeatClassifier(network, config=config)
        golden = make_golden(classifier)
        if not check_golden(classifier, golden):
            return config, golden
    msg = "a threshold must be wrong and pass golden requests, none does both"
    raise RegistryError(msg)
