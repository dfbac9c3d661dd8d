"""The reference bundle: the model that ships with the software.

The best champion of this repository's own pipeline lies beside the code, so that a newcomer
without data or network gets a real classifier, and every model that is trained later has
something to beat.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

from ecg_lib.classifier.bundle import Bundle, BundleSource, change_source, read_bundle
from ecg_lib.evaluation.beat_scoring import BeatCounts
from ecg_lib.training.model_card import write_model_card

REFERENCE: Final = Path(__file__).parent / "reference_bundle"


def has_reference(directory: Path = REFERENCE) -> bool:
    """Tell whether a bundle ships with this checkout."""
    return directory.is_dir()


def read_reference(directory: Path = REFERENCE) -> Bundle:
    """Read the bundle that ships, and check its hashes.

    Raises:
        BundleError: If there is none, or it was changed.
    """
    return read_bundle(directory)


def ship(bundle: Bundle, directory: Path = REFERENCE) -> Bundle:
    """Make a bundle the one that ships, with a card of today; the one before is replaced."""
    draft = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    provenance = replace(bundle.provenance, source=BundleSource.SHIPPED)
    by_subject = {
        subject: BeatCounts(**counts)
        for subject, counts in bundle.metrics.get("by_subject", {}).items()
    }
    card = write_model_card(provenance, bundle.metrics, by_subject, bundle.config)
    shipped = change_source(bundle, BundleSource.SHIPPED, draft, model_card=card)
    shutil.rmtree(directory, ignore_errors=True)
    shipped.directory.rename(directory)
    return read_bundle(directory)
