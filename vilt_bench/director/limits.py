"""What the machine reaches: measured once for cases of a sweep, and apart for a command that measures no case."""

from __future__ import annotations

from dataclasses import dataclass, field

from vilt_bench.ask.case import Case, Sampling, parse_backend
from vilt_bench.director.process import Worker, WorkerFailedError
from vilt_bench.errors import MeasurementError
from vilt_bench.protocol import MeasurePeak, PeakMeasured
from vilt_bench.record.peak import Peak, best
from vilt_bench.record.run import Environment
from vilt_bench.wire import Patience

LEAST_MAX_TIME_S = 1.0
"""A case with less time is measured without, as it would take as long as its passes."""
SHARE = 1 / 2000
"""Of a case's time, for each of about a dozen measurements; with what they need besides, about 2% of 60 s."""
LONGEST_S = 0.02
"""For each of them, enough for a second at most in all."""

Reach = tuple[str, int, str]
"""What a peak is of: device, threads, dtype."""


@dataclass
class Peaks:
    """The peaks of the machine that were measured since the first case."""

    found: dict[Reach, Peak] = field(default_factory=dict)
    _tried: set[tuple[Reach, str]] = field(default_factory=set)
    """With each backend, whose own product may be faster than all others."""

    def time_s(self, case: Case, environment: Environment | None, sampling: Sampling) -> float | None:
        """Returns how long each measurement of the peak is to take; `None`: it is known, or there is too little time.

        What was asked for is not asked for again.
        """
        if environment is None or sampling.max_time_s < LEAST_MAX_TIME_S:
            return None
        tried = _reach(case, environment), parse_backend(case.backend)[0]
        if tried in self._tried:
            return None
        self._tried.add(tried)
        return min(LONGEST_S, SHARE * sampling.max_time_s)

    def take(self, case: Case, environment: Environment, peak: Peak) -> None:
        """Keep what was measured, where it is more than what is known."""
        reach = _reach(case, environment)
        self.found[reach] = best(peak, self.found.get(reach, peak))

    def of(self, case: Case, environment: Environment | None, own: Peak | None = None) -> Peak | None:
        """Returns what is known for a case.

        Args:
            case: that was measured.
            environment: where.
            own: that was measured for it earlier.
        """
        known = None if environment is None else self.found.get(_reach(case, environment))
        return best(own, known) if own is not None and known is not None else own or known


def _reach(case: Case, environment: Environment) -> Reach:
    return environment.device, environment.threads, case.dtype


def measure_peak(case: Case, *, patience_s: float | None = None) -> PeakMeasured:
    """Returns what the machine reaches with a case's device, threads, dtype and backend, by a process of its own.

    It waits as those do that measure, and is ended where it is silent for too long.

    Args:
        case: nothing of it is built.
        patience_s: how long it may be silent; `None`: by `wire.Patience`.

    Raises:
        ViltBenchError: the device or the backend can't be used, or the process failed.
    """
    try:
        worker = Worker.start(patience=Patience(patience_s))
    except WorkerFailedError as error:
        raise MeasurementError(error.failure.message) from None
    try:
        return worker.ask(MeasurePeak(case), PeakMeasured)
    except WorkerFailedError as error:
        raise MeasurementError(f"the machine's peak was not measured: {error.failure.message}") from None
    except BaseException:
        worker.kill()
        raise
    finally:
        worker.close()
