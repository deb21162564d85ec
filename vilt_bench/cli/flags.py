"""Which flag stands for a field or an argument: errors name those, as a Python caller knows them; users know flags."""

from __future__ import annotations

import re

_ALIKE = (
    "address", "allow_different", "anywhere", "backend", "batch_size", "budget", "checkpoint", "decoder", "device",
    "dtype", "embedder", "engine", "facet", "figure", "fit", "format", "frames", "heads", "hidden_size",
    "images_per_text", "interaction", "join", "labels", "layers", "limit", "log", "memory", "mlp_size", "name",
    "newest", "on", "only", "order", "parameters", "pin_memory", "pivot", "precision", "preprocessing_workers",
    "preprocessor", "preset", "quantize", "reduce", "resolution", "seed", "since", "span", "stacked", "study_time",
    "text_length", "text_positions", "threads", "tiles", "together", "tokens", "tolerance", "trials", "x", "y", "z",
)  # fmt: skip
FLAGS = {
    **{name: f"--{name.replace('_', '-')}" for name in _ALIKE},
    "beside": "--with-paper",
    "embedders": "--embedder",
    "folder": "--output",
    "decides": "--gate",
    "frame_rate": "--frames N@FPS",
    "images": "--image",
    "max_time_s": "--max-time",
    "path": "--output",
    "plan": "--plan",
    "patience_s": "--patience",
    "preprocessing": "--with-preprocessing",
    "quantities": "--columns",
    "reference": "--baseline-ref",
    "rounds": "--trials",
    "stages": "--stage",
}
"""By the name of a field or an argument."""


def in_flags(message: str) -> str:
    """Returns an error's message with the flags in place of what it names in backticks, where there are such flags."""
    return re.sub(r"`([a-z_]+)`", lambda found: FLAGS.get(found[1], found[0]), message)
