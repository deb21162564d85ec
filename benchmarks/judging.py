"""What reading, judging and writing many records costs: CPU seconds and peak memory of whole commands, by their number.

`python benchmarks/judging.py` makes records of about 60 kB in a temporary folder, the same each time, and runs each
command in a process of its own. Ratios are what carries over to another machine: the time of twice as many records
should be twice the time.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

import vilt_bench
from vilt_bench.ask.case import Case, Sampling
from vilt_bench.record.run import Environment, Model, Run, Series, Source, Stage, StageMemory, Times, Trial
from vilt_bench.record.store import save

STAGES_S = {
    "textual_embedder": 0.0002,
    "visual_embedder.backbone": 0.012,
    "visual_embedder.projection": 0.0008,
    "modality_interaction.concatenation": 0.0008,
    "modality_interaction.transformer": 0.09,
    "modality_interaction.pooler": 0.0003,
}
TRIALS, BLOCKS, PASSES = 3, 6, 6
"""As `vilt-bench run` makes them in a minute of passes of 0.1 s: about 60 kB a record."""
FIRST = datetime(2024, 1, 1, tzinfo=UTC)
MANY = ("history", "compare", "csv", "json", "markdown", "latex", "table", "join")
"""Commands for all sizes; pictures and pages are for the smallest, as they bound what they draw."""


@dataclass(frozen=True)
class Cost:
    """Of one command."""

    cpu_s: float
    wall_s: float
    peak_bytes: int
    code: int
    written_bytes: int


def made(index: int, rng: random.Random) -> Run:
    """Returns a record like those of a nightly job: one case, one machine, one commit each."""
    level = 1.0 + 0.002 * math.sin(index)

    def series() -> Series:
        count = BLOCKS * PASSES
        stages = {name: _times(level * latency_s, count, rng) for name, latency_s in STAGES_S.items()}
        whole = _times(level * sum(STAGES_S.values()), count, rng)
        return Series(whole=whole, stages=stages, instrumented=whole, blocks=(PASSES,) * BLOCKS)

    started_at = (FIRST + timedelta(hours=index)).isoformat(timespec="milliseconds")
    return Run(
        run_id=f"{index:032x}",
        started_at=started_at,
        case=Case("patch32"),
        sampling=Sampling(),
        group=f"{index:032x}",
        environment=Environment(
            machine="made",
            fingerprint="made",
            device="cpu",
            device_name="made",
            threads=2,
            omp_wait_policy="PASSIVE",
            versions={"torch": "2.14.1", "python": "3.11.7", "vilt-bench": vilt_bench.__version__},
            settings={"tf32": "no"},
            hardware={"processor": "made"},
        ),
        model=Model("linear", 768, 12, 12, (384, 576), 216, 40, "random", "random", "torch", ("synthetic",), "made"),
        stages=tuple(
            Stage(
                name=name,
                component=name.partition(".")[0],  # type: ignore[arg-type] - of the names above
                output="embeddings [1, 216, 768]",
                parameters=1_000_000,
                flops=1_000_000_000,
                memory=StageMemory(2**20, 2**22, 2**21),
            )
            for name in STAGES_S
        ),
        trials=tuple(Trial(trial, started_at, 1.0, 0.2, samples=series(), settled=True) for trial in range(TRIALS)),
        source=Source(f"{index:040x}", "main", dirty=False, committed_at=started_at),
    )


def _times(latency_s: float, count: int, rng: random.Random) -> Times:
    samples = tuple(latency_s * (1 + abs(rng.gauss(0, 0.01))) for _ in range(count))
    return Times(wall_time_s=samples, cpu_time_s=samples)


def make(folder: Path, count: int) -> int:
    """Write so many records; returns their bytes."""
    rng = random.Random(0)
    return sum(save(made(index, rng), folder).stat().st_size for index in range(count))


def commands(folder: Path, newest: Path, output: Path) -> Iterator[tuple[str, list[str]]]:
    """Returns each command's name and arguments."""
    yield "history", ["history", str(folder)]
    yield "compare", ["compare", str(folder), str(newest)]
    for format in ("csv", "json", "markdown", "latex", "table"):
        yield format, ["report", str(folder), "--format", format, "--output", str(output / f"report-{format}.txt")]
    yield "join", ["report", str(folder), "--join", "--format", "csv", "--output", str(output / "joined.csv")]
    for format in ("svg", "html"):
        yield format, ["report", str(folder), "--format", format, "--output", str(output / f"report.{format}")]


def cost(arguments: Sequence[str], output: Path) -> Cost:
    """Returns what a command costs as a whole process, by the system's own account of it."""
    with (output / "printed").open("wb") as printed:
        begin = time.perf_counter()
        child = subprocess.Popen([sys.executable, "-m", "vilt_bench.cli", *arguments], stdout=printed, stderr=printed)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(
        cpu_s=usage.ru_utime + usage.ru_stime,
        wall_s=time.perf_counter() - begin,
        peak_bytes=usage.ru_maxrss * unit,
        code=child.returncode,
        written_bytes=sum(file.stat().st_size for file in output.iterdir()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, nargs="+", default=[1000, 10_000], metavar="N")
    parser.add_argument("--only", nargs="+", metavar="COMMAND", help="of those in the table")
    asked = parser.parse_args()
    table = Table("Command", "Records", "CPU (s)", "ms a record", "Peak (MB)", "Written (MB)", "Exit code")
    for count in sorted(asked.records):
        with tempfile.TemporaryDirectory() as temporary:
            folder, newest, output = (Path(temporary) / name for name in ("records", "newest", "output"))
            output.mkdir()
            size = make(folder, count)
            save(made(count, random.Random(1)), newest)
            print(f"{count:,} records of {size / count / 1e3:.0f} kB", file=sys.stderr)
            for name, arguments in commands(folder, newest, output):
                if (asked.only and name not in asked.only) or (count > min(asked.records) and name not in MANY):
                    continue
                for file in output.iterdir():
                    file.unlink()
                found = cost(arguments, output)
                table.add_row(
                    name,
                    f"{count:,}",
                    f"{found.cpu_s:.1f}",
                    f"{1000 * found.cpu_s / count:.2f}",
                    f"{found.peak_bytes / 1e6:,.0f}",
                    f"{found.written_bytes / 1e6:,.1f}",
                    str(found.code),
                )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
