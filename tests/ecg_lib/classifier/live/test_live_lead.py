"""A lead that streams against the analysis of the whole, and what must not change its beats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.classifier.live.beats import LiveBeats, Mark
from ecg_lib.classifier.live.live_lead import MAX_GAP_S, LiveConfig, LiveLead
from ecg_lib.errors import InvalidSamplingRateError, InvalidSignalError
from ecg_lib.records.limits import MAX_DURATION_S
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.signal_path.r_peaks.matching import match_beats
from ecg_lib.signal_path.readability.quality import Stretch, UnreadableReason, join_stretches

FS = 250.0
SHORT = LiveConfig(block_s=20.0, ahead_s=20.0, history_s=60.0)
"""So that a test of minutes has many blocks."""


@pytest.fixture(scope="module")
def classifier(toy_bundle: Bundle) -> BeatClassifier:
    return BeatClassifier.load(toy_bundle)


@pytest.fixture(scope="module")
def signal() -> NDArray[np.float32]:
    record = simulate_record("live", patient=draw_patient(6), duration_s=240.0, seed=6, fs=FS)
    return record.signal_mv().astype(np.float32)


class Heard(NamedTuple):
    """The beats that a client holds at the end."""

    final: list[LiveBeats]
    provisional: dict[int, str]

    @property
    def r_peaks(self) -> NDArray[np.int64]:
        return np.concatenate([one.r_peaks for one in self.final])

    def column(self, name: str) -> NDArray[np.generic]:
        return np.concatenate([getattr(one, name) for one in self.final])

    @property
    def unreadable(self) -> tuple[Stretch, ...]:
        return join_stretches(one for beats in self.final for one in beats.unreadable)


def _hear(heard: Heard, told: Iterable[LiveBeats | None]) -> None:
    for one in told:
        if one is None:
            continue
        for position in [p for p in heard.provisional if one.start <= p < one.stop]:
            del heard.provisional[position]
        if one.is_final:
            assert one.start == (heard.final[-1].stop if heard.final else 0)
            heard.final.append(one)
        else:
            labels = np.where(one.has_class, np.where(one.is_v, "V", "N"), one.quality)
            heard.provisional.update(zip(one.r_peaks.tolist(), labels.tolist(), strict=True))


def _stream(
    lead: LiveLead, signal: NDArray[np.float32], *, piece: int, heard: Heard | None = None
) -> Heard:
    heard = heard or Heard([], {})
    for start in range(lead.received_to, len(signal), piece):
        lead.append(signal[start : start + piece])
        if lead.is_due:
            _hear(heard, lead.settle())
            _hear(heard, [lead.look()])
    return heard


def _same(one: Sequence[LiveBeats], other: Sequence[LiveBeats]) -> None:
    assert [(a.start, a.stop, a.mark) for a in one] == [(b.start, b.stop, b.mark) for b in other]
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.r_peaks, b.r_peaks)
        np.testing.assert_array_equal(a.probability_v, b.probability_v)
        np.testing.assert_array_equal(a.quality, b.quality)
        assert a.unreadable == b.unreadable
        assert a.findings == b.findings


def test_the_final_beats_are_those_of_the_recording(
    classifier: BeatClassifier, signal: NDArray[np.float32]
) -> None:
    whole = classifier.classify(signal, fs=FS)
    lead = LiveLead(classifier, fs=FS, config=SHORT)
    heard = _stream(lead, signal, piece=125)
    _hear(heard, lead.finish())
    assert heard.final[-1].stop == len(signal)
    match = match_beats(whole.r_peaks, heard.r_peaks, tolerance=1)
    assert (match.of_reference >= 0).mean() >= 0.999
    assert (match.of_detected >= 0).mean() >= 0.999
    found = match.of_reference >= 0
    is_v = heard.column("is_v")[match.of_reference[found]]
    assert (is_v == whole.is_v[found]).mean() > 0.98  # the history of a minute is short
    rr = heard.column("rr_prev_s")[match.of_reference[found]].astype(np.float64)
    np.testing.assert_allclose(rr, whole.prepared.rr_prev_s[found], atol=2.1 / FS)
    assert not heard.provisional


def test_the_final_beats_do_not_depend_on_the_pieces(
    classifier: BeatClassifier, signal: NDArray[np.float32]
) -> None:
    finals = []
    for piece in (77, 250, 20_000):
        lead = LiveLead(classifier, fs=FS, config=SHORT)
        heard = _stream(lead, signal, piece=piece)
        _hear(heard, lead.finish())
        finals.append(heard.final)
    _same(finals[0], finals[1])
    _same(finals[0], finals[2])


def test_another_process_goes_on_from_the_mark_alone(
    classifier: BeatClassifier, signal: NDArray[np.float32]
) -> None:
    lead = LiveLead(classifier, fs=FS, config=SHORT)
    expected = _stream(lead, signal, piece=125)
    _hear(expected, lead.finish())
    broken = round(130.3 * FS)
    first = LiveLead(classifier, fs=FS, config=SHORT)
    heard = _stream(first, signal[:broken], piece=125)
    mark = heard.final[-1].mark
    assert mark.block == 5
    second = LiveLead(classifier, fs=FS, start=first.needed_from, mark=mark, config=SHORT)
    assert second.received_to == round((5 * 20 - 60) * FS)
    _stream(second, signal, piece=125, heard=heard)
    _hear(heard, second.finish())
    _same(heard.final, expected.final)


def test_beats_are_told_soon_and_again_only_where_they_change(
    classifier: BeatClassifier, signal: NDArray[np.float32]
) -> None:
    lead = LiveLead(classifier, fs=FS, config=SHORT)
    heard, told_at = Heard([], {}), {}
    told_to = 0
    for start in range(0, len(signal) // 2, 125):
        lead.append(signal[start : start + 125])
        if not lead.is_due:
            continue
        _hear(heard, lead.settle())
        told = lead.look()
        if told is None:
            assert lead.received_to < 3.5 * FS
            continue
        assert told.stop == lead.received_to - round(0.25 * FS)
        assert told.start <= told_to
        told_to = told.stop
        _hear(heard, [told])
        for position in told.r_peaks.tolist():
            told_at.setdefault(position, lead.received_to)
    latency_s = np.array([(at - position) / FS for position, at in told_at.items()][4:])
    assert np.quantile(latency_s, 0.95) <= 1.25
    whole = classifier.classify(signal[: len(signal) // 2], fs=FS)
    seen = np.array(sorted(heard.provisional))
    expected = whole.r_peaks[(whole.r_peaks >= seen[0]) & (whole.r_peaks <= told_to)]
    match = match_beats(expected, seen, tolerance=5)
    assert (match.of_reference >= 0).all()
    assert (match.of_detected >= 0).all()


def test_a_gap_moves_the_clock_and_makes_no_pause(
    classifier: BeatClassifier, signal: NDArray[np.float32]
) -> None:
    """The beats are those of a recording whose samples are missing there."""
    gap = slice(round(100 * FS), round(107.4 * FS))
    missing = signal.copy()
    missing[gap] = np.nan
    whole = classifier.classify(missing, fs=FS)
    lead = LiveLead(classifier, fs=FS, config=SHORT)
    heard = _stream(lead, signal[: gap.start], piece=125)
    _hear(heard, lead.append_gap(gap.stop - gap.start))
    assert lead.received_to == gap.stop
    _stream(lead, signal, piece=125, heard=heard)
    _hear(heard, lead.finish())
    assert match_beats(whole.r_peaks, heard.r_peaks, tolerance=1).of_reference.min() >= 0
    assert Stretch(gap.start, gap.stop, UnreadableReason.MISSING) in heard.unreadable
    after = int(np.searchsorted(heard.r_peaks, gap.stop))
    assert np.isnan(heard.column("rr_prev_s")[after])  # no interval of eight seconds
    assert not any(beats.findings for beats in heard.final)  # and no asystole


def test_hours_that_are_missing_cost_no_analysis_and_no_memory(
    classifier: BeatClassifier, signal: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    lead = LiveLead(classifier, fs=FS, config=SHORT)
    heard = _stream(lead, signal[: round(30 * FS)], piece=125)
    hours = round(6 * 3600 * FS)
    calls = []
    classify = BeatClassifier.classify
    monkeypatch.setattr(
        BeatClassifier, "classify", lambda *a, **k: calls.append(1) or classify(*a, **k)
    )
    _hear(heard, lead.append_gap(hours))
    assert len(calls) <= 2
    assert lead.received_to - lead._samples.start <= 130 * FS
    lead.append(signal[: round(30 * FS)])
    _hear(heard, lead.finish())
    first, last = round(30 * FS), round(30 * FS) + hours
    assert Stretch(first, last, UnreadableReason.MISSING) in heard.unreadable
    beats = heard.r_peaks
    assert not ((beats >= first) & (beats < last)).any()
    assert (beats >= last).sum() > 20


def test_a_stream_of_a_second_ends_without_a_beat(classifier: BeatClassifier) -> None:
    lead = LiveLead(classifier, fs=FS)
    lead.append(np.zeros(round(FS), dtype=np.float32))
    assert lead.look() is None
    (end,) = lead.finish()
    assert (end.start, end.stop, len(end.r_peaks)) == (0, 250, 0)
    assert list(lead.finish()) == []


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1.1e4, -1.1e4])
def test_samples_that_are_not_in_mv_are_refused(classifier: BeatClassifier, value: float) -> None:
    lead = LiveLead(classifier, fs=FS)
    with pytest.raises(InvalidSignalError, match="must be in mV"):
        lead.append(np.array([0.0, value], dtype=np.float32))
    with pytest.raises(InvalidSignalError, match="must be in mV"):
        lead.append(np.array([np.nan, value], dtype=np.float32))
    assert lead.received_to == 0
    lead.append(np.array([np.nan, 1e4, -1e4], dtype=np.float32))
    assert lead.received_to == 3


@pytest.mark.parametrize("count", [0, -1, round(MAX_GAP_S * FS) + 1])
def test_a_gap_must_have_a_length_of_up_to_a_day(classifier: BeatClassifier, count: int) -> None:
    with pytest.raises(InvalidSignalError, match="a gap must last"):
        list(LiveLead(classifier, fs=FS).append_gap(count))


def test_a_stream_lasts_14_days_at_most(classifier: BeatClassifier) -> None:
    block = 120 * 250
    n_blocks = round(MAX_DURATION_S / 120)
    lead = LiveLead(
        classifier, fs=FS, start=n_blocks * block, mark=Mark(n_blocks, n_blocks * block)
    )
    with pytest.raises(InvalidSignalError, match="14 days"):
        lead.append(np.zeros(1, dtype=np.float32))
    with pytest.raises(InvalidSignalError, match="14 days"):
        list(lead.append_gap(1))


@pytest.mark.parametrize("mark", [Mark(-1, 0), Mark(0, 1), Mark(1, 29_749), Mark(1, 30_251)])
def test_a_mark_that_no_stream_has_is_refused(classifier: BeatClassifier, mark: Mark) -> None:
    with pytest.raises(InvalidSignalError, match="the mark after"):
        LiveLead(classifier, fs=FS, mark=mark)


def test_a_rate_out_of_range_is_refused(classifier: BeatClassifier) -> None:
    with pytest.raises(InvalidSamplingRateError):
        LiveLead(classifier, fs=99.0)


def test_windows_begin_on_the_grid_of_the_quality_check() -> None:
    with pytest.raises(ValueError, match="multiples of 2 s"):
        LiveConfig(block_s=15.0)
