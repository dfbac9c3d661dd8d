"""A home and ports of the demo's own, so that it never touches those of the user."""

from __future__ import annotations

import os
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from ecg_lib.operations.keys.key_files import make_key_file
from ecg_lib.operations.settings import Profile, Settings
from flows.doors.addresses import LOOPBACK
from flows.local.commands.platform import enter_platform

_NOWHERE: Final = f"http://{LOOPBACK}:9/mitdb/1.0.0/"
"""Nothing is downloaded, whatever the network: the port of the discard service."""

_AUDIT_SHARE: Final = 1.0
"""All strips are drawn for review, so that the same ones are labelled each time."""

_PATIENT_KEY: Final = "ecg demo loop, simulated people 0"
"""Key of the patient hashes: it decides who is held out, 12 of the 32 new people. A secret at a
site; the people of the demo are simulated."""


def make_home(directory: Path | None) -> Path:
    """Make an empty directory for the demo; a temporary one when none is named.

    Raises:
        ValueError: If the directory is not empty.
    """
    if directory is None:
        return Path(tempfile.mkdtemp(prefix="ecg-demo-"))
    path = directory.expanduser().absolute()
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        msg = f"the demo needs an empty directory for its home, {path} has files"
        raise ValueError(msg)
    return path


def enter_home(home: Path) -> Settings:
    """Enter the home with the settings of the demo; those of the user do not count.

    All strips are drawn for review, and their signals kept: the demo has minutes where a site has
    weeks. The key of the patient hashes is fixed, so that the same people are held out each time.
    """
    for name in [name for name in os.environ if name.startswith("ECG_")]:
        del os.environ[name]
    service, prefect, mlflow = find_free_ports(3)
    os.environ.update(
        {
            "ECG_HOME": str(home),
            "ECG_SERVICE_PORT": str(service),
            "ECG_PREFECT_PORT": str(prefect),
            "ECG_MLFLOW_PORT": str(mlflow),
            "ECG_SERVICE_WORKERS": "1",
            "ECG_PROFILE": Profile.DEMO.value,
            "ECG_PHYSIONET_URL": _NOWHERE,
            "ECG_AUDIT_SHARE": str(_AUDIT_SHARE),
            "ECG_KEEP_SIGNALS": "true",
        }
    )
    settings = enter_platform()
    make_key_file(settings.patient_key_path, _PATIENT_KEY)
    return settings


def find_free_ports(count: int) -> list[int]:
    """Find ports of this machine that are free now, all different."""
    with ExitStack() as probes:
        found = []
        for _ in range(count):
            probe = probes.enter_context(socket.socket())
            probe.bind((LOOPBACK, 0))
            found.append(int(probe.getsockname()[1]))
        return found
