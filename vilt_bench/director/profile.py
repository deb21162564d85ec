"""Profiles a case in a process of its own."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable

from vilt_bench import files, protocol
from vilt_bench.ask.case import Case
from vilt_bench.director.process import Overhear, Worker, WorkerFailedError
from vilt_bench.errors import MeasurementError
from vilt_bench.record.profile import Profile
from vilt_bench.record.run import Environment
from vilt_bench.wire import Patience

MOST_SECONDS = 600.0


def profile(
    case: Case,
    *,
    seconds: float = 5.0,
    depth: int = 1,
    with_trace: bool = False,
    report: Callable[[str], None] = lambda _: None,
    overhear: Overhear = lambda _: None,
    patience_s: float | None = None,
) -> tuple[Profile, Environment, bytes | None]:
    """Returns where within the case's stages the time goes, on which machine, and a trace where it is asked for.

    Args:
        case: in eager torch, or by a backend that keeps modules.
        seconds: about how long.
        depth: levels of modules within a stage.
        with_trace: whether to have one, of one pass, in Chrome's format.
        report: told what is going on.
        overhear: told what the process has printed.
        patience_s: how long it may be silent; `None`: by `wire.Patience`.

    Raises:
        ViltBenchError: the case can't be run as asked, or fails.
    """
    patience = Patience(patience_s, seconds)
    with tempfile.TemporaryDirectory(dir=files.temporary_folder(), prefix="vilt-bench-") as folder:
        path = os.path.join(folder, "trace.json") if with_trace else None
        worker = None
        try:
            worker = Worker.start(sys.executable, patience=patience, overhear=overhear)
            report("building, and the first call")
            ready = worker.ask(protocol.Prepare(case), protocol.Prepared)
            report("passes with the profiler, and without it")
            found = worker.ask(protocol.ProfileBlocks(seconds, depth, path), protocol.Profiled).profile
            worker.ask(protocol.Finish(), protocol.Finished)
        except WorkerFailedError as error:
            where = f" in {error.failure.stage}" if error.failure.stage else ""
            raise MeasurementError(f"the profile failed{where}: {error.failure.message}") from None
        except BaseException:
            if worker is not None:
                worker.kill()
            raise
        finally:
            if worker is not None:
                worker.close()
        return found, ready.environment, None if path is None else files.read_bytes(path, most=2**31)
