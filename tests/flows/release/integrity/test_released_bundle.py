"""The bundle of the current release is loaded if it is signed and is the one that was released."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import BundleError, BundleIntegrityError
from ecg_lib.operations.keys.signatures import SignatureError, make_key
from ecg_lib.operations.releases import CURRENT, Release, write_release
from ecg_lib.operations.settings import Settings
from flows.release import load_released
from flows.release.integrity.signing import ensure_signed
from flows.release.load_released import load_bundle_to_use, load_released_bundle
from flows.release.switch_service import find_bundle

Make = Callable[..., Release]


@pytest.fixture
def release(settings: Settings, make_stored: Make, toy_bundle: Bundle) -> Release:
    """The toy as current release, which is not signed yet."""
    make_key(settings)
    release = make_stored("1").model_copy(update={"bundle_hash": toy_bundle.hash})
    directory = find_bundle(settings, release.model_tag)
    shutil.rmtree(directory)
    shutil.copytree(toy_bundle.directory, directory)
    write_release(settings.serving_dir / CURRENT, release)
    return release


def test_a_signed_bundle_is_loaded(
    settings: Settings, release: Release, toy_bundle: Bundle
) -> None:
    ensure_signed(settings, release, why="a test")
    found, bundle = load_released_bundle(settings)
    assert (found, bundle.hash) == (release, toy_bundle.hash)
    version, bundle = load_bundle_to_use(settings)
    assert (version, bundle.hash) == ("1", toy_bundle.hash)


@pytest.mark.usefixtures("release")
def test_a_bundle_that_is_not_signed_is_refused(settings: Settings) -> None:
    with pytest.raises(SignatureError):
        load_released_bundle(settings)


def test_another_bundle_than_the_released_one_is_refused(
    settings: Settings, release: Release, make_toy_bundle: Callable[..., Bundle]
) -> None:
    ensure_signed(settings, release, why="a test")
    directory = find_bundle(settings, release.model_tag)
    shutil.rmtree(directory)
    shutil.copytree(make_toy_bundle("another").directory, directory)
    with pytest.raises(
        BundleIntegrityError, match=f"must be the bundle {release.bundle_hash[:12]}"
    ):
        load_released_bundle(settings)


def test_without_a_release_the_bundle_that_ships_is_used(
    settings: Settings, toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_released, "has_reference", lambda: True)
    monkeypatch.setattr(load_released, "read_reference", lambda: toy_bundle)
    assert load_bundle_to_use(settings) == ("shipped", toy_bundle)
    monkeypatch.setattr(load_released, "has_reference", lambda: False)
    with pytest.raises(BundleError, match="nothing was released yet"):
        load_bundle_to_use(settings)
