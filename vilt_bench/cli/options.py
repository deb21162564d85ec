"""Options that several commands share, and the cases that they describe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from vilt_bench.ask.case import (
    DECODERS,
    MOST_IMAGES_PER_VILT,
    SIZES,
    Case,
    Dtype,
    Fit,
    Sampling,
    parse_device,
)
from vilt_bench.ask.tiles import EXAMPLES
from vilt_bench.cli import axes, formats, values
from vilt_bench.errors import ConfigError

if TYPE_CHECKING:
    from vilt_bench.machine.datasheets import Datasheet
    from vilt_bench.record.run import Origin, PlanFile

USUAL = Case("NAME")
"""What is asked for where nothing is said."""
RESULTS = "results"
"""Where records go unless another folder is given."""


def add_embedders(parser: argparse.ArgumentParser, *, metavar: str = "NAME[,KEY=VALUE…]", help: str) -> None:
    """Add the embedders: as they are, or each behind --embedder."""
    parser.add_argument("names", nargs="*", metavar=metavar, help=help)
    parser.add_argument(
        "--embedder",
        action="append",
        metavar=metavar,
        help="likewise; give it several times for several embedders",
    )


def add_case(parser: argparse.ArgumentParser, *, lists: bool = False) -> None:
    """Add what describes a case but its input and device.

    Args:
        parser: to add it to.
        lists: whether several values may be given, with commas between them.
    """
    of = axes.several if lists else axes.one
    group = parser.add_argument_group("the case")
    group.add_argument(
        "--resolution",
        type=of(axes.resolution),
        metavar="HxW|native",
        help="shorter edge and limit of the longer one, in pixels; native: each image's own size, as the tower's "
        "own processor has it or floored to the multiples that the embedder asks for (default: the embedder's own, as "
        "in its paper)",
    )
    group.add_argument(
        "--tiles",
        type=of(axes.text),
        metavar="SCHEME",
        help=f"cut each image into tiles, which the tower takes one by one: {', '.join(EXAMPLES)}; --resolution is "
        "then the whole image's (default: its own)",
    )
    group.add_argument(
        "--reduce",
        type=of(axes.text),
        metavar="NAME:N",
        help="reduce the visual tokens: pixel-shuffle:2, avg-pool:2, bilinear-pool:2 (squares of cells), "
        "perceiver:64, qformer:32 (tokens left), tome:98 (tokens merged away)",
    )
    group.add_argument(
        "--batch-size",
        type=of(axes.number),
        default=USUAL.batch_size,
        metavar="N",
        help=f"texts a pass, each with its image or images (default: {USUAL.batch_size})",
    )
    group.add_argument(
        "--text-length",
        type=of(axes.number),  # no default: where there is no text, a length that was asked for is refused
        metavar="N",
        help=f"text tokens (default: {USUAL.text_length})",
    )
    group.add_argument(
        "--images-per-text",
        type=of(axes.number),  # likewise
        metavar="N",
        help="images of each text, whose tokens the interaction gets one after the other: for a language model as many "
        f"as fit, for ViLT {MOST_IMAGES_PER_VILT} at most (default: {USUAL.images_per_text})",
    )
    group.add_argument(
        "--frames",
        type=of(axes.frames),
        metavar="N[@FPS]",
        help="N frames of a clip in an image's place, evenly from all of it, or FPS a second from its beginning; clips "
        "are given as --image, else frames are noise; behind a language model or none (default: images)",
    )
    group.add_argument("--weights", metavar="PATH", help="weights of the visual embedder (default: random)")
    group = parser.add_argument_group("the shared model (defaults: ViLT-B/32)")
    group.add_argument(
        "--interaction",
        type=of(axes.text),
        default=USUAL.interaction,
        metavar="NAME",
        help="what joins the modalities: vilt, the shared ViLT; bert, lxmert or vilbert, that of another model of the "
        "paper's Table 6; a language model up to its first token, such as lm:SmolLM2-135M, lm:Qwen2.5-0.5B, "
        "lm:Llama-3.2-1B, lm:FOLDER, or, from the network, lm:hub:ORGANISATION/NAME; none: the visual embedder alone, "
        "without text "
        f"(default: {USUAL.interaction})",
    )
    for name in SIZES:
        text = "rows of the text's position table" if name == "text_positions" else None
        letter = "D" if name == "hidden_size" else "N"
        usual = getattr(USUAL.vilt, name)
        group.add_argument(f"--{name.replace('_', '-')}", type=int, default=usual, metavar=letter, help=text)


def add_measuring(parser: argparse.ArgumentParser) -> None:
    """Add input, device, effort and output."""
    sampling = Sampling()
    add_input(parser, lists=True)
    add_backend(add_where(parser, lists=True), lists=True)
    add_effort(
        parser,
        precision=f"{sampling.precision:g}",
        max_time=f"{sampling.max_time_s:g} for one embedder, all trials together",
        trials="fresh processes an embedder; more follow where they differ and time is left "
        f"(default: {sampling.trials})",
        given=(sampling.precision, sampling.max_time_s, sampling.trials),
    )
    group = parser.add_argument_group("output")
    add_records(group)
    add_name(group)
    add_columns(group)
    add_notes(group)
    group.add_argument("--quiet", action="store_true", help="say nothing while measuring")


def add_format(group: argparse._ActionsContainer, choices: Sequence[str]) -> None:
    """Add what a report is written as."""
    group.add_argument(
        "--format",
        choices=choices,
        metavar="NAME",
        help=f"{', '.join(choices)} (default: what --output's name says, else a table)",
    )


def add_notes(group: argparse._ActionsContainer) -> None:
    """Add whether everything is told beneath a run's table."""
    group.add_argument(
        "--notes",
        action="store_true",
        help="on a terminal, tell all notes beneath each run; else many that warn of nothing are only counted",
    )


SORTS = ("rank", "asked")
"""Orders in which runs are shown."""


def add_records(group: argparse._ActionsContainer) -> None:
    """Add the folder that records are saved in."""
    group.add_argument(
        "--output",
        type=formats.folder,
        default=RESULTS,
        metavar="FOLDER",
        help="for the records; or a URL that fsspec understands, such as s3://BUCKET/FOLDER, which needs s3fs "
        f"(default: {RESULTS})",
    )


def add_name(group: argparse._ActionsContainer) -> None:
    """Add what the runs are to be called."""
    group.add_argument(
        "--name",
        type=_run_name,
        help="call the runs so: tables tell it, and 'vilt-bench report NAME', compare and rerun find them by it",
    )


def add_results(parser: argparse._ActionsContainer, *, more: str = "") -> None:
    """Add the folder in which runs are looked for that are not given by a path."""
    parser.add_argument(
        "--results",
        default=RESULTS,
        metavar="FOLDER",
        help=f"in which latest, names and ids of runs are looked for{more} (default: {RESULTS})",
    )


RUN = "a record or a folder of them, by path or URL; or latest, latest~1, a run's name, or 4 or more digits of its id"
"""What a record may be given as."""


def origin(asked: argparse.Namespace, *, plan: PlanFile | None = None, repeats: Sequence[str] = ()) -> Origin:
    """Returns what asks for runs: the command line as it was typed."""
    import shlex

    from vilt_bench.record.run import Origin

    return Origin(shlex.join(["vilt-bench", *asked.typed]), plan, tuple(repeats))


def _run_name(text: str) -> str:
    from vilt_bench.cli.flags import in_flags
    from vilt_bench.record.find import check_run_name

    try:
        check_run_name(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(in_flags(error.problem)) from None
    return text


def add_columns(group: argparse._ActionsContainer) -> None:
    """Add the choice of what tables tell."""
    group.add_argument(
        "--columns",
        action=values.Quantities,
        default=[],
        metavar="NAME,…",
        help="what tables and data tell of stages and wholes, in this order, such as "
        "latency,images-per-second,time-per-image,p99,parameters; help: lists all (default: the usual ones)",
    )


def add_sort(group: argparse._ActionsContainer, *, default: str) -> None:
    """Add the order in which runs are shown; `default` says what it is if none is asked for."""
    group.add_argument(
        "--sort",
        choices=SORTS,
        help=f"rank: runs that took turns, the fastest first; asked: in the order asked for (default: {default})",
    )


def add_input(parser: argparse.ArgumentParser, *, lists: bool = False) -> None:
    """Add the images, and what weights and text are made of; `lists` as for `add_case`."""
    of = axes.several if lists else axes.one
    group = add_images(parser)
    group.add_argument(
        "--with-preprocessing",
        dest="preprocessing",
        action="store_true",
        help="decode, resize and normalise the photographs within the pass, on the CPU, from files in memory",
    )
    group.add_argument(
        "--preprocessor",
        type=of(axes.text),
        metavar="NAME",
        help="who resizes and normalises them: pillow, with torch; torchvision, by its transforms; or processor, the "
        f"tower's own in transformers, fast or slow as in processor:slow (default: {USUAL.preprocessor})",
    )
    group.add_argument(
        "--decoder",
        type=of(axes.text),
        metavar="NAME",
        help=f"who decodes their files: {', '.join(DECODERS)} (default: what belongs to the preprocessor)",
    )
    if lists:
        group.add_argument(
            "--preprocessing-workers",
            type=axes.several(axes.number),
            metavar="N",
            help="measure as well how fast preprocessing and model are at the same time, with N processes that prepare "
            "batches; 0: one after the other (default: not measured)",
        )
        group.add_argument(
            "--pin-memory",
            action="store_true",
            help="let these processes' batches be copied to the accelerator while the host works",
        )
    group.add_argument(
        "--seed", type=int, default=USUAL.seed, help=f"of weights, text and noise (default: {USUAL.seed})"
    )
    group.add_argument(
        "--checkpoint",
        metavar="SOURCE",
        help="weights of the shared ViLT: a file, a folder, or hub:ORGANISATION/NAME (default: random)",
    )


def add_images(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the images, which decide what size a model gets; returns the group, for more of its kind."""
    group = parser.add_argument_group("input")
    group.add_argument(
        "--image",
        action="extend",
        nargs="+",
        default=[],
        metavar="PATH",
        help="photographs to run on, with --frames clips, or 'synthetic' for noise (default: two that come along)",
    )
    group.add_argument(
        "--fit",
        choices=get_args(Fit),
        default=USUAL.fit,
        help="resize a photograph with its aspect kept; crop it to the resolution, cut to multiples of the embedder's "
        "stride, or exact to the pixel; or keep its own size, as --resolution native does "
        f"(default: {USUAL.fit})",
    )
    return group


def add_backend(group: argparse._ArgumentGroup, *, lists: bool = False) -> None:
    """Add who computes the stages; `lists` as for `add_case`."""
    group.add_argument(
        "--backend",
        type=axes.backends if lists else axes.backend,
        default=USUAL.backend,
        metavar="NAME[:KEY=VALUE,…]",
        help="who computes the stages: torch as built, or with options such as torch:channels_last,fold_batch_norm; "
        "onednn with prepacked weights; what else there is, and what to choose when, is in docs/backends.md "
        f"(default: {USUAL.backend})",
    )
    group.add_argument(
        "--quantize",
        type=(axes.several if lists else axes.one)(axes.text),
        metavar="int8|fp8",
        help="weights and activations of products in fewer bits, by the backend's own means: torchao for torch, NNCF "
        "for openvino, dynamic quantisation for onnxruntime; none is as they are (default: none)",
    )
    group.add_argument("--linear", action=axes.Renamed, help=argparse.SUPPRESS)


def add_where(parser: argparse.ArgumentParser, *, lists: bool = False) -> argparse._ArgumentGroup:
    """Add where to run; returns the group, for more of its kind; `lists` as for `add_case`."""
    of = axes.several if lists else axes.one
    group = parser.add_argument_group("where")
    group.add_argument(
        "--device",
        type=parse_device,
        default=USUAL.device,
        help=f"auto, cpu, gpu, cuda, cuda:N, mps, xpu, or another that torch has (default: {USUAL.device})",
    )
    group.add_argument(
        "--dtype",
        type=of(axes.dtype),
        default=USUAL.dtype,
        metavar="|".join(get_args(Dtype)),
        help=f"also fp32, bf16, fp16, half (default: {USUAL.dtype})",
    )
    group.add_argument(
        "--threads", type=of(axes.number), metavar="N", help="CPU threads (default: OMP_NUM_THREADS, else the cores)"
    )
    return group


def add_on(group: argparse._ArgumentGroup) -> None:
    """Add machines that one does not have."""
    group.add_argument(
        "--on",
        action=values.Machines,
        default=[],
        metavar="MACHINE,…",
        help="take the peaks of datasheets, of machines that need not be here: H100, A100, L4, RTX-4090, M4-Max, …, or "
        "a TOML file of others (docs/choose.md); help: lists them with their sources",
    )


def machines(asked: argparse.Namespace) -> list[Datasheet]:
    """Returns the machines that `--on` names; none where it was not given.

    Raises:
        ConfigError: an option is of this machine.
    """
    found: list[Datasheet] = asked.on
    if found and (asked.threads is not None or asked.device != USUAL.device):
        flag = "--threads" if asked.threads is not None else "--device"
        raise ConfigError(f"{flag} is of this machine; leave it out with --on, which measures nothing here")
    return found


def add_effort(
    parser: argparse.ArgumentParser,
    *,
    precision: str,
    max_time: str,
    trials: str,
    given: tuple[float | None, float | None, int | None],
) -> None:
    """Add how hard to look; `given` are the defaults, the texts say what they mean."""
    group = parser.add_argument_group("how hard to look")
    group.add_argument(
        "--precision",
        type=values.share,
        default=given[0],
        metavar="SHARE",
        help="sample until the 95%% interval is within ± this share of the median, such as 1%% or 0.01 "
        f"(default: {precision})",
    )
    group.add_argument(
        "--max-time",
        type=values.seconds,
        default=given[1],
        metavar="TIME",
        help=f"measuring time in seconds, or such as 90s, 1.5m or 2h (default: {max_time})",
    )
    group.add_argument("--trials", type=int, default=given[2], metavar="N", help=trials)
    add_patience(group)


def add_patience(group: argparse._ActionsContainer) -> None:
    """Add when a process is taken for hung."""
    group.add_argument(
        "--patience",
        type=values.seconds,
        metavar="TIME",
        help="end a measuring process that gives no answer for so long, in building, in the first call, or in a pass, "
        "and record that as its failure (default: ten times the measuring time, at least 300, for what is done once; "
        "twenty times the longest so far, at least 60, for passes)",
    )


def cases(asked: argparse.Namespace) -> list[Case]:
    """Returns the cases that the options describe, one an embedder."""
    from vilt_bench import files

    files.check_current_folder()
    plan = axes.plan(asked)
    if not plan.embedders:
        raise ConfigError("give --embedder NAME; 'vilt-bench list' shows all")
    found = plan.sweep().cases()
    axes.check_backends(found)
    return found
