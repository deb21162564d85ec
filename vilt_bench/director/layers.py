"""Environments that are layers over this one: all packages are this one's, but for what is installed in them.

They are kept in the user's cache. One is built aside under a lock, moved to its place when it is whole, and built anew
where it is found damaged.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import os
import shutil
import stat
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock, Timeout

from vilt_bench import files
from vilt_bench.director import git
from vilt_bench.errors import ConfigError, FileError

READY = "ready"
"""The stamp in an environment's folder, written last: what files it is made of."""
ENVIRONMENT = "environment"
LONGEST_WAIT_S = 3600.0
"""For another process to build the same."""
PASSING = ("note:", "hint:", "[notice]", "[end of output]", "WARNING:", "warning:")
"""Beginnings of lines that say no cause."""
SUFFIXES = (".py", ".so", ".pyd")
"""Of files that can be imported."""


@dataclass(frozen=True)
class LocalPackage:
    """A distribution of this environment that was installed from a folder, or from a file in it."""

    name: str
    origin: Path
    """What it was installed from."""
    files: tuple[Path, ...]
    """What of it can be imported; nothing where it is editable, as it is imported where it lies."""


def cache() -> Path:
    """Returns the folder of the environments in the user's cache.

    Raises:
        ConfigError: the user has no home.
    """
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser().absolute() / "vilt-bench" / "environments"
    except (RuntimeError, OSError):
        raise ConfigError(
            "there is no home folder to build the baseline in; let XDG_CACHE_HOME name a folder"
        ) from None


def keep(home: Path, build: Callable[[Path], None], *, report: Callable[[str], None]) -> None:
    """Build what belongs into a folder, unless it is there and whole.

    Args:
        home: the folder; what else lies there makes way.
        build: builds into a folder that is not there yet, and is moved afterwards.
        report: told if this has to wait for another process that builds it.

    Raises:
        ConfigError: it can't be kept there, or can't be built.
    """
    if is_whole(home):  # be it where nothing can be written
        return
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home.with_name(f".{home.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report(f"waiting for another process, which builds {home}")
            try:
                lock.acquire(timeout=LONGEST_WAIT_S)
            except Timeout:
                raise ConfigError(
                    f"{lock.lock_file} has been locked for {LONGEST_WAIT_S / 60:.0f} minutes; end the "
                    "process that builds, or let XDG_CACHE_HOME name a folder of a file system that has locks"
                ) from None
        try:
            if is_whole(home):  # by now
                return
            half = home.with_name(f".{home.name}.half")
            _remove(half)  # of a process that was killed
            try:
                build(half)
                _stamp(half)
                _remove(home)
                half.rename(home)
            finally:
                shutil.rmtree(half, ignore_errors=True)
        finally:
            lock.release()
    except (OSError, NotImplementedError) as error:  # the latter where a file system has no locks
        raise ConfigError(
            f"nothing can be built in {home.parent}: {files.why(error)}; "
            "make room there, or let XDG_CACHE_HOME name another folder"
        ) from None


def is_whole(home: Path) -> bool:
    """Returns whether all files that the environment was made of are there as they were written."""
    try:
        stamp = json.loads((home / READY).read_bytes())["files"]
        return os.access(python_of(home / ENVIRONMENT), os.X_OK) and all(
            _look(home / name) == told for name, told in stamp.items()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def create(environment: Path) -> None:
    """Make an environment that finds this one's packages.

    Raises:
        ConfigError: Python can't make one.
    """
    try:
        venv.create(environment, symlinks=os.name != "nt")
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"{sys.executable} can't make an environment: {error}") from None
    layers = "".join(f"import site; site.addsitedir({folder!r})\n" for folder in package_folders())
    (_site(environment) / "layers.pth").write_text(layers, encoding="utf-8")


def install(package: Path, environment: Path, *, log: Path, name: str) -> None:
    """Install a package into an environment, without its dependencies.

    Args:
        package: its folder.
        environment: made by `create`.
        log: file that what pip says is added to.
        name: of the package, for a reader.

    Raises:
        ConfigError: it can't be installed, or pip's settings lead it elsewhere.
    """
    before = _installed(environment)
    # From its folder: a path may have what pip reads as more. Safe path: nothing there stands in for what pip imports.
    command = [sys.executable, "-P", "-m", "pip", "--python", str(python_of(environment))]
    command += ["--disable-pip-version-check", "--no-input", "install", "--no-deps", "--ignore-installed", "."]
    with log.open("a+b") as file:
        begin = file.seek(0, os.SEEK_END)
        code = subprocess.run(
            command,
            cwd=package,
            env=git.surroundings(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
        file.seek(begin)
        said = file.read().decode(errors="replace")
    if code:
        raise ConfigError(f"can't install {name}: {cause(said) or f'exit code {code}'} (the whole log: {log})")
    if _installed(environment) == before:
        raise ConfigError(
            f"pip did not install {name} into the baseline's environment (the log: {log}); "
            "is a target, prefix or dry-run among pip's settings? 'pip config list' and PIP_… tell"
        )


def cause(said: str) -> str:
    """Returns the line in which a failed installation says why: the build's own last one, not pip's on top of it."""
    lines = [line.lstrip(" │╰─>×|").rstrip() for line in said.splitlines()]
    ends = [index for index, line in enumerate(lines) if line == "[end of output]"]
    if ends:  # what a subprocess has said
        lines = lines[: ends[-1]]
    told = [line for line in lines if line and not line.startswith(PASSING)]
    if not ends:
        told = [line for line in told if line.startswith(("ERROR:", "error:"))] or told
    return told[-1] if told else ""


def is_package(folder: Path) -> bool:
    """Returns whether pip can install a folder: tools have settings in a pyproject.toml that makes no package."""
    if (folder / "setup.py").is_file():
        return True
    if not files.is_file(folder / "pyproject.toml"):
        return False
    try:
        told = files.read_toml(folder / "pyproject.toml")
    except FileError:  # pip says what is wrong with it
        return True
    if {"project", "build-system"} & told.keys():
        return True
    settings = configparser.ConfigParser()
    try:
        settings.read(folder / "setup.cfg", encoding="utf-8")
    except (configparser.Error, ValueError):
        return True
    return settings.has_section("metadata")


def locals_of(root: Path) -> list[LocalPackage]:
    """Returns the distributions that this environment has installed from a folder, or from what lies in it."""
    return sorted(_locals_of(root.resolve()), key=lambda local: (local.name, str(local.origin)))


def package_folders() -> list[str]:
    """Returns the folders that this interpreter finds installed packages in."""
    return [folder for folder in sys.path if folder.endswith(("site-packages", "dist-packages"))]


def python_of(environment: Path) -> Path:
    """Returns an environment's interpreter."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _locals_of(root: Path) -> Iterator[LocalPackage]:
    for each in importlib.metadata.distributions(path=package_folders()):
        try:
            told = json.loads(each.read_text("direct_url.json") or "null")
            parts = urlsplit(told["url"])
            origin = Path(url2pathname(parts.path)).resolve() / (told.get("subdirectory") or "")
            if parts.scheme not in ("file", "git+file") or not origin.is_relative_to(root):
                continue
            is_editable = told.get("dir_info", {}).get("editable", False)
            named = [file for file in each.files or () if file.suffix in SUFFIXES and not is_editable]
            yield LocalPackage(each.name, origin, tuple(Path(str(each.locate_file(file))) for file in named))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):  # not from a folder, or damaged
            continue


def _installed(environment: Path) -> dict[str, int]:
    """Returns what tells of the distributions in an environment, with the times of its last changes."""
    found = _site(environment).iterdir()
    return {path.name: path.stat().st_mtime_ns for path in found if path.name.endswith((".dist-info", ".egg-info"))}


def _site(environment: Path) -> Path:
    (site,) = [*environment.glob("lib/python*/site-packages"), *environment.glob("Lib/site-packages")]
    return site


def _stamp(home: Path) -> None:
    stamp = {}
    for folder, folders, names in os.walk(home):
        folders[:] = [name for name in folders if name != "__pycache__"]  # these come with use
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in [*names, *links]:
            path = Path(folder, name)
            stamp[path.relative_to(home).as_posix()] = _look(path)
    (home / READY).write_text(json.dumps({"files": stamp}), encoding="utf-8")


def _look(path: Path) -> list[int]:
    """Returns what changes when a file does; whole seconds, as archives keep no more."""
    seen = path.lstat()
    return [stat.S_IFMT(seen.st_mode), seen.st_size, int(seen.st_mtime)]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
