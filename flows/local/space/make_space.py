"""Make the folder of a Hugging Face Space (``sdk: docker``) from the current release.

The folder has what the release needs to serve: its code, its bundle and its lock, as they were
signed, and nothing else of the home. Every user can read the files, as the container runs as
another one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from string import Template
from typing import Final

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import EcgError
from ecg_lib.operations.keys.signatures import check_code
from ecg_lib.operations.releases import BYTECODE, LOCK, Release, bento_source
from ecg_lib.operations.settings import Settings
from flows.release.load_released import load_released_bundle
from flows.release.switch_service import find_bundle

_FILES: Final = Path(__file__).parent
_ATTRIBUTES: Final = "*.onnx filter=lfs diff=lfs merge=lfs -text\n"
"""Spaces accept large files only through LFS."""
_BESIDE_CODE: Final = ("bom.cdx.json",)


class SpaceError(EcgError):
    """The folder of a Space cannot be made."""


def make_space(settings: Settings, directory: Path) -> Release:
    """Make the folder; it must not exist, or be empty.

    Args:
        settings: The home.
        directory: The folder.

    Raises:
        SpaceError: If the folder has files, or the release has no lock.
        BundleError: If nothing was released yet.
        SignatureError: If the code differs from what was signed.
    """
    if directory.exists() and any(directory.iterdir()):
        msg = f"a Space is made in an empty folder, {directory} has files; name another one"
        raise SpaceError(msg)
    release, bundle = load_released_bundle(settings)
    check_code(settings, release)
    source = bento_source(settings.bentoml_home, release)
    if not (source / LOCK).is_file():
        msg = f"{release.bento_tag} must have its {LOCK}, it has none; package it again"
        raise SpaceError(msg)
    store = directory / "bentoml"
    _copy(source, store / source.relative_to(settings.bentoml_home))
    for name in _BESIDE_CODE:
        if (source.parent / name).is_file():
            shutil.copyfile(
                source.parent / name,
                store / source.parent.relative_to(settings.bentoml_home) / name,
            )
    found = find_bundle(settings, release.model_tag)
    _copy(found, store / found.relative_to(settings.bentoml_home))
    shutil.copyfile(source / LOCK, directory / LOCK)
    for name in ("Dockerfile", "start.py"):
        shutil.copyfile(_FILES / name, directory / name)
    (directory / "release.json").write_text(release.model_dump_json(indent=2), encoding="utf-8")
    (directory / "README.md").write_text(_write_readme(release, bundle), encoding="utf-8")
    (directory / ".gitattributes").write_text(_ATTRIBUTES, encoding="utf-8")
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return release


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(BYTECODE))


def _write_readme(release: Release, bundle: Bundle) -> str:
    template = Template((_FILES / "README.md.template").read_text(encoding="utf-8"))
    return template.substitute(
        bento_tag=release.bento_tag,
        model_version=release.model_version,
        bundle=release.bundle_hash[:12],
        model_card=bundle.model_card,
    )
