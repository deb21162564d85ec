"""Which format a file gets: the one that its name says, unless another was asked for that can bear that name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import PurePath

from vilt_bench import files
from vilt_bench.errors import ConfigError

ENDINGS: dict[str, tuple[str, ...]] = {
    "": ("table",),
    ".txt": ("table",),
    ".log": ("table",),
    ".csv": ("csv",),
    ".md": ("markdown",),
    ".markdown": ("markdown",),
    ".tex": ("latex",),
    ".json": ("json", "github-action-benchmark", "bencher"),
    ".xml": ("junit",),
    ".xlsx": ("xlsx",),
    ".parquet": ("parquet",),
    ".svg": ("svg",),
    ".png": ("png",),
    ".pdf": ("pdf",),
    ".html": ("html",),
    ".htm": ("html",),
}
"""By a name's ending: formats of such files, the usual one first."""
_PLAIN = (".txt", ".log")
"""Endings that any text may have."""
_NO_TEXT = ("png", "pdf", "xlsx", "parquet")


def chosen(asked: str | None, output: str | None, known: Sequence[str], *, flag: str = "--output") -> str:
    """Returns the format of what is printed or written.

    Args:
        asked: by `--format`; `None`: what the file's name says, and on a terminal a table.
        output: the file's name; `None`: none is written.
        known: formats that the command has.
        flag: which names the file; of all but `--output`, the name alone says the format.

    Raises:
        ConfigError: the name says a format that the command does not have, or another than was asked for.
    """
    if output is None:
        return asked or "table"
    ending = PurePath(output).suffix.lower()
    if asked is not None:
        check(asked, output, flag="--output")
        return asked
    formats = [format for format in ENDINGS.get(ending, ()) if format in known]
    if not formats:
        endings = dict.fromkeys(end for end, each in ENDINGS.items() if end and set(each) & set(known))
        otherwise = f", or add --format {'|'.join(known)}" if flag == "--output" else ""
        raise ConfigError(
            f"{flag} {output}: no format is known by the ending {ending}; expected one of {', '.join(endings)}"
            f"{otherwise}"
        )
    return formats[0]


def check(format: str, path: str, *, flag: str) -> None:
    """Refuse a file whose name says another format than it gets.

    Raises:
        ConfigError: it does.
    """
    ending = PurePath(path).suffix.lower()
    said = ENDINGS.get(ending, (format,))
    if format in said or not ending or (ending in _PLAIN and format not in _NO_TEXT):
        return
    own = next((end for end, formats in ENDINGS.items() if format in formats and end), "")
    raise ConfigError(f"{flag} {path}: the name says {said[0]}, and it would get {format}; give a name with {own}")


def folder(text: str) -> str:
    """Returns the name of a folder that is made where there is none.

    Raises:
        ArgumentTypeError: it says a format, as a file's does: whoever gives it expects one file of that format.
    """
    ending = PurePath(text).suffix.lower()
    if not ending or ending not in ENDINGS or files.is_folder(text):
        return text
    raise argparse.ArgumentTypeError(
        f"{text}: a folder is made, of several files, and the name is that of one ({ending}); give a folder's name, "
        f"such as {PurePath(text).stem}"
    )
