"""The other side out of git: records kept at a reference, and an environment with what a reference holds."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
import uuid
import venv
from collections.abc import Callable, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from vilt_bench import store
from vilt_bench.errors import ConfigError
from vilt_bench.lockstep import Contender
from vilt_bench.records import Run, decode

READY = "ready"
"""In an environment's folder: it is complete."""


def records_at(reference: str, folder: str) -> list[Run]:
    """Returns the runs in the folder as the reference has it, by time; none where there is no record.

    Args:
        reference: a branch, tag or commit of the repository around the current folder.
        folder: relative to the current folder.

    Raises:
        ConfigError: there is no repository, or no such reference.
        RecordError: a file is no record.
    """
    commit = resolve(reference)
    listed = _git("ls-tree", "-r", "-z", "--name-only", commit, "--", folder).split("\0")
    names = sorted(
        (name for name in listed if fnmatch(PurePosixPath(name).name, store.PATTERN)),
        key=lambda name: PurePosixPath(name).name,
    )
    return [decode(_git("show", f"{commit}:./{name}").encode(), name=f"{reference}:{name}") for name in names]


def resolve(reference: str) -> str:
    """Returns the commit that a reference names.

    Raises:
        ConfigError: there is no repository, or no such reference.
    """
    _git("rev-parse", "--git-dir")
    try:
        return _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}").strip()
    except ConfigError:
        raise ConfigError(
            f"--baseline-ref {reference}: this repository has no such branch, tag or commit; "
            "a shallow clone lacks most of them, 'git fetch --unshallow' gets all"
        ) from None


def contender_at(reference: str, *, report: Callable[[str], None] = lambda _: None) -> Contender:
    """Returns this folder's repository, as the reference has it, installed in an environment of its own.

    The environment is a layer over this one: all other packages are this one's, so that nothing but the repository
    differs. It is kept for the next time, in the user's cache.

    Args:
        reference: a branch, tag or commit.
        report: told what goes on, in a line.

    Raises:
        ConfigError: there is no repository, no such reference, or what it has can't be installed.
    """
    commit = resolve(reference)
    here = PurePosixPath(_git("rev-parse", "--show-prefix").strip())
    root = Path(_git("rev-parse", "--show-toplevel").strip())
    # Another interpreter, another place of its packages, or another version of one, is another layer.
    installed = sorted(path.name for folder in _packages() for path in Path(folder).glob("*.dist-info"))
    told = [sys.executable, sys.version, *_packages(), *installed]
    key = hashlib.sha256("\0".join(told).encode()).hexdigest()[:12]
    home = _cache() / f"{commit[:12]}-{key}"
    if not (home / READY).exists():
        begin = time.monotonic()
        report(f"building {reference} ({commit[:12]}) in {home}")
        half = home.with_name(f".{home.name}-{uuid.uuid4().hex[:8]}")  # others may build the same
        try:
            _build(commit, half)
            shutil.rmtree(home, ignore_errors=True)
            with suppress(OSError):  # another was faster
                half.rename(home)
        finally:
            shutil.rmtree(half, ignore_errors=True)
        report(f"built in {time.monotonic() - begin:.0f} s")
    source = home / "source"
    folder = source / here
    if not folder.is_dir():
        raise ConfigError(f"--baseline-ref {reference} has no folder {here}; run it where both sides have one")
    python = home / "environment" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    return Contender(
        reference,
        str(python),
        folder=str(folder),
        versions=(f"commit {commit[:12]}",),
        variables=_python_path(root, source),
        apart_from=str(root),
    )


def _python_path(root: Path, source: Path) -> dict[str, str]:
    """Returns PYTHONPATH with what lies in the repository as the reference has it; relative entries are so anyway."""
    entries = os.environ.get("PYTHONPATH")
    if not entries:
        return {}

    def there(entry: str) -> str:
        path = Path(entry).resolve()
        inside = os.path.isabs(entry) and path.is_relative_to(root.resolve())
        return str(source / path.relative_to(root.resolve())) if inside else entry

    return {"PYTHONPATH": os.pathsep.join(map(there, entries.split(os.pathsep)))}


def _build(commit: str, home: Path) -> None:
    tree, environment = home / "worktree", home / "environment"
    home.mkdir(parents=True)
    _git("-c", f"core.hooksPath={os.devnull}", "worktree", "add", "--quiet", "--detach", str(tree), commit)
    try:
        _install(tree, environment)
        (tree / ".git").rename(home / "git")  # needed until now: some packages ask git for their version
        tree.rename(home / "source")
    finally:
        _git("worktree", "remove", "--force", str(tree))  # no trace is left in the user's repository
    (home / READY).touch()


def _install(source: Path, environment: Path) -> None:
    venv.create(environment, symlinks=os.name != "nt")
    (site,) = [*environment.glob("lib/python*/site-packages"), *environment.glob("Lib/site-packages")]
    layers = "".join(f"import site; site.addsitedir({folder!r})\n" for folder in _packages())
    (site / "layers.pth").write_text(layers, encoding="utf-8")
    if any((source / name).exists() for name in ("pyproject.toml", "setup.py")):
        python = next(environment.glob("bin/python")) if os.name != "nt" else environment / "Scripts" / "python.exe"
        command = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
        _run([*command, "install", "--quiet", "--no-deps", "--ignore-installed", str(source)], "can't install it")


def _packages() -> list[str]:
    """Returns the folders that this interpreter finds installed packages in."""
    return [folder for folder in sys.path if folder.endswith(("site-packages", "dist-packages"))]


def _cache() -> Path:
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "vilt-bench" / "environments"


def _git(*arguments: str, folder: Path | None = None) -> str:
    try:
        return _run(["git", *arguments], "failed", folder=folder)
    except FileNotFoundError:
        raise ConfigError("--baseline-ref needs git, which is not there; install it, or give records") from None


def _run(command: Sequence[str], problem: str, *, folder: Path | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ConfigError(f"--baseline-ref: {' '.join(command[:2])} {problem}: {lines[-1]}")
    return done.stdout
