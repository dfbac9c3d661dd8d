"""The release ledger: a git repository of its own with one commit for each event.

It says what was served when, with which figures, who asked for it and why, and what to go back to,
without MLflow. Commits are written object by object and become visible by one compare-and-set of
the branch; so a process that is killed leaves the ledger as it was, and the files beside ``.git``
are only a copy for people. An entry that cannot be read is passed over and reported.
"""

from __future__ import annotations

import fcntl
import io
import json
import logging
import stat
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ecg_lib.operations.releases import NOTES, Release, ReleaseNote, write_release_notes
from ecg_lib.records.atomic_files import write_whole
from flows.doors.release_history import (
    SERVED_KINDS,
    EventKind,
    LedgerEntry,
    LedgerError,
    LedgerEvent,
    LedgerHistory,
)

if TYPE_CHECKING:
    from dulwich.objects import Commit, ObjectID
    from dulwich.repo import Repo

_RELEASE: Final = "release.json"
_METRICS: Final = "metrics.json"
_MODEL_CARD: Final = "model_card.md"
_EVENT: Final = "event.json"
_AUTHOR: Final = b"ecg release ledger <ledger@localhost>"
_ENCODING: Final = "utf-8"
_HEAD_START: Final = b"ref: refs/heads/"
_ASIDE: Final = ".git.broken-"
_N_NOTES: Final = 20
_STALE_LOCK_S: Final = 5.0
"""Age of a git lock file that no process can be holding: a commit takes milliseconds."""

logger = logging.getLogger(__name__)


def append_event(
    directory: Path,
    event: LedgerEvent,
    *,
    reason: str,
    metrics: Mapping[str, Any],
    model_card: str,
) -> str:
    """Commit an event; one that is in the ledger already is not written again.

    Args:
        directory: The repository; made when missing.
        event: What was done.
        reason: What was done, in one line, such as ``release model 3``.
        metrics: Figures of the model.
        model_card: Text of its card.

    Returns:
        The commit.

    Raises:
        LedgerError: If the ledger cannot be written.
    """
    with _writing(directory) as repository:
        commits, torn = _walk(repository)
        history = _read_entries(repository, commits, torn)
        for entry in history.entries:
            if entry.event.id == event.id:
                return entry.commit
        # The head, else the latest commit that can be read.
        head = commits[0].id if commits else None
        commit, texts = _add_commit(
            repository,
            LedgerEntry(
                commit="",
                committed_at=datetime.now(UTC),
                event=event,
                reason=reason,
                metrics=dict(metrics),
                model_card=model_card,
            ),
            parent=head,
            served=history.latest,
        )
        _move_branch(repository, commit.id)
        _write_copies(directory, repository, texts)
        entry = LedgerEntry(
            commit=commit.id.decode(),
            committed_at=datetime.fromtimestamp(commit.commit_time, UTC),
            event=event,
            reason=_one_line(reason),
            metrics=json.loads(texts.get(_METRICS, "{}")),
            model_card=texts.get(_MODEL_CARD, ""),
        )
        _write_notes(directory, [entry, *history.entries[: _N_NOTES - 1]])
    return entry.commit


def find_head(directory: Path) -> str | None:
    """Return the latest commit of the ledger; None when it has none."""
    if not (directory / ".git").is_dir():
        return None
    with _open(directory) as repository:
        head = _head_of(repository)
    return None if head is None else head.decode()


def pack_ledger(directory: Path) -> bytes:
    """Pack the ledger as a git bundle, which ``git clone`` reads.

    Raises:
        LedgerError: If it has no events, or cannot be read.
    """
    from dulwich.bundle import create_bundle_from_repo, write_bundle
    from dulwich.refs import HEADREF

    packed = io.BytesIO()
    with _writing(directory) as repository:
        branch = repository.refs.follow(HEADREF)[0][-1]
        if _head_of(repository) is None:
            msg = "a ledger without events cannot be packed"
            raise LedgerError(msg)
        try:
            with create_bundle_from_repo(repository, refs=[branch]) as bundle:
                write_bundle(packed, bundle)
        except (KeyError, ValueError, AssertionError, zlib.error) as error:
            msg = f"the ledger cannot be packed, an object of it cannot be read: {error}"
            raise LedgerError(msg) from error
    return packed.getvalue()


def merge_ledger(directory: Path, packed: bytes) -> None:
    """Continue the ledger of another home, which then has the events of both.

    Its commits stay as they are; events that only this home has follow them.

    Args:
        directory: The repository of this home; made when missing.
        packed: What :func:`pack_ledger` gave in the other one.

    Raises:
        LedgerError: If the bundle cannot be read, or this ledger cannot be written.
    """
    from dulwich.bundle import read_bundle

    with _writing(directory) as repository:
        ours = _read(repository)
        try:
            with read_bundle(io.BytesIO(packed)) as bundle:
                bundle.store_objects(repository.object_store)
                (head,) = bundle.references.values()
        except (AssertionError, KeyError, TypeError, ValueError, zlib.error) as error:
            msg = f"the ledger of the store must be a git bundle, it cannot be read: {error}"
            raise LedgerError(msg) from error
        theirs = _read_entries(repository, *_walk(repository, head))
        known = {entry.event.id for entry in theirs.entries}
        served, texts = theirs.latest, None
        for entry in reversed(ours.entries):
            if entry.event.id not in known:
                commit, texts = _add_commit(repository, entry, parent=head, served=served)
                head = commit.id
                served = entry if entry.is_served else served
        _move_branch(repository, head)
        history = _read(repository)
        if texts is None and history.entries:
            texts = _texts_of(history.entries[0], history.latest)
        _write_copies(directory, repository, texts or {})
        _write_notes(directory, history.entries[:_N_NOTES])


def push_ledger(directory: Path, remote: str) -> None:
    """Push the ledger to a git remote.

    Raises:
        LedgerError: If the remote cannot be reached or does not take it.
    """
    from dulwich import porcelain
    from dulwich.errors import GitProtocolError, NotGitRepository
    from urllib3.exceptions import HTTPError

    try:
        with _open(directory) as repository:
            branch = porcelain.active_branch(repository)
            porcelain.push(repository, remote, refspecs=[b"refs/heads/" + branch])
    except (GitProtocolError, NotGitRepository, HTTPError, OSError, porcelain.Error) as error:
        msg = f"the ledger was committed but cannot be pushed to its remote: {error}"
        raise LedgerError(msg) from error


def read_ledger(directory: Path) -> LedgerHistory:
    """Read all events, latest first; entries that cannot be read are named and passed over."""
    if not (directory / ".git").is_dir():
        return LedgerHistory([], [])
    with _open(directory) as repository:
        history = _read(repository)
    for name in history.torn:
        logger.warning("entry %s of the release ledger cannot be read and is passed over", name)
    return history


def list_set_aside(directory: Path) -> list[str]:
    """List the ledgers that were no longer git repositories and made room for a new one."""
    return sorted(path.name for path in directory.glob(f"{_ASIDE}*"))


def _add_commit(
    repository: Repo, entry: LedgerEntry, *, parent: ObjectID | None, served: LedgerEntry | None
) -> tuple[Commit, dict[str, str]]:
    """Write a commit with an event, which no branch has yet; return the texts of its files too."""
    from dulwich.objects import Blob, Tree

    texts = _texts_of(entry, served)
    tree = Tree()
    for name, text in texts.items():
        blob = Blob.from_string(text.encode(_ENCODING))
        repository.object_store.add_object(blob)
        tree.add(name.encode(), stat.S_IFREG | 0o644, blob.id)
    repository.object_store.add_object(tree)
    commit = _make_commit(tree.id, parent, _message(entry.reason, entry.event.release))
    repository.object_store.add_object(commit)
    return commit, texts


def _texts_of(entry: LedgerEntry, served: LedgerEntry | None) -> dict[str, str]:
    """Return the files of the commit of an event; the release is the one that is served then."""
    texts = {_EVENT: entry.event.model_dump_json(indent=2)}
    shown = entry if entry.event.kind in SERVED_KINDS else served
    if shown is not None:
        texts[_RELEASE] = shown.release.model_dump_json(indent=2)
        texts[_METRICS] = json.dumps(dict(shown.metrics), indent=2, sort_keys=True)
        texts[_MODEL_CARD] = shown.model_card
    return texts


def _message(reason: str, release: Release) -> bytes:
    line = _one_line(reason)
    return f"{line}\n\nbento {release.bento_tag}\nbundle {release.bundle_hash}\n".encode()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _make_commit(tree: ObjectID, parent: ObjectID | None, message: bytes) -> Commit:
    from dulwich.objects import Commit

    commit = Commit()
    commit.tree = tree
    commit.parents = [parent] if parent else []
    commit.author = commit.committer = _AUTHOR
    commit.commit_time = commit.author_time = int(time.time())
    commit.commit_timezone = commit.author_timezone = 0
    commit.encoding = _ENCODING.encode()
    commit.message = message
    return commit


@contextmanager
def _writing(directory: Path) -> Iterator[Repo]:
    """Hold the ledger for one writer; lock files that a killed git left are removed."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _remove_stale_locks(directory / ".git")
            with _open(directory) as repository:
                yield repository
    except OSError as error:
        msg = f"the release ledger must be writable, it is not: {error.strerror or error}"
        raise LedgerError(msg) from error


def _remove_stale_locks(git: Path) -> None:
    # Ours are held for milliseconds, and under the lock of this module; a git of somebody who
    # looks at the ledger by hand is given its time.
    for lock in [*git.glob("*.lock"), *git.glob("refs/heads/*.lock")]:
        age_s = time.time() - lock.stat().st_mtime
        if 0 <= age_s < _STALE_LOCK_S:
            time.sleep(_STALE_LOCK_S - age_s)
        if lock.exists():
            logger.warning("%s was left by a process that ended and is removed", lock.name)
            lock.unlink(missing_ok=True)


def _open(directory: Path) -> Repo:
    from dulwich.errors import NotGitRepository
    from dulwich.repo import Repo

    git = directory / ".git"
    if git.is_dir():
        _mend_head(git)
        try:
            return Repo(str(directory))
        except NotGitRepository:
            aside = directory / f"{_ASIDE}{time.time_ns()}"
            logger.exception("the ledger is not a git repository; it is moved to %s", aside.name)
            git.rename(aside)
    # Made beside it and moved into place: a process may be killed at any time.
    with tempfile.TemporaryDirectory(dir=directory, prefix=".init-") as draft:
        Repo.init(draft).close()
        (Path(draft) / ".git").rename(git)
    return Repo(str(directory))


def _mend_head(git: Path) -> None:
    """Let HEAD name a branch again when the file is missing or torn."""
    head = git / "HEAD"
    try:
        is_whole = head.read_bytes().startswith(_HEAD_START)
    except FileNotFoundError:
        is_whole = False
    if not is_whole and (git / "refs" / "heads").is_dir():
        branches = [path.name for path in (git / "refs" / "heads").iterdir()]
        logger.warning("HEAD of the release ledger is torn and is written again")
        write_whole(head, f"{_HEAD_START.decode()}{branches[0] if branches else 'master'}\n")


def _move_branch(repository: Repo, commit: ObjectID) -> None:
    from dulwich.refs import HEADREF

    repository.refs[repository.refs.follow(HEADREF)[0][-1]] = commit


def _write_copies(directory: Path, repository: Repo, texts: Mapping[str, str]) -> None:
    """Write the files beside ``.git``, for people; the commit is what counts."""
    try:
        for name, text in texts.items():
            write_whole(directory / name, text)
        repository.get_worktree().reset_index()
    except OSError as error:
        logger.warning("the copies beside the ledger's commits cannot be written: %s", error)


def _write_notes(directory: Path, entries: Sequence[LedgerEntry]) -> None:
    """Write the latest events as a file, which the service shows.

    The event is in the ledger already. So a failure is logged, and does not stop the caller.
    """
    try:
        write_release_notes(directory / NOTES, [_make_note(entry) for entry in entries])
    except (OSError, ValueError) as error:
        logger.warning("the events of the ledger cannot be written for the service: %s", error)


def _make_note(entry: LedgerEntry) -> ReleaseNote:
    event, figure = entry.event, entry.metrics.get("oof_v_f1")
    return ReleaseNote(
        commit=entry.commit,
        at=event.at,
        kind=event.kind.value,
        who=event.who,
        why=event.why,
        bento_tag=event.release.bento_tag,
        model_version=event.release.model_version,
        before=None if event.before is None else event.before.bento_tag,
        is_verified=event.is_verified,
        is_signed=event.is_signed,
        # One figure that is not a number must not remove the notes of all other events.
        oof_v_f1=figure if isinstance(figure, int | float) else None,
    )


def _read(repository: Repo) -> LedgerHistory:
    return _read_entries(repository, *_walk(repository))


def _read_entries(repository: Repo, commits: Sequence[Commit], torn: list[str]) -> LedgerHistory:
    """Read the entries of commits that are latest first; add those that cannot be read to torn."""
    from dulwich.errors import FileFormatException

    entries: list[LedgerEntry] = []
    known: set[str] = set()
    served: Release | None = None
    for commit in reversed(commits):
        try:
            entry = _entry_of(repository, commit, known=known, before=served)
        except (FileFormatException, ValueError, TypeError, KeyError, zlib.error, AssertionError):
            torn.append(commit.id.decode()[:12])
            continue
        known.add(entry.event.id)
        if entry.is_served:
            served = entry.release
        entries.append(entry)
    return LedgerHistory(entries[::-1], torn)


def _walk(repository: Repo, head: ObjectID | None = None) -> tuple[list[Commit], list[str]]:
    """Follow first parents from the head; past a commit that is torn, by the commits' times."""
    torn: list[str] = []
    commits: list[Commit] = []
    at = head or _head_of(repository)
    while at is not None:
        commit = _read_commit(repository, at)
        if commit is None:
            torn.append(at.decode()[:12])
            break
        commits.append(commit)
        at = commit.parents[0] if commit.parents else None
    if torn or not commits:
        others = _other_commits(repository, {commit.id for commit in commits})
        if others and not torn:
            torn.append("HEAD")
        commits += others
    return commits, torn


def _head_of(repository: Repo) -> ObjectID | None:
    try:
        return repository.head() or None
    except (KeyError, ValueError, AssertionError):
        return None


def _read_commit(repository: Repo, name: ObjectID) -> Commit | None:
    from dulwich.errors import FileFormatException
    from dulwich.objects import Commit

    try:
        found = repository[name]
        if isinstance(found, Commit):
            _ = found.tree, found.message  # parsed only now
            return found
    except (FileFormatException, KeyError, ValueError, zlib.error, AssertionError):
        pass
    return None


def _other_commits(repository: Repo, seen: set[ObjectID]) -> list[Commit]:
    names = [name for name in repository.object_store if name not in seen]
    found = [one for name in names if (one := _read_commit(repository, name)) is not None]
    parents = {parent for one in found for parent in one.parents}
    # Of the same second the child comes first.
    return sorted(found, key=lambda one: (-one.commit_time, one.id in parents))


def _entry_of(
    repository: Repo, commit: Commit, *, known: set[str], before: Release | None
) -> LedgerEntry:
    from dulwich.objects import Blob, Tree

    tree = repository[commit.tree]
    if not isinstance(tree, Tree):
        msg = f"commit {commit.id.decode()} must have a tree"
        raise TypeError(msg)

    def read(name: str) -> str:
        blob = repository[tree[name.encode()][1]]
        if not isinstance(blob, Blob):
            msg = f"{name} must be a file"
            raise TypeError(msg)
        return str(blob.data.decode(_ENCODING))

    lines = commit.message.decode(_ENCODING).splitlines()
    reason = lines[0] if lines else ""
    at = datetime.fromtimestamp(commit.commit_time, UTC)
    event = None
    if _EVENT.encode() in tree:
        event = LedgerEvent.model_validate_json(read(_EVENT))
    if event is None or event.id in known:
        # Written by code that knew no events; one that stands in the tree is of an earlier entry.
        is_rollback = reason.startswith("roll back")
        event = LedgerEvent(
            id=commit.id.decode(),
            kind=EventKind.ROLLBACK if is_rollback else EventKind.RELEASE,
            who="unknown",
            why=reason.partition(": ")[2] if is_rollback else reason,
            at=at.isoformat(),
            before=before,
            release=Release.model_validate_json(read(_RELEASE)),
            is_verified=False,
        )
    has_figures = _METRICS.encode() in tree
    return LedgerEntry(
        commit=commit.id.decode(),
        committed_at=at,
        event=event,
        reason=reason,
        metrics=json.loads(read(_METRICS)) if has_figures else {},
        model_card=read(_MODEL_CARD) if _MODEL_CARD.encode() in tree else "",
    )


NO_REPOSITORY = "no git repository"


def read_git_commit() -> str:
    """Return the commit of the checkout, with ``+changes`` when tracked files have changes."""
    from dulwich import porcelain
    from dulwich.errors import NotGitRepository
    from dulwich.repo import Repo

    try:
        repository = Repo.discover(str(Path(__file__).parent))
    except NotGitRepository:
        return NO_REPOSITORY
    with repository:
        try:
            commit = repository.head().decode()
        except KeyError:
            return NO_REPOSITORY
        status = porcelain.status(repository, untracked_files="no")
        is_changed = any(status.staged.values()) or bool(status.unstaged)
    return f"{commit}+changes" if is_changed else commit
