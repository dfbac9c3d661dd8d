"""The door to MLflow: runs of sweeps, and the registered model with its aliases.

A bundle is a plain directory, so a model version is registered straight from the artifacts of its
run. Aliases say what it is: ``challenger``, ``champion``, ``previous_champion``.
"""

from __future__ import annotations

import errno
import json
import logging
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import httpx

from ecg_lib.classifier.bundle import Bundle, BundleFigures, read_bundle, read_figures
from ecg_lib.errors import EcgError
from ecg_lib.operations.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

EXPERIMENT: Final = "ecg-pvc"
MODEL_NAME: Final = "ecg"
ELIGIBLE: Final = "ecg.eligible"
"""Tag of candidates: ``false`` after a gate refused one or its release was rolled back."""

_BUNDLE: Final = "bundle"
_SQLITE: Final = "sqlite:///"
_PROBE_TIMEOUT_S: Final = 3.0
_RUNS_AT_ONCE: Final = 200


class RegistryError(EcgError):
    """MLflow does not answer, or does not have what was asked for."""


class Alias(StrEnum):
    """Aliases of model versions."""

    CHALLENGER = "challenger"
    CHAMPION = "champion"
    PREVIOUS_CHAMPION = "previous_champion"


def read_version(model_version: str) -> str | None:
    """Read the parameter of a flow, which has no None: a number, or `champion`, which is None."""
    return None if model_version == Alias.CHAMPION else model_version


class RunEnd(StrEnum):
    """Ways in which a run ends, in MLflow's words."""

    FINISHED = "FINISHED"
    """Also of a pruned trial, whose tag `state` says so."""
    FAILED = "FAILED"
    """With an error of its own."""
    KILLED = "KILLED"
    """With its process, or its work was for nothing."""


class RunKind(StrEnum):
    """Kinds of runs of the experiment; the tag ``ecg.kind``."""

    SWEEP = "sweep"
    TRIAL = "trial"
    CANDIDATE = "candidate"
    REFERENCE = "reference"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A registered model version."""

    version: str
    run_id: str
    tags: dict[str, str]


class KnownRun(NamedTuple):
    """A run, as far as it matters for whether it is still needed."""

    run_id: str
    kind: str
    parent_run_id: str | None
    is_open: bool
    is_candidate: bool
    """Whether it may still be promoted."""
    dataset_version: str
    bundle_hash: str
    """Empty where the run does not tell."""
    v_f1: float
    sweep: str
    """Name of the sweep that it belongs to; empty where the run does not tell."""
    chosen_trial: str = ""


class Registry:
    """MLflow at one address: a SQLite file below ``home`` when no server is named."""

    def __init__(self, settings: Settings) -> None:
        from mlflow import MlflowClient

        self._settings = settings
        self._has_warned = False
        settings.mlflow_dir.mkdir(parents=True, exist_ok=True)
        self._client: MlflowClient = MlflowClient(tracking_uri=settings.tracking_uri)

    def experiment_id(self) -> str:
        """Find the experiment of all sweeps, or make it."""
        found = self._client.get_experiment_by_name(EXPERIMENT)
        own = self._settings.mlflow_artifacts_url
        location = own if self._settings.mlflow_tracking_uri is None else None
        if found is not None:
            if location is not None and self._settings.store_url and not self._has_warned:
                self._warn_of_place(str(found.artifact_location))
            return str(found.experiment_id)
        return str(self._client.create_experiment(EXPERIMENT, artifact_location=location))

    def _warn_of_place(self, location: str) -> None:
        """Warn that an experiment made without a store goes on without it."""
        self._has_warned = True
        if location != self._settings.mlflow_artifacts_url:
            logger.warning(
                "the experiment %s was made without the store and keeps its artifacts at %s; a new "
                "registry (ECG_FRESH=1) keeps them in the store",
                *(EXPERIMENT, location),
            )

    def start_run(
        self,
        name: str,
        *,
        kind: RunKind,
        tags: Mapping[str, str],
        parent_run_id: str | None = None,
    ) -> str:
        """Start a run and return its id."""
        all_tags = {"ecg.kind": kind.value, **tags}
        if parent_run_id is not None:
            all_tags["mlflow.parentRunId"] = parent_run_id
        run = self._client.create_run(self.experiment_id(), run_name=name, tags=all_tags)
        return str(run.info.run_id)

    def end_cut_off(self, parent_run_id: str) -> int:
        """End the nested runs that a killed sweep left open; return how many there were."""
        runs = self._client.search_runs(
            [self.experiment_id()],
            f"tags.`mlflow.parentRunId` = '{parent_run_id}' and attributes.status = 'RUNNING'",
        )
        for run in runs:
            self.end_run(run.info.run_id, RunEnd.KILLED)
        return len(runs)

    def log(
        self,
        run_id: str,
        *,
        params: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log parameters, metrics and tags in one request."""
        from mlflow.entities import Metric, Param, RunTag

        now_ms = int(time.time() * 1000)
        self._client.log_batch(
            run_id,
            metrics=[
                Metric(key, float(value), now_ms, 0) for key, value in (metrics or {}).items()
            ],
            params=[Param(key, str(value)) for key, value in (params or {}).items()],
            tags=[RunTag(key, str(value)) for key, value in (tags or {}).items()],
        )

    def log_curve(self, run_id: str, name: str, values: Sequence[float]) -> None:
        """Log a metric that has one value for each step."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now_ms, step) for step, value in enumerate(values)]
        self._client.log_batch(run_id, metrics=metrics)

    def log_dataset(
        self, run_id: str, *, version: str, data_source: str, description: Mapping[str, Any]
    ) -> None:
        """Log the dataset version as the input of a run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=f"{data_source} {version}",
            digest=version,
            source_type="local",
            source=json.dumps({"version": version}),
            profile=json.dumps(dict(description)),
        )
        context = [InputTag("mlflow.data.context", "training")]
        self._client.log_inputs(run_id, [DatasetInput(dataset, context)])

    def log_bundle(self, run_id: str, bundle: Bundle) -> None:
        """Log a bundle as the artifact that a model version is registered from."""
        self._client.log_artifacts(run_id, str(bundle.directory), _BUNDLE)

    def log_text(self, run_id: str, text: str, file_name: str) -> None:
        """Log a text file."""
        self._client.log_text(run_id, text, file_name)

    def end_run(self, run_id: str, end: RunEnd = RunEnd.FINISHED) -> None:
        """End a run."""
        self._client.set_terminated(run_id, end.value)

    def reopen_run(self, run_id: str) -> bool:
        """Let a run that ended go on; False when it was deleted."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return False
            raise
        return True

    def list_runs(self, *, are_deleted: bool = False) -> list[KnownRun]:
        """List all runs of sweeps and of installed bundles, or the deleted ones, newest first."""
        from mlflow.entities import ViewType

        found: list[KnownRun] = []
        page: Any = None
        experiment_id = self.experiment_id()
        while page is None or page.token:
            page = self._client.search_runs(
                [experiment_id],
                run_view_type=ViewType.DELETED_ONLY if are_deleted else ViewType.ACTIVE_ONLY,
                order_by=["attributes.start_time DESC"],
                max_results=_RUNS_AT_ONCE,
                page_token=None if page is None else page.token,
            )
            found += [_known_run(run) for run in page]
        return found

    def remove_runs(self, run_ids: Sequence[str]) -> list[str]:
        """Delete runs, the versions registered from them, and their files.

        The files on a server are removed by its own ``mlflow gc``. A run whose files could not be
        removed stays among those that were deleted.

        Returns:
            Why files are still there, for each run that still has them.
        """
        gone = set(run_ids)
        for version in self.versions() if gone else []:
            if version.run_id in gone:
                self._client.delete_model_version(MODEL_NAME, version.version)
        for run_id in run_ids:
            self._client.delete_run(run_id)
        if self._settings.mlflow_tracking_uri is None:
            return self._remove_for_good(run_ids)
        return ["`mlflow gc` of that server removes them"] if gone else []

    def _remove_for_good(self, run_ids: Sequence[str]) -> list[str]:
        """Delete files and rows of deleted runs; return why some are still there.

        This is what ``mlflow gc --run-ids`` does for them. The command also purges every
        experiment and logged model that a user has deleted and may want back.
        """
        from botocore.exceptions import BotoCoreError, ClientError
        from mlflow.exceptions import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
        from sqlalchemy.exc import SQLAlchemyError

        store = SqlAlchemyStore(self._settings.tracking_uri, self._settings.mlflow_dir.as_uri())
        expected = (MlflowException, SQLAlchemyError, OSError, BotoCoreError, ClientError)
        problems = []
        for run_id in run_ids:
            try:
                uri = store.get_run(run_id).info.artifact_uri
                get_artifact_repository(uri).delete_artifacts()
                store._hard_delete_run(run_id)  # noqa: SLF001  MLflow has no other way
            except expected as error:
                problems.append(f"{run_id}: {error}")
        return problems

    # Candidates and versions

    def find_candidate(self, tags: Mapping[str, str] | None = None) -> str:
        """Find the run of the best candidate: ``order_by metrics.oof_v_f1 DESC``.

        Raises:
            RegistryError: If there is no candidate with those tags.
        """
        wanted = {"ecg.kind": RunKind.CANDIDATE.value, ELIGIBLE: "true", **(tags or {})}
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in wanted.items())
        runs = self._client.search_runs(
            [self.experiment_id()],
            f"{query} and attributes.status = 'FINISHED'",
            order_by=["metrics.oof_v_f1 DESC"],
            max_results=1,
        )
        if not runs:
            msg = f"there must be a candidate with the tags {wanted}, none was found"
            raise RegistryError(msg)
        return str(runs[0].info.run_id)

    def register(self, run_id: str, *, tags: Mapping[str, str]) -> ModelVersion:
        """Register the bundle of a run, or find the version that was registered from it."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_registered_model(MODEL_NAME)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._client.create_registered_model(
                MODEL_NAME, description="Beat classifier: ventricular ectopic or not."
            )
        for version in self.versions():
            if version.run_id == run_id:
                return version
        created = self._client.create_model_version(
            MODEL_NAME, source=f"runs:/{run_id}/{_BUNDLE}", run_id=run_id, tags=dict(tags)
        )
        return _version_of(created)

    def versions(self) -> list[ModelVersion]:
        """List all versions, latest first."""
        found = self._client.search_model_versions(f"name = '{MODEL_NAME}'")
        return sorted((_version_of(v) for v in found), key=lambda v: -int(v.version))

    def get_alias(self, alias: Alias) -> ModelVersion | None:
        """Find the version that an alias names."""
        from mlflow.exceptions import MlflowException

        try:
            return _version_of(self._client.get_model_version_by_alias(MODEL_NAME, alias.value))
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise

    def set_alias(self, alias: Alias, version: str) -> None:
        """Give an alias to a version."""
        self._client.set_registered_model_alias(MODEL_NAME, alias.value, version)

    def remove_alias(self, alias: Alias) -> None:
        """Take an alias away, from whichever version has it."""
        if self.get_alias(alias) is not None:
            self._client.delete_registered_model_alias(MODEL_NAME, alias.value)

    def tag_version(self, version: str, tags: Mapping[str, str]) -> None:
        """Note something on a version."""
        for key, value in tags.items():
            self._client.set_model_version_tag(MODEL_NAME, version, key, value)

    def make_champion(self, version: str) -> None:
        """Make a version the champion, and the champion the previous one."""
        champion = self.get_alias(Alias.CHAMPION)
        if champion is not None and champion.version == version:
            return
        if champion is not None:
            self.set_alias(Alias.PREVIOUS_CHAMPION, champion.version)
        self.set_alias(Alias.CHAMPION, version)
        challenger = self.get_alias(Alias.CHALLENGER)
        if challenger is not None and challenger.version == version:
            self.remove_alias(Alias.CHALLENGER)

    def follow_release(self, version: str, *, rolled_back: Sequence[str] = ()) -> None:
        """Make the served version the champion; versions that were rolled back stay out.

        Args:
            version: The version that is served.
            rolled_back: Versions that are not promoted again.
        """
        known = {one.version: one for one in self.versions()}
        if version in known:
            self.make_champion(version)
        else:
            # Of another registry, or of one that was lost: there is nothing to give an alias to.
            logger.warning("model %s is served and is not in MLflow", version)
        for bad in set(rolled_back) & set(known) - {version}:
            self.tag_version(bad, {"rolled_back": "true"})
            self.log(known[bad].run_id, tags={ELIGIBLE: "false"})

    def find(self, version: str | None = None) -> ModelVersion:
        """Find a version by number; without one, the champion.

        Raises:
            RegistryError: If there is none.
        """
        if version is not None:
            return self.get_version(version)
        champion = self.get_alias(Alias.CHAMPION)
        if champion is None:
            msg = "there must be a champion, the registry has none"
            raise RegistryError(msg)
        return champion

    def get_version(self, version: str) -> ModelVersion:
        """Find a version by number.

        Raises:
            RegistryError: If there is none.
        """
        known = {found.version: found for found in self.versions()}
        if version not in known:
            msg = f"model version must be one of {list(known)}, got {version!r}"
            raise RegistryError(msg)
        return known[version]

    def fetch_bundle(self, run_id: str) -> Bundle:
        """Fetch the bundle of a run and check its hashes; what was fetched before is taken."""
        target = self._target(run_id)
        if not target.exists():
            with self._downloaded(run_id) as fetched:
                read_bundle(fetched)
                try:
                    fetched.rename(target)
                except OSError as error:
                    # Another flow that fetched it too was faster.
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                        raise
        return read_bundle(target)

    def fetch_figures(self, run_id: str) -> BundleFigures:
        """Fetch the figures of the bundle of a run, which earlier code may have made."""
        target = self._target(run_id)
        if target.exists():
            return read_figures(target)
        with self._downloaded(run_id) as fetched:
            return read_figures(fetched)

    def _target(self, run_id: str) -> Path:
        return self._settings.home / "bundles" / run_id

    @contextmanager
    def _downloaded(self, run_id: str) -> Iterator[Path]:
        parent = self._target(run_id).parent
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".fetch-") as draft:
            yield Path(self._client.download_artifacts(run_id, _BUNDLE, draft))


@contextmanager
def reaching_registry(settings: Settings) -> Iterator[Registry]:
    """Use the registry where that is not certain to work; errors of MLflow become its own.

    Raises:
        RegistryError: If MLflow does not answer, its database is locked, or a request fails.
    """
    if reason := explain_unreachable(settings):
        raise RegistryError(reason)
    # Only now: MLflow takes seconds to import.
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield Registry(settings)
    except (MlflowException, SQLAlchemyError) as error:
        msg = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RegistryError(msg) from error


def has_runs(settings: Settings) -> bool:
    """Return False if MLflow's database is a file that nothing has been written to yet."""
    uri = settings.tracking_uri
    return not uri.startswith(_SQLITE) or Path(uri.removeprefix(_SQLITE)).exists()


def explain_unreachable(settings: Settings) -> str:
    """Say within seconds why MLflow cannot be written; nothing when it can."""
    uri = settings.tracking_uri
    if uri.startswith("http"):
        try:
            answer = httpx.get(f"{uri.rstrip('/')}/health", timeout=_PROBE_TIMEOUT_S)
        except httpx.HTTPError as error:
            return f"no answer, {type(error).__name__}"
        return "" if answer.is_success else f"it answers {answer.status_code}"
    path = Path(uri.removeprefix(_SQLITE))
    if not uri.startswith(_SQLITE) or not path.exists():
        return ""
    try:
        with closing(sqlite3.connect(path, timeout=_PROBE_TIMEOUT_S)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.Error as error:
        return f"its database: {error}"
    return ""


def _known_run(run: Any) -> KnownRun:  # noqa: ANN401  mlflow has no types
    tags, metrics = run.data.tags, run.data.metrics
    kind = tags.get("ecg.kind", "")
    is_finished = run.info.status == RunEnd.FINISHED
    return KnownRun(
        run_id=str(run.info.run_id),
        kind=kind,
        parent_run_id=tags.get("mlflow.parentRunId"),
        is_open=run.info.status in {"RUNNING", "SCHEDULED"},
        is_candidate=kind == RunKind.CANDIDATE and is_finished and tags.get(ELIGIBLE) == "true",
        dataset_version=tags.get("ecg.dataset_version", ""),
        bundle_hash=tags.get("ecg.bundle_hash", ""),
        v_f1=float(metrics.get("oof_v_f1", 0.0)),
        sweep=tags.get("ecg.sweep", ""),
        chosen_trial=tags.get("ecg.chosen_trial", ""),
    )


def _version_of(found: Any) -> ModelVersion:  # noqa: ANN401  mlflow has no types
    return ModelVersion(
        version=str(found.version), run_id=str(found.run_id), tags=dict(found.tags or {})
    )
