"""Looks at the outputs of a pass that is not timed: shapes, counts, whether the contract is kept, strange values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from vilt_bench.ask.case import Case, label
from vilt_bench.embedding import VisualTokens, stage_counts, tensors
from vilt_bench.embedding.breaches import breaches
from vilt_bench.errors import EmbedderError
from vilt_bench.model import VisionLanguageModel, stages
from vilt_bench.model.assembly import rows_of
from vilt_bench.worker.meters.parameters import count_parameters
from vilt_bench.worker.preprocessing import PREPROCESSING, Preprocessing


@dataclass(frozen=True)
class Observed:
    """What a pass showed of a stage's output."""

    output: str
    counts: dict[str, int]


class Observer:
    """A mark that looks at each stage's output; for the first pass, never for a timed one."""

    def __init__(self, case: Case, model: VisionLanguageModel, preprocessing: Preprocessing | None = None) -> None:
        """Look at nothing yet."""
        self._name = label(case)
        self._batch_size = case.batch_size
        self._rows = case.batch_size * rows_of(model.visual_embedder)
        self._hidden_size = model.shared.visual_size
        before = {} if preprocessing is None else dict(preprocessing.stages.items())
        self.modules = {f"{PREPROCESSING}.{name}": stage for name, stage in before.items()} | dict(stages(model))
        """By the stages' full names, in the order in which they run."""
        self.sizes = count_parameters(self.modules.items())
        """By stage, of the modules as they are now; a backend may change them."""
        self.notes = {
            f"{component}.{name}": note
            for component, chain in ((PREPROCESSING, preprocessing), ("visual_embedder", model.visual_embedder))
            for name, note in (chain.notes.items() if chain is not None else ())
        }
        self.last_visual_stage = f"visual_embedder.{list(model.visual_embedder.stages)[-1]}"
        self.seen: dict[str, Observed] = {}
        self.visual_tokens = 0
        self._tokens: VisualTokens | None = None

    def __call__(self, name: str, output: Any) -> None:
        """Look at one output, as soon as the device has made it: what fails late then fails within its own stage.

        Raises:
            EmbedderError: the embedder breaks the contract.
        """
        _wait_for(output)
        if isinstance(output, VisualTokens):
            rows = self._batch_size if name == self.last_visual_stage else self._rows
            check_tokens(output, name=self._name, batch_size=rows, hidden_size=self._hidden_size)
            self.visual_tokens = output.embeddings.shape[1]
            self._tokens = output
        elif name == self.last_visual_stage:
            raise EmbedderError(
                f"embedder {self._name!r} returned a {type(output).__name__}; expected VisualTokens of its last stage"
            )
        on_meta = any(tensor.is_meta for tensor in tensors(output))  # where there is nothing to count
        counts = {} if on_meta else stage_counts(self.modules[name], output)
        self.seen[name] = Observed(describe(output), counts)

    def unreached(self) -> str | None:
        """Returns the stage that no output has come from yet."""
        return next((name for name in self.modules if name not in self.seen), None)

    def take_tokens(self) -> VisualTokens | None:
        """Returns the visual tokens of the pass, for a look at their values, and lets go of them."""
        tokens, self._tokens = self._tokens, None
        return tokens


def _wait_for(output: Any) -> None:
    for device in {tensor.device for tensor in tensors(output)}:
        if device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize(device)


def strange_values(tokens: VisualTokens, *, dtype: str) -> tuple[str, ...]:
    """Returns what a reader must know of the values of visual tokens, a sentence each."""
    remarks = []
    if not bool(tokens.embeddings.isfinite().all()):
        remarks.append(
            f"Visual tokens hold NaN or infinite values in {dtype}: their times are of a pass whose answer is of no "
            "use."
        )
    mask = tokens.mask
    if mask is not None and not bool(mask.reshape(len(mask), tokens.images, -1).any(dim=2).all()):
        remarks.append("The mask of the visual tokens leaves an image without a token.")
    return tuple(remarks)


def check_tokens(tokens: VisualTokens, *, name: str, batch_size: int, hidden_size: int) -> None:
    """Refuse visual tokens that the transformer can't take.

    Raises:
        EmbedderError: they are not [B, N, D] in floating point, N at least 1, or what is said of them does not fit.
    """
    for breach in breaches(tokens, batch_size=batch_size, hidden_size=hidden_size):
        raise EmbedderError(f"embedder {name!r} returned no tokens that can be used: its {breach}")


def describe(output: Any) -> str:
    """Returns the shapes of a stage's output, such as `embeddings [1, 240, 768]`."""
    if isinstance(output, Tensor):
        return str(list(output.shape))
    if isinstance(output, Mapping):
        return describe(list(output.values()))
    names = getattr(output, "_fields", ())
    if is_dataclass(output) and not isinstance(output, type):
        names = [field.name for field in fields(output)]
    if names:
        named = [(name, describe(getattr(output, name))) for name in names]
        return ", ".join(f"{name} {shapes}" for name, shapes in named if shapes)
    return ", ".join(filter(None, map(describe, output))) if isinstance(output, tuple | list) else ""
