"""The symbol table and the split, against the counts that are published for MIT-BIH."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ecg_lib.records.annotations import (
    CLASS_OF_SYMBOL,
    DS1,
    DS2,
    PACED,
    AamiClass,
    Annotations,
    count_classes,
    subject_of,
)
from ecg_lib.records.record import read_wfdb
from tests.lists import MITDB_RECORDS

PUBLISHED = {
    "DS1": (DS1, (45866, 944, 3788, 415, 8)),
    "DS2": (DS2, (44259, 1837, 3221, 388, 7)),
    "paced": (PACED, (506, 0, 227, 0, 8028)),
    "all": (MITDB_RECORDS, (90631, 2781, 7236, 803, 8043)),
}
"""Beats of class N, S, V, F and Q in each part (de Chazal et al. 2004, and their sum)."""


def _annotations(*pairs: tuple[int, str]) -> Annotations:
    return Annotations(
        samples=np.array([sample for sample, _ in pairs], dtype=np.int64),
        symbols=np.array([symbol for _, symbol in pairs], dtype="U1"),
    )


@pytest.fixture(scope="module")
def annotations_of() -> dict[str, Annotations]:
    return {}


def _read(name: str, directory: Path, cache: dict[str, Annotations]) -> Annotations:
    if name not in cache:
        found = read_wfdb(directory / name, with_annotations=True).annotations
        assert found is not None
        cache[name] = found
    return cache[name]


@pytest.mark.data
@pytest.mark.parametrize("part", PUBLISHED)
def test_the_beats_of_each_part_are_as_many_as_published(
    part: str, mitdb_dir: Path, annotations_of: dict[str, Annotations]
) -> None:
    records, published = PUBLISHED[part]
    classes: list[str] = []
    for name in records:
        classes += _read(name, mitdb_dir, annotations_of).beat_classes.tolist()
    assert tuple(count_classes(classes).values()) == published


@pytest.mark.data
def test_marks_that_are_not_beats_are_as_many_as_published(
    mitdb_dir: Path, annotations_of: dict[str, Annotations]
) -> None:
    symbols: Counter[str] = Counter()
    for name in MITDB_RECORDS:
        symbols.update(_read(name, mitdb_dir, annotations_of).symbols.tolist())
    others = {symbol: n for symbol, n in symbols.items() if symbol not in CLASS_OF_SYMBOL}
    assert symbols.total() == 112_647
    assert sum(others.values()) == 3_153
    assert others["!"] == 472


@pytest.mark.data
def test_the_flutter_of_207_lasts_2_4_minutes(
    mitdb_dir: Path, annotations_of: dict[str, Annotations]
) -> None:
    annotations = _read("207", mitdb_dir, annotations_of)
    seconds = sum(last - first for first, last in annotations.flutter_episodes) / 360
    assert seconds / 60 == pytest.approx(2.4, abs=0.05)
    waves = annotations.samples[annotations.symbols == "!"]
    assert annotations.is_in_flutter(waves).all()


def test_the_table_of_symbols_is_that_of_ec57() -> None:
    by_class = {
        aami: "".join(sorted(symbol for symbol, of in CLASS_OF_SYMBOL.items() if of is aami))
        for aami in AamiClass
    }
    assert by_class == {
        AamiClass.N: "BLNRejn",
        AamiClass.S: "AJSa",
        AamiClass.V: "EVr",
        AamiClass.F: "F",
        AamiClass.Q: "/?Qf",
    }


def test_the_parts_hold_48_records_once_each() -> None:
    assert (len(DS1), len(DS2), len(PACED)) == (22, 22, 4)
    assert len(set(DS1 + DS2 + PACED)) == 48
    assert set(MITDB_RECORDS) == set(DS1 + DS2 + PACED)
    assert {"102", "104", "107", "217"} == set(PACED)


def test_201_and_202_are_one_subject_and_all_others_their_own() -> None:
    assert subject_of("201") == subject_of("202") == "201"
    assert len({subject_of(name) for name in MITDB_RECORDS}) == 47
    assert subject_of("sim001") == "sim001"


def test_only_beats_have_a_class() -> None:
    annotations = _annotations((0, "+"), (10, "N"), (20, "~"), (30, "V"), (40, "!"), (50, "f"))
    assert annotations.is_beat.tolist() == [False, True, False, True, False, True]
    assert annotations.beat_samples.tolist() == [10, 30, 50]
    assert annotations.beat_classes.tolist() == ["N", "V", "Q"]


def test_flutter_includes_both_of_its_marks() -> None:
    annotations = _annotations((100, "["), (150, "!"), (200, "]"), (300, "N"))
    assert annotations.flutter_episodes == ((100, 200),)
    inside = annotations.is_in_flutter(np.array([99, 100, 200, 201]))
    assert inside.tolist() == [False, True, True, False]


def test_flutter_without_an_end_lasts_to_the_last_annotation() -> None:
    annotations = _annotations((10, "N"), (100, "["), (150, "!"), (400, "+"))
    assert annotations.flutter_episodes == ((100, 400),)


def test_an_end_of_flutter_without_a_start_is_not_an_episode() -> None:
    assert _annotations((100, "]"), (150, "N")).flutter_episodes == ()


def test_classes_that_do_not_occur_count_zero() -> None:
    assert count_classes(["V", "N", "N"]) == {"N": 2, "S": 0, "V": 1, "F": 0, "Q": 0}


def test_annotations_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="ascending order"):
        _annotations((10, "N"), (9, "N"))


def test_samples_and_symbols_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 and 1"):
        Annotations(samples=np.array([1, 2]), symbols=np.array(["N"]))


def test_no_annotations_have_no_beats_and_no_flutter() -> None:
    nothing = _annotations()
    assert nothing.beat_classes.tolist() == []
    assert nothing.flutter_episodes == ()
    assert nothing.is_in_flutter(np.array([5])).tolist() == [False]
