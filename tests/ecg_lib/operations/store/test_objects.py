"""The contract of a store, on a folder and on an S3 API."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from ecg_lib.operations.store import s3_objects
from ecg_lib.operations.store.objects import ConflictError, ObjectStore, StoreError, open_store
from ecg_lib.records.atomic_files import LEAST_FREE_BYTES
from tests.object_store.server import SECRET, ObjectServer


def test_a_small_object_is_read_as_it_was_written(store: ObjectStore) -> None:
    store.write("serving/a.json", b"one")
    found = store.read("serving/a.json")
    assert found is not None
    assert found.content == b"one"
    assert store.find_version("serving/a.json") == found.version
    store.write("serving/a.json", b"two")
    again = store.read("serving/a.json")
    assert again is not None
    assert again.content == b"two"
    assert again.version != found.version


def test_a_missing_object_reads_as_none(store: ObjectStore, tmp_path: Path) -> None:
    assert store.read("a/missing") is None
    assert store.find_version("a/missing") is None
    assert not store.download("a/missing", tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_a_file_comes_back_as_it_was(store: ObjectStore, tmp_path: Path) -> None:
    content = bytes(range(256)) * 40_000  # 10 MB: several parts
    (tmp_path / "there").write_bytes(content)
    store.upload(tmp_path / "there", "models/x/y.tar.gz")
    assert store.download("models/x/y.tar.gz", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_an_object_that_is_removed_is_gone_and_may_be_removed_again(
    store: ObjectStore, tmp_path: Path
) -> None:
    store.write("sweeps/a/data.tar.gz", b"1")
    store.write("sweeps/b/data.tar.gz", b"2")
    for _ in range(2):
        store.remove("sweeps/a/data.tar.gz")
        assert not store.download("sweeps/a/data.tar.gz", tmp_path / "file")
    assert store.find_version("sweeps/b/data.tar.gz") is not None


def test_an_object_that_is_too_large_is_refused_before_it_is_copied(
    store: ObjectStore, tmp_path: Path
) -> None:
    store.write("a", b"12345")
    assert store.read("a", most_bytes=5) is not None
    assert store.download("a", tmp_path / "fits", most_bytes=5)
    with pytest.raises(StoreError, match="a of the store must have at most 4 bytes, it has 5"):
        store.read("a", most_bytes=4)
    with pytest.raises(StoreError, match="at most 4 bytes"):
        store.download("a", tmp_path / "b", most_bytes=4)
    assert not (tmp_path / "b").exists()


def test_an_object_for_which_the_disk_has_no_room_is_not_copied(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("a", b"12345")
    free = LEAST_FREE_BYTES + 4
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))
    with pytest.raises(StoreError, match="must be free"):
        store.download("a", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_conditional_write_needs_the_version_that_it_names(store: ObjectStore) -> None:
    first = store.replace("p", b"1", expected=None)
    with pytest.raises(ConflictError, match="p was written by another machine"):
        store.replace("p", b"other", expected=None)
    second = store.replace("p", b"2", expected=first)
    assert second != first
    with pytest.raises(ConflictError):
        store.replace("p", b"other", expected=first)
    with pytest.raises(ConflictError):
        store.replace("missing", b"other", expected=first)
    found = store.read("p")
    assert found is not None
    assert (found.content, found.version) == (b"2", second)
    assert store.read("missing") is None


def test_one_of_many_writers_at_once_wins(store_url: str) -> None:
    won: list[int] = []
    gate = threading.Barrier(6)

    def write(number: int) -> None:
        store = open_store(store_url)
        gate.wait()
        try:
            store.replace("p", b"%d" % number, expected=None)
        except ConflictError:
            return
        won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = open_store(store_url).read("p")
    assert found is not None
    assert [int(found.content)] == won


def test_a_store_of_another_kind_is_refused() -> None:
    with pytest.raises(StoreError, match="got ftp://"):
        open_store("ftp://host/folder")


def test_a_bucket_that_does_not_exist_is_named_without_a_secret(
    bucket_url: str, object_server: ObjectServer
) -> None:
    assert object_server.port
    del bucket_url  # only its variables are needed
    with pytest.raises(StoreError, match=r"s3://not-there/p .*bucket does not exist") as refused:
        open_store("s3://not-there").read("p")
    assert SECRET not in str(refused.value)


def test_a_server_that_does_not_answer_is_an_error(
    bucket_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="cannot be read or written"):
        open_store(bucket_url).read("p")


def test_an_endpoint_without_a_scheme_is_an_error(
    bucket_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "no-scheme:9000/")
    with pytest.raises(StoreError, match="cannot be opened with the AWS_ variables"):
        open_store(bucket_url)


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be read or written"):
        open_store((tmp_path / "file").as_uri()).write("p", b"x")


def test_a_listing_gives_the_objects_below_a_prefix_with_their_times(
    store: ObjectStore, tmp_path: Path
) -> None:
    before_s = time.time()
    assert list(store.list_objects("reports/")) == []
    (tmp_path / "file").write_bytes(b"3")
    store.write("reports/a", b"1")
    store.upload(tmp_path / "file", "reports/deep/b")
    store.write("reports-of-others", b"2")
    found = {one.key: one.modified_s for one in store.list_objects("reports/")}
    assert found.keys() == {"reports/a", "reports/deep/b"}
    assert all(abs(modified_s - before_s) < 60 for modified_s in found.values())


def test_a_listing_may_have_more_objects_than_an_answer_of_the_store(bucket_url: str) -> None:
    store = open_store(bucket_url)
    for number in range(1005):  # an answer has 1,000 at most
        store.write(f"many/{number}", b"")
    assert len(list(store.list_objects("many/"))) == 1005


def test_an_endpoint_of_the_configuration_file_is_addressed_like_one_of_the_environment(
    bucket_url: str, object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    # By a name, as with an IP address no client would try BUCKET.HOST.
    (tmp_path / "config").write_text(
        f"[default]\nendpoint_url = http://localhost:{object_server.port}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    client = s3_objects.open_client()
    bucket = bucket_url.removeprefix("s3://").partition("/")[0]
    signed = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    assert signed.startswith(f"http://localhost:{object_server.port}/{bucket}/k?")
