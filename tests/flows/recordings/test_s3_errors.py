"""Which errors of a store are of one recording, and which end the run."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    IncompleteReadError,
    ReadTimeoutError,
)

from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.store.s3_objects import open_client
from flows.recordings.batches import s3_files
from flows.recordings.batches.found import find_recordings
from flows.recordings.batches.places import open_place
from flows.recordings.batches.s3_files import S3Files, StoreAccessError


class FailingClient:
    """A client of S3 whose requests fail."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def get_object(self, **_: object) -> dict[str, object]:
        raise self._error


def read(error: Exception, monkeypatch: pytest.MonkeyPatch) -> BaseException:
    monkeypatch.setattr(s3_files, "open_client", lambda: FailingClient(error))
    with pytest.raises(OSError, match=r"s3://bucket/a\.edf") as caught:
        S3Files().cat_file("bucket/a.edf")
    return caught.value


def answer(code: str, status: int) -> ClientError:
    about = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(about, "GetObject")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        answer("503", 503),
        answer("SlowDown", 503),
        answer("InternalError", 500),
        answer("NoSuchBucket", 404),
        answer("InvalidAccessKeyId", 403),
        ReadTimeoutError(endpoint_url="http://store.test"),
        EndpointConnectionError(endpoint_url="http://store.test"),
    ],
)
def test_an_outage_ends_the_run_and_makes_no_failed_rows(
    error: ClientError | BotoCoreError, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type(read(error, monkeypatch)) is StoreAccessError


@pytest.mark.parametrize(
    ("error", "kind", "number"),
    [
        (answer("NoSuchKey", 404), FileNotFoundError, errno.ENOENT),
        (answer("404", 404), FileNotFoundError, errno.ENOENT),
        (answer("AccessDenied", 403), PermissionError, errno.EACCES),
        (answer("KeyTooLongError", 400), OSError, errno.ENAMETOOLONG),
        (answer("InvalidObjectState", 403), OSError, None),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), OSError, None),
    ],
)
def test_an_error_of_one_object_is_that_recordings(
    error: ClientError | BotoCoreError,
    kind: type[OSError],
    number: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = read(error, monkeypatch)
    assert type(found) is kind
    assert isinstance(found, OSError)
    assert found.errno == number


def test_a_key_that_no_file_can_have_is_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    listed = [("a\0b.edf", 3), ("d/../e.edf", 5), ("c.edf", 4)]
    monkeypatch.setattr(S3Files, "list_below", lambda *_: iter(listed))
    monkeypatch.setattr(S3Files, "info", lambda *_: {"type": "directory"})
    found = find_recordings(["s3://bucket/in"], output=open_place(str(tmp_path)))
    assert [one.path for one in found.recordings] == ["s3://bucket/in/c.edf"]
    why = "no file can have this path"
    assert found.empty == dict.fromkeys(
        ["s3://bucket/in/a\0b.edf", "s3://bucket/in/d/../e.edf"], why
    )


def test_an_endpoint_with_a_password_is_refused_without_repeating_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://me:hunter2@127.0.0.1:9")
    with pytest.raises(ConfigurationError, match="must be without user and password") as caught:
        open_client()
    assert "hunter2" not in str(caught.value)


class Bucket:
    """A client of S3 with objects of given sizes."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self._sizes = sizes

    def head_object(self, *, Key: str, **_: object) -> dict[str, int]:  # noqa: N803  boto3's
        if Key not in self._sizes:
            raise answer("404", 404)
        return {"ContentLength": self._sizes[Key]}

    def list_objects_v2(self, *, Prefix: str, **_: object) -> dict[str, object]:  # noqa: N803
        found = [{"Key": key} for key in self._sizes if key.startswith(Prefix)]
        return {"Contents": found} if found else {}


@pytest.mark.parametrize(
    ("sizes", "kind"),
    [
        ({"ward": 0, "ward/a.edf": 9}, "directory"),
        ({"ward": 0}, "file"),
        ({"ward": 5, "ward/a.edf": 9}, "file"),
        ({"ward/a.edf": 9}, "directory"),
    ],
)
def test_an_empty_object_with_the_name_of_a_folder_hides_nothing(
    sizes: dict[str, int], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_files, "open_client", lambda: Bucket(sizes))
    assert S3Files().info("bucket/ward")["type"] == kind
    with pytest.raises(FileNotFoundError):
        S3Files().info("bucket/other")
