"""Flow ``reproduce-reference``: train the reference model again and compare the figures."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from pydantic import TypeAdapter

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import EcgError
from ecg_lib.operations.settings import Settings, read_settings
from flows.data.dataset_versions import DatasetVersion, load_version
from flows.data.ingest_records import Source, ingest_records
from flows.data.prepared_views import PreparedViews
from flows.data.progress import ProgressBar
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


@flow(name="reproduce-reference")
def reproduce_reference(source: Source = Source.AUTO) -> dict[str, Any]:
    """Train the recipe of the reference bundle again, from the raw records, with its seed.

    Args:
        source: Where records come from, see `ingest-records`.

    Returns:
        The published figures and those that were found.

    Raises:
        ReproductionError: If the records are not those of the reference, or the V-F1 lies
            outside the published interval.
    """
    settings = read_settings()
    reference = read_reference()
    version = load_version(settings.datasets_dir, ingest_records(source=source))
    if version.data_source is not reference.provenance.data_source:
        msg = (
            f"the reference was trained on {reference.provenance.data_source} records, "
            f"these are {version.data_source}; set ECG_MITDB_DIR"
        )
        raise ReproductionError(msg)
    found = compare(reference.metrics, train_again(reference, version, settings))
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
        get_run_logger().info("%(figure)-22s published %(published)s, found %(found)s", row)
    low, high = found.interval
    verdict = f"V-F1 {found.found['oof_v_f1']:.4f}, published interval {low:.4f} to {high:.4f}"
    if not found.is_inside:
        msg = f"the reference must be reproduced inside its interval, got {verdict}"
        raise ReproductionError(msg)
    get_run_logger().info("reproduced: %s", verdict)
    return {"published": found.published, "found": found.found}


def train_again(reference: Bundle, version: DatasetVersion, settings: Settings) -> dict[str, float]:
    """Fit the recipe of the reference in its folds and compute its figures.

    Raises:
        ReproductionError: If the subjects are not those of the reference, in its folds.
    """
    plan, recipe = read_plan(reference.metrics)
    if version.folds[plan.confirm_folds] != reference.folds:
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
    return {name: float(metrics[name]) for name in _COMPARED}


def read_plan(metrics: Mapping[str, Any]) -> tuple[SweepPlan, Recipe]:
    """Read the plan and the recipe of a bundle from its figures."""
    from ecg_lib.training.cross_validation import Recipe

    return (
        TypeAdapter(SweepPlan).validate_python(metrics["plan"]),
        TypeAdapter(Recipe).validate_python(metrics["recipe"]),
    )


def compare(published: Mapping[str, Any], found: Mapping[str, float]) -> Comparison:
    """Put the figures of both side by side."""
    return Comparison(
        {name: float(published[name]) for name in _COMPARED},
        {name: found[name] for name in _COMPARED},
        (float(published["oof_v_f1_low"]), float(published["oof_v_f1_high"])),
    )
