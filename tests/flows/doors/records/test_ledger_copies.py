"""Files beside the ledger's commits, the bundle that carries them elsewhere, and its one writer."""

from __future__ import annotations

import fcntl
import io
import json
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
from dulwich import porcelain
from dulwich.bundle import read_bundle
from dulwich.objects import Commit
from dulwich.repo import Repo
from dulwich.worktree import WorkTree

from ecg_lib.operations.releases import Release, read_release_notes
from flows.doors import ledger
from flows.doors.ledger import (
    append_event,
    find_head,
    list_set_aside,
    merge_ledger,
    pack_ledger,
    read_git_commit,
    read_ledger,
)
from flows.doors.release_history import EventKind, LedgerEvent


def append(directory: Path, version: str, kind: EventKind = EventKind.RELEASE) -> None:
    release = Release(
        bento_tag=f"ecg:{version}",
        model_tag=f"ecg_bundle:{version}",
        bundle_hash=version * 8,
        code_hash="c" * 8,
        model_version=version,
        released_at="2026-01-01T00:00:00+00:00",
    )
    event = LedgerEvent(
        id=str(uuid.uuid4()),
        kind=kind,
        who="a test",
        why="because",
        at="2026-01-01T00:00:00+00:00",
        before=None,
        release=release,
        is_verified=True,
    )
    append_event(
        directory, event, reason=f"{kind.value} {version}", metrics={"n": int(version), "also": 0},
        model_card=f"# Card {version}\n",
    )  # fmt: skip


def read_copies(directory: Path) -> tuple[str, str, int, str]:
    """Versions of the event and of what is served, and the figures and card of that."""
    event = json.loads((directory / "event.json").read_text())
    release = json.loads((directory / "release.json").read_text())
    metrics = json.loads((directory / "metrics.json").read_text())
    card = (directory / "model_card.md").read_text()
    return event["release"]["model_version"], release["model_version"], metrics["n"], card


@pytest.fixture
def without_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index of git, which would write the files again, cannot be written."""

    def fail(_: WorkTree) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(WorkTree, "reset_index", fail)


@pytest.mark.usefixtures("without_index")
def test_copies_do_not_wait_for_the_index(tmp_path: Path) -> None:
    append(tmp_path, "1")
    assert read_copies(tmp_path) == ("1", "1", 1, "# Card 1\n")
    append(tmp_path, "2", EventKind.REFUSED)
    assert read_copies(tmp_path) == ("2", "1", 1, "# Card 1\n")
    assert len(read_ledger(tmp_path).entries) == 2


@pytest.mark.usefixtures("without_index")
def test_a_ledger_that_takes_another_one_in_has_the_copies_of_its_latest_event(
    tmp_path: Path,
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    append(one, "1")
    append(one, "2")
    append(one, "3", EventKind.REFUSED)
    merge_ledger(other, pack_ledger(one))
    assert read_copies(other) == ("3", "2", 2, "# Card 2\n")


@pytest.mark.usefixtures("without_index")
def test_events_that_follow_those_of_another_ledger_show_what_is_served_then(
    tmp_path: Path,
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    append(one, "1")
    merge_ledger(other, pack_ledger(one))
    append(one, "2")
    append(one, "3", EventKind.REFUSED)
    append(other, "4", EventKind.REFUSED)
    merge_ledger(one, pack_ledger(other))
    assert read_copies(one) == ("3", "2", 2, "# Card 2\n")
    assert [entry.release.model_version for entry in read_ledger(one).entries] == list("3241")


def test_the_notes_of_a_merged_ledger_are_those_of_its_history(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for number in range(1, 22):
        append(one, str(number))
    merge_ledger(other, pack_ledger(one))
    notes = read_release_notes(other / "history.json")
    assert notes is not None
    assert [note.model_version for note in notes] == [str(number) for number in range(21, 1, -1)]


def test_a_packed_ledger_names_its_branch(tmp_path: Path) -> None:
    append(tmp_path, "1")
    with read_bundle(io.BytesIO(pack_ledger(tmp_path))) as bundle:
        references = {name.decode(): head.decode() for name, head in bundle.references.items()}
    assert references == {"refs/heads/master": find_head(tmp_path)}


def test_the_files_of_an_event_are_indented_for_people(tmp_path: Path) -> None:
    append(tmp_path, "1")
    assert (tmp_path / "event.json").read_text().startswith('{\n  "id": ')
    assert (tmp_path / "release.json").read_text().startswith('{\n  "bento_tag": ')
    assert (tmp_path / "metrics.json").read_text() == '{\n  "also": 0,\n  "n": 1\n}'


def test_the_ledger_of_a_home_that_is_not_there_yet_is_made(tmp_path: Path) -> None:
    append(tmp_path / "home" / "ledger", "1")
    append(tmp_path / "home" / "ledger", "2")
    assert len(read_ledger(tmp_path / "home" / "ledger").entries) == 2


def test_an_event_is_written_under_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move, is_free = ledger._move_branch, []

    def look(repository: Repo, commit: bytes) -> None:
        with (tmp_path / ".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_free.append(True)
            except BlockingIOError:
                is_free.append(False)
        move(repository, commit)  # type: ignore[arg-type]  # an id of dulwich

    monkeypatch.setattr(ledger, "_move_branch", look)
    append(tmp_path, "1")
    assert is_free == [False]


def test_a_folder_that_is_not_a_repository_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("of somebody")
    append(tmp_path, "1")
    (aside,) = list_set_aside(tmp_path)
    assert aside.startswith(".git.broken-")
    assert (tmp_path / aside / "config").read_text() == "of somebody"
    assert len(read_ledger(tmp_path).entries) == 1


def test_a_merge_that_somebody_made_by_hand_is_followed_to_its_first_parent(
    tmp_path: Path,
) -> None:
    for version in "123":
        append(tmp_path, version)
    entries = read_ledger(tmp_path).entries
    with Repo(str(tmp_path)) as repository:
        merge = repository[repository.head()].copy()
        assert isinstance(merge, Commit)
        merge.parents = [repository.head(), entries[-1].commit.encode()]  # type: ignore[list-item]
        merge.message = b"by hand"
        repository.object_store.add_object(merge)
        repository.refs[b"refs/heads/master"] = merge.id  # type: ignore[index]
    found = read_ledger(tmp_path).entries
    assert [entry.commit for entry in found[1:]] == [entry.commit for entry in entries]
    # Its tree has the event of another commit, so it counts as one of code that knew no events.
    event = found[0].event
    assert (event.kind, event.why, event.is_verified) == (EventKind.RELEASE, "by hand", False)
    assert (found[0].metrics, found[0].model_card) == ({"also": 0, "n": 3}, "# Card 3\n")


def test_past_a_torn_commit_events_come_in_the_order_of_their_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in "1234":
        now_s = 1_700_000_000.0 + int(version)
        clock = SimpleNamespace(time=lambda now_s=now_s: now_s)
        monkeypatch.setattr(ledger, "time", clock)
        append(tmp_path, version)
    torn = read_ledger(tmp_path).entries[0].commit
    (tmp_path / ".git" / "objects" / torn[:2] / torn[2:]).unlink()
    history = read_ledger(tmp_path)
    assert [entry.release.model_version for entry in history.entries] == list("321")
    assert history.torn == [torn[:12]]


def test_the_commit_of_the_checkout_says_whether_tracked_files_have_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "__file__", str(tmp_path / "ledger.py"))
    assert read_git_commit() == "no git repository"
    with porcelain.init(str(tmp_path)) as repository:
        assert read_git_commit() == "no git repository"
        code = tmp_path / "code.py"
        code.write_text("one")
        porcelain.add(repository, [str(code)])
        author = b"a test <a@test>"
        commit = porcelain.commit(repository, b"first", author=author, committer=author).decode()
        assert read_git_commit() == commit
        (tmp_path / "untracked.py").write_text("one")
        assert read_git_commit() == commit
        code.write_text("changed")
        assert read_git_commit() == f"{commit}+changes"
        porcelain.add(repository, [str(code)])
        assert read_git_commit() == f"{commit}+changes"
