"""Download databases from PhysioNet or a mirror of it.

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

import queue
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx

from ecg_lib.errors import ConfigurationError
from flows.doors.archives.download import (
    DEFAULT_LIMITS,
    DownloadError,
    DownloadLimits,
    DownloadReport,
    PublishedFile,
    Source,
    UnreachableError,
    WrongContentError,
    describe_error,
    download_missing,
    explain_os_errors,
    lock_directory,
)

PHYSIONET_URL: Final = "https://physionet.org/files/mitdb/1.0.0/"
"""Address of the MIT-BIH Arrhythmia Database at PhysioNet (DOI 10.1109/51.932724)."""

LISTING: Final = "SHA256SUMS.txt"
"""File in which PhysioNet publishes the hashes of a version of a database."""

_MITDB: Final = "mitdb/1.0.0/"
_LONGEST_LISTING: Final = 2**24


def address_beside(base_url: str, address: str) -> str:
    """Return the address of a database from that of MIT-BIH on the same server.

    Args:
        base_url: Where MIT-BIH is, the setting ECG_PHYSIONET_URL.
        address: Address of the other below that of all, such as ``svdb/1.0.0/``.

    Raises:
        ConfigurationError: If `base_url` does not end as PhysioNet's does.
    """
    if address == _MITDB:
        return base_url
    root = base_url.rstrip("/") + "/"
    if not root.endswith(f"/{_MITDB}"):
        msg = (
            f"ECG_PHYSIONET_URL must end in /{_MITDB}, so that {address} is known to be beside it; "
            f"got {Source.parse(base_url).url}"
        )
        raise ConfigurationError(msg)
    return root.removesuffix(_MITDB) + address


def read_listing(
    base_url: str,
    names: Iterable[str],
    *,
    folder: str = "",
    known: Mapping[str, PublishedFile],
    limits: DownloadLimits = DEFAULT_LIMITS,
) -> dict[str, PublishedFile]:
    """Read the published hashes of files from a server, and the sizes that it states.

    Args:
        base_url: Address of the version of the database.
        names: The files.
        folder: Folder of the files below that address, with a slash at the end.
        known: Files whose hashes are known; the server is not asked about these.
        limits: Connections and time-outs.

    Raises:
        UnreachableError: If the server does not answer.
        WrongContentError: If it lists another hash than a known one.
        DownloadError: If it does not list one of the files, or states no size.
    """
    source = Source.parse(base_url)
    wanted = list(names)
    asked = [name for name in wanted if name not in known]
    if not asked:
        return {name: known[name] for name in wanted}
    try:
        with source.open_client(limits) as client:
            listed = _parse_listing(_get_listing(client, source), folder)
            for name in known.keys() & listed.keys():
                if listed[name] != known[name].sha256:
                    msg = (
                        f"{source.url_of(LISTING)} must list SHA-256 {known[name].sha256} for "
                        f"{folder}{name}, got {listed[name]}"
                    )
                    raise WrongContentError(msg)
            lacking = [name for name in asked if name not in listed]
            if lacking:
                msg = (
                    f"{source.url_of(LISTING)} must list every file of the database, "
                    f"{len(lacking)} are not in it, such as {folder}{lacking[0]}"
                )
                raise DownloadError(msg)
            with ThreadPoolExecutor(limits.connections) as pool:
                urls = [source.url_of(folder + name) for name in asked]
                sizes = pool.map(lambda url: _ask_size(client, url), urls)
                found = {
                    name: PublishedFile(listed[name], size)
                    for name, size in zip(asked, sizes, strict=True)
                }
    except httpx.RequestError as error:
        msg = f"{source.url} must list its files, got {describe_error(error)}"
        raise UnreachableError(msg) from error
    return {name: known.get(name) or found[name] for name in wanted}


def _get_listing(client: httpx.Client, source: Source) -> str:
    url = source.url_of(LISTING)
    with client.stream("GET", url) as response:
        _check_ok(response, url)
        content = b""
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > _LONGEST_LISTING:
                msg = f"{url} must have at most {_LONGEST_LISTING} bytes, got more"
                raise WrongContentError(msg)
    return content.decode("utf-8", errors="replace")


def _parse_listing(text: str, folder: str) -> dict[str, str]:
    lines = re.finditer(r"^([0-9a-f]{64})[ *]+(\S+)\s*$", text, re.MULTILINE)
    return {line[2].removeprefix(folder): line[1] for line in lines if line[2].startswith(folder)}


def _ask_size(client: httpx.Client, url: httpx.URL) -> int:
    response = client.head(url)
    _check_ok(response, url)
    length = response.headers.get("Content-Length", "")
    if not length.isdecimal():
        msg = f"{url} must state its size, got Content-Length {length!r}"
        raise DownloadError(msg)
    return int(length)


def _check_ok(response: httpx.Response, url: httpx.URL) -> None:
    answer = f"{response.status_code} {response.reason_phrase}"
    if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        msg = f"{url} must answer 200, got {answer}; try later"
        raise UnreachableError(msg)
    if response.status_code != HTTPStatus.OK:
        msg = f"{url} must answer 200, got {answer}"
        raise DownloadError(msg)


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


def download_files(
    directory: Path,
    *,
    base_url: str,
    files: Mapping[str, PublishedFile],
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
    files : mapping of str to PublishedFile
        The files to fetch.
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
    with explain_os_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with lock_directory(directory):
        return download_missing(directory, source, files, limits, on_progress)
