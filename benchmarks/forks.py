"""Would a gate's pairs be as independent if its processes were forked of one that has imported torch?

Processes time the same work: some are started afresh, as a gate's are, some are forked of a few servers that have
imported torch, which is sooner done, and some of these move their memory by a random distance first. What all forks of
a server have in common is no noise that more pairs take away: with a server a side it stays in each comparison,
whatever their number. All take turns, so that drift of the machine hits all alike. Prints Markdown, for docs/gate.md.

    python benchmarks/forks.py | python tools/marked.py docs/gate.md forks
"""

from __future__ import annotations

import argparse
import math
import mmap
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Literal

import numpy as np
from scipy import stats

Kind = Literal["fresh", "forked", "moved"]
TITLES: dict[Kind, str] = {
    "fresh": "started afresh",
    "forked": "forked of a server",
    "moved": "forked, memory moved at random",
}
WORKS = ("convolution", "transformer")
WARMUP, PASSES = 5, 60
MOST_MOVED_BYTES = 64 << 20


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=10, help="of each kind of work and of forks")
    parser.add_argument("--forks", type=int, default=7, help="of each server")
    options = parser.parse_args()
    if min(options.servers, options.forks) < 2:
        parser.error("--servers and --forks must be at least 2, for their spread")
    print("| work | process | processes | spread | shared by a server's forks | CPU time to start |")
    print("|---|---|---|---|---|---|")
    for work in WORKS:
        for kind, (logs, start_s) in timed(work, options.servers, options.forks).items():
            print(row(work, kind, logs, start_s), flush=True)
    import torch  # here: help and servers need none of it

    from vilt_bench.machine.environment import collect

    where = collect(torch.device("cpu"), threads=1)
    print(
        f"\nMeasured on {where.machine}, one thread a process, torch {where.versions['torch']}; "
        f"{options.servers} servers of a kind, {options.forks} forks each."
    )


def timed(work: str, servers: int, forks: int) -> dict[Kind, tuple[np.ndarray, float]]:
    """Returns by kind the logarithms of CPU time a pass (forks, servers), and that of a process's start in seconds."""
    running = {kind: [Server(work, kind) for _ in range(servers)] for kind in TITLES if kind != "fresh"}
    logs: dict[Kind, list[list[float]]] = {kind: [] for kind in TITLES}
    starts_s: dict[Kind, list[float]] = {kind: [] for kind in TITLES}
    for turn in range(forks):
        seen: dict[Kind, list[float]] = {kind: [] for kind in TITLES}
        for index in range(servers):
            for kind in TITLES:
                server = Server(work, kind) if kind == "fresh" else running[kind][index]
                pass_s, start_s = server.fork()
                seen[kind].append(math.log(pass_s))
                starts_s[kind].append(start_s + (server.start_s if kind == "fresh" else 0.0))
                if kind == "fresh":
                    server.close()
        for kind, values in seen.items():
            logs[kind].append(values)
        print(f"{work}: {turn + 1} of {forks}", file=sys.stderr, flush=True)
    for kind in running.values():
        for server in kind:
            server.close()
    return {kind: (np.array(logs[kind]), median(starts_s[kind])) for kind in TITLES}


def row(work: str, kind: Kind, logs: np.ndarray, start_s: float) -> str:
    """Returns a row: the spread within a server, and that which its forks share with its 95% interval.

    By analysis of variance of one random effect, its exact interval by F.
    """
    forks, servers = logs.shape
    within = logs.var(axis=0, ddof=1).mean()
    between = forks * logs.mean(axis=0).var(ddof=1)
    shared = math.sqrt(max(0.0, (between - within) / forks))
    freedom = (servers - 1, servers * (forks - 1))
    low, high = (
        math.sqrt(max(0.0, within * (between / within / stats.f.ppf(at, *freedom) - 1) / forks))
        for at in (0.975, 0.025)
    )
    told = f"{100 * shared:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"
    return (
        f"| {work} | {TITLES[kind]} | {logs.size} | {100 * math.sqrt(within):.1f}% "
        f"| {told if kind != 'fresh' else ''} | {start_s:.2f} s |"
    )


class Server:
    """A process that has imported torch, and forks others."""

    def __init__(self, work: str, kind: Kind) -> None:
        """Start it, and wait until it has imported all."""
        command = [sys.executable, __file__, "--serve", work, kind]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.start_s = float(self._read())

    def fork(self) -> tuple[float, float]:
        """Returns a pass's median CPU time in a new fork, and the CPU time in which it was ready, both in seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write("fork\n")
        self._process.stdin.flush()
        pass_s, start_s = map(float, self._read().split())
        return pass_s, start_s

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise SystemExit("a server ended early: see above what it said")
        return line


def serve(work: str, kind: str) -> None:
    """Fork a process for each line of the input, as long as there are any."""
    import torch  # here: that is what is timed

    print(time.process_time(), flush=True)
    for _ in sys.stdin:
        if (child := os.fork()) == 0:
            begin_s = time.process_time()
            keep = moved() if kind == "moved" else []
            torch.set_num_threads(1)
            run = made(work)
            run()
            start_s = time.process_time() - begin_s
            for _ in range(WARMUP):
                run()
            print(median(timed_s(run) for _ in range(PASSES)), start_s, flush=True)
            del keep
            os._exit(0)
        os.waitpid(child, 0)


def moved() -> list[object]:
    """Returns memory of a random size that lies before what comes next, in mappings and in the heap."""
    rng = random.Random(os.urandom(8))
    pages = rng.randrange(MOST_MOVED_BYTES // mmap.PAGESIZE)
    return [
        mmap.mmap(-1, mmap.PAGESIZE * (1 + pages)),
        *(bytes(rng.randrange(1, 2000)) for _ in range(rng.randrange(2000))),
    ]


def made(work: str) -> Callable[[], object]:
    """Returns a pass of some milliseconds, with weights and input of its own."""
    import torch

    layer: torch.nn.Module
    if work == "convolution":
        layer, value = torch.nn.Conv2d(64, 64, 3, padding=1), torch.randn(1, 64, 56, 56)
    else:
        layer, value = torch.nn.TransformerEncoderLayer(192, 3, 768, batch_first=True), torch.randn(1, 60, 192)
        layer = torch.nn.Sequential(layer, torch.nn.TransformerEncoderLayer(192, 3, 768, batch_first=True))
    layer.eval()

    def run() -> object:
        with torch.inference_mode():
            return layer(value)

    return run


def timed_s(run: Callable[[], object]) -> float:
    """Returns the CPU time of a pass."""
    begin_s = time.process_time()
    run()
    return time.process_time() - begin_s


if __name__ == "__main__":
    main()
