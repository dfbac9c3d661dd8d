"""Objects behind an S3 API as files of fsspec, by the client that the rest of the platform uses.

So address, credentials, TLS and retries are those of `ecg_lib.operations.store.s3_objects`. Two
packages that do the same were tried and left out:

- s3fs: its aiobotocore allows few versions of botocore, and so holds boto3 back in every process,
  services included (1.43.117 in place of 1.44.8, by aiobotocore 3.10.0);
- pyarrow.fs by fsspec's wrapper: it reads neither `AWS_ENDPOINT_URL_S3` nor an endpoint in
  `~/.aws/config`, and lists a store that does not answer as an empty one (pyarrow 25.0.1).

Only what `places` needs is here. Objects are written whole, and listed a thousand to a request
with all that is below, as a request for each folder takes hours where a patient is a folder.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    ResponseStreamingError,
)
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from ecg_lib.operations.store.s3_objects import (
    CONNECTIONS,
    MISSING,
    code_of,
    open_client,
)

PROTOCOL: Final = "s3"

_DENIED: Final = frozenset({"403", "AccessDenied"})
_PAST_THE_END: Final = frozenset({"416", "InvalidRange"})
_OF_ALL: Final = frozenset(
    {
        *("NoSuchBucket", "InvalidBucketName", "AllAccessDisabled", "PermanentRedirect"),
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed"),
        *("ExpiredToken", "InvalidToken", "InvalidClientTokenId", "TokenRefreshRequired"),
        *("RequestExpired", "RequestTimeTooSkewed"),
    }
)
"""Codes that say nothing about an object: every request to the bucket gets them."""

_OUTAGES: Final = frozenset({"InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout"})
"""Codes of a store that fails after all attempts; the next run has to ask again."""

_OF_ONE: Final = (IncompleteReadError, ResponseStreamingError)
"""Answers that end too early: another request may succeed."""


class StoreAccessError(OSError):
    """No object can be reached: no answer, an outage, no such bucket, no valid credentials."""


class S3Files(AbstractFileSystem):  # type: ignore[misc]  # it has no types
    """Objects by `BUCKET/KEY`; a folder is what keys have before a slash.

    Every method raises `StoreAccessError` if the bucket cannot be reached, `PermissionError` if
    the store denies access to an object, and `OSError` if a request fails.
    """

    protocol = PROTOCOL

    def info(self, path: str, **_: Any) -> dict[str, Any]:  # noqa: ANN401  as fsspec has it
        """Describe an object, or a prefix with objects; an empty bucket counts as a directory.

        Raises:
            FileNotFoundError: If there is neither.
        """
        bucket, key = _split(path)
        denied: PermissionError | None = None
        if key:
            try:
                with _explained(path):
                    head = open_client().head_object(Bucket=bucket, Key=key)
            except FileNotFoundError:
                pass
            except PermissionError as error:  # also the answer for a mere prefix
                denied = error
            else:
                size = int(head["ContentLength"])
                # Some tools write an empty object for a folder.
                if size or not self._has_below(bucket, key):
                    return {"name": path, "size": size, "type": "file"}
        if not self._has_below(bucket, key) and key:
            raise denied or _make_missing(path)
        return {"name": path, "size": 0, "type": "directory"}

    def _has_below(self, bucket: str, key: str) -> bool:
        with _explained(f"{bucket}/{key}"):
            page = open_client().list_objects_v2(Bucket=bucket, Prefix=_as_prefix(key), MaxKeys=1)
        return bool(page.get("Contents"))

    def list_below(self, path: str) -> Iterator[tuple[str, int]]:
        """List all objects below a prefix, by what their keys have after it, and their sizes."""
        bucket, key = _split(path)
        prefix = _as_prefix(key)
        with _explained(path):
            pages = open_client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                for one in page.get("Contents", ()):
                    yield str(one["Key"])[len(prefix) :], int(one["Size"])

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: ANN401, FBT001, FBT002
        """List the objects of one folder, without the folders in it."""
        bucket, key = _split(path)
        prefix = _as_prefix(key)
        with _explained(path):
            pages = open_client().get_paginator("list_objects_v2")
            found = [
                {"name": f"{bucket}/{one['Key']}", "size": int(one["Size"]), "type": "file"}
                for page in pages.paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
                for one in page.get("Contents", ())
                if one["Key"] != prefix
            ]
        return found if detail else [one["name"] for one in found]

    def cat_file(
        self,
        path: str,
        start: int | None = None,
        end: int | None = None,
        **_: Any,  # noqa: ANN401
    ) -> bytes:
        """Read an object, or the bytes from `start` up to `end` of it, which may be past its end.

        Raises:
            FileNotFoundError: If there is none.
        """
        bucket, key = _split(path)
        if end is not None and end <= (start or 0):
            return b""
        part = "" if end is None else str(end - 1)
        wanted = {} if start is None and end is None else {"Range": f"bytes={start or 0}-{part}"}
        with _explained(path):
            try:
                found = open_client().get_object(Bucket=bucket, Key=key, **wanted)
                with found["Body"] as body:
                    content: bytes = body.read()
            except ClientError as error:
                if code_of(error) in _PAST_THE_END:
                    return b""
                raise
        return content

    def cat_ranges(
        self,
        paths: Sequence[str],
        starts: Sequence[int],
        ends: Sequence[int],
        **_: Any,  # noqa: ANN401
    ) -> list[bytes | OSError]:
        """Read parts of objects, many at a time; the error of one is in its place."""

        def read(path: str, start: int, end: int) -> bytes | OSError:
            try:
                return self.cat_file(path, start, end)
            except StoreAccessError:
                raise
            except OSError as error:
                return error

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return list(pool.map(read, paths, starts, ends))

    def get_file(self, rpath: str, lpath: str, **_: Any) -> None:  # noqa: ANN401
        """Copy an object to a file of this machine, by one request.

        Raises:
            FileNotFoundError: If there is none; then no file is made.
        """
        bucket, key = _split(rpath)
        with _explained(rpath):
            found = open_client().get_object(Bucket=bucket, Key=key)
            with found["Body"] as body, Path(lpath).open("wb") as file:
                shutil.copyfileobj(body, file, _COPIED_BYTES)

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:  # noqa: ANN401
        """Write an object, replacing any other."""
        self._put(path, value)

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:  # noqa: ANN401
        """Write an object with the content of a file of this machine."""
        with Path(lpath).open("rb") as file:
            self._put(rpath, file)

    def _put(self, path: str, content: bytes | IO[bytes]) -> None:
        bucket, key = _split(path)
        with _explained(path):
            open_client().put_object(Bucket=bucket, Key=key, Body=content)

    def rm(self, path: Sequence[str], **_: Any) -> None:  # noqa: ANN401
        """Remove objects; those that are gone already are passed over.

        By a request for each, since stores other than Amazon's differ in the checksum that they
        want for many at once.
        """
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(self._remove, path))

    def _remove(self, path: str) -> None:
        bucket, key = _split(path)
        with _explained(path):
            open_client().delete_object(Bucket=bucket, Key=key)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> AbstractBufferedFile:  # noqa: ANN401
        return _Reading(self, path, mode)


_COPIED_BYTES: Final = 1 << 20
_SERVER_ERROR: Final = 500


class _Reading(AbstractBufferedFile):  # type: ignore[misc]  # it has no types
    """An object whose parts are read when they are wanted."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        content: bytes = self.fs.cat_file(self.path, start, end)
        return content


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.partition("/")
    return bucket, key


def _as_prefix(key: str) -> str:
    return f"{key.rstrip('/')}/" if key else ""


def _status_of(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def _explained(path: str) -> Iterator[None]:
    url = f"{PROTOCOL}://{path}"
    try:
        yield
    except ClientError as error:
        code = code_of(error)
        if code in MISSING:
            raise _make_missing(path) from error
        if code in _DENIED:
            raise PermissionError(
                errno.EACCES, f"the store denies access ({error})", url
            ) from error
        if code == "KeyTooLongError":
            raise OSError(errno.ENAMETOOLONG, "the key is too long", url) from error
        is_of_all = code in _OF_ALL | _OUTAGES or _status_of(error) >= _SERVER_ERROR
        kind = StoreAccessError if is_of_all else OSError
        msg = f"{url} cannot be read or written: {error}"
        raise kind(msg) from error
    except BotoCoreError as error:
        is_of_one = isinstance(error, _OF_ONE)
        msg = f"{url} cannot be read or written: {type(error).__name__}: {error}"
        raise (OSError if is_of_one else StoreAccessError)(msg) from error


def _make_missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "there is no such object", f"{PROTOCOL}://{path}")
