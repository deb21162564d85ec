"""How well ratios of cases that were measured in turns are known: coverage, width, and orders that are wrongly sure.

`python benchmarks/ranking.py` draws blocks' times on machines that drift, are disturbed and hold processes that differ,
and compares ways to an interval of a ratio; seeded, the same each time, a minute. What `vilt-bench` tells is made by
`vilt_bench.judge.turns` and `ranking`; docs/records.md has what came of it.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import fmean, median, stdev

from rich.console import Console
from rich.table import Table

from vilt_bench.ask.case import Case, Sampling
from vilt_bench.judge.estimate import student_t
from vilt_bench.judge.ranking import rank
from vilt_bench.judge.turns import Turns, in_turns
from vilt_bench.record.run import Run, Series, Times, Trial

START = datetime(2026, 1, 1, tzinfo=UTC)
ROUNDS = 12
Times_ = Sequence[Sequence[Sequence[float]]]
"""Logarithms of blocks' medians by case, trial and round."""


@dataclass(frozen=True)
class Machine:
    """What moves times, as logarithms."""

    name: str
    slope: float = 0.0
    """Spread of how far a trial drifts in a line."""
    warming: float = 0.0
    """How far every trial drifts alike."""
    walk: float = 0.0
    """Spread of a random walk at a trial's end."""
    bursts: int = 0
    """Times a trial that it is slowed down, by 40% in the mean, for two rounds or so."""
    processes: float = 0.01
    """Spread between processes of one case."""
    skewed: bool = False
    """Whether few processes are much slower than most."""
    passes: float = 0.01
    """Spread of blocks, half of which carries over to the next."""


MACHINES = (
    Machine("steady"),
    Machine("drifts in a line", slope=0.1),
    Machine("warms up alike", warming=0.1),
    Machine("wanders", walk=0.05),
    Machine("is disturbed", bursts=2),
    Machine("all of these", slope=0.1, walk=0.05, bursts=2),
    Machine("processes far apart, skewed", walk=0.05, bursts=2, processes=0.03, skewed=True),
    Machine("processes alike", slope=0.1, walk=0.05, bursts=2, processes=0.0),
)


def drawn(machine: Machine, cases: int, trials: int, rng: random.Random) -> Times_:
    """Returns times of equally fast cases, measured in turns."""
    found: list[list[list[float]]] = [[] for _ in range(cases)]
    count = ROUNDS * cases
    for _ in range(trials):
        slope, level = rng.gauss(0, machine.slope) + machine.warming, 0.0
        around = [0.0] * count
        for _ in range(machine.bursts):
            begin, height = rng.randrange(count), rng.expovariate(1 / 0.4)
            for place in range(begin, min(count, begin + 1 + int(rng.expovariate(1 / (2 * cases))))):
                around[place] += height
        own = [machine.processes * (rng.expovariate(1) if machine.skewed else rng.gauss(0, 1)) for _ in range(cases)]
        noise = [rng.gauss(0, 1) for _ in range(cases)]
        times: list[list[float]] = [[] for _ in range(cases)]
        for place in range(count):
            level += rng.gauss(0, machine.walk / math.sqrt(count)) if machine.walk else 0.0
            case = place % cases
            noise[case] = 0.5 * noise[case] + math.sqrt(0.75) * rng.gauss(0, 1)
            moved = slope * place / count + level + around[place]
            times[case].append(moved + own[case] + machine.passes * noise[case])
        for case, each in enumerate(times):
            found[case].append(each)
    return found


def over_trials(
    statistic: Callable[[Sequence[float], Sequence[float]], float],
) -> Callable[[Times_], tuple[bool, float]]:
    """Returns a way to an interval of the first two cases' ratio: Student's t over one number a trial."""

    def interval(times: Times_) -> tuple[bool, float]:
        logs = [statistic(one, other) for one, other in zip(times[0], times[1], strict=True)]
        half = student_t(len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
        return abs(fmean(logs)) <= half, half

    return interval


def unpaired(times: Times_) -> tuple[bool, float]:
    """Returns what two intervals of absolute times make of their ratio."""
    one, other = ([median(trial) for trial in case] for case in times[:2])
    half = student_t(2 * len(one) - 2) * math.sqrt((stdev(one) ** 2 + stdev(other) ** 2) / len(one))
    return abs(fmean(one) - fmean(other)) <= half, half


def told(times: Times_) -> tuple[bool, float]:
    """Returns the interval that reports tell."""
    found = in_turns(*(_turns(case) for case in times[:2]))
    assert found is not None
    half = student_t(found.trials - 1) * found.error
    return abs(found.logarithm) <= half, half


def _differences(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [after - before for before, after in zip(one, other, strict=True)]


WAYS: dict[str, Callable[[Times_], tuple[bool, float]]] = {
    "unpaired medians": unpaired,
    "medians, by trial": over_trials(lambda one, other: median(other) - median(one)),
    "turns, mean": over_trials(lambda one, other: fmean(_differences(one, other))),
    "turns, median": over_trials(lambda one, other: median(_differences(one, other))),
    "as told": told,
}


def _turns(case: Sequence[Sequence[float]]) -> tuple[Turns, ...]:
    return tuple(
        Turns(index, START + index * timedelta(minutes=1), 0, tuple(map(math.exp, trial)))
        for index, trial in enumerate(case)
    )


def coverage(draws: int, cases: int = 4) -> Table:
    """Returns how often each way's 95% interval of a ratio holds the truth, and half its width."""
    table = Table("Machine", "Trials", *WAYS, title="Intervals that hold the truth, and half their width in the middle")
    for machine in MACHINES:
        for trials in (3, 5):
            rng = random.Random(f"{machine.name} {trials}")
            found: dict[str, list[tuple[bool, float]]] = {name: [] for name in WAYS}
            for _ in range(draws):
                times = drawn(machine, cases, trials, rng)
                for name, way in WAYS.items():
                    found[name].append(way(times))
            cells = [
                f"{100 * fmean(held for held, _ in each):.1f}% ±{100 * median(half for _, half in each):.1f}%"
                for each in found.values()
            ]
            table.add_row(machine.name, str(trials), *cells)
    return table


def wrongly_sure(draws: int) -> Table:
    """Returns how often any order of equally fast cases is called sure, and how often intervals hold the truth."""
    table = Table(
        "Cases", "Trials", "Any order sure", "Ratios to the fastest that hold 1", title="Equally fast cases, ranked"
    )
    machine = replace(MACHINES[5], name="all of these")
    for cases in (2, 3, 5, 8):
        for trials in (3, 5):
            rng = random.Random(cases * 10 + trials)
            sure = held = 0
            for _ in range(draws):
                (ranking,) = rank([_run(index, case) for index, case in enumerate(drawn(machine, cases, trials, rng))])
                sure += bool(ranking.sure)
                held += sum(place.ratio.ends[0] <= 1 <= place.ratio.ends[1] for place in ranking.places[1:])
            table.add_row(
                str(cases), str(trials), f"{100 * sure / draws:.1f}%", f"{100 * held / draws / (cases - 1):.1f}%"
            )
    return table


def _run(index: int, case: Sequence[Sequence[float]]) -> Run:
    trials = tuple(
        Trial(
            number,
            (START + number * timedelta(minutes=1)).isoformat(),
            samples=Series(whole=Times(wall_time_s=tuple(map(math.exp, trial))), blocks=(1,) * len(trial)),
        )
        for number, trial in enumerate(case)
    )
    return Run(str(index), START.isoformat(), Case(f"e{index}"), Sampling(), "drawn", trials=trials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000, metavar="N", help="a row (default: 2000)")
    asked = parser.parse_args()
    console = Console(width=140)
    console.print(coverage(asked.draws))
    console.print(wrongly_sure(asked.draws // 2))


if __name__ == "__main__":
    main()
