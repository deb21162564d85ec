"""Measures runs again: the cases and the effort of their records, where those can be repeated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from vilt_bench import __version__, protocol
from vilt_bench.ask.case import ALL, Case, case_name, command_line
from vilt_bench.ask.registry import OWN_MODULE
from vilt_bench.director.commit import read_source
from vilt_bench.director.measure import Finished, check_cases
from vilt_bench.director.process import MeasuringProcess, Overhear, ReplyT, Worker
from vilt_bench.director.sweep import SweepReport, measure_sweep
from vilt_bench.errors import ConfigError, RecordError, ViltBenchError
from vilt_bench.record.alike import OWN, Setup, check_names, differences, key
from vilt_bench.record.journal import Note
from vilt_bench.record.run import FROM_PYTHON, WHOLE, Environment, Model, Origin, Run
from vilt_bench.wire import Patience

Say = Callable[[str], object]


def rerun(
    runs: Sequence[Run],
    *,
    allow_different: Collection[str] = (),
    say: Say = lambda _: None,
    report: SweepReport = lambda _: None,
    patience_s: float | None = None,
    overhear: Overhear = lambda _: None,
    finished: Finished = lambda _: None,
    note: Note = lambda _, __: None,
    start_worker: Callable[[], MeasuringProcess] | None = None,
    name: str | None = None,
    origin: Origin = FROM_PYTHON,
) -> list[Run]:
    """Returns new runs of the records' cases, those of one sampling as one sweep; a case that several have once.

    What differs from then is refused or said before anything is timed: machine, device, threads, versions, settings.

    Args:
        runs: of records.
        allow_different: names of what may differ from then, as `compare` has it.
        say: told in a sentence what differs, and may.
        report: as `measure_sweep`.
        patience_s: likewise.
        overhear: likewise.
        finished: likewise.
        note: likewise.
        start_worker: likewise.
        name: likewise.
        origin: likewise.

    Raises:
        RecordError: a run can't be repeated, or has no times to compare with.
        ConfigError: what differs may not, or is nothing that is checked.
        ViltBenchError: as `measure_sweep`.
    """
    check_repeatable(runs)
    check_names(allow_different, runs, "compare")
    for remark in remarks(runs):
        say(remark)
    groups: dict[object, dict[object, list[Run]]] = {}
    for run in runs:
        groups.setdefault(run.sampling, {}).setdefault(key(run, "case"), []).append(run)
    told: set[str] = set()

    def say_once(text: str) -> None:
        if text not in told:
            told.add(text)
            say(text)

    def check(case: Case, now: Environment, built: Model) -> None:
        for run in runs:
            if run.case == case:
                _check_alike(run, Setup(case, run.sampling, now, built), allow_different, say_once)

    start = start_worker or partial(
        Worker.start, patience=Patience(patience_s, max(run.sampling.max_time_s for run in runs)), overhear=overhear
    )
    new: list[Run] = []
    for cases in groups.values():
        firsts = [same[0] for same in cases.values()]
        new += measure_sweep(
            [run.case for run in firsts],
            firsts[0].sampling,
            report=report,
            finished=finished,
            note=note,
            start_worker=lambda: _Checked(start(), check),
            name=name,
            origin=origin,
        )
        if any(run.interrupted for run in new):
            break
    return new


def check_repeatable(runs: Sequence[Run]) -> None:
    """Refuse records that can't be measured again, or not be compared with what comes of it; nothing is started.

    Raises:
        RecordError: a run failed, has no times, is of another installation, or asks for what is not here any more.
    """
    if not runs:
        raise RecordError("there is no run to measure again")
    for run in runs:
        told = f"run {run.run_id} ({case_name(run.case)})"
        if run.side == "baseline":
            raise RecordError(f"{told} is the baseline of a gate, of another installation; give the candidate's record")
        if run.case.embedder.startswith(OWN_MODULE):
            raise RecordError(
                f"{told} is of a module of somebody's program or notebook, which the record does not hold; measure it "
                "there again, with vilt_bench.measure(module, image_size=…)"
            )
        anew = f"measure it with: {command_line(run.case, 'run')}"
        if run.failure is not None:
            raise RecordError(
                f"{told} failed ({run.failure.kind}: {run.failure.message}), so there is nothing to compare with; "
                f"{anew}"
            )
        if run.environment is None or not any(trial.samples.of(WHOLE).latency_s for trial in run.trials):
            raise RecordError(f"{told} has no timed pass, so there is nothing to compare with; {anew}")
        try:
            check_cases([run.case])
        except ViltBenchError as error:
            raise RecordError(f"{told} can't be measured again: {error}") from None


def remarks(runs: Sequence[Run]) -> Iterator[str]:
    """Yields what a reader should know of a repetition, in sentences: another commit or version, an interruption."""
    here = read_source()
    for run in runs:
        then = run.source
        if then is not None and here is not None and (then.commit, then.dirty) != (here.commit, here.dirty):
            changed = [" (changed)" if each.dirty else "" for each in (then, here)]
            yield (
                f"Run {run.run_id[:12]} is of commit {then.commit[:12]}{changed[0]}; "
                f"here is {here.commit[:12]}{changed[1]}."
            )
        version = run.environment.versions.get(OWN) if run.environment is not None else None
        if version not in (None, __version__):
            yield f"Run {run.run_id[:12]} was measured by {OWN} {version}; this is {__version__}."
        if run.interrupted:
            yield f"Run {run.run_id[:12]} was interrupted; it is compared by what it has."
        if run.side == "candidate":
            yield (
                f"Run {run.run_id[:12]} took turns with the baseline of a gate, which costs time; it is measured alone "
                "now."
            )


def _check_alike(run: Run, now: Setup, allow_different: Collection[str], say: Say) -> None:
    """Say what differs from then.

    Raises:
        ConfigError: it would keep both from being compared.
    """
    found = differences([run, now], "compare")
    told = {each.name: f"{each.name} {' / '.join(each.values)} (then / now)" for each in found}
    refused = [each.name for each in found if each.matters and not {each.name, ALL}.intersection(allow_different)]
    if refused:
        raise ConfigError(
            f"run {run.run_id} can't be measured again alike: {'; '.join(told[name] for name in refused)}; "
            f"measure it as it was, or give `allow_different` {','.join(refused)}"
        )
    for text in told.values():
        say(f"Differs, and may: {text}.")


@dataclass
class _Checked:
    """A measuring process whose machine and software are looked at when it is ready, before anything is timed."""

    process: MeasuringProcess
    check: Callable[[Case, Environment, Model], None]

    def ask(self, request: protocol.Request, expected: type[ReplyT]) -> ReplyT:
        reply = self.process.ask(request, expected)
        if isinstance(request, protocol.Prepare) and isinstance(reply, protocol.Prepared):
            self.check(request.case, reply.environment, reply.model)
        return reply

    def close(self) -> None:
        self.process.close()

    def kill(self) -> None:
        self.process.kill()
