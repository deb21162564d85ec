"""`vilt-bench list` and `vilt-bench show`: what embedders there are, and what one is made of; no model is run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vilt_bench.cli import options, screen
from vilt_bench.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vilt_bench.ask.case import Case
    from vilt_bench.cli import Add
    from vilt_bench.record.run import Bounds, Stage


def register(add: Add) -> None:
    """Add the commands."""
    parser = add("list", list_embedders, "list the embedders that installed packages offer")
    parser.add_argument(
        "query",
        nargs="?",
        default="",
        help="part of a name, as in timm/convnext, or a kind: linear, grid, region, encoder",
    )
    parser.add_argument(
        "--vlm", action="store_true", help="what vision-language models use, who uses it, and where that can be read"
    )
    parser.add_argument("--presets", action="store_true", help="the sets of embedders that 'run --preset NAME' takes")

    parser = add("show", show, "show an embedder's stages, shapes, parameters, FLOPs and least times; no model is run")
    options.add_embedders(parser, help="the embedder, by a name that 'vilt-bench list' shows, with its options")
    options.add_case(parser)
    options.add_images(parser)
    where = options.add_where(parser)
    where.add_argument(
        "--no-peak",
        action="store_true",
        help="don't measure the machine's peak, which takes a few seconds, for the stages' least times",
    )
    options.add_backend(where)
    options.add_on(where)

    parser = add("catalog", catalog_embedders, "write the catalogue of a package's embedders, for 'vilt-bench list'")
    parser.add_argument("package", nargs="?", default="embedders", help="installed, and offering embedders")


def catalog_embedders(asked: argparse.Namespace) -> int:
    """Write the catalogue of a package's embedders, which `list` and `show` read, into its folder."""
    from vilt_bench.worker.catalog import write

    screen.console().print(f"wrote {write(asked.package)}", soft_wrap=True)
    return 0


def list_embedders(asked: argparse.Namespace) -> int:
    """Print the embedders that installed packages offer, those that models use, or the presets."""
    from vilt_bench.ask import catalog, presets
    from vilt_bench.report.embedders import listing

    console = screen.console()
    if asked.vlm:
        used = presets.that_fit(asked.query)
        if not used:
            raise ConfigError(f"no model fits {asked.query!r}; 'vilt-bench list --vlm' shows all")
        listing.render_used(used, console)
    elif asked.presets:
        listing.render_presets(presets.presets(), console)
    else:
        listing.render_list(catalog.find(asked.query), console, query=asked.query)
    return 0


def show(asked: argparse.Namespace) -> int:
    """Print an embedder's stages, shapes, parameters, FLOPs and least times; no model is run."""
    from vilt_bench.report.embedders.stages import show_stages

    machines = options.machines(asked)
    case, *others = options.cases(asked)
    if others:
        raise ConfigError(f"'show' takes one embedder; got {case.embedder} and {others[0].embedder}")
    from vilt_bench.worker.count import inspect

    model, stages = inspect(case)
    bounds = [machine.bounds(stages, dtype=case.dtype) for machine in machines]
    if not machines and not asked.no_peak:
        bounds = [_bounds_here(case, stages)]
    show_stages(case, model, stages, screen.console(), bounds)
    return 0


def _bounds_here(case: Case, stages: Sequence[Stage]) -> Bounds:
    """Returns the least times of stages on this machine, whose peak a process of its own measures now."""
    from vilt_bench.director.limits import measure_peak
    from vilt_bench.judge.limit import least_times
    from vilt_bench.record.run import Bounds
    from vilt_bench.report import limits

    found = measure_peak(case)
    told = limits.described(found.peak, device=found.device, threads=found.threads)
    return Bounds(f"{told}, measured just now{limits.busy(found.peak)}", least_times(found.peak, stages))
