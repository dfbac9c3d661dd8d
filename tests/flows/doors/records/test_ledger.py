from __future__ import annotations

import logging
import os
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dulwich import porcelain
from dulwich.objects import Commit
from dulwich.repo import Repo

from ecg_lib.operations.releases import Release, read_release_notes
from flows.doors.ledger import (
    append_event,
    find_head,
    merge_ledger,
    pack_ledger,
    push_ledger,
    read_ledger,
)
from flows.doors.release_history import (
    EventKind,
    LedgerError,
    LedgerEvent,
    find_baseline_change,
    find_known_worse,
    find_previous,
    find_release,
    find_rollout_begin,
    list_way_back,
    make_event,
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


def _append(
    directory: Path,
    version: str,
    *,
    kind: EventKind = EventKind.RELEASE,
    before: str | None = None,
    event_id: str | None = None,
    at: str = "2026-01-01T00:00:00+00:00",
) -> str:
    event = LedgerEvent(
        id=event_id or str(uuid.uuid4()),
        kind=kind,
        who="a test",
        why=f"because of {before or version}",
        at=at,
        before=None if before is None else _release(before),
        release=_release(version),
        is_verified=True,
    )
    return append_event(
        directory,
        event,
        reason=f"{kind.value} model {version}",
        metrics={"oof_v_f1": 0.9},
        model_card="# Card\n",
    )


def test_each_event_is_a_commit_with_its_metrics(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    commits = [_append(ledger, version) for version in "12"]
    history = read_ledger(ledger)
    assert [entry.commit for entry in history.entries] == commits[::-1]
    assert [entry.release.model_version for entry in history.entries] == ["2", "1"]
    assert history.entries[0].reason == "release model 2"
    assert history.entries[0].metrics == {"oof_v_f1": 0.9}
    assert history.entries[0].event.who == "a test"
    assert (ledger / "model_card.md").read_text() == "# Card\n"
    # Whoever looks with git finds nothing that is not committed.
    status = porcelain.status(str(ledger), untracked_files="no")
    assert (status.staged, status.unstaged) == ({"add": [], "delete": [], "modify": []}, [])


def test_the_latest_events_are_a_file_that_is_read_without_git(tmp_path: Path) -> None:
    commits = [_append(tmp_path, str(number)) for number in range(21)]
    commits.append(_append(tmp_path, "3", kind=EventKind.ROLLBACK, before="20"))
    notes = read_release_notes(tmp_path / "history.json")
    assert notes is not None
    assert [note.commit for note in notes] == commits[:1:-1]
    latest = notes[0]
    assert (latest.kind, latest.model_version, latest.before) == ("rollback", "3", "ecg:20")
    assert (latest.who, latest.why, latest.oof_v_f1) == ("a test", "because of 20", 0.9)
    assert read_release_notes(tmp_path / "nothing.json") is None


def test_the_notes_are_those_of_the_history_for_every_kind_of_event(tmp_path: Path) -> None:
    _append(tmp_path, "1")
    _append(tmp_path, "2", kind=EventKind.REFUSED, before="1")
    _append(tmp_path, "3")
    notes = read_release_notes(tmp_path / "history.json")
    assert notes is not None
    assert [
        (note.commit, note.kind, note.model_version, note.at, note.why, note.oof_v_f1)
        for note in notes
    ] == [
        (
            entry.commit,
            entry.event.kind.value,
            entry.release.model_version,
            entry.event.at,
            entry.event.why,
            entry.metrics["oof_v_f1"],
        )
        for entry in read_ledger(tmp_path).entries
    ]


def test_an_append_reads_the_history_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        _append(tmp_path, str(number))
    read, get = [], Repo.__getitem__

    def count(repository: Repo, name: bytes) -> object:
        read.append(name)
        return get(repository, name)

    monkeypatch.setattr(Repo, "__getitem__", count)
    _append(tmp_path, "8")
    commits = [name for name in read if isinstance(get(Repo(str(tmp_path)), name), Commit)]
    assert len(set(commits)) >= 8
    assert len(commits) == len(set(commits))


def test_notes_that_cannot_be_written_do_not_make_an_event_fail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _append(tmp_path, "1")
    (tmp_path / "history.json").unlink()
    (tmp_path / "history.json").mkdir()
    with caplog.at_level(logging.WARNING):
        commit = _append(tmp_path, "2")
    assert "cannot be written for the service" in caplog.text
    assert read_ledger(tmp_path).entries[0].commit == commit


def test_a_figure_that_is_not_a_number_is_left_out_alone(tmp_path: Path) -> None:
    event = make_event(EventKind.RELEASE, _release("1"), why="a test", is_signed=False)
    append_event(tmp_path, event, reason="one", metrics={"oof_v_f1": "high"}, model_card="")
    _append(tmp_path, "2")
    notes = read_release_notes(tmp_path / "history.json")
    assert notes is not None
    assert [note.oof_v_f1 for note in notes] == [0.9, None]


def test_an_event_is_committed_once(tmp_path: Path) -> None:
    first = _append(tmp_path, "1", event_id="x")
    _append(tmp_path, "2")
    assert _append(tmp_path, "1", event_id="x") == first
    assert len(read_ledger(tmp_path).entries) == 2


def test_an_empty_ledger_has_no_entries(tmp_path: Path) -> None:
    assert read_ledger(tmp_path / "none") == ([], [])


def test_a_refused_release_is_told_of_and_the_tree_shows_what_is_served(tmp_path: Path) -> None:
    _append(tmp_path, "1")
    _append(tmp_path, "2", kind=EventKind.REFUSED, before="1")
    history = read_ledger(tmp_path)
    assert history.entries[0].release.model_version == "2"
    assert history.latest is not None
    assert history.latest.release.model_version == "1"
    shown = Release.model_validate_json((tmp_path / "release.json").read_bytes())
    assert shown.model_version == "1"


def test_the_way_back_loses_the_steps_that_a_rollback_took(tmp_path: Path) -> None:
    for version in "123":
        _append(tmp_path, version)
    _append(tmp_path, "2", kind=EventKind.ROLLBACK, before="3")
    _append(tmp_path, "4")
    history = read_ledger(tmp_path)
    assert [one.release.model_version for one in list_way_back(history)] == ["1", "2", "4"]
    assert find_previous(history, _release("4")).release.model_version == "2"
    assert find_known_worse(history) == {"ecg:3": "because of 3"}


@pytest.mark.parametrize("kind", [EventKind.BASELINE, EventKind.SIGNED, EventKind.APPROVED])
def test_what_is_noted_of_a_release_does_not_hide_its_rollout(
    tmp_path: Path, kind: EventKind
) -> None:
    began = "2026-01-02T00:00:00+00:00"
    _append(tmp_path, "1")
    _append(tmp_path, "2", kind=EventKind.CANDIDATE, at=began)
    for after in (EventKind.STAGE, EventKind.RELEASE, kind):
        _append(tmp_path, "2", kind=after)
    history = read_ledger(tmp_path)
    assert find_rollout_begin(history, _release("2")) == datetime.fromisoformat(began)
    assert find_rollout_begin(history, _release("1")) is None
    _append(tmp_path, "2", kind=EventKind.STOPPED)
    assert find_rollout_begin(read_ledger(tmp_path), _release("2")) is None


def test_a_baseline_changed_last_when_that_of_the_same_bundle_did(tmp_path: Path) -> None:
    _append(tmp_path, "1")
    assert find_baseline_change(read_ledger(tmp_path), _release("1").bundle_hash) is None
    for version, day in (("1", 2), ("1", 3), ("2", 4)):
        _append(tmp_path, version, kind=EventKind.BASELINE, at=f"2026-01-0{day}T00:00:00+00:00")
    history = read_ledger(tmp_path)
    found = [find_baseline_change(history, _release(version).bundle_hash) for version in "12"]
    assert found == [datetime(2026, 1, 3, tzinfo=UTC), datetime(2026, 1, 4, tzinfo=UTC)]


def test_a_release_that_never_was_cannot_be_found(tmp_path: Path) -> None:
    commit = _append(tmp_path, "1")
    history = read_ledger(tmp_path)
    for name in ("1", "ecg:1", commit, commit[:7]):
        assert find_release(history, name).commit == commit
    for name in ("7", commit[:6]):
        with pytest.raises(LedgerError, match=rf"released \(\['1'\]\).*got '{name}'"):
            find_release(history, name)
    with pytest.raises(LedgerError, match="the ledger has none"):
        find_previous(history, _release("1"))


def test_entries_of_earlier_code_are_read_among_those_of_today(tmp_path: Path) -> None:
    _append(tmp_path, "1")
    for version, message in (("2", b"release model 2"), ("1", b"roll back model 2 to 1: bad")):
        path = tmp_path / "release.json"
        path.write_text(_release(version).model_dump_json())
        porcelain.add(str(tmp_path), [str(path)])
        author = b"ecg <ledger@localhost>"
        porcelain.commit(str(tmp_path), message=message, author=author, committer=author)
    history = read_ledger(tmp_path)
    assert [entry.event.kind.value for entry in history.entries] == [
        "rollback",
        "release",
        "release",
    ]
    assert [entry.release.model_version for entry in history.entries] == ["1", "2", "1"]
    assert find_known_worse(history) == {"ecg:2": "bad"}


def _object_of(directory: Path, name: str) -> Path:
    return directory / ".git" / "objects" / name[:2] / name[2:]


@pytest.mark.parametrize("content", [b"", b"no zlib", b"x" * 40])
@pytest.mark.parametrize("torn", ["first", "middle", "last"])
def test_a_torn_commit_is_passed_over_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, torn: str
) -> None:
    commits = dict(
        zip(("first", "middle", "last"), [_append(tmp_path, v) for v in "123"], strict=True)
    )
    path = _object_of(tmp_path, commits[torn])
    path.chmod(0o600)
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        history = read_ledger(tmp_path)
    assert history.torn == [commits[torn][:12]]
    assert commits[torn][:12] in caplog.text
    versions = {"first": ["3", "2"], "middle": ["3", "1"], "last": ["2", "1"]}[torn]
    assert [entry.release.model_version for entry in history.entries] == versions
    _append(tmp_path, "4")
    assert read_ledger(tmp_path).entries[0].release.model_version == "4"


def test_an_empty_release_file_in_a_commit_is_passed_over(tmp_path: Path) -> None:
    _append(tmp_path, "1")
    for name in ("release.json", "event.json"):
        (tmp_path / name).write_text("")
        porcelain.add(str(tmp_path), [str(tmp_path / name)])
    author = b"ecg <ledger@localhost>"
    porcelain.commit(str(tmp_path), message=b"release model 2", author=author, committer=author)
    history = read_ledger(tmp_path)
    assert history.torn == [Repo(str(tmp_path)).head().decode()[:12]]
    assert [entry.release.model_version for entry in history.entries] == ["1"]
    _append(tmp_path, "3")
    assert len(read_ledger(tmp_path).entries) == 2


@pytest.mark.parametrize("name", ["HEAD", "refs/heads/master"])
@pytest.mark.parametrize("content", [None, b"", b"ref", b"0" * 10])
def test_a_torn_branch_is_found_again(tmp_path: Path, name: str, content: bytes | None) -> None:
    commits = [_append(tmp_path, version) for version in "12"]
    path = tmp_path / ".git" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    history = read_ledger(tmp_path)
    assert [entry.commit for entry in history.entries] == commits[::-1]
    assert history.torn == ([] if name == "HEAD" else [(content or b"HEAD").decode()])
    _append(tmp_path, "3")
    assert [e.release.model_version for e in read_ledger(tmp_path).entries] == ["3", "2", "1"]


@pytest.mark.parametrize("name", ["index.lock", "refs/heads/master.lock", "HEAD.lock"])
def test_a_lock_that_git_left_is_removed(tmp_path: Path, name: str) -> None:
    _append(tmp_path, "1")
    lock = tmp_path / ".git" / name
    lock.touch()
    an_hour_ago = time.time() - 3600
    os.utime(lock, (an_hour_ago, an_hour_ago))
    _append(tmp_path, "2")
    assert len(read_ledger(tmp_path).entries) == 2
    assert not lock.exists()


@pytest.mark.parametrize(("age_s", "waits_s"), [(0.0, 5.0), (2.0, 3.0), (4.5, 0.5)])
def test_a_git_of_somebody_else_is_given_five_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: float, waits_s: float
) -> None:
    _append(tmp_path, "1")
    lock = tmp_path / ".git" / "index.lock"
    lock.touch()
    now = lock.stat().st_mtime
    os.utime(lock, (now - age_s, now - age_s))
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        lock.unlink()  # it has ended meanwhile

    monkeypatch.setattr("flows.doors.ledger.time.time", lambda: now)
    monkeypatch.setattr("flows.doors.ledger.time.sleep", wait)
    _append(tmp_path, "2")
    assert waited == pytest.approx([waits_s], abs=1e-3)
    assert len(read_ledger(tmp_path).entries) == 2


@pytest.mark.parametrize("age_s", [5.0, -1.0])
def test_a_lock_that_is_old_or_of_a_clock_ahead_is_removed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: float
) -> None:
    _append(tmp_path, "1")
    lock = tmp_path / ".git" / "index.lock"
    lock.touch()
    now = float(round(lock.stat().st_mtime))
    os.utime(lock, (now - age_s, now - age_s))
    waited: list[float] = []
    monkeypatch.setattr("flows.doors.ledger.time.time", lambda: now)
    monkeypatch.setattr("flows.doors.ledger.time.sleep", waited.append)
    _append(tmp_path, "2")
    assert (waited, lock.exists()) == ([], False)


def test_a_repository_that_was_cut_off_while_it_was_made_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    _append(tmp_path, "1")
    assert len(read_ledger(tmp_path).entries) == 1


def _append_many(directory: Path, versions: list[str]) -> None:
    for version in versions:
        _append(directory, version)


@pytest.mark.slow
def test_thirty_events_of_three_processes_are_all_there_and_say_what_they_hold(
    tmp_path: Path,
) -> None:
    groups = [[str(10 * group + one) for one in range(10)] for group in range(3)]
    with ProcessPoolExecutor(3) as pool:
        list(pool.map(_append_many, [tmp_path] * 3, groups))
    history = read_ledger(tmp_path)
    assert history.torn == []
    assert {entry.release.model_version for entry in history.entries} == {
        str(number) for number in range(30)
    }
    assert len(history.entries) == 30
    for entry in history.entries:
        assert entry.reason == f"release model {entry.release.model_version}"


def test_the_ledger_is_pushed_to_its_remote(tmp_path: Path) -> None:
    Repo.init_bare(str(tmp_path / "remote"), mkdir=True)
    commit = _append(tmp_path / "ledger", "1")
    push_ledger(tmp_path / "ledger", str(tmp_path / "remote"))
    with Repo(str(tmp_path / "remote")) as remote:
        heads = {name: value.decode() for name, value in remote.get_refs().items()}
    assert commit in heads.values()


def test_a_remote_that_is_gone_is_an_error_and_the_commit_stays(tmp_path: Path) -> None:
    _append(tmp_path / "ledger", "1")
    with pytest.raises(LedgerError, match="cannot be pushed"):
        push_ledger(tmp_path / "ledger", str(tmp_path / "nowhere"))
    assert len(read_ledger(tmp_path / "ledger").entries) == 1


def test_a_packed_ledger_continues_in_another_directory(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    _append(one, "1")
    _append(one, "2")
    merge_ledger(other, pack_ledger(one))
    assert find_head(other) == find_head(one)
    assert [entry.reason for entry in read_ledger(other).entries] == [
        entry.reason for entry in read_ledger(one).entries
    ]
    assert (other / "release.json").read_text() == (one / "release.json").read_text()
    commit = _append(other, "3")
    merge_ledger(one, pack_ledger(other))
    assert find_head(one) == commit


def test_ledgers_that_went_apart_keep_the_events_of_both(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    _append(one, "1")
    merge_ledger(other, pack_ledger(one))
    ours, theirs = str(uuid.uuid4()), str(uuid.uuid4())
    _append(one, "2", event_id=ours)
    head = _append(other, "3", event_id=theirs)
    merge_ledger(one, pack_ledger(other))
    history = read_ledger(one)
    assert [entry.event.id for entry in history.entries[:2]] == [ours, theirs]
    assert history.entries[1].commit == head  # commits of the other one stay as they are
    assert history.torn == []
    merge_ledger(other, pack_ledger(one))
    assert find_head(other) == find_head(one)


def test_a_torn_bundle_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    _append(tmp_path / "one", "1")
    head = find_head(tmp_path / "one")
    good = pack_ledger(tmp_path / "one")
    for packed in (b"", b"not a bundle", good[: len(good) // 2]):
        with pytest.raises(LedgerError, match="must be a git bundle"):
            merge_ledger(tmp_path / "one", packed)
    assert find_head(tmp_path / "one") == head
    assert find_head(tmp_path / "none") is None
    with pytest.raises(LedgerError, match="without events"):
        pack_ledger(tmp_path / "empty")
