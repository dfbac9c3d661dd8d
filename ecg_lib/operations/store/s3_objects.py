"""A store behind an S3 API, by boto3.

Address and credentials come from boto3's own variables, such as ``AWS_ENDPOINT_URL_S3``,
``AWS_ACCESS_KEY_ID`` and ``AWS_REGION``, as for MLflow. The API must have conditional writes
(``If-Match``, ``If-None-Match``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.store.objects import (
    MOST_FILE_BYTES,
    MOST_READ_BYTES,
    ConflictError,
    Listed,
    Stored,
    StoreError,
    check_size,
)
from ecg_lib.records.atomic_files import require_room

_CONNECT_S: Final = 5
_READ_S: Final = 30
_ATTEMPTS: Final = 4
CONNECTIONS: Final = 32
"""Requests that a process sends to the store at a time."""

_AMAZON: Final = (".amazonaws.com", ".amazonaws.com.cn")
MISSING: Final = frozenset({"404", "NoSuchKey"})
"""Codes of an object that is not there."""
_CONFLICTS: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})


class S3Objects:
    """Objects of a bucket, below a prefix.

    Parameters
    ----------
    bucket : str
        It must exist.
    prefix : str
        Without slashes at its ends; may be empty.

    Raises
    ------
    StoreError
        If boto3 rejects its settings, such as an endpoint without a scheme.

    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        with self._explained(""):
            try:
                self._client = open_client()
            except (ConfigurationError, ValueError) as error:
                msg = f"s3://{bucket} cannot be opened with the AWS_ variables: {error}"
                raise StoreError(msg) from error

    def read(self, key: str, *, most_bytes: int = MOST_READ_BYTES) -> Stored | None:
        """Read a small object; None if there is none."""
        with self._explained(key):
            try:
                found = self._client.get_object(**self._name(key))
                with found["Body"] as body:
                    check_size(key, found["ContentLength"], most_bytes=most_bytes)
                    return Stored(body.read(), found["ETag"])
            except ClientError as error:
                if code_of(error) in MISSING:
                    return None
                raise

    def find_version(self, key: str) -> str | None:
        """Return the version of an object; None if there is none."""
        with self._explained(key):
            try:
                return str(self._client.head_object(**self._name(key))["ETag"])
            except ClientError as error:
                if code_of(error) in MISSING:
                    return None
                raise

    def replace(self, key: str, content: bytes, *, expected: str | None) -> str:
        """Write an object if it still has the expected version."""
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        with self._explained(key):
            try:
                done = self._client.put_object(**self._name(key), Body=content, **condition)
                return str(done["ETag"])
            except ClientError as error:
                if code_of(error) not in _CONFLICTS | MISSING:
                    raise
                # A first attempt may have been written though its answer was lost.
                found = self.read(key)
                if found is not None and found.content == content:
                    return found.version
                msg = f"{key} was written by another machine meanwhile"
                raise ConflictError(msg) from error

    def write(self, key: str, content: bytes) -> None:
        """Write a small object, replacing any other."""
        with self._explained(key):
            self._client.put_object(**self._name(key), Body=content)

    def upload(self, path: Path, key: str) -> None:
        """Write a file as an object, replacing any other."""
        with self._explained(key):
            self._client.upload_file(str(path), self._bucket, self._prefix + key)

    def download(self, key: str, path: Path, *, most_bytes: int = MOST_FILE_BYTES) -> bool:
        """Write an object to a file; False if there is none."""
        with self._explained(key):
            try:  # boto3 writes a draft beside the file
                n_bytes = int(self._client.head_object(**self._name(key))["ContentLength"])
                check_size(key, n_bytes, most_bytes=most_bytes)
                require_room(path.parent, n_bytes=n_bytes)
                self._client.download_file(self._bucket, self._prefix + key, str(path))
            except ClientError as error:
                if code_of(error) in MISSING:
                    return False
                raise
        return True

    def remove(self, key: str) -> None:
        """Remove an object, if there is one."""
        with self._explained(key):
            self._client.delete_object(**self._name(key))

    def list_objects(self, prefix: str) -> Iterator[Listed]:
        """List the objects below a prefix."""
        with self._explained(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for found in page.get("Contents", ()):
                    key = str(found["Key"]).removeprefix(self._prefix)
                    yield Listed(key, found["LastModified"].timestamp())

    def _name(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError) as error:
            place = f"s3://{self._bucket}/{self._prefix}{key}"
            msg = f"{place} cannot be read or written: {error}"
            raise StoreError(msg) from error
        except OSError as error:
            msg = f"{key} of the store cannot be copied: {error.strerror or error}"
            raise StoreError(msg) from error


def open_client() -> Any:  # noqa: ANN401  boto3 makes its classes when it runs
    """Open the client of the store that the ``AWS_`` variables and boto3's files name.

    Threads may share it. It takes a good part of a second, the first time.

    Raises
    ------
    ValueError
        If an endpoint has no scheme.
    ConfigurationError
        If it has a user or a password.
    BotoCoreError
        If the variables name a profile that is not there.

    """
    return _make_client(tuple(sorted(one for one in os.environ.items() if one[0][:4] == "AWS_")))


@lru_cache(maxsize=4)
def _make_client(_variables: tuple[tuple[str, str], ...]) -> Any:  # noqa: ANN401  as above
    session = boto3.session.Session()
    config = Config(
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        max_pool_connections=CONNECTIONS,
        # Other stores than Amazon's may not know the newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = session.client("s3", config=config)
    endpoint = urlsplit(client.meta.endpoint_url)
    if endpoint.username or endpoint.password:
        # Its errors would show them.
        msg = (
            "the endpoint of S3 must be without user and password: "
            "use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials"
        )
        raise ConfigurationError(msg)
    if str(endpoint.hostname).endswith(_AMAZON):
        return client
    # Addresses such as BUCKET.host need DNS names that a store of one's own seldom has.
    return session.client("s3", config=config.merge(Config(s3={"addressing_style": "path"})))


def code_of(error: ClientError) -> str:
    """Return the code of an error that the store answered with; empty if it has none."""
    return str(error.response.get("Error", {}).get("Code", ""))
