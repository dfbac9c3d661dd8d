"""Directories survive the way through the store, and damage is an error of the store."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from ecg_lib.operations.store.archives import download_directory, upload_directory
from ecg_lib.operations.store.folder_objects import FolderObjects
from ecg_lib.operations.store.objects import StoreError

KEY = "a.tar.gz"


@pytest.mark.parametrize("damage", ["compressed data", "end", "checksum", "more after it"])
def test_an_archive_that_was_damaged_is_an_error_of_the_store(tmp_path: Path, damage: str) -> None:
    directory, store = tmp_path / "directory", FolderObjects(tmp_path / "store")
    directory.mkdir()
    content = np.random.default_rng(0).bytes(300_000)
    (directory / "beats").write_bytes(content)
    upload_directory(store, directory, KEY)
    assert download_directory(store, KEY, tmp_path / "good")
    assert (tmp_path / "good" / "beats").read_bytes() == content
    packed = tmp_path / "store" / KEY
    whole = packed.read_bytes()
    packed.write_bytes(
        {
            "compressed data": whole[:100_000] + bytes(100_000) + whole[200_000:],
            "end": whole[:200_000],
            "checksum": whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:],
            "more after it": whole + gzip.compress(bytes(2**20)),
        }[damage]
    )
    with pytest.raises(StoreError, match="cannot be unpacked"):
        download_directory(store, KEY, tmp_path / "bad")
