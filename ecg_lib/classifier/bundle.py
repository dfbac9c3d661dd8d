"""Read and write bundles: one directory with a classifier and everything known about it.

::

    network.onnx             logits of V and of being a beat, from windows and features
    config.json              preprocessing, abstention, shape vote, RuleGuard, calibration,
                             threshold
    metrics.json             figures with intervals, and counts of each subject
    out_of_fold.parquet      the prediction of every development beat by a network that had not
                             seen its subject
    drift_reference.parquet  what monitoring compares with, see ecg_lib.operations.drift.observation
    golden.json              requests with their answers, see ecg_lib.classifier.golden
    model_card.md
    fold-0.onnx, ...         the networks of the folds, each made without the subjects of its fold
    manifest.json            where it comes from, the fold of each development subject, and the
                             SHA-256 of each of the other files

The networks of the folds are there for evaluation: they judge the development subjects in any
variant (noise, strips, another lead) by a network that has not seen the person. Serving does not
load them; there are five, or three of the quick profile, of about 0.1 MB each, so a bento simply
carries them.

It is written once and never changed; its hash is that of its manifest.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError

from ecg_lib.classifier.abstention import AbstentionConfig
from ecg_lib.classifier.calibration import Calibration
from ecg_lib.classifier.rule_guard import RuleGuardConfig
from ecg_lib.classifier.shape_vote import ShapeVoteConfig
from ecg_lib.errors import BundleError, BundleIntegrityError
from ecg_lib.signal_path.preprocessing import PreprocessingConfig

if TYPE_CHECKING:
    import pyarrow as pa

# pyarrow is imported where it is used: serving a bundle reads none of its tables.

BUNDLE_FORMAT: Final = 2
NETWORK: Final = "network.onnx"
CONFIG: Final = "config.json"
METRICS: Final = "metrics.json"
OUT_OF_FOLD: Final = "out_of_fold.parquet"
DRIFT_REFERENCE: Final = "drift_reference.parquet"
GOLDEN: Final = "golden.json"
MODEL_CARD: Final = "model_card.md"
MANIFEST: Final = "manifest.json"
_CONTENT: Final = (
    NETWORK, CONFIG, METRICS, OUT_OF_FOLD, DRIFT_REFERENCE, GOLDEN, MODEL_CARD,
)  # fmt: skip


class DataSource(StrEnum):
    """Data that a classifier was trained on."""

    MITDB = "mitdb"
    RECORDS = "records"
    """Records of other databases, or of several."""
    SIMULATED = "simulated"


class BundleSource(StrEnum):
    """Origin of a bundle."""

    SHIPPED = "shipped"
    """It came with the software."""
    TRAINED = "trained"
    """A pipeline run here made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierConfig:
    """Everything between a signal and a class but the network's weights.

    Raises
    ------
    ValueError
        If the threshold is not a probability.

    """

    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    abstention: AbstentionConfig = field(default_factory=AbstentionConfig)
    shape_vote: ShapeVoteConfig = field(default_factory=ShapeVoteConfig)
    rule_guard: RuleGuardConfig = field(default_factory=RuleGuardConfig)
    calibration: Calibration = field(default_factory=Calibration)
    threshold: float = 0.5
    run_threshold: float = 0.0
    """See :func:`ecg_lib.rhythm.run_evidence.find_credible`; at 0 each row is a run."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            msg = f"threshold must be above 0 and below 1, got {self.threshold!r}"
            raise ValueError(msg)
        if not 0 <= self.run_threshold < 1:
            msg = f"run_threshold must be 0 or above and below 1, got {self.run_threshold!r}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Provenance of a bundle."""

    created_at: str
    """UTC, ISO 8601."""
    source: BundleSource
    data_source: DataSource
    dataset_version: str
    git_commit: str
    """Commit of the training code, with ``+changes`` when the tree was not clean."""
    run_id: str
    """MLflow run that trained it."""
    seed: int
    library_versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manifest:
    format: int
    provenance: Provenance
    folds: dict[str, int]
    files: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bundle:
    """A bundle on disk whose files have the hashes of its manifest."""

    directory: Path
    provenance: Provenance
    config: ClassifierConfig
    metrics: dict[str, Any]
    folds: dict[str, int]
    """Fold of each development subject; the network of a fold has not seen its subjects."""
    hash: str
    """SHA-256 of the manifest, and so of everything in the bundle."""

    @property
    def network(self) -> Path:
        """File of the ONNX graph."""
        return self.directory / NETWORK

    def fold_network(self, fold: int) -> Path:
        """File of the ONNX graph that was made without the subjects of a fold.

        Raises
        ------
        BundleError
            If there is no such fold.

        """
        if fold not in self.folds.values():
            known = sorted(set(self.folds.values()))
            msg = f"fold must be one of {known}, got {fold!r}"
            raise BundleError(msg)
        return self.directory / _fold_name(fold)

    def fold_of(self, subject: str) -> int:
        """Return the fold of a development subject.

        Raises
        ------
        BundleError
            If the bundle was not developed with the subject.

        """
        if subject not in self.folds:
            msg = f"the bundle must have a fold for subject {subject}, found none"
            raise BundleError(msg)
        return self.folds[subject]

    @property
    def golden(self) -> Path:
        """File of the golden requests."""
        return self.directory / GOLDEN

    @property
    def model_card(self) -> str:
        """Text of the model card, Markdown."""
        return (self.directory / MODEL_CARD).read_text(encoding="utf-8")

    def read_drift_reference(self) -> pa.Table:
        """Read what monitoring compares with."""
        return _read_table(self.directory / DRIFT_REFERENCE)

    def read_out_of_fold(self) -> pa.Table:
        """Read the out-of-fold predictions."""
        return _read_table(self.directory / OUT_OF_FOLD)


def _fold_name(fold: int) -> str:
    return f"fold-{fold}.onnx"


def _read_table(path: Path) -> pa.Table:
    from pyarrow import parquet as pq  # noqa: PLC0415  see above

    return pq.read_table(path)


def write_config(config: ClassifierConfig) -> str:
    """Write a configuration as JSON text that :func:`read_config` gives back equal."""
    return json.dumps(asdict(config), indent=2)


def read_config(text: str | bytes) -> ClassifierConfig:
    """Read a configuration.

    Raises
    ------
    BundleError
        If a field is missing, unknown or out of range.

    """
    try:
        config = TypeAdapter(ClassifierConfig).validate_json(text)
    except ValidationError as error:
        msg = f"{CONFIG} does not hold the configuration of a classifier: {error}"
        raise BundleError(msg) from error
    # Fields that this version does not know would be dropped, and the answer would be another.
    if json.loads(write_config(config)) != json.loads(text):
        msg = f"{CONFIG} has fields that this version does not know, or lacks some"
        raise BundleError(msg)
    return config


def write_bundle(
    directory: Path,
    *,
    network: Path,
    fold_networks: Sequence[Path],
    folds: Mapping[str, int],
    config: ClassifierConfig,
    provenance: Provenance,
    metrics: Mapping[str, Any],
    out_of_fold: pa.Table,
    drift_reference: pa.Table,
    golden: str,
    model_card: str,
) -> Bundle:
    """Write a bundle into a directory that does not exist yet, whole or not at all.

    Parameters
    ----------
    directory : Path
        Where the bundle goes.
    network : Path
        The ONNX graph, which is copied.
    fold_networks : sequence of Path
        The ONNX graphs of the folds in their order, which are copied.
    folds : mapping of str to int
        Fold of each development subject.
    config, provenance, metrics, out_of_fold, drift_reference, golden, model_card
        Content of the files, see the module.

    Returns
    -------
    Bundle

    Raises
    ------
    BundleError
        If the directory exists, or the folds are not those of the networks.

    """
    if directory.exists():
        msg = f"a bundle is written once, got the existing directory {directory.name}"
        raise BundleError(msg)
    if set(folds.values()) != set(range(len(fold_networks))):
        msg = (
            f"the folds of the subjects must be 0 to {len(fold_networks) - 1}, one for each "
            f"network, got {sorted(set(folds.values()))}"
        )
        raise BundleError(msg)
    draft = directory.with_name(f".{directory.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    shutil.copyfile(network, draft / NETWORK)
    for fold, fold_network in enumerate(fold_networks):
        shutil.copyfile(fold_network, draft / _fold_name(fold))
    (draft / CONFIG).write_text(write_config(config), encoding="utf-8")
    (draft / METRICS).write_text(json.dumps(metrics, indent=2), encoding="utf-8")
    from pyarrow import parquet as pq  # noqa: PLC0415  see above

    pq.write_table(out_of_fold, draft / OUT_OF_FOLD, compression="zstd")
    pq.write_table(drift_reference, draft / DRIFT_REFERENCE, compression="zstd")
    (draft / GOLDEN).write_text(golden, encoding="utf-8")
    (draft / MODEL_CARD).write_text(model_card, encoding="utf-8")
    manifest = _Manifest(
        format=BUNDLE_FORMAT,
        provenance=provenance,
        folds=dict(folds),
        files={name: _sha256(draft / name) for name in _content(folds)},
    )
    (draft / MANIFEST).write_text(
        json.dumps(asdict(manifest), indent=2, sort_keys=True), encoding="utf-8"
    )
    draft.rename(directory)
    return read_bundle(directory)


def change_source(
    bundle: Bundle, source: BundleSource, directory: Path, *, model_card: str
) -> Bundle:
    """Copy a bundle into a directory that does not exist yet, with another source and card.

    Raises
    ------
    BundleError
        If the directory exists.

    """
    if directory.exists():
        msg = f"a bundle is written once, got the existing directory {directory.name}"
        raise BundleError(msg)
    shutil.copytree(bundle.directory, directory)
    manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    manifest["provenance"]["source"] = source.value
    (directory / MODEL_CARD).write_text(model_card, encoding="utf-8")
    manifest["files"][MODEL_CARD] = _sha256(directory / MODEL_CARD)
    (directory / MANIFEST).write_text(
        json.dumps(manifest, indent=2, sort_keys=True), encoding="utf-8"
    )
    return read_bundle(directory)


def read_bundle(directory: Path) -> Bundle:
    """Read a bundle and check the hash of every file.

    Raises
    ------
    BundleError
        If there is no bundle, or one of another format.
    BundleIntegrityError
        If a file is missing, changed or not in the manifest.

    """
    text, manifest = _read_manifest(directory)
    if manifest.format != BUNDLE_FORMAT:
        msg = f"the bundle must have format {BUNDLE_FORMAT}, got {manifest.format}"
        raise BundleError(msg)
    _check_files(directory, manifest)
    return Bundle(
        directory=directory,
        provenance=manifest.provenance,
        config=read_config((directory / CONFIG).read_bytes()),
        metrics=json.loads((directory / METRICS).read_text(encoding="utf-8")),
        folds=manifest.folds,
        hash=hashlib.sha256(text).hexdigest(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleOrigin:
    """The origin of a bundle, as its manifest states it."""

    hash: str
    provenance: Provenance
    folds: dict[str, int]
    """Fold of each development subject."""


def read_origin(directory: Path) -> BundleOrigin:
    """Read where a bundle comes from, without its other files.

    Raises
    ------
    BundleError
        If there is no bundle, or its manifest is of another format.

    """
    text, manifest = _read_manifest(directory)
    return BundleOrigin(
        hash=hashlib.sha256(text).hexdigest(),
        provenance=manifest.provenance,
        folds=manifest.folds,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BundleFigures:
    """The description of a bundle of any format; enough to compare it, not to run it."""

    source: BundleSource
    data_source: DataSource
    dataset_version: str
    n_folds: int
    """By how many folds its figures were made."""
    metrics: dict[str, Any]


def read_figures(directory: Path) -> BundleFigures:
    """Read the figures of a bundle that another version of this code may have made.

    Raises
    ------
    BundleError
        If there is no bundle, or it does not say where its figures come from.
    BundleIntegrityError
        If its figures are not those of its manifest.

    """
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        text = (directory / METRICS).read_bytes()
        expected = str(manifest["files"][METRICS])
        figures = BundleFigures(
            source=BundleSource(manifest["provenance"]["source"]),
            data_source=DataSource(manifest["provenance"]["data_source"]),
            dataset_version=str(manifest["provenance"]["dataset_version"]),
            n_folds=len(set(manifest["folds"].values())),
            metrics=dict(json.loads(text)),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        msg = f"the figures of bundle {directory.name} cannot be read: {error!r}"
        raise BundleError(msg) from error
    _check_hash(METRICS, hashlib.sha256(text).hexdigest(), expected)
    return figures


def _read_manifest(directory: Path) -> tuple[bytes, _Manifest]:
    try:
        text = (directory / MANIFEST).read_bytes()
        return text, TypeAdapter(_Manifest).validate_json(text)
    except OSError as error:
        msg = f"there is no bundle in {directory.name}: {error.strerror}"
        raise BundleError(msg) from error
    except ValidationError as error:
        msg = f"{MANIFEST} of {directory.name} cannot be read: {error}"
        raise BundleError(msg) from error


def _content(folds: Mapping[str, int]) -> tuple[str, ...]:
    return (*_CONTENT, *(_fold_name(fold) for fold in sorted(set(folds.values()))))


def _check_files(directory: Path, manifest: _Manifest) -> None:
    present = {path.name for path in directory.iterdir()} - {MANIFEST}
    expected_names = set(_content(manifest.folds))
    if present != set(manifest.files) or present != expected_names:
        odd = sorted((present ^ set(manifest.files)) | (present ^ expected_names))
        msg = f"the files of a bundle must be those of its manifest, these are not: {odd}"
        raise BundleIntegrityError(msg)
    for name, expected in manifest.files.items():
        _check_hash(name, _sha256(directory / name), expected)


def _check_hash(name: str, found: str, expected: str) -> None:
    if found != expected:
        msg = f"{name} must have the SHA-256 {expected[:12]} of the manifest, got {found[:12]}"
        raise BundleIntegrityError(msg)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
