"""Is anything lost when `vilt-bench` is killed? Kills it at random moments, again and again, and counts.

Director, a measuring process, or both get SIGKILL, at a moment drawn from the time that a whole command takes: of `run`
with one case and with several (`sweep`), of the paper's rows, and of a gate. After each kill it is looked

- whether every file can be read, but for a torn last line of a journal,
- whether every block is there that a measuring process knows to be finished, as it was asked for the next one; those
  of a sweep's anchor, a complete case that is measured again for the drift and has no journal, are not looked for,
- whether a process is left after two seconds;

and the same command goes on with --resume, killed again, until it comes through: then there is one complete record a
case, with every block once. Most kills are of scripted processes: real processes on a real wire, whose passes sleep and
whose times are numbered, so that they cost a tenth; `--real` has torch in them. Prints Markdown, for docs/sweeps.md.

    python benchmarks/kills.py --kills 1000 --real 40 | python tools/marked.py docs/sweeps.md kills
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from vilt_bench import __version__, protocol, wire
from vilt_bench.ask.case import Case, Sampling
from vilt_bench.errors import RecordError
from vilt_bench.record import journal, load
from vilt_bench.record.run import Conditions, Environment, Model, Run, Series, Stage, Times

ENVIRONMENT = Environment("scripted", "f", "cpu", "cpu", 1, None, {}, {}, {})
MODEL = Model("linear", 32, 0, 0, (64, 64), 4, 0, "random", "random", "torch", ("synthetic",), "none")
STAGE = "visual_embedder.projection"
PASS_S = 0.001
CONDITIONS = Conditions(cpu_share=1.0)
LOG = "VILT_BENCH_KILLS_LOG"
"""Environment variable: where scripted processes write what they were asked for."""
RECORDS = "VILT_BENCH_KILLS_RECORDS"
"""Environment variable: where the records are, by which they know an anchor."""
GONE_WITHIN_S = 2.0
KINDS = ("run", "sweep", "paper", "gate")
VICTIMS = ("director", "worker", "both")
CASES = {"run": 1, "sweep": 4, "paper": 2, "gate": 1}
ROUNDS = 2
LONGEST_S = 120.0


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        serve()
        return
    if sys.argv[1:2] == ["direct"]:
        sys.exit(direct(sys.argv[2], sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="of scripted processes, over all commands")
    parser.add_argument("--only", choices=KINDS, help="one of the commands, which then gets all of --kills")
    parser.add_argument("--real", type=int, default=0, help="kills with real measuring processes, of `run`")
    parser.add_argument("--minutes", type=float, default=600.0, help="end after so long, with what was found by then")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    end_s = time.monotonic() + 60 * options.minutes
    kinds = (options.only,) if options.only else KINDS
    wanted = dict.fromkeys(kinds, options.kills // len(kinds)) | ({"real": options.real} if options.real else {})
    found = [Found(kind) for kind in wanted]
    whole_s = {kind: _whole_s(kind) for kind in wanted}
    while time.monotonic() < end_s:  # in turns, so that all have their share whenever it ends
        lacking = [each for each in found if sum(each.kills.values()) < wanted[each.kind]]
        if not lacking:
            break
        for each in lacking:
            hammer(each, wanted[each.kind], whole_s[each.kind], rng)
            sys.stderr.write(f"{each.kind}: {sum(each.kills.values())} kills, {each.faults}\n")
    print("\n".join(table(found)))
    sys.exit(any(each.faults for each in found))


@dataclass
class Found:
    """What kills of one command came to."""

    kind: str
    kills: Counter[str] = field(default_factory=Counter)
    completed: int = 0
    blocks: int = 0
    """That were known to be finished, and looked for."""
    longest_s: float = 0.0
    """Until the last process of a killed director was gone."""
    faults: list[str] = field(default_factory=list)


def table(found: list[Found]) -> Iterator[str]:
    """Yields the lines of a table of what was found."""
    titles = "command", "kills: director, worker, both", "finished blocks looked for", "longest-lived orphan", "faults"
    yield f"| {' | '.join(titles)} |"
    yield "|---|---:|---:|---:|---:|"
    for each in found:
        kills = ", ".join(str(each.kills[victim]) for victim in VICTIMS)
        told = (
            f"{sum(each.kills.values())}: {kills}",
            str(each.blocks),
            f"{each.longest_s:.2f} s",
            str(len(each.faults)),
        )
        yield f"| {each.kind}, {each.completed} times to the end | {' | '.join(told)} |"
    for each in found:
        yield from (f"- {each.kind}: {fault}" for fault in each.faults[:10])


def hammer(found: Found, kills: int, whole_s: float, rng: random.Random) -> None:
    """Kills one command in a new folder, as often as it takes until it has come through, so many times in all at most.

    Args:
        found: what there is of it; is added to.
        kills: in all folders.
        whole_s: what the whole command takes.
        rng: draws moments and victims.
    """
    with tempfile.TemporaryDirectory() as name:
        place = Place(found.kind, Path(name) / "records", Path(name) / "log")
        for _ in range(12):
            if sum(found.kills.values()) >= kills:
                break
            if not place.kill(rng.uniform(0.05, 1.1) * whole_s, rng.choice(VICTIMS), found):
                break
            if found.kind == "gate":
                break
        if found.kind != "gate":  # which is not gone on with
            place.complete(found)


def _whole_s(kind: str) -> float:
    with tempfile.TemporaryDirectory() as name:
        place = Place(kind, Path(name) / "records", Path(name) / "log")
        begin = time.monotonic()
        code = place.start().wait(LONGEST_S)
        if code != 0:
            raise SystemExit(f"{kind} ended with {code}")
        return time.monotonic() - begin


@dataclass
class Place:
    """A folder of records, and what measured into it."""

    kind: str
    folder: Path
    log: Path

    def start(self) -> subprocess.Popen[bytes]:
        """Returns the command, started; it goes on with what is in the folder."""
        environment = {
            **os.environ,
            LOG: str(self.log),
            RECORDS: str(self.folder),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        command = [sys.executable, __file__, "direct", self.kind, str(self.folder)]
        with (self.folder.parent / "errors").open("ab") as errors:
            return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)

    def kill(self, after_s: float, victim: str, found: Found) -> bool:
        """Returns whether it was killed, and not through before."""
        process = self.start()
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            pass
        else:
            return False
        children: list[psutil.Process] = []
        with suppress(psutil.Error):
            children = psutil.Process(process.pid).children(recursive=True)
        if victim == "worker" and not children:
            victim = "director"
        chosen = {"director": [], "worker": random.sample(children, min(1, len(children))), "both": children}[victim]
        for each in chosen:
            with suppress(psutil.Error):
                each.kill()
        if victim == "worker":
            process.wait(LONGEST_S)
        else:
            process.send_signal(signal.SIGKILL)
            process.wait(LONGEST_S)
            begin = time.monotonic()
            while any(map(_lives, children)) and time.monotonic() - begin < LONGEST_S:
                time.sleep(0.005)
            while self.left() and time.monotonic() - begin < LONGEST_S:  # one that had just been started
                time.sleep(0.05)
            lived_s = time.monotonic() - begin
            found.longest_s = max(found.longest_s, lived_s)
            if lived_s > GONE_WITHIN_S:
                found.faults.append(f"a process lived for {lived_s:.1f} s after its director")
        found.kills[victim] += 1
        self.look(found)
        return True

    def left(self) -> bool:
        """Returns whether a measuring process of this place is there."""
        for each in psutil.process_iter():
            with suppress(psutil.Error):
                if each.environ().get(LOG) == str(self.log) and each.status() != psutil.STATUS_ZOMBIE:
                    return True
        return False

    def look(self, found: Found) -> list[Run]:
        """Looks at all that is there."""
        runs = []
        for path in sorted(self.folder.glob("*")) if self.folder.is_dir() else []:
            try:
                if journal.is_journal(str(path)):
                    if journal.read_lines(path.read_bytes()).unreadable:
                        found.faults.append("a journal is torn in the middle")
                    runs.append(load.load(path))
                elif path.suffix == ".json":
                    runs.append(load.load(path))
            except RecordError as error:
                found.faults.append(f"torn file: {error}")
        if self.kind == "real":
            return runs
        known = {value for run in {run.run_id: run for run in runs}.values() for value in _values(run)}
        asked = self.finished()
        found.blocks += len(asked)
        if lost := asked - known:
            found.faults.append(f"{len(lost)} finished blocks lost")
        return runs

    def finished(self) -> set[float]:
        """Returns the first time of each block that the director was done with, as it asked for what comes after."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
        if self.kind == "gate":  # a pair is what is finished
            last = max((index for index, line in enumerate(lines) if line["asked"] == "Hello"), default=-1)
            begun = {line["process"]: index for index, line in reversed(list(enumerate(lines)))}
            over = {
                line["process"]
                for index, line in enumerate(lines[:last])
                # One that has nobody beside it was tried alone, after a failure.
                if line["asked"] == "Finish"
                and len({each["process"] for each in lines[begun[line["process"]] : index]}) > 1
            }
            return {line["value"] for line in lines[:last] if line["value"] is not None and line["process"] in over}
        again = self.repeats(lines)
        later: set[str] = set()
        done = set()
        for line in reversed(lines):
            if line["value"] is not None and line["process"] in later - again:
                done.add(line["value"])
            later.add(line["process"])
        return done

    def repeats(self, lines: list[dict[str, Any]]) -> set[str]:
        """Returns the processes that measured a group's anchor: of it no pass is to be kept, only the drift."""
        if self.kind != "sweep":  # the paper's rounds measure a complete case again, and keep it
            return set()
        return {line["process"] for line in lines if line["is_complete"]}

    def complete(self, found: Found) -> None:
        """Lets the command come through, and counts its records."""
        for _ in range(3):  # a worker that was killed last is a failure, which is tried again
            process = self.start()
            code = process.wait(LONGEST_S)
            runs = self.look(found)
            whole = [run for run in runs if not run.interrupted and run.failure is None]
            if code == 0:
                break
        expected = CASES.get(self.kind, 1) * (ROUNDS if self.kind == "paper" else 1)
        others = 0 if self.kind == "paper" else len(runs) - len(whole)
        if code != 0 or len(whole) != expected or others:
            errors = (self.folder.parent / "errors").read_text().splitlines()[-1:]
            found.faults.append(f"{len(whole)} of {expected} records, {others} others, exit code {code}: {errors}")
        for run in runs:
            values = list(_values(run))
            if self.kind != "real" and len(values) != len(set(values)):  # real ones are alike by chance
                found.faults.append("a block is there twice")
        found.completed += 1


def _lives(process: psutil.Process) -> bool:
    """Returns whether a process is there, and not only its number, until somebody asks how it ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _values(run: Run) -> Iterator[float]:
    for trial in run.trials:
        for series in (trial.warmup, trial.samples):
            yield from series.whole.wall_time_s or ()


# The scripted side: what is started in place of `python -m vilt_bench`, and of its measuring processes.


def direct(kind: str, folder: str) -> int:
    """Measures into a folder, or goes on there."""
    from vilt_bench.cli import keeping
    from vilt_bench.cli import main as command
    from vilt_bench.director import process
    from vilt_bench.paper.measuring import measure_rows

    tiny = ["--interaction", "none", "--hidden-size", "32", "--resolution", "64x64", "--threads", "1"]
    effort = ["--quiet", "--trials", "2", "--precision", "0.0001", "--output", folder]
    resume = ["--resume"] if os.path.isdir(folder) else []
    if kind == "real":
        return command(["run", "patch32", *tiny, *effort, "--max-time", "1", *resume])
    start_child = process.start_child
    process.start_child = lambda command, **options: start_child([command[0], __file__, "serve"], **options)
    keeping.here = lambda device, threads: ENVIRONMENT
    match kind:
        case "run":
            return command(["run", "patch32", *tiny, *effort, "--max-time", "0.6", *resume])
        case "sweep":
            axes = ["patch32", "patch16", "--batch-size", "1,2", "--together", "2"]  # the second group has an anchor
            return command(["run", *axes, *tiny, *effort, "--max-time", "0.6", *resume])
        case "paper":
            rows = {"ViLT-B/32": Case("patch32"), "patch16": Case("patch16")}
            sampling = Sampling(precision=0.0001, max_time_s=0.3)
            done = measure_rows(rows, folder, sampling=sampling, rounds=ROUNDS, here=ENVIRONMENT)
            return 0 if all(run.failure is None for run in done.runs.values()) else 2
        case _:
            sides = ["--baseline-python", sys.executable, "--max-time", "4"]
            code = command(["gate", "patch32", *tiny, *sides, "--quiet", "--output", folder])
            return 0 if code in (0, 1, 3) else code


def serve() -> None:
    """Answers as a measuring process does, and tells a file what it was asked for."""
    owner = wire.attach()
    process = uuid4().hex  # the system gives a number again, and soon where much is started
    log = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def block(passes: int) -> Series:
        values = []
        for _ in range(passes):
            time.sleep(2 * PASS_S)
            values.append(PASS_S * (1 + 1e-3 * random.random()))  # no two alike, by which they are known
        times = Times(wall_time_s=tuple(values))
        return Series(times, {STAGE: times}, times, (passes,))

    for line in owner.requests:
        request = protocol.decode_request(line)
        value = None
        is_complete = False
        reply: protocol.Reply
        match request:
            case protocol.Hello():
                reply = protocol.Welcome(protocol.VERSION, __version__, str(Path(wire.__file__).parent))
            case protocol.Prepare(case):
                is_complete = _has_record(case)
                reply = protocol.Prepared("2026-01-01T00:00:00+00:00", 0.1, PASS_S, ENVIRONMENT, MODEL)
            case protocol.Count():
                reply = protocol.Counted((Stage(STAGE, "visual_embedder", "[]", 1),), None, ())
            case protocol.Measure(seconds):
                series = block(max(1, round(seconds / PASS_S / 2)))
                reply, value = protocol.Measured(series), (series.whole.wall_time_s or (None,))[0]
            case protocol.Sample(instrumented):
                series = block(1)
                series = (
                    replace(series, whole=Times(), blocks=())
                    if instrumented
                    else replace(series, stages={}, instrumented=Times())
                )
                reply = protocol.Measured(replace(series, blocks=(1,)))
                value = None if instrumented else (series.whole.wall_time_s or (None,))[0]
            case protocol.MeasureEnergy():
                reply = protocol.EnergyMeasured(None)
            case protocol.Finish():
                reply = protocol.Finished(CONDITIONS)
        told = {"process": process, "asked": type(request).__name__, "value": value, "is_complete": is_complete}
        os.write(log, json.dumps(told).encode() + b"\n")
        owner.replies.write(protocol.encode(reply) + b"\n")
        owner.replies.flush()
        if isinstance(request, protocol.Finish):
            return


def _has_record(case: Case) -> bool:
    """Returns whether a case is complete; what goes on with a failed one takes its record away first."""
    runs = map(load.load, Path(os.environ[RECORDS]).glob("*.json"))
    return any(run.case == case and run.failure is None and not run.interrupted for run in runs)


if __name__ == "__main__":
    main()
