"""Downloads from a real server on this machine that knows ranges and fails on demand."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ecg_lib.errors import EcgError
from flows.doors.archives.download import (
    DownloadError,
    DownloadLimits,
    UnreachableError,
    WrongContentError,
)
from flows.doors.archives.physionet import (
    download_files,
)
from tests.flows.doors.file_server import (
    CONTENTS,
    FILES,
    ONLY_DAT,
    QUICK,
    Handler,
    Server,
    answer,
    drop_after,
    ignore_range,
    read_all,
    send_without_end,
    send_wrong_bytes,
    stall_after,
)


def test_everything_is_fetched(server: Server, tmp_path: Path) -> None:
    directory = tmp_path / "new" / "mitdb"
    report = download_files(directory, base_url=server.url, files=FILES, limits=QUICK)
    assert read_all(directory) == CONTENTS
    assert (report.files_fetched, report.files_kept) == (4, 0)
    assert report.bytes_fetched == sum(len(content) for content in CONTENTS.values())
    assert (report.bytes_resumed, report.retries) == (0, 0)
    assert sorted(request.name for request in server.requests) == sorted(CONTENTS)
    assert all(request.headers["accept-encoding"] == "identity" for request in server.requests)


def test_second_run_sends_no_request(server: Server, tmp_path: Path) -> None:
    download_files(tmp_path, base_url=server.url, files=FILES, limits=QUICK)
    server.requests.clear()
    report = download_files(tmp_path, base_url=server.url, files=FILES, limits=QUICK)
    assert server.requests == []
    assert (report.files_fetched, report.files_kept, report.bytes_fetched) == (0, 4, 0)


def test_address_without_slash_at_its_end_is_the_same_address(
    server: Server, tmp_path: Path
) -> None:
    url = server.url.rstrip("/")
    assert download_files(tmp_path, base_url=url, files=FILES, limits=QUICK).files_fetched == 4


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[::-1]])
def test_file_that_is_there_but_wrong_is_replaced(
    server: Server, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    download_files(tmp_path, base_url=server.url, files=FILES, limits=QUICK)
    (tmp_path / "900.dat").write_bytes(damage(CONTENTS["900.dat"]))
    report = download_files(tmp_path, base_url=server.url, files=FILES, limits=QUICK)
    assert (report.files_fetched, report.files_kept) == (1, 3)
    assert read_all(tmp_path) == CONTENTS


def test_half_downloaded_file_of_an_earlier_call_is_resumed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "900.dat.part").write_bytes(CONTENTS["900.dat"][:100_000])
    report = download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    (request,) = server.requests
    assert request.byte_range == "bytes=100000-"
    assert request.n_sent == 95_000
    assert (report.bytes_fetched, report.bytes_resumed) == (95_000, 100_000)
    assert read_all(tmp_path) == {"900.dat": CONTENTS["900.dat"]}


def test_whole_file_that_only_lacks_its_name_is_not_fetched_again(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "900.dat.part").write_bytes(CONTENTS["900.dat"])
    report = download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    assert server.requests == []
    assert (report.files_fetched, report.bytes_fetched) == (1, 0)
    assert read_all(tmp_path) == {"900.dat": CONTENTS["900.dat"]}


@pytest.mark.parametrize(
    ("left_over", "ranges"),
    [
        pytest.param(b"\0" * 100_000, ["bytes=100000-", None], id="other bytes"),
        pytest.param(b"\0" * 195_000, [None], id="other bytes of full length"),
        pytest.param(CONTENTS["900.dat"] + b"\0", [None], id="too long"),
    ],
)
def test_half_downloaded_file_of_something_else_is_thrown_away(
    server: Server, tmp_path: Path, left_over: bytes, ranges: list[str | None]
) -> None:
    (tmp_path / "900.dat.part").write_bytes(left_over)
    report = download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    assert [request.byte_range for request in server.requests] == ranges
    assert report.bytes_resumed == 0
    assert read_all(tmp_path) == {"900.dat": CONTENTS["900.dat"]}


def test_connection_dropped_in_the_body_is_continued(server: Server, tmp_path: Path) -> None:
    server.faults["900.dat"].append(drop_after(120_000))
    report = download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    first, second = server.requests
    assert first.byte_range is None
    assert second.byte_range == "bytes=120000-"
    assert second.headers["if-range"] == '"one"'
    assert second.n_sent == 75_000
    assert (report.bytes_fetched, report.bytes_resumed, report.retries) == (195_000, 0, 1)
    assert read_all(tmp_path) == {"900.dat": CONTENTS["900.dat"]}


def test_file_that_changed_between_two_attempts_is_not_mixed(
    server: Server, tmp_path: Path
) -> None:
    def drop_and_change(handler: Handler, name: str) -> None:
        drop_after(120_000)(handler, name)
        handler.owner.etag = '"two"'

    server.faults["900.dat"].append(drop_and_change)
    download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    assert server.requests[-1].headers["if-range"] == '"one"'
    assert server.requests[-1].n_sent == 195_000
    assert read_all(tmp_path) == {"900.dat": CONTENTS["900.dat"]}


def test_weak_etag_is_not_used_to_continue(server: Server, tmp_path: Path) -> None:
    server.etag = 'W/"one"'
    server.faults["900.dat"].append(drop_after(120_000))
    download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    assert "if-range" not in server.requests[-1].headers
    assert server.requests[-1].n_sent == 75_000


def test_server_that_ignores_ranges_sends_the_file_from_its_start(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "900.dat.part").write_bytes(CONTENTS["900.dat"][:100_000])
    server.faults["900.dat"].append(ignore_range)
    report = download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    assert [request.byte_range for request in server.requests] == ["bytes=100000-"]
    assert (report.bytes_fetched, report.bytes_resumed) == (195_000, 0)
    assert read_all(tmp_path) == {"900.dat": CONTENTS["900.dat"]}


def test_range_that_the_server_cannot_satisfy_restarts_the_file(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "900.dat.part").write_bytes(CONTENTS["900.dat"][:100_000])
    server.faults["900.dat"].append(answer(416))
    download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    assert [request.byte_range for request in server.requests] == ["bytes=100000-", None]
    assert read_all(tmp_path) == {"900.dat": CONTENTS["900.dat"]}


def test_answer_with_another_range_than_asked_for_restarts_the_file(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def send_other_range(handler: Handler, name: str) -> None:
        handler.begin(206, 95_000)
        handler.send_header("Content-Range", "bytes 99999-194998/195000")
        handler.end_headers()
        handler.send(handler.owner.contents[name][99_999:194_999])

    (tmp_path / "900.dat.part").write_bytes(CONTENTS["900.dat"][:100_000])
    server.faults["900.dat"].append(send_other_range)
    download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    assert [request.byte_range for request in server.requests] == ["bytes=100000-", None]
    expected = "must send bytes 100000-194999/195000, got 'bytes 99999-194998/195000'"
    assert expected in caplog.text
    assert read_all(tmp_path) == {"900.dat": CONTENTS["900.dat"]}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_server_is_asked_again_after_the_time_it_names(
    server: Server, tmp_path: Path, status: int
) -> None:
    server.faults["900.dat"].append(answer(status, Retry_After="1"))
    started_s = time.monotonic()
    report = download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    assert 1.0 <= time.monotonic() - started_s < 3.0
    assert report.retries == 1
    assert read_all(tmp_path) == {"900.dat": CONTENTS["900.dat"]}


@pytest.mark.parametrize("retry_after", ["86400", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_server_cannot_ask_for_a_longer_wait_than_the_limit(
    server: Server, tmp_path: Path, retry_after: str
) -> None:
    server.faults["900.dat"].append(answer(503, Retry_After=retry_after))
    limits = DownloadLimits(backoff_s=0.01, max_wait_s=0.3)
    started_s = time.monotonic()
    download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=limits)
    assert 0.3 <= time.monotonic() - started_s < 3.0


def test_unreadable_or_past_retry_after_does_not_matter(server: Server, tmp_path: Path) -> None:
    server.faults["900.dat"].append(answer(503, Retry_After="soon"))
    server.faults["900.dat"].append(answer(503, Retry_After="Thu, 01 Jan 1970 00:00:00 GMT"))
    assert download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK).retries == 2


def test_server_that_stays_busy_is_given_up_on(server: Server, tmp_path: Path) -> None:
    server.faults["900.dat"].extend([answer(503)] * 3)
    with pytest.raises(UnreachableError, match=r"900\.dat must come in 3 attempts, got 503"):
        download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [403, 404])
def test_refused_file_fails_at_once_and_names_its_address(
    server: Server, tmp_path: Path, status: int
) -> None:
    server.faults["900.dat"].append(answer(status))
    with pytest.raises(DownloadError) as caught:
        download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    assert f"{server.url}900.dat must answer 200 or, to a range, 206, got {status}" in str(
        caught.value
    )
    assert not isinstance(caught.value, UnreachableError)
    assert len(server.requests) == 1
    assert read_all(tmp_path) == {}


def test_wrong_content_is_tried_once_more(server: Server, tmp_path: Path) -> None:
    server.faults["900.dat"].append(send_wrong_bytes)
    report = download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    assert [request.byte_range for request in server.requests] == [None, None]
    assert (report.retries, report.bytes_fetched) == (1, 390_000)
    assert read_all(tmp_path) == {"900.dat": CONTENTS["900.dat"]}


def test_wrong_content_twice_is_an_error_and_leaves_no_file(server: Server, tmp_path: Path) -> None:
    server.contents["900.dat"] = CONTENTS["900.dat"][::-1]
    with pytest.raises(WrongContentError) as caught:
        download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    found = hashlib.sha256(server.contents["900.dat"]).hexdigest()
    assert f"900.dat must have SHA-256 {FILES['900.dat'].sha256}, got {found}" in str(caught.value)
    assert len(server.requests) == 2
    assert read_all(tmp_path) == {}


def test_page_in_place_of_the_file_is_refused_before_its_body(
    server: Server, tmp_path: Path
) -> None:
    def send_login_page(handler: Handler, _: str) -> None:
        handler.begin(200, 10_000_000)
        handler.send_header("Content-Type", "text/html")
        handler.end_headers()

    server.faults["900.dat"].extend([send_login_page] * 2)
    with pytest.raises(
        WrongContentError, match="must have 195000 bytes, got 10000000 of text/html"
    ):
        download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    assert read_all(tmp_path) == {}


def test_body_without_end_is_refused_at_the_expected_size(server: Server, tmp_path: Path) -> None:
    server.faults["900.dat"].extend([send_without_end] * 2)
    with pytest.raises(WrongContentError, match="must have 195000 bytes, got more"):
        download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    assert len(server.requests) == 2
    assert read_all(tmp_path) == {}


def test_body_without_end_never_fills_the_disk(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def note_size(part: Path, **_: object) -> None:
        sizes.append(part.stat().st_size)
        os.unlink(part)  # noqa: PTH108  Path.unlink is this function

    server.faults["900.dat"].extend([send_without_end] * 2)
    monkeypatch.setattr(Path, "unlink", note_size)
    with pytest.raises(WrongContentError):
        download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    assert len(sizes) == 2
    assert all(0 < size <= 195_000 for size in sizes)


def test_compressed_body_is_refused(server: Server, tmp_path: Path) -> None:
    def send_compressed(handler: Handler, name: str) -> None:
        handler.begin(200, len(handler.owner.contents[name]))
        handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()

    server.faults["900.dat"].append(send_compressed)
    with pytest.raises(DownloadError, match="must come without Content-Encoding, got gzip"):
        download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)


def test_silent_server_hits_the_time_out_and_the_file_is_continued(
    server: Server, tmp_path: Path
) -> None:
    server.faults["900.dat"].append(stall_after(50_000))
    limits = DownloadLimits(read_timeout_s=0.3, backoff_s=0.01)
    started_s = time.monotonic()
    report = download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=limits)
    assert 0.3 <= time.monotonic() - started_s < 3.0
    assert server.requests[-1].byte_range == "bytes=50000-"
    assert report.retries == 1


def test_silent_server_is_an_error_in_the_end(server: Server, tmp_path: Path) -> None:
    server.faults["900.dat"].extend([stall_after(0)] * 2)
    limits = DownloadLimits(read_timeout_s=0.2, attempts=2, backoff_s=0.01)
    with pytest.raises(UnreachableError, match="in 2 attempts, got ReadTimeout"):
        download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=limits)


def test_one_failing_file_ends_the_download_of_all(server: Server, tmp_path: Path) -> None:
    server.faults["901.dat"].append(stall_after(1000))
    server.faults["900.hea"].append(answer(404))
    started_s = time.monotonic()
    with pytest.raises(DownloadError, match="404"):
        download_files(tmp_path, base_url=server.url, files=FILES, limits=QUICK)
    assert time.monotonic() - started_s < 4.0
    assert "901.dat" not in read_all(tmp_path)


def test_nothing_goes_on_after_a_failed_download(server: Server, tmp_path: Path) -> None:
    is_released = threading.Event()

    def pause_after_1000(handler: Handler, name: str) -> None:
        handler.begin(200, 200_000)
        handler.end_headers()
        handler.send(handler.owner.contents[name][:1000])
        is_released.wait(10.0)
        handler.send(handler.owner.contents[name][1000:])

    def refuse_when_the_other_has_begun(handler: Handler, _: str) -> None:
        deadline_s = time.monotonic() + 180
        while not (tmp_path / "901.dat.part").exists() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        handler.refuse(404)

    files = {name: FILES[name] for name in ("901.dat", "900.hea", "900.dat", "900.atr")}
    server.faults["901.dat"].append(pause_after_1000)
    server.faults["900.hea"].append(refuse_when_the_other_has_begun)
    limits = DownloadLimits(connections=2)
    with pytest.raises(DownloadError, match="404"):
        download_files(tmp_path, base_url=server.url, files=files, limits=limits)
    is_released.set()
    for thread in threading.enumerate():
        if thread.name.startswith("physionet-"):
            thread.join(timeout=5.0)
            assert not thread.is_alive()
    assert {request.name for request in server.requests} == {"901.dat", "900.hea"}
    assert set(read_all(tmp_path)) == {"901.dat.part"}
    assert (tmp_path / "901.dat.part").stat().st_size <= 1000


def test_closed_port_is_an_error_that_names_the_reason(closed_url: str, tmp_path: Path) -> None:
    started_s = time.monotonic()
    with pytest.raises(UnreachableError, match="in 3 attempts, got ConnectError"):
        download_files(tmp_path, base_url=closed_url, files=ONLY_DAT, limits=QUICK)
    assert time.monotonic() - started_s < 3.0
    assert read_all(tmp_path) == {}


def test_password_of_a_mirror_is_sent_and_never_shown(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults["900.dat"].extend([answer(503), answer(404)])
    url = server.url.replace("http://", "http://someone:pass-word@")
    with caplog.at_level(logging.DEBUG), pytest.raises(DownloadError) as caught:
        download_files(tmp_path, base_url=url, files=ONLY_DAT, limits=QUICK)
    assert all(r.headers["authorization"].startswith("Basic ") for r in server.requests)
    assert "pass-word" not in str(caught.value) + caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connections", 0),
        ("attempts", 0),
        ("connect_timeout_s", 0.0),
        ("read_timeout_s", float("nan")),
        ("backoff_s", -1.0),
        ("max_wait_s", -1.0),
    ],
)
def test_limit_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must .*, got {value}"):
        DownloadLimits(**{name: value})  # type: ignore[arg-type]


def test_every_error_is_one_of_ours() -> None:
    assert issubclass(DownloadError, EcgError)
    assert issubclass(UnreachableError, DownloadError)
    assert issubclass(WrongContentError, DownloadError)


def test_progress_counts_bytes_in_the_thread_of_the_caller(server: Server, tmp_path: Path) -> None:
    total = sum(len(content) for content in CONTENTS.values())
    (tmp_path / "900.atr").write_bytes(CONTENTS["900.atr"])
    (tmp_path / "900.dat.part").write_bytes(CONTENTS["900.dat"][:5000])
    server.faults["901.dat"].append(stall_after(0))
    seen: list[tuple[int, int]] = []
    threads = set()

    def on_progress(done: int, of_all: int) -> None:
        seen.append((done, of_all))
        threads.add(threading.get_ident())

    limits = DownloadLimits(read_timeout_s=0.6, backoff_s=0.01)
    download_files(
        tmp_path, base_url=server.url, files=FILES, limits=limits, on_progress=on_progress
    )
    assert threads == {threading.get_ident()}
    assert seen[0] == (4_001 + 5_000, total)
    assert (total - 200_000, total) in seen
    assert seen[-1] == (total, total)


def test_error_in_the_progress_of_the_caller_ends_the_download(
    server: Server, tmp_path: Path
) -> None:
    server.faults["900.dat"].append(stall_after(1000))

    def complain(done: int, _: int) -> None:
        if done:
            raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="the terminal is gone"):
        download_files(
            tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK, on_progress=complain
        )
    assert "900.dat" not in read_all(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_full_disk_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "900.dat.part").symlink_to("/dev/full")
    with pytest.raises(
        DownloadError, match=r"the disk must have room for .*900\.dat, got No space"
    ):
        download_files(tmp_path, base_url=server.url, files=ONLY_DAT, limits=QUICK)
    assert not (tmp_path / "900.dat").exists()


def test_directory_that_is_a_file_is_named(server: Server, tmp_path: Path) -> None:
    directory = tmp_path / "mitdb"
    directory.write_text("not a directory")
    with pytest.raises(DownloadError, match="mitdb must be readable and writable, got File exists"):
        download_files(directory, base_url=server.url, files=ONLY_DAT, limits=QUICK)
