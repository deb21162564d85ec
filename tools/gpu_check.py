"""Proves the toolkit on a GPU, step by step, in under ten minutes: what works there, and what does not.

Goes on after a step that fails. Writes a folder `results/gpu-NAME/`: records, the paper's report, Figure 1, and
README.md and check.json, which say what came of each step. Exit code 0 where no step failed, else 3; 2: no such device.

    python tools/gpu_check.py                  # or: make gpu-check
    PYTHONPATH=tests/device/site LAGGING_COST=0.0003 python tools/gpu_check.py --device lagging --small
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Literal

import torch

from vilt_bench import Case, Installation, ViltBenchError, ViltConfig, gate
from vilt_bench.judge.remarks import Failed, OutputDeviates, Remark, SumOfStages, WorkUnseen, remarks
from vilt_bench.machine.device import resolve_device
from vilt_bench.machine.environment import collect
from vilt_bench.paper.models import ROWS
from vilt_bench.protocol import Measured, Prepare, Prepared, Sample
from vilt_bench.record import store
from vilt_bench.record.load import load_folder
from vilt_bench.record.run import SLOWDOWNS, WHOLE, Environment, Run
from vilt_bench.worker import backends

ROOT = Path(__file__).parents[1]
SLOW_PATCH = ROOT / "benchmarks/slow_patch.py"
SLOWDOWN = 0.05
CALIBRATION_REPEATS, CALIBRATION_PASSES, EXTRA_ROWS = 40, 15, 64
LAST_WORD_S = 20.0
"""For a command whose time is over to keep what it has measured."""
SUM_OF_STAGES = 0.05
"""By which the sum of stages may differ from the whole: what shares are worth."""
EMBEDDERS = ("patch32", "grid-r50", "region-r101-c4")
SMALL_EMBEDDERS, SMALL_ROWS = ("patch32", "grid-r50"), ("ViLT-B/32",)
SMALL = ViltConfig(hidden_size=32, layers=2, heads=2, mlp_size=64)
SMALL_FLAGS = ["--resolution", "128x128", "--hidden-size", "32", "--layers", "2", "--heads", "2", "--mlp-size", "64"]

Verdict = Literal["good", "failed", "left out"]


class ProblemError(Exception):
    """What a step was to prove is not so."""


class NotHereError(Exception):
    """This machine has not what a step needs."""


@dataclass(frozen=True)
class Step:
    """One thing to prove."""

    name: str
    limit_s: float
    prove: Callable[[Check, float], str]
    """Given the check and its seconds; returns what was seen, or raises."""


@dataclass(frozen=True)
class Finding:
    """What came of a step."""

    step: str
    verdict: Verdict
    told: str
    took_s: float


@dataclass
class Check:
    """The device, where results go, and what was found so far."""

    device: torch.device
    folder: Path
    small: bool
    sides: Path
    """Of the gate; they are not kept."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def embedders(self) -> Sequence[str]:
        """Those of the main job."""
        return SMALL_EMBEDDERS if self.small else EMBEDDERS

    @cached_property
    def case(self) -> Case:
        """What the gate guards."""
        device = str(self.device)
        if self.small:
            return Case("guarded:patch32", resolution=(128, 128), fit="crop", device=device, vilt=SMALL)
        return Case("guarded:patch32", resolution=(384, 640), fit="crop", device=device)

    def runs(self, folder: str) -> list[Run]:
        """Returns the newest run of each embedder and backend in a folder of records.

        Raises:
            ProblemError: there is none, or one has failed.
        """
        found = {(run.case.embedder, run.case.backend): run for run in load_folder(self.folder / folder)}
        if not found:
            raise ProblemError("no record was saved")
        return list(found.values())

    def vilt_bench(self, *arguments: str, limit_s: float) -> str:
        """Runs the command; returns what it printed.

        Raises:
            ProblemError: it failed, or the time was over.
        """
        return command([sys.executable, "-m", "vilt_bench", *arguments], limit_s=limit_s)


def command(arguments: Sequence[str], *, limit_s: float) -> str:
    """Runs a program in the repository's folder; returns what it printed.

    Raises:
        ProblemError: it failed, or the time was over.
    """
    with subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # upon which vilt-bench ends its workers, and saves what it has
            try:
                out, err = process.communicate(timeout=LAST_WORD_S)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                out, err = process.communicate()
            raise ProblemError(f"its {limit_s:.0f} s were over") from None
    if process.returncode:
        said = (err.strip() or out.strip() or "it said nothing").splitlines()
        raise ProblemError(f"exit code {process.returncode}: {said[-1]}")
    return out


def main() -> int:
    """Prove what can be proven, and write down what came of it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="of torch's (default: cuda)")
    parser.add_argument("--output", type=Path, help="folder of the results (default: results/gpu-NAME)")
    parser.add_argument("--minutes", type=float, default=10.0, help="after which no step begins (default: 10)")
    parser.add_argument("--steps", nargs="+", metavar="NAME", choices=[step.name for step in STEPS], help="only these")
    parser.add_argument("--small", action="store_true", help="small models: to try the check itself on a slow device")
    options = parser.parse_args()
    if paths := os.environ.get("PYTHONPATH"):  # processes run in other folders too
        os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, paths.split(os.pathsep)))
    try:
        device = resolve_device(options.device)
        environment = collect(device, threads=torch.get_num_threads())
    except ViltBenchError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    name = re.sub(r"\W+", "-", environment.device_name.lower()).strip("-")
    folder = (options.output or ROOT / "results" / f"gpu-{name}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [step for step in STEPS if options.steps is None or step.name in options.steps]
    with TemporaryDirectory() as sides:
        check = Check(device, folder, options.small, Path(sides))
        prove_all(wanted, check, environment, minutes=options.minutes)
    failed = [found.step for found in check.findings if found.verdict == "failed"]
    print(f"wrote {folder / 'README.md'}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 3 if failed else 0


def prove_all(steps: Sequence[Step], check: Check, environment: Environment, *, minutes: float) -> None:
    """Take the steps, and say what comes of each."""
    begin_s = time.monotonic()
    for index, step in enumerate(steps, 1):
        print(f"{index}/{len(steps)} {step.name} …", end=" ", flush=True)
        left_s = 60 * minutes - (time.monotonic() - begin_s)
        found = prove(step, check, left_s)
        check.findings.append(found)
        print(f"{found.verdict} ({found.took_s:.0f} s): {found.told}", flush=True)
        # After each step, so that nothing is lost where the machine goes down.
        write(check, environment.device_name, environment.versions)


def prove(step: Step, check: Check, left_s: float) -> Finding:
    """Returns what came of a step, whatever it raises."""
    begin_s = time.monotonic()

    def found(verdict: Verdict, told: str) -> Finding:
        return Finding(step.name, verdict, told, time.monotonic() - begin_s)

    if left_s <= 0:
        return found("failed", "not begun: the time was over")
    try:
        return found("good", step.prove(check, min(step.limit_s, left_s)))
    except NotHereError as reason:
        return found("left out", str(reason))
    except ProblemError as problem:
        return found("failed", str(problem))
    except Exception as error:  # a fault of the check, or of what it looks at: the other steps are to be seen too
        return found("failed", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")


def prove_tests(check: Check, limit_s: float) -> str:
    """The tests that need a GPU pass."""
    if check.device.type != "cuda":
        raise NotHereError("tests marked `gpu` are of CUDA's devices")
    # Each file by itself is found by its mark, so that no time goes into collecting all others.
    files = [str(path) for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text()]
    out = command(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files], limit_s=limit_s
    )
    return out.strip().splitlines()[-1].strip("= ")


def prove_main_job(check: Check, limit_s: float) -> str:
    """Stages are timed by device events and add up, memory is told, nothing works unseen."""
    sizes = [*SMALL_FLAGS, "--max-time", "3"] if check.small else ["--max-time", "8"]
    check.vilt_bench(
        *("run", *check.embedders, "--device", str(check.device), "--output", str(check.folder / "records"), *sizes),
        *("--trials", "1"),
        limit_s=limit_s,
    )
    told = []
    for run in check.runs("records"):
        told.append(f"{run.case.embedder} {1000 * device_s(run):.3g} ms")
        examine(run)
    return ", ".join(told) + " (device time of the whole); stages add up, peak memory is told of each"


def examine(run: Run) -> None:
    """Look at a run of the main job.

    Raises:
        ProblemError: it lacks something that a GPU's record has, or its numbers contradict each other.
    """
    name = run.case.embedder
    said = remarks(run)
    if run.failure is not None:
        raise ProblemError(f"{name}: {run.failure.kind} in {run.failure.stage}: {run.failure.message}")
    for stage in run.stages:
        if not all(trial.samples.of(stage.name).device_time_s for trial in run.trials):
            raise ProblemError(f"{name}: {stage.name} has no device times")
        if stage.memory is None:
            raise ProblemError(f"{name}: {stage.name} has no peak memory")
    for remark in said:
        if isinstance(remark, SumOfStages) and remark.found == "large" and abs(remark.share) > SUM_OF_STAGES:
            raise ProblemError(f"{name}: the sum of stages is {100 * remark.share:+.1f}% from the whole")
        if isinstance(remark, WorkUnseen):
            raise ProblemError(f"{name}: {100 * remark.share:.0f}% of the pass is in no device time")
        refuse(name, remark)


def refuse(name: str, remark: Remark) -> None:
    """Refuse a remark of an answer that is wrong.

    Raises:
        ProblemError: it is one.
    """
    if isinstance(remark, OutputDeviates):
        raise ProblemError(f"{name}: outputs deviate from eager float32's: {remark.parts}")
    if isinstance(remark, Failed):
        raise ProblemError(f"{name}: {remark.message}")


def device_s(run: Run, stage: str = WHOLE) -> float:
    """Returns the median device time of a stage, in seconds.

    Raises:
        ProblemError: it has none.
    """
    times = [value for trial in run.trials for value in trial.samples.of(stage).device_time_s or ()]
    if not times:
        raise ProblemError(f"{run.case.embedder}: no device times of {stage}")
    return median(times)


def prove_figure(check: Check, limit_s: float) -> str:
    """Figure 1 is drawn of the main job, beside the paper's."""
    path = check.folder / "figure-1.svg"
    records = str(check.folder / "records")
    check.vilt_bench("report", records, "--with-paper", "--output", str(path), limit_s=limit_s)
    if not path.exists() or "</svg>" not in path.read_text():
        raise ProblemError(f"{path.name} is no picture")
    return f"{path.name}, of {len(check.runs('records'))} embedders"


def prove_table(check: Check, limit_s: float) -> str:
    """The rows of the paper's Table 6 are measured."""
    rows = SMALL_ROWS if check.small else tuple(ROWS)
    folder = check.folder / "paper"
    over = None
    try:
        check.vilt_bench(
            *("paper", "--measure", "--rows", *rows, "--device", str(check.device), "--output", str(folder)),
            *("--trials", "1", "--max-time", "3"),
            limit_s=limit_s,
        )
    except ProblemError as problem:
        over = problem
    found = [run for run in load_folder(folder / "records") if device_s(run)]
    if over is not None or len(found) < len(rows):
        raise ProblemError(f"{len(found)} of {len(rows)} rows were measured: {over or 'the others were not saved'}")
    return f"{len(rows)} rows; see paper/README.md"


def prove_same(check: Check, limit_s: float) -> str:
    """The gate does not call identical code slower."""
    told, verdict = gated(check, 0, limit_s)
    if verdict not in ("unchanged", "inconclusive"):
        raise ProblemError(f"identical code is {told}")
    return told


def prove_slower(check: Check, limit_s: float) -> str:
    """The gate finds 5% of extra work."""
    begin_s = time.monotonic()
    repeats, share = calibrated(check)
    told, verdict = gated(check, repeats, limit_s - (time.monotonic() - begin_s))
    if verdict != "regressed":
        raise ProblemError(f"{100 * share:.1f}% of extra work is {told}")
    return f"{100 * share:.1f}% of extra work: {told}"


def gated(check: Check, repeats: int, limit_s: float) -> tuple[str, str]:
    """Returns what the gate says, in words and as its verdict."""
    outcome = gate(check.case, side(check, 0), side(check, repeats), max_time_s=max(10.0, limit_s))
    if outcome.problem is not None:
        raise ProblemError(str(outcome.problem))
    store.save_all(list(outcome.runs), check.folder / "gate")
    found = outcome.comparison
    return f"{found.verdict}, {found.total.reason} ({found.baseline.processes} pairs)", found.verdict


def side(check: Check, repeats: int) -> Installation:
    """Returns an installation in whose folder the embedder repeats its extra work so many times."""
    home = check.sides / f"repeats-{repeats}"
    home.mkdir(exist_ok=True)
    source = SLOW_PATCH.read_text().replace("ROWS = 0", f"ROWS = {EXTRA_ROWS if repeats else 0}")
    if check.small:
        source = source.replace("WIDTH, HIDDEN = 768, 3072", "WIDTH, HIDDEN = 32, 32")
    (home / "guarded.py").write_text(source.replace("REPEATS = 1", f"REPEATS = {repeats}"))
    return Installation(home.name, folder=str(home))


def calibrated(check: Check) -> tuple[int, float]:
    """Returns how often to repeat the extra work for a slowdown of 5%, by device time, and the share that it makes."""
    with passes(check, 0) as plain_s, passes(check, CALIBRATION_REPEATS) as busy_s:
        pairs = [(plain_s(), busy_s()) for _ in range(CALIBRATION_PASSES)]
    plain = median(each for each, _ in pairs)
    once = (median(each for _, each in pairs) - plain) / CALIBRATION_REPEATS
    if once <= 0:
        raise ProblemError("extra work takes no device time")
    repeats = max(1, round(SLOWDOWN * plain / once))
    return repeats, repeats * once / plain


@contextmanager
def passes(check: Check, repeats: int) -> Iterator[Callable[[], float]]:
    """Returns a context with a function that runs a pass with so much extra work, and returns its device time."""
    worker = side(check, repeats).start()
    try:
        worker.ask(Prepare(check.case), Prepared)

        def timed() -> float:
            times = worker.ask(Sample(instrumented=False), Measured).series.whole.device_time_s
            if not times:
                raise ProblemError("passes have no device times")
            return times[0]

        yield timed
    finally:
        worker.close()


def prove_graphs(check: Check, limit_s: float) -> str:
    """Stages captured as CUDA graphs compute the same, and no slower."""
    if "cudagraph" not in backends.names():
        raise NotHereError("this version has no backend `cudagraph`")
    if check.device.type != "cuda":
        raise NotHereError("CUDA graphs are of CUDA's devices")
    folder = check.folder / "graphs"
    check.vilt_bench(
        *("run", "patch32", "--device", str(check.device), "--backend", "torch,cudagraph", "--output", str(folder)),
        *("--trials", "1", "--max-time", "5"),
        limit_s=limit_s,
    )
    by_backend = {run.case.backend: run for run in check.runs("graphs")}
    for name, run in by_backend.items():
        for remark in remarks(run):
            refuse(name, remark)
    if not {"torch", "cudagraph"} <= by_backend.keys():
        raise ProblemError(f"runs of {', '.join(by_backend)} only")
    eager_s, graphs_s = (device_s(by_backend[name]) for name in ("torch", "cudagraph"))
    told = f"{1000 * graphs_s:.3g} ms, eager {1000 * eager_s:.3g} ms"
    if graphs_s > 1.05 * eager_s:
        raise ProblemError(f"slower: {told}")
    return told


def prove_energy(check: Check, limit_s: float) -> str:
    """A GPU at work takes more power than at rest, by NVML's counter."""
    told = []
    for run in check.runs("records"):
        if (energy := run.energy) is None:
            continue
        pairs = zip(energy.joules_per_pass, energy.passes, energy.window_s, strict=True)
        power_w = median(joules * count / seconds for joules, count, seconds in pairs)
        if energy.idle_power_w is None:
            raise ProblemError(f"{run.case.embedder}: {power_w:.0f} W at work, and no power at rest")
        if power_w <= energy.idle_power_w:
            raise ProblemError(f"{run.case.embedder}: {power_w:.0f} W at work, {energy.idle_power_w:.0f} W at rest")
        told.append(
            f"{run.case.embedder} {median(energy.joules_per_pass):.3g} J a pass, "
            f"{power_w:.0f} W at work, {energy.idle_power_w:.0f} W at rest"
        )
    if not told:
        raise NotHereError(
            "nothing counts this device's energy: no NVML, a partition of a GPU, or a GPU without a counter"
        )
    return "; ".join(told)


def prove_throttling(check: Check, limit_s: float) -> str:
    """NVML's clocks and reasons of slowing down are in the records."""
    seen: set[str] = set()
    clocks: list[float] = []
    for run in check.runs("records"):
        for trial in run.trials:
            seen |= set(trial.conditions.throttle_reasons or ())
            states = (trial.conditions.gpu_before, trial.conditions.gpu_after)
            clocks += [state.sm_clock_hz for state in states if state is not None and state.sm_clock_hz is not None]
    if not clocks:
        if check.device.type == "cuda" and torch.version.cuda is not None:
            raise ProblemError("no clocks in the records, though NVML knows NVIDIA's GPUs")
        raise NotHereError("NVML does not know this device: no clocks, and no reasons of slowing down")
    slowed = ", ".join(sorted(seen & SLOWDOWNS)) or "none"
    return f"{min(clocks) / 1e6:.0f} to {max(clocks) / 1e6:.0f} MHz between blocks; slowed down by: {slowed}"


STEPS = (
    Step("tests", 90, prove_tests),
    Step("main-job", 180, prove_main_job),
    Step("figure-1", 20, prove_figure),
    Step("energy", 10, prove_energy),
    Step("throttling", 10, prove_throttling),
    Step("cuda-graphs", 60, prove_graphs),
    Step("gate-same", 75, prove_same),
    Step("gate-slower", 90, prove_slower),
    Step("table-6", 360, prove_table),
)
"""The longest last: where the time is over, it is what is cut short."""


def write(check: Check, device_name: str, versions: Mapping[str, str]) -> None:
    """Write what was found so far, for readers and programs."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    named = {name: versions[name] for name in ("torch", "cuda", "hip", "driver", "vilt-bench") if name in versions}
    facts = {
        "device": device_name,
        "torch_device": str(check.device),
        "small": check.small,
        "when": when,
        "python": platform.python_version(),
        "versions": named,
    }
    found = {**facts, "findings": [asdict(each) for each in check.findings]}
    (check.folder / "check.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shown = ", ".join(f"{name} {version}" for name, version in named.items())
    lines = [
        f"# {device_name}",
        "",
        f"What `make gpu-check` found on {when} on `{check.device}` ({shown})"
        + (", with small models: of the check, not of the device." if check.small else "."),
        "",
        "| step | what is to be proven | found | | s |",
        "|---|---|---|---|---|",
    ]
    whats = {step.name: (step.prove.__doc__ or "").strip().rstrip(".") for step in STEPS}
    for each in check.findings:
        told = each.told.replace("|", "\\|")
        lines.append(f"| {each.step} | {whats[each.step]} | {each.verdict} | {told} | {each.took_s:.0f} |")
    (check.folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
