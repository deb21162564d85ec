"""Tells which code of this package is installed: its version, and what tells two builds of one version apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

import vilt_bench

_KINDS = (".py", ".json", ".csv")


def installed_code() -> str:
    """Returns version and digest of this package's files, such as `0.1.0 (code 3f2c1ab0)`: equal for equal code."""
    package = Path(vilt_bench.__file__).parent
    digest = hashlib.sha256()
    for folder in (package, package.parent / "embedders"):
        for file in sorted(each for each in folder.rglob("*") if each.suffix in _KINDS):
            digest.update(f"{file.relative_to(folder.parent).as_posix()}\n".encode())
            digest.update(file.read_bytes())
    return f"{vilt_bench.__version__} (code {digest.hexdigest()[:8]})"
