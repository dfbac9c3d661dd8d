"""Lineage: from a prediction to the records that its model was trained on, and back.

A name may be a prediction, a release, a bundle, an MLflow run, a dataset version or a record; one
that is several of them is all of them. Nothing is changed. What a store does not tell is a problem
in the result, and the rest is there: a shipped model has no dataset version and no run of training
on this machine, but its bundle names the people, and the hashes of published records ship too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from ecg_lib.classifier.bundle import BundleOrigin, DataSource, read_figures, read_origin
from ecg_lib.errors import BundleError, DatasetError, EcgError, PredictionLogError
from ecg_lib.evaluation.blind_verifiers import is_fitted
from ecg_lib.operations.learning.log_counts import PredictionSpan, count_predictions
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import PredictionRow
from ecg_lib.operations.releases import BUNDLE_MODEL
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.objects import StoreError
from flows.data.databases import PUBLISHED, DatabaseName, Role, expected_sha256
from flows.data.dataset_versions import DatasetVersion, list_versions
from flows.data.shared_versions import list_all_versions, read_version
from flows.doors.ledger import read_ledger
from flows.doors.registry import KnownRun, Registry, explain_unreachable
from flows.doors.release_history import LedgerEntry
from flows.release.load_released import REFERENCE

SHIPPED: Final = "shipped"
"""Name of the model that ships with the software."""

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHORT: Final = re.compile(r"[0-9a-f]{8,64}")
_SQLITE: Final = "sqlite:///"
_PUBLISHED_NAMES: Final = frozenset(name.value for name in PUBLISHED)
_PUBLISHED_HASHES: Final = "the published hashes"


class LineageError(EcgError):
    """A name that no store knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecord:
    """A record, with the hashes of its files."""

    name: str
    database: str
    person: str
    fold: int | None
    """Fold whose network has not seen the person."""
    files: dict[str, str]
    """SHA-256 of each file; empty where they are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetLineage:
    """The data that a model was trained on."""

    version: str
    records: tuple[SourceRecord, ...]
    """Development records."""
    hashes_of: str
    """Where the hashes of the files come from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLineage:
    """The MLflow run that made a model."""

    run_id: str
    state: str
    """Whether this MLflow has it."""
    installed_as: str | None = None
    """Run by which a shipped bundle was registered here."""
    sweep: str | None = None
    sweep_run_id: str | None = None
    trial: str | None = None
    """Number of the trial whose recipe it has."""
    n_trials: int | None = None
    """Trials that it was chosen among."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseLineage:
    """A release of a model, and the predictions that it made."""

    model_version: str
    bento_tag: str
    code_hash: str
    first_served: datetime
    ledger_commit: str
    predictions: PredictionSpan | None
    """Those that are still in the log; None where it cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLineage:
    """A model with its origin and its releases."""

    bundle_hash: str
    source: str
    data_source: str
    created_at: str
    git_commit: str
    seed: int
    recipe: dict[str, Any]
    """Hyperparameters, where the bundle has them."""
    run: RunLineage
    dataset: DatasetLineage
    releases: tuple[ReleaseLineage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionOrigin:
    """A prediction, without its signal and its patient."""

    prediction_id: str
    created_at: datetime
    bento_tag: str
    bundle_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordUse:
    """How a model has used a record."""

    bundle_hash: str
    source: str
    model_versions: tuple[str, ...]
    use: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordLineage:
    """A record and the models of this machine."""

    record: SourceRecord
    role: str
    hashes_of: str
    """Where the role and the hashes of the files come from."""
    models: tuple[RecordUse, ...]
    is_in_code: bool
    """True when the R-peak verifier, whose weights are part of the code, was fitted to it."""


@dataclass(slots=True, kw_only=True)
class Lineage:
    """Everything that a name stands for."""

    name: str
    prediction: PredictionOrigin | None = None
    models: list[ModelLineage] = field(default_factory=list)
    record: RecordLineage | None = None
    problems: list[str] = field(default_factory=list)
    """Stores and bundles that could not be read."""


class _Known(NamedTuple):
    """A bundle of this machine."""

    origin: BundleOrigin
    directory: Path


class _Listed(NamedTuple):
    """A record of a published database or of a dataset version."""

    record: SourceRecord
    role: Role
    where: str
    """Store that says so."""


def trace(settings: Settings, name: str) -> Lineage:
    """Find everything that a name stands for.

    Args:
        settings: The home.
        name: Id of a prediction; model version, bento tag or ledger commit of a release; hash of a
            bundle or id of a run, of which eight characters suffice; dataset version; record, such
            as ``203`` or ``svdb:800``; or ``shipped``.

    Raises:
        LineageError: If no store knows the name.
    """
    return _Search(settings, name).find()


class _Search:
    """The stores of a home, each read once."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._found = Lineage(name=name)
        self._entries = [one for one in read_ledger(settings.ledger_dir).entries if one.is_served]
        self._bundles = _list_bundles(settings, self._note)
        self._versions = dict(_list_datasets(settings, self._note))
        self._runs = {run.run_id: run for run in _list_runs(settings, self._note)}

    def find(self) -> Lineage:
        """Find everything that the name stands for; raises as :func:`trace`."""
        found, name = self._found, self._name
        found.prediction = self._find_prediction() if _UUID.fullmatch(name) else None
        hashes = list(dict.fromkeys(self._find_hashes()))
        found.record = self._find_record()
        if name in self._versions and not hashes:
            self._note(f"no model of this machine was trained on dataset {name}")
        if found.prediction is None and not hashes and found.record is None:
            msg = (
                "a name must be a prediction, a release (model version, bento tag, ledger commit), "
                "a bundle, a run, a dataset version, a record or `shipped` that this machine "
                f"knows, got {name!r}" + "".join(f"; {one}" for one in found.problems)
            )
            raise LineageError(msg)
        with _open_log(self._settings, self._note) as log:
            found.models = [
                model for one in hashes if (model := self._describe(one, log)) is not None
            ]
        return found

    def _note(self, problem: str) -> None:
        if problem not in self._found.problems:
            self._found.problems.append(problem)

    def _find_prediction(self) -> PredictionOrigin | None:
        with _open_log(self._settings, self._note) as log:
            row = None if log is None else _get_prediction(log, self._name, self._note)
        if row is None:
            self._note(
                "the log has no such prediction; it keeps them for "
                f"{self._settings.log_kept_days or 'unlimited'} days"
            )
            return None
        return PredictionOrigin(
            prediction_id=row.prediction_id,
            created_at=row.created_at,
            bento_tag=row.bento_tag,
            bundle_hash=row.bundle_hash,
        )

    def _find_hashes(self) -> Iterator[str]:
        """Find the bundles that the name stands for, by hash."""
        name, prediction = self._name, self._found.prediction
        if prediction is not None:
            yield prediction.bundle_hash
        for entry in self._entries:
            release = entry.release
            is_commit = len(name) >= 8 and entry.commit.startswith(name)
            if is_commit or name in {release.model_version, release.bento_tag}:
                yield release.bundle_hash
        yield from (
            entry.release.bundle_hash
            for entry in self._entries
            if _SHORT.fullmatch(name) and entry.release.bundle_hash.startswith(name)
        )
        runs = self._runs_named(name)
        for bundle_hash, known in self._bundles.items():
            provenance = known.origin.provenance
            is_named = _SHORT.fullmatch(name) and (
                bundle_hash.startswith(name) or provenance.run_id.startswith(name)
            )
            is_shipped = name == SHIPPED and known.directory == REFERENCE
            is_of_data = name == provenance.dataset_version
            if is_named or is_shipped or is_of_data or provenance.run_id in runs:
                yield bundle_hash
        yield from (self._runs[run].bundle_hash for run in runs if self._runs[run].bundle_hash)

    def _runs_named(self, name: str) -> set[str]:
        """Find a run, and the candidates of a sweep, by id."""
        if not _SHORT.fullmatch(name):
            return set()
        named = {run_id for run_id in self._runs if run_id.startswith(name)}
        return named | {one.run_id for one in self._runs.values() if one.parent_run_id in named}

    def _describe(self, bundle_hash: str, log: PredictionLog | None) -> ModelLineage | None:
        known = self._bundles.get(bundle_hash)
        if known is None:
            self._note(f"bundle {bundle_hash[:12]} is not on this machine, its origin is not known")
            return None
        provenance = known.origin.provenance
        metrics: dict[str, Any] = {}
        try:
            metrics = read_figures(known.directory).metrics
        except BundleError as error:
            self._note(str(error))
        return ModelLineage(
            bundle_hash=bundle_hash,
            source=provenance.source.value,
            data_source=provenance.data_source.value,
            created_at=provenance.created_at,
            git_commit=provenance.git_commit,
            seed=provenance.seed,
            recipe=metrics.get("recipe", {}),
            run=self._describe_run(bundle_hash, provenance.run_id, metrics),
            dataset=self._describe_dataset(known.origin),
            releases=tuple(self._list_releases(bundle_hash, log)),
        )

    def _describe_run(
        self, bundle_hash: str, run_id: str, metrics: Mapping[str, Any]
    ) -> RunLineage:
        run = self._runs.get(run_id)
        parent = None if run is None else self._runs.get(run.parent_run_id or "")
        installed = [
            one.run_id
            for one in self._runs.values()
            if one.bundle_hash == bundle_hash and one.run_id != run_id
        ]
        return RunLineage(
            run_id=run_id,
            state="in MLflow" if run else "not in this MLflow",
            installed_as=installed[0] if installed else None,
            sweep=(run.sweep or None) if run else None,
            sweep_run_id=run.parent_run_id if run else None,
            trial=(parent.chosen_trial or None) if parent else None,
            n_trials=metrics.get("n_trials"),
        )

    def _describe_dataset(self, origin: BundleOrigin) -> DatasetLineage:
        name = origin.provenance.dataset_version
        version = self._versions.get(name)
        if version is not None:
            listed = [one for one in _list_records(version, origin.folds) if _is_trained(one)]
            where = _name_store(version)
        elif _is_simulated(origin):
            # Simulated patients may have the names of people in the published databases.
            listed = []
            where = (
                "no store: simulated patients have no published hashes, "
                f"and dataset version {name} is not on this machine"
            )
        else:
            listed = [
                one
                for one in _list_published(origin.folds)
                if _is_trained(one) and one.record.person in origin.folds
            ]
            where = f"{_PUBLISHED_HASHES}; dataset version {name} is not on this machine"
            if missing := set(origin.folds) - {one.record.person for one in listed}:
                where += (
                    f", and {len(missing)} of {len(origin.folds)} people are of no known record"
                )
        return DatasetLineage(
            version=name,
            records=tuple(one.record for one in listed),
            hashes_of=where,
        )

    def _list_releases(
        self, bundle_hash: str, log: PredictionLog | None
    ) -> Iterator[ReleaseLineage]:
        """List the releases of a bundle, each by its first entry, latest first."""
        first: dict[tuple[str, str], LedgerEntry] = {}
        for entry in self._entries:
            if entry.release.bundle_hash == bundle_hash:
                first[entry.release.bento_tag, entry.release.model_version] = entry
        for entry in first.values():
            release = entry.release
            yield ReleaseLineage(
                model_version=release.model_version,
                bento_tag=release.bento_tag,
                code_hash=release.code_hash,
                first_served=entry.committed_at,
                ledger_commit=entry.commit,
                predictions=None if log is None else _count(log, release.bento_tag, self._note),
            )

    def _find_record(self) -> RecordLineage | None:
        found = self._look_up_record()
        if found is None:
            return None
        uses = [
            RecordUse(
                bundle_hash=bundle_hash,
                source=known.origin.provenance.source.value,
                model_versions=tuple(
                    dict.fromkeys(
                        entry.release.model_version
                        for entry in self._entries
                        if entry.release.bundle_hash == bundle_hash
                    )
                ),
                use=self._describe_use(found, known.origin),
            )
            for bundle_hash, known in self._bundles.items()
        ]
        return RecordLineage(
            record=found.record,
            role=found.role.value,
            hashes_of=found.where,
            models=tuple(uses),
            is_in_code=found.record.database in _PUBLISHED_NAMES and is_fitted(found.record.name),
        )

    def _look_up_record(self) -> _Listed | None:
        """Find a record in the dataset versions, else among the published ones."""
        database, _, stem = self._name.rpartition(":")
        names = {self._name}
        if database in _PUBLISHED_NAMES:
            names.add(PUBLISHED[DatabaseName(database)].full_name(stem))
        every = (
            *(one for version in self._versions.values() for one in _list_records(version, {})),
            *_list_published({}),
        )
        named = [one for one in every if one.record.name in names]
        if not named:
            return None
        found = named[0]
        others = [one.where for one in named[1:] if one.record.files != found.record.files]
        if others:
            self._note(
                f"which files of {self._name} are meant: the hashes shown are of {found.where}, "
                f"and those of {', '.join(others)} differ"
            )
        return found

    def _describe_use(self, listed: _Listed, origin: BundleOrigin) -> str:
        record, provenance = listed.record, origin.provenance
        fold = origin.folds.get(record.person)
        if fold is None or (_is_simulated(origin) and record.database in _PUBLISHED_NAMES):
            return "not seen"
        version = self._versions.get(provenance.dataset_version)
        is_trained = _is_trained(listed)
        if version is not None:
            names = {one.name for one in version.records_of(Role.DEVELOPMENT)}
            is_trained = record.name in names
        if is_trained:
            return f"trained on it; the network of fold {fold} has not seen it"
        return f"not trained on it, but on another record of its person {record.person}"


def _is_trained(listed: _Listed) -> bool:
    return listed.role is Role.DEVELOPMENT


def _is_simulated(origin: BundleOrigin) -> bool:
    return origin.provenance.data_source is DataSource.SIMULATED


def _name_store(version: DatasetVersion) -> str:
    return f"dataset version {version.version} of this machine"


def _list_records(version: DatasetVersion, folds: Mapping[str, int]) -> Iterator[_Listed]:
    """List the records of a dataset version."""
    for record in version.records:
        found = SourceRecord(
            name=record.name,
            database=record.database,
            person=record.subject,
            fold=folds.get(record.subject),
            files=record.files,
        )
        yield _Listed(found, record.role, _name_store(version))


def _list_published(folds: Mapping[str, int]) -> Iterator[_Listed]:
    """List the records of the published databases."""
    for database in PUBLISHED.values():
        hashes = expected_sha256(database.name)
        for stem, role in database.roles.items():
            person = database.person_of(stem)
            found = SourceRecord(
                name=database.full_name(stem),
                database=database.name,
                person=person,
                fold=folds.get(person),
                files={name: hashes[name] for name in database.files_of(stem) if name in hashes},
            )
            yield _Listed(found, role, _PUBLISHED_HASHES)


def _list_bundles(settings: Settings, note: Callable[[str], None]) -> dict[str, _Known]:
    """Find the bundles of this machine, by hash."""
    places = [
        REFERENCE,
        *sorted((settings.bentoml_home / "models" / BUNDLE_MODEL).glob("*/bundle")),
        *sorted((settings.home / "bundles").glob("[!.]*")),
        *sorted((settings.home / "sweeps").glob("*/bundle-*")),
    ]
    found: dict[str, _Known] = {}
    for directory in places:
        if not directory.is_dir():
            continue
        try:
            origin = read_origin(directory)
        except BundleError as error:
            note(str(error))
            continue
        found.setdefault(origin.hash, _Known(origin, directory))
    return found


def _list_datasets(
    settings: Settings, note: Callable[[str], None]
) -> Iterator[tuple[str, DatasetVersion]]:
    try:
        names = list_all_versions(settings)
    except StoreError as error:
        note(f"dataset versions of other machines are not known: {error}")
        names = list_versions(settings.datasets_dir)
    for name in names:
        try:
            yield name, read_version(settings, name)
        except (DatasetError, StoreError) as error:
            note(str(error).splitlines()[0])


def _list_runs(settings: Settings, note: Callable[[str], None]) -> Sequence[KnownRun]:
    uri = settings.tracking_uri
    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).exists():
        note("there is no MLflow database here: runs, sweeps and trials are not known")
        return ()
    if reason := explain_unreachable(settings):
        note(f"MLflow cannot be read ({reason}): runs, sweeps and trials are not known")
        return ()
    return Registry(settings).list_runs()


@contextmanager
def _open_log(settings: Settings, note: Callable[[str], None]) -> Iterator[PredictionLog | None]:
    """Open the prediction log; None with a note where there is none."""
    url = settings.monitoring_database_url
    if url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).exists():
        note("there is no prediction log here: predictions are not known")
        yield None
        return
    try:
        log = PredictionLog(url)
    except PredictionLogError as error:
        note(str(error))
        yield None
        return
    try:
        yield log
    finally:
        log.close()


def _get_prediction(
    log: PredictionLog, prediction_id: str, note: Callable[[str], None]
) -> PredictionRow | None:
    try:
        return log.get_prediction(prediction_id)
    except PredictionLogError as error:
        note(str(error))
        return None


def _count(
    log: PredictionLog, bento_tag: str, note: Callable[[str], None]
) -> PredictionSpan | None:
    try:
        with log.open_transaction() as connection:
            return count_predictions(connection, bento_tags=[bento_tag])
    except PredictionLogError as error:
        note(str(error))
        return None
