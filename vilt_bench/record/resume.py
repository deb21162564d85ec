"""What of a plan is there already: complete, cut short, or being measured by another process; and what is left over.

A case is there if a run has the same case and sampling, and was measured on this machine, with this software (see
`resume` in `record.alike`); a changed commit is said, and no reason to measure it again. No clock is asked.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from vilt_bench.ask.case import Case, Sampling, case_name
from vilt_bench.errors import RecordError
from vilt_bench.record import load
from vilt_bench.record.alike import Setup, alike, differences
from vilt_bench.record.codec import decode
from vilt_bench.record.join import without_samples
from vilt_bench.record.journal import InProgressError
from vilt_bench.record.live import Director
from vilt_bench.record.run import Environment, Run


@dataclass(frozen=True)
class Found:
    """A run that a folder has."""

    run: Run
    """Without samples."""
    path: str
    """Of its record, or of its journal."""
    passes: int
    """Of the whole, that were sampled."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing of it is left to measure."""
        return self.run.failure is None and not self.run.interrupted and self.passes > 0


@dataclass
class Standing:
    """Where a plan stands."""

    done: dict[str, Found] = field(default_factory=dict)
    """By the case's name."""
    cut: dict[str, Found] = field(default_factory=dict)
    """Of what is not done: what was measured most of."""
    busy: dict[str, Director] = field(default_factory=dict)
    """Of what is not done: who measures it."""
    otherwise: dict[str, str] = field(default_factory=dict)
    """Of what is not there: in which facts a run of the case differs that is."""
    left_over: list[Found] = field(default_factory=list)
    """Runs that the plan does not use: of other cases, or cut short and not gone on with."""


def runs_in(folder: str | os.PathLike[str], *, left_out: Callable[[str], object] = lambda _: None) -> Iterator[Found]:
    """Yields the runs of a folder that nobody is measuring.

    Args:
        folder: a path, which need not be there, or a URL that fsspec understands.
        left_out: told in a sentence of each file that can't be read.

    Raises:
        ConfigError: a URL can't be reached.
    """
    if not load.is_folder(folder):
        return
    try:
        for name, content in load.read_folder(folder):
            try:
                if isinstance(content, RecordError):
                    raise content
                run = decode(content, name=name)
            except InProgressError:
                continue
            except RecordError as error:
                left_out(str(error))
                continue
            yield Found(without_samples(run), name, sum(trial.samples.passes for trial in run.trials))
    except load.EmptyFolderError:
        return


def sort_out(
    cases: Iterable[Case],
    sampling: Sampling,
    found: Iterable[Found],
    directors: Sequence[Director],
    here: Callable[[Case], Environment],
) -> Standing:
    """Returns where a plan stands.

    Args:
        cases: of the plan.
        sampling: how hard to look.
        found: what is there.
        directors: that are alive, this process left out.
        here: this machine and its software, as a case is measured on it; asked only where there is a run of the case.
    """
    standing = Standing()
    by_case: dict[str, list[Found]] = {}
    for each in found:
        by_case.setdefault(case_name(each.run.case), []).append(each)
    claimed = {
        case_name(claim.case): director
        for director in directors
        if director.sampling == sampling and director.host == platform.node()  # another machine is another case
        for claim in director.claims
    }
    for case in cases:
        name = case_name(case)
        there = [each for each in by_case.pop(name, []) if each.run.side is None]
        setup = Setup(case, sampling, here(case) if there else None)
        fitting = [each for each in there if _fits(each.run, setup)]
        complete = [each for each in fitting if each.is_complete]
        if complete:
            standing.done[name] = complete[0]
        elif name in claimed:
            standing.busy[name] = claimed[name]
        elif fitting:
            standing.cut[name] = max(fitting, key=lambda each: (each.passes, each.run.run_id))
        elif there:
            told = [each for each in differences([there[-1].run, setup], "resume") if each.matters]
            standing.otherwise[name] = ", ".join(f"{each.name} {' / '.join(each.values)}" for each in told)
        used = {id(each) for each in (standing.done.get(name), standing.cut.get(name))}
        standing.left_over += [each for each in there if id(each) not in used and not each.is_complete]
    standing.left_over += [each for rest in by_case.values() for each in rest]
    return standing


def _fits(run: Run, setup: Setup) -> bool:
    """Returns whether a run is of that case, there and then; one that failed before it was ready tells no machine."""
    if run.environment is None:
        return run.case == setup.case and run.sampling == setup.sampling
    return alike(run, setup, "resume")
