"""Tells what commit is measured: of the git repository that the current directory lies in."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from vilt_bench.director import git
from vilt_bench.record.run import Source

_TIMEOUT_S = 5.0


def read_source(
    folder: str | os.PathLike[str] = ".", *, report: Callable[[str], None] = lambda _: None
) -> Source | None:
    """Returns the commit that is checked out; `None` where there is no repository or no commit, or git can't tell.

    Args:
        folder: in the repository.
        report: told in a sentence why git can't tell of a repository that is there.
    """
    try:
        status = _ask(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=no")
    except git.GitError as error:
        if _has_repository(folder):
            report(f"What commit was measured is not known, as git does not tell: {error}.")
        return None
    found = re.search(r"^# branch\.oid ([0-9a-f]{40,64})$", status, re.MULTILINE)
    if found is None:
        return None
    branch = re.search(r"^# branch\.head (?!\(detached\)$)(.+)$", status, re.MULTILINE)
    return Source(
        commit=found[1],
        branch=None if branch is None else branch[1],
        dirty=any(line and not line.startswith("#") for line in status.splitlines()),
        committed_at=_committed_at(folder, found[1]),
    )


def _committed_at(folder: str | os.PathLike[str], commit: str) -> str | None:
    try:
        seconds = int(_ask(folder, "-c", "log.showSignature=false", "log", "-1", "--format=%ct", commit))
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (git.GitError, ValueError, OverflowError):
        return None


def _has_repository(folder: str | os.PathLike[str]) -> bool:
    here = Path(folder).absolute()
    return any((each / ".git").exists() for each in (here, *here.parents))


def _ask(folder: str | os.PathLike[str], *arguments: str) -> str:
    return git.ask(*arguments, folder=folder, timeout_s=_TIMEOUT_S).decode(errors="replace")
