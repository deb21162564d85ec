"""Reduces visual tokens: one more stage of any embedder, before its projection where it has that seam.

Shapes: B images, N tokens, C channels, h×w cells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, pad

from vilt_bench.ask.case import REDUCTIONS, parse_reduction
from vilt_bench.embedding import Projection, VisualEmbedder, VisualFeatures, VisualTokens
from vilt_bench.embedding.configurations import INSTALL
from vilt_bench.embedding.merging import merge_similar
from vilt_bench.errors import EmbedderError

STAGE = "reduction"
QFORMER_SIZE = 768
"""Channels of BLIP-2's Q-Former."""

FeaturesT = TypeVar("FeaturesT", VisualFeatures, VisualTokens)


class Reducer(Protocol):
    """Makes fewer features of many."""

    channels: int
    """Of the features that it returns."""

    def __call__(self, features: VisualFeatures) -> VisualFeatures:
        """Returns fewer features."""


def reduced(embedder: VisualEmbedder, reduce: str) -> VisualEmbedder:
    """Returns the embedder with a stage `reduction`.

    Where the last stage is a `Projection` the reduction comes before it, on the tower's own channels; a projection
    of more or fewer channels is made anew then. Else it comes last, with a linear layer back to D where it
    changes the channels.

    Args:
        embedder: is changed.
        reduce: `NAME:N` of `vilt_bench.ask.case.REDUCTIONS`.

    Raises:
        EmbedderError: the embedder has such a stage already, or a package that the reduction needs is missing.
    """
    if STAGE in embedder.stages:
        raise EmbedderError(f"the embedder has a stage {STAGE!r} of its own; leave `reduce` {reduce} out")
    stages = dict(embedder.stages.items())
    drawn = []
    name, number = parse_reduction(reduce)
    *_, (last, projection) = stages.items()
    width = projection.channels if isinstance(projection, Projection) else embedder.hidden_size
    reducer = _REDUCERS[name](width, number)
    stage = Reduction(reducer, hidden_size=None if isinstance(projection, Projection) else embedder.hidden_size)
    if isinstance(projection, Projection):
        del stages[last]
        if reducer.channels != width:
            projection = Projection(channels=reducer.channels, hidden_size=embedder.hidden_size)
            drawn.append(last)
        stages |= {STAGE: stage, last: projection}
    else:
        stages[STAGE] = stage
    embedder.stages = nn.ModuleDict(stages)
    embedder.notes[STAGE] = _NOTES[name].format(number=number)
    if any(True for _ in stage.parameters()):
        drawn.append(STAGE)
    if embedder.weights != "random":
        known = embedder.weights
        embedder.weights += "".join(f", {each} random" for each in drawn if f"{each} random" not in known)
    return embedder


class Reduction(nn.Module):
    """A reducer as a stage: takes and returns `VisualFeatures` or `VisualTokens`."""

    def __init__(self, reducer: Reducer, *, hidden_size: int | None) -> None:
        """Take the reducer, and add a linear layer to the hidden size where it is given and differs."""
        super().__init__()
        self.reducer = reducer
        self.linear = None
        if hidden_size is not None and reducer.channels != hidden_size:
            self.linear = nn.Linear(reducer.channels, hidden_size)

    def forward(self, features: FeaturesT) -> FeaturesT:
        """Returns fewer features; boxes end here."""
        found = self.reducer(
            VisualFeatures(features.embeddings, features.mask, features.grid, features.cells or features.grid)
        )
        if self.linear is not None:
            found = found._replace(embeddings=self.linear(found.embeddings))
        return type(features)(embeddings=found.embeddings, mask=found.mask, grid=found.grid, cells=found.cells)


class PixelShuffle(nn.Module):
    """Moves squares of E×E cells into channels: [B, N, C] to [B, N/E², C·E²]; zeros fill up incomplete squares.

    Source: space to depth, as in InternVL and Idefics3; the filling up as in DeepSeek-VL2.
    """

    def __init__(self, channels: int, edge: int) -> None:
        """Make the rearrangement."""
        super().__init__()
        self.channels = channels * edge**2
        self.edge = edge
        self.unshuffle = nn.PixelUnshuffle(edge)

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Returns a feature a square."""
        height, width = _cells(features, f"pixel-shuffle:{self.edge}")
        filled = pad(_map(features), (0, -width % self.edge, 0, -height % self.edge))
        return _from_map(features, self.unshuffle(filled), self.edge)


class AveragePool(nn.Module):
    """Averages squares of E×E cells, incomplete ones at the edges too: [B, N, C] to [B, N/E², C].

    Source: as Gemma 3 does after its tower.
    """

    def __init__(self, channels: int, edge: int) -> None:
        """Make the pooling."""
        super().__init__()
        self.channels = channels
        self.edge = edge
        self.pool = nn.AvgPool2d(edge, ceil_mode=True, count_include_pad=False)

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Returns a feature a square; masked cells have no weight."""
        cells = _cells(features, f"avg-pool:{self.edge}")
        pooled = self.pool(_map(features))
        if features.mask is not None:
            weights = features.mask.to(pooled.dtype).view(-1, 1, *cells)  # (B, N) → (B, 1, h, w)
            pooled = self.pool(_map(features) * weights) / self.pool(weights).clamp(min=1 / self.edge**2)
        return _from_map(features, pooled, self.edge)


class BilinearPool(nn.Module):
    """Interpolates the grid to 1/E of its edges, rounded up: [B, N, C] to about [B, N/E², C].

    Source: LLaVA-OneVision's pooling of the frames of a video, with E = 2: 27×27 cells become 14×14, where averages of
    squares have incomplete ones at the edges. It pools behind its connector, here it is before it.
    """

    def __init__(self, channels: int, edge: int) -> None:
        """Make the pooling."""
        super().__init__()
        self.channels = channels
        self.edge = edge

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Returns a feature a cell of the smaller grid; masked cells have no weight."""
        cells = _cells(features, f"bilinear-pool:{self.edge}")
        pooled = self._pool(_map(features))
        if features.mask is not None:
            weights = features.mask.to(pooled.dtype).view(-1, 1, *cells)  # (B, N) → (B, 1, h, w)
            shares = self._pool(weights)
            pooled = self._pool(_map(features) * weights) / torch.where(shares > 0, shares, 1)
        return _from_map(features, pooled, self.edge)

    def _pool(self, given: Tensor) -> Tensor:
        height, width = given.shape[-2:]
        size = (-(-height // self.edge), -(-width // self.edge))
        return interpolate(given, size=size, mode="bilinear")


class PerceiverResampler(nn.Module):
    """Lets N latents attend to the features: [B, any, C] to [B, N, C]; transformers' `Idefics2PerceiverResampler`.

    Source: Idefics2's configuration: 3 layers, 16 heads of 96, 4 of them for keys and values.
    """

    def __init__(self, channels: int, count: int) -> None:
        """Build it with random weights."""
        super().__init__()
        _transformers("perceiver")
        from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig
        from transformers.models.idefics2.modeling_idefics2 import Idefics2PerceiverResampler

        self.channels = channels
        config = Idefics2PerceiverConfig(hidden_size=channels, resampler_n_latents=count)
        self.resampler: Any = _sdpa(Idefics2PerceiverResampler, config)
        nn.init.normal_(cast("nn.Parameter", self.resampler.latents), std=0.02)  # all ones as built: N equal tokens

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Returns a feature a latent."""
        mask = features.mask
        latents = self.resampler.latents.expand(len(features.embeddings), -1, -1)
        if mask is not None:  # the latents attend to themselves, too
            mask = torch.cat([mask, mask.new_ones(latents.shape[:2])], dim=1)
        # Layer by layer, as its own forward asks the device whether the mask masks anything.
        for layer in self.resampler.layers:
            latents = layer(latents, features.embeddings, attention_mask=_wide(mask, latents))
        return VisualFeatures(self.resampler.norm(latents))


class QFormer(nn.Module):
    """Lets N queries attend to the features: [B, any, C] to [B, N, 768]; transformers' `Blip2QFormerModel`.

    Source: BLIP-2's configuration: 12 layers, cross-attention in every second.
    """

    def __init__(self, channels: int, count: int) -> None:
        """Build it with random weights."""
        super().__init__()
        _transformers("qformer")
        from transformers.models.blip_2.configuration_blip_2 import Blip2QFormerConfig
        from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel

        self.channels = QFORMER_SIZE
        self.queries = nn.Parameter(torch.empty(1, count, QFORMER_SIZE))
        nn.init.normal_(self.queries, std=0.02)
        config = Blip2QFormerConfig(hidden_size=QFORMER_SIZE, encoder_hidden_size=channels)
        self.qformer = _sdpa(Blip2QFormerModel, config)

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Returns a feature a query."""
        queries = self.queries.expand(len(features.embeddings), -1, -1)
        found = self.qformer(
            query_embeds=queries,
            encoder_hidden_states=features.embeddings,
            encoder_attention_mask=_wide(features.mask, queries),
        )
        return VisualFeatures(found.last_hidden_state)


class TokenMerging(nn.Module):
    """Merges N tokens away, the most similar first: [B, any, C] to [B, any - N, C].

    It is ToMe's matching, applied to the finished features in rounds of half of them at most; within a ViT's blocks,
    as its authors do, merging is the option `tome` of `timm/NAME`.
    """

    def __init__(self, channels: int, count: int) -> None:
        """Note how many to merge."""
        super().__init__()
        self.channels = channels
        self.count = count

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Returns fewer features, no longer in a grid.

        Raises:
            EmbedderError: there are not so many.
        """
        tokens = features.embeddings
        if self.count >= tokens.shape[1]:
            raise EmbedderError(
                f"`reduce` tome:{self.count} merges as many tokens away as there are: {tokens.shape[1]}; "
                f"expected at most {tokens.shape[1] - 1}"
            )
        sizes = tokens.new_ones(tokens.shape[:2]) if features.mask is None else features.mask.to(tokens.dtype)
        left = tokens.shape[1] - self.count
        while tokens.shape[1] > left:
            tokens, sizes = merge_similar(tokens, tokens, sizes, count=tokens.shape[1] - left)
        return VisualFeatures(tokens, mask=None if features.mask is None else sizes > 0)


_REDUCERS: dict[str, Callable[[int, int], Any]] = {
    "pixel-shuffle": PixelShuffle,
    "avg-pool": AveragePool,
    "bilinear-pool": BilinearPool,
    "perceiver": PerceiverResampler,
    "qformer": QFormer,
    "tome": TokenMerging,
}
_NOTES = {
    "pixel-shuffle": "squares of {number}×{number} cells into channels",
    "avg-pool": "average of squares of {number}×{number} cells",
    "bilinear-pool": "grid interpolated to 1/{number} of its edges, as LLaVA-OneVision does with frames",
    "perceiver": "Idefics2's Perceiver resampler with {number} latents",
    "qformer": "BLIP-2's Q-Former with {number} queries",
    "tome": "ToMe's matching on the finished tokens, {number} merged away",
}


def _cells(features: VisualFeatures, reduce: str) -> tuple[int, int]:
    if features.cells is None:
        others = ", ".join(f"{name}:{REDUCTIONS[name]}" for name in ("perceiver", "qformer", "tome"))
        raise EmbedderError(
            f"`reduce` {reduce} needs tokens that are the cells of a grid, and this embedder's are not, as with "
            f"regions; expected one of {others}"
        )
    return features.cells


def _map(features: VisualFeatures) -> Tensor:
    assert features.cells is not None
    batch, _, channels = features.embeddings.shape
    return features.embeddings.transpose(1, 2).reshape(batch, channels, *features.cells)  # (B, N, C) → (B, C, h, w)


def _from_map(features: VisualFeatures, found: Tensor, edge: int) -> VisualFeatures:
    """Returns the map's cells as features; one is masked where all of its square are."""
    cells = (found.shape[2], found.shape[3])
    mask = None
    if features.mask is not None:
        assert features.cells is not None
        known = features.mask.float().view(-1, 1, *features.cells)  # (B, N) → (B, 1, h, w)
        mask = max_pool2d(known, edge, ceil_mode=True).flatten(1) > 0
    embeddings = found.flatten(2).transpose(1, 2)  # (B, C, h, w) → (B, N, C)
    return VisualFeatures(embeddings, mask, grid=None if features.grid is None else cells, cells=cells)


def _wide(mask: Tensor | None, queries: Tensor) -> Tensor | None:
    """Returns the mask [B, S] as attention takes it, [B, 1, queries, S]."""
    return None if mask is None else mask[:, None, None, :].expand(-1, 1, queries.shape[1], -1)


def _transformers(reduction: str) -> None:
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise EmbedderError(
            f"`reduce` {reduction} takes its blocks from transformers, which is not installed; {INSTALL}"
        ) from None


def _sdpa(model: Any, config: Any) -> nn.Module:
    config._attn_implementation = "sdpa"
    return cast("nn.Module", model(config))
