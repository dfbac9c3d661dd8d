"""The hash of the code that serves: what tells whether a release needs another process."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

SERVING_PACKAGES: Final = ("bentos", "ecg_lib")
"""The packages of a bento."""


def hash_code(root: Path) -> str:
    """Compute the SHA-256 of the serving packages below a directory.

    Parameters
    ----------
    root : Path
        A checkout, or the ``src`` directory of a bento.

    Raises
    ------
    FileNotFoundError
        If a package is missing.

    """
    digest = hashlib.sha256()
    for package in SERVING_PACKAGES:
        if not (root / package).is_dir():
            msg = f"{root.name} must hold the packages {SERVING_PACKAGES}, {package} is missing"
            raise FileNotFoundError(msg)
        for path in sorted((root / package).rglob("*")):
            name = path.relative_to(root)
            if path.is_file() and "__pycache__" not in name.parts:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                digest.update(f"{name.as_posix()} {content}\n".encode())
    return digest.hexdigest()
