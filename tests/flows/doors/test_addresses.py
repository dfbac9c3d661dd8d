"""Where the servers answer."""

from __future__ import annotations

from pathlib import Path

from ecg_lib.operations.settings import Settings
from flows.doors.addresses import find_addresses, without_secrets


def test_a_service_on_every_interface_is_reached_by_loopback(tmp_path: Path) -> None:
    addresses = find_addresses(Settings(home=tmp_path, service_host="::", service_port=3333))
    assert addresses.service == "http://127.0.0.1:3333"


def test_an_address_of_ip_version_6_is_written_in_brackets(tmp_path: Path) -> None:
    addresses = find_addresses(Settings(home=tmp_path, service_host="::1", service_port=3333))
    assert addresses.service == "http://[::1]:3333"


def test_a_process_that_calls_no_server_gets_no_login() -> None:
    given = {
        "PATH": "/bin",
        "PREFECT_API_AUTH_STRING": "ecg:x",
        "MLFLOW_TRACKING_PASSWORD": "x",
        "ECG_API_KEY": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "FSSPEC_S3_SECRET": "x",
    }
    assert without_secrets(given) == {"PATH": "/bin"}
