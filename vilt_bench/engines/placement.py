"""Chooses machines by what they tell of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vilt_bench.errors import ConfigError
from vilt_bench.words import did_you_mean, nearest

KEYS = ("name", "host", "cpu", "cores", "memory", "gpu", "gpus", "python", "torch", "vilt-bench")
"""What a machine may be chosen by."""


def read_wish(text: str | None) -> dict[str, str]:
    """Returns a text like `gpu=H100,cores=32` by key.

    Raises:
        ConfigError: it is no such text, or has a key that no machine tells.
    """
    wish = {}
    for part in [] if text is None else text.split(","):
        key, equals, value = (each.strip() for each in part.partition("="))
        if not (key and equals and value):
            raise ConfigError(f"{text!r} is not KEY=TEXT,…, as in gpu=H100,memory=125", field="on")
        if key not in KEYS:
            guess = did_you_mean(nearest(key, KEYS))
            raise ConfigError(
                f"{key!r} is nothing that a machine tells{guess or ';'} known: {', '.join(KEYS)}", field="on"
            )
        wish[key] = value
    return wish


def fits(facts: Mapping[str, Any], wish: Mapping[str, str]) -> bool:
    """Returns whether a machine is as wished: numbers are equal, texts hold what was given, in letters of any case."""
    return all(_fits(facts.get(key), value) for key, value in wish.items())


def _fits(fact: object, value: str) -> bool:
    if fact is None:
        return False
    return str(fact) == value if isinstance(fact, int) else value.lower() in str(fact).lower()


def described(facts: Mapping[str, Any]) -> str:
    """Returns a machine in a phrase, such as `node-a (AMD EPYC, 2 cores, 24 GiB)`."""
    parts = [str(facts["cpu"])] if "cpu" in facts else []
    parts += [f"{facts['cores']} cores"] if "cores" in facts else []
    parts += [str(facts["memory"])] if "memory" in facts else []
    parts += [f"{facts['gpus']} × {facts['gpu']}"] if "gpu" in facts else []
    return f"{facts.get('name', '?')} ({', '.join(parts)})" if parts else str(facts.get("name", "?"))
