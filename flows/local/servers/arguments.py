"""The command line that both servers share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ecg_lib.operations.settings import Settings
from flows.doors.addresses import LOOPBACK
from flows.local.servers.gate import OWN_NAMES, Credentials
from flows.local.servers.secret_files import read_mounted_secret, read_secret


class Arguments(NamedTuple):
    """Where a server listens, and whom it answers."""

    host: str
    names: tuple[str, ...]
    credentials: Credentials


def read_arguments(
    given: Sequence[str] | None, *, settings: Settings, name: str, description: str
) -> Arguments:
    """Read the command line of a server.

    Args:
        given: The arguments; None takes those of the process.
        settings: Where the secret is made when none is mounted.
        name: Name of the secret.
        description: What the server is, for ``--help``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on")
    parser.add_argument(
        "--name", action="append", default=[], help="one more host name that requests may use"
    )
    parser.add_argument("--secret", type=Path, help="mounted secret; else made below ECG_HOME")
    parsed = parser.parse_args(given)
    credentials = (
        read_secret(settings, name) if parsed.secret is None else read_mounted_secret(parsed.secret)
    )
    return Arguments(parsed.host, (*OWN_NAMES, *parsed.name), credentials)
