"""How often does `vilt-bench gate` cry wolf, what does it find, and how long does it take? On real timings.

Runs the gate again and again on patch32 at 384×640, on identical code and on code with 5% and 10% of real extra
work (`slow_patch.py`, calibrated here), without and with load that it makes itself. The pairs of processes are kept;
comparisons are then drawn from each cell's pairs, as many as fit into a gate's time, and judged by the gate's own rule.
Prints Markdown, for docs/gate.md. Goes on from what an earlier run has measured.

    python benchmarks/gate.py --minutes 120 --output results/gate | python tools/marked.py docs/gate.md gate
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from vilt_bench import Case, Installation, Sampling, ViltConfig, compare, gate
from vilt_bench.judge.compare import LEAST_SESSIONS
from vilt_bench.judge.estimate import LEAST_UNITS
from vilt_bench.judge.pairs import LOOKS, Pair, decide, evidence, pairs_of
from vilt_bench.protocol import Measured, Prepare, Prepared, Sample
from vilt_bench.record import store
from vilt_bench.record.load import load_folder
from vilt_bench.record.run import WHOLE, Run

SLOWDOWNS = (0.0, 0.05, 0.1)
SOURCE = Path(__file__).with_name("slow_patch.py")
RESAMPLES = 40
"""Of a cell's gates."""
HISTORY = 10
"""Earlier sessions that `compare` knows."""
BURST_S, DUTY = 3.0, 0.5
"""Processes of the load are busy so long at most, and so much of the time."""
CALIBRATION_ROWS, CALIBRATION_PASSES = 1024, 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0, help="measuring time, about (0: what is there)")
    parser.add_argument("--output", type=Path, default=Path("results/gate"), help="folder of the pairs")
    parser.add_argument(
        "--load", type=int, nargs="+", default=[0, 1, 2], help="busy processes of others for each core, on average"
    )
    parser.add_argument("--layers", type=int, default=12, help="of the transformer")
    parser.add_argument("--max-time", type=float, default=300.0, help="of one gate, in seconds")
    parser.add_argument("--draws", type=int, default=2000, help="comparisons a cell")
    options = parser.parse_args()
    case = Case(
        "guarded:patch32", resolution=(384, 640), fit="crop", device="cpu", vilt=ViltConfig(layers=options.layers)
    )
    options.output.mkdir(parents=True, exist_ok=True)
    if options.minutes:
        collect(case, options)
    print(table(options))


def collect(case: Case, options: argparse.Namespace) -> None:
    """Run gates, cell after cell, until the time is over."""
    folder = options.output.resolve()
    rows = calibrate(case, folder)
    end_s = time.monotonic() + 60 * options.minutes
    cells = [(load, slowdown) for slowdown in SLOWDOWNS for load in options.load]
    while True:
        load, slowdown = min(cells, key=lambda cell: len(pool(options.output, *cell)))
        left_s = end_s - time.monotonic()
        if left_s < options.max_time / 4:
            return
        with loaded(load / DUTY * len(os.sched_getaffinity(0))):
            found = gate(
                case,
                installation(folder, "baseline", 0),
                installation(folder, f"slower-{slowdown:g}", round(rows * slowdown)),
                max_time_s=min(options.max_time, left_s),
            )
        where = options.output / f"load-{load}" / f"slower-{slowdown:g}"
        if len(found.runs) < 2:
            return
        for run in found.runs:
            store.save(run, where / str(run.side))
        seen = found.comparison
        line = {
            "load": load,
            "slowdown": slowdown,
            "verdict": seen.verdict,
            "spent_s": round(seen.spent_s, 1),
            "pairs": seen.baseline.processes,
        }
        with (options.output / "gates.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(
            f"load {load}×, slower by {slowdown:.0%}: {seen.verdict} in {seen.spent_s:.0f} s: {seen.total.reason}",
            file=sys.stderr,
        )
        if found.interrupted:
            return


def installation(folder: Path, name: str, rows: int) -> Installation:
    """Returns an installation in whose folder the embedder does so much extra work."""
    home = folder / name
    home.mkdir(exist_ok=True)
    (home / "guarded.py").write_text(SOURCE.read_text().replace("ROWS = 0", f"ROWS = {rows}"))
    return Installation(name, folder=str(home))


def calibrate(case: Case, folder: Path) -> float:
    """Returns the rows of extra work that take as much CPU time as a pass."""
    sides = []
    for name, rows in (("baseline", 0), ("calibration", CALIBRATION_ROWS)):
        worker = installation(folder, name, rows).start()
        worker.ask(Prepare(case), Prepared)
        sides.append(worker)
    times: list[list[float]] = [[], []]
    for _ in range(CALIBRATION_PASSES):
        for worker, seen in zip(sides, times, strict=True):
            times_s = worker.ask(Sample(instrumented=False), Measured).series.whole.cpu_time_s
            assert times_s is not None
            seen.append(times_s[0])
    for worker in sides:
        worker.close()
    plain, busy = (fmean(sorted(seen)[:5]) for seen in times)
    print(
        f"a pass takes {1000 * plain:.0f} ms of CPU time, {CALIBRATION_ROWS} rows of extra work {busy - plain:.3f} s",
        file=sys.stderr,
    )
    return CALIBRATION_ROWS * plain / (busy - plain)


@contextlib.contextmanager
def loaded(processes: float) -> Iterator[None]:
    """Returns a context in which so many processes come and go."""
    burst = f"""
import random, time
while True:
    end = time.monotonic() + random.uniform(0, {BURST_S})
    while time.monotonic() < end: sum(range(10_000))
    time.sleep(random.uniform(0, {BURST_S}))
"""
    busy = [subprocess.Popen([sys.executable, "-c", burst]) for _ in range(round(processes))]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def gates_of(folder: Path, load: int, slowdown: float) -> list[list[Pair]]:
    """Returns the pairs of a cell, by gate."""
    where = folder / f"load-{load}" / f"slower-{slowdown:g}"
    candidates = {run.group: run for run in load_folder(where / "candidate")}
    both = [(run, candidates.get(run.group)) for run in load_folder(where / "baseline")]
    return [[bare(pair) for pair in pairs_of(run, other)] for run, other in both if other is not None]


def pool(folder: Path, load: int, slowdown: float) -> list[Pair]:
    """Returns the pairs of a cell."""
    return [pair for pairs in gates_of(folder, load, slowdown) for pair in pairs]


def bare(pair: Pair) -> Pair:
    """Returns the pair without its stages, which are not judged here."""
    return Pair(*(replace(side, stages={}) for side in (pair.baseline, pair.candidate)))


def table(options: argparse.Namespace) -> str:
    """Returns what the gate reaches, as Markdown."""
    gates = run_gates(options.output)
    lines = [
        "| load | extra work | gates, pairs | slower by | regressed | inconclusive | unchanged | pairs a gate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for load in options.load:
        for slowdown in SLOWDOWNS:
            cell = [each for each in gates if (each["load"], each["slowdown"]) == (load, slowdown)]
            pairs = gates_of(options.output, load, slowdown)
            if sum(map(len, pairs)) < LEAST_UNITS:
                continue
            fit = math.floor(options.max_time * sum(map(len, pairs)) / sum(each["spent_s"] for each in cell))
            lines.append(_row(load, slowdown, pairs, min(fit, max(LOOKS)), draws=options.draws))
    lines += ["", f"Measured on {_machine(options)}.", "", *_gates(options, gates), "", *_stored(options)]
    return "\n".join(lines) + "\n"


def _machine(options: argparse.Namespace) -> str:
    where = {
        f"{run.environment.machine}, {run.environment.threads} threads, torch {run.environment.versions['torch']}"
        for run in load_folder(options.output)
        if run.environment is not None
    }
    return "; ".join(sorted(where))


def _row(load: int, slowdown: float, gates: Sequence[list[Pair]], most: int, *, draws: int) -> str:
    """Returns a cell's row: what gates say that are drawn from its pairs, as many as fit into a gate's time.

    Drawn with replacement, each draw from another resample of the cell's gates: the interval is that of the share over
    resamples. Identical sides may as well be swapped, which is done at random: only chance is left.
    """
    rng = random.Random(0)
    shares: dict[str, list[float]] = {name: [] for name in ("regressed", "inconclusive", "unchanged")}
    used = []
    for _ in range(RESAMPLES):
        resampled = [pair for gate in rng.choices(gates, k=len(gates)) for pair in gate]
        verdicts: Counter[str] = Counter()
        for _ in range(draws // RESAMPLES):
            drawn = rng.choices(resampled, k=most)
            if not slowdown:
                drawn = [swapped(pair) if rng.random() < 0.5 else pair for pair in drawn]
            (total, _), count = decide(drawn)
            verdicts[total.verdict] += 1
            used.append(count)
        for name, found in shares.items():
            found.append(100 * verdicts[name] / (draws // RESAMPLES))
    pairs = [pair for gate in gates for pair in gate]
    wall = evidence(pairs, WHOLE)[0]
    return (
        f"| {load}× | {slowdown:.0%} | {len(gates)}, {len(pairs)} | "
        f"{100 * wall.estimate:+.1f}% ± {100 * wall.half_width:.1f}% | "
        f"{' | '.join(map(_share, shares.values()))} | {fmean(used):.1f} of {most} |"
    )


def _share(resampled: Sequence[float]) -> str:
    low, high = (sorted(resampled)[round(share * (len(resampled) - 1))] for share in (0.025, 0.975))
    return f"{fmean(resampled):.1f}% [{low:.0f}, {high:.0f}]"


def swapped(pair: Pair) -> Pair:
    """Returns the pair with its sides exchanged."""
    return Pair(pair.candidate, pair.baseline)


def _stored(options: argparse.Namespace) -> Iterator[str]:
    """Yields what `compare` says of the gates' sides as sessions of their own: other hours, other loads."""
    sessions: dict[float, list[Run]] = {slowdown: [] for slowdown in SLOWDOWNS}
    for slowdown in SLOWDOWNS:
        for load in options.load:
            where = options.output / f"load-{load}" / f"slower-{slowdown:g}"
            sessions[slowdown] += [alone(run) for run in load_folder(where / "candidate")]
            sessions[0.0] += [alone(run) for run in load_folder(where / "baseline")]
    sessions = {
        slowdown: [run for run in runs if run.failure is None and len(run.trials) >= LEAST_UNITS]
        for slowdown, runs in sessions.items()
    }
    same = sessions[0.0]
    if len(same) < LEAST_SESSIONS + 2:
        return
    yield f"| stored records, {len(same)} sessions | regressed | inconclusive | unchanged | said to be found |"
    yield "|---|---|---|---|---|"
    rng = random.Random(0)
    for slowdown, runs in sessions.items():
        if not runs:
            continue
        verdicts: Counter[str] = Counter()
        found = []
        for _ in range(options.draws // 4):
            candidate = rng.choice(runs)
            others = [run for run in same if run.started_at != candidate.started_at]  # the other side is no other hour
            baseline, *history = rng.sample(others, min(len(others), HISTORY + 1))
            seen = compare([baseline], [candidate], history=history)
            verdicts[seen.verdict] += 1
            found.append(seen.detectable or math.inf)
        share = [f"{400 * verdicts[name] / options.draws:.1f}%" for name in ("regressed", "inconclusive", "unchanged")]
        yield f"| {slowdown:.0%} | {' | '.join(share)} | {100 * median(found):.0f}% in the median |"


def alone(run: Run) -> Run:
    """Returns a gate's side as if it had been measured by itself."""
    return replace(run, side=None, group=run.run_id, sampling=Sampling())


def run_gates(folder: Path) -> list[dict[str, Any]]:
    """Returns what the gates said that were run in full."""
    path = folder / "gates.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _gates(options: argparse.Namespace, gates: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields what the gates said that were run in full: the only evidence of which each part is independent."""
    if not gates:
        return
    times = [each["spent_s"] for each in gates]
    yield f"{len(gates)} gates were run in full, {median(times):.0f} s in the median, {max(times):.0f} s at most:"
    yield ""
    for slowdown in SLOWDOWNS:
        cells = [pairs for load in options.load for pairs in gates_of(options.output, load, slowdown)]
        verdicts = Counter(decide(pairs)[0][0].verdict for pairs in cells)
        said = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
        yield f"- {slowdown:.0%} of extra work: {said}"


if __name__ == "__main__":
    main()
