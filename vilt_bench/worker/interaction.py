"""Counts the work of what joins the modalities, by the number of visual tokens; no embedder is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch

from vilt_bench.ask.case import Case
from vilt_bench.embedding import Mark, VisualTokens
from vilt_bench.errors import ConfigError, InputError
from vilt_bench.judge.choice import Work
from vilt_bench.model import SharedModel, TextTokens, build_shared
from vilt_bench.worker.meters.flops import count_flops
from vilt_bench.worker.meters.meta import building, without_compiler
from vilt_bench.worker.meters.traffic import count_traffic

Counts = dict[str, Work]
"""By stage."""


def count_interaction(case: Case, numbers: Iterable[int]) -> dict[int, tuple[Work, ...]]:
    """Returns the work of the interaction's stages for one image, by the number of visual tokens.

    Attention makes FLOPs a polynomial of second degree, and bytes one of first, so three numbers tell all others,
    once a fourth is found as they say; where it is not, each is counted.

    Args:
        case: has the interaction, its sizes, the text's length and the dtype.
        numbers: of visual tokens; one that the interaction does not take has no entry in what is returned.

    Raises:
        ConfigError: there is no such interaction, or an operator of it has no formula.
        CheckpointError: a language model's configuration can't be fetched or read.
    """
    with building():
        shared = build_shared(case.interaction, case.vilt).eval()
    wanted = sorted(set(numbers))
    counted: dict[int, Counts] = {}
    while wanted and wanted[-1] not in counted:
        try:
            counted[wanted[-1]] = _count(shared, case, wanted[-1])
        except InputError:  # more than it has positions for
            wanted.pop()
    if len(wanted) > 4:
        known = [wanted[0], wanted[len(wanted) // 2], wanted[-1]]
        counted |= {number: _count(shared, case, number) for number in known if number not in counted}
        probe = wanted[len(wanted) // 4]
        counted[probe] = _count(shared, case, probe)
        if _between(counted, known, probe) == counted[probe]:
            counted |= {number: _between(counted, known, number) for number in wanted if number not in counted}
    for number in wanted:
        if number not in counted:
            counted[number] = _count(shared, case, number)
    return {number: tuple(counted[number].values()) for number in wanted}


def _count(shared: SharedModel, case: Case, visual_tokens: int) -> Counts:
    if not shared.has_text:
        return {}
    text = TextTokens(torch.empty(1, case.text_length, shared.sizes.hidden_size, device="meta"))
    visual = VisualTokens(torch.empty(1, visual_tokens, shared.visual_size, device="meta"))
    moved: dict[str, int] = {}

    def forward(mark: Mark | None) -> None:
        nonlocal moved
        nothing = torch.empty(0, device="meta")
        with count_traffic(shared, nothing, scalar_bytes=getattr(torch, case.dtype).itemsize) as (count_moved, moved):

            def each(name: str, output: Any) -> None:
                count_moved(name, output)
                if mark is not None:
                    mark(name, output)

            shared.interact(text, visual, each)

    flops = without_compiler(lambda: count_flops(forward))
    if flops.unknown:
        operators = ", ".join(dict.fromkeys(name for names in flops.unknown.values() for name in names))
        raise ConfigError(f"{case.interaction} runs {operators}, without a formula of FLOPs", field="interaction")
    return {name: Work(count or 0, moved[name]) for name, count in flops.stages.items()}


def _between(counted: Mapping[int, Counts], known: Sequence[int], number: int) -> Counts:
    """Returns what the polynomial through three numbers of visual tokens says of another."""

    def value(stage: str, field: str) -> int:
        total = Fraction(0)
        for here in known:
            term = Fraction(getattr(counted[here][stage], field))
            for other in known:
                if other != here:
                    term *= Fraction(number - other, here - other)
            total += term
        return round(total)

    return {stage: Work(value(stage, "flops"), value(stage, "moved_bytes")) for stage in counted[known[0]]}
