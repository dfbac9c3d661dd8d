"""Health and metrics name the helpers of the platform that do not run."""

from __future__ import annotations

from typing import Any

from ecg_lib.operations.processes.helper_states import (
    HelperState,
    HelperStatus,
    write_helper_states,
)


def test_a_helper_that_does_not_run_is_named_and_the_service_is_ok(
    service: Any,  # noqa: ANN401  the class of the conftest
) -> None:
    assert service.http.get("/health").json()["degraded"] == {}
    states = {
        "mlflow-server": HelperState(status=HelperStatus.WAITING),
        "worker": HelperState(status=HelperStatus.RUNNING),
    }
    write_helper_states(service.runtime.helpers_path, states)

    answer = service.http.get("/health")

    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert answer.json()["degraded"] == {"mlflow-server": "waiting"}
    up = {
        sample.labels["helper"]: sample.value
        for sample in service.samples()
        if sample.name == "ecg_helper_up"
    }
    assert up == {"mlflow-server": 0.0, "supervisor": 1.0, "worker": 1.0}
