"""The weights of the R-peak network: what they are fitted to, and whom they must not judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.errors import ConfigurationError
from ecg_lib.evaluation.blind_verifiers import BLIND, load_blind_verifier
from ecg_lib.operations.settings import Settings
from ecg_lib.records.record import write_wfdb
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.signal_path.r_peaks.candidate_features import CANDIDATE_FEATURES, VERDICT_FEATURES
from ecg_lib.signal_path.r_peaks.verifier import BeatVerifier, load_verifier
from ecg_lib.training.r_peak_verifier.samples import Samples
from flows.data.databases import LUDB, MITDB, SVDB, Database, Role
from flows.training import fit_verifier
from flows.training.fit_verifier import assign_folds, fit_verifiers, read_mitdb, read_svdb

OURS = {Role.DEVELOPMENT, Role.PACED}


def _names(database: Database, roles: set[Role]) -> list[str]:
    return [name for name, role in database.roles.items() if role in roles]


def test_persons_are_dealt_to_five_folds_and_never_parted() -> None:
    persons = {f"r{number}": f"p{number // 2}" for number in range(24)}
    folds = assign_folds(persons)
    assert set(folds) == set(persons)
    for number in range(0, 24, 2):
        assert folds[f"r{number}"] == folds[f"r{number + 1}"]
    sizes = np.bincount(list(folds.values()))
    assert sizes.tolist() == [6, 6, 4, 4, 4]


def test_every_person_of_a_development_part_has_a_network_that_has_not_seen_them() -> None:
    fold_of = json.loads((BLIND / "folds.json").read_text())["fold_of"]
    known = {}
    for database in (MITDB, SVDB):
        for name in _names(database, OURS):
            known[name] = database.person_of(name)
    for number in range(1, 101):
        known[LUDB.full_name(str(number))] = LUDB.person_of(str(number))
    assert set(fold_of) == set(known)
    assert len(known) == 166
    fold_of_person: dict[str, int] = {}
    for name, person in known.items():
        assert fold_of_person.setdefault(person, fold_of[name]) == fold_of[name]
        assert load_blind_verifier(name) is not None
    assert sorted(set(fold_of.values())) == [0, 1, 2, 3, 4]


def test_no_test_part_was_seen_by_any_network() -> None:
    for database in (MITDB, SVDB, LUDB):
        for name in _names(database, {Role.TEST}):
            assert load_blind_verifier(name) is None
            assert load_blind_verifier(database.full_name(name)) is None
    assert load_blind_verifier("ludb:101") is None


def test_the_networks_have_the_shapes_of_the_features() -> None:
    verifiers = [load_verifier(), load_blind_verifier("101"), load_blind_verifier("ludb:1")]
    for verifier in verifiers:
        assert verifier is not None
        n_features = len(CANDIDATE_FEATURES)
        looks = (verifier.first, n_features), (verifier.second, n_features + len(VERDICT_FEATURES))
        for look, width in looks:
            assert look.mean.shape == (width,)
            assert [weights.shape for weights, _ in look.layers] == [
                (width, 48),
                (48, 24),
                (24, 1),
            ]


@pytest.mark.parametrize("missing", ["mitdb_dir", "nstdb_dir", "svdb_dir", "ludb_dir"])
def test_a_fit_asks_for_every_database(missing: str, tmp_path: Path) -> None:
    directories = dict.fromkeys(["mitdb_dir", "nstdb_dir", "svdb_dir", "ludb_dir"], tmp_path)
    settings = Settings().model_copy(update=directories | {missing: None})
    with pytest.raises(ConfigurationError, match=f"these are not: ECG_{missing.upper()}"):
        fit_verifiers(settings)


def _mark(number: int, firsts: Sequence[int] = ()) -> Samples:
    """Samples that tell which record, and which networks of the first look, they are of."""
    features = np.full((1, 2), float(number), dtype=np.float32)
    if firsts:
        features = np.array([[[number, first] for first in firsts]], dtype=np.float32)
    return Samples(features, np.array([True]), np.ones(1))


def test_the_network_of_a_fold_is_fitted_without_the_people_of_the_fold(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    numbers: dict[str, int] = {}

    def read(prefix: str) -> Callable[..., Samples]:
        def measure(*arguments: Any, firsts: Sequence[int]) -> Samples:  # noqa: ANN401
            name = f"{prefix}{arguments[-1]}"
            return _mark(numbers.setdefault(name, len(numbers)), firsts)

        return measure

    fitted: list[NDArray[np.float32]] = []

    def fit(seen: list[Samples], patients: Samples) -> int:
        """Give the networks of both looks numbers, from 100 and from 106."""
        assert patients.features[0, 0] == -1
        fitted.append(np.array([each.features[0, 0] for each in seen]))
        if len(fitted) > 6:  # after the first look of the same fold, and of no other
            first = {int(each.features[0, 1]) for each in (*seen, patients)}
            assert first == {100 + len(fitted) - 7}
        return 99 + len(fitted)

    made: list[tuple[int, int]] = []

    def make(*, first: int, second: int) -> BeatVerifier:
        made.append((first, second))
        return load_verifier()

    def run(jobs: Iterable[Callable[[], Samples]]) -> list[Samples]:
        return [job() for job in jobs]

    saved: dict[str, Any] = {}
    monkeypatch.setattr(fit_verifier, "read_mitdb", read(""))
    monkeypatch.setattr(fit_verifier, "read_svdb", read(""))
    monkeypatch.setattr(fit_verifier, "read_ludb", read("ludb:"))
    monkeypatch.setattr(fit_verifier, "measure_patients", lambda firsts: _mark(-1, firsts))
    monkeypatch.setattr(fit_verifier, "_fit", fit)
    monkeypatch.setattr(fit_verifier, "BeatVerifier", make)
    monkeypatch.setattr(fit_verifier, "run_in_processes", run)
    monkeypatch.setattr(fit_verifier, "WEIGHTS", tmp_path / "verifier.npz")
    monkeypatch.setattr(
        fit_verifier,
        "save_blind_verifiers",
        lambda verifiers, folds: saved.update(verifiers=verifiers, folds=folds),
    )
    names = ("mitdb_dir", "nstdb_dir", "svdb_dir", "ludb_dir")
    fit_verifiers(Settings().model_copy(update=dict.fromkeys(names, tmp_path)))

    folds = saved["folds"]
    expected = {*_names(MITDB, OURS), *_names(SVDB, OURS), *(f"ludb:{n}" for n in range(1, 101))}
    assert set(folds) == set(numbers) == expected
    assert (len(fitted), len(saved["verifiers"])) == (12, 5)
    assert made == [(100 + number, 106 + number) for number in range(6)]
    for number, of_network in enumerate(fitted):
        fold = number % 6  # of both looks; 5 are those that ship
        seen = {name for name, number in numbers.items() if number in of_network}
        assert seen == {name for name, of in folds.items() if of != fold}
        persons = {MITDB.person_of(name) for name in seen}
        assert not persons & {MITDB.person_of(name) for name, of in folds.items() if of == fold}
    assert len(fitted[5]) == len(fitted[11]) == len(expected)  # they have seen everybody
    assert (tmp_path / "verifier.npz").is_file()


# Reading the databases.


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of 90 s of two leads, and recorded noise."""
    home = tmp_path_factory.mktemp("records")
    for name in ("101", "bw", "ma"):
        record = simulate_record(name, patient=draw_patient(3), duration_s=90.0, seed=3)
        write_wfdb(record, home)
    return home


def _check(samples: Samples) -> None:
    assert samples.features.shape == (len(samples.weight), len(CANDIDATE_FEATURES))
    assert samples.is_beat.shape == samples.weight.shape
    assert samples.features.dtype == np.float32
    assert np.isfinite(samples.features).all()
    assert (samples.weight > 0).all()
    assert 0.05 < samples.is_beat.mean() < 0.95


def test_a_record_of_mit_bih_gives_beats_and_others(directory: Path) -> None:
    samples = read_mitdb(directory, directory, "101")
    _check(samples)
    again = read_mitdb(directory, directory, "101")
    np.testing.assert_array_equal(again.features, samples.features)


def test_a_record_of_another_recorder_gives_beats_and_others(directory: Path) -> None:
    _check(read_svdb(directory, "101"))
