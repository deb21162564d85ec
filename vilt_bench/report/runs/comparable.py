"""Whether runs may stand side by side in one picture: same machine, same settings."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vilt_bench.ask.case import ALL
from vilt_bench.errors import ConfigError
from vilt_bench.judge.summary import Summary
from vilt_bench.record import alike
from vilt_bench.report.numbers import ABSENT

_LONGEST = 40
_MOST = 4
_TITLES = {"batch-size": "batch size", "omp-wait-policy": "omp wait policy"}
"""Of facts whose name is that of an option."""


def check_comparable(runs: Sequence[Summary], allow_different: Collection[str] = ()) -> None:
    """Refuse runs whose times differ by more than their embedders.

    Args:
        runs: to be shown side by side.
        allow_different: names of what may differ, such as `torch` or `batch-size`; `all`: everything.

    Raises:
        ConfigError: the runs were measured on different machines or with different settings; or nothing has a name
            that may differ.
    """
    alike.check_names(allow_different, runs, "draw")
    found = [each for each in _differences(runs) if not {each.name, ALL}.intersection(allow_different)]
    if not found:
        return
    told = [f"{_title(each.name)} ({', '.join(map(_short, dict.fromkeys(each.values)))})" for each in found]
    more = [f"{len(told) - _MOST} more"] if len(told) > _MOST else []
    *most, last = [*told[:_MOST], *more]
    listed = f"{', '.join(most)} and {last}" if most else last
    # What was asked for differs however they are measured, as in a sweep.
    asked = all(alike.RULES.get(each.name, {}).get("case") is alike.Rule.AGREE for each in found)
    advice = "draw those that are alike" if asked else "measure them together with one 'vilt-bench run'"
    raise ConfigError(
        f"the runs differ in {listed}; {advice}, or give `allow_different` {','.join(each.name for each in found)} to "
        "label each bar with its machine and settings"
    )


def differences(runs: Sequence[Summary]) -> dict[str, list[str]]:
    """Returns what differs between the runs that have times: by title, the value of each of `runs`, in order."""
    facts = [alike.facts(run, "draw") for run in runs]
    return {_title(each.name): [told.get(each.name, ABSENT) for told in facts] for each in _differences(runs)}


def _differences(runs: Sequence[Summary]) -> list[alike.Difference]:
    timed = [run for run in runs if run.timed]
    return [each for each in alike.differences(timed, "draw") if each.matters]


def _title(name: str) -> str:
    return _TITLES.get(name, name)


def _short(value: str) -> str:
    return value if len(value) <= _LONGEST else f"{value[: _LONGEST - 1]}…"
