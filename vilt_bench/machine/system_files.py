"""Reads what the system tells in files: of `proc`, of `sys`, and of the control groups that bound this process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
"""Of the file system that holds `proc` and `sys`; tests give another."""


def read_text(path: Path) -> str | None:
    """Returns a small system file's text; `None` where it is not there, empty, or not to be read."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def read_count(path: Path) -> int | None:
    """Returns the whole number that a system file holds; `None` where it holds none, such as `max`."""
    text = read_text(path)
    return int(text) if text is not None and re.fullmatch("[0-9]+", text) else None


def field_of(text: str | None, name: str, separator: str = ":") -> str | None:
    """Returns what a line of a system file says of a name, as `SwapFree: 0 kB` and `throttled_usec 0` do."""
    match = re.search(rf"^{name}[^\S\n]*{separator}[^\S\n]*(.+)$", text or "", re.MULTILINE)
    return match[1].strip() if match else None


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yields the folders of the control groups (version 1 or 2) whose limits hold for this process, innermost first."""
    for controllers, group in re.findall(
        r"^\d+:([^:]*):(.*)$", read_text(root / "proc/self/cgroup") or "", re.MULTILINE
    ):
        base = root / "sys/fs/cgroup" if not controllers else root / "sys/fs/cgroup" / controller
        if controllers and controller not in controllers.split(","):
            continue
        # A limit of any parent holds as well; inside a container the path may be the host's and not be there.
        folder = Path(group.strip("/"))
        yield from (base / place for place in (folder, *folder.parents))
