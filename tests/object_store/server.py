"""An S3 API over HTTP in a process of its own, by moto."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import boto3

_READY_S: Final = 180.0
SECRET: Final = "never-in-a-log-5c1d"  # noqa: S105  of a server that believes everybody


@dataclass
class ObjectServer:
    """A server that runs."""

    port: int
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End the server, and with it all objects."""
        self.process.terminate()
        self.process.wait(timeout=60)

    @property
    def variables(self) -> Mapping[str, str]:
        """What boto3 reads from the environment."""
        return {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "ecg",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @cached_property
    def client(self) -> Any:  # noqa: ANN401  boto3 makes its classes when it runs
        """A client that knows nothing of our code."""
        return boto3.session.Session(
            aws_access_key_id="ecg", aws_secret_access_key=SECRET, region_name="us-east-1"
        ).client("s3", endpoint_url=f"http://127.0.0.1:{self.port}")

    def make_bucket(self) -> str:
        """Make an empty bucket, and return its name."""
        name = f"b-{uuid.uuid4().hex}"
        self.client.create_bucket(Bucket=name)
        return name


@contextmanager
def serving(*, believes_everybody: bool = True) -> Iterator[ObjectServer]:
    """Run a server until the end of the block; one that believes nobody refuses all requests."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env={
            **{key: text for key, text in os.environ.items() if not key.startswith("AWS_")},
            **({} if believes_everybody else {"INITIAL_NO_AUTH_ACTION_COUNT": "0"}),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = ObjectServer(port, process)
    try:
        deadline_s = time.monotonic() + _READY_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline_s:
                msg = f"the S3 server must answer within {_READY_S:g} s, it does not"
                raise RuntimeError(msg)
            time.sleep(0.05)
        yield server
    finally:
        server.stop()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True
