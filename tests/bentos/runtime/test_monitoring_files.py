"""The dashboard and the alert rules name only what the service exports."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from bentos.runtime.metrics import STAGES
from bentos.wire import problems
from bentos.wire.problems import ProblemKind
from ecg_lib.operations.drift.last_check import write_last_check
from ecg_lib.operations.prediction_rows import DriftCheckRow
from ecg_lib.operations.processes.helper_states import (
    HelperState,
    HelperStatus,
    write_helper_states,
)

MONITORING = Path(__file__).parents[3] / "deployments" / "monitoring"
OF_PROMETHEUS = {"up", "job"}
FUNCTIONS = set(
    "sum max min absent rate increase changes histogram_quantile by on and or for le time".split()
)


def expressions() -> Iterator[str]:
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["expr"]


@pytest.fixture(scope="module")
def exported(
    service: Any,  # noqa: ANN401  the conftest's class cannot be imported
    make_request: Callable[..., dict[str, Any]],
) -> dict[str, dict[str, set[str]]]:
    """Values of each label of each series, after a prediction and a refusal."""
    assert service.predict(**make_request()).status_code == 201
    assert service.predict(signal_data=[1]).status_code == 422
    service.runtime.metrics.count_rules(["a rule"])
    service.runtime.metrics.count_compared("compared")
    service.runtime.metrics.count_agreement(same=9, different=1)
    service.runtime.metrics.count_answered_by(is_candidate=True)
    service.runtime.metrics.count_slow()
    write_helper_states(
        service.runtime.helpers_path, {"worker": HelperState(status=HelperStatus.WAITING)}
    )
    check = DriftCheckRow(
        check_id="1",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        bundle_hash="0",
        action="RETRAIN",
        summary={"bento_tag": "ecg:toy", "is_breach": True},
    )
    write_last_check(service.runtime.settings.serving_dir / "drift.json", check)
    series: dict[str, dict[str, set[str]]] = {}
    for sample in service.samples():
        labels = series.setdefault(sample.name, {})
        for name, value in sample.labels.items():
            labels.setdefault(name, set()).add(value)
    return series


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_an_expression_names_only_what_is_exported(
    expression: str, exported: dict[str, dict[str, set[str]]]
) -> None:
    assert expression.count("(") == expression.count(")")
    named = set(
        re.findall(r"\b[a-z_]+\b(?=[({\[]|\s*\)|\s*==|\s*$)", re.sub(r'"[^"]*"', "", expression))
    )
    series = named & (set(exported) | OF_PROMETHEUS)
    assert series, expression
    labels = set().union(*(exported.get(name, {}) for name in series))
    grouped = [
        part for one in re.findall(r"\bby \(([^)]*)\)", expression) for part in one.split(", ")
    ]
    matched = re.findall(r'(\w+)(=~|=|!=|!~)"([^"]*)"', expression)
    for label in {*grouped, *(name for name, _, _ in matched)} - OF_PROMETHEUS:
        assert label in labels, f"{label} is no label of {series}"
    strangers = named - series - FUNCTIONS - labels - OF_PROMETHEUS
    assert strangers == set()


def test_refusals_that_are_named_exist() -> None:
    kinds = {kind.name for kind in vars(problems).values() if isinstance(kind, ProblemKind)}
    for expression in expressions():
        for pattern in re.findall(r'problem=~"([^"]*)"', expression):
            for one in pattern.split("|"):
                assert any(re.fullmatch(one, kind) for kind in kinds), one


def test_refusals_are_counted_by_reason(exported: dict[str, dict[str, set[str]]]) -> None:
    assert "signal-too-short" in exported["ecg_refusals_total"]["problem"]


def test_everything_that_is_exported_of_the_service_is_shown(
    exported: dict[str, dict[str, set[str]]],
) -> None:
    shown = " ".join(expressions())
    ours = {name for name in exported if name.startswith("ecg_") and not name.endswith("_created")}
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in ours}
    assert [name for name in sorted(families) if name not in shown] == []
    assert exported["ecg_stage_seconds_count"]["stage"] == set(STAGES)


def test_alerts_say_how_bad_and_what() -> None:
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(names) == len(set(names))
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]


def test_panels_have_ids_and_places_of_their_own() -> None:
    panels = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len({panel["id"] for panel in panels}) == len(set(places)) == len(panels)


def test_compose_mounts_the_files_that_are_there() -> None:
    compose = yaml.safe_load((MONITORING.parent / "compose.yaml").read_text())
    mounted = [
        volume.partition(":")[0]
        for name in ("prometheus", "grafana")
        for volume in compose["services"][name]["volumes"]
        if volume.startswith("./")
    ]
    assert {(MONITORING.parent / one).resolve() for one in mounted} == set(MONITORING.iterdir())
