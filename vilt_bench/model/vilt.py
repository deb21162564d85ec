"""The whole: textual embedder, visual embedder, modality interaction.

Shapes: B pairs, L text tokens, N visual tokens, S = L + 1 + N, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import nn

from vilt_bench.ask.case import ViltConfig
from vilt_bench.embedding import Chain, ImageBatch, Mark, TextBatch, VisualEmbedder, VisualTokens
from vilt_bench.errors import EmbedderError
from vilt_bench.model.interaction import Concatenation, Modalities, Pooler, Transformer, ViltOutput
from vilt_bench.model.text import TextTokens, TextualEmbedder


class Sizes(NamedTuple):
    """Of the model that joins the modalities."""

    hidden_size: int
    layers: int
    heads: int
    vocabulary: int


class SharedModel(nn.Module):
    """All of a vision-and-language model but its visual embedder."""

    has_text = True
    """Whether there is a text, and an interaction with it; else the visual tokens are what the whole makes."""

    def __init__(
        self,
        sizes: Sizes,
        textual_embedder: nn.Module,
        stages: Mapping[str, nn.Module],
        *,
        visual_size: int | None = None,
    ) -> None:
        """Join the parts; their weights are drawn from torch's generator, as ViT's and BERT's are.

        Args:
            sizes: of the text's layers, or of all.
            textual_embedder: makes the text's tokens.
            stages: of the modality interaction, in order; the first takes `Modalities`, the last returns `ViltOutput`.
            visual_size: channels of the visual tokens that it takes, where not as many as the text's.
        """
        super().__init__()
        self.sizes = sizes
        self.visual_size = sizes.hidden_size if visual_size is None else visual_size
        self.textual_embedder = textual_embedder
        self.modality_interaction = Chain(stages)
        _initialise(self)

    def forward(self, text: TextBatch, visual: VisualTokens) -> ViltOutput:
        """Returns tokens [B, S, D] and the pooled output [B, D]."""
        return self.interact(self.textual_embedder(text), visual)

    def interact(self, text: TextTokens, visual: VisualTokens, mark: Mark | None = None) -> ViltOutput:
        """Returns tokens [B, S, D] and the pooled output [B, D] of both modalities' tokens."""
        return cast("ViltOutput", self.modality_interaction(Modalities(text, visual), mark))

    if TYPE_CHECKING:

        def __call__(self, text: TextBatch, visual: VisualTokens) -> ViltOutput:
            """Returns tokens and the pooled output."""


class Vilt(SharedModel):
    """The shared ViLT: what stays the same whatever the visual embedder is."""

    def __init__(self, config: ViltConfig, *, images_per_text: int = 1) -> None:
        """Make the modules."""
        super().__init__(
            sizes_of(config),
            TextualEmbedder(config),
            {
                "concatenation": Concatenation(config, images=images_per_text),
                "transformer": Transformer(config),
                "pooler": Pooler(config, images=images_per_text),
            },
        )
        self.config = config
        self.images_per_text = images_per_text


class VisionLanguageModel(nn.Module):
    """A visual embedder in front of the shared ViLT, or of another shared model."""

    def __init__(self, shared: SharedModel, visual_embedder: VisualEmbedder) -> None:
        """Join the two.

        Raises:
            EmbedderError: the embedder's tokens are not as wide as the shared model's.
        """
        super().__init__()
        if visual_embedder.hidden_size != shared.visual_size:
            raise EmbedderError(
                f"the embedder's tokens have {visual_embedder.hidden_size} channels, the shared "
                f"{type(shared).__name__}'s {shared.visual_size}; build it with hidden_size={shared.visual_size}"
            )
        self.shared = shared
        self.visual_embedder = visual_embedder

    def forward(self, images: ImageBatch, text: TextBatch, mark: Mark | None = None) -> ViltOutput | VisualTokens:
        """Returns tokens [B, S, D] and the pooled output [B, D]; of an embedder alone its visual tokens.

        Args:
            images: B images.
            text: B texts.
            mark: called after each stage with its full name, as `stages` gives it, and its output.
        """
        if not self.shared.has_text:
            return self.visual_embedder(images, _within("visual_embedder", mark))
        text_tokens = self.shared.textual_embedder(text)
        if mark is not None:
            mark("textual_embedder", text_tokens)
        visual_tokens = self.visual_embedder(images, _within("visual_embedder", mark))
        return self.shared.interact(text_tokens, visual_tokens, _within("modality_interaction", mark))

    if TYPE_CHECKING:

        def __call__(self, images: ImageBatch, text: TextBatch, mark: Mark | None = None) -> Any:
            """Returns tokens and the pooled output, or the visual tokens."""


def sizes_of(config: ViltConfig) -> Sizes:
    """Returns the sizes in a configuration of ViLT or BERT."""
    return Sizes(config.hidden_size, config.layers, config.heads, config.vocabulary)


def stages(model: VisionLanguageModel) -> Iterator[tuple[str, nn.Module]]:
    """Yields full name and module of each stage, in the order in which they run."""
    if model.shared.has_text:
        yield "textual_embedder", model.shared.textual_embedder
    for name, stage in model.visual_embedder.stages.items():
        yield f"visual_embedder.{name}", stage
    for name, stage in model.shared.modality_interaction.stages.items():
        yield f"modality_interaction.{name}", stage


def replace_stage(model: VisionLanguageModel, name: str, module: nn.Module) -> None:
    """Puts a module in the place of a stage, by its full name as `stages` gives it."""
    component, _, own = name.partition(".")
    match component:
        case "textual_embedder":
            model.shared.textual_embedder = module
        case "visual_embedder":
            model.visual_embedder.stages[own] = module
        case _:
            model.shared.modality_interaction.stages[own] = module


def gather_stages(model: VisionLanguageModel) -> None:
    """Makes the visual embedder's stages one, and the modality interaction's, each named `whole`."""
    embedder, interaction = model.visual_embedder, model.shared.modality_interaction
    if embedder.notes:
        embedder.notes = {"whole": "; ".join(f"{name}: {note}" for name, note in embedder.notes.items())}
    for chain in (embedder, interaction):
        if len(chain.stages):
            chain.stages = nn.ModuleDict({"whole": Chain(dict(chain.stages.items()))})


def _within(component: str, mark: Mark | None) -> Mark | None:
    if mark is None:
        return None

    def mark_stage(stage: str, output: Any) -> None:
        mark(f"{component}.{stage}", output)

    return mark_stage


@torch.no_grad()
def _initialise(model: nn.Module) -> None:
    """Draws weights from a normal distribution of 0.02; biases are 0.

    Source: ViT's and BERT's released code; ViLT starts from ViT's weights. Theirs is cut off at ±2, 100 standard
    deviations away, which takes three times as long and changes nothing.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.normal_(std=0.02)
        if isinstance(module, nn.Linear):
            module.bias.zero_()
        if isinstance(module, Concatenation):
            module.class_token.normal_(std=0.02)
            module.positions.normal_(std=0.02)
