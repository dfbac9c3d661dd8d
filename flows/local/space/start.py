"""Serve the release beside this file: ``python start.py``, the command of the container.

The folder of this file is read-only. Everything is written below ``ECG_HOME``: the key that signs
the release in this container, the prediction log, recordings. This file is copied into the Space
and imports only the standard library and the code of the release.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_RELEASE: Final = "release.json"
_STORE: Final = "bentoml"
_KEYS: Final = "SPACE_API_KEY_HASHES"
_PORT: Final = "7860"
_LIMIT_PER_MIN: Final = "60"


def find_source(folder: Path) -> Path:
    """Find the directory of the release's code; the folder has one bento."""
    (source,) = (folder / _STORE / "bentos" / "ecg").glob("*/src")
    return source


def write_keys(home: Path, text: str) -> Path:
    """Write the keys file from a secret of the Space, one key a line or separated by semicolons.

    Raises
    ------
    SystemExit
        If there is no key: anyone on the internet can reach the service.

    """
    lines = [line.strip() for line in text.replace(";", "\n").splitlines() if line.strip()]
    if not lines:
        sys.exit(
            f"error: the Space needs the secret {_KEYS}, with the lines that `ecg api-key` prints: "
            "anyone on the internet can reach it"
        )
    path = home / "api-keys"
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make_environment(folder: Path, home: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Make the environment of the service; given variables win, and the secret is removed."""
    return {
        "ECG_SERVICE_HOST": "0.0.0.0",  # noqa: S104  a container; every request needs a key
        "ECG_SERVICE_PORT": _PORT,
        "ECG_SERVICE_WORKERS": "2",
        "ECG_RATE_LIMIT_PER_MIN": _LIMIT_PER_MIN,
        **{name: value for name, value in given.items() if name != _KEYS},
        "ECG_HOME": str(home),
        "ECG_API_KEYS_FILE": str(home / "api-keys"),
        "BENTOML_HOME": str(home / _STORE),
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(find_source(folder)), given.get("PYTHONPATH")])
        ),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def prepare(folder: Path, home: Path) -> None:
    """Check the release, and make it the one that the home serves."""
    sys.dont_write_bytecode = True  # a release has no other code than what was packed
    sys.path.insert(0, str(find_source(folder)))
    from ecg_lib.operations.keys.signatures import make_key, sign_release
    from ecg_lib.operations.releases import (
        CURRENT,
        bento_source,
        check_bento_code,
        read_release,
        write_release,
    )
    from ecg_lib.operations.settings import Settings

    store = home / _STORE
    if store.is_symlink() or not store.exists():
        store.unlink(missing_ok=True)
        store.symlink_to(folder / _STORE)
    settings = Settings(home=home)
    release = read_release(folder / _RELEASE)
    if release is None:
        sys.exit(f"error: {_RELEASE} must be beside start.py, it is missing")
    check_bento_code(bento_source(settings.bentoml_home, release), release.code_hash)
    make_key(settings)
    sign_release(settings, release, why="the release of this Space")
    write_release(settings.serving_dir / CURRENT, release)


def main() -> None:
    """Prepare the home, and become the host of the service."""
    os.umask(0o077)
    folder = Path(__file__).resolve().parent
    home = Path(os.environ.get("ECG_HOME") or Path.home() / "ecg").absolute()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_keys(home, os.environ.get(_KEYS, ""))
    environment = make_environment(folder, home, os.environ)
    prepare(folder, home)
    os.execve(sys.executable, [sys.executable, "-m", "bentos.host"], environment)  # noqa: S606


if __name__ == "__main__":
    main()
