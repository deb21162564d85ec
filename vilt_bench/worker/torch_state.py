"""What an embedder's code changes of torch for all of the process: told, or refused where the case asks for other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vilt_bench.errors import EmbedderError

ASKED_FOR = ("threads", "default_dtype", "default_device")
"""Of torch's state, what a case asks for; its record would be false."""


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yields name, value before and value now of each of torch's settings that has changed."""
    for name, value in now.items():
        if (was := before.get(name, value)) != value:
            yield name, was, value


def refuse_changes(before: Mapping[str, str], now: Mapping[str, str], *, name: str) -> None:
    """Refuse an embedder that has changed for all of the process what the case asks for.

    Raises:
        EmbedderError: threads, default dtype or default device are others than before its code was imported.
    """
    changed = [f"{each} from {was} to {value}" for each, was, value in changes(before, now) if each in ASKED_FOR]
    if changed:
        raise EmbedderError(
            f"embedder {name!r} has set torch's {', '.join(changed)}, against what was asked for and is recorded; "
            "remove that from its code, and give `threads`, `dtype` or `device`"
        )
