"""The bad model of the demo passes what is checked before a release, and calls more beats V."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.classifier.golden import check_golden
from ecg_lib.operations.settings import Settings
from flows.doors.registry import Alias, Registry, RegistryError, RunKind
from flows.local.demo.bad_release import register_bad_model
from flows.local.demo.people import make_new_strips


def test_it_loads_and_answers_its_golden_requests_and_calls_far_more_beats_v(
    tmp_path: Path, make_toy_bundle: Callable[..., Bundle]
) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(RegistryError, match="there must be a champion"):
        register_bad_model(settings)
    registry = Registry(settings)
    run_id = registry.start_run("a model", kind=RunKind.REFERENCE, tags={})
    registry.log_bundle(run_id, make_toy_bundle("champion"))
    registry.end_run(run_id)
    registry.make_champion(registry.register(run_id, tags={}).version)
    version = register_bad_model(settings)
    champion = registry.get_alias(Alias.CHAMPION)
    assert champion is not None
    assert (champion.version, version) == ("1", "2")  # it is registered, and not promoted
    bad = registry.fetch_bundle(registry.find(version).run_id)
    classifier = BeatClassifier.load(bad)
    assert check_golden(classifier, bad.golden.read_text(encoding="utf-8")) == ()
    good = BeatClassifier.load(registry.fetch_bundle(champion.run_id))
    strips = [one.strip for one in make_new_strips(n_people=6, n_strips=1)]
    n_bad, n_good = (
        sum(int(one.classify(strip.signal_mv, fs=strip.fs).is_v.sum()) for strip in strips)
        for one in (classifier, good)
    )
    assert n_bad > n_good + 5
