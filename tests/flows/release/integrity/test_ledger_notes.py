"""Notes of releases in the ledger, and releases that count as damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.keys.signatures import make_key
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import read_ledger
from flows.doors.release_history import EventKind, LedgerHistory, make_event
from flows.release.integrity.ledger_notes import is_damaged, note_event, note_unrecorded
from flows.release.integrity.signing import ensure_signed
from flows.release.switch_service import find_bundle

Make = Callable[..., Release]


@pytest.fixture(autouse=True)
def _with_key(settings: Settings) -> None:
    make_key(settings)


def note(
    settings: Settings, release: Release, kind: EventKind = EventKind.RELEASE
) -> LedgerHistory:
    note_event(
        settings,
        make_event(kind, release, why="a test", before=None, is_signed=False),
        reason=kind.value,
    )
    return read_ledger(settings.ledger_dir)


def test_the_figures_of_a_release_are_the_numbers_of_its_bundle(
    settings: Settings, make_stored: Make, toy_bundle: Bundle
) -> None:
    one = make_stored("1")
    directory = find_bundle(settings, one.model_tag)
    shutil.rmtree(directory)
    shutil.copytree(toy_bundle.directory, directory)
    (directory / "model_card.md").write_text("# A card\n")
    (entry,) = note(settings, one).entries
    numbers = {k: v for k, v in toy_bundle.metrics.items() if isinstance(v, (int, float))}
    assert entry.metrics == numbers
    assert len(numbers) > 0
    assert entry.model_card == "# A card\n"


def test_a_bundle_that_cannot_be_read_has_no_figures(
    settings: Settings, make_stored: Make, caplog: pytest.LogCaptureFixture
) -> None:
    (entry,) = note(settings, make_stored("1")).entries
    assert (entry.metrics, entry.model_card) == ({}, "")
    assert "the ledger has no figures of ecg_bundle:1" in caplog.text


def test_only_a_namesake_that_the_ledger_and_the_key_do_not_know_is_damaged(
    settings: Settings, make_stored: Make
) -> None:
    one, two = make_stored("1"), make_stored("2")
    history = note(settings, one)
    wrong = one.model_copy(update={"bundle_hash": "f" * 64})
    assert is_damaged(settings, history, wrong)
    assert not is_damaged(settings, history, None)
    assert not is_damaged(settings, history, one)
    assert not is_damaged(settings, history, two)
    # A refused release does not make it known.
    assert is_damaged(settings, note(settings, wrong, EventKind.REFUSED), wrong)
    # Served under both hashes, either is known.
    both = note(settings, wrong)
    assert not is_damaged(settings, both, wrong)
    assert not is_damaged(settings, both, one)


def test_a_signed_release_is_not_damaged(settings: Settings, make_stored: Make) -> None:
    one, other = make_stored("1"), make_stored("1", "b")
    history = note(settings, one.model_copy(update={"bento_tag": other.bento_tag}))
    assert is_damaged(settings, history, other)
    ensure_signed(settings, other, why="by hand")
    assert not is_damaged(settings, history, other)


def test_what_the_ledger_tells_of_last_is_not_noted_again(
    settings: Settings, make_stored: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = make_stored("1"), make_stored("2")
    assert not note_unrecorded(settings, LedgerHistory([], []), None)
    assert note_unrecorded(settings, LedgerHistory([], []), one)
    assert "ecg:1-a is not signed and will not be served" in caplog.text
    history = read_ledger(settings.ledger_dir)
    assert not note_unrecorded(settings, history, one)
    assert not note_unrecorded(settings, history, None)
    assert len(read_ledger(settings.ledger_dir).entries) == 1
    caplog.clear()
    ensure_signed(settings, two, why="by hand")
    history = read_ledger(settings.ledger_dir)
    assert note_unrecorded(settings, history, two)
    event = read_ledger(settings.ledger_dir).entries[0].event
    assert (event.kind, event.release, event.before) == (EventKind.NOTED, two, one)
    assert "is not signed" not in caplog.text
