"""Start what a container starts, without an engine: another user, other folders and variables.

The packages of a container are those of the environment of the tests. Where this is root, the
process is of the user `nobody`, who owns its own data alone.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.releases import NOT_SERVING, Release, bento_source, hash_code
from ecg_lib.operations.settings import Settings
from flows.doors.addresses import PROJECT_DIR
from tests.homes import make_release

PACKAGES: Final = Path(np.__file__).parents[1]
_SYSTEM: Final = ("/usr/bin:/usr/local/bin", "/bin")


@dataclass(frozen=True)
class Machine:
    """A place with a user, a Python and nothing of ours."""

    folder: Path
    account: pwd.struct_passwd | None
    """None where this user cannot become another one."""

    @property
    def programs(self) -> Path:
        """The folder of ``python`` and ``prefect``, as an image has them on its path."""
        return self.folder / "image" / "bin"

    def make_data(self, name: str) -> Path:
        """Make a folder that the user of the container owns."""
        path = self.folder / name
        path.mkdir(mode=0o700)
        self.give(path)
        return path

    def give(self, path: Path) -> None:
        """Let the user of the container own a file or folder."""
        if self.account is not None:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)

    def start(
        self, command: Sequence[str], *, cwd: Path, variables: Mapping[str, str], log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start a command with these variables alone."""
        return subprocess.Popen(
            list(command),
            cwd=cwd,
            env={
                "PATH": f"{self.programs}:/usr/bin:/bin",
                "HOME": str(self.folder / "user"),
                "TMPDIR": str(self.folder / "tmp"),
                **variables,
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            **self._who,
        )

    @property
    def _who(self) -> dict[str, Any]:
        if self.account is None:
            return {}
        return {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}


@contextmanager
def open_machine() -> Iterator[Machine]:
    """Make a place, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="ecg-container-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        python = Path(sys.executable)
        if account is not None:
            # The interpreter of root may lie where no other user may look.
            version = f"python3.{sys.version_info.minor}"
            others = [shutil.which(version, path=place) for place in _SYSTEM]
            known = [python, *(Path(one) for one in others if one is not None)]
            runs = [one for one in known if _runs(one, account)]
            python, account = (runs[0], account) if runs else (python, None)
        machine = Machine(folder, account)
        # An environment with the packages and without our code, which is editable in the other.
        image = folder / "image"
        subprocess.run([python, "-m", "venv", "--without-pip", image], check=True)
        (site,) = image.glob("lib/python*/site-packages")
        (site / "packages.pth").write_text(f"{PACKAGES}\n")
        # The lock has async-timeout for Python before 3.11.3 alone, which Debian may have.
        (site / "async_timeout.py").write_text("from asyncio import timeout as timeout\n")
        prefect = machine.programs / "prefect"
        prefect.write_text('#!/bin/sh\nexec python -m prefect "$@"\n')
        prefect.chmod(0o755)
        for data in ("user", "tmp"):
            machine.make_data(data)
        yield machine


def _runs(python: Path, account: pwd.struct_passwd) -> bool:
    try:
        done = subprocess.run(
            [python, "-c", "import numpy"],
            env={"PYTHONPATH": str(PACKAGES)},
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


def store_release(settings: Settings, bundle: Bundle) -> Release:
    """Put a bundle and this code into the store of a home, as a release."""
    release = make_release(
        "toy", version="7", bundle_hash=bundle.hash, code_hash=hash_code(PROJECT_DIR)
    )
    source = bento_source(settings.bentoml_home, release)
    ignored = shutil.ignore_patterns("__pycache__", *(Path(one).name for one in NOT_SERVING))
    for package in ("bentos", "ecg_lib"):
        shutil.copytree(PROJECT_DIR / package, source / package, ignore=ignored)
    stored = settings.bentoml_home / "models" / "ecg_bundle" / "toy" / "bundle"
    shutil.copytree(bundle.directory, stored)
    return release
