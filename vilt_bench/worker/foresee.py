"""Looks at cases before they are measured: pixels, tokens and memory, on the meta device; no model is run.

As a process of its own, for a director that is to import no torch, it looks at memory alone: a line of JSON has the
cases, another is the answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import msgspec
import torch

from vilt_bench import wire
from vilt_bench.ask.case import ALONE, EAGER, TEXT_LENGTH, Case, ViltConfig, without_preprocessing
from vilt_bench.ask.forecast import HOST, Forecast, Outlook, Share
from vilt_bench.errors import ViltBenchError
from vilt_bench.machine.device import HOST_MEMORY, resolve_device
from vilt_bench.machine.environment import free_device_bytes
from vilt_bench.model import shared_sizes
from vilt_bench.worker.build import embedder_for_input, memory_needs
from vilt_bench.worker.count import inspect

WITHIN_S = 30.0
"""After which no further case is looked at: a list is to be there soon."""

Shape = tuple[tuple[int, int], int]
"""Of an embedder's input and output: (height, width) in pixels, and tokens."""


def main() -> None:
    """Answer one line: how much memory its cases take."""
    owner = wire.attach()
    for line in owner.requests:
        cases = msgspec.json.decode(line, type=tuple[Case, ...])
        owner.replies.write(msgspec.json.encode(look_at_memory(cases)) + b"\n")
        owner.replies.flush()
        return


def look_at_memory(
    cases: Sequence[Case], *, within_s: float = WITHIN_S, clock: Callable[[], float] = time.monotonic
) -> Outlook:
    """Returns what the cases take at least, and what devices have free; a case that can't be built takes nothing known.

    Args:
        cases: to be looked at in this order.
        within_s: seconds after which no further case is looked at.
        clock: seconds.
    """
    end = clock() + within_s
    needs: list[Mapping[str, Share] | None] = []
    for case in cases:
        found = None
        if clock() < end:
            with suppress(ViltBenchError):  # it is told when the case is measured
                found = needs_by_place(case, resolve_device(case.device))
        needs.append(found)
    return Outlook(tuple(needs), free_of_devices(cases))


def free_of_devices(cases: Iterable[Case]) -> dict[str, int]:
    """Returns how many bytes are free on each device of the cases that has memory of its own."""
    found = {}
    for name in dict.fromkeys(case.device for case in cases):
        with suppress(ViltBenchError):  # it is told when a case is measured
            device = resolve_device(name)
            if (free := free_device_bytes(device)) is not None:
                found[str(device)] = free
    return found


def needs_by_place(case: Case, device: torch.device) -> dict[str, Share]:
    """Returns what weights and inputs of a case take of each place's memory at least.

    Raises:
        ViltBenchError: the case can't be built as asked.
    """
    found: dict[str, Share] = {}
    for place, weights, inputs in memory_needs(case, embedder_for_input(case), device):
        # A device without memory of its own takes the host's.
        name = HOST if place.type in HOST_MEMORY else str(place)
        before = found.get(name, Share(0, 0))
        found[name] = Share(before.weights_bytes + weights, before.inputs_bytes + inputs)
    return found


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
            resolution, tokens_of_one = _shape(case, seen)
            visual_tokens = case.images_per_text * tokens_of_one
            _check_positions(case, visual_tokens)
            device = resolve_device(case.device)
            needs = needs_by_place(case, device)
        except ViltBenchError as error:
            yield Forecast(case, problem=str(error))
            continue
        own = needs.get(str(device), needs[HOST])
        yield Forecast(case, resolution, visual_tokens, own.weights_bytes + own.inputs_bytes, needs=needs)


def _check_positions(case: Case, visual_tokens: int) -> None:
    """Refuse more tokens than a language model has positions for."""
    if (language_model := case.language_model) is not None:
        from vilt_bench.model.language import check_positions, positions_of

        usual = {"images_per_text": 1, "frames": None, "tiles": None}
        several = [name for name, value in usual.items() if getattr(case, name) != value]
        check_positions(positions_of(language_model), visual=visual_tokens, text=case.text_length, several=several)


def _shape(case: Case, seen: list[tuple[Case, Shape | ViltBenchError]]) -> Shape:
    """Returns the shape of a case with one image a text; it is found out once for all that differ elsewhere only."""
    alone = replace(
        without_preprocessing(case),
        interaction=ALONE,
        vilt=ViltConfig(hidden_size=shared_sizes(case.interaction, case.vilt).hidden_size),
        text_length=TEXT_LENGTH,
        images_per_text=1,
        backend=EAGER,
        checkpoint=None,
        batch_size=1,
        dtype="float32",
        device="cpu",
        threads=None,
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


if __name__ == "__main__":
    main()
