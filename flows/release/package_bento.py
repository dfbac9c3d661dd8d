"""Flow ``package-bento``: a model version becomes a bento that answers its golden requests."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ecg_lib.errors import EcgError
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import read_settings
from ecg_lib.records.atomic_files import require_room
from flows.doors.bento_store import BuiltBento, ask_golden, build_bento, store_bundle
from flows.doors.registry import Alias, ModelVersion, Registry, read_version
from flows.doors.ui.artifacts import show_artifact
from flows.doors.ui.run_names import name_run
from flows.release.switch_service import find_bundle, make_release


class PackagingError(EcgError):
    """A bento cannot be made of a model version."""


@flow(name="package-bento")
def package_bento(model_version: str = Alias.CHAMPION.value) -> dict[str, str]:
    """Put a model version and the serving code into a bento and ask its golden requests.

    The same version and code give the same bento, so a second run finds the first one's.

    Args:
        model_version: Number of the version of the registered model, or `champion`.

    Returns:
        The release: tags of bento and model, hashes, and version.
    """
    settings = read_settings()
    require_room(settings.home)
    registry = Registry(settings)
    version = registry.find(read_version(model_version))
    name_run(f"bento of model {version.version}")
    bento = build(registry, version)
    check_golden_requests(bento)
    release = make_release(
        bento_tag=bento.bento_tag,
        model_tag=bento.model_tag,
        bundle_hash=bento.bundle_hash,
        code_hash=bento.code_hash,
        model_version=version.version,
    )
    show(release)
    return release.model_dump()


@task(cache_policy=NO_CACHE)
def build(registry: Registry, version: ModelVersion) -> BuiltBento:
    """Store the bundle as a BentoML model and build the bento."""
    bundle = registry.fetch_bundle(version.run_id)
    bento = build_bento(store_bundle(bundle), root=Path(__file__).resolve().parents[2])
    get_run_logger().info("model %s is bento %s", version.version, bento.bento_tag)
    return bento


@task(cache_policy=NO_CACHE)
def check_golden_requests(bento: BuiltBento) -> None:
    """Ask the golden requests against the built bento."""
    bundle = find_bundle(read_settings(), bento.model_tag)
    failures = ask_golden(bento.source, bundle, bento_tag=bento.bento_tag)
    if failures:
        msg = (
            f"bento {bento.bento_tag} must answer its golden requests as when it was trained, "
            f"{len(failures)} failed: {'; '.join(failures)}"
        )
        raise PackagingError(msg)
    get_run_logger().info("bento %s answers all golden requests", bento.bento_tag)


@task(cache_policy=NO_CACHE)
def show(release: Release) -> None:
    """Show what was packed."""
    rows = "\n".join(f"| {key} | `{value}` |" for key, value in release.model_dump().items())
    show_artifact(key="bento", markdown=f"| | |\n|---|---|\n{rows}\n")
