"""Asks git about the repository that a folder lies in, whatever repository this process was started for.

In a hook, git's variables point to the repository and to the index that are being committed: a git that inherits them
works on those, wherever it runs.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

OUTER = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_CONFIG",
        "GIT_DIR",
        "GIT_GRAFT_FILE",
        "GIT_IMPLICIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_INTERNAL_SUPER_PREFIX",
        "GIT_NAMESPACE",
        "GIT_NO_REPLACE_OBJECTS",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_QUARANTINE_PATH",
        "GIT_REPLACE_REF_BASE",
        "GIT_SHALLOW_FILE",
        "GIT_WORK_TREE",
    }
)
"""Variables of one repository: those that `git rev-parse --local-env-vars` names, and two of pushes.

`GIT_CONFIG_PARAMETERS` and `GIT_CONFIG_COUNT` stay, as they do where git itself goes from one repository to another:
they are settings that the user gave, such as `safe.directory`.
"""
QUIET = ("-c", f"core.hooksPath={os.devnull}", "-c", "core.fsmonitor=false")
"""No hook of the user's runs because of us, and no daemon is left."""


class GitError(Exception):
    """Git could not answer; says why, in git's words."""


class NoGitError(GitError):
    """There is no git."""


def surroundings(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns environment variables without those that point to one repository.

    Args:
        variables: this process's own if `None`.
    """
    return {
        name: value for name, value in (os.environ if variables is None else variables).items() if name not in OUTER
    }


def ask(
    *arguments: str,
    folder: str | os.PathLike[str] | None = None,
    variables: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> bytes:
    """Returns what git prints.

    Args:
        arguments: the command and its arguments.
        folder: where it runs; here if `None`.
        variables: more of them, for this call.
        timeout_s: that it may take.

    Raises:
        NoGitError: there is no git.
        GitError: it failed, or took too long.
    """
    try:
        done = subprocess.run(
            ["git", *QUIET, *arguments],
            cwd=folder,
            env={**surroundings(), "GIT_OPTIONAL_LOCKS": "0", **(variables or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise GitError(f"git {arguments[0]} took longer than {timeout_s:g} s") from None
    except FileNotFoundError as error:
        if folder is not None and not Path(folder).is_dir():
            raise GitError(f"there is no folder {folder}") from None
        raise NoGitError("git is not there") from error
    except (OSError, ValueError) as error:  # not executable; a NUL in a name
        raise GitError(f"git can't be started: {error}") from None
    if done.returncode:
        raise GitError(_reason(done.stderr.decode(errors="replace")) or f"exit code {done.returncode}")
    return done.stdout


def text(*arguments: str, folder: str | os.PathLike[str] | None = None) -> str:
    """Returns what git prints as text, without the end of its last line.

    Raises:
        GitError: as `ask`.
    """
    return os.fsdecode(ask(*arguments, folder=folder)).removesuffix("\n")


def _reason(said: str) -> str:
    """Returns git's cause and its remedy, in one line: either may stand first or last, hints do not count."""
    lines = [line.strip() for line in said.splitlines()]
    told = [line for line in lines if line and not line.startswith(("hint:", "warning:", "Preparing worktree"))]
    start = next((index for index, line in enumerate(told) if line.startswith(("fatal:", "error:"))), 0)
    return " ".join(told[start:])
