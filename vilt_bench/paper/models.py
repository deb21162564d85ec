"""The eleven models of Table 6, each a composition of our parts; without torch until one is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from vilt_bench.ask import registry
from vilt_bench.ask.case import Case, Interaction, Option, ViltConfig
from vilt_bench.errors import ConfigError
from vilt_bench.paper.tables import table6
from vilt_bench.words import did_you_mean, nearest

if TYPE_CHECKING:
    from vilt_bench.model import VisionLanguageModel

TEXT_POSITIONS = 512
"""Of BERT, which all but ViLT start from."""
PROPOSALS = 1000
"""Regions that the RoI head sees: what the printed FLOPs fit."""


@dataclass(frozen=True)
class PaperRow:
    """A row of Table 6 as something to build and run."""

    model: str
    embedder: str
    interaction: Interaction
    text_tokens: int
    resolution: tuple[int, int]
    """(height, width) in pixels"""
    options: Mapping[str, Option] = field(default_factory=dict)
    """Of the embedder's factory."""

    @property
    def vilt(self) -> ViltConfig:
        """The sizes of the textual embedder and of the text's layers, for all but LXMERT's number of them."""
        return ViltConfig() if self.interaction == "vilt" else ViltConfig(text_positions=TEXT_POSITIONS)

    @property
    def case(self) -> Case:
        """What the runner measures: an image of exactly the row's resolution."""
        return Case(
            embedder=self.embedder,
            options=self.options,
            resolution=self.resolution,
            fit="exact",
            text_length=self.text_tokens,
            interaction=self.interaction,
            vilt=self.vilt,
        )


def find_row(name: str) -> PaperRow:
    """Returns the row of that name, upper or lower case.

    Raises:
        ConfigError: no row has that name.
    """
    by_name = {model.lower(): model for model in ROWS}
    if name.lower() not in by_name:
        guess = did_you_mean(nearest(name, ROWS, cutoff=0.4), otherwise=".")
        raise ConfigError(f"Table 6 has no row {name!r}{guess} Its rows: {', '.join(ROWS)}")
    return ROWS[by_name[name.lower()]]


def build(row: PaperRow, *, seed: int = 0) -> VisionLanguageModel:
    """Returns the row's model with random weights from the seed, in eval mode, without gradients.

    Under `torch.device("meta")` nothing is allocated. A smaller one is built from `dataclasses.replace(row, …)`.

    Raises:
        EmbedderError: the embedder is unknown, broken, or refuses its options.
    """
    import torch

    from vilt_bench.model import VisionLanguageModel, build_shared

    torch.manual_seed(seed)
    shared = build_shared(row.interaction, row.vilt)
    embedder = registry.build(row.embedder, row.options, hidden_size=shared.visual_size)
    return VisionLanguageModel(shared, embedder).eval().requires_grad_(False)


# Which detector each model takes its regions from, and what joins the modalities: Table 7 and the models' papers.
_PARTS: Mapping[str, tuple[str, Interaction]] = {
    "ViLBERT": ("region-r101-c4", "vilbert"),
    "VisualBERT": ("region-x152-fpn", "bert"),
    "LXMERT": ("region-r101-c4", "lxmert"),
    "UNITER-Base": ("region-r101-c4", "bert"),
    "OSCAR-Base": ("region-r101-c4", "bert"),
    "VinVL-Base": ("region-x152-c4", "bert"),
    "Unicoder-VL": ("region-x152-fpn", "bert"),
    "ImageBERT": ("region-x152-fpn", "bert"),
    "Pixel-BERT-X152": ("grid-x152", "bert"),
    "Pixel-BERT-R50": ("grid-r50", "bert"),
    "ViLT-B/32": ("patch32", "vilt"),
}


def _rows() -> Mapping[str, PaperRow]:
    rows = {}
    for printed in table6():
        embedder, interaction = _PARTS[printed.model]
        rows[printed.model] = PaperRow(
            model=printed.model,
            embedder=embedder,
            interaction=interaction,
            text_tokens=printed.text_tokens,
            resolution=printed.resolution,
            options=(
                {"regions": printed.image_tokens, "proposals": PROPOSALS} if printed.visual_embed == "region" else {}
            ),
        )
    return MappingProxyType(rows)


ROWS: Mapping[str, PaperRow] = _rows()
"""By the paper's name, in the paper's order."""
