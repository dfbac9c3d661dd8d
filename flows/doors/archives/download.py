"""Resumable, verified downloads over HTTP, several files at a time."""

from __future__ import annotations

import email.utils
import errno
import fcntl
import hashlib
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from ecg_lib.errors import ConfigurationError, EcgError

logger = logging.getLogger(__name__)


PART_SUFFIX: Final = ".part"
"""Suffix of a file that is not complete or not verified yet."""


_PROGRESS_INTERVAL_S: Final = 0.25


_STOP_WAIT_S: Final = 1.0


_RETRIED_STATUSES: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


_HEADERS: Final = {
    "User-Agent": "ecg-arrhythmia-mlops",
    "Accept-Encoding": "identity",  # sizes and ranges count bytes of the file, not of a zip of it
}


class DownloadError(EcgError):
    """A file cannot be fetched or written."""


class UnreachableError(DownloadError):
    """The server does not answer, or asks to try later."""


class WrongContentError(DownloadError):
    """The server sends other content than the published file."""


class PublishedFile(NamedTuple):
    """Hash and size of a published file."""

    sha256: str
    """Hash in hexadecimal digits."""
    size_bytes: int
    """Length of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadLimits:
    """Time limits and attempts of a download.

    Parameters
    ----------
    connections : int
        Files that are fetched at the same time.
    connect_timeout_s : float
        Seconds until a connection must stand.
    read_timeout_s : float
        Seconds within which something must arrive.
    attempts : int
        Requests for one file that may fail by network, 5xx or 429 before the download fails.
    backoff_s : float
        Seconds before the second attempt; each later wait is twice as long. Up to half of a wait
        is taken off at random, so that connections do not come back in step.
    max_wait_s : float
        Longest wait before an attempt, also when the server asks for more (``Retry-After``).

    Raises
    ------
    ValueError
        If a count is below 1, a time-out not positive or a wait negative.

    """

    connections: int = 4
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    attempts: int = 5
    backoff_s: float = 0.5
    max_wait_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("connections", "attempts"):
            if getattr(self, name) < 1:
                msg = f"{name} must be at least 1, got {getattr(self, name)}"
                raise ValueError(msg)
        for name in ("connect_timeout_s", "read_timeout_s"):
            if not getattr(self, name) > 0:
                msg = f"{name} must be positive, got {getattr(self, name)}"
                raise ValueError(msg)
        for name in ("backoff_s", "max_wait_s"):
            if not getattr(self, name) >= 0:
                msg = f"{name} must not be negative, got {getattr(self, name)}"
                raise ValueError(msg)


DEFAULT_LIMITS: Final = DownloadLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadReport:
    """Figures of a download."""

    files_fetched: int
    """Files that were not there, or not as published, and now are."""
    files_kept: int
    """Files that were there as published, for which no request was sent."""
    bytes_fetched: int
    """Bytes of files that came over the network, those that had to be thrown away included."""
    bytes_resumed: int
    """Bytes that an earlier call had left in half-downloaded files and that were used."""
    retries: int
    """Requests that were sent again after a failure."""


def download_missing(
    directory: Path,
    source: Source,
    wanted: Mapping[str, PublishedFile],
    limits: DownloadLimits,
    on_progress: Callable[[int, int], None] | None,
) -> DownloadReport:
    """Download the files that are missing or not as published, several at a time."""
    stop = threading.Event()
    with explain_os_errors(directory), ThreadPoolExecutor(limits.connections) as pool:
        is_there = pool.map(lambda name: _is_as_published(directory / name, wanted[name]), wanted)
        downloads = [
            _FileDownload(directory / name, wanted[name], source.url_of(name), limits, stop)
            for name, is_kept in zip(wanted, is_there, strict=True)
            if not is_kept
        ]
    logger.info(
        "%d of %d files are in %s, %d to fetch from %s",
        len(wanted) - len(downloads),
        len(wanted),
        directory,
        len(downloads),
        source.url,
    )
    total_bytes = sum(published.size_bytes for published in wanted.values())
    missing_bytes = sum(download.published.size_bytes for download in downloads)

    def report_progress() -> None:
        if on_progress is not None:
            arrived_bytes = sum(download.position for download in downloads)
            on_progress(total_bytes - missing_bytes + arrived_bytes, total_bytes)

    report_progress()
    if downloads:
        started_s = time.monotonic()
        _run_in_threads(downloads, source, limits, stop, report_progress)
        report_progress()
        logger.info("fetched %d files in %.1f s", len(downloads), time.monotonic() - started_s)
    return DownloadReport(
        files_fetched=len(downloads),
        files_kept=len(wanted) - len(downloads),
        bytes_fetched=sum(download.bytes_fetched for download in downloads),
        bytes_resumed=sum(download.bytes_resumed for download in downloads),
        retries=sum(download.retries for download in downloads),
    )


def _is_as_published(path: Path, published: PublishedFile) -> bool:
    if not path.exists():
        return False
    if path.stat().st_size == published.size_bytes:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == published.sha256:
                return True
    logger.warning("%s is not as published and will be replaced", path)
    return False


def _run_in_threads(
    downloads: Sequence[_FileDownload],
    source: Source,
    limits: DownloadLimits,
    stop: threading.Event,
    report_progress: Callable[[], None],
) -> None:
    """Run all downloads; the first error, or Ctrl-C in the calling thread, ends them all.

    The threads are daemons, not an executor: one that waits for a silent server must not keep the
    process from ending.
    """
    waiting: queue.SimpleQueue[_FileDownload] = queue.SimpleQueue()
    for download in downloads:
        waiting.put(download)
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    threads = [
        threading.Thread(
            target=_work,
            args=(source, limits, waiting, ended),
            name=f"physionet-{number}",
            daemon=True,
        )
        for number in range(min(limits.connections, len(downloads)))
    ]
    try:
        for thread in threads:
            thread.start()
        _wait_for_threads(len(threads), ended, report_progress)
    finally:
        stop.set()
        deadline_s = time.monotonic() + _STOP_WAIT_S
        for thread in threads:
            if thread.ident is not None:  # Ctrl-C may come before all are started
                thread.join(timeout=max(0.0, deadline_s - time.monotonic()))


def _work(
    source: Source,
    limits: DownloadLimits,
    waiting: queue.SimpleQueue[_FileDownload],
    ended: queue.SimpleQueue[BaseException | None],
) -> None:
    """Run waiting downloads one by one until none is left, then report how it ended."""
    outcome: BaseException | None = None
    try:
        with source.open_client(limits) as client, suppress(queue.Empty):
            while True:
                waiting.get_nowait().run(client)
    except BaseException as error:  # noqa: BLE001  raised again in the thread of the caller
        outcome = error
    ended.put(outcome)


def _wait_for_threads(
    count: int,
    ended: queue.SimpleQueue[BaseException | None],
    report_progress: Callable[[], None],
) -> None:
    while count:
        try:
            error = ended.get(timeout=_PROGRESS_INTERVAL_S)
        except queue.Empty:
            report_progress()
            continue
        if error is not None:
            raise error
        count -= 1


class _StoppedError(Exception):
    """The download was cancelled."""


class _TransientError(Exception):
    """The attempt failed, another one may succeed."""

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class _FileDownload:
    """One file: the bytes that are there, and the requests it took."""

    target: Path
    published: PublishedFile
    url: httpx.URL
    limits: DownloadLimits
    stop: threading.Event
    position: int = 0
    bytes_fetched: int = 0
    bytes_resumed: int = 0
    retries: int = 0
    validator: str | None = None

    def __post_init__(self) -> None:
        self.position = self.bytes_resumed = self._size_of_part()

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + PART_SUFFIX)

    def run(self, client: httpx.Client) -> None:
        """Fetch the missing bytes and verify the file; retry while attempts are left."""
        failures = 0
        is_second_copy = False
        while True:
            try:
                with explain_os_errors(self.target):
                    self._fetch_rest(client)
                    self._verify_and_rename()
            except WrongContentError as error:
                self._discard()
                if is_second_copy:
                    raise
                is_second_copy = True
                logger.warning("%s; fetching it once more from the start", error)
            except (httpx.RequestError, _TransientError) as error:
                failures += 1
                if failures >= self.limits.attempts:
                    msg = (
                        f"{self.url} must come in {failures} attempts, got {describe_error(error)}"
                    )
                    raise UnreachableError(msg) from error
                self._wait(failures, error)
            else:
                return
            self.retries += 1

    def _fetch_rest(self, client: httpx.Client) -> None:
        """Append the missing bytes to the part file."""
        self.position = self._size_of_part()
        if self.position > self.published.size_bytes:
            self._discard()
        if self.position == self.published.size_bytes:  # killed between the last byte and the name
            return
        headers = {}
        if self.position:
            headers["Range"] = f"bytes={self.position}-"
            if self.validator:
                headers["If-Range"] = self.validator
        self._check_not_stopped()
        with client.stream("GET", self.url, headers=headers) as response:
            is_continued = self._check_answer(response)
            if not is_continued:  # a server that knows no ranges, or whose file has changed
                self.position = self.bytes_resumed = 0
            self._check_length(response)
            self.validator = _validator_of(response)
            with self.part.open("ab" if is_continued else "wb") as file:
                for chunk in response.iter_raw():
                    self._check_not_stopped()
                    self._check_fits(self.position + len(chunk))
                    file.write(chunk)
                    self.position += len(chunk)
                    self.bytes_fetched += len(chunk)
        if self.position < self.published.size_bytes:
            msg = f"an end after {self.position} of {self.published.size_bytes} bytes"
            raise _TransientError(msg)

    def _check_answer(self, response: httpx.Response) -> bool:
        """Return True if the body continues the part file, False if it starts again."""
        status = response.status_code
        answer = f"{status} {response.reason_phrase}"
        if status in _RETRIED_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _TransientError(answer, retry_after_s=_retry_after_s(response))
        if status == HTTPStatus.OK:
            return False
        if self.position and status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            msg = f"{self.url} must have more than {self.position} bytes, got {answer}"
            raise WrongContentError(msg)
        if self.position and status == HTTPStatus.PARTIAL_CONTENT:
            content_range = response.headers.get("Content-Range", "")
            size_bytes = self.published.size_bytes
            expected = f"bytes {self.position}-{size_bytes - 1}/"
            if content_range not in {f"{expected}{size_bytes}", f"{expected}*"}:
                msg = f"{self.url} must send {expected}{size_bytes}, got {content_range!r}"
                raise WrongContentError(msg)
            return True
        msg = f"{self.url} must answer 200 or, to a range, 206, got {answer}"
        raise DownloadError(msg)

    def _check_length(self, response: httpx.Response) -> None:
        """Reject a body of another length before its first byte, such as a login page."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            msg = f"{self.url} must come without Content-Encoding, got {encoding}"
            raise DownloadError(msg)
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and self.position + int(length) != self.published.size_bytes:
            kind = response.headers.get("Content-Type", "unknown type")
            msg = (
                f"{self.url} must have {self.published.size_bytes} bytes, "
                f"got {self.position + int(length)} of {kind}"
            )
            raise WrongContentError(msg)

    def _check_fits(self, size_bytes: int) -> None:
        if size_bytes > self.published.size_bytes:
            msg = f"{self.url} must have {self.published.size_bytes} bytes, got more"
            raise WrongContentError(msg)

    def _check_not_stopped(self) -> None:
        if self.stop.is_set():
            raise _StoppedError

    def _verify_and_rename(self) -> None:
        with self.part.open("r+b") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        if found != self.published.sha256:
            msg = f"{self.url} must have SHA-256 {self.published.sha256}, got {found}"
            raise WrongContentError(msg)
        self._check_not_stopped()
        self.part.replace(self.target)

    def _size_of_part(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.position = self.bytes_resumed = 0
        self.validator = None

    def _wait(self, failures: int, error: Exception) -> None:
        wait_s = self.limits.backoff_s * 2 ** (failures - 1)
        wait_s *= random.uniform(0.5, 1.0)  # noqa: S311  jitter, not a secret
        if isinstance(error, _TransientError):
            wait_s = max(wait_s, error.retry_after_s)
        wait_s = min(wait_s, self.limits.max_wait_s)
        logger.warning(
            "%s failed in attempt %d of %d: %s; next in %.1f s",
            self.url,
            failures,
            self.limits.attempts,
            describe_error(error),
            wait_s,
        )
        if self.stop.wait(wait_s):
            raise _StoppedError


class Source(NamedTuple):
    """A server, its password kept apart from the address, which is logged."""

    url: httpx.URL
    auth: httpx.BasicAuth | None

    @classmethod
    def parse(cls, base_url: str) -> Source:
        """Parse and check a base URL; raises ConfigurationError."""
        try:
            url = httpx.URL(base_url)
        except httpx.InvalidURL as error:
            msg = f"base_url must be an http or https address, got one with {error}"
            raise ConfigurationError(msg) from error
        is_web = url.scheme in {"http", "https"} and url.host and (url.port or 80) < 2**16
        if not is_web or url.query or url.fragment:
            msg = f"base_url must be an http or https address without query, got {url!r}"
            raise ConfigurationError(msg)
        auth = httpx.BasicAuth(url.username, url.password) if url.userinfo else None
        return cls(url.copy_with(userinfo=b"", path=url.path.rstrip("/") + "/"), auth)

    def url_of(self, name: str) -> httpx.URL:
        """Return the URL of a file."""
        return self.url.copy_with(path=self.url.path + name)

    def open_client(self, limits: DownloadLimits) -> httpx.Client:
        """Open an HTTP client with the time limits."""
        timeout = httpx.Timeout(limits.read_timeout_s, connect=limits.connect_timeout_s)
        return httpx.Client(
            auth=self.auth, headers=_HEADERS, timeout=timeout, follow_redirects=True
        )


def _validator_of(response: httpx.Response) -> str | None:
    """Return what ``If-Range`` may name: a strong ETag, else the date (RFC 9110, 13.1.5)."""
    etag: str = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _retry_after_s(response: httpx.Response) -> float:
    """Return the wait that the server asks for, in seconds or until a date (RFC 9110, 10.2.3)."""
    stated: str = response.headers.get("Retry-After", "")
    if stated.isdecimal():
        return float(stated)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(stated).timestamp() - time.time())
    except ValueError:
        return 0.0


def describe_error(error: Exception) -> str:
    """Describe an error in one line."""
    if isinstance(error, _TransientError):
        return str(error)
    return f"{type(error).__name__}: {error}"


@contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system into DownloadError with the path and the reason."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            msg = f"the disk must have room for {path}, got {error.strerror}"
        else:
            msg = f"{path} must be readable and writable, got {error.strerror or error}"
        raise DownloadError(msg) from error


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Keep other downloads out of the directory; the lock ends with this process."""
    with explain_os_errors(directory):
        descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another download to %s is running, waiting for its end", directory)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems have no locks
            logger.warning("%s cannot be locked (%s): download to it once", directory, error)
        yield
    finally:
        os.close(descriptor)
