"""Prepared beats of a dataset version on disk: made once, read by training, gates and reports.

``ingest-records`` writes what training, the drift reference and the promotion gate read. Views that
only reports need (R-peaks of the blind detectors, reference R-peaks) are made by the first report
and kept beside. A directory is named by the hash of the code, the constants and the source files,
so nothing outdated is ever read; ``ingest-records`` removes what older code prepared. Beats of
labelled traffic are never written: they are prepared from the encrypted signal whenever they are
read, which for a strip takes some milliseconds.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import DatasetError
from ecg_lib.evaluation.blind_verifiers import load_blind_verifier
from ecg_lib.evaluation.prepared_views import (
    Peaks,
    PreparedStrip,
    ScoredView,
    load_annotations,
    load_strips,
    place_reference,
    prepare_scored_view,
    save_annotations,
    save_strips,
)
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.atomic_files import write_whole
from ecg_lib.records.record import Record
from ecg_lib.signal_path.preprocessing import PreprocessingConfig
from flows.data.databases import SITE, Role
from flows.data.dataset_versions import (
    DatasetVersion,
    PreparedRecord,
    code_prefix,
    prepared_key,
)

WHOLE_RECORD: Final = ScoredView()
SHORT_STRIPS: Final = ScoredView(strip_s=10)

INGESTED_VIEWS: Final[dict[Role, tuple[ScoredView, ...]]] = {
    Role.DEVELOPMENT: (WHOLE_RECORD, SHORT_STRIPS),
    Role.TEST: (WHOLE_RECORD,),
    Role.PACED: (),
    Role.PEAKS: (),
    Role.NOISE: (),
    Role.HELD_OUT: (WHOLE_RECORD,),
}
"""Views that ingestion writes; reports score paced records by blind detectors alone."""

_KEPT_LENGTHS: Final = frozenset({None, 10})
"""Strips of other lengths belong to full reports only and are not kept."""

ANNOTATIONS: Final = "annotations.npz"
"""The marks of a record, without a signal."""

OWNER: Final = "record.json"
"""Name and person of the record; written first, so that beats of a patient are always found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedViews:
    """The prepared beats and annotations of the records of a version.

    Args:
        version: Dataset.
        datasets_dir: Directory of the datasets.
    """

    version: DatasetVersion
    datasets_dir: Path

    def read(
        self,
        record: PreparedRecord,
        view: ScoredView,
        *,
        config: PreprocessingConfig | None = None,
    ) -> list[PreparedStrip]:
        """Read the beats of a view; prepare and keep them when they are not there.

        Raises:
            DatasetError: If they must be prepared and the source files are not those of the
                version.
        """
        config = config or PreprocessingConfig()
        if view.peaks is Peaks.BLIND and load_blind_verifier(record.name) is None:
            view = view._replace(peaks=Peaks.DETECTED)
        directory = self._directory_of(record, config)
        try:
            return load_strips(directory / _file_name(view))
        except FileNotFoundError:
            source = self.version.read_source(record)
            reference = None
            if view.peaks is Peaks.REFERENCE and not record.marks_are_peaks:
                found = self.read(record, ScoredView(None, Peaks.BLIND), config=config)[0].beats
                marks = self.read_annotations(record)
                reference = place_reference(marks, found.r_peaks, fs=source.fs)
            return write_view(source, view, directory, config=config, reference=reference)

    def read_annotations(self, record: PreparedRecord) -> Annotations:
        """Read the annotations of a record.

        Raises:
            DatasetError: If the source must be read and is not that of the version.
        """
        directory = self._directory_of(record, PreprocessingConfig())
        try:
            return load_annotations(directory / ANNOTATIONS)
        except FileNotFoundError:
            return write_annotations(self.version.read_source(record), directory)

    def read_development_annotations(self) -> dict[str, Annotations]:
        """Read the annotations of the development records, by record."""
        records = self.version.records_of(Role.DEVELOPMENT)
        return {record.name: self.read_annotations(record) for record in records}

    def _directory_of(self, record: PreparedRecord, config: PreprocessingConfig) -> Path:
        return records_dir(self.datasets_dir) / prepared_key(
            record.files, config, identity=record.identity
        )


def records_dir(datasets_dir: Path) -> Path:
    """Return the directory of prepared records."""
    return datasets_dir / "records"


def is_of_traffic(record: str) -> bool:
    """Return whether a record is a strip of traffic, whose signal is kept encrypted.

    >>> is_of_traffic("site:0f3a"), is_of_traffic("101")
    (True, False)
    """
    return record.startswith(SITE.full_name(""))


def write_view(
    source: Record,
    view: ScoredView,
    directory: Path,
    *,
    config: PreprocessingConfig | None = None,
    reference: NDArray[np.int64] | None = None,
) -> list[PreparedStrip]:
    """Prepare a view and keep it where :meth:`PreparedViews.read` looks for it."""
    strips = prepare_scored_view(source, view, config=config, reference=reference)
    if view.strip_s in _KEPT_LENGTHS and not is_of_traffic(source.name):
        _name_owner(source, directory)
        save_strips(strips, directory / _file_name(view))
    return strips


def write_annotations(source: Record, directory: Path) -> Annotations:
    """Keep the annotations of a record.

    Raises:
        DatasetError: If it has none.
    """
    annotations = source.annotations
    if annotations is None:
        msg = f"record {source.name} must have annotations"
        raise DatasetError(msg)
    _name_owner(source, directory)
    save_annotations(annotations, directory / ANNOTATIONS)
    return annotations


def _name_owner(source: Record, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / OWNER).exists():
        owner = {"name": source.name, "person": source.person}
        write_whole(directory / OWNER, json.dumps(owner))


def _file_name(view: ScoredView) -> str:
    return f"{view.name}.npz"


def remove_outdated(datasets_dir: Path) -> int:
    """Remove what other code prepared, and return the number of records; it can be made again."""
    current = code_prefix()
    outdated = [
        path
        for path in records_dir(datasets_dir).iterdir()
        if path.is_dir() and not path.name.startswith(current)
    ]
    for path in outdated:
        shutil.rmtree(path, ignore_errors=True)
    return len(outdated)
