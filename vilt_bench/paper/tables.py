"""The paper's Tables 2, 6 and 7 as printed, and the record of Table 6 counted again; without torch."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

ABSENT = "-"
"""As the paper prints a part that a model does not have."""


@dataclass(frozen=True)
class Table6Row:
    """A model's size and speed as printed.

    Source: ViLT paper, Table 6; the resolution is that of section 4.6, ViLT's of 4.2, and the models' own papers.
    """

    model: str
    visual_embed: str
    image_tokens: int
    text_tokens: int
    text_tokens_reported: bool
    """Whether the model's own paper gives them; else ViLT's authors took their own."""
    parameters: int
    flops: int
    latency_s: float
    """On an NVIDIA P40."""
    resolution: tuple[int, int]
    """(height, width) in pixels"""


@dataclass(frozen=True)
class Table7Row:
    """A model's components as printed; `None` where it has none.

    Source: ViLT paper, Table 7.
    """

    model: str
    visual_embed: str
    backbone: str | None
    roi_head: str | None
    nms: str | None
    transformer_layers: str
    """A number, or `~15` where the layers are not BERT's."""


@dataclass(frozen=True)
class DownstreamRow:
    """A model's accuracy as printed, in percent; `None` where the paper has none.

    Source: ViLT paper, Table 2.
    """

    model: str
    visual_embed: str
    latency_s: float
    vqav2_test_dev: float | None
    nlvr2_dev: float | None
    nlvr2_test_p: float | None


@dataclass(frozen=True)
class CountedRow:
    """A row of Table 6: as printed, as the paper seems to have counted, and as it is.

    Textual embedder and its parameters are left out everywhere, as the paper does.
    """

    printed: Table6Row
    components: Table7Row
    embedder: str
    """With its options, as on the command line."""
    interaction: str
    layers: str
    """Of the transformer as built."""
    visual_tokens: int
    """That the visual embedder makes of an image of the row's size."""
    parameters_paper: int
    """As the paper counted."""
    parameters_built: int
    """Every one of the visual embedder and of the modality interaction, frozen or not."""
    flops_paper: int
    """As the paper counted."""
    flops_one_hot: int
    """The part of them that is a product of each token with the whole vocabulary, which no model computes."""
    flops_built: int
    """On the meta device, 2 per multiply-add."""
    flops_printed_tokens: float
    """Likewise, with as many visual tokens as the paper prints."""
    recipe: str
    """What the paper's FLOPs are the sum of."""
    note: str
    """Where the paper's count is of another architecture than the model's; else empty."""

    @property
    def macs_built(self) -> int:
        """Multiply-adds: half the FLOPs."""
        return self.flops_built // 2


@dataclass(frozen=True)
class CountedTable:
    """Tables 6 and 7, counted again."""

    rows: tuple[CountedRow, ...]


@cache
def table6() -> tuple[Table6Row, ...]:
    """Returns the rows of Table 6, in the paper's order."""
    return tuple(
        Table6Row(
            model=row["model"],
            visual_embed=row["visual_embed"],
            image_tokens=int(row["image_tokens"]),
            text_tokens=int(row["text_tokens"]),
            text_tokens_reported=row["text_tokens_reported"] == "yes",
            parameters=round(float(row["params_m"]) * 1e6),
            flops=round(float(row["flops_g"]) * 1e9),
            latency_s=float(row["time_ms"]) / 1e3,
            resolution=(int(row["image_height"]), int(row["image_width"])),
        )
        for row in _read("table6.csv")
    )


@cache
def table7() -> tuple[Table7Row, ...]:
    """Returns the rows of Table 7, in the paper's order."""
    return tuple(
        Table7Row(
            model=row["model"],
            visual_embed=row["visual_embed"],
            backbone=_part(row["backbone"]),
            roi_head=_part(row["roi_head"]),
            nms=_part(row["nms"]),
            transformer_layers=row["transformer_layers"],
        )
        for row in _read("table7.csv")
    )


@cache
def downstream() -> tuple[DownstreamRow, ...]:
    """Returns the rows of Table 2, in the paper's order."""
    return tuple(
        DownstreamRow(
            model=row["model"],
            visual_embed=row["visual_embed"],
            latency_s=float(row["time_ms"]) / 1e3,
            vqav2_test_dev=_percent(row["vqav2_test_dev"]),
            nlvr2_dev=_percent(row["nlvr2_dev"]),
            nlvr2_test_p=_percent(row["nlvr2_test_p"]),
        )
        for row in _read("downstream.csv")
    )


def _read(name: str) -> list[dict[str, str]]:
    text = resources.files("vilt_bench.paper").joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _part(text: str) -> str | None:
    return None if text == ABSENT else text


def _percent(text: str) -> float | None:
    return float(text) if text else None
