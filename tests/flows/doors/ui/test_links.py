"""Addresses of pages; a login in a setting is in none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecg_lib.operations.settings import Settings
from flows.doors.ui.links import (
    as_markdown,
    link_flow_run,
    link_mlflow,
    link_operations,
    link_run,
    link_version,
)


def test_pages_of_this_machine_are_found_by_its_ports(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, prefect_port=4201, mlflow_port=5001, service_port=3001)
    assert link_flow_run(settings, "a") == "http://127.0.0.1:4201/runs/flow-run/a"
    assert link_run(settings, "1", "r") == "http://127.0.0.1:5001/#/experiments/1/runs/r"
    assert link_version(settings, "7") == "http://127.0.0.1:5001/#/models/ecg/versions/7"
    assert link_operations(settings) == "http://127.0.0.1:3001/ops"


@pytest.mark.parametrize(
    ("uri", "page"),
    [
        ("https://user:secret@ml.example:8443/base/", "https://ml.example:8443/base"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("http://ml.example:99999", "http://127.0.0.1:5000"),
        ("postgresql://u:secret@db/mlflow", "http://127.0.0.1:5000"),
        (None, "http://127.0.0.1:5000"),
    ],
)
def test_the_address_of_another_mlflow_has_no_login(
    tmp_path: Path, uri: str | None, page: str
) -> None:
    assert link_mlflow(Settings(home=tmp_path, mlflow_tracking_uri=uri)) == page


def test_a_link_without_an_address_is_text() -> None:
    assert as_markdown("run", None) == "run"
    assert as_markdown("run", "http://x") == "[run](http://x)"
