"""Files that tell of the system."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def read_text(path: Path) -> str | None:
    """Returns a small system file's text; `None` where it is not there or not to be read."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yields the folders of the control groups (version 1 or 2) whose limits hold for this process."""
    for controllers, group in re.findall(
        r"^\d+:([^:]*):(.*)$", read_text(root / "proc/self/cgroup") or "", re.MULTILINE
    ):
        base = root / "sys/fs/cgroup" if not controllers else root / "sys/fs/cgroup" / controller
        if controllers and controller not in controllers.split(","):
            continue
        # A limit of any parent holds as well; inside a container the path may be the host's and not be there.
        folder = Path(group.strip("/"))
        yield from {base / place for place in (folder, *folder.parents)}
