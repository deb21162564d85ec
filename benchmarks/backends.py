"""Who computes it: every backend at hand beside eager torch and beside its own runtime called directly, interleaved.

For each embedder one process, in it eager torch and one backend after the other, prepared as `vilt-bench run` prepares
them. In each round eager torch, the backend, the runtime without this package on the same exported graphs, and a
matrix product take turns, forth in one round and back in the next, so that what others do to the machine hits all
alike; a ratio is the median of the rounds' ratios, with its 95% interval. With one thread, times are CPU times, which
others' load does not lengthen by waiting; with more, wall times, which need a quiet machine. Keeps each row as it is
measured, and goes on from what an earlier run has kept; all rows take some 25 minutes. Prints Markdown of what is kept
for any number of threads, for docs/backends.md.

    python benchmarks/backends.py --threads 2 --embedders patch32 --output results/backends
    python benchmarks/backends.py --output results/backends | python tools/marked.py docs/backends.md backends
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.nn.functional import linear

from vilt_bench.ask.case import ALONE, Case
from vilt_bench.errors import ViltBenchError
from vilt_bench.judge.estimate import estimate
from vilt_bench.judge.remarks import largest_deviation
from vilt_bench.machine.device import prepare_threads
from vilt_bench.machine.environment import collect
from vilt_bench.model import stages
from vilt_bench.record.run import Times
from vilt_bench.worker import backends
from vilt_bench.worker.backends import onednn
from vilt_bench.worker.failures import StageError, error_line
from vilt_bench.worker.meters.latency import HostTimer
from vilt_bench.worker.runner import Runner, prepare

EMBEDDERS: Mapping[str, dict[str, Any]] = {
    "patch32": {"resolution": (384, 640)},
    "grid-r50": {"resolution": (608, 800), "interaction": ALONE},
    "region-r101-c4": {"resolution": (400, 608), "options": {"proposals": 100}, "interaction": ALONE},
    "timm/vit_base_patch16_siglip_384": {"interaction": ALONE},
    "timm/convnext_base": {"interaction": ALONE},
}
"""With what makes a pass take a second or so; all but the first, which is the shared ViLT for the most part, alone."""
BACKENDS: Sequence[tuple[str, str | None]] = (
    ("torch:channels_last,fold_batch_norm", None),
    ("onednn", None),
    ("compile", None),
    ("compile:freezing", None),
    ("onnxruntime", None),
    ("openvino", None),
    ("openvino:precision=bf16", None),
    ("torch", "int8"),
    ("onnxruntime", "int8"),
    ("openvino", "int8"),
    ("cudagraph", None),
    ("tensorrt", None),
)
LEAST_ROUNDS = 6
GEMM_EDGES = (768, 1536)
BARS = {"onednn": 0.60, "onnxruntime": 0.55, "openvino": 0.50, "openvino:precision=bf16": 0.30}
"""Of eager float32 on the shared ViLT, where oneDNN's packed product is twice MKL's."""
LEAST_OF_GEMM, DIRECT, GRID_BAR = 0.85, 0.05, 0.75
DEVICE = torch.device("cpu")

Clock = Callable[[], float]
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=15.0, help="of rounds for each backend, about")
    parser.add_argument("--embedders", nargs="+", choices=EMBEDDERS, default=list(EMBEDDERS), metavar="NAME")
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="backends whose name begins so")
    parser.add_argument("--output", type=Path, default=Path("results/backends"), help="folder of what was measured")
    parser.add_argument("--table", action="store_true", help="measure nothing, show what is there")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    kept = options.output / f"threads-{options.threads}.jsonl"
    if options.worker:
        for row in measure(options.embedders[0], options, known=rows_of(kept)):
            print(json.dumps(row), flush=True)
        return
    options.output.mkdir(parents=True, exist_ok=True)
    for embedder in () if options.table else options.embedders:
        run_worker(embedder, options, kept)
    print("\n\n".join(report(rows_of(each)) for each in sorted(options.output.glob("threads-*.jsonl"))))


def run_worker(embedder: str, options: argparse.Namespace, kept: Path) -> None:
    """Keep what a process of its own measures, as it comes: OpenMP reads its settings once."""
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, __file__, "--worker", "--embedders", embedder, "--output", str(options.output)]
    command += ["--threads", str(options.threads), "--seconds", str(options.seconds)]
    command += ["--only", *options.only] if options.only else []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            with kept.open("a") as file:
                file.write(line)
            row = json.loads(line)
            print(f"{row['embedder']}, {named(row)}: {row.get('absent') or shown(row['ratio'])}", file=sys.stderr)
    if process.returncode:
        print(
            f"{embedder}: the process ended by {process.returncode}; run this again for what is left", file=sys.stderr
        )


def rows_of(kept: Path) -> list[Row]:
    """Returns what was measured, of each embedder and backend the last."""
    lines = kept.read_text().splitlines() if kept.exists() else []
    found = {(row["embedder"], named(row)): row for row in map(json.loads, lines)}
    places = [(embedder, named({"backend": name, "quantize": to})) for embedder in EMBEDDERS for name, to in BACKENDS]
    return [found[place] for place in places if place in found]


def named(row: Mapping[str, Any]) -> str:
    """Returns a backend's name with what it quantises to."""
    return ", ".join(filter(None, (row["backend"], row["quantize"])))


def measure(embedder: str, options: argparse.Namespace, known: Sequence[Row]) -> Iterator[Row]:
    """Yields a row for each backend that was not measured before, or has failed."""
    there = {
        named(row) for row in known if row["embedder"] == embedder and not row.get("absent", "").startswith("failed")
    }
    left = [
        (name, to)
        for name, to in BACKENDS
        if named({"backend": name, "quantize": to}) not in there
        and (not options.only or any(name.startswith(text) for text in options.only))
    ]
    if not left:
        return
    threads = prepare_threads(options.threads)
    eager = build(embedder, threads)
    eager.first_call()
    flops = sum(stage.flops or 0 for stage in eager.count().stages)
    about = {
        "embedder": embedder,
        "threads": threads,
        "pixels": list(eager.inputs.resolution),
        "machine": collect(DEVICE, threads=threads).machine,
    }
    for name, to in left:
        begin = time.perf_counter()
        row = about | {"backend": name, "quantize": to}
        try:
            backends.check(name, "cpu", to)
            with Direct.recording() as direct:
                subject = build(embedder, threads, name, to)
            first_call_s = subject.first_call()
            subject.compare()
            if to is None:
                direct.build(subject, threads, precision="bf16" if "bf16" in name else "f32")
            found = rounds(eager, subject, direct.calls, seconds=options.seconds, flops=flops, threads=threads)
            yield (
                row
                | described(subject, first_call_s)
                | found
                | {"prepare_cpu_s": direct.prepare_cpu_s, "took_s": time.perf_counter() - begin}
            )
        except ViltBenchError as error:
            yield row | {"absent": str(error)}
        except Exception as error:  # of one backend, which is not to cost the others' rows
            failure = error.__cause__ or error if isinstance(error, StageError) else error
            yield row | {"absent": f"failed: {error_line(failure)}"}
        subject = direct = None  # type: ignore[assignment]
        forget_compiled()
        gc.collect()


def forget_compiled() -> None:
    """Lets the compiler begin with an empty cache again, as in a process of its own."""
    torch._dynamo.reset()
    if "torch._inductor" in sys.modules:
        from torch._inductor.utils import clear_caches

        from vilt_bench.worker.backends import _compiled

        clear_caches()
        _compiled.use_fresh_cache.cache_clear()


def cpu_of_all() -> float:
    """Returns the CPU time in seconds of this process and of all that it has started, gone or not."""
    own = psutil.Process()
    times = [each.cpu_times() for each in [own, *own.children(recursive=True)]]
    return sum(sum(each[:4]) for each in times)  # own user and system time, and that of children that are gone


def build(embedder: str, threads: int, backend: str = "torch", quantize: str | None = None) -> Runner:
    """Returns the embedder prepared by a backend."""
    case = Case(
        embedder,
        images=("synthetic",),
        device="cpu",
        threads=threads,
        backend=backend,
        quantize=quantize,
        **EMBEDDERS[embedder],
    )
    return prepare(case, DEVICE, HostTimer())


def described(subject: Runner, first_call_s: float) -> Row:
    """Returns what the record tells of who computed."""
    computation = subject.facts().computation
    assert computation is not None
    return {
        "version": computation.version,
        "prepare_s": subject.computing.prepare_time_s,
        "first_call_s": first_call_s,
        "difference": computation.deviation and computation.deviation.relative,
        "not_compared": computation.not_compared,
        "by": {
            stage.name: {
                "computed_by": stage.computed_by,
                "precision": stage.precision,
                "fell_back": stage.fell_back,
                "difference": stage.deviation and stage.deviation.relative,
            }
            for stage in computation.stages
        },
    }


@dataclass
class Direct:
    """The runtimes called without this package, on the graphs that a backend has exported."""

    graphs: dict[str, Any] = field(default_factory=dict)
    """By stage."""
    prepare_cpu_s: float = 0.0
    """CPU time of preparing, compilers that it started included."""
    calls: dict[str, Callable[[], Any]] = field(default_factory=dict)

    @classmethod
    @contextlib.contextmanager
    def recording(cls) -> Iterator[Direct]:
        """Returns a context in which what backends export is kept."""
        from vilt_bench.worker import runner as builder
        from vilt_bench.worker.backends import _exported, _onnx_session, _openvino_request

        found = cls()
        runner: Any = builder
        prepare_stages = runner.prepare_stages

        def timed(*args: Any, **asked: Any) -> Any:
            begin = cpu_of_all()
            made = prepare_stages(*args, **asked)
            found.prepare_cpu_s = cpu_of_all() - begin
            return made

        def export(stage: backends.StageToPrepare) -> Any:
            graph = found.graphs[stage.name] = _exported.export(stage)
            return graph

        modules: tuple[Any, ...] = (_onnx_session, _openvino_request)
        for module in modules:
            module.export = export
        runner.prepare_stages = timed
        try:
            yield found
        finally:
            runner.prepare_stages = prepare_stages
            for module in modules:
                module.export = _exported.export

    def build(self, subject: Runner, threads: int, precision: str) -> None:
        """Make the calls of the stages that the backend computes."""
        make = onnx_call if "onnxruntime" in subject.case.backend else openvino_call
        used = {stage.name for stage in subject.computing.stages if stage.fell_back is None}
        for name, graph in self.graphs.items():
            if name in used and graph.output_names:
                self.calls[name] = make(graph, threads, precision)
        self.graphs.clear()


def onnx_call(graph: Any, threads: int, _: str) -> Callable[[], Any]:
    """Returns a call of ONNX Runtime as its documentation has it: NumPy in, NumPy out."""
    import onnxruntime

    from vilt_bench.worker.backends._exported import quiet

    with quiet(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "direct.onnx")
        made = torch.onnx.export(graph.program, graph.examples, dynamo=True, verbose=False)
        assert made is not None
        made.save(path, external_data=True)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    names = [each.name for each in made.model.graph.inputs]
    kept = {each.name for each in session.get_inputs()}
    given = {
        name: tensor.numpy().copy() for name, tensor in zip(names, graph.examples, strict=True) if str(name) in kept
    }
    return lambda: session.run(None, given)


def openvino_call(graph: Any, threads: int, precision: str) -> Callable[[], Any]:
    """Returns a call of OpenVINO as its documentation has it, with memory shared where it can be."""
    import openvino

    from vilt_bench.worker.backends._exported import quiet

    with quiet():
        model = openvino.convert_model(graph.program)
        model.reshape(dict(zip(model.inputs, (list(each.shape) for each in graph.examples), strict=True)))
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    given = [tensor.numpy().copy() for tensor in graph.examples]
    return lambda: request.infer(given, share_inputs=True, share_outputs=True)


def products() -> dict[str, Callable[[], Tensor]]:
    """Returns products of square matrices in float32, by kernel and edge: the machine's best are among them."""
    found: dict[str, Callable[[], Tensor]] = {}
    for edge in GEMM_EDGES:
        rows, weight = torch.rand(edge, edge), torch.rand(edge, edge)
        found[f"torch {edge}"] = lambda rows=rows, weight=weight: linear(rows, weight)  # type: ignore[misc]
        if (packed := onednn.pack_linear(weight)) is not None:
            found[f"packed {edge}"] = lambda rows=rows, packed=packed: packed(rows)  # type: ignore[misc]
    return found


def rounds(
    eager: Runner,
    subject: Runner,
    direct: Mapping[str, Callable[[], Any]],
    *,
    seconds: float,
    flops: int,
    threads: int,
) -> Row:
    """Returns ratios and times of so many rounds as fit."""
    clock: Clock = time.process_time if threads == 1 else time.perf_counter
    kernels = products()

    def seconds_of(times: Times) -> float:
        samples = times.cpu_time_s if threads == 1 else times.wall_time_s
        assert samples is not None
        return samples[0]

    def passed(runner: Runner) -> dict[str, float]:
        series = runner.sample(instrumented=True)
        return {name: seconds_of(each) for name, each in series.stages.items()}

    def timed(call: Callable[[], Any]) -> float:
        begin = clock()
        call()
        return clock() - begin

    turns: dict[str, Callable[[], Any]] = {
        "eager": lambda: passed(eager),
        "ours": lambda: passed(subject),
        "direct": lambda: {name: timed(call) for name, call in direct.items()},
        "gemm": lambda: {name: timed(call) for name, call in kernels.items()},
    }
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in turns}
    begin = None
    with torch.inference_mode():
        while begin is None or len(seen["ours"]) < LEAST_ROUNDS or time.perf_counter() - begin < seconds:
            order = list(turns) if len(seen["ours"]) % 2 else list(reversed(turns))
            found = {name: turns[name]() for name in order}
            if begin is None:  # the first warms up
                begin = time.perf_counter()
                continue
            for name, times in found.items():
                seen[name].append(times)
    names = [name for name, _ in stages(subject.model)]
    totals = {who: [sum(each.values()) for each in seen[who]] for who in ("eager", "ours", "direct")}
    row: Row = {
        "rounds": len(seen["ours"]),
        "ratio": middle(totals["ours"], totals["eager"]),
        "eager_s": median(totals["eager"]),
        "ours_s": median(totals["ours"]),
        "stages": {
            name: {
                "ratio": middle([each[name] for each in seen["ours"]], [each[name] for each in seen["eager"]]),
                "eager_s": median(each[name] for each in seen["eager"]),
                "ours_s": median(each[name] for each in seen["ours"]),
            }
            for name in names
        },
    }
    best = [max(2 * int(name.split()[1]) ** 3 / taken for name, taken in each.items()) for each in seen["gemm"]]
    row["gemm"] = {
        "of_best": middle([flops / (ours * rate) for ours, rate in zip(totals["ours"], best, strict=True)]),
        "flops_per_s": median(best),
        "packed_to_torch": middle(
            *(
                [
                    max(int(name.split()[1]) ** 3 / taken for name, taken in each.items() if name.startswith(kind))
                    for each in seen["gemm"]
                ]
                for kind in ("packed", "torch")
            )
        )
        if any(name.startswith("packed") for name in kernels)
        else None,
    }
    if direct:
        own = [sum(each[name] for name in direct) for each in seen["ours"]]
        row["to_direct"] = middle(own, totals["direct"])
    return row


def middle(values: Sequence[float], to: Sequence[float] | None = None) -> list[float | None]:
    """Returns the median with its 95% interval, of values or of their ratios to others of the same rounds."""
    ratios = values if to is None else [one / other for one, other in zip(values, to, strict=True)]
    found = estimate([[[ratio] for ratio in ratios]])
    assert found is not None
    return [found.value, found.low, found.high]


def shown(value: Sequence[float | None]) -> str:
    """Returns a ratio with its interval."""
    middle_, low, high = value
    assert middle_ is not None
    interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    return f"{middle_:.2f}{interval}"


def report(rows: Sequence[Row]) -> str:
    """Returns what was measured, as Markdown."""
    measured = [row for row in rows if "absent" not in row]
    if not measured:
        return "Nothing was measured."
    first = measured[0]
    clock = "CPU time, one thread" if first["threads"] == 1 else f"wall time, {first['threads']} threads"
    versions = sorted({part for row in measured for part in row["version"].split(", ") if " by " not in part})
    lines = [f"{first['machine']}, {clock}; {', '.join(versions)}.", ""]
    for embedder in dict.fromkeys(row["embedder"] for row in measured):
        lines += table([row for row in measured if row["embedder"] == embedder])
    lines += by_stage([row for row in measured if row["embedder"].startswith("region")])
    gone = dict.fromkeys(row["absent"].removeprefix("`backend` ") for row in rows if "absent" in row)
    lines += [f"Not measured: {'; '.join(gone)}.", ""] if gone else []
    return "\n".join([*lines, *bars(measured)])


def table(rows: Sequence[Row]) -> list[str]:
    """Returns an embedder's backends, fastest first."""
    height, width = rows[0]["pixels"]
    eager_s = median(row["eager_s"] for row in rows)
    lines = [
        f"**{rows[0]['embedder']}**, {height}×{width} pixels, eager float32 {1e3 * eager_s:,.0f} ms:",
        "",
        "| backend | ratio to eager, 95% | precisions | difference | to prepare, CPU s | to the runtime itself | "
        "stays with torch |",
        "|---|--:|---|--:|--:|--:|---|",
    ]
    for row in sorted(rows, key=lambda row: row["ratio"][0]):
        fallen = [name.split(".")[-1] for name, each in row["by"].items() if each["fell_back"]]
        precisions = ", ".join(dict.fromkeys(each["precision"] for each in row["by"].values()))
        if row["quantize"] and row["quantize"] not in precisions:
            precisions += f", nothing in {row['quantize']}"
        difference = "–" if row["difference"] is None else f"{row['difference']:.1g}"
        if is_another_answer(row):
            difference = f"**{difference}**"
        prepare_s = row["prepare_cpu_s"]
        direct = shown(row["to_direct"]) if "to_direct" in row else "–"
        lines.append(
            f"| `{row['backend']}`{', ' + row['quantize'] if row['quantize'] else ''} | {shown(row['ratio'])} | "
            f"{precisions} | {difference} | {prepare_s:.1f} | {direct} | {', '.join(fallen) or '–'} |"
        )
    if any(map(is_another_answer, rows)):
        lines += [
            "",
            "In bold: further from eager float32 than the precision explains, so that times are of another answer.",
        ]
    return [*lines, ""]


def is_another_answer(row: Row) -> bool:
    """Returns whether the output lies further from eager float32's than its coarsest precision explains."""
    bound = max(largest_deviation(each["precision"]) for each in row["by"].values())
    return row["difference"] is not None and row["difference"] > bound


def by_stage(rows: Sequence[Row]) -> list[str]:
    """Returns an embedder's stages as rows and its backends as columns."""
    if not rows:
        return []
    names = list(rows[0]["stages"])
    lines = [
        f"**{rows[0]['embedder']} by stage**, ratio to eager; in brackets stages that stay with torch:",
        "",
        f"| stage | eager, ms | {' | '.join(named(row) for row in rows)} |",
        f"|---|--:|{'--:|' * len(rows)}",
    ]
    for name in names:
        eager_s = median(row["stages"][name]["eager_s"] for row in rows)
        cells = [
            f"({value:.2f})" if row["by"][name]["fell_back"] else f"{value:.2f}"
            for row in rows
            for value in [row["stages"][name]["ratio"][0]]
        ]
        lines.append(f"| {name.split('.')[-1]} | {1e3 * eager_s:,.1f} | {' | '.join(cells)} |")
    return [*lines, ""]


def bars(rows: Sequence[Row]) -> list[str]:
    """Returns what was aimed at, with what came of it."""
    found = {(row["embedder"], named(row)): row for row in rows}
    lines: list[str] = ["Aims, and what came of them:", ""]

    def line(aim: str, is_met: bool, told: str) -> None:
        lines.append(f"- {aim}: **{'met' if is_met else 'not met'}**, {told}")

    for row in rows:
        if "to_direct" in row and row["to_direct"][0] > 1 + DIRECT:
            line(
                f"{named(row)} on {row['embedder']} within {DIRECT:.0%} of its runtime",
                False,
                f"{shown(row['to_direct'])}",
            )
    compared = [row["to_direct"][0] for row in rows if "to_direct" in row]
    if compared:
        within = sum(each <= 1 + DIRECT for each in compared)
        line(
            f"stages by a runtime take at most {DIRECT:.0%} more than the runtime called directly on the same graphs",
            within == len(compared),
            f"{within} of {len(compared)}, {min(compared):.2f} to {max(compared):.2f}",
        )
    of_vilt = [row for row in rows if row["embedder"] == "patch32"]
    exact = [row for row in of_vilt if {each["precision"] for each in row["by"].values()} == {"float32"}]
    if exact:
        best = max(exact, key=lambda row: row["gemm"]["of_best"][0])
        line(
            f"the best in float32 reaches {LEAST_OF_GEMM:.0%} of the best matrix product on the shared ViLT",
            best["gemm"]["of_best"][0] >= LEAST_OF_GEMM,
            f"{named(best)} {shown(best['gemm']['of_best'])} of {best['gemm']['flops_per_s'] / 1e9:.0f} GFLOP/s",
        )
        packed = [row["gemm"]["packed_to_torch"][0] for row in exact if row["gemm"]["packed_to_torch"]]
        if packed:
            lines.append(f"- oneDNN's product with a packed weight reaches {median(packed):.2f} times torch's here")
    for name, bar in BARS.items():
        if (row_ := found.get(("patch32", name))) is not None:
            line(
                f"{name} takes at most {bar:.2f} of eager torch on the shared ViLT",
                row_["ratio"][0] <= bar,
                shown(row_["ratio"]),
            )
    if (row_ := found.get(("grid-r50", BACKENDS[0][0]))) is not None:
        line(
            f"{BACKENDS[0][0]} takes at most {GRID_BAR} on grid-r50", row_["ratio"][0] <= GRID_BAR, shown(row_["ratio"])
        )
    return lines


if __name__ == "__main__":
    main()
