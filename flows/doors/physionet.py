"""Download the MIT-BIH Arrhythmia Database from PhysioNet or a mirror of it.

A file gets its name only when it has the published SHA-256; until then it is called
``<name>.part``, and the next call resumes it. The fallback without a network (the simulator) is
decided in ``ingest_records``.

::

    EcgError
    └── DownloadError           a file cannot be fetched or written
        ├── UnreachableError    the server does not answer, or asks to try later
        └── WrongContentError   the server sends other content than the published file
"""

from __future__ import annotations

import importlib.resources
import queue
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import httpx

from flows.doors.download import (
    DEFAULT_LIMITS,
    DownloadLimits,
    DownloadReport,
    PublishedFile,
    Source,
    UnreachableError,
    describe_error,
    download_missing,
    explain_os_errors,
    lock_directory,
)

PHYSIONET_URL: Final = "https://physionet.org/files/mitdb/1.0.0/"
"""Address of the database at PhysioNet (Moody & Mark 2001, DOI 10.1109/51.932724)."""


_TABLE: Final = "mitdb.sha256"


def read_published_files() -> dict[str, PublishedFile]:
    """Read the hash and size of each of the 144 files: 48 records by ``.atr .dat .hea``."""
    table = importlib.resources.files("flows").joinpath(_TABLE).read_text(encoding="ascii")
    published = {}
    size_bytes = 0
    for line in table.splitlines():
        if line.startswith("#"):  # a comment to sha256sum -c
            stated = re.fullmatch(r"# (\d+) bytes", line)
            size_bytes = int(stated[1]) if stated else 0
        else:
            sha256, name = line.split()
            published[name] = PublishedFile(sha256, size_bytes)
    return published


def expected_sha256() -> dict[str, str]:
    """Map the name of each published file to its SHA-256, to verify a directory with.

    >>> expected_sha256()["100.hea"][:8]
    '60ebc904'
    """
    return {name: published.sha256 for name, published in read_published_files().items()}


def check_reachable(base_url: str = PHYSIONET_URL, *, timeout_s: float = 5.0) -> None:
    """Return within `timeout_s` if a server answers, with whatever status.

    A wrong path (404) or a failing server (503) counts as reachable: the download reports it.

    Raises
    ------
    UnreachableError
        If no answer came: no name, no route, no connection, no certificate, or too late.
    ConfigurationError
        If `base_url` is not the address of a directory on a web server.

    """
    source = Source.parse(base_url)
    answers: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def ask() -> None:
        limits = DownloadLimits(connect_timeout_s=timeout_s, read_timeout_s=timeout_s)
        try:
            with source.open_client(limits) as client:
                client.head(source.url, follow_redirects=False)
        except BaseException as error:  # noqa: BLE001  raised again in the thread of the caller
            answers.put(error)
        else:
            answers.put(None)

    # Name resolution cannot be interrupted, so a slow one is left behind in its thread.
    threading.Thread(target=ask, name="physionet-probe", daemon=True).start()
    try:
        error = answers.get(timeout=timeout_s)
    except queue.Empty:
        msg = f"{source.url} must answer within {timeout_s:g} s, got nothing"
        raise UnreachableError(msg) from None
    if isinstance(error, httpx.RequestError):
        msg = f"{source.url} must answer within {timeout_s:g} s, got {describe_error(error)}"
        raise UnreachableError(msg) from error
    if error is not None:
        raise error


def download_mitdb(
    directory: Path,
    *,
    base_url: str = PHYSIONET_URL,
    files: Mapping[str, PublishedFile] | None = None,
    limits: DownloadLimits = DEFAULT_LIMITS,
    on_progress: Callable[[int, int], None] | None = None,
) -> DownloadReport:
    """Fetch the files of the database that `directory` does not have yet.

    Stopped or killed at any time, it leaves whole verified files and ``.part`` files. A second
    call for the same directory, from any process, waits until the first has ended.

    Parameters
    ----------
    directory : Path
        Where the files go; made if missing.
    base_url : str
        Address of the directory on the server, over http or https.
    files : mapping of str to PublishedFile, optional
        What to fetch; all of the database when left out.
    limits : DownloadLimits
        Connections, time-outs and attempts.
    on_progress : callable, optional
        Gets the bytes that are there and the bytes of all files. Called in the thread of the
        caller, first before any request, up to four times a second, last when all is there. Bytes
        that turn out wrong are taken off again.

    Raises
    ------
    UnreachableError
        If a file did not come in as many attempts as allowed.
    WrongContentError
        If a file came twice in another size or with another hash than published.
    DownloadError
        If the server refuses a file (404, 403), or the disk is full or not writable.
    ConfigurationError
        If `base_url` is not the address of a directory on a web server.

    """
    source = Source.parse(base_url)
    wanted = read_published_files() if files is None else files
    with explain_os_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with lock_directory(directory):
        return download_missing(directory, source, wanted, limits, on_progress)
