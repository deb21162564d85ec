"""How long `vilt-bench history` takes over many records, and how its change points compare with others'.

    python benchmarks/history.py [--records 10000] [--changes]

Makes records of the size that `vilt-bench run` saves for patch32, in a temporary folder, reads and analyses them, and
prints where the time went. `--changes` simulates histories instead, and counts false alarms and found slowdowns, beside
ruptures' PELT where that is installed.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from vilt_bench.ask.case import Case, Sampling
from vilt_bench.judge import history
from vilt_bench.judge.change_points import PENALTY, find_shifts
from vilt_bench.record import codec
from vilt_bench.record.load import read_folder
from vilt_bench.record.run import Environment, Run, Series, Source, Times, Trial
from vilt_bench.report import history as report

STAGES_S = {
    "textual_embedder": 0.00024,
    "visual_embedder.projection": 0.0091,
    "modality_interaction.concatenation": 0.00085,
    "modality_interaction.transformer": 0.348,
    "modality_interaction.pooler": 0.00038,
}
EMBEDDERS = ("patch32", "patch16", "grid-r50", "region-r101-c4", "region-grid")
PASSES = 24
"""Of each kind in each of three trials, as 60 s give patch32 on two cores."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=10_000, metavar="N")
    parser.add_argument("--changes", action="store_true", help="simulate histories instead")
    parser.add_argument("--histories", type=int, default=500, metavar="N", help="for --changes: of each kind")
    asked = parser.parse_args()
    if asked.changes:
        compare_change_points(asked.histories)
        return
    with tempfile.TemporaryDirectory() as folder:
        size = make(Path(folder), asked.records)
        print(f"{asked.records} records, {size / 2**20:.0f} MiB, {len(EMBEDDERS)} histories")
        with timed("reading the files"):
            contents = list(read_folder(folder))
        with timed("decoding them"):
            runs = [codec.decode(data, name=name) for name, data in contents if isinstance(data, bytes)]
        del contents, runs
        with timed("history(): reading, decoding, change points"):
            found = history.history(folder)
        with timed("the table"):
            report.render(found, "table")


@contextmanager
def timed(what: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    print(f"{what:44} {time.perf_counter() - wall:6.2f} s, of the processor {time.process_time() - cpu:6.2f} s")


def make(folder: Path, count: int) -> int:
    """Write records of a history with a slowdown in its last third; returns their bytes."""
    rng = random.Random(0)
    written = 0
    for index in range(count):
        name = EMBEDDERS[index % len(EMBEDDERS)]
        started_at = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=index)
        data = codec.encode(make_run(name, index, started_at, slower=1.05 if index > 2 * count / 3 else 1.0, rng=rng))
        (folder / f"{started_at:%Y-%m-%dT%H%M%SZ}-{name}-{index:08d}.json").write_bytes(data)
        written += len(data)
    return written


def make_run(name: str, index: int, started_at: datetime, *, slower: float, rng: random.Random) -> Run:
    run_noise = math.exp(rng.gauss(0, 0.015)) * slower

    def times(seconds: float) -> Times:
        walls = tuple(seconds * run_noise * (1 + rng.gauss(0, 0.01)) for _ in range(PASSES))
        return Times(wall_time_s=walls, cpu_time_s=tuple(2 * wall for wall in walls))

    def series() -> Series:
        stages = {stage: times(seconds) for stage, seconds in STAGES_S.items()}
        total = sum(STAGES_S.values())
        return Series(whole=times(total), stages=stages, instrumented=times(total), blocks=(4,) * (PASSES // 4))

    trials = tuple(Trial(trial, started_at.isoformat(), samples=series()) for trial in range(3))
    return replace(
        Run(f"{index:08d}", started_at.isoformat(), Case(name), Sampling(), "group"),
        environment=Environment("simulated", "0" * 12, "cpu", "simulated", 2, "PASSIVE", {"torch": "2.9.0"}, {}, {}),
        trials=trials,
        source=Source(f"{index // len(EMBEDDERS):040x}", "main", False, started_at.isoformat()),
    )


def compare_change_points(histories: int) -> None:
    """Print the share of identical histories called changed, and of 5% slowdowns found, by kind of noise."""
    rules: dict[str, Callable[[np.ndarray], object]] = {"ours": find_shifts}
    try:
        import ruptures
    except ImportError:
        print("ruptures is not installed: python -m pip install ruptures", file=sys.stderr)
    else:

        def pelt(values: np.ndarray) -> object:
            logs = np.log(values)
            penalty = PENALTY * float((np.diff(logs) ** 2).mean()) / 2 * math.log(len(logs))
            found = ruptures.KernelCPD(kernel="linear", min_size=3).fit(logs[:, None]).predict(pen=penalty)
            return found[:-1]

        rules["ruptures"] = pelt
    print(f"{histories} histories each, noise of 2% from run to run; called changed: identical / slower by 5%")
    for noise in (normal, heavy_tailed, with_outliers, correlated):
        for count in (12, 30, 100):
            rng = np.random.default_rng(0)
            same = [np.exp(noise(rng, count)) for _ in range(histories)]
            slower = [values * np.where(np.arange(count) < count // 2, 1.0, 1.05) for values in same]
            shares = [
                f"{rule} {100 * np.mean([bool(find(values)) for values in same]):5.1f}% / "
                f"{100 * np.mean([bool(find(values)) for values in slower]):3.0f}%"
                for rule, find in rules.items()
            ]
            print(f"{noise.__name__.replace('_', ' '):15} {count:4d} runs   {'   '.join(shares)}", flush=True)


def normal(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.normal(0, 0.02, count)


def heavy_tailed(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.standard_t(3, count) * 0.02 / math.sqrt(3)


def with_outliers(rng: np.random.Generator, count: int) -> np.ndarray:
    return normal(rng, count) + (rng.random(count) < 0.05) * rng.exponential(0.3, count)


def correlated(rng: np.random.Generator, count: int) -> np.ndarray:
    """Successive runs correlated by 0.3, as on a machine whose load comes and goes."""
    noise = rng.normal(0, 0.02 * math.sqrt(1 - 0.3**2), count)
    for place in range(1, count):
        noise[place] += 0.3 * noise[place - 1]
    return noise


if __name__ == "__main__":
    main()
