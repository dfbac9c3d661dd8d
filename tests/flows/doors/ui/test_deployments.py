"""Names of deployments on a real Prefect server: those of earlier versions are replaced."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Scheduled

from flows.doors.ui.deployments import (
    Renamed,
    find_deployment,
    make_automations,
    name_deployment,
    put_automations,
    replace_earlier,
)
from flows.doors.ui.prefect_api import open_api

pytestmark = pytest.mark.slow


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def api(client: SyncPrefectClient) -> Iterator[httpx.Client]:
    with open_api(str(client.api_url), auth=None) as api:
        yield api


def deploy(client: SyncPrefectClient, flow: str, name: str) -> UUID:
    flow_id = client.create_flow_from_name(flow)
    return client.create_deployment(flow_id, name, enforce_parameter_schema=False)


def ask(client: SyncPrefectClient, deployment: UUID, **options: Any) -> FlowRun:  # noqa: ANN401
    return client.create_flow_run_from_deployment(deployment, **options)


def automations(api: httpx.Client) -> dict[str, dict[str, Any]]:
    found = api.post("/automations/filter", json={}).raise_for_status().json()
    return {one["name"]: one for one in found}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("monitor-drift", "monitor-drift/monitor-drift"),
        ("monitor-drift/ecg", "monitor-drift/ecg"),
        ("a/b", "a/b"),
    ],
)
def test_a_deployment_is_named_by_its_flow(given: str, name: str) -> None:
    assert name_deployment(given) == name


def test_the_earlier_name_finds_the_deployment_of_now_and_that_of_a_server_not_deployed_to(
    client: SyncPrefectClient,
) -> None:
    old = deploy(client, "found", "ecg")
    assert find_deployment(client, "found/ecg").id == old
    new = deploy(client, "found", "found")
    assert find_deployment(client, "found/ecg").id == new
    assert find_deployment(client, "found/found").id == new
    with pytest.raises(ObjectNotFound):
        find_deployment(client, "nowhere/ecg")
    client.delete_deployment(old)
    assert find_deployment(client, "found/ecg").id == new


def test_deployments_with_the_earlier_name_are_replaced_with_all_that_refers_to_them(
    client: SyncPrefectClient, api: httpx.Client
) -> None:
    flow_id = client.create_flow_from_name("renamed")
    every = IntervalSchedule(interval=timedelta(minutes=15))
    old = client.create_deployment(flow_id, "ecg", schedules=[{"schedule": every, "active": True}])  # type: ignore[list-item]
    own = deploy(client, "of-a-user", "ecg")  # it was not deployed again under another name
    done = ask(client, old, state=Completed())
    later = datetime.now(UTC) + timedelta(days=1)
    waiting = ask(
        client, old, state=Scheduled(scheduled_time=later), parameters={"n": 3}, tags=["mine"]
    )
    ask(client, old, state=Scheduled(), tags=["drift"])  # its outbox asks again
    api.post(
        "/automations/",
        json={
            "name": "of a user",
            "trigger": {
                "type": "event",
                "posture": "Reactive",
                "match_related": {"prefect.resource.id": f"prefect.deployment.{old}"},
                "expect": ["prefect.flow-run.Failed"],
                "threshold": 1,
                "within": 0,
            },
            "actions": [
                {"type": "run-deployment", "source": "selected", "deployment_id": str(old)}
            ],
        },
    ).raise_for_status()
    assert replace_earlier(api) == Renamed((), ())  # nothing was deployed under another name yet
    new = client.create_deployment(
        flow_id,
        "renamed",
        schedules=[{"schedule": every, "active": True}],  # type: ignore[list-item]
        parameter_openapi_schema={"type": "object", "properties": {"n": {"type": "integer"}}},
    )
    assert replace_earlier(api) == Renamed(("renamed/ecg",), ("of a user",))

    deployments = {one.id: one for one in client.read_deployments()}
    assert old not in deployments
    assert own in deployments
    assert len(deployments[new].schedules) == 1
    automation = automations(api)["of a user"]
    assert automation["actions"][0]["deployment_id"] == str(new)
    assert str(new) in automation["trigger"]["match_related"]["prefect.resource.id"]
    runs = client.read_flow_runs()
    assert done.id in {run.id for run in runs}  # history stays
    (moved,) = [run for run in runs if run.deployment_id == new and not run.auto_scheduled]
    assert (moved.parameters, moved.tags, moved.expected_start_time) == (
        {"n": 3},
        ["mine"],
        waiting.expected_start_time,
    )
    left = [run for run in runs if run.deployment_id == old or run.id == waiting.id]
    assert {(run.id, run.state_name) for run in left} <= {
        (done.id, "Completed"), (waiting.id, "Moved")
    }  # fmt: skip
    assert client.read_flow_run(waiting.id).state_type == StateType.CANCELLED
    assert replace_earlier(api) == Renamed((), ())
    client.delete_deployment(new)
    client.delete_deployment(own)


SCHEMA = {
    "type": "object",
    "properties": {
        "n_trials": {"type": "integer", "default": 0},
        "profile": {"type": "string", "enum": ["as set", "quick"], "default": "as set"},
    },
}


def replace_with_schema(client: SyncPrefectClient, name: str) -> tuple[UUID, UUID]:
    flow_id = client.create_flow_from_name(name)
    old = client.create_deployment(flow_id, "ecg", enforce_parameter_schema=False)
    new = client.create_deployment(
        flow_id, name, parameter_openapi_schema=SCHEMA, enforce_parameter_schema=True
    )
    return old, new


def test_a_waiting_run_moves_without_parameters_that_are_unset_or_unknown_now(
    client: SyncPrefectClient, api: httpx.Client
) -> None:
    old, new = replace_with_schema(client, "strict")
    given = {"n_trials": None, "profile": None, "gone": 3}
    ask(client, old, state=Scheduled(), parameters=given)
    ask(client, old, state=Scheduled(), parameters={"n_trials": 4, "profile": "quick"})
    assert replace_earlier(api).deployments == ("strict/ecg",)
    moved = [run.parameters for run in client.read_flow_runs() if run.deployment_id == new]
    assert sorted(moved, key=len) == [{}, {"n_trials": 4, "profile": "quick"}]
    client.delete_deployment(new)


def test_a_waiting_run_that_is_refused_stays_cancelled_and_the_others_move(
    client: SyncPrefectClient, api: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = replace_with_schema(client, "refusing")
    refused = ask(client, old, state=Scheduled(), parameters={"n_trials": "many"})
    ask(client, old, state=Scheduled(), parameters={"n_trials": 4})
    assert replace_earlier(api).deployments == ("refusing/ecg",)
    assert f"run {refused.name} is cancelled and not moved" in caplog.text
    (moved,) = [run for run in client.read_flow_runs() if run.deployment_id == new]
    assert moved.parameters == {"n_trials": 4}
    state = client.read_flow_run(refused.id).state
    assert state is not None
    assert (state.type, state.name) == (StateType.CANCELLED, "Not moved")
    assert "the new deployment refuses its parameters" in str(state.message)
    assert replace_earlier(api) == Renamed((), ())
    client.delete_deployment(new)


def test_a_move_that_was_cut_off_is_continued_and_the_run_never_waits_twice(
    client: SyncPrefectClient, api: httpx.Client
) -> None:
    old, new = replace_with_schema(client, "cut-off")
    later = datetime.now(UTC) + timedelta(days=1)
    run = ask(client, old, state=Scheduled(scheduled_time=later), parameters={"n_trials": 4})
    waiting = []

    def look(request: httpx.Request) -> None:
        if request.url.path.endswith("/create_flow_run"):
            waiting.append(client.read_flow_run(run.id).state_type)
            msg = "the server is stopped"
            raise httpx.ConnectError(msg)

    with (
        httpx.Client(
            base_url=api.base_url, trust_env=False, event_hooks={"request": [look]}
        ) as cut_off,
        pytest.raises(httpx.ConnectError),
    ):
        replace_earlier(cut_off)
    assert waiting == [StateType.CANCELLED]
    for _ in range(2):
        replace_earlier(api)
        (moved,) = [one for one in client.read_flow_runs() if one.deployment_id == new]
        assert moved.parameters == {"n_trials": 4}
        assert moved.expected_start_time == run.expected_start_time
    client.delete_deployment(new)


def test_the_automations_have_names_and_descriptions_and_keep_their_switches(
    client: SyncPrefectClient, api: httpx.Client
) -> None:
    put_automations(api)
    names = {one["name"] for one in make_automations(check="x")}
    assert not names & set(automations(api))  # there is no monitor-drift yet
    check = deploy(client, "monitor-drift", "monitor-drift")
    put_automations(api)
    first = automations(api)
    assert names <= set(first)
    assert all(first[name]["description"] for name in names)
    assert first["Check for drift after a release"]["enabled"] is False
    assert first["Check for drift after a release"]["actions"][0]["deployment_id"] == str(check)
    for one in first.values():
        body = {"enabled": not one["enabled"]}
        api.patch(f"/automations/{one['id']}", json=body).raise_for_status()
    switched = {name: automations(api)[name]["enabled"] for name in names}
    assert switched == {name: not first[name]["enabled"] for name in names}
    put_automations(api)
    again = automations(api)
    assert {name: again[name]["enabled"] for name in names} == switched
    assert {name: again[name]["id"] for name in names} == {n: first[n]["id"] for n in names}
    client.delete_deployment(check)
