"""The door to BentoML: bundles become models of its store, models and code become bentos.

Tags are made of content: the same bundle and the same code give the same bento.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Final, NamedTuple

from ecg_lib.classifier.bundle import Bundle, read_bundle
from ecg_lib.errors import EcgError
from ecg_lib.operations.keys.signatures import remove_compiled
from ecg_lib.operations.processes.limits import without_secrets
from ecg_lib.operations.releases import (
    BUNDLE_MODEL,
    LOCK,
    NOT_SERVING,
    CodeError,
    check_bento_code,
    hash_code,
)
from ecg_lib.records.atomic_files import write_whole

BENTO: Final = "ecg"
PACKED: Final = ("bentos/**", "ecg_lib/**", f"/{LOCK}")
"""The content of a bento. The last begins at the root: without the slash BentoML would also pack
each file of that name below it, those of earlier bentos in ``var`` among them, without an end."""

BILL_OF_MATERIALS: Final = "bom.cdx.json"
"""CycloneDX, in the directory of a bento."""

_PINNED: Final = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", re.MULTILINE)
_BUNDLE: Final = "bundle"
_GOLDEN_TIMEOUT_S: Final = 120.0

# Runs in a process that sees the packed code alone, and says where it found it. A bento may be of
# the time before these modules lay in folders.
_ASK_GOLDEN: Final = """
import json, sys
from pathlib import Path
try:
    from ecg_lib.classifier import golden
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.classifier.bundle import read_bundle
except ImportError:
    from ecg_lib import golden
    from ecg_lib.bundle import read_bundle
    from ecg_lib.classifier import BeatClassifier
bundle = read_bundle(Path(sys.argv[1]))
failures = golden.check_golden(BeatClassifier.load(bundle), bundle.golden.read_text())
print(json.dumps({"code": golden.__file__, "failures": failures}))
"""


class BentoStoreError(EcgError):
    """A bento or a model is not what its tag says, or is not there."""


class BuiltBento(NamedTuple):
    """A bento in the store."""

    bento_tag: str
    model_tag: str
    bundle_hash: str
    code_hash: str
    source: Path
    """Directory of its code."""


def store_bundle(bundle: Bundle) -> str:
    """Put a bundle into the model store, or find it there; return its tag."""
    import bentoml

    tag = f"{BUNDLE_MODEL}:{bundle.hash[:16]}"
    try:
        stored = bentoml.models.get(tag)
    except bentoml.exceptions.NotFound:
        provenance = bundle.provenance
        with bentoml.models.create(
            tag,
            labels={"data": provenance.data_source.value, "source": provenance.source.value},
            metadata={
                "bundle_hash": bundle.hash,
                "run_id": provenance.run_id,
                "dataset_version": provenance.dataset_version,
                "git_commit": provenance.git_commit,
            },
        ) as stored:
            shutil.copytree(bundle.directory, Path(stored.path) / _BUNDLE)
        return tag
    found = read_bundle(Path(stored.path) / _BUNDLE)
    if found.hash != bundle.hash:
        msg = f"model {tag} must hold the bundle {bundle.hash[:16]}, it holds {found.hash[:16]}"
        raise BentoStoreError(msg)
    return tag


def load_bundle(model_tag: str) -> Bundle:
    """Load a bundle from the model store.

    Raises:
        BentoStoreError: If there is no such model.
    """
    import bentoml

    try:
        return read_bundle(Path(bentoml.models.get(model_tag).path) / _BUNDLE)
    except bentoml.exceptions.NotFound as error:
        msg = f"model {model_tag} must be in BentoML's store, it is not"
        raise BentoStoreError(msg) from error


def build_bento(model_tag: str, *, root: Path) -> BuiltBento:
    """Build the bento of a stored bundle and the code below a directory, or find it.

    Args:
        model_tag: Model that :func:`store_bundle` gave.
        root: The checkout, with ``bentos``, ``ecg_lib`` and ``pyproject.toml``.

    Raises:
        BentoStoreError: If the packed code is not that of the checkout, and nothing else.
    """
    import bentoml

    bundle_hash = load_bundle(model_tag).hash
    code_hash = hash_code(root)
    tag = f"{BENTO}:{bundle_hash[:16]}-{code_hash[:8]}"
    try:
        bento = bentoml.get(tag)
    except bentoml.exceptions.NotFound:
        bento = bentoml.bentos.build(
            "bentos.service:EcgService",
            name=BENTO,
            version=tag.partition(":")[2],
            build_ctx=str(root),
            include=list(PACKED),
            exclude=["**/__pycache__/**", *(f"{folder}/**" for folder in NOT_SERVING)],
            models=[model_tag],
            python={
                "requirements_txt": LOCK,
                "lock_packages": False,
                "pack_git_packages": False,
            },
        )
    source = Path(bento.path) / "src"
    try:
        check_bento_code(source, code_hash)
    except CodeError as error:
        msg = f"bento {tag} is not what this checkout packs: {error}; remove the bento"
        raise BentoStoreError(msg) from error
    remove_compiled(source)
    write_whole(
        source.parent / BILL_OF_MATERIALS,
        list_materials(source / LOCK, bento_tag=tag, bundle_hash=bundle_hash, code_hash=code_hash),
    )
    return BuiltBento(tag, model_tag, bundle_hash, code_hash, source)


def read_pins(lock: str) -> list[tuple[str, str]]:
    """Read names and versions of the packages of a lock, in its order."""
    return _PINNED.findall(lock)


def list_materials(lock: Path, *, bento_tag: str, bundle_hash: str, code_hash: str) -> str:
    """List what a bento is made of, as CycloneDX 1.6 in JSON.

    Args:
        lock: The lock of the packages that serve.
        bento_tag: Tag of the bento.
        bundle_hash: Hash of its bundle.
        code_hash: Hash of its code.
    """
    name, _, version = bento_tag.partition(":")
    text = lock.read_text(encoding="utf-8")
    packages: list[dict[str, Any]] = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{package}@{of}",
            "name": package,
            "version": of,
            "purl": f"pkg:pypi/{package}@{of}",
        }
        for package, of in read_pins(text)
    ]
    bundle: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"bundle:{bundle_hash}",
        "name": BUNDLE_MODEL,
        "version": bundle_hash[:16],
        "hashes": [{"alg": "SHA-256", "content": bundle_hash}],
    }
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, bento_tag)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": bento_tag,
                "name": name,
                "version": version,
                "hashes": [{"alg": "SHA-256", "content": code_hash}],
            },
            "properties": [
                {"name": "ecg:lock-sha256", "value": hashlib.sha256(text.encode()).hexdigest()}
            ],
        },
        "components": [bundle, *packages],
        "dependencies": [
            {"ref": bento_tag, "dependsOn": [str(one["bom-ref"]) for one in (bundle, *packages)]}
        ],
    }
    return json.dumps(document, indent=2)


def ask_golden(source: Path, bundle: Path, *, bento_tag: str) -> tuple[str, ...]:
    """Ask the golden requests of a bento's bundle, answered by the bento's own code.

    Args:
        source: Directory of the bento's code.
        bundle: Directory of its bundle.
        bento_tag: Its name, for messages.

    Returns:
        Each request with another answer than expected, and what differs.

    Raises:
        BentoStoreError: If the bento's code cannot run.
    """
    if not source.is_dir():
        msg = f"the code of bento {bento_tag} must be in BentoML's store, it is not"
        raise BentoStoreError(msg)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _ASK_GOLDEN, str(bundle)],
            cwd=source,
            env={
                **without_secrets(os.environ),
                "PYTHONPATH": str(source),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            timeout=_GOLDEN_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"bento {bento_tag} must answer its golden requests in {_GOLDEN_TIMEOUT_S:g} s"
        raise BentoStoreError(msg) from error
    if done.returncode != 0:
        msg = f"bento {bento_tag} must answer its golden requests, it fails: {done.stderr}"
        raise BentoStoreError(msg)
    answer = json.loads(done.stdout)
    if not Path(answer["code"]).is_relative_to(source):
        msg = f"bento {bento_tag} must run its own code, it ran other code"
        raise BentoStoreError(msg)
    return tuple(answer["failures"])
