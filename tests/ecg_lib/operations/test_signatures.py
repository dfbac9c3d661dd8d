"""Signatures of releases: whatever is rewritten in the store, it is not served."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ecg_lib.operations.keys.signatures import (
    Signature,
    SignatureError,
    UnsignedError,
    check_code,
    check_signature,
    key_path,
    make_key,
    prepare_code,
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


CHANGES = {
    "one character": _add("bentos/worker.py", "A = 2\n"),
    "a new module": _add("bentos/more.py", ""),
    "a module in place of a library": _add("numpy.py", ""),
    "a module that Python runs at its start": _add("sitecustomize.py", ""),
    "code that only training uses": _add("ecg_lib/training/cnn.py", ""),
    "compiled code without its source": _add("bentos/spam.pyc", ""),
    "a lock": _add("requirements-serving.lock", "numpy==0\n"),
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


@pytest.mark.parametrize("name", ["bentos", "bentos/worker.py", "bentos/__pycache__", "."])
def test_code_with_a_link_neither_runs_nor_is_signed(settings: Settings, name: str) -> None:
    """The file behind a link can change while the link stays the same."""
    place = source_of(settings) / name
    if place.exists():
        place.rename(settings.home / "elsewhere")
    place.symlink_to(settings.home / "elsewhere")
    problem = "must be a file or a directory, it is a link"
    with pytest.raises(SignatureError, match=problem):
        check_code(settings, RELEASE)
    with pytest.raises(SignatureError, match=problem):
        sign_release(settings, RELEASE, why="released")


def test_a_pipe_among_the_code_is_rejected_and_not_read(settings: Settings) -> None:
    os.mkfifo(source_of(settings) / "bentos" / "pipe.py")
    with pytest.raises(SignatureError, match=r"pipe\.py must be a file or a directory"):
        check_code(settings, RELEASE)


def test_compiled_code_is_removed_before_the_code_runs_and_not_by_a_check(
    settings: Settings,
) -> None:
    compiled = source_of(settings) / "bentos" / "__pycache__"
    compiled.mkdir()
    (compiled / "worker.cpython-311.pyc").write_bytes(b"another program")
    check_code(settings, RELEASE)
    assert compiled.exists()
    prepare_code(settings, RELEASE)
    assert not compiled.exists()


def test_code_that_is_rejected_is_left_as_it_is(settings: Settings) -> None:
    compiled = source_of(settings) / "bentos" / "__pycache__"
    compiled.mkdir()
    CHANGES["a new module"](source_of(settings))
    with pytest.raises(SignatureError, match=r"must have the code .* that was signed, it has"):
        prepare_code(settings, RELEASE)
    assert compiled.exists()


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
    with pytest.raises(UnsignedError, match="has a signature that cannot be read"):
        check_signature(settings, RELEASE)


@pytest.mark.parametrize("key", ["", "\n", "k" * 31])
def test_a_short_key_accepts_no_signature_and_makes_none(settings: Settings, key: str) -> None:
    """An empty file would be a key that everybody knows."""
    key_path(settings).write_text(key)
    (path,) = settings.signatures_dir.iterdir()
    signature = Signature.model_validate_json(path.read_bytes())
    path.write_text(
        signature.model_copy(update={"hmac": signature.compute_hmac(key.strip())}).model_dump_json()
    )
    problem = rf"must have at least 32 characters, it has {len(key.strip())}; put it back"
    with pytest.raises(SignatureError, match=problem):
        check_code(settings, RELEASE)
    with pytest.raises(SignatureError, match=problem):
        sign_release(settings, RELEASE, why="released")
    key_path(settings).write_text("k" * 32)
    sign_release(settings, RELEASE, why="released")
    check_code(settings, RELEASE)


def test_without_its_key_no_release_is_accepted(settings: Settings) -> None:
    path = key_path(settings)
    path.chmod(0o644)
    with pytest.raises(
        SignatureError, match=r"this user and have mode 0600.*chmod 0600 it; without a backup"
    ):
        check_signature(settings, RELEASE)
    path.unlink()
    with pytest.raises(SignatureError, match=r"without the key of releases .* from a backup"):
        check_signature(settings, RELEASE)
    make_key(settings)
    with pytest.raises(SignatureError, match="is not what its signature says"):
        check_signature(settings, RELEASE)


def test_before_the_first_start_no_backup_of_a_key_is_asked_for(settings: Settings) -> None:
    key_path(settings).unlink()
    (path,) = settings.signatures_dir.iterdir()
    path.unlink()
    with pytest.raises(SignatureError, match=r"is not signed yet.* `ecg up`") as caught:
        check_signature(settings, RELEASE)
    assert "backup" not in str(caught.value)
