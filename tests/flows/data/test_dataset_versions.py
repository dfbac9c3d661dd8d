"""The names of prepared records, and the code that they depend on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import ecg_lib
from ecg_lib.classifier.bundle import DataSource
from ecg_lib.signal_path.preprocessing import PreprocessingConfig
from flows.data.databases import SITE, Role
from flows.data.dataset_versions import (
    CUTTING,
    PREPARING,
    TRAINING,
    PreparedRecord,
    StripLabels,
    find_code,
    make_version,
    prepared_key,
)

ROOT = Path(ecg_lib.__file__).parent


def _names(modules: tuple[str, ...]) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in find_code(modules, ROOT)}


@pytest.mark.parametrize(
    "name",
    [
        "signal_path/preprocessing.py",
        "signal_path/filtering.py",
        "signal_path/r_peaks/detection.py",
        "signal_path/r_peaks/verifier.npz",
        "signal_path/kernels/library.py",
        "signal_path/kernels/c/filters.c",
        "signal_path/kernels/linux_x86_64.so",
        "signal_path/readability/flutter.py",
        "signal_path/template.py",
        "records/record.py",
        "records/annotations.py",
        "evaluation/beat_scoring.py",
        "evaluation/prepared_views.py",
        "evaluation/blind_verifier_weights/4.npz",
    ],
)
def test_records_are_prepared_again_when_code_or_weights_that_make_beats_change(name: str) -> None:
    assert name in _names(PREPARING)
    assert (ROOT / name).is_file()


@pytest.mark.parametrize(
    "prefix",
    [
        "evaluation/report", "evaluation/bootstrap", "recordings", "rhythm", "training",
        "operations", "classifier", "records/simulation", "records/files",
    ],
)  # fmt: skip
def test_other_code_prepares_nothing_again(prefix: str) -> None:
    assert not any(name.startswith(prefix) for name in _names(PREPARING))


def test_a_sweep_is_another_when_code_that_trains_changes() -> None:
    names = _names(TRAINING)
    assert names > _names(CUTTING) - {"evaluation/prepared_views.py"}
    for name in (
        "classifier/calibration.py", "classifier/shape_vote.py", "classifier/rule_guard.py",
        "training/balancing.py", "training/cnn.py", "training/fitting.py", "training/views.py",
        "evaluation/bootstrap.py",
    ):  # fmt: skip
        assert name in names
    assert not any(name.startswith(("evaluation/report", "recordings")) for name in names)


def test_what_a_module_imports_is_followed_and_a_module_that_is_gone_is_an_error(
    tmp_path: Path,
) -> None:
    root = tmp_path / "lib"
    (root / "a" / "weights").mkdir(parents=True)
    (root / "a" / "one.py").write_text("def f() -> None:\n    from lib.b import two\n")
    (root / "a" / "weights" / "w.npz").write_bytes(b"")
    (root / "a" / "fast.so").write_bytes(b"")
    (root / "b.py").write_text("from lib.c import x\n")
    (root / "c.py").write_text("import json\n")
    (root / "d.py").write_text("")
    found = [path.relative_to(root).as_posix() for path in find_code(("a.one",), root)]
    assert found == ["a/fast.so", "a/one.py", "a/weights/w.npz", "b.py", "c.py"]
    (root / "c.py").unlink()
    with pytest.raises(FileNotFoundError):
        find_code(("a.one",), root)


def test_the_name_of_a_prepared_record_tells_code_constants_and_files() -> None:
    files = {"r.dat": "a", "r.hea": "b"}
    config = PreprocessingConfig()
    other = replace(config, detection=replace(config.detection, refractory_s=0.21))
    name = prepared_key(files)
    assert name == prepared_key(dict(reversed(files.items())), config)
    assert len({name, prepared_key(files, other), prepared_key({**files, "r.dat": "c"})}) == 3
    assert len({one.split("-")[0] for one in (name, prepared_key(files, other))}) == 1


def _record(name: str, *, person: str | None = None, at: tuple[int, ...] = ()) -> PreparedRecord:
    labels = StripLabels(
        samples=at, symbols="N" * len(at), not_beats=(), is_complete=True, is_drawn=True, weight=5.0
    )
    return PreparedRecord(
        name=name,
        role=Role.DEVELOPMENT,
        files={},
        prepared="",
        duration_s=10.0,
        lead="MLII",
        annotated={"N": 3, "V": 1},
        detected=4,
        unreadable_s=0.0,
        database=SITE.name if at else name.partition(":")[0],
        person=person,
        labels=labels if at else None,
    )


def test_labelled_strips_are_in_the_order_of_their_content_as_their_names_are_random() -> None:
    archive = [_record(name) for name in ("svdb:801", "102", "101", "103", "104")]
    contents = [("site:p2", (5, 9)), ("site:p1", (7,)), ("site:p1", (3, 8))]
    for names in (("site:a", "site:b", "site:c"), ("site:f", "site:e", "site:d")):
        strips = [
            _record(name, person=person, at=at)
            for name, (person, at) in zip(names, contents, strict=True)
        ]
        version = make_version(
            data_source=DataSource.RECORDS,
            source_directory=Path(),
            records=[*strips, *archive],
            broken=[],
        )
        assert [one.name for one in version.records] == [
            "101", "102", "103", "104", names[2], names[1], names[0], "svdb:801"
        ]  # fmt: skip
