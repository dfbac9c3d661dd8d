"""The state file of the helpers, read by the service."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecg_lib.operations.processes.helper_states import (
    HelperState,
    HelperStatus,
    list_degraded,
    read_helper_states,
    write_helper_states,
)

RUNNING = HelperState(status=HelperStatus.RUNNING)
WAITING = HelperState(status=HelperStatus.WAITING, restarts=3)


def test_states_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "serving" / "helpers.json"
    write_helper_states(path, {"worker": RUNNING, "mlflow-server": WAITING})
    found = read_helper_states(path)
    assert found == {"worker": RUNNING, "mlflow-server": WAITING, "supervisor": RUNNING}
    assert list_degraded(found) == {"mlflow-server": "waiting"}


@pytest.mark.parametrize(("age_s", "degraded"), [(29.9, {}), (30.1, {"supervisor": "lost"})])
def test_a_file_that_nobody_renews_means_that_the_supervisor_is_lost(
    tmp_path: Path, age_s: float, degraded: dict[str, str]
) -> None:
    path = tmp_path / "helpers.json"
    write_helper_states(path, {"worker": RUNNING}, now_s=1000.0)
    assert list_degraded(read_helper_states(path, now_s=1000.0 + age_s)) == degraded


def test_a_service_without_a_platform_has_no_helpers(tmp_path: Path) -> None:
    assert read_helper_states(tmp_path / "helpers.json") == {}


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"helpers": {"worker": {"status": "asleep", "restarts": 0}}}'),
        '{"helpers": {}, "written_at_s": "soon"}',
    ],
)
def test_a_torn_file_means_that_the_supervisor_is_lost(tmp_path: Path, text: str) -> None:
    path = tmp_path / "helpers.json"
    path.write_text(text)
    assert list_degraded(read_helper_states(path)) == {"supervisor": "lost"}
