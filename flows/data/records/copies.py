"""Copies of kept signals that training prepared: find and delete them.

Their beats are encrypted; copies that earlier code left unencrypted are deleted. Copies are found
by the files in their directories and not by dataset versions: a version may be torn, and an ingest
may have ended before it published one. All of them can be made again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from ecg_lib.operations.learning.kept_signals import SignalStore
from flows.data.prepared_views import ANNOTATIONS, OWNER, is_of_traffic, records_dir
from flows.data.records.preparation import SUMMARY
from flows.data.records.site import name_person, name_strip
from flows.data.training_data import SEALED

_TRAINING: Final = "dataset.json"


class Removal(NamedTuple):
    """The outcome of a removal."""

    n_removed: int
    """Number of directories."""
    left: tuple[Path, ...]
    """Directories that do not tell whose they are, or that cannot be deleted."""


class _Copy(NamedTuple):
    """A directory of prepared beats."""

    directory: Path
    records: frozenset[str]
    people: frozenset[str]


def remove_copies_of_patient(datasets_dir: Path, patient_key: str) -> Removal:
    """Delete everything that was prepared of the signals of a patient.

    Args:
        datasets_dir: Directory of the datasets.
        patient_key: Keyed hash of the patient.
    """
    person = name_person(patient_key)
    copies, left = _list_copies(datasets_dir)
    return _remove(copies, left, is_due=lambda copy: person in copy.people)


def remove_copies_without_signal(datasets_dir: Path, store: SignalStore) -> Removal:
    """Delete what was prepared of signals that are no longer kept, or left unencrypted.

    Args:
        datasets_dir: Directory of the datasets.
        store: The signals.
    """
    # The copies come first: an ingest may prepare a new signal meanwhile.
    copies, left = _list_copies(datasets_dir)
    kept = {name_strip(file.prediction_id) for file in store.list_files()}

    def is_due(copy: _Copy) -> bool:
        of_traffic = {name for name in copy.records if is_of_traffic(name)}
        return bool(of_traffic) and (not of_traffic <= kept or _is_plain(copy.directory))

    return _remove(copies, left, is_due=is_due)


def _is_plain(directory: Path) -> bool:
    """Return whether a directory holds beats that earlier code left unencrypted."""
    if (directory / _TRAINING).exists():
        return (directory / "windows.npy").exists() and not (directory / SEALED).exists()
    return any(path.name != ANNOTATIONS for path in directory.glob("*.npz"))


def _remove(copies: list[_Copy], left: list[Path], *, is_due: Callable[[_Copy], bool]) -> Removal:
    due = [copy.directory for copy in copies if is_due(copy)]
    for directory in due:
        shutil.rmtree(directory, ignore_errors=True)
    stuck = [directory for directory in due if directory.exists()]
    return Removal(len(due) - len(stuck), tuple(sorted([*left, *stuck])))


def _list_copies(datasets_dir: Path) -> tuple[list[_Copy], list[Path]]:
    """List the directories of prepared beats, and those that do not tell whose they are."""
    copies, unknown = [], []
    folders = (
        (records_dir(datasets_dir), _read_prepared),
        (datasets_dir / "training", _read_training),
    )
    for folder, read in folders:
        for directory in sorted(path for path in folder.glob("*") if path.is_dir()):
            copy = read(directory)
            if copy is not None:
                copies.append(copy)
            elif directory.exists():  # another process may have deleted it
                unknown.append(directory)
    return copies, unknown


def _read_prepared(directory: Path) -> _Copy | None:
    # Earlier code wrote the summary alone.
    for name in (OWNER, SUMMARY):
        fields = _read(directory / name)
        if fields is not None and isinstance(fields.get("name"), str):
            person = fields.get("person")
            people = frozenset({person} if isinstance(person, str) else ())
            return _Copy(directory, frozenset({fields["name"]}), people)
    return None


def _read_training(directory: Path) -> _Copy | None:
    fields = _read(directory / _TRAINING)
    if fields is None:
        return None
    names, people = fields.get("record_names"), fields.get("subjects")
    if not isinstance(names, list) or not isinstance(people, list):
        return None
    return _Copy(directory, frozenset(names), frozenset(people))


def _read(path: Path) -> dict[str, Any] | None:
    """Read an object; None when the file is missing or torn."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return fields if isinstance(fields, dict) else None
