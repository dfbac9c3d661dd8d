from __future__ import annotations

import numpy as np
import pytest

from ecg_lib.classifier.shape_vote import ShapeVoteConfig, vote
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.signal_path.preprocessing import prepare_beats
from ecg_lib.signal_path.template import ShapeBlock

READABLE = np.ones(4, dtype=np.bool_)


def _block(*groups: str) -> ShapeBlock:
    """Beats of one letter are of one shape."""
    letters = np.array(groups)
    sameness = (letters[:, None] == letters).astype(np.float32)
    everything = slice(0, len(letters))
    return ShapeBlock(everything, everything, sameness)


def test_a_beat_follows_the_others_of_its_shape() -> None:
    logits = np.array([5.0, 5.0, -1.0, -6.0])
    voted = vote(logits, [_block("a", "a", "a", "b")], is_readable=READABLE)
    assert voted[2] > 0
    assert voted[3] == pytest.approx(-6.0)


def test_without_a_share_nothing_changes() -> None:
    logits = np.array([5.0, 5.0, -1.0, -6.0])
    config = ShapeVoteConfig(share=0.0)
    assert vote(logits, [_block("a", "a", "a", "b")], is_readable=READABLE, config=config) == (
        pytest.approx(logits)
    )


def test_a_beat_that_cannot_be_read_has_no_vote() -> None:
    logits = np.array([8.0, -2.0, -2.0, -2.0])
    readable = np.array([False, True, True, True])
    voted = vote(logits, [_block("a", "a", "a", "a")], is_readable=readable)
    assert voted[1:] == pytest.approx([-2.0, -2.0, -2.0])


def test_where_nobody_has_a_vote_the_logit_stays() -> None:
    logits = np.array([3.0, 2.0, 1.0, 0.0])
    nobody = np.zeros(4, dtype=np.bool_)
    assert vote(logits, [_block("a", "a", "a", "a")], is_readable=nobody) == pytest.approx(logits)


def test_no_beat_is_louder_than_the_limit() -> None:
    logits = np.array([1000.0, -4.0, -4.0, -4.0])
    config = ShapeVoteConfig(share=1.0, max_logit=4.0)
    voted = vote(logits, [_block("a", "a", "a", "a")], is_readable=READABLE, config=config)
    assert voted == pytest.approx([-2.0] * 4)


def test_a_share_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match="share must be between 0 and 1"):
        ShapeVoteConfig(share=1.5)


def test_in_bigeminy_both_kinds_of_beats_are_shapes_of_their_own() -> None:
    strip = simulate_strip(StripKind.BIGEMINY, seed=2)
    prepared = prepare_beats(strip.signal_mv(), fs=strip.fs)
    (block,) = prepared.shapes
    kind = np.arange(len(prepared)) % 2
    same_kind = kind[:, None] == kind
    np.fill_diagonal(same_kind, val=False)
    other_kind = kind[:, None] != kind
    assert np.median(block.sameness[same_kind]) > 0.5
    assert block.sameness[other_kind].max() < 0.1


def test_every_beat_of_a_long_recording_is_in_one_row_of_the_blocks() -> None:
    strip = simulate_strip(StripKind.ISOLATED_PVC, seed=1)
    prepared = prepare_beats(np.tile(strip.signal_mv(), 60), fs=strip.fs)
    rows = np.concatenate([np.arange(len(prepared))[block.rows] for block in prepared.shapes])
    assert len(prepared) > 600
    assert rows.tolist() == list(range(len(prepared)))
    for block in prepared.shapes:
        assert block.columns.start <= block.rows.start
        assert block.rows.stop <= block.columns.stop
        assert block.sameness.shape == (
            block.rows.stop - block.rows.start,
            block.columns.stop - block.columns.start,
        )
