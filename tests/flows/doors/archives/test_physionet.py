"""PhysioNet: the published table, whether it answers, and processes that are killed."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ecg_lib.errors import ConfigurationError
from flows.data.databases import expected_sha256, read_published_files
from flows.doors.archives.download import (
    UnreachableError,
)
from flows.doors.archives.physionet import (
    check_reachable,
    download_files,
)
from tests.flows.doors.file_server import (
    CONTENTS,
    FILES,
    ONLY_DAT,
    QUICK,
    ROOT,
    Server,
    read_all,
    served,
    stall_after,
)
from tests.lists import MITDB_RECORDS


def test_table_has_the_48_records_with_three_files_each() -> None:
    table = read_published_files()
    assert len(table) == 144
    assert set(table) == {
        f"{record}.{suffix}" for record in MITDB_RECORDS for suffix in ("hea", "dat", "atr")
    }
    assert all(re.fullmatch(r"[0-9a-f]{64}", file.sha256) for file in table.values())
    assert len({file.sha256 for file in table.values()}) == 144
    assert expected_sha256() == {name: file.sha256 for name, file in table.items()}


def test_table_has_the_size_of_650000_samples_of_two_leads_in_12_bits() -> None:
    sizes = {file.size_bytes for name, file in read_published_files().items() if "dat" in name}
    assert sizes == {650_000 * 2 * 12 // 8}
    assert all(file.size_bytes > 0 for file in read_published_files().values())


def test_running_server_is_reachable_whatever_it_answers(server: Server) -> None:
    check_reachable(server.url)
    check_reachable(server.url + "not/there")


def test_closed_port_is_not_reachable_and_the_reason_is_named(closed_url: str) -> None:
    started_s = time.monotonic()
    reason = re.escape(f"{closed_url} must answer within 5 s, got ConnectError")
    with pytest.raises(UnreachableError, match=reason):
        check_reachable(closed_url)
    assert time.monotonic() - started_s < 2.0


def test_unknown_host_is_not_reachable() -> None:
    started_s = time.monotonic()
    with pytest.raises(UnreachableError, match=r"physionet\.invalid.* must answer within 2 s"):
        check_reachable("https://physionet.invalid/", timeout_s=2.0)
    assert time.monotonic() - started_s < 3.0


def test_name_resolution_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = threading.Event()

    def hang(*_: object, **__: object) -> None:
        is_over.wait(10.0)
        raise socket.gaierror(socket.EAI_AGAIN, "too late")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    started_s = time.monotonic()
    try:
        with pytest.raises(UnreachableError, match=r"within 0\.3 s, got nothing"):
            check_reachable("https://physionet.org/", timeout_s=0.3)
        assert time.monotonic() - started_s < 1.0
    finally:
        is_over.set()


def test_server_that_accepts_and_says_nothing_is_not_reachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started_s = time.monotonic()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(UnreachableError, match=r"within 0\.3 s"):
            check_reachable(url, timeout_s=0.3)
        assert time.monotonic() - started_s < 1.0


@pytest.mark.parametrize(
    "base_url",
    ["", "physionet.org", "ftp://physionet.org/", "http:///x", "http://h/?a=1", "http://h:70000/"],
)
def test_address_that_is_none_is_refused(base_url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="base_url must be an http or https address"):
        check_reachable(base_url)
    with pytest.raises(ConfigurationError, match="base_url must be an http or https address"):
        download_files(tmp_path, base_url=base_url, files=FILES)


def test_two_downloads_to_one_directory_do_not_disturb_each_other(
    server: Server, tmp_path: Path
) -> None:
    reports = []

    def download() -> None:
        reports.append(download_files(tmp_path, base_url=server.url, files=FILES, limits=QUICK))

    threads = [threading.Thread(target=download) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(report.files_fetched for report in reports) == [0, 0, 4]
    assert len(server.requests) == 4
    assert read_all(tmp_path) == CONTENTS


@contextmanager
def downloading_process(server: Server, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that fetches ``900.dat`` and wait until a part of it is on the disk."""
    code = f"""
import signal
from pathlib import Path
from flows.doors.archives.physionet import PublishedFile, download_files
# A shell has those that it starts in the background ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
download_files(
    Path({str(directory)!r}),
    base_url={server.url!r},
    files={{"900.dat": PublishedFile{tuple(FILES["900.dat"])!r}}},
)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            part = directory / "900.dat.part"
            deadline_s = time.monotonic() + 180
            while not (part.exists() and part.stat().st_size > 0):
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline_s
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


def test_killed_process_is_continued_by_the_next_call(server: Server, tmp_path: Path) -> None:
    server.faults["900.dat"].append(stall_after(150_000))
    with downloading_process(server, tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=10) == -signal.SIGKILL
    assert set(read_all(tmp_path)) == {"900.dat.part"}
    n_there = (tmp_path / "900.dat.part").stat().st_size
    server.requests.clear()
    report = download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    assert [request.byte_range for request in server.requests] == [f"bytes={n_there}-"]
    assert (report.bytes_resumed, report.bytes_fetched) == (n_there, 195_000 - n_there)
    assert read_all(tmp_path) == {"900.dat": CONTENTS["900.dat"]}


def test_interrupted_process_ends_soon_although_the_server_is_silent(
    server: Server, tmp_path: Path
) -> None:
    server.faults["900.dat"].append(stall_after(150_000))
    with downloading_process(server, tmp_path) as process:
        started_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert time.monotonic() - started_s < 5.0
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert set(read_all(tmp_path)) == {"900.dat.part"}


@pytest.mark.data
def test_whole_database_is_fetched_and_verified(tmp_path: Path) -> None:
    source = os.environ.get("ECG_MITDB_DIR")
    if not source:
        pytest.skip("ECG_MITDB_DIR is not set: no MIT-BIH records to serve")
    contents = {name: (Path(source) / name).read_bytes() for name in expected_sha256()}
    with served(contents) as server:
        report = download_files(tmp_path, base_url=server.url, files=read_published_files())
        again = download_files(tmp_path, base_url=server.url, files=read_published_files())
        assert len(server.requests) == 144
    assert (report.files_fetched, report.files_kept, report.retries) == (144, 0, 0)
    assert report.bytes_fetched == sum(file.size_bytes for file in read_published_files().values())
    assert (again.files_fetched, again.files_kept) == (0, 144)
    assert {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()
    } == expected_sha256()
