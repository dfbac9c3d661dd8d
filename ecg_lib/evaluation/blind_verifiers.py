"""Networks of the R-peak detector that have not seen a record, to judge it out of fold.

The network that ships (:mod:`ecg_lib.signal_path.r_peaks.verifier`) was fitted to development
records. For figures on these there are five more, each blind to a fifth of the people, made by
:mod:`flows.training.fit_verifier` in one go with the one that ships.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from ecg_lib.errors import BundleIntegrityError
from ecg_lib.signal_path.r_peaks.verifier import BeatVerifier

BLIND: Final = Path(__file__).parent / "blind_verifier_weights"

_FOLDS: Final = "folds.json"


def save_blind_verifiers(
    verifiers: list[BeatVerifier], fold_of: dict[str, int], directory: Path = BLIND
) -> None:
    """Write the network of each fold, its hash, and the fold of each record."""
    directory.mkdir(parents=True, exist_ok=True)
    hashes = []
    for fold, verifier in enumerate(verifiers):
        path = directory / f"{fold}.npz"
        verifier.save(path)
        hashes.append(_sha256(path))
    (directory / _FOLDS).write_text(
        json.dumps({"fold_of": fold_of, "sha256": hashes}, indent=1, sort_keys=True) + "\n",
        encoding="utf-8",
    )


@lru_cache
def load_blind_verifier(record: str, directory: Path = BLIND) -> BeatVerifier | None:
    """Load the network that has not seen a record; None for records that none has seen.

    Raises
    ------
        BundleIntegrityError: If its weights are not those that were written for its fold.
    """
    folds = _read_folds(directory)
    fold = folds["fold_of"].get(record)
    if fold is None:
        return None
    path = directory / f"{fold}.npz"
    expected, found = folds["sha256"][fold], _sha256(path)
    if found != expected:
        msg = f"{path.name} must have the SHA-256 {expected[:12]}, got {found[:12]}"
        raise BundleIntegrityError(msg)
    return BeatVerifier.load(path)


def is_fitted(record: str, directory: Path = BLIND) -> bool:
    """Check whether the network that ships was fitted to a record."""
    return record in _read_folds(directory)["fold_of"]


def _read_folds(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / _FOLDS).read_text(encoding="utf-8")))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
