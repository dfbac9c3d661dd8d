"""Addresses of the services of the platform."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ecg_lib.operations.settings import Settings

PROJECT_DIR: Final = Path(__file__).resolve().parents[2]
"""Where prefect.yaml and the flows are; the platform runs from a checkout."""

LOOPBACK: Final = "127.0.0.1"


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
