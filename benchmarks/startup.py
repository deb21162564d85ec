"""CPU time of the commands that need no torch, and what measuring adds to importing torch and building the model.

Each command is a fresh process, run in turn with the others; user and system time of the process and its children. As
in an installed package, bytecode is there already, whatever the environment says: it is written in a round that is not
counted. Prints Markdown.

    python benchmarks/startup.py --rounds 7
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

TINY = [
    "--hidden-size", "32", "--layers", "1", "--heads", "2", "--mlp-size", "64", "--text-length", "8",
    "--threads", "1", "--device", "cpu", "--resolution", "64x64",
]  # fmt: skip
RUN = ["run", "--embedder", "patch32", *TINY, "--trials", "1", "--max-time", "0.01", "--quiet"]
"""As few passes as there can be, of a model so small that they cost next to nothing."""
BUILD = """
import torch
from vilt_bench.ask.case import Case, ViltConfig
from vilt_bench.worker.build import build_model
from vilt_bench.embedding import ImageBatch, TextBatch
torch.set_num_threads(1)
model = build_model(Case("patch32", vilt=ViltConfig(hidden_size=32, layers=1, heads=2, mlp_size=64)))
with torch.inference_mode():
    model(ImageBatch(torch.zeros(1, 3, 64, 64)), TextBatch(torch.zeros(1, 8, dtype=torch.long)))
"""
"""Importing torch, building that model, and one pass of it, without the toolkit's measuring."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        cli = [sys.executable, "-m", "vilt_bench.cli"]
        measure = [*cli, *RUN, "--output", folder]
        cpu_s(measure, folder)
        (record,) = Path(folder).glob("*.json")
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "vilt-bench --help": [*cli, "--help"],
            "vilt-bench list": [*cli, "list"],
            "vilt-bench report RECORD": [*cli, "report", str(record)],
            "vilt-bench compare RECORD RECORD": [*cli, "compare", str(record), str(record)],
            "python -c 'import torch'": [sys.executable, "-c", "import torch"],
            "torch, model, one pass": [sys.executable, "-c", BUILD],
            "vilt-bench run": measure,
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(1 + rounds):
            for name, command in commands.items():
                spent_s = cpu_s(command, folder)
                if turn:
                    times[name].append(spent_s)
    print("| command | CPU time, s: median (least to most) |\n|---|--:|")
    for name, values in times.items():
        print(f"| `{name}` | {median(values):.2f} ({min(values):.2f} to {max(values):.2f}) |")
    added = [run - build for run, build in zip(times["vilt-bench run"], times["torch, model, one pass"], strict=True)]
    print(
        f"\nMeasuring adds {median(added):.2f} s ({min(added):.2f} to {max(added):.2f}) to torch, model and one pass."
    )


def cpu_s(command: list[str], folder: str) -> float:
    """Returns the CPU time in seconds of a process and its children; their bytecode is kept in the folder."""
    kept = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": os.path.join(folder, "bytecode"), "COLUMNS": "100"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **kept})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
