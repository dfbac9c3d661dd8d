"""The bundle in use, loaded without a server: what is released, else what ships.

The best champion of this repository's own pipeline ships next to the code, so that a newcomer
without data or network gets a real classifier, and every model that is trained later has
something to beat.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from ecg_lib.classifier.bundle import Bundle, BundleSource, change_source, read_bundle
from ecg_lib.errors import BundleError, BundleIntegrityError
from ecg_lib.evaluation.beat_scoring import BeatCounts
from ecg_lib.operations.keys.signatures import check_signature
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from ecg_lib.training.model_card import write_model_card
from flows.release.switch_service import find_bundle, read_current

REFERENCE: Final = Path(__file__).parent / "reference_bundle"


def has_reference(directory: Path = REFERENCE) -> bool:
    """Return whether a bundle ships with this checkout."""
    return directory.is_dir()


def read_reference(directory: Path = REFERENCE) -> Bundle:
    """Read the bundle that ships, and check its hashes.

    Raises:
        BundleError: If there is none, or it was changed.
    """
    return read_bundle(directory)


def ship(bundle: Bundle, directory: Path = REFERENCE) -> Bundle:
    """Make a bundle the one that ships, with a card of today; the one before is replaced."""
    provenance = replace(bundle.provenance, source=BundleSource.SHIPPED)
    by_subject = {
        subject: BeatCounts(**counts)
        for subject, counts in bundle.metrics.get("by_subject", {}).items()
    }
    card = write_model_card(provenance, bundle.metrics, by_subject, bundle.config)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as draft:
        shipped = change_source(
            bundle, BundleSource.SHIPPED, Path(draft) / directory.name, model_card=card
        )
        shutil.rmtree(directory, ignore_errors=True)
        shipped.directory.rename(directory)
    return read_bundle(directory)


def load_bundle_to_use(settings: Settings) -> tuple[str, Bundle]:
    """Load the bundle of the current release, else the one that ships.

    Returns:
        Version of the model, ``shipped`` where nothing was released, and its bundle.

    Raises:
        BundleError: If nothing was released yet and none ships.
    """
    if read_current(settings) is None and has_reference():
        return "shipped", read_reference()
    release, bundle = load_released_bundle(settings)
    return release.model_version, bundle


def load_released_bundle(settings: Settings) -> tuple[Release, Bundle]:
    """Load the bundle of the current release.

    Raises:
        BundleError: If nothing was released yet.
        BundleIntegrityError: If its bundle has changed.
        SignatureError: If the release is not signed.
    """
    release = read_current(settings)
    if release is None:
        msg = "there must be a released model, nothing was released yet; `ecg up` trains one"
        raise BundleError(msg)
    check_signature(settings, release)
    bundle = read_bundle(find_bundle(settings, release.model_tag))
    if bundle.hash != release.bundle_hash:
        msg = (
            f"{release.model_tag} must be the bundle {release.bundle_hash[:12]} of the release, "
            f"got {bundle.hash[:12]}"
        )
        raise BundleIntegrityError(msg)
    return release, bundle
