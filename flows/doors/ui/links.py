"""Addresses of pages: of flow runs in Prefect, of runs and versions in MLflow, of the service."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from prefect.runtime import flow_run

from ecg_lib.operations.settings import Settings
from flows.doors.addresses import find_addresses
from flows.doors.ui.columns import PREFECT_RUN

MODEL_NAME: Final = "ecg"
"""Name of the registered model, see :mod:`flows.doors.registry`."""


def tag_origin() -> dict[str, str]:
    """Make the tag of a run in MLflow that names this flow run; nothing outside of one."""
    return {} if flow_run.id is None else {PREFECT_RUN: flow_run.id}


def link_flow_run(settings: Settings, run_id: str) -> str:
    """Address of a flow run in Prefect."""
    return f"{find_addresses(settings).prefect}/runs/flow-run/{run_id}"


def link_this_run(settings: Settings) -> str | None:
    """Address of the flow run that asks; None outside of one."""
    return None if flow_run.id is None else link_flow_run(settings, flow_run.id)


def link_mlflow(settings: Settings) -> str:
    """Address of MLflow for a browser: that of the server in use, without a login in it."""
    own = find_addresses(settings).mlflow
    try:
        address = urlsplit(settings.mlflow_tracking_uri or "")
        host, port = address.hostname, address.port
    except ValueError:  # a wrong port, or brackets that are not closed
        return own
    if address.scheme not in {"http", "https"} or not host:
        return own
    host = f"[{host}]" if ":" in host else host
    suffix = "" if port is None else f":{port}"
    return f"{address.scheme}://{host}{suffix}{address.path.rstrip('/')}"


def link_run(settings: Settings, experiment_id: str, run_id: str) -> str:
    """Address of a run in MLflow."""
    return f"{link_mlflow(settings)}/#/experiments/{experiment_id}/runs/{run_id}"


def link_version(settings: Settings, version: str) -> str:
    """Address of a model version in MLflow."""
    return f"{link_mlflow(settings)}/#/models/{MODEL_NAME}/versions/{version}"


def link_operations(settings: Settings) -> str:
    """Address of the operations page of the service."""
    return f"{find_addresses(settings).service}/ops"


def as_markdown(title: str, address: str | None) -> str:
    """Write a link in Markdown; the title alone where there is no address."""
    return title if address is None else f"[{title}]({address})"
