"""The model card of a bundle."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ecg_lib.classifier.bundle import Bundle, DataSource
from ecg_lib.evaluation.beat_scoring import BeatCounts
from ecg_lib.training.model_card import write_model_card
from flows.release.load_released import read_reference


@pytest.fixture(scope="module")
def reference() -> Bundle:
    return read_reference()


def _write(bundle: Bundle) -> str:
    by_subject = {
        name: BeatCounts(**counts) for name, counts in bundle.metrics["by_subject"].items()
    }
    return write_model_card(bundle.provenance, bundle.metrics, by_subject, bundle.config)


def test_a_card_of_records_tells_what_was_chosen_on_them(reference: Bundle) -> None:
    card = _write(reference)
    assert "Training data: records; a few simulated" in " ".join(card.split())
    assert (
        "calibration, thresholds, limits and\nrules were chosen on these same predictions" in card
    )
    assert "Supraventricular database and of MIT-BIH, these records among them" in card
    assert "networks that have not seen the person" in card
    assert "openings of DS2" in card


def test_a_card_of_simulated_patients_tells_of_no_people(reference: Bundle) -> None:
    provenance = replace(reference.provenance, data_source=DataSource.SIMULATED)
    card = _write(replace(reference, provenance=provenance))
    assert "SIMULATED patients, no real ECG" in card
    assert "hospital" not in card
    assert "openings of DS2" not in card
    assert "the same records" not in card


def test_rules_that_are_silent_are_not_named(reference: Bundle) -> None:
    silent = replace(reference.config.rule_guard, band_logit=0.0)
    card = _write(replace(reference, config=replace(reference.config, rule_guard=silent)))
    assert "; no RuleGuard rules. A second" in card
