from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ecg_lib.rhythm.description import describe_pattern, describe_run
from ecg_lib.rhythm.patterns import summarize_rhythm

Evaluate = Callable[..., Any]


@pytest.mark.parametrize("points_per_s", [1e6, 90, 20, 3, 0.4])
def test_an_envelope_holds_every_extreme_of_the_signal(
    evaluate: Evaluate, points_per_s: float
) -> None:
    fs = 100.0
    signal = np.random.default_rng(1).normal(size=5003).astype(np.float32)
    read = """
        const source = m.makeLocalSignal(argument.signal, argument.fs);
        const [{kind, startS, stepS, values}] = source.read(
          {startS: 0, endS: 60, pointsPerS: argument.pointsPerS});
        return {kind, startS, stepS, values: [...values]};
    """
    argument = {"signal": signal.tolist(), "fs": fs, "pointsPerS": points_per_s}
    piece = evaluate("signal/local_signal.js", read, argument)
    values = np.array(piece["values"])
    assert values.min() == signal.min()
    assert values.max() == signal.max()
    if piece["kind"] == "samples":
        assert values.tolist() == signal.tolist()
        return
    assert 1 / piece["stepS"] >= points_per_s
    step = round(piece["stepS"] * fs)
    for point, (least, greatest) in enumerate(values.reshape(-1, 2)):
        part = signal[point * step : (point + 1) * step]
        assert (least, greatest) == (part.min(), part.max())


READ_GROUPS = """
    const groups = m.readGroups(argument.found);
    const beats = argument.beats.map(([timeS, type]) => ({timeS, type}));
    return m.groupsIn(groups, argument.view, beats);
"""


def test_the_brackets_are_the_groups_of_the_answer(evaluate: Evaluate) -> None:
    types = list("NVVNNVVVVNVNVNVNNVNNVNNV")
    beats = list(zip((0.5 * np.arange(len(types))).tolist(), types, strict=True))
    rhythm = summarize_rhythm(
        500 * np.arange(len(types)),
        is_v=np.array(types) == "V",
        is_readable=np.ones(len(types), dtype=np.bool_),
        fs=1000.0,
    )
    found = {
        "runs": [describe_run(run) for run in rhythm.runs],
        "coupletStartsS": list(rhythm.couplet_starts_s),
        "patterns": [describe_pattern(pattern) for pattern in rhythm.patterns],
    }
    given = {"found": found, "beats": beats, "view": {"startS": 0, "endS": 12}}
    shown = evaluate("answer/rhythm_groups.js", READ_GROUPS, given)
    assert [(g["kind"], g["startS"], g["endS"], g["beats"]) for g in shown] == [
        ("couplet", 0.5, 1.0, 2),
        ("run", 2.5, 4.0, 4),
        ("bigeminy", 5.0, 7.0, 3),
        ("trigeminy", 8.5, 11.5, 3),
    ]
    assert shown[1]["rateBpm"] == 120


@pytest.mark.parametrize(("start_s", "end_s"), [(90, 100), (100, 140), (139, 150), (0, 1000)])
def test_a_run_has_its_length_and_rate_wherever_the_view_is(
    evaluate: Evaluate, start_s: float, end_s: float
) -> None:
    run = {"start_s": 95.0, "duration_s": 48.0, "beats": 97, "rate_bpm": 120.0}
    near = [[second, "V"] for second in np.arange(start_s, end_s, 0.5).tolist()]
    given = {
        "found": {"runs": [run], "coupletStartsS": [], "patterns": []},
        "beats": near,
        "view": {"startS": start_s, "endS": end_s},
    }
    (shown,) = evaluate("answer/rhythm_groups.js", READ_GROUPS, given)
    assert (shown["beats"], shown["rateBpm"], shown["startS"], shown["endS"]) == (97, 120, 95, 143)


@pytest.mark.parametrize(
    ("second", "end_s"),
    [([10.4, "V"], 10.4), ([10.4, "N"], 10.5), (None, 10.5)],
    ids=["at hand", "not V", "not loaded"],
)
def test_a_couplet_ends_at_its_second_beat_or_where_one_usually_ends(
    evaluate: Evaluate, second: list[Any] | None, end_s: float
) -> None:
    given = {
        "found": {"runs": [], "coupletStartsS": [10.0, 300.0], "patterns": []},
        "beats": [[9.2, "N"], [10.0, "V"], *([second] if second else [])],
        "view": {"startS": 5, "endS": 15},
    }
    (shown,) = evaluate("answer/rhythm_groups.js", READ_GROUPS, given)
    assert (shown["startS"], shown["endS"]) == (10, end_s)


def test_a_view_stays_on_the_signal_and_zooms_around_a_moment(evaluate: Evaluate) -> None:
    check = """
        const clamped = m.clampView({startS: 1e9, speed: 25, gain: 10}, 86400, 1000);
        const wide = m.clampView({startS: -5, speed: 1e-9, gain: 10}, 86400, 1000);
        const short = m.clampView({startS: 3, speed: 1, gain: 10}, 10, 1000);
        const before = {startS: 100, speed: 25, gain: 10};
        const after = m.zoomTo(before, 50, 104);
        const frame = m.makeFrame(after, {width: 1000, height: 300, dpr: 2});
        const frameBefore = m.makeFrame(before, {width: 1000, height: 300, dpr: 2});
        return {
          end: clamped.startS + m.secondsIn(1000, 25),
          seen: m.secondsIn(1000, wide.speed),
          start: wide.startS,
          short: short.startS,
          moved: m.xAt(frame, 104) - m.xAt(frameBefore, 104),
          back: m.timeAt(frame, m.xAt(frame, 101.5)),
          tenMm: m.xAt(frameBefore, 100.4) - m.xAt(frameBefore, 100),
        };
    """
    found = evaluate("base/geometry.js", check)
    assert found["end"] == pytest.approx(86400)
    assert found["seen"] == pytest.approx(86400)
    assert (found["start"], found["short"]) == (0, 0)
    assert found["moved"] == pytest.approx(0)
    assert found["back"] == pytest.approx(101.5)
    # 0.4 s at 25 mm/s are 10 mm, and an inch is 96 px.
    assert found["tenMm"] == pytest.approx(10 * 96 / 25.4)


def test_the_tiles_of_any_view_are_few_and_fine_enough(evaluate: Evaluate) -> None:
    check = """
        const views = [];
        for (let seconds = 1; seconds <= 86400; seconds *= 1.7) {
          const pointsPerS = 2000 / seconds;
          const level = m.chooseLevel(pointsPerS, 86400);
          const tiles = m.tilesBetween(level, 40000 - seconds / 2, 40000 + seconds / 2, 86400);
          views.push({tiles: tiles.length, points: 8192 / m.tileSeconds(level), pointsPerS, level});
        }
        return views;
    """
    views = evaluate("signal/remote_signal.js", check)
    assert len(views) > 15
    for view in views:
        assert 1 <= view["tiles"] <= 3
        assert view["points"] >= view["pointsPerS"] or view["level"] == 0


def test_a_tile_is_asked_for_once_and_only_while_it_is_wanted(evaluate: Evaluate) -> None:
    check = """
        const asked = []; const aborted = []; const open = new Map();
        let changes = 0;
        const cache = m.makeTileCache({
          capacity: 3, maxRequests: 2,
          load: ({level, index}, signal) => new Promise((resolve, reject) => {
            asked.push(index);
            open.set(index, () => resolve(`tile ${index}`));
            signal.addEventListener('abort', () => { aborted.push(index); reject(signal.reason); });
          }),
          onChange: () => { changes += 1; },
        });
        const keys = (...indices) => indices.map((index) => ({level: 0, index}));
        const settle = () => new Promise((resolve) => setTimeout(resolve, 5));
        cache.want(keys(1, 2, 3, 1)); cache.want(keys(1, 2, 3));
        const first = [...asked];
        cache.want(keys(2, 4));
        const second = {asked: [...asked], aborted: [...aborted]};
        open.get(2)(); open.get(4)(); await settle();
        cache.want(keys(2, 4)); await settle();
        const third = [...asked];
        for (const index of [5, 6]) { cache.want(keys(index)); open.get(index)(); await settle(); }
        const held = [2, 4, 5, 6].map((index) => cache.get(0, index) ?? null);
        return {first, second, third, held, changes};
    """
    found = evaluate("signal/tiles.js", check)
    assert found["first"] == [1, 2]
    assert found["second"] == {"asked": [1, 2, 4], "aborted": [1]}
    assert found["third"] == [1, 2, 4]
    assert found["held"] == [None, "tile 4", "tile 5", "tile 6"]
    assert found["changes"] == 4


def test_a_tile_that_failed_is_left_alone_for_a_while(evaluate: Evaluate) -> None:
    check = """
        let asked = 0; const errors = [];
        const cache = m.makeTileCache({
          load: async () => { asked += 1; throw new Error('no'); },
          onChange: (error) => errors.push(error.message),
        });
        for (let turn = 0; turn < 5; turn += 1) {
          cache.want([{level: 0, index: 0}]);
          await new Promise((resolve) => setTimeout(resolve, 2));
        }
        return {asked, errors};
    """
    assert evaluate("signal/tiles.js", check) == {"asked": 1, "errors": ["no"]}


def test_a_trend_has_heart_rate_and_burden_of_each_bin(evaluate: Evaluate) -> None:
    beats = [
        *({"timeS": at * 0.5, "type": "N", "rrPreviousS": 0.5} for at in range(40)),
        *({"timeS": 20 + at, "type": "NV"[at % 2], "rrPreviousS": 1.0} for at in range(20)),
        *({"timeS": 40 + at, "type": None, "rrPreviousS": 1.0} for at in range(20)),
    ]
    trend = evaluate("signal/trend.js", "return m.measureTrend(argument, 60);", beats)
    assert trend == {"stepS": 20, "heartRateBpm": [120, 60, None], "burden": [0, 0.5, None]}


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("m.duration(9.96)", "10 s"),
        ("m.duration(600)", "10 min"),
        ("m.duration(86400)", "24 h"),
        ("m.clock(59.999, {decimals: 2})", "1:00.00"),
        ("m.clock(3599.6)", "1:00:00"),
        ("m.clock(5, {withHours: true})", "0:00:05"),
        ("m.count(1234567)", "1\u202f234\u202f567"),
        ("m.percent(0.0912)", "9.1 %"),
        ("m.number(null)", "\u2013"),
        ("m.plural(1, 'beat')", "1 beat"),
    ],
)
def test_numbers_are_written_for_readers(evaluate: Evaluate, expression: str, text: str) -> None:
    assert evaluate("base/format.js", f"return {expression};") == text
