"""Deployments and automations in Prefect: their names, and the change from earlier names.

A deployment is named by its flow. Earlier versions named each one ``ecg``: what such a version left
in Prefect is replaced, with the automations that refer to it, and its names are still understood.
As a module it does the same for a server that ``PREFECT_API_URL`` names: ``python -m
flows.doors.ui.deployments``, after ``prefect deploy --all``.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import httpx

from flows.doors.ui.prefect_api import open_api

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

logger = logging.getLogger(__name__)

EARLIER_NAME: Final = "ecg"
"""Name that earlier versions gave to every deployment."""

ASKED_BY_DRIFT: Final = "drift"
"""Tag of the runs that a drift check asked for."""

_PAGE: Final = 200
_HUNG_AFTER_S: Final = 3600
_MOVED: Final = "Moved"
"""State of a run that was cancelled to be asked of the new deployment."""
_MAX_REFUSAL: Final = 500
_ENDED: Final = [f"prefect.flow-run.{state}" for state in (
    "Completed", "Failed", "Crashed", "Cancelled", "NothingServed", "TimedOut",
)]  # fmt: skip


class Renamed(NamedTuple):
    """Changes that were made on a server."""

    deployments: tuple[str, ...]
    """Deployments that are gone, such as ``pipeline/ecg``."""
    automations: tuple[str, ...]
    """Automations that refer to the new ones now."""


def name_deployment(flow: str) -> str:
    """Name the deployment of a flow; a name that has a slash is one already."""
    return flow if "/" in flow else f"{flow}/{flow}"


def find_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse:
    """Find a deployment by its name, or by the one that earlier versions gave to it.

    Raises:
        ObjectNotFound: If there is none.
    """
    from prefect.exceptions import ObjectNotFound

    flow, _, deployment = name.partition("/")
    if deployment != EARLIER_NAME:
        return client.read_deployment_by_name(name)
    try:
        return client.read_deployment_by_name(name_deployment(flow))
    except ObjectNotFound:
        return client.read_deployment_by_name(name)  # of a server that was not deployed to since


def replace_earlier(client: httpx.Client) -> Renamed:
    """Replace the deployments with the earlier name by those of now; again changes nothing.

    Automations that refer to one then refer to the new one. Runs that wait are asked of the new
    one, except those of a drift check, which asks again itself. Finished runs stay as they are.

    Args:
        client: Of the API of a server that was deployed to.

    Raises:
        httpx.HTTPError: If the server fails.
    """
    flows = {flow["id"]: str(flow["name"]) for flow in _list(client, "flows")}
    deployments = list(_list(client, "deployments"))
    new = {one["flow_id"]: one["id"] for one in deployments if one["name"] == flows[one["flow_id"]]}
    old = {
        one["id"]: new[one["flow_id"]]
        for one in deployments
        if one["name"] == EARLIER_NAME and one["flow_id"] in new
    }
    if not old:
        return Renamed((), ())
    automations = tuple(_point_to(client, old))
    for before, after in old.items():
        _move_waiting(client, before, after)
        answer = client.delete(f"/deployments/{before}")
        if answer.status_code != httpx.codes.NOT_FOUND:  # by a request that was sent again
            answer.raise_for_status()
    gone = [f"{flows[one['flow_id']]}/{EARLIER_NAME}" for one in deployments if one["id"] in old]
    return Renamed(tuple(sorted(gone)), automations)


def _point_to(client: httpx.Client, new_of: Mapping[str, str]) -> Iterator[str]:
    for automation in list(_list(client, "automations")):
        text = before = json.dumps(automation)
        for old, new in new_of.items():
            text = text.replace(old, new)
        if text == before:
            continue
        client.put(
            f"/automations/{automation['id']}", json=_body_of(json.loads(text))
        ).raise_for_status()
        yield str(automation["name"])


def _body_of(automation: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value for key, value in automation.items() if key not in {"id", "created", "updated"}
    }


def _move_waiting(client: httpx.Client, old: str, new: str) -> None:
    """Ask the new deployment for the runs that wait, and cancel those of the old one.

    Each run is cancelled first, with its time, so that it cannot run twice; a call that was cut off
    in between is continued by the next one. A run that the new deployment refuses stays cancelled.
    """
    known = _read_parameters(client, new)
    for run in [
        *_find_runs(client, old, {"name": {"any_": [_MOVED]}}),
        *_find_waiting(client, old),
    ]:
        if run["auto_scheduled"] or ASKED_BY_DRIFT in run["tags"]:
            continue
        time = {"scheduled_time": run["state"]["state_details"]["scheduled_time"]}
        cancelled = {"type": "CANCELLED", "name": _MOVED, "state_details": time}
        _set_state(client, run["id"], {**cancelled, "message": "Asked of the new deployment."})
        body = {
            "parameters": {
                name: value
                for name, value in run["parameters"].items()
                if value is not None and (known is None or name in known)
            },
            "tags": run["tags"],
            "idempotency_key": f"renamed-{run['id']}",
            "state": {"type": "SCHEDULED", "state_details": time},
        }
        answer = client.post(f"/deployments/{new}/create_flow_run", json=body)
        if answer.is_client_error:
            why = f"the new deployment refuses its parameters: {answer.text[:_MAX_REFUSAL]}"
            logger.warning("run %s is cancelled and not moved: %s", run["name"], why)
            state = {"type": "CANCELLED", "name": "Not moved", "message": why}
            _set_state(client, run["id"], state)
        else:
            answer.raise_for_status()


def _find_waiting(client: httpx.Client, deployment: str) -> list[dict[str, Any]]:
    return _find_runs(client, deployment, {"type": {"any_": ["SCHEDULED"]}})


def _find_runs(
    client: httpx.Client, deployment: str, state: Mapping[str, Any]
) -> list[dict[str, Any]]:
    wanted = {"flow_runs": {"deployment_id": {"any_": [deployment]}, "state": state}}
    return list(_list(client, "flow_runs", wanted))


def _set_state(client: httpx.Client, run: str, state: Mapping[str, Any]) -> None:
    body = {"state": state, "force": True}
    client.post(f"/flow_runs/{run}/set_state", json=body).raise_for_status()


def _read_parameters(client: httpx.Client, deployment: str) -> frozenset[str] | None:
    """Read the names of the parameters of a deployment; None if it takes any."""
    found = client.get(f"/deployments/{deployment}").raise_for_status().json()
    if not found["enforce_parameter_schema"]:
        return None
    return frozenset((found["parameter_openapi_schema"] or {}).get("properties", {}))


def put_automations(client: httpx.Client) -> None:
    """Create the automations of the platform, or bring them up to date; a switch stays as it is.

    Args:
        client: Of the API of a server that was deployed to.

    Raises:
        httpx.HTTPError: If the server fails.
    """
    deployments = {str(one["name"]): str(one["id"]) for one in _list(client, "deployments")}
    if "monitor-drift" not in deployments:
        return
    existing = {one["name"]: one for one in _list(client, "automations")}
    for automation in make_automations(check=deployments["monitor-drift"]):
        found = existing.get(automation["name"])
        if found is None:
            _create_automation(client, automation)
        else:
            body = {**automation, "enabled": found["enabled"]}
            client.put(f"/automations/{found['id']}", json=body).raise_for_status()


def _create_automation(client: httpx.Client, automation: Mapping[str, Any]) -> None:
    """Create an automation once, also where a request that failed has created it."""
    for pause_s in (0.2, 0.8, 3.2, None):
        # Sent again blindly, it could make a second one of the name.
        answer = client.post("/automations/", json=automation, extensions={"repeats": False})
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or pause_s is None:
            answer.raise_for_status()
            return
        time.sleep(pause_s)
        if any(one["name"] == automation["name"] for one in _list(client, "automations")):
            return


def make_automations(*, check: str) -> list[dict[str, Any]]:
    """Make the automations of the platform.

    Args:
        check: Id of the deployment of `monitor-drift`.
    """
    of_check = {
        "prefect.resource.id": f"prefect.deployment.{check}",
        "prefect.resource.role": "deployment",
    }
    return [
        {
            "name": "Cancel a drift check that hangs",
            "description": "Cancels a run of monitor-drift that has not ended after an hour. Only "
            "one check runs at a time, so a check that hangs would stop all later ones.",
            "enabled": True,
            "trigger": {
                "type": "event",
                "posture": "Proactive",
                "match": {"prefect.resource.id": "prefect.flow-run.*"},
                "match_related": of_check,
                "for_each": ["prefect.resource.id"],
                "after": ["prefect.flow-run.Running"],
                "expect": _ENDED,
                "threshold": 1,
                "within": _HUNG_AFTER_S,
            },
            "actions": [{"type": "cancel-flow-run"}],
        },
        {
            "name": "Check for drift after a release",
            "description": "Starts monitor-drift when release-service or rollback-champion has "
            "ended, which asks the golden requests of what is served now. Off by default, as the "
            "schedule does it within 15 minutes.",
            "enabled": False,
            "trigger": {
                "type": "event",
                "posture": "Reactive",
                "match": {"prefect.resource.id": "prefect.flow-run.*"},
                "match_related": {
                    "prefect.resource.name": ["release-service", "rollback-champion"],
                    "prefect.resource.role": "flow",
                },
                "expect": ["prefect.flow-run.Completed"],
                "threshold": 1,
                "within": 0,
            },
            "actions": [
                {
                    "type": "run-deployment",
                    "source": "selected",
                    "deployment_id": check,
                    "parameters": {},
                }
            ],
        },
    ]


def _list(
    client: httpx.Client, what: str, body: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    offset = 0
    while True:
        wanted = {**(body or {}), "limit": _PAGE, "offset": offset}
        found = client.post(f"/{what}/filter", json=wanted).raise_for_status().json()
        yield from found
        offset += len(found)
        if len(found) < _PAGE:
            return


def main() -> None:
    """Rename and put automations on the server that the environment names."""
    user, _, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    url = os.environ["PREFECT_API_URL"]
    auth = (user, password) if user else None
    with open_api(url, auth=auth) as client:
        renamed = replace_earlier(client)
        put_automations(client)
    for name in renamed.deployments:
        sys.stdout.write(f"{name} has a name of its own now\n")


if __name__ == "__main__":
    main()
