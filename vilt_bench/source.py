"""Tells what commit is measured: of the git repository that the current directory lies in."""

from __future__ import annotations

import os
import re
import subprocess
from datetime import UTC, datetime

from vilt_bench.records import Source

_TIMEOUT_S = 5.0


def read_source(folder: str | os.PathLike[str] = ".") -> Source | None:
    """Returns the commit that is checked out; `None` where there is no git, no repository or no commit.

    Args:
        folder: in the repository.
    """
    status = _git(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=no")
    found = re.search(r"^# branch\.oid ([0-9a-f]{40,64})$", status or "", re.MULTILINE)
    if status is None or found is None:
        return None
    branch = re.search(r"^# branch\.head (?!\(detached\)$)(.+)$", status, re.MULTILINE)
    seconds = (_git(folder, "-c", "log.showSignature=false", "log", "-1", "--format=%ct", found[1]) or "").strip()
    return Source(
        commit=found[1],
        branch=None if branch is None else branch[1],
        dirty=any(line and not line.startswith("#") for line in status.splitlines()),
        committed_at=datetime.fromtimestamp(int(seconds), UTC).isoformat() if seconds.isdigit() else None,
    )


def _git(folder: str | os.PathLike[str], *arguments: str) -> str | None:
    """Returns what git says; `None` where it can't."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")
