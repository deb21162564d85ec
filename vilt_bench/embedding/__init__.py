"""The one door for authors of visual embedders; beside the contract: cells, weights, configurations, merging."""

from vilt_bench.embedding.contract import (
    EACH_FRAME,
    Chain,
    Clips,
    EmbedderFactory,
    ImageBatch,
    Kind,
    Mark,
    Processor,
    ProcessorFactory,
    Projection,
    TextBatch,
    VisualEmbedder,
    VisualFeatures,
    VisualTokens,
    stage_counts,
    tensors,
)

__all__ = [
    "EACH_FRAME",
    "Chain",
    "Clips",
    "EmbedderFactory",
    "ImageBatch",
    "Kind",
    "Mark",
    "Processor",
    "ProcessorFactory",
    "Projection",
    "TextBatch",
    "VisualEmbedder",
    "VisualFeatures",
    "VisualTokens",
    "stage_counts",
    "tensors",
]
