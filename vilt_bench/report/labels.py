"""Labels, order and colours of a user's own for pictures and pivoted tables, from a small TOML file or options."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vilt_bench import files
from vilt_bench.errors import ConfigError, FileError
from vilt_bench.judge.summary import Summary
from vilt_bench.report.axes import AXES, EMBEDDER, MACHINE, Axis, values, written
from vilt_bench.report.columns import QUANTITIES, flag
from vilt_bench.report.lines import names
from vilt_bench.words import did_you_mean, nearest

LARGEST_BYTES = 1 << 20
KEYS = {
    "labels": "a table of texts by embedder, or by AXIS=VALUE",
    "colours": "a table of colours by embedder, or by AXIS=VALUE",
    "titles": "a table of texts by axis or quantity",
    "order": "a list of embedders, or of AXIS=VALUE",
}


@dataclass(frozen=True)
class Labels:
    """How values are called, coloured and ordered; what is not named stays as it is."""

    texts: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """By axis and value."""
    colours: Mapping[tuple[str, str], str] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    """By name of an axis or a quantity."""
    order: Sequence[tuple[str, str]] = ()
    alike: Collection[str] = ()
    """Names that several machines have."""

    def of(self, along: Axis, value: Hashable) -> str:
        """Returns how a value is called."""
        text = along.write(value)
        if along is MACHINE and text in self.alike and isinstance(value, tuple):
            text = f"{text} {value[1]}"
        return self.texts.get((along.name, _key(text)), text)

    def colour(self, along: Axis, value: Hashable) -> str | None:
        """Returns the colour that was asked for; `None`: none was."""
        return self.colours.get((along.name, _key(along.write(value))))

    def title(self, name: str, usual: str) -> str:
        """Returns how an axis or a quantity is called."""
        return self.titles.get(name, usual)

    def ordered(self, along: Axis, found: Iterable[Hashable]) -> list[Hashable]:
        """Returns the values that are ordered first, then the others as they come."""
        places = {each: index for index, each in enumerate(self.order)}
        return sorted(found, key=lambda value: places.get((along.name, _key(along.write(value))), len(places)))

    def in_order(self, runs: Sequence[Summary]) -> list[Summary]:
        """Returns the runs whose embedders are ordered first, then the others as they come."""
        return sorted(runs, key=self.place)

    def place(self, run: Summary) -> int:
        """Returns where the run's embedder is ordered, as a number that is least for the first."""
        places = {each: index for index, each in enumerate(self.order)}
        return places.get((EMBEDDER.name, _key(EMBEDDER.write(EMBEDDER.of(run)))), len(places))

    def names(self, runs: Sequence[Summary]) -> dict[str, str]:
        """Returns the names of runs side by side, by their identifiers, embedders called as they are labelled."""
        told = {}
        for run, name in zip(runs, names(runs), strict=True):
            told[run.run_id] = self.called(run, name)
        return told

    def called(self, run: Summary, name: str) -> str:
        """Returns a run's name with its embedder called as it is labelled."""
        rest = name.removeprefix(EMBEDDER.write(EMBEDDER.of(run)))
        return name if rest == name else f"{self.of(EMBEDDER, EMBEDDER.of(run))}{rest}"


def read(asked: Sequence[str], runs: Sequence[Summary], *, is_colour: Callable[[str], bool]) -> Labels:
    """Returns the labels of files and of texts `NAME=LABEL`; later ones go before earlier ones.

    Args:
        asked: paths that end in `.toml`, and texts.
        runs: all that were read: what is labelled must be there.
        is_colour: returns whether a text names a colour.

    Raises:
        ConfigError: a file or text can't be read, or names what is not there.
    """
    texts: dict[tuple[str, str], str] = {}
    colours: dict[tuple[str, str], str] = {}
    titles: dict[str, str] = {}
    order: list[tuple[str, str]] = []
    for each in asked:
        if not each.lower().endswith(".toml"):
            name, equals, text = each.rpartition("=")
            if not equals or not name.strip() or not text.strip():
                raise ConfigError(f"{each!r} is neither a TOML file nor NAME=LABEL, as in patch32=ViLT", field="labels")
            texts[_place(name, runs, "`labels`")] = text.strip()
            continue
        try:
            told = files.read_toml(each, most=LARGEST_BYTES)
        except FileError as error:
            raise ConfigError(str(error), field="labels") from None
        where = f"`labels` {each}"
        for key in told:
            if key not in KEYS:
                expected = "; ".join(f"{name}: {what}" for name, what in KEYS.items())
                raise ConfigError(
                    f"{where}: {key!r} is not known{did_you_mean(nearest(key, KEYS))} expected {expected}"
                )
        for name, text in _texts(told, "labels", where):
            texts[_place(name, runs, f"{where}, labels")] = text
        for name, colour in _texts(told, "colours", where):
            if not is_colour(colour):
                raise ConfigError(
                    f"{where}, colours: {colour!r} of {name!r} is no colour; expected such as '#0072B2' or 'tab:blue'"
                )
            colours[_place(name, runs, f"{where}, colours")] = colour
        for name, text in _texts(told, "titles", where):
            known = [*AXES, *(flag(one) for one in QUANTITIES)]
            found = name.replace("_", "-")
            if found not in known:
                raise ConfigError(
                    f"{where}, titles: {name!r} is neither an axis nor a quantity{did_you_mean(nearest(found, known))} "
                    f"known: {', '.join(known)}"
                )
            titles[found] = text
        listed = told.get("order", [])
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise ConfigError(f"{where}: order must be {KEYS['order']}, got {listed!r}")
        order += [_place(name, runs, f"{where}, order") for name in listed]
    machines = [MACHINE.write(value) for value in values(MACHINE, runs)]
    return Labels(texts, colours, titles, tuple(order), {name for name in machines if machines.count(name) > 1})


def _texts(told: Mapping[str, Any], key: str, where: str) -> Iterable[tuple[str, str]]:
    table = told.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: {key} must be {KEYS[key]}, got {table!r}")
    for name, text in table.items():
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"{where}, {key}: {name!r} must be a text, got {text!r}")
        yield name, text.strip()


def _place(name: str, runs: Sequence[Summary], where: str) -> tuple[str, str]:
    """Returns axis and value of a name: that of an embedder, or `AXIS=VALUE`."""
    first, equals, rest = name.partition("=")
    along = AXES.get(first.strip().lower().replace("_", "-")) if equals else None
    wanted = _key(rest if along is not None else name)
    along = along or EMBEDDER
    known = {_key(along.write(value)): text for value, text in written(along, values(along, runs)).items()}
    known |= {_key(str(value)): text for value, text in written(along, values(along, runs)).items()}
    for key, text in known.items():
        if key == wanted:
            return along.name, _key(text)
    guess = did_you_mean(nearest(wanted, known.values()))
    shown = list(dict.fromkeys(known.values()))
    more = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
    raise ConfigError(f"{where}: no run has {along.name} {name!r}{guess} there are {', '.join(shown[:6])}{more}")


def _key(text: str) -> str:
    return text.strip().lower().replace("×", "x").replace(",", "").replace("embedder's own", "own")
