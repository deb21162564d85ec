"""The other side out of git: records kept at a reference, and an environment with what a reference holds."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vilt_bench.director import git, layers
from vilt_bench.director.installation import Installation
from vilt_bench.errors import ConfigError
from vilt_bench.record import load
from vilt_bench.record.run import Run
from vilt_bench.words import did_you_mean, nearest

SOURCE = "source"
"""In an environment's folder: what the reference holds."""


def records_at(
    reference: str,
    folder: str,
    *,
    left_out: Callable[[str], object] | None = None,
    keep: Callable[[Run], Run] | None = None,
) -> list[Run]:
    """Returns the runs in the folder as the reference has it, by time; none where there is no record.

    Args:
        reference: a branch, tag or commit of the repository around the current folder.
        folder: relative to the current folder.
        left_out: as `load.load_folder`.
        keep: as `load.load_folder`.

    Raises:
        ConfigError: there is no repository, or no such reference.
        RecordError: a file is no record; with `left_out`, none of them is.
    """
    commit = resolve(reference)
    listed = _git("--literal-pathspecs", "ls-tree", "-r", "-z", "--name-only", commit, "--", folder).split("\0")
    # As a checkout has them: they may be kept in another form, as Git LFS does.
    contents = (
        (f"{reference}:{name}", _ask("cat-file", "--filters", f"{commit}:./{name}"))
        for name in load.records_among(listed)
    )
    return load.decode_each(contents, lambda run, _: run if keep is None else keep(run), left_out)


def resolve(reference: str) -> str:
    """Returns the commit that a reference names.

    Raises:
        ConfigError: there is no repository, or no such reference.
    """
    try:
        git.ask("rev-parse", "--git-dir")
    except git.NoGitError:
        raise _no_git() from None
    except git.GitError as error:
        raise ConfigError(
            f"{reference}: git finds no repository around the current folder ({error}); run it within one",
            field="reference",
        ) from None
    try:
        found = git.text("rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}")
    except git.GitError:
        found = ""
    if not re.fullmatch("[0-9a-f]{40,64}", found):  # of ^main git says ^ and the commit: all but what it holds
        raise ConfigError(f"{reference}: {_lacking(reference)}", field="reference")
    return found


def installation_at(reference: str, *, report: Callable[[str], None] = lambda _: None) -> Installation:
    """Returns this folder's repository, as the reference has it, installed in an environment of its own.

    The environment is a layer over this one: all other packages are this one's, so that nothing but the repository
    differs. What is installed in it is the package that the current folder belongs to, and whatever else this
    environment has installed from the repository. It is kept for the next time, in the user's cache.

    Args:
        reference: a branch, tag or commit.
        report: told what goes on, in a line.

    Raises:
        ConfigError: there is no repository, no such reference, or what it has can't be installed.
    """
    commit = resolve(reference)
    here = PurePosixPath(_git("rev-parse", "--show-prefix"))
    root = Path(_git("rev-parse", "--show-toplevel"))
    try:
        git.ask("cat-file", "-e", f"{commit}:{here}/" if here.parts else commit)
    except git.GitError:
        raise ConfigError(
            f"{reference} has no folder {here}; run it where both sides have one", field="reference"
        ) from None
    trees = _working_trees(root)
    own = {local.origin: local for tree in trees for local in layers.locals_of(tree)}.values()
    wanted = sorted({_within(local.origin, trees) for local in own})
    parts = list(_submodules(root, commit))
    home = layers.cache() / f"{commit[:12]}-{_key(here, wanted, own, parts)}"

    def build(half: Path) -> None:
        begin = time.monotonic()
        report(f"building {reference} ({commit[:12]}) in {home}")
        _Building(reference, commit, half, home.with_name(f"{home.name}.log"), report).build(here, wanted, parts)
        report(f"built in {time.monotonic() - begin:.0f} s")

    layers.keep(home, build, report=report)
    source = home / SOURCE
    return Installation(
        reference,
        str(layers.python_of(home / layers.ENVIRONMENT)),
        folder=str(source / here),
        versions=(f"commit {commit[:12]}",),
        variables=_python_path(root, source),
        built=str(home),
        apart_from=(*map(str, trees), *(str(file) for local in own for file in local.files)),
    )


def _working_trees(root: Path) -> list[Path]:
    """Returns the repository's working trees, the current one first: packages may be installed from another.

    One that another process checks out just now, to build a baseline, is nobody's.
    """
    lines = _git("worktree", "list", "--porcelain").splitlines()
    trees = [Path(line.removeprefix("worktree ")) for line in lines if line.startswith("worktree ")]
    built = layers.cache().resolve()
    return list(dict.fromkeys([root, *(tree for tree in trees if not tree.resolve().is_relative_to(built))]))


def _within(path: Path, trees: list[Path]) -> str:
    """Returns a path from the root of the working tree that it lies in; one may lie in another."""
    inside = [path.relative_to(tree.resolve()) for tree in trees if path.is_relative_to(tree.resolve())]
    return min(inside, key=lambda each: len(each.parts)).as_posix()


def _key(here: PurePosixPath, wanted: list[str], own: Iterable[layers.LocalPackage], parts: list[_Submodule]) -> str:
    """Returns what tells layers of one commit apart.

    Another interpreter, another place of its packages, or another version of one, is another layer; so is another
    folder, which may belong to another package, and whatever makes git write other files.
    """
    try:
        settings = git.text("config", "--get-regexp", r"^(filter\..*|core\.(autocrlf|eol|symlinks|sparsecheckout.*))$")
    except git.GitError:  # there are none
        settings = ""
    # What is built for the baseline is no part of what it is a layer over.
    mine = {re.sub(r"[-_.]+", "_", local.name).lower() for local in own}
    found = (path.name for folder in layers.package_folders() for path in Path(folder).glob("*.dist-info"))
    installed = sorted(name for name in found if name.partition("-")[0].lower() not in mine)
    told = [sys.executable, sys.version, *layers.package_folders(), *installed, "", str(here), *wanted]
    told += ["", *(str(part.path) for part in parts if part.is_here)]
    told += ["", settings, os.environ.get("GIT_LFS_SKIP_SMUDGE", "")]
    return hashlib.sha256("\0".join(told).encode(errors="surrogateescape")).hexdigest()[:12]


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


@dataclass(frozen=True)
class _Submodule:
    """A submodule that a commit has."""

    path: PurePosixPath
    """From the root."""
    repository: Path
    """Where the working tree has it."""
    commit: str

    @property
    def is_here(self) -> bool:
        """Whether the working tree has it, other than as an empty folder."""
        return (self.repository / ".git").exists()


@dataclass(frozen=True)
class _Building:
    """The building of what a commit holds."""

    reference: str
    commit: str
    half: Path
    """Folder that it is built in."""
    log: Path
    report: Callable[[str], None]

    def build(self, here: PurePosixPath, wanted: list[str], parts: list[_Submodule]) -> None:
        """Check the commit and its submodules out; install what the folder `here` belongs to, and what is wanted."""
        self.half.mkdir()
        self.log.unlink(missing_ok=True)
        tree, environment = self.half / "worktree", self.half / layers.ENVIRONMENT
        try:
            # By force: a killed build may have left the path in git's list.
            _git("worktree", "add", "--quiet", "--force", "--detach", str(tree), self.commit)
            for part in parts:
                self._add(part, tree)
            layers.create(environment)
            for package in dict.fromkeys([*_nearest(tree, here), *self._known(tree, wanted)]):
                name = "it" if package == tree else package.relative_to(tree).as_posix()
                layers.install(package, environment, log=self.log, name=name)
            (tree / ".git").unlink()  # needed until now: some packages ask git for their version
            tree.rename(self.half / SOURCE)
        except ConfigError as error:
            raise ConfigError(f"{self.reference}: {error}", field="reference") from None
        finally:
            # No trace is left in the user's repository; what went wrong before must not be hidden by this.
            with suppress(git.GitError):
                git.ask("worktree", "remove", "--force", "--force", str(tree))
        self.log.unlink(missing_ok=True)

    def _known(self, tree: Path, wanted: list[str]) -> Iterator[Path]:
        for name in wanted:
            if layers.is_package(tree / name):
                yield tree / name
            else:
                self.report(f"{self.reference} has no package in {name}, which is installed here")

    def _add(self, part: _Submodule, tree: Path) -> None:
        """Check out a submodule that the working tree has, from what is there: nothing is fetched."""
        if not part.is_here:
            self.report(f"submodule {part.path} is left empty, as it is here")
            return
        try:
            _check_out(part.repository, part.commit, tree / part.path)
        except git.GitError as error:
            raise ConfigError(
                f"submodule {part.path} can't be checked out at {part.commit[:12]} ({error}); "
                f"'git -C {part.path} fetch' may bring it"
            ) from None


def _check_out(repository: Path, commit: str, folder: Path) -> None:
    """Write what a commit of another repository holds into a folder, with an index of its own: no trace is left."""
    folder.mkdir(parents=True, exist_ok=True)
    directory = git.text("rev-parse", "--absolute-git-dir", folder=repository)
    with tempfile.TemporaryDirectory() as scratch:
        there = {"GIT_INDEX_FILE": str(Path(scratch) / "index"), "GIT_DIR": directory, "GIT_WORK_TREE": str(folder)}
        git.ask("read-tree", "--reset", commit, folder=folder, variables=there)
        git.ask("checkout-index", "--all", "--force", folder=folder, variables=there)


def _submodules(repository: Path, commit: str, above: str = "") -> Iterator[_Submodule]:
    """Returns the submodules that a commit has, and theirs."""
    try:
        listed = os.fsdecode(git.ask("ls-tree", "-r", "-z", "--full-tree", commit, folder=repository)).split("\0")
    except git.GitError:  # a submodule's commit that is not here: told when it is checked out
        return
    for entry in listed:
        told, _, path = entry.partition("\t")
        if told.startswith("160000 "):
            part = _Submodule(PurePosixPath(above, path), repository / path, told.split()[2])
            yield part
            if part.is_here:
                yield from _submodules(part.repository, part.commit, str(part.path))


def _nearest(tree: Path, here: PurePosixPath) -> list[Path]:
    """Returns the package that a folder belongs to, if any: the nearest on the way up to the root."""
    found = next((each for each in (here, *here.parents) if layers.is_package(tree / each)), None)
    return [] if found is None else [tree / found]


def _lacking(reference: str) -> str:
    """Returns why a reference names no commit here, and what to give instead."""
    names = _git("for-each-ref", "--format=%(refname)").splitlines()
    remote = [name.removeprefix("refs/remotes/") for name in names if name.startswith("refs/remotes/")]
    here = [name.split("/", 2)[2] for name in names if name.startswith(("refs/heads/", "refs/tags/"))]
    if elsewhere := [name for name in remote if reference and name.endswith(f"/{reference}")]:
        there = " and ".join(elsewhere)
        return f"there is no such branch, tag or commit here, but {there}: give `reference` {elsewhere[0]}"
    lacking = "this repository has no such branch, tag or commit"
    if _git("rev-parse", "--is-shallow-repository") == "true":
        return f"{lacking}; a shallow clone lacks most of them, 'git fetch --unshallow' gets all"
    # A branch that only a remote has is meant without the remote's name.
    plain = {name.partition("/")[2]: name for name in remote} | {name: name for name in [*remote, *here]}
    close = nearest(reference, plain, cutoff=0.6)
    return f"{lacking}{did_you_mean(plain.get(close or ''), otherwise='; git branch --all shows what there is')}"


def _git(*arguments: str) -> str:
    return os.fsdecode(_ask(*arguments)).removesuffix("\n")


def _ask(*arguments: str) -> bytes:
    try:
        return git.ask(*arguments)
    except git.NoGitError:
        raise _no_git() from None
    except git.GitError as error:
        command = next(argument for argument in arguments if not argument.startswith("-"))
        raise ConfigError(f"git {command} failed: {error}") from None


def _no_git() -> ConfigError:
    return ConfigError("needs git, which is not there; install it, or give records", field="reference")
