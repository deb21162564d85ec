"""A case in; its model and inputs out, and what the record says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from vilt_bench.ask import registry
from vilt_bench.ask.case import Case, label, parse_reduction
from vilt_bench.embedding import Processor, VisualEmbedder
from vilt_bench.errors import ConfigError, EmbedderError, ViltBenchError
from vilt_bench.machine.environment import available_memory_bytes
from vilt_bench.model import SharedModel, VisionLanguageModel, build_shared, shared_sizes
from vilt_bench.model.assembly import STAGE as ASSEMBLY
from vilt_bench.model.assembly import Assembly, Newline, assembled
from vilt_bench.model.reduction import reduced
from vilt_bench.model.tiles import arrangement
from vilt_bench.record.run import NONE, Computation, Model
from vilt_bench.worker.cutting import Cutting, cutting_of
from vilt_bench.worker.deferred import lean_torchvision
from vilt_bench.worker.inputs import Inputs, least_bytes, make_inputs, text_length
from vilt_bench.worker.meters.meta import building, needs_values


def check_memory(
    case: Case,
    embedder: VisualEmbedder,
    device: torch.device,
    *,
    weights: bool = True,
    available: Callable[[torch.device], int | None] = available_memory_bytes,
) -> None:
    """Refuse, before anything is allocated, a case whose weights and inputs alone need more memory than there is.

    Args:
        case: what is to be built, in float32 on the host, and brought to the device in its dtype.
        embedder: the case's, on the meta device.
        device: where it is to run.
        weights: whether any are to be allocated.
        available: bytes that a device has.

    Raises:
        MemoryError: they do.
        InputError: an image can't be used.
    """
    for place, for_weights, for_inputs in memory_needs(case, embedder, device, weights=weights):
        there = available(place)
        if there is not None and for_weights + for_inputs > there:
            takes = f"weights take {_in_gb(for_weights)} and inputs" if weights else "inputs take"
            advice = "a smaller batch or resolution" if for_inputs > for_weights else "a smaller model"
            raise MemoryError(
                f"{takes} {_in_gb(for_inputs)}, and {_in_gb(there)} of memory are available on {place}; give {advice}"
            )


def memory_needs(
    case: Case, embedder: VisualEmbedder, device: torch.device, *, weights: bool = True
) -> list[tuple[torch.device, int, int]]:
    """Returns how many bytes weights and inputs take at least, by place: the host, and the device if it is another.

    Raises:
        InputError: an image can't be used.
    """
    dtype: torch.dtype = getattr(torch, case.dtype)
    cutting = cutting_of(case)
    inputs, beside = least_bytes(
        _fitted(case, embedder),
        resolution=case.resolution or embedder.resolution,
        size_divisor=embedder.size_divisor if cutting is None else 1,
        dtype=dtype,
        processor=native_processor(case, embedder),
        cutting=cutting,
    )
    built = moved = 0
    for tensor in _weights_on_meta(case, embedder) if weights else ():
        built += tensor.numel() * tensor.itemsize
        moved += tensor.numel() * (dtype.itemsize if tensor.is_floating_point() else tensor.itemsize)
    host = torch.device("cpu")
    return [(host, built, inputs + beside)] if device == host else [(host, built, beside), (device, moved, inputs)]


def _weights_on_meta(case: Case, embedder: VisualEmbedder) -> Iterator[Tensor]:
    try:
        with building():
            shared = _build_shared(case)
    except Exception:  # it is told when the model is built for real
        shared = None
    for module in filter(None, (embedder, shared)):
        yield from module.parameters()
        yield from module.buffers()


def _in_gb(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"


def build_inputs(case: Case, embedder: VisualEmbedder, device: torch.device) -> Inputs:
    """Returns the case's images and text, as its embedder takes them."""
    cutting = cutting_of(case)
    is_own = case.fit != "native" and case.resolution in (None, embedder.resolution)
    if embedder.fixed_size and cutting is None and not is_own:
        height, width = embedder.resolution
        raise EmbedderError(
            f"{label(case)} takes images of {height}x{width} pixels only; give `resolution` {height}x{width}"
        )
    found = native_processor(case, embedder)
    if case.processor_kind is not None and found is not None:
        _check_processor(case, embedder, found)
    return make_inputs(
        _fitted(case, embedder),
        resolution=case.resolution or embedder.resolution,
        size_divisor=embedder.size_divisor if cutting is None else 1,
        mean=embedder.mean,
        std=embedder.std,
        device=device,
        dtype=getattr(torch, case.dtype),
        vocabulary=shared_sizes(case.interaction, case.vilt).vocabulary,
        processor=found,
        cutting=cutting,
    )


def _fitted(case: Case, embedder: VisualEmbedder) -> Case:
    """Returns the case with the fit that its images get: a fixed size is cropped to, a processor decides by itself.

    Those that are cut into tiles keep their own size, or get the one that was asked for.
    """
    if case.tiles is not None:
        return case if case.resolution is not None else replace(case, fit="native")
    if embedder.fixed_size and case.fit != "exact":
        return replace(case, fit="crop")
    return case if case.processor_kind is None else replace(case, fit="native", resolution=None)


def _check_processor(case: Case, embedder: VisualEmbedder, processor: Processor) -> None:
    """Refuse a processor that decides otherwise than what was asked for, or makes what the embedder does not take.

    Raises:
        ConfigError: it does.
    """
    dynamic = not embedder.fixed_size and processor.is_dynamic
    for name, given in (
        ("fit", case.fit in ("crop", "exact")),
        ("resolution", dynamic and case.resolution is not None),
    ):
        if given:
            raise ConfigError(
                f"processor: {processor.description} decides of sizes itself; leave `{name}` out", field="preprocessor"
            )
    if not embedder.fixed_size:
        return
    if (made := processor.size(*embedder.resolution)) != embedder.resolution:
        raise ConfigError(
            f"processor: {processor.description} makes images of {made[0]}x{made[1]} pixels, and {label(case)} takes "
            f"{embedder.resolution[0]}x{embedder.resolution[1]}; give `resolution` {made[0]}x{made[1]}",
            field="preprocessor",
        )


def native_processor(case: Case, embedder: VisualEmbedder) -> Processor | None:
    """Returns the tower's own processor where it prepares images, or native sizes are what it makes of the images'.

    `None`: they are the images' own, as the tower has none, or one that makes all images of one size.

    Raises:
        ConfigError: it is to prepare images, and there is none.
    """
    if (kind := case.processor_kind) is not None:
        if embedder.processor is None:
            raise ConfigError(
                f"processor is none that {label(case)} has, as far as is known here; give pillow or torchvision",
                field="preprocessor",
            )
        return embedder.processor(kind)
    # A processor of images has other limits than one of clips.
    if case.fit != "native" or case.frames is not None or case.tiles is not None:
        return None
    if embedder.fixed_size or embedder.processor is None:
        return None
    try:
        found = embedder.processor("")
        return found if found.is_dynamic else None
    except ViltBenchError:  # none of this family, or none that is known here: nobody asked for it
        return None


def embedder_on_meta(case: Case) -> VisualEmbedder:
    """Returns the case's visual embedder on the meta device: no memory, hardly any time."""
    with building():
        return _build_embedder(without_weights(case), shared_sizes(case.interaction, case.vilt).hidden_size)


def embedder_for_input(case: Case) -> VisualEmbedder:
    """Returns an embedder that says what input it takes: on the meta device, unless building it looks at values."""
    try:
        return embedder_on_meta(case)
    except EmbedderError as error:
        if error.__cause__ is None or not needs_values(error.__cause__):
            raise
        return _build_embedder(without_weights(case), shared_sizes(case.interaction, case.vilt).hidden_size)


def _build_embedder(case: Case, hidden_size: int) -> VisualEmbedder:
    cutting = cutting_of(case)
    resolution = case.resolution if cutting is None else (cutting.tiling.edge, cutting.tiling.edge)
    with lean_torchvision():
        embedder = registry.build(case.embedder, case.options, hidden_size=hidden_size, resolution=resolution)
    if any(nn.parameter.is_lazy(tensor) for tensor in (*embedder.parameters(), *embedder.buffers())):
        raise EmbedderError(
            f"{label(case)} has lazy layers, whose weights are not there before a pass; give their sizes"
        )
    if cutting is not None:
        _check_fits_tiles(case, embedder, cutting)
    if case.reduce is not None:
        embedder = reduced(embedder, case.reduce)
    return assembled(embedder, assembly_of(case, embedder, cutting))


def _check_fits_tiles(case: Case, embedder: VisualEmbedder, cutting: Cutting) -> None:
    """Refuse a tower that does not take a scheme's tiles.

    Raises:
        EmbedderError: it does not.
    """
    edge, name = cutting.tiling.edge, label(replace(case, tiles=None, reduce=None))
    if embedder.kind == "region":
        raise EmbedderError(f"{name} finds regions of a whole image, which `tiles` would cut; leave it out")
    if embedder.fixed_size and embedder.resolution != (edge, edge):
        takes = "×".join(map(str, embedder.resolution))
    elif edge % embedder.size_divisor:
        takes = f"multiples of {embedder.size_divisor}"
    else:
        return
    raise EmbedderError(
        f"{name} takes images of {takes} pixels, and the tiles of `tiles` {case.tiles} have {edge}x{edge}; choose a "
        "tower or a scheme of the other's size"
    )


def assembly_of(case: Case, embedder: VisualEmbedder, cutting: Cutting | None = None) -> Assembly | None:
    """Returns what joins the tokens of all that the tower takes for a text; `None`: it takes one image.

    Args:
        case: says how many images or frames there are.
        embedder: gets a note where there are tiles.
        cutting: of each image; `None`: it stays whole.

    Raises:
        EmbedderError: the embedder does not take such clips, or no images.
    """
    grids = embedder.clips.grids(case.frames, name=label(case))
    if cutting is not None:
        embedder.notes[ASSEMBLY] = f"{cutting.tiling} an image; {cutting.scheme.joins}"
        arrange = arrangement(cutting.scheme, cutting.tiling, cutting.sizes, hidden_size=embedder.hidden_size)
        return Assembly(images=case.images_per_text, parts=cutting.tiling.count, arrange=arrange)
    newline = None
    if case.frames is not None and case.reduce is not None and parse_reduction(case.reduce)[0] == "bilinear-pool":
        newline = Newline(embedder.hidden_size)
    if case.images_per_text == grids == 1 and newline is None:
        return None
    return Assembly(images=case.images_per_text, parts=grids, arrange=newline)


def _build_shared(case: Case) -> SharedModel:
    return build_shared(case.interaction, case.vilt, images_per_text=case.images_per_text)


def without_weights(case: Case) -> Case:
    """Returns the case with random weights: on the meta device there is nothing to load into."""
    return replace(case, options={key: value for key, value in case.options.items() if key != "weights"})


def build_model(case: Case) -> VisionLanguageModel:
    """Returns the case's model with random weights from its seed, in eval mode, without gradients.

    Under `torch.device("meta")` nothing is allocated.

    Raises:
        EmbedderError: the embedder is unknown, broken, or refuses its options.
    """
    torch.manual_seed(case.seed)
    shared = _build_shared(case)
    return VisionLanguageModel(shared, _build_embedder(case, shared.visual_size)).eval().requires_grad_(False)


def describe_model(
    case: Case,
    model: VisionLanguageModel,
    inputs: Inputs,
    *,
    visual_tokens: int,
    shared_weights: str = "random",
    linear: str = "torch",
    computation: Computation | None = None,
) -> Model:
    """Returns what was built, for the record.

    Args:
        case: what was asked for.
        model: built of it.
        inputs: likewise.
        visual_tokens: as a pass showed them.
        shared_weights: where they come from.
        linear: who computes the stages, in a line.
        computation: more of that.
    """
    embedder, sizes = model.visual_embedder, model.shared.sizes
    return Model(
        kind=embedder.kind,
        hidden_size=sizes.hidden_size,
        layers=sizes.layers,
        heads=sizes.heads,
        resolution=inputs.resolution,
        visual_tokens=visual_tokens,
        text_tokens=text_length(case),
        visual_weights=embedder.weights,
        shared_weights=shared_weights if model.shared.has_text else NONE,
        linear=linear,
        images=inputs.names,
        text=inputs.text,
        interaction=case.interaction,
        vocabulary=sizes.vocabulary or None,
        fit=inputs.fit,
        computation=computation,
        tiles=None if inputs.cutting is None else str(inputs.cutting.tiling),
        preprocessing=None if inputs.loading is None else inputs.loading.description,
    )
