"""How the modality interaction's latency depends on the length of the sequence, up to 1,000 tokens.

Source: ViLT paper, section 4.6: it "varies only by < 1 ms for input sequences of length under 300" on a P40.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import linear_regression
from typing import TYPE_CHECKING

from vilt_bench.ask.case import ViltConfig
from vilt_bench.judge.estimate import Estimate
from vilt_bench.paper.studies import rounds as shared
from vilt_bench.record.run import Environment, Series
from vilt_bench.report import tables
from vilt_bench.report.tables import Column, Table, lines, text_column

if TYPE_CHECKING:
    from rich.console import Console

    from vilt_bench.worker.meters.latency import Timer

LENGTHS = (40, 80, 120, 160, 200, 240, 280, 300, 400, 600, 800, 1000)
TEXT_TOKENS = 20
"""Of each sequence; the class token and the visual tokens are the rest."""
PAPER_LENGTH = 300
"""The claim is about shorter sequences."""
PAPER_VARIATION_S = 0.001
LONGEST = 100_000


@dataclass(frozen=True)
class SequencePoint:
    """One length."""

    length: int
    """S = L + 1 + N: text, class token, visual tokens."""
    samples: Series

    @property
    def latency(self) -> Estimate:
        """The median latency in seconds."""
        return shared.latency(self.samples)


@dataclass(frozen=True)
class SequenceStudy:
    """The study as measured; immutable; the points from the shortest to the longest."""

    started_at: str
    """UTC, ISO 8601."""
    environment: Environment
    points: tuple[SequencePoint, ...]
    seed: int
    vilt: ViltConfig = field(default_factory=ViltConfig)
    text_tokens: int = TEXT_TOKENS
    batch_size: int = 1
    dtype: str = "float32"
    input: str = "synthetic tokens, random weights"
    schema_version: int = 1


def run_sequence_study(
    *,
    lengths: Sequence[int] = LENGTHS,
    max_time_s: float = 60.0,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    vilt: ViltConfig | None = None,
    timer: Timer | None = None,
    seconds: Callable[[], float] = time.perf_counter,
    progress: shared.Progress | None = None,
) -> SequenceStudy:
    """Returns the latency of the whole modality interaction at each length, interleaved in this process.

    Args:
        lengths: of the joint sequence, in tokens.
        max_time_s: of all rounds; building comes on top.
        seed: of weights and tokens.
        device: as of a case.
        threads: that torch computes with; `None`: what fits the machine.
        vilt: sizes of the shared ViLT; `None`: ViLT-B/32's.
        timer: times a pass; `None`: what fits the device.
        seconds: the budget's clock.
        progress: told after each round.

    Raises:
        ConfigError: the lengths or the budget are impossible.
        DeviceError: the device is not there.
    """
    shared.check_counts("lengths", lengths, least=TEXT_TOKENS + 2, most=LONGEST)
    shared.check_time(max_time_s)

    import torch

    from vilt_bench.embedding import VisualTokens
    from vilt_bench.machine.device import prepare_threads, resolve_device
    from vilt_bench.machine.environment import collect
    from vilt_bench.model import TextTokens, Vilt
    from vilt_bench.worker.meters.latency import timer_for

    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    where = resolve_device(device)
    environment = collect(where, threads=prepare_threads(threads))
    config = vilt or ViltConfig()
    torch.manual_seed(seed)
    model = Vilt(config).to(where).eval().requires_grad_(False)
    random = torch.Generator().manual_seed(seed)

    def interaction(length: int) -> Callable[[], object]:
        tokens = torch.randn(1, length - 1, config.hidden_size, generator=random).to(where)  # without the class token
        text, visual = TextTokens(tokens[:, :TEXT_TOKENS]), VisualTokens(tokens[:, TEXT_TOKENS:])
        return lambda: model.interact(text, visual)

    ordered = sorted(lengths)
    series = shared.time_in_rounds(
        [interaction(length) for length in ordered],
        timer or timer_for(where),
        max_time_s=max_time_s,
        seconds=seconds,
        progress=progress,
    )
    return SequenceStudy(
        started_at=started_at,
        environment=environment,
        points=tuple(SequencePoint(*pair) for pair in zip(ordered, series, strict=True)),
        seed=seed,
        vilt=config,
    )


def findings(study: SequenceStudy) -> list[str]:
    """Returns what the study shows, in sentences computed from its points."""
    said = []
    short = [point for point in study.points if point.length < PAPER_LENGTH]
    if len(short) > 1:
        fastest, slowest = (choose(short, key=lambda p: p.latency.value) for choose in (min, max))
        varies_s = slowest.latency.value - fastest.latency.value
        holds = "and so it does here" if varies_s < PAPER_VARIATION_S else "which does not hold here"
        said.append(
            f"For sequences under {PAPER_LENGTH} tokens the interaction's latency varies by "
            f"{shared.digits(1000 * varies_s)} ms, between {_said(fastest)} and {_said(slowest)}; the paper: by less "
            f"than {1000 * PAPER_VARIATION_S:.0f} ms on a P40, {holds}."
        )
    if len(study.points) > 1:
        first, last = study.points[0], study.points[-1]
        said.append(
            f"From {first.length:,} to {last.length:,} tokens it grows from {_said(first)} to {_said(last)}, as "
            f"length^{exponent(study):.2f} (least squares on logarithms): {shared.digits(slope_ms(study.points))} ms "
            f"per 100 tokens{_parts(study)}."
        )
    return said


def exponent(study: SequenceStudy) -> float:
    """Returns the p of latency ∝ length^p, by least squares on logarithms."""
    return linear_regression(
        [math.log(point.length) for point in study.points],
        [math.log(point.latency.value) for point in study.points],
    ).slope


def slope_ms(points: Sequence[SequencePoint]) -> float:
    """Returns milliseconds per 100 tokens, by least squares."""
    return 1e5 * linear_regression([p.length for p in points], [p.latency.value for p in points]).slope


def render_table(study: SequenceStudy, console: Console) -> None:
    """Print a row a length, then the findings and conditions."""
    tables.show(_table(study), console)


def markdown(study: SequenceStudy) -> str:
    """Returns the table, findings and conditions, as GitHub shows them."""
    return tables.markdown(_table(study)) + "\n"


def render_csv(study: SequenceStudy) -> str:
    """Returns a line a length; seconds."""
    return tables.csv(
        [
            {
                "length": point.length,
                **shared.latency_fields(point.samples),
                "hidden_size": study.vilt.hidden_size,
                "layers": study.vilt.layers,
                "batch_size": study.batch_size,
                "dtype": study.dtype,
                "seed": study.seed,
                **shared.environment_fields(study.environment),
            }
            for point in study.points
        ]
    )


def notes(study: SequenceStudy) -> list[str]:
    """Returns the findings, and what a reader must know to read the numbers."""
    return [
        *findings(study),
        f"The shared ViLT's whole modality interaction: {study.vilt.layers} layers, D = {study.vilt.hidden_size}, "
        f"batch {study.batch_size}, {study.dtype}; {study.input}. Each sequence has {study.text_tokens} text tokens "
        "and a class token; the visual tokens vary.",
        f"{shared.conditions(study.environment)}. Median with 95% interval over rounds of one process, "
        "all lengths interleaved.",
    ]


_TITLE = "Modality interaction: latency by sequence length"
_COLUMNS = (
    text_column("Tokens"),
    Column("Latency", "ms", "95% interval"),
    Column("Per 100 tokens", "ms"),
    Column("Passes"),
)


def _table(study: SequenceStudy) -> Table:
    rows = [
        [
            f"{point.length:,}",
            shared.milliseconds(point.latency),
            shared.digits(1e5 * point.latency.value / point.length),
            f"{point.latency.samples:,}",
        ]
        for point in study.points
    ]
    return Table(_COLUMNS, lines(rows), _TITLE, notes=notes(study))


def _said(point: SequencePoint) -> str:
    return f"{shared.milliseconds(point.latency)} ms ({point.length:,} tokens)"


def _parts(study: SequenceStudy) -> str:
    """Returns the slopes of both sides of the paper's limit, where each has two lengths."""
    short = [point for point in study.points if point.length < PAPER_LENGTH]
    long = [point for point in study.points if point.length >= PAPER_LENGTH]
    if min(len(short), len(long)) < 2:
        return ""
    return (
        f", {shared.digits(slope_ms(short))} under {PAPER_LENGTH} tokens and {shared.digits(slope_ms(long))} from there"
    )
