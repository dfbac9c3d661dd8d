"""Sign releases: new ones when they are made, those of earlier code once, others by an operator."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ecg_lib.errors import EcgError
from ecg_lib.operations.keys.signatures import (
    UnsignedError,
    check_code,
    has_key,
    key_path,
    make_key,
    sign_release,
)
from ecg_lib.operations.releases import (
    CodeError,
    Release,
    bento_source,
    check_bento_code,
    identify,
)
from ecg_lib.operations.settings import Settings
from ecg_lib.records.atomic_files import write_durably
from flows.doors.ledger import append_event
from flows.doors.release_history import EventKind, LedgerHistory, find_user, make_event
from flows.release.switch_service import find_bundle

_ADOPTING: Final = "adopting"
"""Exists below ``signatures`` while releases of earlier code are being signed."""

_MANIFEST: Final = "manifest.json"

logger = logging.getLogger(__name__)


class SigningError(EcgError):
    """A release that must not be signed, or a key of releases that is missing."""


def prepare_signing(settings: Settings, history: LedgerHistory) -> bool:
    """Make the key at the first start, and sign what code without signatures has released.

    This happens once: the ledger notes each release that is signed so, and from then on an
    unsigned release is not served. A release that is not in the ledger is not signed, even when it
    is the current one.

    Args:
        settings: Where everything is.
        history: The ledger.

    Returns:
        Whether the ledger has new entries.

    Raises:
        SigningError: If the key is missing although releases were signed with it, or cannot be
            written.
        LedgerError: If the ledger cannot be written.
    """
    adopting = settings.signatures_dir / _ADOPTING
    if has_key(settings):
        if was_signed(history) or not adopting.exists():
            adopting.unlink(missing_ok=True)
            return False
    elif was_signed(history):
        msg = (
            f"the key of releases {key_path(settings)} is missing, and releases were signed with "
            "it; restore it from a backup, or sign what you trust with `ecg doctor --sign TAG`"
        )
        raise SigningError(msg)
    served = [entry.release for entry in history.entries if entry.is_served]
    known = {str(identify(one)): one for one in served}
    with _explained():
        if known:
            write_durably(adopting, "")
        make_key(settings)
        signed = [one for one in known.values() if _sign_earlier(settings, one)]
    for release in signed:
        _note(
            settings,
            release,
            why="released before releases were signed",
            who="ecg",
            # The same again when this was interrupted.
            event_id=str(uuid.uuid5(uuid.NAMESPACE_OID, str(identify(release)))),
        )
    adopting.unlink(missing_ok=True)
    return bool(signed)


def was_signed(history: LedgerHistory) -> bool:
    """Return whether the ledger has a release that was signed."""
    return any(entry.event.is_signed for entry in history.entries)


def ensure_signed(settings: Settings, release: Release, *, why: str) -> None:
    """Sign a release that is made now; check one that was signed before.

    One whose signature is torn is signed again if code and bundle have the hashes that it names.

    Raises:
        SigningError: If its code or its bundle is not what it names.
        SignatureError: If it has changed since it was signed.
    """
    try:
        check_code(settings, release)
    except UnsignedError:
        pass
    else:
        return
    if problem := find_difference(settings, release):
        msg = f"{release.bento_tag} must be in the store as it was packaged, {problem}"
        raise SigningError(msg)
    with _explained():
        sign_release(settings, release, why=why)


def sign_by_hand(settings: Settings, release: Release) -> None:
    """Sign a release as it is in the store now, and note that in the ledger.

    Raises:
        SigningError: If its code or its bundle is not what it names.
        LedgerError: If the ledger cannot be written.
    """
    if problem := find_difference(settings, release):
        msg = f"{release.bento_tag} is not signed: {problem}"
        raise SigningError(msg)
    with _explained():
        make_key(settings)
        sign_release(settings, release, why="signed by an operator")
    _note(
        settings, release, why="signed by an operator", who=find_user(), event_id=str(uuid.uuid4())
    )


def find_difference(settings: Settings, release: Release) -> str:
    """Return how code and bundle in the store differ from the hashes of a release, if they do."""
    try:
        check_bento_code(bento_source(settings.bentoml_home, release), release.code_hash)
        manifest = (find_bundle(settings, release.model_tag) / _MANIFEST).read_bytes()
    except CodeError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read: {error}"
    if hashlib.sha256(manifest).hexdigest() != release.bundle_hash:
        return f"its bundle does not have the hash {release.bundle_hash[:12]}"
    return ""


def _sign_earlier(settings: Settings, release: Release) -> bool:
    if problem := find_difference(settings, release):
        logger.warning(
            "%s of earlier code is not signed: %s; when that is mended, `ecg doctor --sign %s`",
            *(release.bento_tag, problem, release.bento_tag),
        )
        return False
    sign_release(settings, release, why="released before releases were signed")
    logger.warning(
        "%s was released before releases were signed and is signed now", release.bento_tag
    )
    return True


def _note(settings: Settings, release: Release, *, why: str, who: str, event_id: str) -> None:
    event = make_event(
        EventKind.SIGNED, release, event_id=event_id, who=who, why=why, is_signed=True
    )
    append_event(
        settings.ledger_dir,
        event,
        reason=f"sign model {release.model_version}: {why}",
        metrics={},
        model_card="",
    )


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"keys and signatures of releases must be writable, they are not: {error.strerror}"
        raise SigningError(msg) from error
