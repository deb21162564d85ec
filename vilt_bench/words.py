"""How counts, and guesses at what was meant, are put into sentences."""

from __future__ import annotations

from collections.abc import Iterable


def counted(count: int, one: str, many: str = "") -> str:
    """Returns a count with its noun: `1 thread`, `2 threads`.

    Args:
        count: how many.
        one: the noun.
        many: its plural where that is not the noun and an `s`.
    """
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def first_few(texts: Iterable[str], most: int = 3) -> str:
    """Returns the first texts, and how many more there are: `a, b, c and 2 more`."""
    every = list(texts)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return f"{', '.join(every[:most])}{more}"


def joined(value: object) -> str:
    """Returns several values that stand for one as a text, `a + b`; of a single one its own."""
    return " + ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def dashed(name: str) -> str:
    """Returns the name of a field as the command line and plans write it: `batch-size`."""
    return name.replace("_", "-")


def nearest(given: str, known: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """Returns the known name that is closest to the one given, upper and lower case alike; `None`: none is close.

    Of several that are equally close it is the first.

    Args:
        given: perhaps misspelt.
        known: names.
        cutoff: how alike they must be, from 0 to 1, as `difflib` has it.
    """
    import difflib  # here, as most commands need no guess

    in_lower_case = {name.lower(): name for name in known}
    close = set(difflib.get_close_matches(given.lower(), in_lower_case, n=9, cutoff=cutoff))
    ratios = {
        name: difflib.SequenceMatcher(None, key, given.lower()).ratio()
        for key, name in in_lower_case.items()
        if key in close
    }
    return max(ratios, key=ratios.__getitem__, default=None)


def did_you_mean(name: str | None, *, otherwise: str = ";") -> str:
    """Returns the end of a clause, a guess in it if there is one: `; did you mean 'NAME'?`, else `otherwise`."""
    return otherwise if name is None else f"; did you mean {name!r}?"
