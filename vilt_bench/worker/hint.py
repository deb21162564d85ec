"""Whether another backend that is at hand is likely much faster than eager torch here, by a product of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from vilt_bench.worker.meters.peak import Pack

ROWS = 256
"""Of the product that is tried: about the tokens of an image and a text."""
LEAST_WEIGHTS = 512 * 512
"""Of the layer that is tried: a product of less takes so little that it tells of overheads."""
ROUNDS = 5
NOTABLE = 0.75
"""A product that takes less than this share of eager torch's time is told of."""
LEAST_SHARE = 0.5
"""Of a model's parameters, those of its linear layers, for their products to tell of the whole."""


def faster_products(
    model: nn.Module, products: Mapping[str, Pack], clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Returns products that take far less time than eager torch's, by name, each with the share of its time.

    It takes a dozen products of the model's largest linear layer, some hundredths of a second; a model with smaller
    ones, or whose parameters are for the most part in other layers, is not tried.

    Args:
        model: on the CPU, eager torch's.
        products: that are tried, by what they are.
        clock: seconds.
    """
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear]
    largest = max(layers, key=lambda layer: layer.weight.numel(), default=None)
    count = sum(parameter.numel() for parameter in model.parameters())
    if largest is None or largest.weight.numel() < LEAST_WEIGHTS:
        return {}
    if sum(layer.weight.numel() for layer in layers) < LEAST_SHARE * count:
        return {}
    weight = largest.weight.detach()
    rows = torch.ones(ROWS, weight.shape[1], dtype=weight.dtype)
    with torch.inference_mode():
        tried = {name: product for name, pack in products.items() if (product := pack(weight)) is not None}
        times: dict[str, list[float]] = {name: [] for name in ("", *tried)}
        for _ in range(ROUNDS):
            for name, product in {"": lambda rows: nn.functional.linear(rows, weight), **tried}.items():
                times[name].append(_time(product, rows, clock))
    own = min(times.pop(""))
    return {name: share for name, each in times.items() if own and (share := min(each) / own) < NOTABLE}


def _time(product: Callable[[Tensor], Tensor], rows: Tensor, clock: Callable[[], float]) -> float:
    begin = clock()
    product(rows)
    return clock() - begin
