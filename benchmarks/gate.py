"""How often does `vilt-bench gate` cry wolf, what does it find, and how long does it take? On real timings.

Runs the gate again and again on patch32 at 384×640 and on a model of some milliseconds a pass, on identical code and on
code with 3%, 5% and 10% of real extra work (`slow_patch.py`, calibrated here), without and with load that it makes
itself, each with the time and the tolerance that its aim names. A gate's pairs of processes are kept when it ends; it
goes on where an earlier run was stopped, with the cell that has fewest. Comparisons are then drawn from each cell's
pairs, as many as fit into a gate's time, and judged by the gate's own rule. Prints Markdown, for docs/gate.md.

    python benchmarks/gate.py --minutes 30 --output results/gate | python tools/marked.py docs/gate.md gate
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from vilt_bench import Case, Installation, Sampling, ViltConfig, compare, gate
from vilt_bench.ask.rule import TOLERANCE
from vilt_bench.judge.compare import LEAST_SESSIONS
from vilt_bench.judge.estimate import LEAST_UNITS
from vilt_bench.judge.pairs import LOOKS, Pair, decide, evidence, pairs_of
from vilt_bench.protocol import Measured, Prepare, Prepared, Sample
from vilt_bench.record import store
from vilt_bench.record.load import load_folder
from vilt_bench.record.run import WHOLE, Run
from vilt_bench.words import counted


@dataclass(frozen=True)
class Subject:
    """What is gated."""

    case: Case
    width: int
    """Of the extra work's perceptron, whose hidden layer is four times as wide."""
    trial_rows: int
    """Of extra work, by which its calibration begins."""


SUBJECTS = {
    "fast": Subject(
        Case(
            "guarded:patch32",
            resolution=(64, 96),
            fit="crop",
            device="cpu",
            threads=1,
            vilt=ViltConfig(hidden_size=192, layers=4, heads=3, mlp_size=768),
        ),
        width=192,
        trial_rows=64,
    ),
    "patch32": Subject(
        Case("guarded:patch32", resolution=(384, 640), fit="crop", device="cpu"), width=768, trial_rows=1024
    ),
}
"""By name, which is a folder's."""


@dataclass(frozen=True)
class Aim:
    """How a gate is asked."""

    slowdown: float
    tolerance: float = TOLERANCE
    max_time_s: float = 300.0


TITLES = {
    "earlier": "patch32 at 384×640, gates of the rule before",
    "fast": "A model of some milliseconds a pass",
    "patch32": "patch32 at 384×640",
}
AIMS = (Aim(0.0), Aim(0.03, tolerance=0.015), Aim(0.05, max_time_s=180.0), Aim(0.1, max_time_s=90.0))
SOURCE = Path(__file__).with_name("slow_patch.py")
RESAMPLES = 40
"""Of a cell's gates."""
BUSY_STAGE = "visual_embedder.projection"
"""That does the extra work."""
HISTORY = 10
"""Earlier sessions that `compare` knows."""
BURST_S, DUTY = 3.0, 0.5
"""Processes of the load are busy so long at most, and so much of the time."""
CALIBRATION_S, LEAST_CALIBRATION_PASSES = 2.0, 15
"""Of passes of each side, and so many at least."""
CALIBRATIONS = 3
"""Each begins where the last one ended: few rows cost more each than many."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0, help="measuring time, about (0: what is there)")
    parser.add_argument("--output", type=Path, default=Path("results/gate"), help="folder of the pairs")
    parser.add_argument("--subject", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="what is gated")
    parser.add_argument(
        "--load", type=int, nargs="+", default=[0, 1, 2], help="busy processes of others for each core, on average"
    )
    slowdowns = [aim.slowdown for aim in AIMS]
    parser.add_argument("--slowdown", type=float, nargs="+", choices=slowdowns, default=slowdowns, help="extra work")
    parser.add_argument("--draws", type=int, default=2000, help="comparisons a cell")
    options = parser.parse_args()
    if options.minutes:
        collect(options)
    for name in ("earlier", *SUBJECTS):
        if (options.output / name / "gates.jsonl").exists():
            print(f"**{TITLES[name]}**\n\n{table(options.output / name, options)}")


def collect(options: argparse.Namespace) -> None:
    """Run gates, the cell that has fewest pairs first, until the time is over."""
    end_s = time.monotonic() + 60 * options.minutes
    rows: dict[tuple[str, float], int] = {}
    aims = [aim for aim in AIMS if aim.slowdown in options.slowdown]
    cells = [(name, load, aim) for aim in aims for load in options.load for name in options.subject]
    counts = {cell: len(pool(options.output / cell[0], cell[1], cell[2].slowdown)) for cell in cells}
    while True:
        left_s = end_s - time.monotonic()
        if not (fitting := [cell for cell in cells if cell[2].max_time_s <= left_s]):
            return
        name, load, aim = cell = min(fitting, key=counts.__getitem__)
        folder = options.output.resolve() / name
        if (name, aim.slowdown) not in rows:
            folder.mkdir(parents=True, exist_ok=True)
            rows[name, aim.slowdown] = calibrate(SUBJECTS[name], folder, aim.slowdown)
        with loaded(load / DUTY * len(os.sched_getaffinity(0))):
            found = gate(
                SUBJECTS[name].case,
                installation(folder, SUBJECTS[name], "baseline", 0),
                installation(folder, SUBJECTS[name], f"slower-{aim.slowdown:g}", rows[name, aim.slowdown]),
                max_time_s=aim.max_time_s,
                tolerance=aim.tolerance,
            )
        if len(found.runs) < 2:
            return
        for run in found.runs:
            store.save(without_stages(run), folder / f"load-{load}" / f"slower-{aim.slowdown:g}" / str(run.side))
        seen = found.comparison
        line = {
            "load": load,
            "slowdown": aim.slowdown,
            "tolerance": aim.tolerance,
            "max_time_s": aim.max_time_s,
            "verdict": seen.verdict,
            "spent_s": round(seen.spent_s, 1),
            "pairs": seen.baseline.processes,
        }
        with (folder / "gates.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(
            f"{name}, load {load}×, slower by {aim.slowdown:.0%}: {seen.verdict} after {seen.baseline.processes} "
            f"pairs, {seen.spent_s:.0f} s: {seen.total.reason}",
            file=sys.stderr,
            flush=True,
        )
        counts[cell] += max(1, seen.baseline.processes)
        if found.interrupted:
            return


def installation(folder: Path, subject: Subject, name: str, rows: int) -> Installation:
    """Returns an installation in whose folder the embedder does so much extra work."""
    home = folder / name
    home.mkdir(exist_ok=True)
    source = SOURCE.read_text().replace("ROWS = 0", f"ROWS = {rows}")
    source = source.replace("WIDTH, HIDDEN = 768, 3072", f"WIDTH, HIDDEN = {subject.width}, {4 * subject.width}")
    (home / "guarded.py").write_text(source)
    return Installation(name, folder=str(home))


def calibrate(subject: Subject, folder: Path, slowdown: float) -> int:
    """Returns the rows of extra work that take that share of a pass's CPU time."""
    if not slowdown:
        return 0
    rows = subject.trial_rows
    for _ in range(CALIBRATIONS):
        plain_s, extra_s = extra_work(subject, folder, rows)
        rows = max(1, round(rows * slowdown * plain_s / extra_s))
    print(
        f"a pass takes {1000 * plain_s:.1f} ms of CPU time, {100 * slowdown:g}% more are {rows} rows of extra work",
        file=sys.stderr,
        flush=True,
    )
    return rows


def extra_work(subject: Subject, folder: Path, rows: int) -> tuple[float, float]:
    """Returns the CPU time in seconds of a pass, and of so many rows of extra work in it.

    The latter is what they add to the stage that does them: less of it differs from process to process than of a pass.
    """
    workers = []
    for name, count in (("baseline", 0), ("calibration", rows)):
        worker = installation(folder, subject, name, count).start()
        worker.ask(Prepare(subject.case), Prepared)
        workers.append(worker)
    passes: list[float] = []
    stages: list[list[float]] = [[], []]
    while len(passes) < LEAST_CALIBRATION_PASSES or sum(passes) < CALIBRATION_S:
        for worker, stage in zip(workers, stages, strict=True):
            series = worker.ask(Sample(instrumented=True), Measured).series
            stage += series.of(BUSY_STAGE).cpu_time_s or ()
            if stage is stages[0]:
                passes += series.instrumented.cpu_time_s or ()
    for worker in workers:
        worker.close()
    plain_s, idle_s, busy_s = (fmean(sorted(seen)[: len(seen) // 2]) for seen in (passes, *stages))
    return plain_s, max(busy_s - idle_s, plain_s / 1000)


@contextlib.contextmanager
def loaded(processes: float) -> Iterator[None]:
    """Returns a context in which so many processes come and go; they end themselves when this one has been killed."""
    burst = f"""
import os, random, time
while os.getppid() == {os.getpid()}:
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
    """Returns the pairs of a cell of a subject's folder, by gate."""
    where = folder / f"load-{load}" / f"slower-{slowdown:g}"
    baselines, candidates = (map(without_stages, load_folder(where / side)) for side in ("baseline", "candidate"))
    others = {run.group: run for run in candidates}
    return [pairs_of(run, others[run.group]) for run in baselines if run.group in others]


def pool(folder: Path, load: int, slowdown: float) -> list[Pair]:
    """Returns the pairs of a cell."""
    return [pair for pairs in gates_of(folder, load, slowdown) for pair in pairs]


def without_stages(run: Run) -> Run:
    """Returns the record without the samples of stages, which are not judged here and would be most of it."""
    trials = [
        replace(trial, warmup=replace(trial.warmup, stages={}), samples=replace(trial.samples, stages={}))
        for trial in run.trials
    ]
    return replace(run, trials=tuple(trials))


def table(folder: Path, options: argparse.Namespace) -> str:
    """Returns what the gate reaches, as Markdown."""
    gates = run_gates(folder)
    lines = [
        "| load | extra work | tolerance | within | gates, pairs | slower by | regressed | inconclusive | unchanged "
        "| pairs a gate |",
        "|" + "---|" * 10,
    ]
    for load in options.load:
        for aim in aims_of(gates):
            cell = [each for each in gates if (each["load"], each["slowdown"]) == (load, aim.slowdown)]
            pairs = gates_of(folder, load, aim.slowdown)
            if sum(map(len, pairs)) < LEAST_UNITS:
                continue
            fit = math.floor(aim.max_time_s * sum(map(len, pairs)) / sum(each["spent_s"] for each in cell))
            lines.append(_row(load, aim, pairs, min(fit, max(LOOKS)), draws=options.draws))
    lines += ["", f"Measured on {_machine(folder)}.", "", *_gates(folder, gates), "", *_stored(folder, options)]
    return "\n".join(lines) + "\n"


def aims_of(gates: Sequence[Mapping[str, Any]]) -> list[Aim]:
    """Returns how gates were asked, and identical code likewise by the finest tolerance of any."""
    asked = {
        Aim(each["slowdown"], each.get("tolerance", TOLERANCE), each.get("max_time_s", Aim.max_time_s))
        for each in gates
    }
    finest = min((aim.tolerance for aim in asked), default=TOLERANCE)
    asked |= {replace(aim, tolerance=finest) for aim in asked if not aim.slowdown}
    return sorted(asked, key=lambda aim: (aim.slowdown, -aim.tolerance))


def _machine(folder: Path) -> str:
    environments = [run.environment for run in load_folder(folder) if run.environment is not None]
    where = {f"{it.machine}, {counted(it.threads, 'thread')}, torch {it.versions['torch']}" for it in environments}
    return "; ".join(sorted(where))


def _row(load: int, aim: Aim, gates: Sequence[list[Pair]], most: int, *, draws: int) -> str:
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
            if not aim.slowdown:
                drawn = [swapped(pair) if rng.random() < 0.5 else pair for pair in drawn]
            (total, _), count = decide(drawn, tolerance=aim.tolerance)
            verdicts[total.verdict] += 1
            used.append(count)
        for name, found in shares.items():
            found.append(100 * verdicts[name] / (draws // RESAMPLES))
    pairs = [pair for gate in gates for pair in gate]
    wall = evidence(pairs, WHOLE)[0]
    return (
        f"| {load}× | {aim.slowdown:.0%} | {100 * aim.tolerance:g}% | {aim.max_time_s:.0f} s "
        f"| {len(gates)}, {len(pairs)} | "
        f"{100 * wall.estimate:+.1f}% ± {100 * wall.half_width:.1f}% | "
        f"{' | '.join(map(_share, shares.values()))} | {fmean(used):.1f} of {most} |"
    )


def _share(resampled: Sequence[float]) -> str:
    low, high = (sorted(resampled)[round(share * (len(resampled) - 1))] for share in (0.025, 0.975))
    return f"{fmean(resampled):.1f}% [{low:.0f}, {high:.0f}]"


def swapped(pair: Pair) -> Pair:
    """Returns the pair with its sides exchanged."""
    return Pair(pair.candidate, pair.baseline)


def _stored(folder: Path, options: argparse.Namespace) -> Iterator[str]:
    """Yields what `compare` says of the gates' sides as sessions of their own: other hours, other loads."""
    sessions: dict[float, list[Run]] = {aim.slowdown: [] for aim in AIMS}
    for slowdown in list(sessions):
        for load in options.load:
            where = folder / f"load-{load}" / f"slower-{slowdown:g}"
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


def _gates(folder: Path, gates: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields what the gates said that were run in full: the only evidence of which each part is independent."""
    if not gates:
        return
    times = [each["spent_s"] for each in gates]
    yield f"{len(gates)} gates were run in full, {median(times):.0f} s in the median, {max(times):.0f} s at most:"
    yield ""
    for aim in AIMS:
        said = Counter(each["verdict"] for each in gates if each["slowdown"] == aim.slowdown)
        if said:
            told = ", ".join(f"{count} {verdict}" for verdict, count in said.most_common())
            yield f"- {aim.slowdown:.0%} of extra work: {told}"


if __name__ == "__main__":
    main()
