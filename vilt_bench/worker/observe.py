"""Looks at the outputs of a first pass: shapes, counts, whether the contract is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vilt_bench.ask.case import Case, label
from vilt_bench.embedding import VisualTokens, stage_counts, tensors
from vilt_bench.embedding.breaches import breaches
from vilt_bench.errors import EmbedderError
from vilt_bench.model import VisionLanguageModel, stages
from vilt_bench.record.run import Component
from vilt_bench.worker.build import ASKED_FOR
from vilt_bench.worker.preprocessing import Preprocessing

PREPROCESSING: Component = "preprocessing"


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
        self._hidden_size = model.shared.visual_size
        before = {} if preprocessing is None else dict(preprocessing.stages.items())
        self.modules = {f"{PREPROCESSING}.{name}": stage for name, stage in before.items()} | dict(stages(model))
        """By the stages' full names, in the order in which they run."""
        self.notes = {
            f"{component}.{name}": note
            for component, chain in ((PREPROCESSING, preprocessing), ("visual_embedder", model.visual_embedder))
            for name, note in (chain.notes.items() if chain is not None else ())
        }
        self.last_visual_stage = f"visual_embedder.{list(model.visual_embedder.stages)[-1]}"
        self.seen: dict[str, Observed] = {}
        self.visual_tokens = 0
        self.tokens: VisualTokens | None = None
        """Of the pass, for whoever wants to look at their values."""
        self.moved: dict[str, int] = {}
        """Bytes by stage, where they were counted."""

    def __call__(self, name: str, output: Any) -> None:
        """Look at one output.

        Raises:
            EmbedderError: the embedder breaks the contract.
        """
        if isinstance(output, VisualTokens):
            check_tokens(output, name=self._name, batch_size=self._batch_size, hidden_size=self._hidden_size)
            self.visual_tokens = output.embeddings.shape[1]
            self.tokens = output
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


def check_tokens(tokens: VisualTokens, *, name: str, batch_size: int, hidden_size: int) -> None:
    """Refuse visual tokens that the transformer can't take.

    Raises:
        EmbedderError: they are not [B, N, D] in floating point, N at least 1, or what is said of them does not fit.
    """
    for breach in breaches(tokens, batch_size=batch_size, hidden_size=hidden_size):
        raise EmbedderError(f"embedder {name!r} returned no tokens that can be used: its {breach}")


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yields name, value before and value now of each of torch's settings that has changed."""
    for name, value in now.items():
        if (was := before.get(name, value)) != value:
            yield name, was, value


def check_torch(before: Mapping[str, str], now: Mapping[str, str], *, name: str) -> None:
    """Refuse an embedder that has changed for all of the process what the case asks for.

    Raises:
        EmbedderError: threads, default dtype or default device are others than before its code was imported.
    """
    changed = [f"{each} from {was} to {value}" for each, was, value in changes(before, now) if each in ASKED_FOR]
    if changed:
        raise EmbedderError(
            f"embedder {name!r} has set torch's {', '.join(changed)}, against what was asked for and is recorded; "
            "remove that from its code, and give --threads, --dtype or --device"
        )


def describe(output: Any) -> str:
    """Returns the shapes of a stage's output, such as `embeddings [1, 240, 768]`."""
    if isinstance(output, Tensor):
        return str(list(output.shape))
    if (names := getattr(output, "_fields", None)) is not None:
        named = [(name, describe(getattr(output, name))) for name in names]
        return ", ".join(f"{name} {shapes}" for name, shapes in named if shapes)
    if isinstance(output, dict):
        return describe(list(output.values()))
    return ", ".join(filter(None, map(describe, output))) if isinstance(output, tuple | list) else ""
