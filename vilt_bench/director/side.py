"""One side of a gate as it is measured, and whether its code came from where it should."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vilt_bench.director.draft import Draft
from vilt_bench.director.installation import Installation
from vilt_bench.errors import ConfigError
from vilt_bench.judge.comparison import SideName
from vilt_bench.judge.pairs import BASELINE, CANDIDATE

INSTALLED = ("site-packages", "dist-packages")
"""Names of the folders that installed packages lie in."""


@dataclass
class SideState:
    """What is known of one side, as far as its measuring has come."""

    installation: Installation
    draft: Draft
    package: str = ""
    location: str = ""
    origin: str | None = None
    """Where the embedder came from."""
    modules: tuple[str, ...] = ()
    """Files of all that its process has imported."""

    def strays(self) -> Iterator[str]:
        """Returns files that it has imported though they are the other side's."""
        told = self.installation
        own = [Path(each).resolve() for each in told.apart_from]
        for name in filter(None, (self.location, self.origin, *self.modules)):
            if any(part in Path(name).parts for part in INSTALLED) and name not in told.apart_from:
                continue
            path = Path(name).resolve()
            if any(path.is_relative_to(each) for each in own) and not _lies_in(path, told.built):
                yield name

    def is_built(self) -> bool:
        """Returns whether what is measured came from what was built, if anything was."""
        built = self.installation.built
        return built is None or any(path and _lies_in(Path(path), built) for path in (self.location, self.origin))


def check_origins(sides: Mapping[SideName, SideState]) -> None:
    """Refuse a side that has imported what the other side is: the candidate would be compared with itself.

    Raises:
        ConfigError: names the side, what it imported, and what to do.
    """
    for side, state in sides.items():
        built = state.installation.built
        name = f"{side} ({state.installation.name})"
        if (stray := next(state.strays(), None)) is not None:
            where = "" if built is None else f" (that is in {built})"
            raise ConfigError(
                f"{name} imported {stray}, which is not what the reference has{where}; an "
                "editable install or a path of Python's leads there: install the package without --editable"
            )
        if not state.is_built():
            other = sides[CANDIDATE if side == BASELINE else BASELINE]
            raise ConfigError(
                f"no verdict: {name} took the embedder from {state.origin or 'an unknown file'}, the other side "
                f"from {other.origin or 'an unknown file'}, and neither that nor vilt-bench comes from what was "
                f"built, {built}; run the gate in the folder of the package that has the embedder, "
                "or install that package from this repository"
            )


def _lies_in(path: Path, folder: str | None) -> bool:
    """Returns whether a file lies in a folder, be it by a link."""
    return folder is not None and (
        path.absolute().is_relative_to(folder) or path.resolve().is_relative_to(Path(folder).resolve())
    )
