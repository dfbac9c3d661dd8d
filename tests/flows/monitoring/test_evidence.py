"""Leads, rates and devices that a model has met, by the records that it was made for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ecg_lib.classifier.bundle import Bundle, DataSource
from ecg_lib.operations.drift.slices import find_unfamiliar
from ecg_lib.operations.prediction_rows import DriftCheckRow
from flows.monitoring.evidence import Served, find_familiar
from flows.release.load_released import read_reference
from tests.homes import make_release

NEW_LEAD = {"lead": {"V1": 10}, "rate": {"360 Hz": 10}}


def _bundle(bundle: Bundle, source: DataSource, **metrics: Any) -> Bundle:  # noqa: ANN401  any figure
    provenance = replace(bundle.provenance, data_source=source)
    return replace(bundle, provenance=provenance, metrics=metrics)


def _check(bundle_hash: str, **seen: list[str]) -> DriftCheckRow:
    return DriftCheckRow(
        check_id="c",
        created_at=datetime(2026, 3, 1, tzinfo=UTC),
        bundle_hash=bundle_hash,
        action="KEEP",
        summary={"slices_seen": seen},
    )


@pytest.mark.parametrize(
    ("source", "databases", "leads", "rates"),
    [
        (DataSource.MITDB, [], {"MLII", "V5"}, {"360 Hz"}),
        (DataSource.RECORDS, ["mitdb"], {"MLII", "V5"}, {"360 Hz"}),
        (DataSource.RECORDS, ["mitdb", "svdb"], {"MLII", "V5", "ECG1"}, {"360 Hz", "128 Hz"}),
        (DataSource.RECORDS, ["mitdb", "own"], set(), set()),
        (DataSource.RECORDS, [], set(), set()),
        (DataSource.SIMULATED, ["simulated"], set(), set()),
    ],
)
def test_a_model_has_met_the_leads_and_rates_of_its_databases(
    toy_bundle: Bundle,
    source: DataSource,
    databases: list[str],
    leads: set[str],
    rates: set[str],
) -> None:
    found = find_familiar(_bundle(toy_bundle, source, databases=databases), [])
    assert (found.get("lead", set()), found.get("rate", set())) == (leads, rates)


def test_earlier_checks_of_the_same_model_count_too(toy_bundle: Bundle) -> None:
    bundle = _bundle(toy_bundle, DataSource.MITDB)
    checks = [
        _check(bundle.hash, lead=["V1"], device=["x"], site=["ward"]),
        _check("other", lead=["V2"]),
    ]
    found = find_familiar(bundle, checks)
    assert found["lead"] == {"MLII", "V5", "V1"}
    assert found["device"] == {"x"}
    assert "site" not in found


def test_known_leads_stay_familiar_to_a_model_that_was_trained_on_labelled_traffic_too(
    toy_bundle: Bundle,
) -> None:
    bundle = _bundle(toy_bundle, DataSource.RECORDS, databases=["mitdb", "site"])
    found = find_familiar(bundle, [_check(bundle.hash, lead=["II"])])
    assert found["lead"] == {"II", "MLII", "V5"}
    # No check has seen a rate yet.
    assert "rate" not in found


def test_the_model_that_ships_says_that_a_lead_is_new() -> None:
    familiar = find_familiar(read_reference(), [])
    unfamiliar = find_unfamiliar(NEW_LEAD, familiar, n_groups=10, min_share=0.2)
    assert unfamiliar == ("lead V1 (10 of 10 groups)",)


@pytest.mark.parametrize(("changed_after_h", "counts_from_h"), [(None, 0), (-1, 0), (1, 1)])
def test_checks_before_a_change_of_the_baseline_do_not_count(
    toy_bundle: Bundle, changed_after_h: int | None, counts_from_h: int
) -> None:
    released = datetime(2026, 3, 1, tzinfo=UTC)
    release = make_release(
        "2", bundle_hash=toy_bundle.hash, code_hash="c" * 64, released_at=released.isoformat()
    )
    changed = None if changed_after_h is None else released + timedelta(hours=changed_after_h)
    served = Served(release, toy_bundle, released, baseline_since=changed)
    assert served.compared_since == released + timedelta(hours=counts_from_h)
    assert served.since == released
