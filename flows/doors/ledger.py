"""The release ledger: a git repository of its own with one commit for each release.

It answers what was served when, with which figures, and what to go back to, without MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ecg_lib.errors import EcgError
from ecg_lib.operations.releases import Release

if TYPE_CHECKING:
    from dulwich.repo import Repo

_RELEASE: Final = "release.json"
_METRICS: Final = "metrics.json"
_MODEL_CARD: Final = "model_card.md"
_AUTHOR: Final = b"ecg release ledger <ledger@localhost>"


class LedgerError(EcgError):
    """The ledger has no such release, or its remote cannot be reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One commit of the ledger."""

    commit: str
    committed_at: datetime
    release: Release
    reason: str
    """First line of the commit."""
    metrics: dict[str, Any]


def append_release(
    directory: Path,
    release: Release,
    *,
    reason: str,
    metrics: Mapping[str, Any],
    model_card: str,
    remote: str | None = None,
) -> str:
    """Commit a release.

    Args:
        directory: The repository; made when missing.
        release: What is served from now on.
        reason: What was done, in one line, such as ``release model 3``.
        metrics: Figures of the model.
        model_card: Text of its card.
        remote: Git remote to push to.

    Returns:
        The commit.

    Raises:
        LedgerError: If the remote cannot be pushed to; the commit then is made all the same.
    """
    from dulwich import porcelain

    with _open(directory) as repository:
        texts = {
            _RELEASE: release.model_dump_json(indent=2),
            _METRICS: json.dumps(dict(metrics), indent=2, sort_keys=True),
            _MODEL_CARD: model_card,
        }
        for name, text in texts.items():
            (directory / name).write_text(text, encoding="utf-8")
        porcelain.add(repository, [str(directory / name) for name in texts])
        message = f"{reason}\n\nbento {release.bento_tag}\nbundle {release.bundle_hash}\n"
        commit = porcelain.commit(
            repository, message=message.encode(), author=_AUTHOR, committer=_AUTHOR
        )
        if remote is not None:
            _push(repository, remote)
    return str(commit.decode())


def _push(repository: Repo, remote: str) -> None:
    from dulwich import porcelain
    from dulwich.errors import GitProtocolError, NotGitRepository
    from urllib3.exceptions import HTTPError

    try:
        branch = porcelain.active_branch(repository)
        porcelain.push(repository, remote, refspecs=[b"refs/heads/" + branch])
    except (GitProtocolError, NotGitRepository, HTTPError, OSError, porcelain.Error) as error:
        msg = f"the ledger was committed but cannot be pushed to its remote: {error}"
        raise LedgerError(msg) from error


def read_ledger(directory: Path) -> list[LedgerEntry]:
    """Read all releases, latest first; empty when nothing was released."""
    if not (directory / ".git").is_dir():
        return []
    with _open(directory) as repository:
        return list(_entries(repository))


def find_previous(entries: list[LedgerEntry], *, bundle_hash: str) -> LedgerEntry:
    """Find the latest release of another bundle than the given one.

    Raises:
        LedgerError: If there is none.
    """
    for entry in entries:
        if entry.release.bundle_hash != bundle_hash:
            return entry
    msg = "there must be an earlier release to go back to, the ledger has none"
    raise LedgerError(msg)


def find_version(entries: list[LedgerEntry], *, model_version: str) -> LedgerEntry:
    """Find the latest release of a model version.

    Raises:
        LedgerError: If it was never released.
    """
    for entry in entries:
        if entry.release.model_version == model_version:
            return entry
    known = sorted({entry.release.model_version for entry in entries})
    msg = f"model version must be one that was released ({known}), got {model_version!r}"
    raise LedgerError(msg)


def _open(directory: Path) -> Repo:
    from dulwich.repo import Repo

    directory.mkdir(parents=True, exist_ok=True)
    if (directory / ".git").is_dir():
        return Repo(str(directory))
    return Repo.init(str(directory))


def _entries(repository: Repo) -> Iterator[LedgerEntry]:
    try:
        head = repository.head()
    except KeyError:
        return
    for step in repository.get_walker(include=[head]):
        commit = step.commit
        tree = repository[commit.tree]

        def read(name: str, tree: Any = tree) -> str:  # noqa: ANN401  dulwich has no types
            return str(repository[tree[name.encode()][1]].data.decode())

        yield LedgerEntry(
            commit=commit.id.decode(),
            committed_at=datetime.fromtimestamp(commit.commit_time, UTC),
            release=Release.model_validate_json(read(_RELEASE)),
            reason=commit.message.decode().splitlines()[0],
            metrics=json.loads(read(_METRICS)),
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
