"""Promotion: the gate scores what the bundle holds, and nothing changes when a gate fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prefect import flow

from ecg_lib.classifier.bundle import OUT_OF_FOLD, Bundle
from ecg_lib.errors import BundleIntegrityError
from ecg_lib.evaluation.beat_scoring import BeatCounts
from ecg_lib.operations.learning.promotion import Gate, PromotionDecision
from ecg_lib.operations.settings import Settings
from ecg_lib.records.annotations import Annotations
from flows.doors.registry import ELIGIBLE, Alias, ModelVersion, Registry, RunKind
from flows.evaluation.promote_champion import (
    carry_out,
    count_again,
    count_nested,
    summarize,
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One SQLite registry for the module: making its tables takes seconds."""
    return Registry(Settings(home=tmp_path_factory.mktemp("registry")))


def _register(registry: Registry, bundle: Bundle) -> ModelVersion:
    run_id = registry.start_run(
        "candidate",
        kind=RunKind.CANDIDATE,
        tags={"ecg.dataset_version": "a", ELIGIBLE: "true"},
    )
    registry.log(run_id, metrics={"oof_v_f1": 0.9})
    registry.log_bundle(run_id, bundle)
    registry.end_run(run_id)
    return registry.register(run_id, tags={})


def _carry_out(
    registry: Registry,
    challenger: ModelVersion,
    champion: ModelVersion | None,
    *gates: Gate,
) -> None:
    @flow(name="carry-out-in-test")
    def run() -> None:
        decision = PromotionDecision(gates=gates)
        carry_out(registry, challenger, champion, decision, Settings())

    run()


def _aliases(registry: Registry) -> Mapping[Alias, str | None]:
    found = {alias: registry.get_alias(alias) for alias in Alias}
    return {alias: None if one is None else one.version for alias, one in found.items()}


PASSED = Gate(name="V-F1", is_passed=True, reason="0.9")
FAILED = Gate(name="speed", is_passed=False, reason="500 us a beat, at most 120 allowed")


@pytest.mark.slow
def test_nothing_changes_when_a_gate_fails_and_the_candidate_is_not_tried_again(
    prefect_server: None, registry: Registry, toy_bundle: Bundle
) -> None:
    champion, challenger = (_register(registry, toy_bundle) for _ in range(2))
    _carry_out(registry, champion, None, PASSED)
    before = _aliases(registry)
    assert before[Alias.CHAMPION] == champion.version

    registry.set_alias(Alias.CHALLENGER, challenger.version)
    _carry_out(registry, challenger, champion, PASSED, FAILED)

    assert _aliases(registry) == before
    refused = next(one for one in registry.versions() if one.version == challenger.version)
    assert refused.tags["verdict"] == "not promoted"
    assert refused.tags["reasons"] == "speed: 500 us a beat, at most 120 allowed"
    assert registry.find_candidate({"ecg.dataset_version": "a"}) == champion.run_id

    better = _register(registry, toy_bundle)
    _carry_out(registry, better, champion, PASSED)
    assert _aliases(registry) == {
        Alias.CHAMPION: better.version,
        Alias.PREVIOUS_CHAMPION: champion.version,
        Alias.CHALLENGER: None,
    }


def test_a_refusal_names_the_gates_that_failed() -> None:
    assert summarize(PromotionDecision(gates=(PASSED,))) == "promoted"
    refused = PromotionDecision(gates=(PASSED, FAILED, replace(FAILED, name="golden requests")))
    assert summarize(refused) == "refused, failed speed, golden requests"


BEATS = np.arange(1000, 11_000, 1000)
TRUTH = Annotations(samples=BEATS, symbols=np.array(list("NNVNNVNNVN")))
CALLS = np.array([False, False, True, False, True, True, False, False, False, False])
COUNTS = BeatCounts(
    beats=10, found=10, v_beats=3, v_found=3, v_true=2, v_false=1, n_beats=7, n_true=6, n_wrong=1,
    v_wrong=1,
)  # fmt: skip


FS = {"101": 360.0, "106": 360.0}


def _holding(
    bundle: Bundle, directory: Path, *, stated: BeatCounts, views: tuple[str, ...]
) -> Bundle:
    """Change the predictions and the figures of a bundle."""
    table = pa.concat_tables(
        pa.table(
            {
                "record": ["101"] * len(BEATS),
                "view": [view] * len(BEATS),
                "position": BEATS + 3,
                "is_v": CALLS if view == "0 deg, whole" else ~CALLS,
                "is_readable": np.ones(len(BEATS), dtype=np.bool_),
            }
        )
        for view in views
    )
    directory.mkdir()
    pq.write_table(table, directory / OUT_OF_FOLD)
    return replace(bundle, directory=directory, metrics={"by_subject": {"101": asdict(stated)}})


@pytest.mark.parametrize("views", [("0 deg, whole",), ("0 deg, 10 s", "0 deg, whole")])
def test_the_gate_scores_the_whole_records_of_a_bundle_again(
    toy_bundle: Bundle, tmp_path: Path, views: tuple[str, ...]
) -> None:
    bundle = _holding(toy_bundle, tmp_path / "bundle", stated=COUNTS, views=views)
    assert count_again(bundle, {"101": TRUTH}, fs=FS, subjects={}) == {"101": COUNTS}


def test_figures_that_are_not_those_of_the_predictions_are_refused(
    toy_bundle: Bundle, tmp_path: Path
) -> None:
    flattering = replace(COUNTS, v_true=3, v_wrong=0)
    bundle = _holding(toy_bundle, tmp_path / "b", stated=flattering, views=("0 deg, whole",))
    with pytest.raises(BundleIntegrityError, match="they differ for 101"):
        count_again(bundle, {"101": TRUTH}, fs=FS, subjects={})


def test_a_subject_without_predictions_is_refused(toy_bundle: Bundle, tmp_path: Path) -> None:
    bundle = _holding(toy_bundle, tmp_path / "b", stated=COUNTS, views=("0 deg, whole",))
    with pytest.raises(BundleIntegrityError, match="they differ for 106"):
        count_again(bundle, {"101": TRUTH, "106": TRUTH}, fs=FS, subjects={})


BEATS_OF = {"101": (0.1, 0.3, 0.5, 0.9), "106": (0.1, 0.6, 0.7, 0.9)}
PLACES = np.array([2000, 4000, 6000, 8000])
NNVV = Annotations(samples=PLACES, symbols=np.array(list("NNVV")))


def _nesting(bundle: Bundle, directory: Path) -> Bundle:
    """Change the predictions of a bundle: two people, a fold each, the threshold 0.65."""
    probability = np.array([*BEATS_OF["101"], *BEATS_OF["106"]])
    table = pa.table(
        {
            "record": ["101"] * 4 + ["106"] * 4,
            "subject": ["101"] * 4 + ["106"] * 4,
            "view": ["0 deg, whole"] * 8,
            "fold": [0] * 4 + [1] * 4,
            "position": np.tile(PLACES, 2),
            "label": list("NNVV") * 2,
            "is_readable": np.ones(8, dtype=np.bool_),
            "probability_v": probability,
            "is_v": probability >= 0.65,
            "rule": [""] * 8,
        }
    )
    directory.mkdir()
    pq.write_table(table, directory / OUT_OF_FOLD)
    return replace(bundle, directory=directory)


STATED = BeatCounts(beats=4, found=4, v_beats=2, v_found=2, v_true=2, n_beats=2, n_true=2)
ONE_MISSED = replace(STATED, v_true=1, v_wrong=1)
ONE_FALSE = replace(STATED, v_false=1, n_true=1, n_wrong=1)


def test_people_are_compared_with_a_threshold_that_they_had_no_part_in(
    toy_bundle: Bundle, tmp_path: Path
) -> None:
    bundle = _nesting(toy_bundle, tmp_path / "bundle")
    truth = {"101": NNVV, "106": NNVV}
    stated = count_again(
        replace(bundle, metrics={"by_subject": {"101": asdict(ONE_MISSED), "106": asdict(STATED)}}),
        truth,
        fs=FS,
        subjects={},
    )
    nested = count_nested(bundle, truth, stated, fs=FS, subjects={})
    assert nested == {"101": ONE_MISSED, "106": ONE_FALSE}


def test_people_of_the_champion_whose_records_changed_keep_its_figures(
    toy_bundle: Bundle, tmp_path: Path
) -> None:
    bundle = _nesting(toy_bundle, tmp_path / "bundle")
    changed = Annotations(samples=PLACES, symbols=np.array(list("NVVV")))
    stated = {"101": ONE_MISSED, "106": STATED, "gone": STATED}
    nested = count_nested(bundle, {"101": NNVV, "106": changed}, stated, fs=FS, subjects={})
    assert nested == {"101": ONE_MISSED, "106": STATED, "gone": STATED}
