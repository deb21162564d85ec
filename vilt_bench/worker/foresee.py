"""Looks at cases before they are measured: pixels, tokens and memory, on the meta device; no model is run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from vilt_bench.ask.case import ALONE, EAGER, TEXT_LENGTH, Case, ViltConfig
from vilt_bench.ask.forecast import Forecast
from vilt_bench.errors import ViltBenchError
from vilt_bench.machine.device import resolve_device
from vilt_bench.model import shared_sizes
from vilt_bench.worker.build import embedder_for_input, memory_needs
from vilt_bench.worker.count import inspect

WITHIN_S = 30.0
"""After which no further case is looked at: a list is to be there soon."""

Shape = tuple[tuple[int, int], int]
"""Of an embedder's input and output: (height, width) in pixels, and tokens."""


def foresee(
    cases: Iterable[Case], *, within_s: float = WITHIN_S, clock: Callable[[], float] = time.monotonic
) -> Iterator[Forecast]:
    """Yields what is known of each case.

    Args:
        cases: to be looked at in this order.
        within_s: seconds after which the others are yielded as they are.
        clock: seconds.
    """
    end = clock() + within_s
    seen: list[tuple[Case, Shape | ViltBenchError]] = []
    for case in cases:
        if clock() >= end:
            yield Forecast(case)
            continue
        try:
            resolution, visual_tokens = _shape(case, seen)
            device = resolve_device(case.device)
            needs = memory_needs(case, embedder_for_input(case), device)
        except ViltBenchError as error:
            yield Forecast(case, problem=str(error))
            continue
        least = sum(weights + inputs for place, weights, inputs in needs if place == device)
        yield Forecast(case, resolution, visual_tokens, least)


def _shape(case: Case, seen: list[tuple[Case, Shape | ViltBenchError]]) -> Shape:
    """Returns the shape of a case; it is found out once for all that differ in other things only."""
    alone = replace(
        case,
        interaction=ALONE,
        vilt=ViltConfig(hidden_size=shared_sizes(case.interaction, case.vilt).hidden_size),
        text_length=TEXT_LENGTH,
        backend=EAGER,
        checkpoint=None,
        batch_size=1,
        dtype="float32",
        device="cpu",
        threads=None,
        preprocessing=False,
        seed=0,
    )
    found = next((shape for known, shape in seen if known == alone), None)
    if found is None:
        try:
            model, _ = inspect(alone)
            found = model.resolution, model.visual_tokens
        except ViltBenchError as error:
            found = error
        seen.append((alone, found))
    if isinstance(found, ViltBenchError):
        raise found
    return found
