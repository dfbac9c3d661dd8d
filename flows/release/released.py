"""What is released, loaded for use without a server."""

from __future__ import annotations

import os

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import BundleError
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from flows.doors.bento_store import load_bundle
from flows.release.reference import has_reference, read_reference
from flows.release.serving import read_current


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
    """
    release = read_current(settings)
    if release is None:
        msg = "there must be a released model, nothing was released yet; `ecg up` trains one"
        raise BundleError(msg)
    os.environ.setdefault("BENTOML_HOME", str(settings.bentoml_home))
    return release, load_bundle(release.model_tag)
