"""What directing costs: CPU seconds of the process that directs, while a scripted worker answers at once.

`python benchmarks/directing.py` directs a trial that never becomes precise, by its number of blocks, on a scripted
clock. Nothing is measured by it: the worker hands over the same made blocks again and again. Ratios are what carries
over to another machine: twice as many blocks should take twice the time.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from vilt_bench import protocol
from vilt_bench.ask.case import Case, Sampling
from vilt_bench.director.draft import WARMUP_SHARE
from vilt_bench.director.measure import LONGEST_BLOCK_S, WARMUP_BLOCK_S, measure_together
from vilt_bench.director.process import ReplyT
from vilt_bench.record.run import Conditions, Environment, Model, Run, Series, Times

STAGES = (
    "textual_embedder",
    "visual_embedder.backbone",
    "visual_embedder.projection",
    "modality_interaction.concatenation",
    "modality_interaction.transformer",
    "modality_interaction.pooler",
)
ENVIRONMENT = Environment("made", "made", "cpu", "made", 2, "PASSIVE", {}, {}, {})
MODEL = Model("linear", 768, 12, 12, (384, 576), 216, 40, "random", "random", "torch", ("synthetic",), "made")
MADE = 8
"""Blocks of samples that differ."""
WARMUP_GROWTH = 1.1
"""From block to block: such a warm-up never settles, and takes all the time that it may."""


def made(pairs: int, level: float, rng: random.Random) -> Series:
    """Returns a block of so many pairs of passes."""

    def times() -> Times:
        samples = tuple(level * (1 + abs(rng.gauss(0, 0.05))) for _ in range(pairs))
        return Times(wall_time_s=samples, cpu_time_s=samples)

    return Series(times(), {name: times() for name in STAGES}, times(), (pairs,))


@dataclass
class Worker:
    """Answers what a measuring process would, from made blocks that drift; owns the clock."""

    samples: list[Series]
    warmup: list[Series]
    now_s: float = 0.0
    asked: int = 0

    def ask(self, request: protocol.Request, expected: type[ReplyT]) -> ReplyT:
        """Returns the reply at once."""
        reply: protocol.Reply
        match request:
            case protocol.Prepare():
                reply = protocol.Prepared("2026-01-01T00:00:00+00:00", 0.5, 0.01, ENVIRONMENT, MODEL)
            case protocol.Measure(seconds):
                self.asked += 1
                self.now_s += seconds
                made = self.warmup if seconds == WARMUP_BLOCK_S else self.samples
                reply = protocol.Measured(made[self.asked % len(made)])
            case protocol.MeasureEnergy():
                reply = protocol.EnergyMeasured(None)
            case _:
                reply = protocol.Finished(Conditions())
        assert isinstance(reply, expected)
        return reply

    def close(self) -> None:
        """Nothing is to be ended."""

    def kill(self) -> None:
        """Nothing is to be ended."""


def direct(blocks: int, pairs: int) -> tuple[Run, float]:
    """Returns the run of a trial of so many blocks, and the CPU seconds that directing it took."""
    rng = random.Random(0)
    max_time_s = blocks * LONGEST_BLOCK_S / (1 - WARMUP_SHARE)
    few = made(max(1, round(pairs * WARMUP_BLOCK_S / LONGEST_BLOCK_S)), 1.0, rng)
    count = few.blocks[0]
    warmup = [
        replace(few, whole=Times(wall_time_s=tuple(WARMUP_GROWTH ** (index + each / count) for each in range(count))))
        for index in range(round(WARMUP_SHARE * max_time_s / WARMUP_BLOCK_S))
    ]
    worker = Worker([made(pairs, 1 + 0.03 * index, rng) for index in range(MADE)], warmup)
    sampling = Sampling(trials=1, max_time_s=max_time_s, precision=1e-6)
    begin_s = time.process_time()
    (run,) = measure_together(
        [Case("patch32")], sampling, start_worker=lambda: worker, clock=lambda: worker.now_s, count=False
    )
    return run, time.process_time() - begin_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[50, 100, 200, 400], metavar="N")
    parser.add_argument("--pairs", type=int, default=3000, metavar="N", help="pairs of passes in each")
    asked = parser.parse_args()
    table = Table("Blocks", "Warm-up blocks", "Pairs of passes", "CPU (s)", "µs a pair", "Peak (MB)")
    for blocks in sorted(asked.blocks):
        run, cpu_s = direct(blocks, asked.pairs)
        (trial,) = run.trials
        pairs = trial.samples.passes + trial.warmup.passes
        unit = 1 if sys.platform == "darwin" else 1024
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        table.add_row(
            str(len(trial.samples.blocks)),
            str(len(trial.warmup.blocks)),
            f"{pairs:,}",
            f"{cpu_s:.2f}",
            f"{1e6 * cpu_s / pairs:.2f}",
            f"{peak_bytes / 1e6:,.0f}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
