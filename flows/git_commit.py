"""The commit of the code that runs, read without a git binary."""

from __future__ import annotations

from pathlib import Path

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
