"""Which rule finds most, with as few false alarms? On recordings of real pairs, of fast passes and of slow ones.

A rule is a pair's number (what the passes of both sides come to) and a test over pairs. Gates are drawn, with
replacement, from each cell's pairs, and decided as `judge.pairs.decide` does for the whole: looks, clocks, tolerance.
Sides of identical code are swapped at random. Prints Markdown, for docs/gate.md; the first row is the rule in force.

    python benchmarks/gate_rules.py --fast FOLDER --slow results/gate/earlier |
        python tools/marked.py docs/gate.md gate-rules

and with `--by-time` a second one, for the marks `gate-times`.

The folder of fast passes holds `processes.csv.gz` (process, pair, side, workload, variant, regime) and `samples.csv.gz`
(process, sample, wall_time_s, cpu_time_s; the first five are warm-up).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import gate as recorded
import numpy as np
from scipy import stats

from vilt_bench.ask.rule import TOLERANCE
from vilt_bench.judge.pairs import LOOKS, Pair
from vilt_bench.judge.significance import ALONE, GATE_ERROR, pairs_trimmed

CLOCKS = ("wall_time_s", "cpu_time_s")
WARMUP = 5
FINE_TOLERANCE = 0.015
"""By which 3% is to be found."""
Passes = tuple[np.ndarray, np.ndarray]
"""Of baseline and candidate, in turns A B B A."""
Number = Callable[[Sequence[Passes]], float]
"""A pair's logarithm of candidate / baseline, by its series: uninstrumented, and instrumented where there are such."""
Test = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
"""Of gates' pairs (G, N): estimates, probabilities to be slower or faster by chance, upper ends of 95% intervals."""


def _turns(series: Sequence[Passes]) -> np.ndarray:
    """Returns the logarithms of turns, each the mean of its two neighbours'."""
    return _neighbours(series).reshape(-1, 2).mean(axis=1)


def _neighbours(series: Sequence[Passes]) -> np.ndarray:
    """Returns the logarithms of single passes over their neighbour's."""
    return np.concatenate([np.log(after / before) for before, after in series])


def _trimmed(values: np.ndarray, share: float) -> float:
    cut = math.floor(share * len(values))
    return float(np.sort(values)[cut : len(values) - cut].mean())


def _by_series(of: Callable[[np.ndarray], float]) -> Number:
    def number(series: Sequence[Passes]) -> float:
        logs = [math.log(of(after) / of(before)) for before, after in series if len(before)]
        return float(np.average(logs, weights=[len(before) for before, _ in series if len(before)]))

    return number


def _middle_of_walsh(values: np.ndarray) -> float:
    first, second = np.triu_indices(len(values))
    return float(np.median((values[first] + values[second]) / 2))


NUMBERS: dict[str, Number] = {
    "neighbours, mean trimmed by 40%": lambda series: _trimmed(_neighbours(series), 0.4),
    "turns, mean trimmed by 20%": lambda series: _trimmed(_turns(series), 0.2),
    "turns, median": lambda series: float(np.median(_turns(series))),
    "turns, Hodges–Lehmann": lambda series: _middle_of_walsh(_turns(series)),
    "turns, mean trimmed by 40%": lambda series: _trimmed(_turns(series), 0.4),
    "neighbours, median": lambda series: float(np.median(_neighbours(series))),
    "neighbours, mean trimmed by 20%": lambda series: _trimmed(_neighbours(series), 0.2),
    "neighbours, mean trimmed by 30%": lambda series: _trimmed(_neighbours(series), 0.3),
    "neighbours, Hodges–Lehmann": lambda series: _middle_of_walsh(_neighbours(series)),
    "passes, median": _by_series(lambda times: float(np.median(times))),
    "passes, lower third": _by_series(lambda times: float(np.quantile(times, 1 / 3))),
    "passes, mean of 20% to 60%": _by_series(
        lambda times: float(np.sort(times)[round(0.2 * len(times)) : max(1, round(0.6 * len(times)))].mean())
    ),
}


def _student(estimates: np.ndarray, errors: np.ndarray, freedom: int) -> tuple[np.ndarray, ...]:
    errors = np.maximum(errors, 1e-12)
    up = np.where(estimates > 0, stats.t.sf(estimates / errors, freedom), 1.0)
    down = np.where(estimates < 0, stats.t.sf(-estimates / errors, freedom), 1.0)
    return estimates, up, down, estimates + stats.t.ppf(0.975, freedom) * errors


def yuen(share: Callable[[int], float]) -> Test:
    """Returns Yuen's test whose trimming is given by the number of pairs."""

    def test(logs: np.ndarray) -> tuple[np.ndarray, ...]:
        count = logs.shape[1]
        cut = math.floor(share(count) * count + 1e-9)
        kept = count - 2 * cut
        ordered = np.sort(logs, axis=1)
        winsorised = np.clip(ordered, ordered[:, [cut]], ordered[:, [count - 1 - cut]])
        errors = np.sqrt(((winsorised - winsorised.mean(axis=1, keepdims=True)) ** 2).sum(axis=1) / (kept * (kept - 1)))
        return _student(ordered[:, cut : count - cut].mean(axis=1), errors, kept - 1)

    return test


@cache
def _rank_tail(count: int) -> np.ndarray:
    """Returns by value of the signed-rank statistic the exact probability of that or more."""
    ways = np.ones(1)
    for rank in range(1, count + 1):
        ways = np.convolve(ways, np.eye(1, rank + 1, 0)[0] + np.eye(1, rank + 1, rank)[0])
    return np.cumsum(ways[::-1])[::-1] / 2.0**count


def signed_ranks(logs: np.ndarray) -> tuple[np.ndarray, ...]:
    """Hodges and Lehmann's estimate, Wilcoxon's exact test, and the interval that belongs to it."""
    count = logs.shape[1]
    first, second = np.triu_indices(count)
    walsh = np.sort((logs[:, first] + logs[:, second]) / 2, axis=1)
    tail = _rank_tail(count)
    above = np.count_nonzero(walsh > 0, axis=1)
    below = np.count_nonzero(walsh < 0, axis=1)
    steps = int(np.count_nonzero(tail <= 0.025))  # ends that are left out
    high = walsh[:, -steps] if steps else np.full(len(logs), np.inf)
    return np.median(walsh, axis=1), tail[above], tail[below], high


def huber(logs: np.ndarray, reach: float = 1.5, lost: int = 1) -> tuple[np.ndarray, ...]:
    """Huber's estimate about the median, scaled by the median deviation, with its asymptotic error and Student's t.

    Degrees of freedom lost to location and scale: one is what the mean costs.
    """
    centre = np.median(logs, axis=1, keepdims=True)
    scale = np.maximum(1.4826 * np.median(abs(logs - centre), axis=1, keepdims=True), 1e-6)
    for _ in range(15):
        centre = centre + scale * np.clip((logs - centre) / scale, -reach, reach).mean(axis=1, keepdims=True)
    away = (logs - centre) / scale
    count = logs.shape[1]
    inner = (abs(away) < reach).mean(axis=1)
    spread = (np.clip(away, -reach, reach) ** 2).sum(axis=1) / (count - 1)
    errors = scale[:, 0] * np.sqrt(spread / count) / inner
    return _student(centre[:, 0], errors, count - lost)


def either(first: Test, second: Test) -> Test:
    """Returns the test that takes the clearer of two, each with half of the error."""

    def test(logs: np.ndarray) -> tuple[np.ndarray, ...]:
        (estimate, up, down, high), (other, other_up, other_down, other_high) = first(logs), second(logs)
        nearer = np.where(other_up < up, other, estimate)
        return nearer, 2 * np.minimum(up, other_up), 2 * np.minimum(down, other_down), np.maximum(high, other_high)

    return test


def _growing(count: int) -> float:
    """Returns no trimming of six and seven pairs, then one pair a side, from ten on a fifth."""
    return 0.0 if count < 8 else 1 / count if count < 10 else 0.2


TESTS: dict[str, Test] = {
    "Yuen, 10%": yuen(lambda _: 0.1),
    "Yuen, 20%": yuen(lambda _: 0.2),
    "Yuen, by number": yuen(_growing),
    "Student": yuen(lambda _: 0.0),
    "Huber at 1.5": huber,
    "Huber at 1.5, 4 lost": lambda logs: huber(logs, lost=4),
    "Huber at 2.5, 3 lost": lambda logs: huber(logs, 2.5, 3),
    "signed ranks": signed_ranks,
    "Student or Yuen, 20%": either(yuen(lambda _: 0.0), yuen(lambda _: 0.2)),
    "Yuen, 10% or 20%": either(yuen(lambda _: 0.1), yuen(lambda _: 0.2)),
    "Yuen, 10% or 25%": either(yuen(lambda _: 0.1), yuen(lambda _: 0.25)),
}

RULES = [*((number, "Yuen, 10%") for number in NUMBERS), *((next(iter(NUMBERS)), test) for test in list(TESTS)[1:])]
"""Every number with the test in force, every test with the number in force; both are the first."""


@dataclass(frozen=True)
class Cell:
    """Pairs of one condition."""

    name: str
    group: str
    slowdown: float
    most: int
    """Pairs that a gate has time for."""
    series: tuple[tuple[tuple[Passes, ...], ...], ...]
    """By pair and clock."""


def fast_cells(folder: Path, variants: Mapping[str, float], most: int) -> list[Cell]:
    """Returns the cells of the recording of fast passes."""
    samples: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with gzip.open(folder / "samples.csv.gz", "rt") as file:
        for line in csv.DictReader(file):
            if int(line["sample"]) >= WARMUP:
                samples[line["process"]].append((float(line["wall_time_s"]), float(line["cpu_time_s"])))
    sides: dict[str, dict[str, str]] = defaultdict(dict)
    of: dict[str, tuple[str, str, str]] = {}
    with gzip.open(folder / "processes.csv.gz", "rt") as file:
        for line in csv.DictReader(file):
            sides[line["pair"]][line["side"]] = line["process"]
            if line["side"] == "1":
                of[line["pair"]] = (line["regime"], line["workload"], line["variant"])
    pairs: dict[tuple[str, str, str], list[tuple[tuple[Passes, ...], ...]]] = defaultdict(list)
    for pair, cell in of.items():
        both = [np.array(samples[sides[pair][side]]) for side in "01"]
        pairs[cell].append(tuple(((both[0][:, clock], both[1][:, clock]),) for clock in range(2)))
    return [
        Cell(f"{regime}, {workload}", f"fast, {regime}", variants[variant], most, tuple(found))
        for (regime, workload, variant), found in sorted(pairs.items())
        if variant in variants
    ]


def slow_cells(folder: Path, slowdowns: Sequence[float]) -> list[Cell]:
    """Returns the cells of the gates that were run in full, with as many pairs as fit into five minutes."""
    gates = recorded.run_gates(folder)
    cells = []
    for load in (0, 1, 2):
        for slowdown in slowdowns:
            pairs = recorded.pool(folder, load, slowdown)
            spent_s = sum(each["spent_s"] for each in gates if (each["load"], each["slowdown"]) == (load, slowdown))
            most = min(max(LOOKS), math.floor(300 * len(pairs) / spent_s))
            series = tuple(tuple(_series(pair, clock) for clock in ("latency_s", "cpu_time_s")) for pair in pairs)
            cells.append(Cell(f"{load}×", f"slow, {load}×", slowdown, most, series))
    return cells


def _series(pair: Pair, clock: str) -> tuple[Passes, ...]:
    found = []
    for before, after in (
        (pair.baseline.whole, pair.candidate.whole),
        (pair.baseline.instrumented, pair.candidate.instrumented),
    ):
        times = [np.array(getattr(each, clock)) for each in (before, after)]
        count = min(map(len, times)) // 2 * 2
        found.append((times[0][:count], times[1][:count]))
    return tuple(found)


def regressed(
    logs: np.ndarray, test: Test, *, tolerance: float = TOLERANCE, looks: Mapping[int, float] = LOOKS
) -> tuple[np.ndarray, np.ndarray]:
    """Returns which gates say regressed, and which nothing, of pairs' logarithms by both clocks (2, G, N)."""
    most, limit = logs.shape[2], math.log1p(tolerance)
    said = np.zeros(logs.shape[1], dtype=bool)
    open_yet = np.ones(logs.shape[1], dtype=bool)
    spent = 0.0
    for count in [*(look for look in looks if look < most), most]:
        share = 1.0 if count == most else looks[count]
        error, spent = GATE_ERROR * (share - spent), share
        (wall, up, down, high), (cpu, cpu_up, cpu_down, cpu_high) = (test(clock[:, :count]) for clock in logs)
        by_wall = np.where(wall > limit, up, 1.0)
        by_cpu = np.where(cpu > limit, cpu_up, 1.0)
        slower = (2 * np.minimum(by_wall, by_cpu) <= error) & ((by_wall <= by_cpu) | (high >= limit))
        faster = np.minimum(np.where(wall < -limit, down, 1.0), np.where(cpu < -limit, cpu_down, 1.0))
        bearable = high <= math.log1p(ALONE * tolerance)
        improved = (2 * faster <= error) & (wall < 0) & bearable
        unchanged = (high < limit) | ((cpu_high < limit) & (wall <= limit) & bearable)
        said |= open_yet & slower
        open_yet &= ~(slower | improved | unchanged)
    return said, open_yet


def share(cell: Cell, number: Number, test: Test, draws: int) -> float:
    """Returns how often gates that are drawn from the cell's pairs say regressed."""
    logs = np.array([[number(by_clock) for by_clock in pair] for pair in cell.series])  # (pairs, clocks)
    rng = np.random.default_rng(0)
    drawn = logs[rng.integers(len(logs), size=(draws, cell.most))]  # (G, N, clocks)
    if not cell.slowdown:
        drawn *= rng.choice([-1.0, 1.0], size=(draws, cell.most, 1))
    return float(regressed(np.moveaxis(drawn, 2, 0), test)[0].mean())


def table(cells: Sequence[Cell], draws: int) -> str:
    """Returns by rule the false alarms, the highest of a cell behind them, and what is found, by group of cells."""
    groups = list(dict.fromkeys(cell.group for cell in cells))
    head = [f"{group}: false alarms, 5% found" for group in groups]
    lines = [f"| a pair's number | test over pairs | {' | '.join(head)} |", "|---" * (2 + len(head)) + "|"]
    for number, test in RULES:
        told = []
        for group in groups:
            shares = [
                [
                    100 * share(cell, NUMBERS[number], TESTS[test], draws)
                    for cell in cells
                    if cell.group == group and bool(cell.slowdown) == slower
                ]
                for slower in (False, True)
            ]
            worst = f" (at most {max(shares[0]):.2g})" if len(shares[0]) > 1 else ""
            told.append(f"{np.mean(shares[0]):.2f}%{worst}, {np.mean(shares[1]):.1f}%")
        lines.append(f"| {number} | {test} | {' | '.join(told)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines) + "\n"


class Time(NamedTuple):
    """What a gate has time for: pairs of processes, of so many turns."""

    pairs: int
    turns: int | None = None
    """Of a pair; `None`: as many as were recorded."""


Times = Mapping[str, tuple[Time, Time, Time]]
"""In a minute and a half, in three minutes and in five, by group of cells."""
BEFORE: Times = {
    "fast, bursty": (Time(9), Time(19), Time(24)),
    "fast, loaded": (Time(8), Time(16), Time(24)),
    "fast, quiet": (Time(12), Time(24), Time(24)),
    "slow, 0×": (Time(5, 6), Time(10, 6), Time(12, 10)),
    "slow, 1×": (Time(3, 6), Time(6, 6), Time(10, 6)),
    "slow, 2×": (Time(3, 6), Time(5, 6), Time(9, 6)),
}
NOW: Times = {
    "fast, bursty": (Time(30), Time(60), Time(96)),
    "fast, loaded": (Time(26), Time(52), Time(88)),
    "fast, quiet": (Time(39), Time(78), Time(96)),
    "slow, 0×": (Time(7, 4), Time(15, 4), Time(16, 8)),
    "slow, 1×": (Time(6, 2), Time(9, 4), Time(16, 4)),
    "slow, 2×": (Time(6, 2), Time(9, 4), Time(15, 4)),
}
"""Of fast passes by what a pair costs here of 4 ms a pass (docs/gate.md), of slow ones by their recorded turns and by
three quarters of what starting and ending took in those gates."""
FEWER: Times = {
    group: (
        Time(times[0].pairs if times[0].turns is None else times[1].pairs // 2, times[1].turns),
        times[1],
        times[2]._replace(pairs=min(48, times[2].pairs)),
    )
    for group, times in NOW.items()
}
"""Before pairs were as short as two turns, and more than 48."""
GATES: dict[str, tuple[Test, Mapping[int, float], Times]] = {
    "as it is: 10%, 25% from 18 pairs on": (yuen(pairs_trimmed), LOOKS, NOW),
    "the same, of four turns at least, and 48 pairs at most": (
        yuen(pairs_trimmed),
        {6: 0.2, 12: 0.5, 18: 0.65, 24: 0.8, 36: 0.9, 48: 1.0},
        FEWER,
    ),
    "as it was: 10%, 24 pairs at most": (yuen(lambda _: 0.1), {6: 0.2, 12: 0.65, 18: 0.85, 24: 1.0}, BEFORE),
    "10%": (yuen(lambda _: 0.1), LOOKS, NOW),
    "20%": (yuen(lambda _: 0.2), LOOKS, NOW),
    "10%, 20% from 18 on": (yuen(lambda count: 0.1 if count < 18 else 0.2), LOOKS, NOW),
    "10%, 35% from 18 on": (yuen(lambda count: 0.1 if count < 18 else 0.35), LOOKS, NOW),
    "Student or Yuen, 20%": (TESTS["Student or Yuen, 20%"], LOOKS, NOW),
    "Huber at 1.5, 4 lost": (TESTS["Huber at 1.5, 4 lost"], LOOKS, NOW),
}


def symmetric(cells: Sequence[Cell], turns: int | None) -> np.ndarray:
    """Returns pairs' logarithms (P, 2) of one kind of work, whatever was done to the candidate less its median."""
    number, found = next(iter(NUMBERS.values())), []
    for cell in cells:
        logs = np.array([[number(_first(by_clock, turns)) for by_clock in pair] for pair in cell.series])
        found.append(logs - np.median(logs, axis=0) if cell.slowdown else logs)
    return np.concatenate(found)


def _first(series: Sequence[Passes], turns: int | None) -> list[Passes]:
    """Returns the first turns, of uninstrumented and instrumented passes in alternation."""
    if turns is None:
        return list(series)
    counts = [2 * ((turns + 1 - place) // len(series)) for place in range(len(series))]
    return [(before[:count], after[:count]) for (before, after), count in zip(series, counts, strict=True)]


def by_time(cells: Sequence[Cell], draws: int) -> str:
    """Returns what gates say that have one and a half, three and five minutes, of pairs that are swapped at random."""
    groups: dict[str, dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        groups[cell.group][cell.name].append(cell)
    lines = [f"| trimmed | {' | '.join(groups)} |", "|---" * (1 + len(groups)) + "|"]
    for name, (test, looks, times) in GATES.items():
        told = []
        for group, works in groups.items():
            shortest, short, long = times[group]
            shares = []
            for same in works.values():
                rng = np.random.default_rng(0)
                seen = []
                for slowdown, tolerance, time in (
                    (0.0, TOLERANCE, long),
                    (0.0, FINE_TOLERANCE, long),
                    (0.05, TOLERANCE, short),
                    (0.03, FINE_TOLERANCE, long),
                    (0.1, TOLERANCE, shortest),
                ):
                    logs = symmetric(same, time.turns)
                    drawn = logs[rng.integers(len(logs), size=(draws, time.pairs))]
                    drawn = drawn * rng.choice([-1.0, 1.0], size=(draws, time.pairs, 1)) + math.log1p(slowdown)
                    said = regressed(np.moveaxis(drawn, 2, 0), test, tolerance=tolerance, looks=looks)
                    seen.append([100 * float(each.mean()) for each in said])
                shares.append([max(seen[0][0], seen[1][0]), seen[0][1], *(said for said, _ in seen[2:])])
            alarms, undecided, *found = np.mean(shares, axis=0)
            worst = f" (at most {max(shares)[0]:.2g})" if len(shares) > 1 else ""
            told.append(f"{alarms:.2f}%{worst}, {undecided:.1f}%, {', '.join(f'{each:.1f}%' for each in found)}")
        lines.append(f"| {name} | {' | '.join(told)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", type=Path, help="folder of the recording of fast passes")
    parser.add_argument("--slow", type=Path, help="folder of the gates that benchmarks/gate.py has run")
    parser.add_argument("--pairs", type=int, default=12, help="that a gate on fast passes has time for")
    parser.add_argument("--draws", type=int, default=2000, help="gates a cell")
    parser.add_argument("--by-time", action="store_true", help="what the gate finds by the time")
    options = parser.parse_args()
    cells = []
    if options.fast:
        slowdowns = {"a1": 0.0, "b5": 0.05}
        if options.by_time:
            slowdowns |= {"b2": 0.02, "b10": 0.1, "b20": 0.2}
        cells += fast_cells(options.fast, slowdowns, options.pairs)
    if options.slow:
        cells += slow_cells(options.slow, (0.0, 0.05, 0.1) if options.by_time else (0.0, 0.05))
    print(by_time(cells, options.draws) if options.by_time else table(cells, options.draws))


if __name__ == "__main__":
    main()
