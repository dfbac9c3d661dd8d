"""Flow ``install-reference``: the model that ships becomes the first champion."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ecg_lib.operations.settings import Settings, read_settings
from flows.doors.registry import Alias, ModelVersion, Registry, RunKind
from flows.doors.ui.columns import V_F1
from flows.doors.ui.links import tag_origin
from flows.doors.ui.run_names import name_run
from flows.doors.ui.tracking import describe_experiment, describe_version
from flows.release.load_released import read_reference
from flows.release.package_bento import package_bento
from flows.release.release_service import release_service
from flows.release.switch_service import read_current


@flow(name="install-reference")
def install_reference() -> dict[str, Any] | None:
    """Register the bundle that ships, make it champion if there is none, and release it.

    Returns:
        The release that is served, or None when there is one already.
    """
    settings = read_settings()
    current = read_current(settings)
    if current is not None:
        get_run_logger().info("model %s is released already", current.model_version)
        name_run(f"nothing to install: model {current.model_version} is released")
        return None
    registry = Registry(settings)
    # A champion without a release is what an installation leaves that was cut off.
    version = registry.get_alias(Alias.CHAMPION) or register_reference(registry, settings)
    name_run(f"install model {version.version}, which ships with the software")
    release: dict[str, Any] = release_service(release=package_bento(model_version=version.version))
    return release


@task(cache_policy=NO_CACHE)
def register_reference(registry: Registry, settings: Settings) -> ModelVersion:
    """Register the bundle that ships and make it champion."""
    bundle = read_reference()
    tags = {
        "bundle_hash": bundle.hash,
        "data_source": bundle.provenance.data_source.value,
        "source": bundle.provenance.source.value,
        "oof_v_f1": f"{bundle.metrics['oof_v_f1']:.4f}",
    }
    run_id = registry.start_run(
        "reference bundle",
        kind=RunKind.REFERENCE,
        tags={
            "ecg.data_source": tags["data_source"],
            "ecg.dataset_version": bundle.provenance.dataset_version,
            "ecg.bundle_hash": bundle.hash,
            "mlflow.source.git.commit": bundle.provenance.git_commit,
            **tag_origin(),
        },
    )
    figures = {key: value for key, value in bundle.metrics.items() if isinstance(value, float)}
    registry.log(run_id, metrics={V_F1: bundle.metrics["oof_v_f1"], **figures})
    registry.log_bundle(run_id, bundle)
    registry.end_run(run_id)
    version = registry.register(run_id, tags=tags)
    describe_experiment(registry, settings)
    describe_version(registry, settings, version.version, run_id=run_id, bundle=bundle)
    registry.make_champion(version.version)
    get_run_logger().info(
        "model %s ships with the software, trained on %s data, out-of-fold V-F1 %.4f",
        version.version,
        tags["data_source"],
        bundle.metrics["oof_v_f1"],
    )
    return version
