"""Words of rankings: how much longer which run takes, and what can't be told apart."""

from __future__ import annotations

from collections.abc import Sequence

from vilt_bench.judge.ranking import Ranking, rank
from vilt_bench.judge.summary import Summary
from vilt_bench.report.lines import names
from vilt_bench.report.numbers import ratio_interval
from vilt_bench.words import counted

_MOST_RUNS = 12
"""That a sentence names with their ratios."""
_MOST_TIES = 8
"""Sets of runs that a sentence names."""
_MOST_RANKINGS = 50


def ranking_remarks(runs: Sequence[Summary]) -> list[str]:
    """Returns what can be said of runs in pairs, a sentence or two a ranking."""
    named = dict(zip(map(id, runs), names(runs), strict=True))
    found = rank(runs)
    said = [_ranking(each, [named[id(run)] for run in each.runs]) for each in found[:_MOST_RANKINGS]]
    if more := len(found) - len(said):
        said.append(f"{counted(more, 'more ranking')} {'is' if more == 1 else 'are'} in the table.")
    return said


def _ranking(ranking: Ranking, named: Sequence[str]) -> str:
    """Returns the ratios to the fastest, and which orders are sure."""
    fastest, *others = named
    ratios = [ratio_interval(place.ratio) for place in ranking.places[1:]]
    told = [f"{name} {ratio}" for name, ratio in zip(others, ratios, strict=True)]
    told[0] = f"{others[0]} takes {ratios[0]} times {_time_of(fastest)}"
    if len(told) > _MOST_RUNS:
        told[_MOST_RUNS:] = [f"and {len(told) - _MOST_RUNS} more"]
    return f"Compared turn by turn in {counted(ranking.trials, 'trial')}: {', '.join(told)}. {_sure(ranking, named)}"


def _sure(ranking: Ranking, named: Sequence[str]) -> str:
    together = f" (95% for all {ranking.pairs} pairs together)" if ranking.pairs > 1 else ""
    ties = [_listed([named[place] for place in tie]) for tie in ranking.ties]
    if not ties:
        return f"{'The order is' if ranking.pairs == 1 else 'All orders are'} sure{together}."
    if len(ties) > _MOST_TIES:
        ties[_MOST_TIES:] = [f"{len(ties) - _MOST_TIES} more such sets"]
    apart = f"{'; '.join(ties)} can't be told apart here"
    if not ranking.sure:
        return f"{apart}{together}; more --trials tell more."
    return f"{apart}; all other orders are sure{together}."


def _listed(named: Sequence[str]) -> str:
    *most, last = named
    return f"{', '.join(most)} and {last}" if most else last


def _time_of(name: str) -> str:
    return f"the time of {name}" if name.endswith(")") else f"{name}'s time"
