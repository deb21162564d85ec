"""`vilt-bench list` and `vilt-bench show`: what embedders there are, and what one is made of; nothing is run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vilt_bench.cli import options, screen

if TYPE_CHECKING:
    from vilt_bench.cli import Add


def register(add: Add) -> None:
    """Add the commands."""
    parser = add("list", list_embedders, "list the embedders that installed packages offer")
    parser.add_argument("query", nargs="?", default="", help="part of a name, or a kind: linear, grid, region")

    parser = add("show", show, "show an embedder's stages, shapes, parameters and FLOPs; nothing is run")
    parser.add_argument("embedder", nargs=1, metavar="NAME[,KEY=VALUE…]")
    options.add_case(parser)


def list_embedders(asked: argparse.Namespace) -> int:
    """Print the embedders that installed packages offer."""
    from vilt_bench.catalog import list_rows, render_list

    render_list(list_rows(asked.query), screen.console())
    return 0


def show(asked: argparse.Namespace) -> int:
    """Print an embedder's stages, shapes, parameters and FLOPs; nothing is run."""
    from vilt_bench.report.stages import show_stages
    from vilt_bench.runner import inspect

    (case,) = options.cases(asked)
    model, stages = inspect(case)
    show_stages(case, model, stages, screen.console())
    return 0
