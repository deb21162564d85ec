"""The measuring process: answers requests until asked to finish.

It answers on a wire of its own, see `wire`: what embedders and libraries print is output, and never an answer.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from typing import BinaryIO

from vilt_bench import __version__, protocol, wire
from vilt_bench.ask.case import Case
from vilt_bench.errors import ViltBenchError

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""The package's folder, whose files these are; versions are told apart by it."""
RETRIES = 3
"""Of a block in which heat or the power supply slowed the GPU down."""


def main() -> None:
    """Serve the process that started this one."""
    owner = wire.attach()
    answered = _ending_at_once()
    with suppress(BrokenPipeError):  # nobody listens any more
        serve(owner.requests, owner.replies, notes=owner.hears_notes)
    answered()


def _ending_at_once() -> Callable[[], None]:
    """Returns what to call when all is answered: the process then ends without taking itself apart.

    That is half a second of CPU time, in which others start already. What is registered to run at exit after this call
    still runs. Where something was before, as coverage is before this module is, the process ends as others do: that
    would not run.
    """
    done: list[bool] = []
    if atexit._ncallbacks():
        return lambda: None

    def leave() -> None:
        if done and os.name == "posix":
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):  # closed by code of an embedder
                    stream.flush()
            ctypes.CDLL(None).fflush(None)  # what C has printed
            os._exit(0)

    atexit.register(leave)
    return lambda: done.append(True)


def serve(requests: Iterable[bytes], replies: BinaryIO, *, notes: bool = False) -> None:
    """Answer each request, a line each; end after `Finish`, or at an error.

    Args:
        requests: lines.
        replies: where the answers go.
        notes: whether to say what goes on between them.
    """
    process_id = os.getpid()

    def reply(message: protocol.Reply | protocol.Doing) -> None:
        if os.getpid() != process_id:  # an embedder's fork that came back here instead of ending
            os._exit(0)
        if notes or not isinstance(message, protocol.Doing):
            replies.write(protocol.encode(message) + b"\n")
            replies.flush()

    try:
        for message in _answers(protocol.decode_request(line) for line in requests):
            reply(message)
    except ViltBenchError as error:
        reply(protocol.Refused(type(error).__name__, str(error)))
    except Exception as error:
        from vilt_bench.worker.failures import failure_of

        reply(protocol.Failed(failure_of(error), traceback.format_exc()))


def _answers(requests: Iterator[protocol.Request]) -> Iterator[protocol.Reply | protocol.Doing]:
    request = next(requests, None)
    if isinstance(request, protocol.Hello):
        yield protocol.Welcome(protocol.VERSION, __version__, PACKAGE, tuple(each.name for each in fields(Case)))
        request = next(requests, None)
    if isinstance(request, protocol.MeasurePeak):
        from vilt_bench.worker.limit import peak_here

        yield peak_here(request.case)
        return
    if not isinstance(request, protocol.Prepare):
        return
    case = request.case
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")

    gc.disable()  # imports make no garbage, but objects by the hundred thousand
    import torch

    from vilt_bench.ask.registry import factory_file, imported_files
    from vilt_bench.machine.conditions import ConditionsProbe, own_peak_bytes
    from vilt_bench.machine.device import device_peak_bytes, prepare_threads, resolve_device
    from vilt_bench.machine.environment import collect
    from vilt_bench.machine.gpu import open_gpu
    from vilt_bench.worker import runner
    from vilt_bench.worker.meters.energy import measure_energy
    from vilt_bench.worker.meters.latency import timer_for

    gc.freeze()
    gc.enable()
    begin = time.perf_counter()
    device = resolve_device(case.device)
    threads = prepare_threads(case.threads)
    gpu = open_gpu(device)
    probe = ConditionsProbe(threads if device.type == "cpu" else None, gpu)
    subject = runner.prepare(case, device, timer_for(device), compares=request.compares)
    build_time_s = time.perf_counter() - begin - subject.reference_s - (subject.computing.prepare_time_s or 0.0)
    yield protocol.Doing("the first call")
    first_call_s = subject.first_call()
    yield protocol.Doing("comparing outputs with eager float32")
    subject.compare()
    environment = collect(device, threads=threads)
    origin = factory_file(case.embedder)
    modules = imported_files()
    yield protocol.Prepared(
        started_at,
        build_time_s,
        first_call_s,
        environment,
        subject.facts(),
        origin,
        modules,
        subject.computing.prepare_time_s,
        host_peak_bytes=own_peak_bytes(),
        device_peak_bytes=device_peak_bytes(device),
    )

    probe.start()
    for request in requests:
        match request:
            case protocol.Count():
                yield protocol.Counted(*subject.count())
            case protocol.Measure(seconds):
                # A block in which the GPU was slowed down is measured again; the last one is kept whatever it was.
                for _ in range(1 + RETRIES):
                    with probe.block():
                        series = subject.block(seconds)
                    if not probe.slowed_down:
                        break
                yield protocol.Measured(series)
            case protocol.Sample(instrumented):
                with probe.block():
                    series = subject.sample(instrumented=instrumented)
                yield protocol.Measured(series)
            case protocol.MeasureEnergy():

                def synchronize() -> None:
                    if device.type != "cpu":
                        torch.accelerator.synchronize(device)

                yield protocol.EnergyMeasured(measure_energy(subject.run_pass, synchronize, gpu))
            case protocol.MeasurePipeline(round_s):
                yield protocol.PipelineMeasured(subject.overlap(round_s))
            case protocol.ProfileBlocks(profiling_s, depth, trace):
                from vilt_bench.worker.profile import profile

                yield protocol.Profiled(profile(subject, seconds=profiling_s, depth=depth, trace=trace))
            case protocol.Finish(peak_time_s):
                subject.close()
                conditions = probe.stop()  # what follows is none of what went on around the samples
                peak = None
                if peak_time_s is not None:
                    from vilt_bench.worker.limit import peak_after_passes

                    peak = peak_after_passes(case, device, peak_time_s)
                yield protocol.Finished(conditions, subject.remarks(), peak)
                return
            case protocol.Prepare() | protocol.MeasurePeak() | protocol.Hello():
                raise RuntimeError("a worker is greeted once, and prepares one case only")


if __name__ == "__main__":
    main()
