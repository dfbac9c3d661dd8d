from __future__ import annotations

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from ecg_lib.records.atomic_files import (
    LEAST_FREE_BYTES,
    replacing,
    require_room,
    write_whole,
)


def test_a_file_is_replaced_and_no_draft_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("one", "tw\u00f6"):
        write_whole(path, text)
        assert path.read_text(encoding="utf-8") == text
        assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "before")

    def write_half() -> None:
        with replacing(path) as draft:
            draft.write_text("half of")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_room_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = LEAST_FREE_BYTES + 10
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    require_room(tmp_path / "not" / "yet", n_bytes=10)
    with pytest.raises(OSError, match=r"1,073,741,835 bytes of the disk .* free") as raised:
        require_room(tmp_path, n_bytes=11)
    assert raised.value.errno == errno.ENOSPC
