"""The network that is served, judged on databases of other people's records."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import wfdb
from typer.testing import CliRunner

from ecg_lib.classifier.bundle import Bundle, DataSource
from ecg_lib.evaluation.report.conditions import EvaluationError
from ecg_lib.evaluation.report.page import write_page
from ecg_lib.evaluation.report.scoring import Part
from ecg_lib.operations.settings import Settings
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.record import Record, write_wfdb
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.signal_path.preprocessing import PreprocessingConfig
from flows.data.databases import LUDB, MITDB, SVDB, KnownRecord, Role, describe_own
from flows.evaluation import ds2_opening as opening
from flows.evaluation import other_databases
from flows.evaluation.database_evaluation import (
    evaluate_database,
    score_database_record,
    summarize_database,
)
from flows.evaluation.ec57_evaluation import Evaluation
from flows.evaluation.lead_peaks import evaluate_lead_peaks, score_lead
from flows.local.cli import app

pytestmark = pytest.mark.timeout(900)  # on a busy machine


def _simulate(name: str, directory: Path, *, fs: float, scale: float = 1.0) -> Record:
    patient = draw_patient(40 + len(name))
    record = simulate_record(name, patient=patient, duration_s=60.0, seed=len(name), fs=fs)
    record = replace(record, signals_mv=record.signals_mv * np.float32(scale))
    write_wfdb(record, directory)
    return record


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of several rates, leads and gains; one has no V, three cannot be scored."""
    directory = tmp_path_factory.mktemp("their-records")
    _simulate("a", directory, fs=128.0)
    _simulate("bb", directory, fs=500.0, scale=0.3)
    third = _simulate("ccc", directory, fs=250.0)
    assert third.annotations is not None
    normal = np.full(len(third.annotations.samples), "N")
    write_wfdb(
        replace(third, annotations=Annotations(samples=third.annotations.samples, symbols=normal)),
        directory,
    )
    _simulate("slow", directory, fs=360.0)
    header = (directory / "slow.hea").read_text().replace(" 360 ", " 60 ", 1)
    (directory / "slow.hea").write_text(header)
    _simulate("torn", directory, fs=360.0)
    (directory / "torn.dat").write_bytes((directory / "torn.dat").read_bytes()[:1000])
    _simulate("unmarked", directory, fs=360.0)
    (directory / "unmarked.atr").unlink()
    return directory


@pytest.fixture(scope="module")
def found(make_toy_bundle: Callable[..., Bundle], directory: Path) -> Evaluation:
    return evaluate_database(make_toy_bundle("judged"), describe_own(directory), directory)


def test_every_record_that_can_be_read_is_scored(found: Evaluation) -> None:
    document = found.document
    assert set(document["records"]) == {"own:a", "own:bb", "own:ccc"}
    assert document["data"]["left_out"] == ["slow", "torn"]
    words = " ".join(document["missing"])
    assert "Record slow: fs must be between 100 and 1000 Hz" in words
    assert "Record torn: the signal file must hold" in words
    own = document["conditions"]["own_r_peaks"]["parts"]["whole"]
    assert own["figures"]["qrs_sensitivity"]["gross"] > 0.9
    assert own["alarms"]["records_without_v"] == ["own:ccc"]
    assert own["alarms"]["hours"] == pytest.approx(3 / 60, abs=1e-4)
    assert own["alarms"]["hours_without_v"] == pytest.approx(1 / 60, abs=1e-4)


def test_further_leads_are_conditions_of_their_own(found: Evaluation) -> None:
    leads = [name for name in found.document["conditions"] if name.startswith("lead_")]
    assert leads
    first = found.document["records"]["own:a"]["lead"]
    assert f"lead_{first}" not in leads


def test_copies_of_test_records_are_not_scored_and_those_of_training_are_named(
    make_toy_bundle: Callable[..., Bundle], directory: Path
) -> None:
    """A score on a record of DS2 is an opening, whatever the record is called."""
    bundle = make_toy_bundle("known", folds={"101": 0, "another": 1})
    known = {"a": KnownRecord(MITDB, "100"), "bb": KnownRecord(MITDB, "101")}
    document = evaluate_database(bundle, describe_own(directory), directory, known=known).document
    assert document["data"]["records"] == 2
    missing = " ".join(document["missing"])
    assert "Record a: it is record 100 of mitdb, of a test part that" in missing
    assert "trained on the people of records bb, whose" in missing


def test_a_further_lead_that_cannot_be_classified_is_named(
    make_toy_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    record = _simulate("a", tmp_path, fs=128.0)
    dead = record.signals_mv.copy()
    dead[:, 1] = np.inf
    scores = score_database_record(
        replace(record, signals_mv=dead),
        bundle=make_toy_bundle("lead-dead"),
        fold=None,
        with_all_leads=True,
    )
    (condition,) = [name for name in scores.counts if name.startswith("lead_")]
    assert scores.counts[condition][Part.WHOLE].found == 0
    (note,) = scores.notes
    assert note.startswith("Record a, lead V1: ")


def test_one_lead_may_be_asked_for(
    make_toy_bundle: Callable[..., Bundle], directory: Path, found: Evaluation
) -> None:
    other = found.document["records"]["own:a"]["second_lead"]
    one = replace(describe_own(directory), roles={"a": Role.DEVELOPMENT})
    document = evaluate_database(make_toy_bundle("lead"), one, directory, lead=other).document
    assert document["records"]["own:a"]["lead"] == other
    assert list(document["conditions"]) == ["own_r_peaks"]
    with pytest.raises(EvaluationError, match=r"none could be \(a: record a has the leads"):
        evaluate_database(make_toy_bundle("none"), one, directory, lead="aVF")


def test_the_report_is_a_page_and_data(found: Evaluation) -> None:
    page = write_page(found.document, found.errors)
    assert "False alarms" in page
    assert "own:ccc" in page
    assert "Simulated patients" not in page
    json.dumps(found.document, allow_nan=False)
    shown = summarize_database(found.document)
    assert shown["false V an hour"].endswith("(1 records without V)")
    assert shown["records, hours"] == "3, 0.1"


def test_the_command_writes_the_report(directory: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    command = ["evaluate", "--database", str(directory), "--output", str(page)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "worst record's QRS +P" in done.output
    assert "not included: Record torn" in done.output
    assert page.is_file()
    document = json.loads(page.with_suffix(".json").read_text())
    assert document["kind"] == "database"
    refused = CliRunner().invoke(app, [*command, "--quick"])
    assert refused.exit_code == 2


def _write_leads(name: str, directory: Path, marks: dict[str, slice]) -> int:
    """Write a record with marks of its own for each lead, and return its beats."""
    record = simulate_record(name, patient=draw_patient(3), duration_s=20.0, seed=2, fs=500.0)
    assert record.annotations is not None
    beats = record.annotations.beat_samples
    signals = record.signals_mv[:, : len(marks)]
    write_wfdb(Record(name=name, fs=500.0, leads=tuple(marks), signals_mv=signals), directory)
    for lead, part in marks.items():
        marked = beats[part]
        wfdb.wrann(name, lead, marked, symbol=["N"] * len(marked), write_dir=str(directory))
    return len(beats)


def test_r_peaks_of_a_lead_are_scored_between_its_first_and_last_mark(tmp_path: Path) -> None:
    n_beats = _write_leads("1", tmp_path, {"ii": slice(2, -2), "avr": slice(None)})
    scores = score_lead(tmp_path / "1", "ii", PreprocessingConfig())
    assert scores.counts.beats == n_beats - 4
    assert scores.counts.found >= n_beats - 5
    assert scores.counts.extra <= 1


def test_leads_are_added_up_over_records(
    make_toy_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    n_beats = sum(
        _write_leads(name, tmp_path, {"i": slice(None), "ii": slice(None)}) for name in "12"
    )
    two_leads = replace(LUDB, annotations=("i", "ii"))
    found = evaluate_lead_peaks(
        make_toy_bundle("leads"), two_leads, tmp_path, names=("1", "2", "3")
    )
    assert found["records"] == 2
    (reason,) = found["left_out"]
    assert reason.startswith("Record ludb:3: ")
    assert list(found["leads"]) == ["i", "ii", "all"]
    assert found["leads"]["i"]["beats"] == n_beats
    assert found["leads"]["all"]["beats"] == 2 * n_beats


COMMIT = "0" * 40


@pytest.fixture
def real_bundle(make_toy_bundle: Callable[..., Bundle]) -> Bundle:
    return make_toy_bundle("real", data_source=DataSource.RECORDS)


@pytest.fixture
def test_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Simulated records under the names of three of the test part, which has no others."""
    names = ("801", "803", "805")
    for name in names:
        _simulate(name, tmp_path / "svdb", fs=128.0)
    _simulate("800", tmp_path / "svdb", fs=128.0)
    roles = {name: SVDB.roles[name] for name in (*names, "800")}
    monkeypatch.setattr(opening, "SVDB", replace(SVDB, roles=roles))
    return Settings(home=tmp_path, svdb_dir=tmp_path / "svdb")


def test_the_test_part_of_svdb_is_opened_whole_and_recorded(
    real_bundle: Bundle, test_part: Settings, tmp_path: Path
) -> None:
    found = opening.open_svdb(real_bundle, reason="a test", commit=COMMIT, settings=test_part)
    assert set(found.document["records"]) == {"801", "803", "805"}
    assert all(one["fold"] is None for one in found.document["records"].values())
    root = tmp_path / "project"
    part = opening.TestPart.SVDB
    noted = opening.note_opening(root, found, commit=COMMIT, part=part)
    assert noted.json.name.startswith("svdb-")
    table = (root / "docs" / "svdb-openings.md").read_text()
    assert "# Openings of the test part of svdb" in table
    assert "--final --part svdb" in table
    assert "| a test |" in table
    assert not (root / "docs" / "ds2-openings.md").exists()


@pytest.mark.parametrize(
    ("reason", "commit", "words"),
    [
        (" ", COMMIT, "must have a --reason"),
        ("a test", f"{COMMIT}+changes", "must be a commit without changes"),
    ],
)
def test_an_opening_that_cannot_be_traced_is_refused(
    real_bundle: Bundle, test_part: Settings, reason: str, commit: str, words: str
) -> None:
    with pytest.raises(EvaluationError, match=f"the test part of svdb is not opened: .*{words}"):
        opening.open_svdb(real_bundle, reason=reason, commit=commit, settings=test_part)


def test_the_test_part_is_not_opened_in_parts_or_by_a_simulated_classifier(
    make_toy_bundle: Callable[..., Bundle], real_bundle: Bundle, test_part: Settings
) -> None:
    simulated = make_toy_bundle("simulated", data_source=DataSource.SIMULATED)
    with pytest.raises(EvaluationError, match="trained on real records"):
        opening.open_svdb(simulated, reason="a test", commit=COMMIT, settings=test_part)
    assert test_part.svdb_dir is not None
    (test_part.svdb_dir / "803.hea").unlink()
    with pytest.raises(EvaluationError, match="these are not: 803"):
        opening.open_svdb(real_bundle, reason="a test", commit=COMMIT, settings=test_part)


def test_databases_at_hand_stand_beside_the_development_records(
    make_toy_bundle: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("800", "802"):
        _simulate(name, tmp_path / "svdb", fs=128.0)
    _simulate("801", tmp_path / "svdb", fs=128.0)
    _write_leads("1", tmp_path / "ludb", {"i": slice(None), "ii": slice(None)})
    monkeypatch.setattr(
        other_databases, "LUDB", replace(LUDB, roles={"1": Role.PEAKS}, annotations=("i", "ii"))
    )
    bundle = make_toy_bundle("beside", folds={"800": 0, "another": 1})
    settings = Settings(home=tmp_path, svdb_dir=tmp_path / "svdb", ludb_dir=tmp_path / "ludb")
    plain = Evaluation({"missing": [], "databases": {}, "r_peaks_by_lead": None}, ())
    found = other_databases.add_databases(plain, bundle, settings).document
    by_record = found["databases"]["svdb"]["conditions"]["own_r_peaks"]["parts"]["whole"]
    assert set(by_record["by_record"]) == {"800", "802"}  # 801 is of the test part
    assert found["databases"]["svdb"]["data"]["judged_by"] == "served"  # 802 has no fold
    assert found["r_peaks_by_lead"]["records"] == 1
    assert found["missing"] == []
    nothing = other_databases.add_databases(
        plain, bundle, Settings(home=tmp_path / "empty", svdb_dir=None, ludb_dir=None)
    )
    assert "ECG_SVDB_DIR is not set" in nothing.document["missing"][0]
    assert "ECG_LUDB_DIR is not set" in nothing.document["missing"][1]
