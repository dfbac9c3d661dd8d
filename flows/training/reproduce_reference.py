"""Flow ``reproduce-reference``: train the reference model again and compare the figures."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from pydantic import TypeAdapter

from ecg_lib.classifier.bundle import Bundle, DataSource
from ecg_lib.errors import EcgError
from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.records.atomic_files import require_room
from flows.data.databases import DatabaseName
from flows.data.dataset_versions import (
    DatasetVersion,
    ReferenceRecipe,
    load_version,
    select_records,
)
from flows.data.ingest_records import ingest_records
from flows.data.prepared_views import PreparedViews
from flows.data.progress import ProgressBar
from flows.data.records.sources import Source
from flows.doors.ui.run_names import name_run
from flows.release.load_released import read_reference
from flows.training.seed_spread import judge_seeds
from flows.training.sweep import SweepPlan
from flows.training.train_sweep import cut_training_beats

if TYPE_CHECKING:
    from ecg_lib.training.cross_validation import Recipe

_COMPARED: Final = (
    "oof_v_f1", "oof_v_f1_strict", "oof_v_se", "oof_v_ppv", "oof_accuracy", "oof_qrs_se",
    "oof_qrs_ppv", "oof_v_f1_after_5min", "oof_strips_10s_v_f1",
)  # fmt: skip


class RecipeChoice(StrEnum):
    """Records that the reference is reproduced on."""

    AS_PUBLISHED = "as published"
    MITDB = "mitdb"
    ALL = "all"


class ReproductionError(EcgError):
    """The reference cannot be reproduced, or the new figures are outside its interval."""


class Comparison(NamedTuple):
    """Figures of the reference and of its reproduction."""

    published: dict[str, float]
    found: dict[str, float]
    interval: tuple[float, float]
    """Of the published V-F1."""

    @property
    def is_inside(self) -> bool:
        """True when the V-F1 that was found lies in the published interval."""
        return self.interval[0] <= self.found["oof_v_f1"] <= self.interval[1]


ALL_DATABASES: Final = (DatabaseName.MITDB, DatabaseName.SVDB)
"""The databases of the recipe `all`."""


@flow(name="reproduce-reference")
def reproduce_reference(
    source: Source = Source.AUTO, recipe: RecipeChoice = RecipeChoice.AS_PUBLISHED
) -> dict[str, Any]:
    """Train the recipe of the reference bundle again, from the raw records, with its seed.

    Args:
        source: Where records come from, see `ingest-records`.
        recipe: Records to train on: `mitdb`, `all`, or those of the reference, `as published`. With
            others its figures are shown and not compared.

    Returns:
        The published figures, those that were found, and the found ones of each database.

    Raises:
        ReproductionError: If the records are not those of the reference, or the V-F1 lies
            outside the published interval.
    """
    settings = read_settings()
    require_room(settings.home)
    reference = read_reference()
    published = recipe_of(reference)
    is_given = recipe is not RecipeChoice.AS_PUBLISHED
    wanted = ReferenceRecipe(recipe.value) if is_given else published
    databases = ALL_DATABASES if wanted is ReferenceRecipe.ALL else (DatabaseName.MITDB,)
    version = load_version(
        settings.datasets_dir, ingest_records(source=source, databases=databases)
    )
    version = select_records(version, wanted, settings.datasets_dir)
    if version.data_source is DataSource.SIMULATED:
        msg = (
            f"the reference was trained on {reference.provenance.data_source} records, "
            f"these are {version.data_source}; set ECG_MITDB_DIR"
        )
        raise ReproductionError(msg)
    metrics = train_again(reference, version, settings)
    found = compare(reference.metrics, metrics)
    _show(found, metrics["by_database"], is_compared=wanted is published)
    name_run(f"reproduction on {wanted}: V-F1 {found.found['oof_v_f1']:.4f}")
    if wanted is published and not found.is_inside:
        msg = f"the reference must be reproduced inside its interval, got {_verdict(found)}"
        raise ReproductionError(msg)
    return {
        "published": found.published,
        "found": found.found,
        "by_database": metrics["by_database"],
    }


def recipe_of(reference: Bundle) -> ReferenceRecipe:
    """Return which records a bundle was trained on."""
    is_mitdb = _databases_of(reference) == {DatabaseName.MITDB}
    return ReferenceRecipe.MITDB if is_mitdb else ReferenceRecipe.ALL


def _databases_of(reference: Bundle) -> set[str]:
    return set(reference.metrics.get("databases", [DatabaseName.MITDB]))


def _show(found: Comparison, by_database: Mapping[str, Any], *, is_compared: bool) -> None:
    logger = get_run_logger()
    rows = [
        {
            "figure": name,
            "published": f"{found.published[name]:.4f}",
            "found": f"{found.found[name]:.4f}",
        }
        for name in _COMPARED
    ]
    create_table_artifact(key="reproduction", table=rows, description="Reference, trained again")
    for row in rows:
        logger.info("%(figure)-22s published %(published)s, found %(found)s", row)
    figures = [
        {"database": name, **{k: f"{v:.4f}" for k, v in values.items()}}
        for name, values in by_database.items()
    ]
    create_table_artifact(
        key="reproduction-by-database", table=figures, description="Figures of each database"
    )
    for name, values in by_database.items():
        logger.info(
            "%s: V-F1 %.4f (%.3f to %.3f), S called V %.4f, QRS +P %.4f",
            name,
            *(values[k] for k in ("v_f1", "v_f1_low", "v_f1_high")),
            values["s_called_v"],
            values["qrs_predictivity"],
        )
    logger.info(
        "%s: %s", "reproduced" if is_compared else "trained on other records", _verdict(found)
    )


def _verdict(found: Comparison) -> str:
    low, high = found.interval
    return f"V-F1 {found.found['oof_v_f1']:.4f}, published interval {low:.4f} to {high:.4f}"


def train_again(reference: Bundle, version: DatasetVersion, settings: Settings) -> dict[str, Any]:
    """Fit the recipe of the reference in its folds and compute its figures.

    Raises:
        ReproductionError: If the subjects are not those of the reference, in its folds, though
            the records are of the same databases.
    """
    plan, recipe = read_plan(reference.metrics)
    has_same_records = _databases_of(reference) == set(version.development_databases.values())
    if has_same_records and version.folds[plan.confirm_folds] != reference.folds:
        msg = "the records must be those of the reference, in its folds; these are others"
        raise ReproductionError(msg)
    data = cut_training_beats(version, plan.views, settings)
    prepared = PreparedViews(version=version, datasets_dir=settings.datasets_dir)
    # A new directory each time, so that fits of an earlier reproduction are not reused.
    with tempfile.TemporaryDirectory(dir=settings.home, prefix="reproduction-") as directory:
        (metrics,) = judge_seeds(
            [reference.provenance.seed],
            n_folds=plan.confirm_folds,
            recipe=recipe,
            version=version,
            annotations=prepared.read_development_annotations(),
            data=data,
            keep=lambda name: Path(directory) / f"{name}.npz",
            on_fit=ProgressBar("Fits").update,
        )
    return metrics


def read_plan(metrics: Mapping[str, Any]) -> tuple[SweepPlan, Recipe]:
    """Read the plan and the recipe of a bundle from its figures."""
    from ecg_lib.training.cross_validation import Recipe

    return (
        TypeAdapter(SweepPlan).validate_python(metrics["plan"]),
        TypeAdapter(Recipe).validate_python(metrics["recipe"]),
    )


def compare(published: Mapping[str, Any], found: Mapping[str, Any]) -> Comparison:
    """Put the figures of both side by side."""
    return Comparison(
        {name: float(published[name]) for name in _COMPARED},
        {name: float(found[name]) for name in _COMPARED},
        (float(published["oof_v_f1_low"]), float(published["oof_v_f1_high"])),
    )
