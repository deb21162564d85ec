"""Counts Table 6 again: as the paper seems to have counted, and as the models are; all on the meta device.

The paper names no tool. Its detectors' figures are those of ptflops on MMDetection's configurations, its
transformers' those of the script that came with ELECTRA: what follows reproduces the printed digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from vilt_bench.ask import registry
from vilt_bench.ask.case import Case, Interaction, label
from vilt_bench.embedding import ImageBatch, VisualEmbedder, VisualTokens
from vilt_bench.model import Lxmert, SharedModel, Vilbert, build_shared
from vilt_bench.model.bert import BertLayer
from vilt_bench.model.interaction import Block
from vilt_bench.model.text import TextTokens
from vilt_bench.paper.models import PROPOSALS, ROWS, PaperRow, find_row
from vilt_bench.paper.tables import CountedRow, CountedTable, Table6Row, table6, table7
from vilt_bench.worker.meters.flops import count_flops
from vilt_bench.worker.meters.parameters import count_parameters

PROJECTED_CHANNELS = 2048
"""Width of a visual feature as the paper counts its projection, whatever the detector's or backbone's own."""
AFTER_DETECTOR = ("pooling", "projection")
"""Stages of a visual embedder that the paper counts apart from the convolutional network, or not at all."""
FITTED_TEXT_TOKENS = {"UNITER-Base": 20}
"""By model, where the printed number of text tokens does not give the printed FLOPs and another one does."""


@dataclass(frozen=True)
class Detector:
    """Which of our embedders the paper's count is of, and which of its parameters count."""

    embedder: str
    normalisation: bool
    """Whether the parameters of batch normalisation count; those of frozen layers never do."""


COUNTED = {
    "region-r101-c4": Detector("region-r101-c4", normalisation=False),
    "region-x152-c4": Detector("region-x152-c4", normalisation=False),
    "region-x152-fpn": Detector("region-x152-fpn", normalisation=True),
    "grid-x152": Detector("grid-x152", normalisation=True),
    "grid-r50": Detector("grid-r50-c4", normalisation=False),
}
"""By the embedder that a row is built with."""


@dataclass(frozen=True)
class Encoder:
    """BERT layers over a number of tokens, as the paper's FLOPs count them."""

    layers: int
    tokens: int
    hidden_size: int
    vocabulary: int

    def __str__(self) -> str:
        """Returns e(layers, tokens, hidden size)."""
        return f"e({self.layers}, {self.tokens}, {self.hidden_size})"


@dataclass(frozen=True)
class VisualCount:
    """What one pass over a visual embedder on the meta device showed."""

    flops: Mapping[str, int]
    """By stage, as `count_flops` counts."""
    paper: Mapping[str, int]
    """By stage, in the convention that the paper has for detectors."""
    tokens: VisualTokens
    """On the meta device."""
    embedder: VisualEmbedder
    """Likewise."""


@dataclass
class Parts:
    """The rows' parts on the meta device, each built and counted once, however many rows share it."""

    _shared: dict[Interaction, SharedModel] = field(default_factory=dict)
    _visual: dict[object, VisualCount] = field(default_factory=dict)

    def shared(self, row: PaperRow) -> SharedModel:
        """Returns all of the row's model but the visual embedder."""
        if row.interaction not in self._shared:
            with torch.device("meta"):
                self._shared[row.interaction] = build_shared(row.interaction, row.vilt).eval()
        return self._shared[row.interaction]

    def visual(self, row: PaperRow, *, hidden_size: int) -> VisualCount:
        """Returns the counts of the row's visual embedder.

        Raises:
            EmbedderError: the embedder is unknown or refuses its options.
        """
        key = (row.embedder, tuple(sorted(row.options.items())), row.resolution, hidden_size)
        if key not in self._visual:
            self._visual[key] = _count_visual(row, hidden_size=hidden_size)
        return self._visual[key]


def paper_table(names: Sequence[str] = ()) -> CountedTable:
    """Returns Table 6's rows, counted again; nothing is timed and no weights are allocated.

    Args:
        names: of the rows; none: all, in the paper's order.

    Raises:
        ConfigError: no row has that name.
    """
    rows = [find_row(name) for name in names] or list(ROWS.values())
    parts = Parts()
    return CountedTable(tuple(count_row(row, parts) for row in rows))


def count_row(row: PaperRow, parts: Parts) -> CountedRow:
    """Returns a row of Table 6 counted again."""
    (printed,) = (printed for printed in table6() if printed.model == row.model)
    (components,) = (components for components in table7() if components.model == row.model)
    shared = parts.shared(row)
    built = parts.visual(row, hidden_size=shared.visual_size)
    encoders = _encoders(shared, printed)
    paper = _count_as_paper(row, printed, encoders, parts)
    image_tokens = built.tokens.embeddings.shape[1]
    flops = sum(built.flops.values()) + _interaction_flops(shared, row.text_tokens, built.tokens)
    return CountedRow(
        printed=printed,
        components=components,
        embedder=label(Case(row.embedder, row.options)),
        interaction=row.interaction,
        layers=_layers(shared),
        visual_tokens=image_tokens,
        parameters_paper=paper.parameters,
        parameters_built=_every_parameter(built.embedder, shared),
        flops_paper=paper.flops,
        flops_one_hot=sum(one_hot_flops(encoder) for encoder in encoders),
        flops_built=flops,
        flops_printed_tokens=(
            flops if image_tokens == printed.image_tokens else _printed_tokens_flops(shared, printed, built)
        ),
        recipe=paper.recipe,
        note=_note(row, printed, image_tokens),
    )


@dataclass(frozen=True)
class _PaperCount:
    parameters: int
    flops: int
    recipe: str


def _count_as_paper(row: PaperRow, printed: Table6Row, encoders: Sequence[Encoder], parts: Parts) -> _PaperCount:
    shared = parts.shared(row)
    transformer = sum(transformer_flops(encoder) for encoder in encoders)
    layers = _layer_parameters(shared)
    terms = [str(encoder) for encoder in encoders]
    if row.embedder not in COUNTED:  # a linear projection of the pixels: no detector, and nothing frozen
        patches = parts.visual(row, hidden_size=shared.visual_size)
        projection = patches.embedder.stages["projection"]
        weights = sum(parameter.numel() for parameter in projection.parameters() if parameter.dim() > 1)
        count = patches.tokens.embeddings.shape[1]
        return _PaperCount(
            parameters=sum(parameter.numel() for parameter in projection.parameters()) + layers,
            flops=transformer + 2 * count * weights,
            recipe=" + ".join([*terms, f"projection of {count}"]),
        )
    source = COUNTED[row.embedder]
    options = {**row.options, "proposals": PROPOSALS} if printed.visual_embed == "region" else row.options
    detector = parts.visual(replace(row, embedder=source.embedder, options=options), hidden_size=shared.visual_size)
    with torch.device("meta"):
        projection = nn.Linear(PROJECTED_CHANNELS, shared.visual_size)
    return _PaperCount(
        parameters=detector_parameters(detector.embedder, normalisation=source.normalisation)
        + sum(parameter.numel() for parameter in projection.parameters())
        + layers,
        flops=sum(flops for stage, flops in detector.paper.items() if stage not in AFTER_DETECTOR)
        + transformer
        + 2 * printed.image_tokens * projection.weight.numel(),
        recipe=" + ".join(["detector", *terms, f"projection of {printed.image_tokens}"]),
    )


def detector_parameters(embedder: VisualEmbedder, *, normalisation: bool) -> int:
    """Returns the parameters of a detector or backbone that are trained; the projection to tokens is left out.

    Args:
        embedder: whose stages tell what of them is frozen.
        normalisation: whether batch normalisation is trained.
    """
    left_out = {id(parameter) for parameter in embedder.frozen()}
    if not normalisation:
        norms = (module for module in embedder.modules() if isinstance(module, _BatchNorm))
        left_out |= {id(parameter) for norm in norms for parameter in norm.parameters()}
    stages = [stage for name, stage in embedder.stages.items() if name not in AFTER_DETECTOR]
    return sum(p.numel() for stage in stages for p in stage.parameters() if id(p) not in left_out)


def transformer_flops(encoder: Encoder) -> int:
    """Returns the FLOPs of BERT layers, embeddings and a classifier, 2 per multiply-add, elementwise work included.

    The head's width, the MLP's and the vocabulary are BERT's: 64, four times the hidden size, the embedder's.

    Source: what `get_infer_flops` of ELECTRA's released `flops_computation.py` counts.
    """
    dim, tokens = encoder.hidden_size, encoder.tokens
    heads, mlp = dim // 64, 4 * dim
    dropout, norm, gelu, softmax = 4, 5, 8, 5  # operations an element
    attention = (
        2 * dim * 3 * dim + 3 * dim  # queries, keys, values
        + 2 * 2 * dim * tokens  # scores, and the weighted sum of the values
        + (1 + softmax + dropout) * tokens * heads  # of the scores, the scaling too
        + 2 * dim * dim + dim  # output
        + (1 + dropout) * dim + norm  # residual; the script has this norm once a token, not once an element
    )  # fmt: skip
    feed_forward = (2 * dim * mlp + mlp) + gelu * mlp + (2 * mlp * dim + dim) + (1 + dropout + norm) * dim
    # Tables of segments (2 rows) and positions (as many as tokens) are products too, and are then added.
    embedding = 2 * dim * (tokens + 2) + 2 * dim + (norm + dropout) * dim
    classifier = 2 * dim * dim + dim + gelu * dim + 2 * dim
    return tokens * (encoder.layers * (attention + feed_forward) + embedding + classifier) + one_hot_flops(encoder)


def one_hot_flops(encoder: Encoder) -> int:
    """Returns the FLOPs of looking each token up as a product of a one-hot vector with the whole vocabulary."""
    return 2 * encoder.vocabulary * encoder.hidden_size * encoder.tokens


class DetectorFlops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts 1 per multiply-add, 2 an element for batch normalisation, 1 for ReLU, pooling and a convolution's bias.

    Residual additions, RoIAlign, interpolation and NMS count 0, as does the bias of a linear layer.

    Source: the rules of ptflops.
    """

    def __init__(self) -> None:
        """Start at 0."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and count it."""
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "convolution":
            weight, bias = args[1:3]
            self.flops += output.numel() * (prod(weight.shape[1:]) + (bias is not None))
        elif name in ("addmm", "mm"):
            self.flops += output.numel() * args[-1].shape[0]  # the last argument is [in, out]
        elif "batch_norm" in name:
            self.flops += 2 * args[0].numel()
        elif name in ("relu", "relu_", "mean", "_adaptive_avg_pool2d") or name.startswith("max_pool2d"):
            self.flops += args[0].numel()
        return output


def _count_visual(row: PaperRow, *, hidden_size: int) -> VisualCount:
    with torch.device("meta"):
        embedder = registry.build(row.embedder, row.options, hidden_size=hidden_size).eval()
        images = ImageBatch(torch.empty(1, 3, *row.resolution))
    flops = {name: _known(count) for name, count in count_flops(partial(embedder, images)).stages.items()}
    paper = DetectorFlops()
    as_paper: dict[str, int] = {}

    def mark(name: str, _output: Any) -> None:
        as_paper[name] = paper.flops - sum(as_paper.values())

    with torch.no_grad(), paper:
        tokens = embedder(images, mark)
    return VisualCount(flops, as_paper, tokens, embedder)


def _printed_tokens_flops(shared: SharedModel, printed: Table6Row, built: VisualCount) -> float:
    """Returns the FLOPs with the printed number of visual tokens; what makes the features costs the same."""
    embeddings = built.tokens.embeddings
    tokens = VisualTokens(embeddings.new_empty(1, printed.image_tokens, embeddings.shape[2]))
    projection = built.flops["projection"] * (printed.image_tokens / embeddings.shape[1] - 1)
    return sum(built.flops.values()) + projection + _interaction_flops(shared, printed.text_tokens, tokens)


def _interaction_flops(shared: SharedModel, text_tokens: int, visual: VisualTokens) -> int:
    width = shared.sizes.hidden_size
    with torch.device("meta"):
        text = TextTokens(torch.empty(1, text_tokens, width))
    return _known(count_flops(lambda mark: shared.interact(text, visual, mark)).total)


def _known(flops: int | None) -> int:
    assert flops is not None, "the paper's models run nothing without a formula"
    return flops


def _every_parameter(embedder: VisualEmbedder, shared: SharedModel) -> int:
    parts = [("visual_embedder", embedder), ("modality_interaction", shared.modality_interaction)]
    return sum(size.parameters for size in count_parameters(parts).values())


def _encoders(shared: SharedModel, printed: Table6Row) -> tuple[Encoder, ...]:
    """Returns the BERTs whose sum gives the printed FLOPs: two streams count as one each, and cross layers as more."""
    image, text = printed.image_tokens, FITTED_TEXT_TOKENS.get(printed.model, printed.text_tokens)
    stages = shared.modality_interaction.stages

    def encoder(layers: int, tokens: int, hidden_size: int = shared.sizes.hidden_size) -> Encoder:
        return Encoder(layers, tokens, hidden_size, shared.sizes.vocabulary)

    if isinstance(shared, Lxmert):
        language, vision, cross = (
            _length(stages[name].layers) for name in ("language_encoder", "vision_encoder", "cross_encoder")
        )
        return encoder(language, text), encoder(vision, image), encoder(cross, text), encoder(cross, image)
    if isinstance(shared, Vilbert):
        co = stages["co_encoder"]
        alone, joined = _length(stages["language_encoder"].layers), _length(co.co)
        return (
            encoder(alone + _length(co.language), text),
            encoder(joined, text),
            encoder(_length(co.vision), image, shared.visual_size),
        )
    return (encoder(shared.sizes.layers, text + image),)


def _layer_parameters(shared: SharedModel) -> int:
    """Returns the transformer's parameters as the paper counts them: layers of BERT's kind, and nothing else.

    LXMERT's cross-attention is left out. ViLBERT's co-attention layers count as one more layer of each stream's kind.
    """
    layers = [module for module in shared.modules() if isinstance(module, BertLayer | Block)]
    if isinstance(shared, Vilbert):
        co = shared.modality_interaction.stages["co_encoder"]
        layers += [module for module in co.modules() if isinstance(module, BertLayer)]
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())


def _layers(shared: SharedModel) -> str:
    """Returns the number of layers as built, by kind."""
    stages = shared.modality_interaction.stages
    if isinstance(shared, Lxmert):
        counts = {name.removesuffix("_encoder"): _length(stage.layers) for name, stage in stages.items() if "_" in name}
    elif isinstance(shared, Vilbert):
        co = stages["co_encoder"]
        language = _length(stages["language_encoder"].layers) + _length(co.language)
        counts = {"language": language, "vision": _length(co.vision), "co": _length(co.co)}
    else:
        return str(shared.sizes.layers)
    return " + ".join(f"{count} {kind}" for kind, count in counts.items())


def _length(layers: Tensor | nn.Module) -> int:
    assert isinstance(layers, nn.ModuleList)
    return len(layers)


def _note(row: PaperRow, printed: Table6Row, visual_tokens: int) -> str:
    remarks = []
    if row.model in FITTED_TEXT_TOKENS:
        remarks.append(
            f"FLOPs counted for {FITTED_TEXT_TOKENS[row.model]} text tokens, {printed.text_tokens} are printed"
        )
    if row.interaction == "lxmert":
        remarks.append("the paper's parameters leave the cross-attention out")
    if row.interaction == "vilbert":
        remarks.append("the paper's count has ordinary layers for co-attention; one of several sums that fit its FLOPs")
    if row.embedder == "region-x152-fpn":
        remarks.append(f"the paper counts a projection of {PROJECTED_CHANNELS} features, the RoI head has 1024")
    if row.embedder in COUNTED and COUNTED[row.embedder].embedder != row.embedder:
        remarks.append(
            f"the paper's count is of {COUNTED[row.embedder].embedder}, cut after res4, with a projection of "
            f"{PROJECTED_CHANNELS} channels that does not fit its 1024"
        )
    if visual_tokens != printed.image_tokens:
        remarks.append(f"{visual_tokens} visual tokens as built, {printed.image_tokens} are printed")
    return "; ".join(remarks)
