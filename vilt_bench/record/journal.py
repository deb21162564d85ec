"""What was measured of a run that is no record yet: a line an event in a file beside the records, checked on reading.

Each line is on disk before the next block is measured. Whoever dies in the middle leaves whole lines and at most a torn
last one; `replay` makes of them the run as it stood. The record, once it is there, takes the file's place: `live` says
who writes and when.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from statistics import median, quantiles
from typing import NamedTuple

import msgspec

from vilt_bench.errors import RecordError, ViltBenchError
from vilt_bench.record.peak import Peak
from vilt_bench.record.run import Conditions, Energy, Failure, Model, Pipelined, Run, Series, Stage, Trial, whole_texts
from vilt_bench.record.thin import MOST_WARMUP_PASSES, KeptPasses
from vilt_bench.words import counted

PREFIX, SUFFIX = ".run-", ".journal"
"""Of a journal's name, around the run's id: no record has such a name."""


class InProgressError(RecordError):
    """A run is being measured by a process that is alive: what there is of it is not all yet."""


class Owned(msgspec.Struct, frozen=True, tag=True):
    """From here on, this director writes."""

    director: str


class Kept(msgspec.Struct, frozen=True, tag=True):
    """What there was of the run when a director took it up from its record."""

    run: Run


class Opened(msgspec.Struct, frozen=True, tag=True):
    """A trial is ready to be timed."""

    run: Run
    """As it stands, without trials."""
    trial: Trial
    """As it stands: of a gate's pairs with all passes, otherwise without any."""


class Counted(msgspec.Struct, frozen=True, tag=True):
    """What is not timed was counted."""

    stages: tuple[Stage, ...]
    model: Model | None
    warnings: tuple[str, ...]


class Block(msgspec.Struct, frozen=True, tag=True):
    """A block was measured."""

    series: Series
    is_warmup: bool = False
    settled: bool | None = None
    """Of warm-up: whether times had settled by then."""


class Closed(msgspec.Struct, frozen=True, tag=True):
    """A trial is complete."""

    conditions: Conditions
    energy: Energy | None = None
    warnings: tuple[str, ...] = ()
    peak: Peak | None = None
    pipelined: Pipelined | None = None


class BrokenOff(msgspec.Struct, frozen=True, tag=True):
    """The case can't go on."""

    failure: Failure


Event = Owned | Kept | Opened | Counted | Block | Closed | BrokenOff
Note = Callable[[str, Event], None]
"""Told of each event as soon as it has happened, with the run's id; when it returns, the event is kept."""

_decode = msgspec.json.Decoder(Event).decode


class Lines(NamedTuple):
    """What a journal holds."""

    events: list[Event]
    length: int
    """Bytes up to the end of the last whole line."""
    unreadable: int
    """Lines before it that are not whole, as no kill leaves them."""


def file_name(run_id: str) -> str:
    """Returns the name of a run's journal."""
    return f"{PREFIX}{run_id}{SUFFIX}"


def is_journal(name: str) -> bool:
    """Returns whether a path or URL is that of a journal."""
    last = name.replace(os.sep, "/").rpartition("/")[2]
    return last.startswith(PREFIX) and last.endswith(SUFFIX)


def run_id_of(name: str) -> str:
    """Returns the id of the run whose journal has that path or URL."""
    return name.replace(os.sep, "/").rpartition("/")[2].removeprefix(PREFIX).removesuffix(SUFFIX)


def without_records(journals: Iterable[str], records: Iterable[str]) -> list[str]:
    """Returns the journals whose runs are no record yet; a record's name ends with the run's id."""
    recorded = {name.removesuffix(".json").rpartition("-")[2] for name in records}
    return sorted(name for name in journals if run_id_of(name) not in recorded)


def line(event: Event) -> bytes:
    """Returns an event as a line: a checksum of what follows, and JSON."""
    try:
        data = msgspec.json.encode(event)
    except UnicodeEncodeError:  # a message that quotes a path as the system has it
        data = msgspec.json.encode(whole_texts(msgspec.to_builtins(event)))
    return b"%08x %s\n" % (zlib.crc32(data), data)


def read_lines(data: bytes) -> Lines:
    """Returns what a journal holds; a torn last line is left out, as is every other that is not whole."""
    events: list[Event] = []
    length = unreadable = bad = begin = 0
    for text in data.split(b"\n")[:-1]:
        begin += len(text) + 1
        event = _event(text)
        if event is None:
            bad += 1
            continue
        events.append(event)
        length, unreadable = begin, bad
    return Lines(events, length, unreadable)


def _event(text: bytes) -> Event | None:
    checksum, _, data = text.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(data):
        return None
    try:
        event: Event = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ViltBenchError):  # of a newer version
        return None
    return event


def replay(lines: Lines, *, name: str) -> Run:
    """Returns the run as it stood when the last line was written; it was interrupted, unless it failed.

    Args:
        lines: of its journal.
        name: the file's name, for messages.

    Raises:
        RecordError: nothing of a run is in it.
    """
    run: Run | None = None
    trials: list[Trial] = []
    current: _Trial | None = None
    for event in lines.events:
        if isinstance(event, Kept):
            run, trials = event.run, list(event.run.trials)
        elif isinstance(event, Opened):
            trials += [] if current is None else [current.trial()]
            run, current = event.run, _Trial(event.trial)
        if run is None or current is None:
            continue
        match event:
            case Counted(stages, model, warnings):
                run = replace(run, stages=stages, model=model, warnings=warnings)
            case Block():
                current.add(event)
            case Closed(conditions, energy, warnings, peak, pipelined):
                current.conditions, current.pipelined = conditions, pipelined
                run = replace(run, energy=energy, warnings=warnings, peak=peak or run.peak)
            case BrokenOff(failure):
                run = replace(run, failure=failure)
    if run is None:
        raise RecordError(f"{name} holds nothing that was measured")
    trials += [] if current is None else [current.trial()]
    lost = lines.unreadable
    return replace(
        run,
        trials=tuple(trials),
        interrupted=run.failure is None,
        warnings=(*run.warnings, *([f"{counted(lost, 'line')} of its journal can't be read."] if lost else [])),
    )


class _Trial:
    """A trial whose blocks come one by one, kept as the director keeps them."""

    def __init__(self, opened: Trial) -> None:
        self._opened = opened
        self._warmup, self._samples = KeptPasses(MOST_WARMUP_PASSES), KeptPasses()
        self._settled = opened.settled
        self._latencies: list[tuple[float, ...]] = []
        self.conditions = opened.conditions
        self.pipelined = opened.pipelined

    def add(self, block: Block) -> None:
        if block.is_warmup:
            self._warmup.add(block.series)
            self._settled = block.settled
        else:
            self._samples.add(block.series)
            self._latencies.append(block.series.whole.latency_s)

    def trial(self) -> Trial:
        has_blocks = self._warmup.blocks or self._samples.blocks
        return replace(
            self._opened,
            warmup=self._warmup.series() if has_blocks else self._opened.warmup,
            samples=self._samples.series(*self._known()) if has_blocks else self._opened.samples,
            settled=self._settled if self._settled or self._samples.blocks else None,
            conditions=self.conditions,
            pipelined=self.pipelined,
        )

    def _known(self) -> Iterator[tuple[float, ...]]:
        """Yields, where some passes were left out, the blocks' medians and the percentiles of all."""
        every = [value for block in self._latencies for value in block]
        if self._samples.is_whole or len(every) < 2:
            return
        yield tuple(median(block) for block in self._latencies if block)
        hundredths = quantiles(every, n=100, method="inclusive")
        yield (min(every), *hundredths[:49], median(every), *hundredths[50:], max(every))
