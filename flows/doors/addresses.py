"""Addresses of the services of the platform, and the secrets that clients of them carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ecg_lib.operations.settings import Settings

PROJECT_DIR: Final = Path(__file__).resolve().parents[2]
"""Where prefect.yaml and the flows are; the platform runs from a checkout."""

LOOPBACK: Final = "127.0.0.1"

_SECRETS: Final = ("PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD", "ECG_API_KEY")
_SECRETS_OF_STORES: Final = ("AWS_", "FSSPEC_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the three servers answer."""

    prefect: str
    mlflow: str
    service: str


def find_addresses(settings: Settings) -> Addresses:
    """Find where the three servers answer on this machine."""
    return Addresses(
        prefect=f"http://{LOOPBACK}:{settings.prefect_port}",
        mlflow=f"http://{LOOPBACK}:{settings.mlflow_port}",
        service=f"http://{_connectable(settings.service_host)}:{settings.service_port}",
    )


def _connectable(host: str) -> str:
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        return LOOPBACK
    return f"[{host}]" if ":" in host else host


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Copy an environment without logins, for a process that calls none of the servers."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _SECRETS and not name.startswith(_SECRETS_OF_STORES)
    }
