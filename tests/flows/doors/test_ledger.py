from __future__ import annotations

from pathlib import Path

import pytest
from dulwich.repo import Repo

from ecg_lib.operations.releases import Release
from flows.doors.ledger import (
    LedgerError,
    append_release,
    find_previous,
    find_version,
    read_ledger,
)


def _release(version: str, bundle_hash: str | None = None) -> Release:
    return Release(
        bento_tag=f"ecg:{version}",
        model_tag=f"ecg_bundle:{version}",
        bundle_hash=bundle_hash or version * 8,
        code_hash="c" * 8,
        model_version=version,
        released_at="2026-01-01T00:00:00+00:00",
    )


def _append(directory: Path, release: Release, *, remote: str | None = None) -> str:
    return append_release(
        directory,
        release,
        reason=f"release model {release.model_version}",
        metrics={"oof_v_f1": 0.9},
        model_card="# Card\n",
        remote=remote,
    )


def test_each_release_is_a_commit_with_its_metrics(tmp_path: Path) -> None:
    commits = [_append(tmp_path / "ledger", _release(version)) for version in "12"]
    entries = read_ledger(tmp_path / "ledger")
    assert [entry.commit for entry in entries] == commits[::-1]
    assert [entry.release.model_version for entry in entries] == ["2", "1"]
    assert entries[0].reason == "release model 2"
    assert entries[0].metrics == {"oof_v_f1": 0.9}
    assert (tmp_path / "ledger" / "model_card.md").read_text() == "# Card\n"


def test_an_empty_ledger_has_no_entries(tmp_path: Path) -> None:
    assert read_ledger(tmp_path / "none") == []


def test_the_previous_release_is_the_last_one_of_another_bundle(tmp_path: Path) -> None:
    for release in (_release("1"), _release("2"), _release("3", bundle_hash="2" * 8)):
        _append(tmp_path, release)
    entries = read_ledger(tmp_path)
    assert find_previous(entries, bundle_hash="2" * 8).release.model_version == "1"
    assert find_version(entries, model_version="2").release.bento_tag == "ecg:2"


def test_a_release_that_never_was_cannot_be_found(tmp_path: Path) -> None:
    _append(tmp_path, _release("1"))
    entries = read_ledger(tmp_path)
    with pytest.raises(LedgerError, match=r"released \(\['1'\]\), got '7'"):
        find_version(entries, model_version="7")
    with pytest.raises(LedgerError, match="the ledger has none"):
        find_previous(entries, bundle_hash="1" * 8)


def test_the_ledger_is_pushed_to_its_remote(tmp_path: Path) -> None:
    Repo.init_bare(str(tmp_path / "remote"), mkdir=True)
    commit = _append(tmp_path / "ledger", _release("1"), remote=str(tmp_path / "remote"))
    with Repo(str(tmp_path / "remote")) as remote:
        heads = {name: value.decode() for name, value in remote.get_refs().items()}
    assert commit in heads.values()


def test_a_remote_that_is_gone_is_an_error_and_the_commit_stays(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be pushed"):
        _append(tmp_path / "ledger", _release("1"), remote=str(tmp_path / "nowhere"))
    assert len(read_ledger(tmp_path / "ledger")) == 1
