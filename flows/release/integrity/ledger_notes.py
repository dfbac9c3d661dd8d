"""Notes of releases in the ledger, with the figures of their bundles.

How the ledger stores them is in :mod:`flows.doors.ledger`; when a release is noted, in
:mod:`flows.release.transaction`.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from ecg_lib.classifier.bundle import read_figures
from ecg_lib.errors import BundleError
from ecg_lib.operations.keys.signatures import is_signed
from ecg_lib.operations.releases import Release, is_same_release
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import append_event
from flows.doors.release_history import EventKind, LedgerEvent, LedgerHistory, make_event
from flows.release.switch_service import find_bundle

_MODEL_CARD: Final = "model_card.md"

logger = logging.getLogger(__name__)


def note_event(settings: Settings, event: LedgerEvent, *, reason: str) -> None:
    """Note an event, with figures and model card of the release that it is about.

    Args:
        settings: Where ledger and models are.
        event: The event.
        reason: The first line of the ledger's commit.

    Raises:
        LedgerError: If the ledger cannot be written.
    """
    metrics, card = _read_figures(settings, event.release)
    append_event(settings.ledger_dir, event, reason=reason, metrics=metrics, model_card=card)


def is_damaged(settings: Settings, history: LedgerHistory, current: Release | None) -> bool:
    """Return whether a file holds a release of the ledger with a wrong version or hash.

    Such a release has no signature. Noted as served, it would be rolled back under the name of the
    one that is good.
    """
    if current is None:
        return False
    tag = current.bento_tag
    known = [one.release for one in history.entries if one.is_served]
    namesakes = [one for one in known if one.bento_tag == tag]
    is_known = any(is_same_release(one, current) for one in namesakes)
    return bool(namesakes) and not is_known and not is_signed(settings, current)


def note_unrecorded(settings: Settings, history: LedgerHistory, current: Release | None) -> bool:
    """Note a release that is served and that the ledger does not tell of; whether it was one."""
    latest = history.latest
    if current is None or (latest is not None and is_same_release(latest.release, current)):
        return False
    event = make_event(
        EventKind.NOTED,
        current,
        why="served, and not in the ledger",
        before=None if latest is None else latest.release,
        is_signed=is_signed(settings, current),
    )
    note_event(settings, event, reason=f"note model {current.model_version}, which is served")
    logger.warning("%s was served and not in the ledger; it is noted", current.bento_tag)
    if not event.is_signed:
        logger.warning(
            "%s is not signed and will not be served: look at it, then `ecg doctor --sign %s`",
            *(current.bento_tag, current.bento_tag),
        )
    return True


def _read_figures(settings: Settings, release: Release) -> tuple[dict[str, Any], str]:
    """Read figures and card of a bundle that earlier code may have made."""
    directory = find_bundle(settings, release.model_tag)
    try:
        figures = read_figures(directory)
        card = (directory / _MODEL_CARD).read_text(encoding="utf-8")
    except (BundleError, OSError) as error:
        logger.warning("the ledger has no figures of %s: %s", release.model_tag, error)
        return {}, ""
    return {k: v for k, v in figures.metrics.items() if isinstance(v, int | float)}, card
