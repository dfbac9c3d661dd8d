"""Strips of drifted beats: drawn from kept signals when the page is opened, and never else."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from ecg_lib.operations.learning.drifted_beats import (
    BEGIN,
    END,
    DriftedBeat,
    DriftedBeats,
    list_beats,
    path_beside,
    remove_orphans,
    remove_patient,
    show_drifted_beats,
    write_drifted_beats,
)
from ecg_lib.operations.learning.kept_signals import KeptSignal, SignalStore

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PATIENT = "a" * 64
PAGE = f"<h1>KEEP</h1>{BEGIN}<p>the service draws them</p>{END}<h2>Slices</h2>".encode()


@pytest.fixture
def store(tmp_path: Path) -> SignalStore:
    return SignalStore(tmp_path / "signals", tmp_path / "signal.key")


def keep(store: SignalStore, prediction_id: str = "p1", *, fs: float = 250.0) -> None:
    times = np.arange(round(10 * fs)) / fs
    signal = KeptSignal(
        prediction_id=prediction_id,
        patient_key=PATIENT,
        created_at=NOW,
        fs=fs,
        lead="V5<",
        signal_mv=np.sin(2 * np.pi * times).astype(np.float32),
    )
    store.add(signal, is_waiting=False)


def beat(prediction_id: str = "p1", sample: int = 1250) -> DriftedBeat:
    return DriftedBeat(
        patient_key=PATIENT,
        prediction_id=prediction_id,
        created_at=NOW,
        sample=sample,
        called="V",
        value="qrs_width_ms 190 ms",
    )


def found(*beats: DriftedBeat, are_kept: bool = True) -> DriftedBeats:
    return DriftedBeats(
        are_kept=are_kept, column="qrs_width_ms", usual="90 (80 to 100)", beats=beats
    )


def show(tmp_path: Path, store: SignalStore, beats: DriftedBeats) -> str:
    page = tmp_path / "one.html"
    write_drifted_beats(page, beats)
    return show_drifted_beats(PAGE, path_beside(page), store).decode()


def test_a_kept_beat_is_drawn_on_paper_and_marked(tmp_path: Path, store: SignalStore) -> None:
    keep(store)
    shown = show(tmp_path, store, found(beat()))
    assert shown.startswith("<h1>KEEP</h1><section><h2>Most drifted beats</h2>")
    assert shown.endswith("</section><h2>Slices</h2>")
    assert "the service draws them" not in shown
    assert 'viewBox="0 0 175 45"' in shown  # 7 s at 25 mm/s
    assert "25 mm/s   10 mm/mV" in shown
    # The beat at 5 s is 3.5 s after the start of the strip, 1.5 s to 8.5 s.
    assert 'points="87.50,5.00 87.50,7.50"' in shown
    assert (
        "qrs_width_ms 190 ms, called V, lead V5&lt;, 2026-03-01 12:00 UTC, prediction p1" in shown
    )
    assert "V5<" not in shown


@pytest.mark.parametrize(("sample", "x"), [(0, "0.00"), (2499, "174.90")])
def test_a_beat_at_an_end_is_shown_within_the_signal(
    tmp_path: Path, store: SignalStore, sample: int, x: str
) -> None:
    keep(store)
    assert f'points="{x},5.00 {x},7.50"' in show(tmp_path, store, found(beat(sample=sample)))


def test_a_signal_that_was_deleted_is_on_no_page_any_more(
    tmp_path: Path, store: SignalStore
) -> None:
    keep(store)
    keep(store, "p2")
    assert show(tmp_path, store, found(beat(), beat("p2"))).count("<svg") == 2
    store.delete_patient(PATIENT)
    shown = show(tmp_path, store, found(beat(), beat("p2")))
    assert "<svg" not in shown
    assert "2 of the signals were deleted since." in shown
    assert "sin" not in (tmp_path / "one.beats.json").read_text()


def test_without_consent_it_says_so(tmp_path: Path, store: SignalStore) -> None:
    assert "signals are not kept, which is the default" in show(
        tmp_path, store, found(are_kept=False)
    )
    shown = show(tmp_path, store, found())
    assert "No signal of this window is kept that has such beats" in shown


def test_a_signal_that_cannot_be_opened_names_no_file_on_the_page(
    tmp_path: Path, store: SignalStore, caplog: pytest.LogCaptureFixture
) -> None:
    keep(store)
    (tmp_path / "signal.key").unlink()
    other = SignalStore(tmp_path / "signals", tmp_path / "signal.key")
    with caplog.at_level(logging.WARNING):
        shown = show(tmp_path, other, found(beat()))
    assert "1 of the signals cannot be read" in shown
    assert str(tmp_path) not in shown
    assert "signal.key" in caplog.text


@pytest.mark.parametrize("page", [b"<h1>of earlier code</h1>", f"{BEGIN}cut".encode()])
def test_a_page_without_marks_stays_as_it_is(
    tmp_path: Path, store: SignalStore, page: bytes
) -> None:
    write_drifted_beats(tmp_path / "one.html", found())
    assert show_drifted_beats(page, tmp_path / "one.beats.json", store) == page


def test_a_page_without_beats_stays_as_it_is(tmp_path: Path, store: SignalStore) -> None:
    assert show_drifted_beats(PAGE, tmp_path / "none.beats.json", store) == PAGE


@pytest.mark.parametrize("content", ["{", "{}", None])
def test_a_page_whose_beats_cannot_be_read_says_so_and_the_log_says_why(
    tmp_path: Path, store: SignalStore, caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    beats = tmp_path / "torn.beats.json"
    if content is None:
        beats.mkdir()
    else:
        beats.write_text(content)
    with caplog.at_level(logging.WARNING):
        shown = show_drifted_beats(PAGE, beats, store).decode()
    assert shown.startswith("<h1>KEEP</h1><section><h2>Most drifted beats</h2>")
    assert "The file that names these beats cannot be read" in shown
    assert shown.endswith("</section><h2>Slices</h2>")
    assert "torn.beats.json cannot be read or does not hold beats" in caplog.text


def test_a_signal_that_cannot_be_read_takes_no_other_strip_with_it(
    tmp_path: Path, store: SignalStore
) -> None:
    keep(store)
    (tmp_path / "signals" / "kept" / PATIENT / "p2.signal").mkdir()
    shown = show(tmp_path, store, found(beat("p2"), beat()))
    assert shown.count("<svg") == 1
    assert "1 of the signals cannot be read" in shown


def write(page: Path, beats: DriftedBeats) -> None:
    page.write_text("page")
    write_drifted_beats(page, beats)


def test_the_beats_of_a_patient_are_removed_from_all_checks_and_those_of_others_stay(
    tmp_path: Path,
) -> None:
    other = beat("p2").model_copy(update={"patient_key": "c" * 64})
    write(tmp_path / "one-decision.html", found(beat(), other))
    write(tmp_path / "two.html", found(beat("p3")))
    (tmp_path / "torn.beats.json").write_text("{")
    assert remove_patient(tmp_path, PATIENT) == ()
    assert PATIENT not in "".join(path.read_text() for path in tmp_path.iterdir())
    left = DriftedBeats.model_validate_json((tmp_path / "one-decision.beats.json").read_text())
    assert left == found(other)
    two = DriftedBeats.model_validate_json((tmp_path / "two.beats.json").read_text())
    assert two == found()
    assert not (tmp_path / "torn.beats.json").exists()  # whose beats it held is not known
    assert remove_patient(tmp_path / "no reports yet", PATIENT) == ()


def test_a_file_of_beats_that_cannot_be_read_is_named_and_the_others_are_changed(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.beats.json").mkdir()
    write(tmp_path / "b.html", found(beat()))
    assert remove_patient(tmp_path, PATIENT) == (tmp_path / "a.beats.json",)
    assert PATIENT not in (tmp_path / "b.beats.json").read_text()


def test_beats_without_their_page_are_removed(tmp_path: Path) -> None:
    write(tmp_path / "one-decision.html", found(beat()))
    write(tmp_path / "two.html", found(beat()))
    (tmp_path / "two.html").unlink()
    assert remove_orphans(tmp_path) == 1
    assert [path.name for path in list_beats(tmp_path)] == ["one-decision.beats.json"]
    assert remove_orphans(tmp_path) == 0
