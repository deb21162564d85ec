"""Measures what a program or a notebook has in hand: a case, an embedder by name, or a module of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from vilt_bench.ask.axes import OWN
from vilt_bench.ask.case import ALONE, SYNTHETIC, Case, Sampling, ViltConfig, parse_embedder, read_resolution
from vilt_bench.director.measure import Report, measure_together
from vilt_bench.director.process import Worker
from vilt_bench.errors import ConfigError
from vilt_bench.notebook import progress
from vilt_bench.record.run import Run
from vilt_bench.wire import Patience
from vilt_bench.words import did_you_mean, nearest

_OF_CASE = tuple(each.name for each in fields(Case) if each.init and each.name not in ("embedder", "options"))
_OF_SAMPLING = tuple(each.name for each in fields(Sampling))


def measure(
    case: Case | str | Callable[..., Any],
    sampling: Sampling | None = None,
    *,
    image_size: int | str | Sequence[int] | None = None,
    stages: Sequence[str] | None = None,
    example: Any = None,
    report: Report | None = None,
    quiet: bool = False,
    count: bool = True,
    patience_s: float | None = None,
    **asked: Any,
) -> Run:
    """Returns the run of one case, measured in fresh processes; shows meanwhile where it stands.

        measure("patch32", batch_size=8)
        measure(Case("patch32", resolution=(384, 640)), Sampling(trials=3))
        measure(my_module, image_size=224, stages=["stem", "blocks", "head"])

    A module of one's own is measured alone, without text and shared model, unless `interaction` says otherwise. It is
    cut by `torch.fx` into its children, or behind the submodules that `stages` names; where that can't be, it is one
    stage. It is sent to the measuring processes by cloudpickle: classes that can be imported by their source file,
    others, such as a notebook's, as they are; what can't be pickled by `torch.export`. The record says which. The
    file is a pickle, which is code: yours, written by this process into a temporary folder that only you can write to,
    loaded by the processes that this one starts, and then removed.

    Args:
        case: what to measure; or an embedder's name, with options as on the command line; or an `nn.Module`, or a
            callable, that takes images [B, 3, H, W].
        sampling: how hard to look; `None`: as `Sampling` has it.
        image_size: pixels of the images: an edge, `"384x640"` or (height, width). For a module, taken to the pixel.
        stages: names of a module's submodules that are to be its stages.
        example: a tensor, or a tuple of tensors, that the module is called with instead of images.
        report: told where the measuring stands, between blocks; `None`: it is shown on a terminal and in a notebook.
        quiet: show nothing.
        count: whether to count parameters, FLOPs and memory, which takes a pass or two.
        patience_s: how long a process may be silent before it is ended, as a failure.
        **asked: fields of `Case` and of `Sampling`, such as `batch_size` and `trials`.

    Raises:
        ViltBenchError: the case can't be measured as asked; see `measure_together`.
    """
    _check(asked)
    if image_size is not None:
        if "resolution" in asked:
            raise ConfigError("`image_size` and `resolution` are the same; give one of them")
        try:
            asked["resolution"] = read_resolution(image_size)
        except ConfigError as error:
            raise ConfigError(str(error).replace("`resolution`", "`image_size`")) from None
    effort = {name: asked.pop(name) for name in _OF_SAMPLING if name in asked}
    how = replace(sampling or Sampling(), **effort)
    together = partial(measure_together, sampling=how, count=count, patience_s=patience_s)
    with ExitStack() as stack:
        if isinstance(case, Case | str):
            for name, value in (("stages", stages), ("example", example)):
                if value is not None:
                    raise ConfigError(f"`{name}` is for a module; an embedder has stages and inputs of its own")
            told = _named(case, asked)
            start = None
        elif isinstance(case, type):
            raise ConfigError(f"{case.__name__} is a class; give one that is made, such as {case.__name__}()")
        elif callable(case):
            told, start = _module(case, asked, stages, example, Patience(patience_s, how.max_time_s), stack)
        else:
            several = isinstance(case, list | tuple)
            raise ConfigError(
                f"a Case, an embedder's name, a module or a callable is measured; got {type(case).__name__}"
                + ("; vilt_bench.measure_together([Case(…), …]) measures several in turns" if several else "")
            )
        tell = report or stack.enter_context(progress.shown(quiet=quiet))
        return together([told], report=tell, start_worker=start)[0]


def _check(asked: Mapping[str, Any]) -> None:
    known = (*_OF_CASE, *_OF_SAMPLING)
    for name in asked:
        if name not in known:
            guess = did_you_mean(nearest(name, known))
            raise ConfigError(f"measure takes no {name!r}{guess} known: image_size, {', '.join(known)}")


def _named(case: Case | str, asked: Mapping[str, Any]) -> Case:
    if isinstance(case, Case):
        return replace(case, **asked)
    name, options = parse_embedder(case)
    fields_of_case = {key: options.pop(key) for key in OWN if key in options} | dict(asked)
    return Case(name, options, **fields_of_case)


def _module(
    measured: Callable[..., Any],
    asked: dict[str, Any],
    stages: Sequence[str] | None,
    example: Any,
    patience: Patience,
    stack: ExitStack,
) -> tuple[Case, Callable[[], Worker]]:
    """Returns the case that stands for a module, and what starts a process that has the module."""
    from vilt_bench.embedding.modules import FOLDER
    from vilt_bench.notebook import sending

    if isinstance(stages, str):
        stages = [stages]
    size = read_resolution(asked["resolution"]) if asked.get("resolution") is not None else None
    found = sending.subject(measured, size=size, stages=stages, example=example)
    asked["resolution"] = found.sent.resolution
    if found.sent.example:
        # The images are of no use to it: the smallest there are.
        asked = {"images": (SYNTHETIC,), "batch_size": len(found.sent.example[0]), **asked}
    if "interaction" not in asked:
        asked = {"interaction": ALONE, "vilt": ViltConfig(hidden_size=found.sent.hidden_size), **asked}
    asked = {"fit": "exact", **asked}
    case = Case(found.name, {"structure": found.structure}, **asked)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vilt-bench-"))
    sending.write(found.sent, Path(folder))
    return case, partial(Worker.start, patience=patience, environment={**os.environ, FOLDER: folder})
