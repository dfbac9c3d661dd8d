"""Databases: their descriptions, a user's own, their places and their downloads."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecg_lib.classifier.bundle import DataSource
from ecg_lib.errors import ConfigurationError, DatasetError
from ecg_lib.evaluation.prepared_views import Peaks, ScoredView
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.record import Record, read_wfdb, write_wfdb
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.training.datasets import assign_folds
from flows.data import databases
from flows.data.databases import (
    LUDB,
    MITDB,
    NSTDB,
    OPTIONAL,
    PUBLISHED,
    SVDB,
    Database,
    Role,
    describe_own,
    expected_sha256,
    find_known,
    list_record_files,
    read_published_files,
)
from flows.data.dataset_versions import (
    BrokenRecord,
    PreparedRecord,
    ReferenceRecipe,
    hash_files,
    load_version,
    make_version,
    save_version,
    select_records,
)
from flows.data.prepared_views import PreparedViews
from flows.data.records.preparation import prepare_all
from flows.data.records.sources import Records, describe_directory, of_directory
from flows.data.training_data import ViewPlan, cut_beats
from flows.doors.archives.download import (
    DownloadError,
    PublishedFile,
    UnreachableError,
    WrongContentError,
)
from flows.doors.archives.physionet import LISTING, address_beside, download_files, read_listing
from tests.flows.doors.file_server import QUICK, Server, answer, served

COUNTS = {"N": 79956, "S": 8037, "V": 5053, "F": 20, "Q": 47}
"""Published beats of the development part of the Supraventricular Arrhythmia Database."""

OwnMaker = Callable[..., Path]


@pytest.fixture
def make_own(tmp_path: Path) -> OwnMaker:
    """Make a directory of annotated records of 40 s, at any sampling rate."""

    def make(*names: str, fs: float = 250.0, extension: str = "ann") -> Path:
        directory = tmp_path / "own"
        for number, name in enumerate(names):
            record = simulate_record(
                name, patient=draw_patient(50 + number), duration_s=40.0, seed=number, fs=fs
            )
            write_wfdb(record, directory)
            (directory / f"{name}.atr").rename(directory / f"{name}.{extension}")
        return directory

    return make


def _prepare(records: Records, target: Path) -> list[PreparedRecord]:
    target.mkdir(parents=True, exist_ok=True)
    found = list(prepare_all(records, target))
    assert not [one for one in found if isinstance(one, BrokenRecord)], found
    return [one for one in found if isinstance(one, PreparedRecord)]


@pytest.mark.parametrize("described", PUBLISHED.values(), ids=lambda one: one.name)
def test_every_record_that_must_be_there_has_a_published_hash_of_each_file(
    described: Database,
) -> None:
    needed = set(described.roles) - OPTIONAL.get(described.name, frozenset())
    wanted = {file for name in needed for file in described.files_of(name)}
    table = read_published_files(described.name)
    assert set(table) == wanted
    assert all(len(one.sha256) == 64 and one.size_bytes > 0 for one in table.values())


def test_the_supraventricular_database_is_split_by_person_into_40_and_38_records() -> None:
    parts: dict[Role, set[str]] = {}
    for name, role in SVDB.roles.items():
        parts.setdefault(role, set()).add(name)
    assert {role: len(names) for role, names in parts.items()} == {
        Role.DEVELOPMENT: 40,
        Role.TEST: 38,
    }
    persons = {role: {SVDB.person_of(name) for name in names} for role, names in parts.items()}
    assert not persons[Role.DEVELOPMENT] & persons[Role.TEST]


@pytest.mark.parametrize(
    ("one", "other"), [("874", "875"), ("876", "877"), ("878", "879"), ("882", "883")]
)
def test_two_halves_of_a_tape_are_of_one_person(one: str, other: str) -> None:
    assert SVDB.person_of(one) == SVDB.person_of(other)


def test_records_201_and_202_are_of_one_person_and_others_of_one_each() -> None:
    assert MITDB.person_of("202") == MITDB.person_of("201")
    assert len({MITDB.person_of(name) for name in MITDB.roles}) == 47


def test_names_that_several_databases_have_are_told_apart() -> None:
    names = [one.full_name(name) for one in (MITDB, SVDB, LUDB, NSTDB) for name in one.roles]
    assert len(set(names)) == len(names)
    assert "100" in names
    assert "ludb:100" in names


def test_records_of_an_own_database_keep_their_rate_and_annotations(
    make_own: OwnMaker, tmp_path: Path
) -> None:
    directory = make_own("100", "900", fs=250.0)
    records = describe_directory(directory, "ann", None)
    prepared = _prepare(records, tmp_path / "prepared")
    assert [one.name for one in sorted(prepared, key=lambda one: one.name)] == [
        "own:100", "own:900",
    ]  # fmt: skip
    for one in prepared:
        assert one.role is Role.DEVELOPMENT  # record 100 of MIT-BIH is of the test part
        assert one.fs == 250.0
        assert one.found is not None
        assert one.found >= 0.95 * sum(one.annotated.values()) - 2


def test_copies_of_published_records_are_found_by_their_signals_under_any_name(
    make_own: OwnMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a record of a test part, or a person of two folds, could be trained on."""
    directory = make_own("mine", "other", "garbled")
    (directory / "garbled.hea").write_text("garbled 1 x\n")
    signals = (directory / "mine.dat").read_bytes()
    copied = PublishedFile(hashlib.sha256(signals).hexdigest(), len(signals))
    monkeypatch.setattr(
        databases,
        "read_published_files",
        lambda name: {"100.dat": copied} if name == "mitdb" else {},
    )
    known = find_known(directory, describe_own(directory, annotations="ann"))
    assert {name: (str(one), one.role) for name, one in known.items()} == {
        "mine": ("record 100 of mitdb", Role.TEST)
    }
    with pytest.raises(ConfigurationError, match="mine is record 100 of mitdb; name mitdb"):
        describe_directory(directory, "ann", None)


def test_files_of_an_own_database_may_be_named_in_other_capitals(
    make_own: OwnMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_own("a")
    for path in list(directory.iterdir()):
        path.rename(path.with_name(path.name.upper()))
    database = describe_own(directory, annotations="ann")
    assert list(database.roles) == ["A"]
    assert set(list_record_files(directory, database, "A")) == {"A.HEA", "A.DAT", "A.ANN"}
    (prepared,) = _prepare(describe_directory(directory, "ann", None), tmp_path / "prepared")
    assert prepared.found is not None
    signals = (directory / "A.DAT").read_bytes()
    copied = PublishedFile(hashlib.sha256(signals).hexdigest(), len(signals))
    monkeypatch.setattr(
        databases,
        "read_published_files",
        lambda name: {"100.dat": copied} if name == "mitdb" else {},
    )
    assert {name: str(one) for name, one in find_known(directory, database).items()} == {
        "A": "record 100 of mitdb"
    }


@pytest.mark.data
def test_a_renamed_record_of_ds2_cannot_be_trained_on(mitdb_dir: Path, tmp_path: Path) -> None:
    for extension in ("dat", "atr"):
        shutil.copy(mitdb_dir / f"100.{extension}", tmp_path / f"a.{extension}")
    header = (mitdb_dir / "100.hea").read_text().replace("100 2", "a 2", 1)
    (tmp_path / "a.hea").write_text(header.replace("100.dat", "a.dat"))
    with pytest.raises(ConfigurationError, match="a is record 100 of mitdb"):
        describe_directory(tmp_path, "atr", None)


def test_the_same_files_as_a_record_of_another_part_are_prepared_apart(
    make_own: OwnMaker, tmp_path: Path
) -> None:
    directory = make_own("a", "b")
    table = tmp_path / "subjects.csv"
    table.write_text("record,part\na,development\n")
    first = _prepare(describe_directory(directory, "ann", table), tmp_path / "prepared")
    table.write_text("record,part\na,test\n")
    second = _prepare(describe_directory(directory, "ann", table), tmp_path / "prepared")
    roles = [{one.name: one.role for one in found}["own:a"] for found in (first, second)]
    assert roles == [Role.DEVELOPMENT, Role.TEST]
    assert {one.name: one.found for one in second}["own:a"] is None


def test_a_changed_description_changes_part_and_person_of_what_was_prepared(
    tmp_path: Path,
) -> None:
    """Else a record that moves to a test part would still be trained on."""
    simulated = simulate_record("800", patient=draw_patient(3), duration_s=40.0, seed=1, fs=128.0)
    write_wfdb(simulated, tmp_path / "svdb")
    before = replace(SVDB, roles={"800": Role.DEVELOPMENT})
    after = replace(SVDB, roles={"800": Role.TEST}, persons={"800": "874"})

    def prepare(database: Database) -> PreparedRecord:
        records = Records(tmp_path / "svdb", ("800",), database, {})
        (one,) = _prepare(records, tmp_path / "prepared")
        return one

    first, moved = prepare(before), prepare(after)
    assert (first.role, first.subject, moved.role, moved.subject) == (
        Role.DEVELOPMENT, "800", Role.TEST, "874",
    )  # fmt: skip
    assert first.found is not None
    assert moved.found is None
    again = prepare(replace(before, persons={"800": "874"}))
    assert (again.role, again.subject) == (Role.DEVELOPMENT, "874")


def test_a_table_of_subjects_names_persons_and_parts(make_own: OwnMaker, tmp_path: Path) -> None:
    directory = make_own("a", "b", "c")
    table = tmp_path / "subjects.csv"
    table.write_text("\ufeffrecord, subject, part\na, Ann, development\nb, Ann,\nc,, test\n")
    own = describe_own(directory, annotations="ann", subjects=table)
    assert own.person_of("a") == own.person_of("b") == "own:Ann"
    assert own.person_of("c") == "own:c"
    assert own.roles == {"a": Role.DEVELOPMENT, "b": Role.DEVELOPMENT, "c": Role.TEST}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,part\na,test\n", "must have a column 'record'"),
        ("record,part\nz,test\n", "must name annotated records of the database.* z"),
        ("record,part\na,training\n", "must be one of development, test, paced, got training"),
        ("record,subject,part\na,Ann,test\nb,Ann,development\n", "in both: Ann"),
    ],
)
def test_a_table_of_subjects_that_cannot_be_used_is_refused(
    make_own: OwnMaker, tmp_path: Path, text: str, words: str
) -> None:
    directory = make_own("a", "b")
    table = tmp_path / "subjects.csv"
    table.write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        describe_own(directory, annotations="ann", subjects=table)


def test_a_table_that_is_not_there_and_a_directory_without_annotations_are_refused(
    make_own: OwnMaker, tmp_path: Path
) -> None:
    directory = make_own("a")
    with pytest.raises(ConfigurationError, match="table of subjects cannot be read"):
        describe_own(directory, annotations="ann", subjects=tmp_path / "none.csv")
    with pytest.raises(ConfigurationError, match=r"annotations in \.atr files; found none"):
        describe_own(directory)
    with pytest.raises(ConfigurationError, match="must be a directory"):
        describe_own(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match="must be the extension of files"):
        describe_own(directory, annotations="../atr")


def test_an_own_record_has_all_files_that_its_header_names(tmp_path: Path) -> None:
    (tmp_path / "a.hea").write_text(
        "a 2 250 1000\nfirst.dat 16 200 16 0 0 0 0 II\nsecond.dat 16 200 16 0 0 0 0 V1\n"
    )
    (tmp_path / "a.ann").write_bytes(bytes(2))
    own = describe_own(tmp_path, annotations="ann")
    assert list_record_files(tmp_path, own, "a") == ("a.hea", "a.ann", "first.dat", "second.dat")
    (broken,) = prepare_all(describe_directory(tmp_path, "ann", None), tmp_path)
    assert isinstance(broken, BrokenRecord)
    assert broken.reason == "missing: first.dat, second.dat"


def test_two_halves_of_a_tape_are_in_one_fold_with_one_person(tmp_path: Path) -> None:
    directory = tmp_path / "svdb"
    for number, name in enumerate(("874", "875", "800", "802", "804", "807")):
        record = simulate_record(name, patient=draw_patient(number), duration_s=30.0, seed=number)
        write_wfdb(record, directory)
    names = tuple(sorted(path.stem for path in directory.glob("*.hea")))
    prepared = _prepare(Records(directory, names, SVDB, {}), tmp_path / "records")
    version = make_version(
        data_source=DataSource.RECORDS, source_directory=directory, records=prepared, broken=()
    )
    assert set(version.folds[5]) == {"800", "802", "804", "807", "874"}
    views = PreparedViews(version=version, datasets_dir=tmp_path)
    for record in version.records:
        plan = ViewPlan(training_views=())
        assert cut_beats(views, record, plan).subjects == (version.subjects[record.name],)


def test_folds_are_by_person_over_all_databases(make_own: OwnMaker, tmp_path: Path) -> None:
    directory = make_own("a", "b", "c", "d", "e", "f")
    table = tmp_path / "subjects.csv"
    table.write_text("record,subject\na,Ann\nb,Ann\n")
    own = _prepare(describe_directory(directory, "ann", table), tmp_path / "prepared")
    version = make_version(
        data_source=DataSource.RECORDS, source_directory=directory, records=own, broken=()
    )
    assert set(version.folds[3]) == {"own:Ann", "own:c", "own:d", "own:e", "own:f"}
    assert version.databases == ("own",)
    v_beats: dict[str, int] = {}
    for record in own:
        v_beats[record.subject] = v_beats.get(record.subject, 0) + record.annotated["V"]
    assert version.folds[3] == assign_folds(v_beats, n_folds=3)


def _of_mitdb(prepared: PreparedRecord) -> PreparedRecord:
    return replace(prepared, name=prepared.stem, database="mitdb", person=None)


def test_the_recipe_of_mitdb_trains_on_the_version_that_its_records_alone_make(
    make_own: OwnMaker, tmp_path: Path
) -> None:
    directory = make_own("a", "b", "c", "d", "e")
    own = _prepare(describe_directory(directory, "ann", None), tmp_path / "prepared")
    alone = make_version(
        data_source=DataSource.MITDB,
        source_directory=tmp_path,
        records=[_of_mitdb(one) for one in own],
        broken=(),
    )
    both = make_version(
        data_source=DataSource.RECORDS,
        source_directory=tmp_path,
        records=[*alone.records, *own],
        broken=(),
        other_directories={"own": directory},
    )
    assert select_records(both, ReferenceRecipe.ALL, tmp_path) is both
    assert select_records(alone, ReferenceRecipe.MITDB, tmp_path) is alone
    save_version(both, tmp_path)
    selected = select_records(both, ReferenceRecipe.MITDB, tmp_path)
    assert selected.version == alone.version
    assert selected.folds == alone.folds
    assert load_version(tmp_path, alone.version).version == alone.version
    assert load_version(tmp_path).version == both.version


def test_a_version_without_development_records_has_no_folds(tmp_path: Path) -> None:
    noise = Record(
        name="bw", fs=360.0, leads=("noise1",), signals_mv=np.ones((3600, 1), np.float32)
    )
    write_wfdb(noise, tmp_path)
    records = Records(tmp_path, ("bw",), NSTDB, {})
    prepared = _prepare(records, tmp_path / "prepared")
    version = make_version(
        data_source=DataSource.RECORDS, source_directory=tmp_path, records=prepared, broken=()
    )
    assert version.folds == {}
    save_version(version, tmp_path / "datasets")
    assert load_version(tmp_path / "datasets") == version
    with pytest.raises(DatasetError, match=r"must have development records .* those of nstdb"):
        select_records(version, ReferenceRecipe.ALL, tmp_path)


def test_a_version_reads_each_record_from_the_directory_of_its_database(
    make_own: OwnMaker, tmp_path: Path
) -> None:
    directory = make_own("a", fs=500.0)
    (one,) = _prepare(describe_directory(directory, "ann", None), tmp_path / "prepared")
    version = make_version(
        data_source=DataSource.RECORDS,
        source_directory=tmp_path / "another",
        records=[replace(one, role=Role.PACED)],
        broken=(),
        other_directories={"own": directory},
    )
    (record,) = version.records
    source = version.read_source(record)
    assert source.name == "own:a"
    assert source.fs == 500.0
    assert source.annotations is not None
    (directory / "a.dat").unlink()
    with pytest.raises(DatasetError, match="own:a must be those of dataset"):
        version.read_source(record)


def test_reference_r_peaks_are_at_the_r_peaks_where_marks_are_not(
    make_own: OwnMaker, tmp_path: Path
) -> None:
    record = simulate_record("a", patient=draw_patient(5), duration_s=40.0, seed=1, fs=250.0)
    assert record.annotations is not None
    late = Annotations(samples=record.annotations.samples + 15, symbols=record.annotations.symbols)
    directory = tmp_path / "late"
    write_wfdb(
        Record(name="a", fs=250.0, leads=record.leads, signals_mv=record.signals_mv,
               annotations=late),
        directory,
    )  # fmt: skip
    (one,) = _prepare(describe_directory(directory, "atr", None), tmp_path / "records")
    version = make_version(
        data_source=DataSource.RECORDS,
        source_directory=directory,
        records=[replace(one, role=Role.PACED)],
        broken=(),
    )
    views = PreparedViews(version=version, datasets_dir=tmp_path)
    placed = views.read(version.records[0], ScoredView(None, Peaks.REFERENCE))[0].beats.r_peaks
    marks = late.beat_samples
    assert len(placed) == len(marks)
    assert np.median(marks - placed) == pytest.approx(15, abs=3)


LISTED = {"1.hea": b"1 1 500 5000\n", "1.dat": bytes(range(200))}


def _listing(contents: dict[str, bytes], folder: str = "") -> bytes:
    lines = [f"{hashlib.sha256(c).hexdigest()} {folder}{n}\n" for n, c in contents.items()]
    return "".join(lines).encode()


def test_files_without_a_known_hash_are_checked_against_the_list_of_the_server(
    tmp_path: Path,
) -> None:
    with served({**LISTED, LISTING: _listing(LISTED, "data/")}) as server:
        files = read_listing(server.url, LISTED, folder="data/", known={})
        download_files(tmp_path, base_url=f"{server.url}data/", files=files, limits=QUICK)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == LISTED


def test_a_server_that_lists_another_hash_than_the_known_one_is_refused() -> None:
    known = {"900.hea": read_published_files()["100.hea"]}
    words = r"must list SHA-256 60ebc904.* for 900\.hea"
    with (
        served({LISTING: _listing({"900.hea": b"another", **LISTED})}) as server,
        pytest.raises(WrongContentError, match=words),
    ):
        read_listing(server.url, ["900.hea", "1.hea"], known=known)


def test_a_server_without_list_or_without_a_file_in_it_is_refused() -> None:
    with (
        served({LISTING: _listing(LISTED)}) as server,
        pytest.raises(DownloadError, match=r"1 are not in it, such as 2\.hea"),
    ):
        read_listing(server.url, ["1.hea", "2.hea"], known={})
    with served({}) as server, pytest.raises(DownloadError, match="must answer 200, got 404"):
        read_listing(server.url, ["1.hea"], known={})
    with _failing(503) as server, pytest.raises(UnreachableError, match="got 503"):
        read_listing(server.url, ["1.hea"], known={})


@contextmanager
def _failing(status: int) -> Iterator[Server]:
    with served({}) as server:
        server.faults[LISTING].append(answer(status))
        yield server


def test_known_files_are_not_asked_about() -> None:
    known = {name: read_published_files()[name] for name in ("100.hea", "100.dat")}
    assert read_listing("http://127.0.0.1:9/mitdb/1.0.0/", known, known=known) == known


MIRROR = "https://mirror.test/files/mitdb/1.0.0/"


@pytest.mark.parametrize("address", ["svdb/1.0.0/", "ludb/1.0.1/", "nstdb/1.0.0/"])
def test_other_databases_are_beside_mitdb(address: str) -> None:
    for base_url in (
        "https://mirror.test/files/mitdb/1.0.0/",
        "https://mirror.test/files/mitdb/1.0.0",
    ):
        assert address_beside(base_url, address) == f"https://mirror.test/files/{address}"
    assert address_beside("https://mirror.test/any/", "mitdb/1.0.0/") == "https://mirror.test/any/"
    with pytest.raises(ConfigurationError, match=r"must end in /mitdb/1\.0\.0/"):
        address_beside("https://mirror.test/any/", address)


@pytest.mark.data
def test_the_development_part_of_svdb_has_the_published_counts(tmp_path: Path) -> None:
    directory = _directory("ECG_SVDB_DIR")
    records = of_directory(SVDB, directory)
    development = tuple(n for n in records.names if SVDB.roles[n] is Role.DEVELOPMENT)
    assert len(development) == 40
    found = dict.fromkeys(COUNTS, 0)
    for name in development:
        record = read_wfdb(directory / name, with_annotations=True)
        assert record.fs == 128.0
        assert record.annotations is not None
        classes = record.annotations.beat_classes
        for aami in found:
            found[aami] += int((classes == aami).sum())
    assert found == COUNTS
    assert set(hash_files(directory, SVDB.files_of("800")).values()) <= set(
        expected_sha256("svdb").values()
    )


@pytest.mark.data
def test_a_gain_of_zero_means_200_units_per_mv() -> None:
    directory = _directory("ECG_SVDB_DIR")
    signal = read_wfdb(directory / "821").signals_mv
    units = signal[:, 0].astype(np.float64) * 200
    np.testing.assert_allclose(units, np.rint(units), atol=1e-4)
    assert 1.0 < np.ptp(signal[:, 0]) < 10.0


@pytest.mark.data
def test_ludb_has_10829_qrs_marks_on_12_leads(tmp_path: Path) -> None:
    directory = _directory("ECG_LUDB_DIR")
    records = of_directory(LUDB, directory)
    names = tuple(str(number) for number in range(1, 101))
    prepared = _prepare(records._replace(names=names), tmp_path / "prepared")
    assert len(prepared) == 100
    assert sum(sum(one.annotated.values()) for one in prepared) == 10829
    assert {one.lead.count(",") for one in prepared} == {11}


def _directory(variable: str) -> Path:
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} is not set: the records are not here")
    return Path(path)
