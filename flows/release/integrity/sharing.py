"""Keep releases and their ledger the same in this home and in the store, where one is set.

The caller holds the lock of releases. :func:`sharing` holds the lease of the store meanwhile, and
publishes at the end what this home has released; :func:`join` takes what other homes did. A home
that was cut off publishes the next time, unless another one has released: then it takes that.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ecg_lib.errors import EcgError
from ecg_lib.operations.releases import (
    NOTES,
    Release,
    ReleaseError,
    bento_source,
    model_directory,
)
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.following import NOTES_KEY
from ecg_lib.operations.store.lease import leased
from ecg_lib.operations.store.objects import ObjectStore, StoreError, open_store
from ecg_lib.operations.store.shared_releases import (
    PointerError,
    adopt_release,
    fetch_release,
    publish_release,
    read_known,
    write_known,
)
from flows.doors.ledger import find_head, merge_ledger, pack_ledger
from flows.doors.release_history import LedgerError

LEDGER_KEY: Final = "ledger/ledger.bundle"
"""The ledger as a git bundle."""

logger = logging.getLogger(__name__)


class PublishError(StoreError):
    """A home has changed, and the store has not taken that."""


@contextmanager
def sharing(settings: Settings, *, wait_s: float) -> Iterator[None]:
    """Hold the lease of the store, and publish this home's releases and ledger at the end.

    Args:
        settings: The home; without a store nothing is done.
        wait_s: How long to wait for another machine.

    Raises:
        LeaseHeldError: If another machine releases for too long.
        StoreError: If the store cannot be reached; nothing is changed.
        PublishError: If it cannot be reached at the end, or another machine has released meanwhile.
    """
    if settings.store_url is None:
        yield
        return
    store = open_store(settings.store_url)
    with leased(store, owner=f"{socket.gethostname()}:{settings.home}", wait_s=wait_s):
        try:
            yield
        except Exception:
            try:
                _publish(settings, store)
            except EcgError as error:  # the first problem is the one to report
                logger.warning("%s", error)
            raise
        _publish(settings, store)


def join(settings: Settings) -> Release | None:
    """Take what other homes released and noted; return their release, if there is another one.

    Raises:
        StoreError: If the store cannot be reached, the home lacks the key of releases, or the
            ledgers cannot be merged.
        ReleaseError: If the release is not in the store, or is not as it was signed.
    """
    if settings.store_url is None:
        return None
    store = open_store(settings.store_url)
    known = read_known(settings)
    version = store.find_version(LEDGER_KEY)
    if version is not None and version != known.ledger:
        stored = store.read(LEDGER_KEY)
        if stored is not None:
            _merge_ledger(settings, stored.content)
            # Without the head: what only this home has noted is published.
            known = known.model_copy(update={"ledger": stored.version, "ledger_head": None})
            write_known(settings, known)
    try:
        return adopt_release(settings, store)
    except PointerError as error:
        logger.warning("%s; this home writes its own release there", error)
        return None


def fetch_missing(settings: Settings, release: Release) -> None:
    """Copy a release that another machine packaged into this home, unless it is here.

    Raises:
        StoreError: If the store cannot be reached.
        ReleaseError: If the store lacks it, or it is not as it was signed.
    """
    model = model_directory(settings.bentoml_home, release)
    is_here = bento_source(settings.bentoml_home, release).is_dir() and model.is_dir()
    if settings.store_url is not None and not is_here:
        fetch_release(settings, open_store(settings.store_url), release)


def _merge_ledger(settings: Settings, content: bytes) -> None:
    try:
        merge_ledger(settings.ledger_dir, content)
    except LedgerError as error:
        msg = (
            f"{LEDGER_KEY} of the store cannot be taken: {error}; if it is damaged, delete it, and "
            "the next release of a home writes its own"
        )
        raise StoreError(msg) from error


def _publish(settings: Settings, store: ObjectStore) -> None:
    """Write the ledger, then the release that it tells of."""
    try:
        _publish_ledger(settings, store)
        publish_release(settings, store)
    except (StoreError, ReleaseError) as error:
        msg = (
            f"other machines do not have the releases of this home: {error}; the next release, "
            "rollback or start publishes them"
        )
        raise PublishError(msg) from error


def _publish_ledger(settings: Settings, store: ObjectStore) -> None:
    head, known = find_head(settings.ledger_dir), read_known(settings)
    if head is None:
        return
    is_there = store.find_version(LEDGER_KEY) is not None
    if is_there and head == known.ledger_head:
        return
    content = pack_ledger(settings.ledger_dir)
    version = store.replace(LEDGER_KEY, content, expected=known.ledger if is_there else None)
    write_known(settings, known.model_copy(update={"ledger": version, "ledger_head": head}))
    notes = settings.ledger_dir / NOTES
    if notes.is_file():
        store.upload(notes, NOTES_KEY)
