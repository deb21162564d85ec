"""`--config FILE.toml`: options that a file gives to commands; what is typed takes their place.

What a file says becomes options in front of those that were typed, so that each is read and refused as theirs are, and
records tell all of them. No file is looked for: two people who type the same measure the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from vilt_bench import files
from vilt_bench.errors import ConfigError, FileError
from vilt_bench.words import dashed, did_you_mean, nearest

FLAG = "--config"
_PROJECT = ("tool", "vilt-bench")
"""Tables of a pyproject.toml that are read in place of the whole."""
_EMBEDDERS = ("embedder", "preset")
"""Whose place others take as a whole that were typed, be it without a flag or by a plan."""
_NOT_OF_FILES = ("help", "debug", "config", "command", "version")


def expanded(arguments: Sequence[str], commands: Mapping[str, argparse.ArgumentParser]) -> tuple[list[str], list[str]]:
    """Returns the arguments with the options of the file that they name, and these alone.

    Args:
        arguments: as they were typed.
        commands: all, by name.

    Raises:
        ConfigError: the file can't be read, or says what no command takes; with line and key.
    """
    command = next((each for each in arguments if each in commands), None)
    path = _path(arguments)
    if path is None or command is None:
        return [*arguments], []
    file = _File.read(path)
    file.check(commands)
    typed = arguments[arguments.index(command) + 1 :]
    taken = _EMBEDDERS if _has_embedders(typed, commands[command]) else ()
    found = [
        word
        for key, value, action in file.options(command, commands[command])
        if action.dest not in taken and not any(each.partition("=")[0] in action.option_strings for each in typed)
        for word in file.words(key, value, action, commands[command])
    ]
    place = arguments.index(command) + 1
    return [*arguments[:place], *found, *arguments[place:]], found


def _has_embedders(typed: Sequence[str], parser: argparse.ArgumentParser) -> bool:
    """Returns whether embedders were typed, in one of the ways that there are."""
    parsed, _ = parser.parse_known_args([*typed])
    return any(getattr(parsed, name, None) for name in ("names", "plan", *_EMBEDDERS))


def _path(arguments: Sequence[str]) -> str | None:
    for number, each in enumerate(arguments):
        if each == "--":
            return None
        if each == FLAG and number + 1 < len(arguments):
            return arguments[number + 1]
        if each.startswith(f"{FLAG}="):
            return each.partition("=")[2]
    return None


class _File:
    """A file of options, which knows its lines."""

    def __init__(self, path: str, text: str, content: Mapping[str, Any], above: tuple[str, ...]) -> None:
        self._path, self._text, self._content, self._above = path, text, content, above

    @classmethod
    def read(cls, path: str) -> _File:
        try:
            content: Any = files.read_toml(path)
            text = files.read_text(path)
        except FileError as error:
            raise ConfigError(f"{FLAG} {error}; give a TOML file") from None
        above: tuple[str, ...] = ()
        if path.replace("\\", "/").rpartition("/")[2] == "pyproject.toml":
            above = _PROJECT
            for name in above:
                content = content.get(name, {}) if isinstance(content, Mapping) else {}
            if not isinstance(content, Mapping) or not content:
                raise ConfigError(f"{FLAG} {path} has no table [tool.vilt-bench]")
        return cls(path, text, content, above)

    def check(self, commands: Mapping[str, argparse.ArgumentParser]) -> None:
        """Refuse what no command takes, also in the tables of others: a misspelt table would be left out silently."""
        known = {key for parser in commands.values() for key in _actions(parser)}
        for key, value in self._content.items():
            if isinstance(value, Mapping):
                if key not in commands:
                    raise self._error((key,), f"is no command{did_you_mean(nearest(key, commands))} see --help")
                for inner in value:
                    self._check(inner, (key, inner), _actions(commands[key]), key)
            else:
                self._check(key, (key,), known, "any command")

    def options(
        self, command: str, parser: argparse.ArgumentParser
    ) -> Iterator[tuple[tuple[str, ...], Any, argparse.Action]]:
        """Yields key, value and option: those of the command's table, and those of all that it knows."""
        known = _actions(parser)
        own = self._content.get(command, {})
        own_keys = {dashed(key) for key in own}
        for key, value in self._content.items():
            if not isinstance(value, Mapping) and dashed(key) in known and dashed(key) not in own_keys:
                yield (key,), value, known[dashed(key)]
        for key, value in own.items():
            yield (command, key), value, known[dashed(key)]

    def words(
        self, key: tuple[str, ...], value: Any, action: argparse.Action, parser: argparse.ArgumentParser
    ) -> list[str]:
        """Returns the option as it is typed; one that the command refuses is told with its line."""
        flag = next(each for each in action.option_strings if each.startswith("--"))
        takes_none, may_have_none = action.nargs == 0, action.nargs == "?"
        if isinstance(value, bool) and (takes_none or may_have_none):
            return [flag] if value else []
        values = value if isinstance(value, list) else [value]
        if takes_none or isinstance(value, bool):
            raise self._error(key, f"must be {'true or false' if takes_none else 'a text or a number'}, got {value!r}")
        if not values or not all(isinstance(each, str | int | float) and not isinstance(each, bool) for each in values):
            raise self._error(key, f"must be a text, a number, or a list of them, got {value!r}")
        repeated = isinstance(action, argparse._AppendAction | argparse._ExtendAction)
        texts = list(map(str, values)) if repeated else [",".join(map(str, values))]
        words = [f"{flag}={text}" for text in texts]

        def refuse(message: str) -> NoReturn:
            raise self._error(key, message.removeprefix(f"argument {flag}: "))

        usual = parser.error
        parser.error = refuse  # type: ignore[method-assign]  # which says it of the line instead
        try:
            parser.parse_known_args(words)
        finally:
            parser.error = usual  # type: ignore[method-assign]
        return words

    def _check(
        self, key: str, place: tuple[str, ...], known: Mapping[str, argparse.Action] | set[str], of: str
    ) -> None:
        if dashed(key) not in known:
            guess = did_you_mean(nearest(dashed(key), known))
            raise self._error(place, f"is no option of {of}{guess} see --help")

    def _error(self, key: tuple[str, ...], problem: str) -> ConfigError:
        from vilt_bench.ask.plans import line_of

        number = line_of(self._text, (*self._above, *key))
        where = [self._path, *([] if number is None else [f"line {number}"]), ".".join(key)]
        return ConfigError(f"{', '.join(where)}: {problem}")


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Returns the options that a file may give, by their long flags without dashes in front."""
    return {
        flag.removeprefix("--"): action
        for action in parser._actions
        for flag in action.option_strings
        if flag.startswith("--") and action.dest not in _NOT_OF_FILES and action.help != argparse.SUPPRESS
    }
