"""Check all stores of a home against each other, and mend what can be mended.

``serving/current.json`` is the truth for what is served, the ledger for what was. What contradicts
them is brought in line; what only a person can decide is said with what to do.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from ecg_lib.classifier.bundle import read_bundle
from ecg_lib.errors import BundleError, ConfigurationError, SignalStoreError
from ecg_lib.operations.keys.signatures import SignatureError, check_code
from ecg_lib.operations.learning.kept_signals import SignalStore
from ecg_lib.operations.learning.rollout.candidate import (
    CANDIDATE,
    CandidateError,
    read_candidate,
)
from ecg_lib.operations.releases import (
    CURRENT,
    LAST_GOOD,
    SERVED,
    Release,
    ReleaseError,
    bento_source,
    is_same_release,
    read_release,
    write_release,
)
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import read_ledger
from flows.doors.release_history import (
    LedgerHistory,
    find_known_worse,
    find_release,
    list_way_back,
)
from flows.release.integrity.aliases import (
    find_alias_problem,
    follow_pending,
    note_pending,
    read_pending,
)
from flows.release.integrity.ledger_notes import is_damaged, note_unrecorded
from flows.release.integrity.signing import (
    SigningError,
    prepare_signing,
    sign_by_hand,
    was_signed,
)
from flows.release.rollout.journal import settle
from flows.release.switch_service import Presence, ask_service, find_bundle
from flows.release.transaction import INTENT, locked, recover

_LEFTOVER_AGE_S: Final = 3600.0
"""Age of a draft that no process is writing."""


class Finding(NamedTuple):
    """A contradiction between stores."""

    store: str
    problem: str
    is_mended: bool


def examine(settings: Settings, *, is_mending: bool = True) -> list[Finding]:
    """Check every store, and mend.

    Args:
        settings: The home.
        is_mending: Whether to change anything.

    Raises:
        BusyError: If a release or rollback is under way.
        LedgerError: If the ledger cannot be written.
    """
    findings = list(_check_intent(settings, is_mending=is_mending))
    with locked(settings, is_shared=False):
        findings += _check_signing(settings, is_mending=is_mending)
        history = read_ledger(settings.ledger_dir)
        findings += _check_ledger(history)
        findings += _check_current(settings, history, is_mending=is_mending)
        findings += _check_fallbacks(settings, is_mending=is_mending)
        findings += _check_candidate(settings, is_mending=is_mending)
    try:
        current = read_release(settings.serving_dir / CURRENT)
    except ReleaseError:
        current = None  # reported above
    history = read_ledger(settings.ledger_dir)
    findings += _check_store(settings, history, current)
    findings += _check_signatures(settings, history, current)
    findings += _check_aliases(settings, history, current, is_mending=is_mending)
    findings += _check_service(settings, current)
    findings += _check_sweeps(settings, is_mending=is_mending)
    findings += _check_databases(settings)
    findings += _check_spool(settings)
    findings += _check_signals(settings)
    findings += _check_leftovers(settings, is_mending=is_mending)
    return findings


def _check_intent(settings: Settings, *, is_mending: bool) -> Iterator[Finding]:
    if not (settings.serving_dir / INTENT).exists():
        return
    problem = "a release or rollback was interrupted"
    if is_mending:
        current = recover(settings)
        served = "nothing" if current is None else current.bento_tag
        problem = f"{problem}; it is brought to an end, {served} is released"
    yield Finding("transaction", problem, is_mending)


def _check_signing(settings: Settings, *, is_mending: bool) -> Iterator[Finding]:
    """Sign releases of earlier code, unless that was done; a lost key is for a person."""
    if not is_mending:
        return
    try:
        if prepare_signing(settings, read_ledger(settings.ledger_dir)):
            yield Finding(
                "signature",
                "releases of earlier code had none, they are signed now",
                is_mended=True,
            )
    except SigningError as error:
        yield Finding("signature", str(error), is_mended=False)


def _check_ledger(history: LedgerHistory) -> Iterator[Finding]:
    for name in history.torn:
        yield Finding(
            "ledger",
            f"entry {name} cannot be read and is passed over; a copy may be at the remote",
            is_mended=False,
        )


def _check_current(
    settings: Settings, history: LedgerHistory, *, is_mending: bool
) -> Iterator[Finding]:
    path = settings.serving_dir / CURRENT
    latest = None if history.latest is None else history.latest.release
    try:
        current = read_release(path)
        problem = "" if current is not None or latest is None else f"{CURRENT} is missing"
        if is_damaged(settings, history, current):
            problem = f"{CURRENT} must be a release of the ledger, its version or a hash differs"
    except ReleaseError as error:
        current, problem = None, str(error)
    if problem:
        if latest is None:
            yield Finding("current", f"{problem}; release a model again", is_mended=False)
            return
        if is_mending:
            write_release(path, latest)
        yield Finding("current", f"{problem}; by the ledger it is {latest.bento_tag}", is_mending)
    elif current is not None and not is_same_release(current, latest):
        if is_mending:
            note_unrecorded(settings, history, current)
        yield Finding("ledger", f"{current.bento_tag} is served and was not in it", is_mending)


def _check_fallbacks(settings: Settings, *, is_mending: bool) -> Iterator[Finding]:
    for name in (SERVED, LAST_GOOD):
        path = settings.serving_dir / name
        try:
            read_release(path)
        except ReleaseError as error:
            if is_mending:
                path.unlink(missing_ok=True)
            yield Finding("fallback", f"{error}; the service writes it again", is_mending)


def _check_candidate(settings: Settings, *, is_mending: bool) -> Iterator[Finding]:
    """Find a candidate that is torn, was not closed, or is tried beside what is not served."""
    path = settings.serving_dir / CANDIDATE
    try:
        candidate = read_candidate(path)
    except CandidateError as error:
        if is_mending:
            path.unlink(missing_ok=True)
        yield Finding("candidate", f"{error}; no candidate is tried", is_mending)
        return
    if candidate is None:
        return
    tag = candidate.release.bento_tag
    try:
        current = read_release(settings.serving_dir / CURRENT)
    except ReleaseError:
        return  # reported above
    is_beside = is_same_release(current, candidate.champion)
    if candidate.ending is None and candidate.is_noted and is_beside:
        if problem := _find_problem(settings, candidate.release):
            advice = "`ecg rollout stop` ends it"
            yield Finding("candidate", f"{tag}: {problem}; {advice}", is_mended=False)
        return
    if is_mending:
        settle(settings, current)
    problem = "was interrupted" if is_beside else "is tried beside a release that is not served"
    yield Finding("candidate", f"{tag} {problem}", is_mending)


def _check_store(
    settings: Settings, history: LedgerHistory, current: Release | None
) -> Iterator[Finding]:
    for release in _list_releases(history, current):
        if problem := _find_problem(settings, release):
            is_current = is_same_release(release, current)
            advice = "`ecg rollback` serves another one" if is_current else "no rollback to it"
            yield Finding(
                "bento store", f"{release.bento_tag}: {problem}; {advice}", is_mended=False
            )


def _list_releases(history: LedgerHistory, current: Release | None) -> list[Release]:
    releases = {entry.release.bento_tag: entry.release for entry in list_way_back(history)}
    if current is not None:
        releases[current.bento_tag] = current
    return list(releases.values())


def _check_signatures(
    settings: Settings, history: LedgerHistory, current: Release | None
) -> Iterator[Finding]:
    """Find releases that would not be served; only a person can say which of them to trust."""
    for release in _list_releases(history, current):
        if not bento_source(settings.bentoml_home, release).is_dir():
            continue  # reported with the store
        try:
            check_code(settings, release)
        except SignatureError as error:
            yield Finding("signature", str(error), is_mended=False)


def sign(settings: Settings, tag: str) -> Release:
    """Sign a release of the ledger, or the current one, as it is in the store now.

    Where releases of earlier code were not signed yet, they are signed first: the ledger's note of
    this signature would end that.

    Raises:
        BusyError: If a release or rollback is under way.
        LedgerError: If there is no such release, or the ledger cannot be written.
        SigningError: If code or bundle are not what the release names.
    """
    with locked(settings, is_shared=False):
        history = read_ledger(settings.ledger_dir)
        if not was_signed(history):
            prepare_signing(settings, history)
        current = read_release(settings.serving_dir / CURRENT)
        if current is not None and tag in {current.bento_tag, current.model_version}:
            release = current
        else:
            release = find_release(history, tag).release
        sign_by_hand(settings, release)
    return release


def _find_problem(settings: Settings, release: Release) -> str:
    if not bento_source(settings.bentoml_home, release).is_dir():
        return "its code is not in the store"
    directory = find_bundle(settings, release.model_tag)
    if not directory.is_dir():
        return "its bundle is not in the store"
    try:
        found = read_bundle(directory).hash
    except BundleError as error:
        # A format of earlier code is for that code to read.
        return "" if "format" in str(error) else f"its bundle cannot be read: {error}"
    if found != release.bundle_hash:
        return f"its bundle must be {release.bundle_hash[:12]}, it is {found[:12]}"
    return ""


def _check_aliases(
    settings: Settings, history: LedgerHistory, current: Release | None, *, is_mending: bool
) -> Iterator[Finding]:
    if current is None:
        return
    if read_pending(settings) is not None:
        is_mended = is_mending and follow_pending(settings)
        yield Finding("aliases", f"they did not follow model {current.model_version}", is_mended)
        if not is_mended:
            return
    has_other = settings.mlflow_tracking_uri is not None or settings.mlflow_store_url is not None
    if not has_other and not (settings.mlflow_dir / "mlflow.db").exists():
        return
    worse = find_known_worse(history)
    versions = {
        entry.release.model_version
        for entry in history.entries
        if entry.release.bento_tag in worse and entry.release.model_version != current.model_version
    }
    problem = find_alias_problem(settings, current.model_version, worse=versions)
    if problem:
        is_mended = False
        if is_mending:
            note_pending(settings, current.model_version)
            for version in versions:
                note_pending(settings, current.model_version, rolled_back=version)
            is_mended = follow_pending(settings)
        yield Finding("aliases", problem, is_mended)


def _check_service(settings: Settings, current: Release | None) -> Iterator[Finding]:
    health = ask_service(settings)
    if health.presence is Presence.SILENT:
        yield Finding("service", "its port is open but it does not answer", is_mended=False)
    elif health.presence is Presence.ANSWERS and current is not None:
        wanted = (current.bento_tag, current.model_version)
        if health.served != wanted:
            served = "no model" if health.served is None else health.served[0]
            why = f", as {health.refused[1]}" if health.refused else ""
            yield Finding(
                "service", f"it serves {served} and not {current.bento_tag}{why}", is_mended=False
            )


def _check_sweeps(settings: Settings, *, is_mending: bool) -> Iterator[Finding]:
    for path in sorted((settings.home / "sweeps").glob("*/sweep.json")):
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            is_whole = {"run_id", "seed", "candidate_run_id"} <= set(state)
        except (ValueError, TypeError, OSError):
            is_whole = False
        if not is_whole:
            if is_mending:
                path.replace(path.with_suffix(".broken"))
            yield Finding("sweeps", f"{path.parent.name} has a torn state, set aside", is_mending)


def _check_databases(settings: Settings) -> Iterator[Finding]:
    files = {
        "monitoring": settings.monitoring_database_url,
        "studies": settings.study_storage_url,
        "mlflow": settings.tracking_uri,
    }
    for name, url in files.items():
        path = Path(url.removeprefix("sqlite:///"))
        if url.startswith("sqlite:///") and path.exists() and (problem := _check_sqlite(path)):
            yield Finding(
                name, f"{path.name}: {problem}; end what uses it, and restore or move it away",
                is_mended=False,
            )  # fmt: skip


def _check_sqlite(path: Path) -> str:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=3.0)) as database:
            (answer,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return "" if answer == "ok" else str(answer)


def _check_signals(settings: Settings) -> Iterator[Finding]:
    """Open one kept signal: under another key none can be read."""
    store = SignalStore(settings.signals_dir, settings.signal_key_path)
    first = next(store.list_files(), None)
    if first is None:
        return
    try:
        store.read(first.patient_key, first.prediction_id)
    except (SignalStoreError, ConfigurationError) as error:
        yield Finding("signals", str(error), is_mended=False)


def _check_spool(settings: Settings) -> Iterator[Finding]:
    for path in sorted((settings.serving_dir / "spool").glob("*.broken")):
        yield Finding(
            "spool",
            f"{path.name} has lines that this version cannot read; a newer one stores them at its "
            "start, and others are damaged: look at it",
            is_mended=False,
        )  # fmt: skip


def _check_leftovers(settings: Settings, *, is_mending: bool) -> Iterator[Finding]:
    """Find drafts that killed processes left."""
    for folder in (settings.home, settings.serving_dir, settings.ledger_dir):
        for path in folder.glob(".*.draft"):
            if time.time() - path.stat().st_mtime < _LEFTOVER_AGE_S:
                continue
            if is_mending:
                path.unlink(missing_ok=True)
            yield Finding("leftovers", f"{path.name} is a draft of a killed process", is_mending)
