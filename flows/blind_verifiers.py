"""Networks of the R-peak detector that have not seen a record, to judge it out of fold.

The network that ships (:mod:`ecg_lib.beat_verifier`) was fitted to DS1 and the paced records. For
figures on these there are five more, each blind to a fifth of them, made by
:mod:`flows.beat_verifier_fitting` in one go with the one that ships.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Final

from ecg_lib.beat_verifier import BeatVerifier

BLIND: Final = Path(__file__).parent / "blind_verifier_weights"

_FOLDS: Final = "folds.json"


def save_blind_verifiers(
    verifiers: list[BeatVerifier], fold_of: dict[str, int], directory: Path = BLIND
) -> None:
    """Write the network of each fold, and the fold of each record."""
    directory.mkdir(parents=True, exist_ok=True)
    for fold, verifier in enumerate(verifiers):
        verifier.save(directory / f"{fold}.npz")
    (directory / _FOLDS).write_text(
        json.dumps(fold_of, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )


@lru_cache
def load_blind_verifier(record: str, directory: Path = BLIND) -> BeatVerifier | None:
    """Load the network that has not seen a record; None for records that none has seen."""
    fold = json.loads((directory / _FOLDS).read_text(encoding="utf-8")).get(record)
    return None if fold is None else BeatVerifier.load(directory / f"{fold}.npz")
