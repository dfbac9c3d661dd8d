"""Signatures of releases: whatever is rewritten in the store, it is not served."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ecg_lib.operations.keys.signatures import (
    SignatureError,
    check_code,
    check_signature,
    key_path,
    make_key,
    sign_release,
)
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings

RELEASE = Release(
    bento_tag="ecg:1",
    model_tag="ecg_bundle:1",
    bundle_hash="b" * 64,
    code_hash="c" * 64,
    model_version="1",
    released_at="2026-01-01T00:00:00.000+00:00",
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path)
    source = source_of(settings)
    (source / "bentos").mkdir(parents=True)
    (source / "bentos" / "worker.py").write_text("A = 1\n")
    (source / "requirements-serving.lock").write_text("numpy\n")
    make_key(settings)
    sign_release(settings, RELEASE, why="released")
    return settings


def source_of(settings: Settings) -> Path:
    return settings.bentoml_home / "bentos" / "ecg" / "1" / "src"


def test_a_signed_release_is_accepted_whenever_it_was_served(settings: Settings) -> None:
    later = RELEASE.model_copy(update={"released_at": "2027-01-01T00:00:00.000+00:00"})
    assert check_signature(settings, later).why == "released"
    check_code(settings, later)
    for path in (key_path(settings), *settings.signatures_dir.iterdir()):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o022
    assert stat.S_IMODE(key_path(settings).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "field", ["bento_tag", "model_tag", "bundle_hash", "code_hash", "model_version"]
)
def test_a_release_file_that_names_something_else_is_not_signed(
    settings: Settings, field: str
) -> None:
    other = RELEASE.model_copy(update={field: f"{getattr(RELEASE, field)}0"})
    with pytest.raises(SignatureError, match="has no signature of this home; look at it, then"):
        check_signature(settings, other)


def _add(path: str, text: str) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(text)

    return change


def _link(source: Path) -> None:
    (source / "bentos" / "worker.py").rename(source.parent / "worker.py")
    (source / "bentos" / "worker.py").symlink_to(source.parent / "worker.py")


CHANGES = {
    "one character": _add("bentos/worker.py", "A = 2\n"),
    "a new module": _add("bentos/more.py", ""),
    "a module in place of a library": _add("numpy.py", ""),
    "a module that Python runs at its start": _add("sitecustomize.py", ""),
    "code that only training uses": _add("ecg_lib/training/cnn.py", ""),
    "compiled code without its source": _add("bentos/spam.pyc", ""),
    "a lock": _add("requirements-serving.lock", "numpy==0\n"),
    "a link": _link,
    "one file less": lambda source: (source / "requirements-serving.lock").unlink(),
    "another name": lambda source: (source / "bentos").rename(source / "bent0s"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_code_that_changed_since_it_was_signed_does_not_run(
    settings: Settings, change: Callable[[Path], None]
) -> None:
    change(source_of(settings))
    with pytest.raises(SignatureError, match=r"must have the code .* that was signed, it has"):
        check_code(settings, RELEASE)


def test_compiled_code_is_removed_before_the_code_runs(settings: Settings) -> None:
    compiled = source_of(settings) / "bentos" / "__pycache__"
    compiled.mkdir()
    (compiled / "worker.cpython-311.pyc").write_bytes(b"another program")
    check_code(settings, RELEASE)
    assert not compiled.exists()
    compiled.symlink_to(settings.home)
    with pytest.raises(SignatureError, match="must have the code"):
        check_code(settings, RELEASE)


def _forge(settings: Settings, **changes: object) -> None:
    (path,) = settings.signatures_dir.iterdir()
    signature = json.loads(path.read_text())
    path.write_text(json.dumps(signature | changes))


@pytest.mark.parametrize(
    "changes", [{"code_digest": "0" * 64}, {"why": "x"}, {"hmac": ""}, {"hmac": "0" * 64}]
)
def test_a_signature_that_was_rewritten_is_rejected(
    settings: Settings, changes: dict[str, object]
) -> None:
    _forge(settings, **changes)
    with pytest.raises(SignatureError, match="is not what its signature says"):
        check_signature(settings, RELEASE)


def test_the_signature_of_another_release_is_rejected(settings: Settings) -> None:
    other = RELEASE.model_copy(update={"model_version": "2"})
    (path,) = settings.signatures_dir.iterdir()
    sign_release(settings, other, why="released")
    (second,) = set(settings.signatures_dir.iterdir()) - {path}
    second.replace(path)
    with pytest.raises(SignatureError, match="is not what its signature says"):
        check_signature(settings, RELEASE)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"hmac": 1}', b"\xff"])
def test_a_torn_signature_is_rejected(settings: Settings, content: bytes) -> None:
    (path,) = settings.signatures_dir.iterdir()
    path.write_bytes(content)
    with pytest.raises(SignatureError, match="has a signature that cannot be read"):
        check_signature(settings, RELEASE)


def test_without_its_key_no_release_is_accepted(settings: Settings) -> None:
    path = key_path(settings)
    path.chmod(0o644)
    with pytest.raises(SignatureError, match="must belong to this user and have mode 0600"):
        check_signature(settings, RELEASE)
    path.unlink()
    with pytest.raises(SignatureError, match=r"without the key of releases .* from a backup"):
        check_signature(settings, RELEASE)
    make_key(settings)
    with pytest.raises(SignatureError, match="is not what its signature says"):
        check_signature(settings, RELEASE)
