"""Places, listing, rows and batches, each without a flow."""

from __future__ import annotations

import errno
import gzip
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import fsspec
import numpy as np
import psutil
import pyarrow.dataset
import pytest
from botocore.exceptions import EndpointConnectionError
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from prefect.logging import disable_run_logger

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import BundleIntegrityError, ConfigurationError
from ecg_lib.recordings.summary import ResultFormat
from ecg_lib.records.record import write_wfdb
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import StripKind, simulate_record, simulate_strip
from flows.recordings.analysis_process import AnalysisProcess
from flows.recordings.analyze_recordings import find_work
from flows.recordings.analyzed_files import (
    AnalysisError,
    Request,
    WriteError,
    analyze_file,
    describe_model,
)
from flows.recordings.batches import places
from flows.recordings.batches.batch import Batch, Wanted, analyze_batch, make_failed
from flows.recordings.batches.cluster import open_cluster
from flows.recordings.batches.found import Recording, fetch, find_recordings
from flows.recordings.batches.only_run import only_run_on
from flows.recordings.batches.places import Place, open_place
from flows.recordings.batches.results import Output, Row, Status


@pytest.fixture
def store() -> Iterator[str]:
    """A store that is not a directory of this machine."""
    memory = fsspec.filesystem("memory")
    yield "memory://bucket/holters"
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def _upload(directory: Path, url: str) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            open_place(url).below(*path.relative_to(directory).parts).write(path.read_bytes())


def _run(batch: Batch) -> list[Row]:
    with disable_run_logger():
        return analyze_batch.fn(batch)


def _batch(output: Output, *recordings: Recording, formats: tuple[str, ...] = ()) -> Batch:
    wanted = Wanted(output=output.place.url, formats=formats)
    return Batch(number=0, recordings=recordings, wanted=wanted)


def _find_work(
    output: Output, *paths: Path, again_failed: bool = False
) -> tuple[list[Recording], dict[str, str]]:
    with disable_run_logger():
        return find_work(
            [str(path) for path in paths],
            output,
            output.read_model(),
            again_failed=again_failed,
        )


def _read(output: Output) -> list[dict[str, object]]:
    files = f"{output.place.path}/recordings/**/*.parquet"
    rows = duckdb.read_parquet(files, hive_partitioning=True).order("path").to_arrow_table()
    read: list[dict[str, object]] = rows.to_pylist()
    return read


@pytest.mark.parametrize("is_store", [False, True])
def test_recordings_are_found_in_all_folders_and_nothing_else_is(
    write_recordings: Callable[[Path, int], None], tmp_path: Path, store: str, *, is_store: bool
) -> None:
    root = tmp_path / "in"
    write_recordings(root / "a" / "deep", 2)
    (root / "b.csv.gz").write_bytes(gzip.compress(b"x"))
    (root / "notes.txt").write_text("not a recording")
    (root / "a" / "r00.beats.csv").write_text("a result")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "c.edf").touch()
    (root / "out" / "_state" / "model").mkdir(parents=True)
    (root / "out" / "d.edf").touch()
    if is_store:
        _upload(root, store)
    url = store if is_store else str(root)
    place = open_place(url)
    found = find_recordings([url], output=place.below("out"))
    assert sorted((one.path, one.folder) for one in found.recordings) == [
        (place.below("a/deep/r00.hea").url, "a/deep"),
        (place.below("a/deep/r01.hea").url, "a/deep"),
        (place.below("b.csv.gz").url, ""),
    ]
    signals = (root / "a" / "deep" / "r00.dat").stat().st_size
    assert {one.n_bytes > signals for one in found.recordings if one.folder} == {True}
    assert (found.refused, found.empty) == ([], {})


def test_an_empty_prefix_is_told_and_a_shared_name_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("x/day.edf", "x/day.csv", "y/day.edf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    output = open_place(str(tmp_path / "out"))
    found = find_recordings([str(tmp_path / "empty")], output=output)
    assert found.recordings == []
    assert "it holds none by its suffix" in found.empty[str(tmp_path / "empty")]
    found = find_recordings([str(tmp_path)], output=output)
    assert [one.path for one in found.recordings] == [str(tmp_path / "y/day.edf")]
    reason = "a recording must have a name of its own, 2 are day"
    assert [told for _, told in found.refused] == [reason, reason]


def test_results_of_another_run_are_not_replaced(
    write_recordings: Callable[[Path, int], None], output: Output, tmp_path: Path
) -> None:
    write_recordings(tmp_path / "mon", 1)
    write_recordings(tmp_path / "tue", 2)
    first, _ = _find_work(output, tmp_path / "mon")
    rows = _run(_batch(output, *first, formats=("json",)))
    mine = output.place.below("results/r00.json").read()  # the rows wait, as those of a killed run
    todo, _ = _find_work(output, tmp_path / "tue")
    assert [one.path for one in todo] == [str(tmp_path / "tue" / "r01.hea")]
    assert "r00 has the results of" in output.read_failures(9)[str(tmp_path / "tue" / "r00.hea")]
    output.publish(_run(_batch(output, *todo, formats=("json",))))
    assert output.place.below("results/r00.json").read() == mine
    assert _find_work(output, tmp_path / "tue") == ([], {})
    assert [row["path"] for row in _read(output)] == [
        rows[0].path,
        str(tmp_path / "tue" / "r00.hea"),
        str(tmp_path / "tue" / "r01.hea"),
    ]


def test_files_that_cannot_be_read_become_rows_with_their_error(
    output: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[str] = Counter()
    cat_file = LocalFileSystem.cat_file

    def refuse(files: LocalFileSystem, path: str, *arguments: int) -> bytes:
        name = Path(path).name
        asked[name] += 1
        if arguments and (name in {"IM0001", "day.ann"} or asked[name] == 1):
            raise OSError(errno.EIO, "the disk does not answer", path)
        content: bytes = cat_file(files, path, *arguments)
        return content

    monkeypatch.setattr(LocalFileSystem, "cat_file", refuse)
    monkeypatch.setattr(places, "_PAUSE_S", 0.0)
    root = tmp_path / "in"
    root.mkdir()
    for name in ("IM0001", "notes.md", "day.ann"):
        (root / name).write_text("words")
    for name in ("late", "day.rec"):
        (root / name).write_bytes(b"0       ".ljust(300))
    found = find_recordings([str(root)], output=output.place)
    assert [one.name for one in found.recordings] == ["IM0001", "day", "late"]
    assert (asked["IM0001"], asked["notes.md"]) == (3, 2)
    (row, *_) = _run(_batch(output, *found.recordings))
    assert (row.name, row.status) == ("IM0001", Status.FAILED)


def test_links_to_files_are_recordings_and_links_to_directories_are_passed_over(
    write_recordings: Callable[[Path, int], None], output: Output, tmp_path: Path
) -> None:
    write_recordings(tmp_path / "kept", 1)
    root = tmp_path / "in"
    root.mkdir()
    for name in ("r00.hea", "r00.dat"):
        (root / name).symlink_to(tmp_path / "kept" / name)
    (root / "linked").symlink_to(tmp_path / "kept")
    found = find_recordings([str(root)], output=output.place)
    n_bytes = sum((tmp_path / "kept" / name).stat().st_size for name in ("r00.hea", "r00.dat"))
    assert found.recordings == [Recording(str(root / "r00.hea"), "", n_bytes)]
    (row,) = _run(_batch(output, *found.recordings))
    assert row.status is Status.ANALYSED


def test_segments_of_a_record_of_a_store_are_fetched_and_not_listed(
    write_recordings: Callable[[Path, int], None], tmp_path: Path, store: str
) -> None:
    write_recordings(tmp_path / "in", 2)
    samples = [int((tmp_path / "in" / f"r0{n}.hea").read_text().split()[3]) for n in (0, 1)]
    (tmp_path / "in" / "whole.hea").write_text(
        f"whole/2 2 360 {sum(samples)}\nr00 {samples[0]}\nr01 {samples[1]}\n"
    )
    _upload(tmp_path / "in", store)
    (whole,) = find_recordings([store], output=open_place(str(tmp_path / "out"))).recordings
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert fetch(whole, scratch) == scratch / "whole.hea"
    assert sorted(path.name for path in scratch.iterdir()) == [
        "r00.dat", "r00.hea", "r01.dat", "r01.hea", "whole.hea",
    ]  # fmt: skip


@pytest.mark.parametrize("url", ["nix://bucket/x", "abfs://bucket/x"])
def test_a_store_that_nothing_here_opens_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="must be a path, or the URL of a store"):
        open_place(url)


def test_a_batch_gives_what_the_command_gives(
    toy_bundle: Bundle, output: Output, tmp_path: Path
) -> None:
    """Of a recording that is analysed in several parts, by one thread and by two."""
    record = simulate_record("long", patient=draw_patient(3), duration_s=2760.0, seed=5)
    write_wfdb(record, tmp_path / "in" / "deep")
    formats = ("json", "csv", "atr")
    by_command = tmp_path / "command"
    path = str(tmp_path / "in" / "deep" / "long.hea")
    done = analyze_file(
        Request(path=path, output_dir=str(by_command), formats=formats),
        classifier=BeatClassifier.load(toy_bundle),
        model=describe_model(toy_bundle, version="3"),
    )
    found = find_recordings([str(tmp_path / "in")], output=output.place)
    (row,) = _run(_batch(output, *found.recordings, formats=formats))
    assert (row.status, row.beats, row.v_beats) == (Status.ANALYSED, done.beats, done.v_beats)
    assert (row.risk_level, row.runs, row.lead) == (done.risk_level, done.runs, done.lead)
    assert row.cpu_s > 0
    ours = output.place.as_path() / "results"
    assert row.results == (
        "results/deep/long.json", "results/deep/long.beats.csv", "results/deep/long.pvc",
    )  # fmt: skip
    for name in ("long.beats.csv", "long.pvc"):
        assert (ours / "deep" / name).read_bytes() == (by_command / name).read_bytes()
    results = [json.loads((at / "long.json").read_text()) for at in (ours / "deep", by_command)]
    assert results[0] | {"analysed_at": ""} == results[1] | {"analysed_at": ""}


def test_a_batch_of_a_store_leaves_its_results_there(
    write_recordings: Callable[[Path, int], None], toy_bundle: Bundle, tmp_path: Path, store: str
) -> None:
    write_recordings(tmp_path / "a", 1)
    _upload(tmp_path, store)
    output = Output(open_place("memory://bucket/out"))
    output.pin({}, toy_bundle, describe_model(toy_bundle, version="3"))
    found = find_recordings([store], output=output.place)
    rows = _run(_batch(output, *found.recordings, formats=("json",)))
    output.publish(rows)
    names = [name for name in output.place.list_names() if not name.startswith("_state/model")]
    assert [name for name in names if "recordings" not in name] == [
        "_state/request.json",
        "results/a/r00.json",
    ]
    assert len(names) == 3
    path = "memory:///bucket/holters/a/r00.hea"
    assert output.settle() == ({path}, {("a", "r00"): path})
    assert (output.count().analysed, output.count().failed) == (1, 0)


def test_what_cannot_be_analysed_is_a_row_with_its_error(
    write_recordings: Callable[[Path, int], None], output: Output, tmp_path: Path
) -> None:
    write_recordings(tmp_path / "in", 2)
    (tmp_path / "in" / "broken.edf").write_bytes(b"0       nothing more")
    (tmp_path / "in" / "r00.dat").unlink()
    gone = Recording(str(tmp_path / "in" / "gone.edf"), "", 1)
    found = find_recordings([str(tmp_path / "in")], output=output.place)
    rows = _run(_batch(output, *found.recordings, gone))
    output.publish(rows)
    errors = {str(row["name"]): str(row["error"]) for row in _read(output)}
    assert "header" in errors["broken"]
    assert "missing" in errors["gone"]
    assert "missing" in errors["r00"]
    assert errors["r01"] == ""
    statuses = {row["name"]: row["status"] for row in _read(output)}
    assert statuses == {"broken": "failed", "gone": "failed", "r00": "failed", "r01": "analysed"}
    dataset = pyarrow.dataset.dataset(
        f"{output.place.path}/recordings", partitioning="hive", format="parquet"
    )
    assert dataset.count_rows(filter=pyarrow.dataset.field("status") == "failed") == 3


def test_a_recording_that_ends_its_process_fails_alone(
    write_recordings: Callable[[Path, int], None],
    output: Output,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_recordings(tmp_path / "in", 3)
    analyze = AnalysisProcess.analyze

    def analyze_and_die(process: AnalysisProcess, request: Request) -> object:
        if request.path.endswith("r01.hea"):
            process._process = process._process or process._start()
            process._process.kill()
        return analyze(process, request)

    monkeypatch.setattr(AnalysisProcess, "analyze", analyze_and_die)
    found = find_recordings([str(tmp_path / "in")], output=output.place)
    rows = _run(_batch(output, *found.recordings))
    assert [row.status for row in rows] == ["analysed", "failed", "analysed"]
    assert "ended with status -9" in rows[1].error


def test_an_analysis_that_takes_too_long_is_stopped(
    write_recordings: Callable[[Path, int], None], toy_bundle: Bundle, tmp_path: Path
) -> None:
    write_recordings(tmp_path, 1)
    request = Request(path=str(tmp_path / "r00.hea"), output_dir=str(tmp_path), formats=())
    with (
        AnalysisProcess(toy_bundle.directory, {}, limit_s=0.01) as process,
        pytest.raises(AnalysisError, match=r"must end within 0\.01 s, this one did not"),
    ):
        process.analyze(request)


def test_an_analysis_ends_with_the_process_that_asked_for_it(
    toy_bundle: Bundle, tmp_path: Path
) -> None:
    """A Dask worker that is killed leaves nothing that goes on."""
    np.save(tmp_path / "day.npy", np.tile(simulate_strip(StripKind.RUN, seed=1).signal_mv(), 2000))
    code = (
        "import sys; from pathlib import Path\n"
        "from flows.recordings.analysis_process import AnalysisProcess\n"
        "from flows.recordings.analyzed_files import Request\n"
        "process = AnalysisProcess(Path(sys.argv[1]), {})\n"
        "print(process._start().pid, flush=True)\n"
        "process.analyze(Request(path=sys.argv[2], output_dir=sys.argv[3], formats=(),"
        " sampling_rate=360.0))"
    )
    arguments = [str(toy_bundle.directory), str(tmp_path / "day.npy"), str(tmp_path)]
    with psutil.Popen(
        [sys.executable, "-c", code, *arguments], stdout=-1, text=True, cwd=Path.cwd()
    ) as asking:
        analysing = psutil.Process(int(asking.stdout.readline()))
        asking.kill()
    assert psutil.wait_procs([analysing], timeout=180)[1] == []


def test_a_kill_between_the_steps_of_publishing_loses_and_doubles_nothing(output: Output) -> None:
    model = {"version": "3", "bundle_hash": "b"}
    rows = [make_failed(Recording(f"/in/{n}.edf", "", 1), "why", model=model) for n in range(5)]
    for row in rows:
        output.note(row)
    output.publish(rows[:3])
    output.note(rows[0])  # written to a Parquet file, and the note not removed yet
    assert output.settle().paths == {row.path for row in rows}
    assert Counter(row["path"] for row in _read(output)) == {row.path: 1 for row in rows}
    assert output.place.below("_state", "waiting").list_names() == []
    assert output.settle() == ({row.path for row in rows}, {})


def test_only_failures_of_this_run_are_analysed_again(output: Output, tmp_path: Path) -> None:
    for name in ("a/y.edf", "a/z.edf", "b/x.edf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    todo, _ = _find_work(output, tmp_path / "a", tmp_path / "b")
    rows = {one.name: make_failed(one, "why", model=output.read_model()) for one in todo}
    gone = make_failed(Recording("/in/gone.edf", "", 1), "why", model=output.read_model())
    for row in (*rows.values(), gone):
        output.note(row)
    output.publish([rows["y"], gone])  # of z the note is left, as by a run that was killed
    todo, _ = _find_work(output, tmp_path / "a", again_failed=True)
    assert sorted(one.name for one in todo) == ["y", "z"]
    assert output.settle().paths == {"/in/gone.edf", str(tmp_path / "b" / "x.edf")}
    assert len(_read(output)) == 2
    assert output.find_waiting(todo[0].path) is None


def test_results_that_cannot_be_written_end_the_batch(
    write_recordings: Callable[[Path, int], None], output: Output, tmp_path: Path
) -> None:
    write_recordings(tmp_path / "in", 1)
    output.place.below("results").write(b"a file where the folder of results must be")
    todo, _ = _find_work(output, tmp_path / "in")
    with pytest.raises(WriteError, match="results must be written to"):
        _run(_batch(output, *todo, formats=("json",)))
    assert _find_work(output, tmp_path / "in") == (todo, {})


_PASSING = [
    OSError(errno.EIO, "503 Slow Down"),
    EndpointConnectionError(endpoint_url="http://store"),  # s3fs passes it on as it is
]


@pytest.mark.parametrize("error", _PASSING, ids=type)
def test_a_store_that_fails_for_a_moment_costs_no_file(
    write_recordings: Callable[[Path, int], None],
    output: Output,
    tmp_path: Path,
    store: str,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    """Not the signal file either, whose header is then there alone."""
    failed: set[str] = set()

    def get_file(files: MemoryFileSystem, source: str, target: str) -> None:
        if source not in failed:
            failed.add(source)
            raise error
        Path(target).write_bytes(files.cat_file(source))

    write_recordings(tmp_path / "in", 1)
    _upload(tmp_path / "in", store)
    found = find_recordings([store], output=output.place)
    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    monkeypatch.setattr(places, "_PAUSE_S", 0.0)
    (row, *_) = _run(_batch(output, *found.recordings))
    assert {Path(path).suffix for path in failed} == {".hea", ".dat"}
    assert (row.status, row.error) == (Status.ANALYSED, "")


@pytest.mark.parametrize("error", _PASSING, ids=type)
def test_a_store_that_cannot_be_asked_has_not_lost_its_files(
    store: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(_files: MemoryFileSystem, *_given: object, **_named: object) -> None:
        raise error

    place = open_place(store)
    assert not place.exists()
    assert not place.is_directory()
    for method in ("info", "ls", "cat_file", "pipe_file", "put_file", "rm"):
        monkeypatch.setattr(MemoryFileSystem, method, refuse)
    for asked in (
        *(place.exists, place.size, place.is_directory, place.read, place.list_names),
        *(lambda: place.write(b""), lambda: place.upload(Path(__file__))),
        lambda: place.remove_files(["x"]),
        lambda: list(place.walk(is_entered=bool)),
    ):
        with pytest.raises(OSError, match=r"Slow Down|EndpointConnectionError: Could not connect"):
            asked()


def test_a_fault_of_the_code_is_not_called_one_of_the_store(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda _files: b"")
    with pytest.raises(TypeError):
        open_place(store).read()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_of_copies_ends_the_batch(
    write_recordings: Callable[[Path, int], None],
    output: Output,
    tmp_path: Path,
    store: str,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    def refuse(_place: Place, _path: Path) -> None:
        raise OSError(number, "full")

    write_recordings(tmp_path / "in", 1)
    _upload(tmp_path / "in", store)
    found = find_recordings([store], output=output.place)
    monkeypatch.setattr(Place, "download", refuse)
    with pytest.raises(WriteError, match="must have room for a copy of memory:"):
        _run(_batch(output, *found.recordings))
    assert output.settle().paths == set()


def test_a_store_that_refuses_results_ends_the_batch(
    write_recordings: Callable[[Path, int], None],
    toy_bundle: Bundle,
    tmp_path: Path,
    store: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_place: Place, _path: Path) -> None:
        raise PermissionError(errno.EACCES, "no key for this prefix")

    write_recordings(tmp_path, 1)
    output = Output(open_place(store))
    output.pin({}, toy_bundle, describe_model(toy_bundle, version="3"))
    monkeypatch.setattr(Place, "upload", refuse)
    found = find_recordings([str(tmp_path)], output=output.place)
    with pytest.raises(WriteError, match="no key for this prefix"):
        _run(_batch(output, *found.recordings, formats=("json",)))


@pytest.mark.parametrize("folder", ["recordings/status=failed", "_state/waiting", "results"])
def test_a_folder_of_recordings_may_be_named_as_one_of_the_output(
    write_recordings: Callable[[Path, int], None], output: Output, tmp_path: Path, folder: str
) -> None:
    write_recordings(tmp_path / "in" / folder, 1)
    todo, _ = _find_work(output, tmp_path / "in")
    (row,) = _run(_batch(output, *todo, formats=("json",)))
    output.publish([row])
    assert row.results == (f"results/{folder}/r00.json",)
    assert output.settle().paths == {row.path}
    assert [one["path"] for one in _read(output)] == [row.path]


def test_results_in_the_directory_of_the_recordings_are_passed_over(
    toy_bundle: Bundle, tmp_path: Path
) -> None:
    strip = simulate_strip(StripKind.RUN, seed=3, duration_s=30.0)
    np.savetxt(tmp_path / "r.csv", strip.signals_mv[:, :1], header="MLII", comments="")
    output = Output(open_place(str(tmp_path)))
    output.pin({}, toy_bundle, describe_model(toy_bundle, version="3"))
    found = find_recordings([str(tmp_path)], output=output.place)
    wanted = Wanted(output=str(tmp_path), formats=tuple(ResultFormat), sampling_rate=strip.fs)
    rows = _run(Batch(number=0, recordings=tuple(found.recordings), wanted=wanted))
    output.publish(rows)
    assert len(rows[0].results) == len(ResultFormat)
    assert find_recordings([str(tmp_path)], output=output.place) == found


def test_a_batch_that_is_run_again_goes_on_where_it_stopped(
    write_recordings: Callable[[Path, int], None], output: Output, tmp_path: Path
) -> None:
    write_recordings(tmp_path / "in", 2)
    recordings = find_recordings([str(tmp_path / "in")], output=output.place).recordings
    (first,) = _run(_batch(output, recordings[0]))
    again, second = _run(_batch(output, *recordings))
    assert again == first
    assert second.path == recordings[1].path


def test_an_output_keeps_its_request_and_its_model(
    toy_bundle: Bundle, output: Output, tmp_path: Path
) -> None:
    model = describe_model(toy_bundle, version="4")
    output.pin({"formats": []}, toy_bundle, model)
    assert output.read_model()["version"] == "3"
    with pytest.raises(ConfigurationError, match=r"'lead': \"None before, 'II' now\""):
        output.pin({"formats": [], "lead": "II"}, toy_bundle, model)
    assert output.fetch_bundle(tmp_path) == output.place.as_path() / "_state" / "model"
    (output.place.as_path() / "_state" / "model" / "model_card.md").write_text("other")
    with pytest.raises(BundleIntegrityError):
        output.fetch_bundle(tmp_path)


def test_two_runs_on_one_output_are_refused_until_the_first_ends(output: Output) -> None:
    with only_run_on(output.place):
        with pytest.raises(AnalysisError, match="one run at a time may write to"):
            only_run_on(output.place).__enter__()
        with only_run_on(output.place.below("other")):
            pass
    with only_run_on(output.place):
        pass


def test_without_dask_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    monkeypatch.delitem(sys.modules, "prefect_dask.task_runners", raising=False)
    with (
        pytest.raises(ConfigurationError, match=r"pip install 'ecg-arrhythmia-mlops\[scale\]'"),
        open_cluster(None, processes=1),
    ):
        pass
