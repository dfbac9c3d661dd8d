"""A release reaches the home of another machine, and nothing that was not signed does."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import shutil
import tarfile
import zlib
from pathlib import Path

import pytest

from ecg_lib.operations.keys.signatures import (
    SignatureError,
    make_key,
    sign_release,
    signature_path,
)
from ecg_lib.operations.releases import (
    CURRENT,
    Release,
    ReleaseError,
    bento_source,
    model_directory,
    read_release,
    write_release,
)
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.following import NOTES_KEY, Follower
from ecg_lib.operations.store.objects import ConflictError, ObjectStore, StoreError, open_store
from ecg_lib.operations.store.shared_releases import (
    POINTER,
    adopt_release,
    fetch_release,
    holding_releases,
    publish_release,
)
from ecg_lib.records.atomic_files import state_of
from tests.homes import make_sharing_home, store_release


@pytest.fixture
def one(tmp_path: Path, store_url: str) -> Settings:
    return make_sharing_home(tmp_path, "one", store_url)


@pytest.fixture
def other(tmp_path: Path, store_url: str) -> Settings:
    return make_sharing_home(tmp_path, "other", store_url)


def _release(settings: Settings, version: str, code: str = "a") -> Release:
    """Make a release, sign it and name it as the one to serve."""
    release = store_release(settings, version, code)
    sign_release(settings, release, why="a test")
    write_release(settings.serving_dir / CURRENT, release)
    return release


def _member(name: str, *, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """Describe a member of an archive: a file of four bytes, or a link to `target`."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    member.size = 4 if kind == tarfile.REGTYPE else 0
    return member


def _replace_archive(
    store: ObjectStore, key: str, scratch: Path, *members: tarfile.TarInfo
) -> None:
    """Replace an archive of the store by one with these members."""
    with tarfile.open(scratch / "bad", "w:gz") as packed:
        for member in members:
            packed.addfile(member, io.BytesIO(b"evil") if member.isreg() else None)
    store.upload(scratch / "bad", key)


def _read(settings: Settings) -> Release | None:
    return read_release(settings.serving_dir / CURRENT)


def test_a_release_reaches_another_home_with_code_bundle_and_signature(
    one: Settings, other: Settings, store: ObjectStore
) -> None:
    assert not publish_release(one, store)  # nothing is released yet
    release = _release(one, "1")
    assert publish_release(one, store)
    assert not publish_release(one, store)
    assert adopt_release(other, store) == release
    assert _read(other) == release
    source = bento_source(other.bentoml_home, release)
    assert (source / "bentos" / "code.py").read_text() == "a"
    assert not list(source.rglob("__pycache__"))
    bundle = model_directory(other.bentoml_home, release) / "bundle"
    assert (bundle / "manifest.json").read_text() == "1"
    assert adopt_release(other, store) is None
    assert adopt_release(one, store) is None


def test_objects_larger_than_any_release_are_not_copied(
    one: Settings, other: Settings, store: ObjectStore
) -> None:
    release = _release(one, "1")
    publish_release(one, store)
    signature_key = f"signatures/{signature_path(one, release).name}"
    signature = store.read(signature_key)
    assert signature is not None
    store.write(signature_key, bytes(2**16 + 1))
    with pytest.raises(StoreError, match=r"signatures/.* must have at most 65,536 bytes"):
        adopt_release(other, store)
    store.write(signature_key, signature.content)
    store.write(POINTER, bytes(2**20 + 1))
    with pytest.raises(StoreError, match="at most 1,048,576 bytes"):
        adopt_release(other, store)
    assert _read(other) is None


def test_homes_release_in_turn(one: Settings, other: Settings, store: ObjectStore) -> None:
    _release(one, "1")
    publish_release(one, store)
    adopt_release(other, store)
    second = _release(other, "2")
    publish_release(other, store)
    assert adopt_release(one, store) == second
    back = _release(one, "1")  # a rollback
    publish_release(one, store)
    assert adopt_release(other, store) == back
    assert _read(other) == back


def test_when_two_homes_release_at_once_the_first_is_served(
    one: Settings, other: Settings, store: ObjectStore
) -> None:
    first = _release(one, "1")
    second = _release(other, "2")
    publish_release(one, store)
    with pytest.raises(ConflictError):
        publish_release(other, store)
    assert _read(other) == second  # a publication that fails changes nothing
    assert adopt_release(other, store) == first
    assert adopt_release(one, store) is None


def test_a_home_that_could_not_reach_the_store_publishes_later(
    one: Settings, other: Settings, store: ObjectStore
) -> None:
    _release(one, "1")
    publish_release(one, store)
    adopt_release(other, store)
    third = _release(one, "3")  # and the store could not be reached
    assert adopt_release(one, store) is None
    assert publish_release(one, store)
    assert adopt_release(other, store) == third


def test_a_home_without_the_key_adopts_no_release(
    one: Settings, tmp_path: Path, store: ObjectStore, store_url: str
) -> None:
    _release(one, "1")
    publish_release(one, store)
    keyless = Settings(home=tmp_path / "keyless", store_url=store_url)
    with pytest.raises(StoreError, match="ECG_RELEASE_KEY_FILE"):
        adopt_release(keyless, store)
    make_key(keyless)
    with pytest.raises(SignatureError, match="is not what its signature says"):
        adopt_release(keyless, store)
    assert _read(keyless) is None


@pytest.mark.parametrize("part", ["bentos/ecg/1-a.tar.gz", "models/ecg_bundle/1.tar.gz"])
def test_an_archive_that_was_changed_in_the_store_is_refused_until_it_is_repaired(
    one: Settings, other: Settings, store: ObjectStore, tmp_path: Path, part: str
) -> None:
    release = _release(one, "1")
    publish_release(one, store)
    store.download(part, tmp_path / "good")
    names = "src/bentos/code.py", "src/ecg_lib/code.py", "bundle/manifest.json"
    _replace_archive(store, part, tmp_path, *map(_member, names))
    with pytest.raises(ReleaseError, match="must"):
        adopt_release(other, store)
    assert _read(other) is None
    assert not bento_source(other.bentoml_home, release).exists()
    store.upload(tmp_path / "good", part)
    assert adopt_release(other, store) == release


OUTSIDE = {
    "a path upwards": _member("../../../outside"),
    "a link upwards": _member("src/outside", kind=tarfile.SYMTYPE, target="../../../../outside"),
    "a hard link": _member("src/outside", kind=tarfile.LNKTYPE, target="../../../../release-key"),
    "a device": _member("src/outside", kind=tarfile.CHRTYPE),
}


@pytest.mark.parametrize("part", ["bentos/ecg/1-a.tar.gz", "models/ecg_bundle/1.tar.gz"])
@pytest.mark.parametrize("member", OUTSIDE.values(), ids=OUTSIDE)
def test_an_archive_cannot_write_outside_its_directory(
    one: Settings,
    other: Settings,
    store: ObjectStore,
    tmp_path: Path,
    member: tarfile.TarInfo,
    part: str,
) -> None:
    _release(one, "1")
    publish_release(one, store)
    _replace_archive(store, part, tmp_path, member)
    with pytest.raises(StoreError, match="cannot be unpacked"):
        adopt_release(other, store)
    assert not list(tmp_path.rglob("outside"))
    assert _read(other) is None


def test_a_damaged_copy_of_a_release_is_copied_again(
    one: Settings, other: Settings, store: ObjectStore
) -> None:
    first = _release(one, "1")
    publish_release(one, store)
    adopt_release(other, store)
    _release(one, "2")
    publish_release(one, store)
    adopt_release(other, store)
    source = bento_source(other.bentoml_home, first)
    manifest = model_directory(other.bentoml_home, first) / "bundle" / "manifest.json"
    (source / "bentos" / "code.py").write_text("changed")
    manifest.unlink()
    _release(one, "1")
    publish_release(one, store)
    assert adopt_release(other, store) == first
    assert (source / "bentos" / "code.py").read_text() == "a"
    assert manifest.read_text() == "1"
    assert not list(other.bentoml_home.rglob(".fetch-*"))


def test_a_damaged_release_of_the_store_takes_nothing_from_the_served_one(
    one: Settings, other: Settings, store: ObjectStore, tmp_path: Path
) -> None:
    first = _release(one, "1")
    publish_release(one, store)
    adopt_release(other, store)
    second = _release(one, "1", "b")  # new code, the same bundle
    publish_release(one, store)
    _replace_archive(store, "bentos/ecg/1-b.tar.gz", tmp_path, _member("src/ecg_lib/code.py"))
    with pytest.raises(ReleaseError, match="must"):
        adopt_release(other, store)
    assert _read(other) == first
    bundle = model_directory(other.bentoml_home, first) / "bundle"
    assert (bundle / "manifest.json").read_text() == "1"
    assert not bento_source(other.bentoml_home, second).exists()
    assert not list(other.bentoml_home.rglob(".fetch-*"))


def test_a_release_that_the_store_lacks_is_refused(
    one: Settings, other: Settings, store: ObjectStore
) -> None:
    release = _release(one, "1")
    store.write(POINTER, release.model_dump_json().encode())
    with pytest.raises(SignatureError, match="has no signature"):
        adopt_release(other, store)
    shutil.copytree(one.signatures_dir, other.signatures_dir, dirs_exist_ok=True)
    with pytest.raises(ReleaseError, match=r"bentos/ecg/1-a\.tar\.gz is not"):
        adopt_release(other, store)
    store.write(POINTER, b"{}")
    with pytest.raises(ReleaseError, match="must hold a release"):
        adopt_release(other, store)


def test_a_home_may_move_to_another_store(
    one: Settings, other: Settings, store: ObjectStore, tmp_path: Path
) -> None:
    _release(one, "1")
    publish_release(one, store)
    second_url = (tmp_path / "second").as_uri()
    moved = one.model_copy(update={"store_url": second_url})
    assert publish_release(moved, open_store(second_url))
    there = other.model_copy(update={"store_url": second_url})
    assert adopt_release(there, open_store(second_url)) == _read(one)


def test_a_follower_adopts_releases_and_logs_once_why_it_refuses_one(
    one: Settings,
    other: Settings,
    store: ObjectStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    follower = Follower(other)
    follower.look()
    assert _read(other) is None
    first = _release(one, "1")
    publish_release(one, store)
    store.write(NOTES_KEY, b"[]")
    with holding_releases(other):
        follower.look()
        assert _read(other) is None  # a release of this home goes on
    follower.look()
    assert _read(other) == first
    assert (other.ledger_dir / "history.json").read_bytes() == b"[]"
    _release(one, "2")
    publish_release(one, store)
    store.download("models/ecg_bundle/2.tar.gz", tmp_path / "good")
    store.download("models/ecg_bundle/1.tar.gz", tmp_path / "bad")
    store.upload(tmp_path / "bad", "models/ecg_bundle/2.tar.gz")
    with caplog.at_level(logging.ERROR):
        follower.look()
        follower.look()
    assert _read(other) == first
    assert follower.refusal is not None
    assert follower.refusal.bento_tag == "ecg:2-a"
    assert caplog.text.count("ecg_bundle:2 must be the bundle") == 1  # said once
    store.upload(tmp_path / "good", "models/ecg_bundle/2.tar.gz")
    follower.look()
    assert follower.refusal is None
    assert _read(other) == _read(one)


def test_workers_look_again_when_a_refused_release_is_taken_back(
    one: Settings, other: Settings, store: ObjectStore, tmp_path: Path
) -> None:
    first = _release(one, "1")
    publish_release(one, store)
    follower = Follower(other)
    follower.look()
    seen = state_of(other.serving_dir / CURRENT)
    _release(one, "2")
    publish_release(one, store)
    store.upload(tmp_path / "release-key", "models/ecg_bundle/2.tar.gz")
    follower.look()
    assert state_of(other.serving_dir / CURRENT) == seen
    back = first.model_copy(update={"released_at": "2026-01-02T00:00:00.000+00:00"})
    write_release(one.serving_dir / CURRENT, back)
    publish_release(one, store)
    follower.look()
    assert _read(other) == back
    assert state_of(other.serving_dir / CURRENT) != seen


def test_a_follower_goes_on_while_the_store_cannot_be_reached(
    other: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    broken = other.model_copy(update={"store_url": (tmp_path / "file").as_uri()})
    follower = Follower(broken)
    follower.look()
    follower.look()
    assert caplog.text.count("the store cannot be followed") == 1
    assert follower.refusal is None


PARTS = ["bentos/ecg/1-a.tar.gz", "models/ecg_bundle/1.tar.gz"]


@pytest.mark.parametrize("damage", ["a bit", "torn", "empty", "other files", "gone"])
@pytest.mark.parametrize("part", PARTS)
def test_an_archive_that_was_damaged_in_the_store_is_written_again_by_publishing_again(
    one: Settings, other: Settings, store: ObjectStore, tmp_path: Path, part: str, damage: str
) -> None:
    release = _release(one, "1")
    publish_release(one, store)
    store.download(part, tmp_path / "good")
    content = (tmp_path / "good").read_bytes()
    middle = len(content) // 2
    if damage == "gone":
        store.remove(part)
    elif damage == "other files":
        _replace_archive(store, part, tmp_path, _member("src/bentos/code.py"))
    else:
        changed = _change_a_bit(content, middle)
        store.write(part, {"a bit": changed, "torn": content[:middle], "empty": b""}[damage])
    with pytest.raises((ReleaseError, StoreError)):
        adopt_release(other, store)
    assert publish_release(one, store)
    assert adopt_release(other, store) == release
    assert not publish_release(one, store)


def _change_a_bit(packed: bytes, start: int) -> bytes:
    """Change the first bit from a place on that changes what is unpacked; not every one does."""
    for place in range(start, len(packed)):
        changed = packed[:place] + bytes([packed[place] ^ 1]) + packed[place + 1 :]
        try:
            gzip.decompress(changed)
        except (OSError, EOFError, zlib.error):
            return changed
    raise AssertionError


@pytest.mark.parametrize("part", PARTS)
def test_an_archive_that_another_home_repairs_needs_no_home_that_wrote_it(
    one: Settings, other: Settings, tmp_path: Path, store: ObjectStore, part: str
) -> None:
    release = _release(one, "1")
    publish_release(one, store)
    adopt_release(other, store)
    assert not publish_release(other, store)  # it reads the archives once: they are what it has
    store.write(part, b"damaged")
    assert publish_release(other, store)
    third = make_sharing_home(tmp_path, "third", str(one.store_url))
    assert adopt_release(third, store) == release
    assert not publish_release(one, store)


def test_a_signature_that_was_damaged_in_the_store_is_written_again(
    one: Settings, other: Settings, store: ObjectStore
) -> None:
    release = _release(one, "1")
    publish_release(one, store)
    key = f"signatures/{signature_path(one, release).name}"
    store.write(key, b"damaged")
    with pytest.raises(SignatureError, match="cannot be read"):
        adopt_release(other, store)
    assert publish_release(one, store)
    assert adopt_release(other, store) == release


def test_a_home_does_not_repair_the_store_with_a_damaged_copy(
    one: Settings, other: Settings, store: ObjectStore
) -> None:
    release = _release(one, "1")
    publish_release(one, store)
    adopt_release(other, store)
    (bento_source(other.bentoml_home, release) / "bentos" / "code.py").write_text("changed")
    store.write(PARTS[0], b"damaged")
    with pytest.raises(SignatureError, match="must have the code"):
        publish_release(other, store)
    assert publish_release(one, store)
    fetch_release(other, store, release)
    assert (bento_source(other.bentoml_home, release) / "bentos" / "code.py").read_text() == "a"


@pytest.mark.parametrize("damage", ["changed", None])
def test_a_file_of_a_bundle_that_was_damaged_is_copied_again(
    one: Settings, other: Settings, store: ObjectStore, damage: str | None
) -> None:
    files = {"network.onnx": hashlib.sha256(b"weights").hexdigest()}
    manifest = json.dumps({"files": files})
    release = store_release(one, "1")
    bundle = model_directory(one.bentoml_home, release) / "bundle"
    (bundle / "network.onnx").write_bytes(b"weights")
    (bundle / "manifest.json").write_text(manifest)
    bundle_hash = hashlib.sha256(manifest.encode()).hexdigest()
    release = release.model_copy(update={"bundle_hash": bundle_hash})
    sign_release(one, release, why="a test")
    write_release(one.serving_dir / CURRENT, release)
    publish_release(one, store)
    adopt_release(other, store)
    network = model_directory(other.bentoml_home, release) / "bundle" / "network.onnx"
    if damage is None:
        network.unlink()
    else:
        network.write_text(damage)
    fetch_release(other, store, release)
    assert network.read_bytes() == b"weights"
