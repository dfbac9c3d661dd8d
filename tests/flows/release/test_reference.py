"""The bundle that ships: made from a champion, installed as the first one, and comparable."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import optuna
import pytest

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle, BundleSource, change_source, read_bundle
from ecg_lib.errors import BundleError
from ecg_lib.operations.releases import CURRENT
from ecg_lib.operations.settings import Profile, read_settings
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.training.cross_validation import Recipe
from flows.doors.registry import Alias, Registry
from flows.release.install_reference import install_reference
from flows.release.load_released import has_reference, load_bundle_to_use, read_reference, ship
from flows.release.switch_service import read_current
from flows.training.reproduce_reference import Comparison, compare, read_plan
from flows.training.sweep import PLANS
from flows.training.workers.search_space import KNOWN_GOOD, suggest_recipe


@pytest.fixture
def shipped(toy_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The toy, shipped in place of the reference."""
    monkeypatch.setattr(
        "flows.release.load_released.write_model_card", lambda *_: "# A card of today"
    )
    bundle = ship(toy_bundle, tmp_path / "reference_bundle")
    for module in ("install_reference", "load_released"):
        monkeypatch.setattr(f"flows.release.{module}.read_reference", lambda: bundle)
    monkeypatch.setattr("flows.release.load_released.has_reference", lambda: True)
    return bundle


def test_what_ships_says_so_and_is_otherwise_the_same(toy_bundle: Bundle, shipped: Bundle) -> None:
    assert shipped.provenance.source is BundleSource.SHIPPED
    assert toy_bundle.provenance.source is BundleSource.TRAINED
    assert shipped.hash != toy_bundle.hash
    assert shipped.model_card == "# A card of today"
    assert shipped.config == toy_bundle.config
    strip = simulate_strip(StripKind.RUN, seed=3)
    ours, theirs = (
        BeatClassifier.load(bundle).classify(strip.signal_mv(), fs=strip.fs)
        for bundle in (shipped, toy_bundle)
    )
    np.testing.assert_array_equal(ours.probability_v, theirs.probability_v)


def test_shipping_again_replaces_the_bundle(shipped: Bundle, toy_bundle: Bundle) -> None:
    again = ship(toy_bundle, shipped.directory)
    assert again.hash == shipped.hash
    assert [path.name for path in shipped.directory.parent.glob(".*")] == []
    with pytest.raises(BundleError, match="written once"):
        change_source(toy_bundle, BundleSource.SHIPPED, shipped.directory, model_card="")


def test_a_bundle_that_was_changed_is_refused(shipped: Bundle) -> None:
    (shipped.directory / "metrics.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError, match=r"metrics\.json must have the SHA-256"):
        read_bundle(shipped.directory)


def test_the_reference_of_this_checkout_is_whole_and_of_real_records() -> None:
    if not has_reference():
        pytest.skip("no bundle ships with this checkout yet")
    reference = read_reference()
    assert reference.provenance.source is BundleSource.SHIPPED
    assert reference.provenance.data_source.value == "records"
    figures = reference.metrics
    assert figures["oof_v_f1_low"] < figures["oof_v_f1"] < figures["oof_v_f1_high"]
    assert f"| V-F1 | {figures['oof_v_f1']:.4f} (" in reference.model_card
    assert "- source: shipped" in reference.model_card


def test_where_nothing_was_released_the_shipped_bundle_answers(shipped: Bundle) -> None:
    version, bundle = load_bundle_to_use(read_settings())
    assert version == "shipped"
    assert bundle.hash == shipped.hash


def test_without_release_and_reference_there_is_nothing_to_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.release.load_released.has_reference", lambda: False)
    with pytest.raises(BundleError, match="nothing was released yet"):
        load_bundle_to_use(read_settings())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what builds bentos
def test_the_reference_becomes_the_first_champion_and_is_released_once(
    prefect_server: None, shipped: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A platform that runs beside the tests is none of theirs.
    monkeypatch.setenv("ECG_SERVICE_PORT", "1")
    settings = read_settings()
    monkeypatch.setenv("BENTOML_HOME", str(settings.bentoml_home))
    released = install_reference()
    assert released is not None
    champion = Registry(settings).get_alias(Alias.CHAMPION)
    assert champion is not None
    assert champion.tags["source"] == "shipped"
    current = read_current(settings)
    assert current is not None
    assert current.bundle_hash == shipped.hash
    assert current.model_version == champion.version
    assert install_reference() is None
    # A model that was registered and not released, because the flow was cut off, is released.
    (settings.serving_dir / CURRENT).unlink()
    again = install_reference()
    assert again is not None
    assert again["model_version"] == champion.version
    assert len(Registry(settings).versions()) == 1


@pytest.mark.parametrize(("found", "verdict"), [(0.91, True), (0.97, True), (0.89, False)])
def test_a_reproduction_is_judged_by_the_published_interval(
    found: float,
    verdict: bool,  # noqa: FBT001  a parameter of the test
) -> None:
    names = (
        "oof_v_f1", "oof_v_f1_strict", "oof_v_se", "oof_v_ppv", "oof_accuracy", "oof_qrs_se",
        "oof_qrs_ppv", "oof_v_f1_after_5min", "oof_strips_10s_v_f1",
    )  # fmt: skip
    published = dict.fromkeys(names, 0.94) | {"oof_v_f1_low": 0.9, "oof_v_f1_high": 0.98}
    comparison = compare(published, dict.fromkeys(names, found))
    assert isinstance(comparison, Comparison)
    assert comparison.is_inside is verdict
    assert comparison.published["oof_v_se"] == 0.94


@pytest.mark.parametrize("profile", list(Profile))
def test_plan_and_recipe_come_back_from_the_figures_of_a_bundle(profile: Profile) -> None:
    plan = PLANS[profile]
    recipe = suggest_recipe(optuna.trial.FixedTrial(KNOWN_GOOD), Recipe(max_beats=1000))
    kept = json.loads(json.dumps({"plan": asdict(plan), "recipe": asdict(recipe)}))
    assert read_plan(kept) == (plan, recipe)
