"""The contract of a visual embedder: a chain of named stages from an image batch to visual tokens.

Shapes: B images, L text tokens, N visual tokens, D hidden size, H×W pixels, h×w grid cells.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from torch import Tensor, nn

from vilt_bench.errors import EmbedderError

Kind = Literal["linear", "grid", "region", "encoder"]
"""As in the paper's tables; `encoder` for a transformer or hybrid tower."""

Mark = Callable[[str, Any], None]
"""Called after each stage with its name and its output. A mark must not change the output."""


def tensors(value: Any) -> Iterator[Tensor]:
    """Returns the tensors in nested lists, tuples, mappings and sets, and in the fields of data classes."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))
    elif isinstance(value, list | tuple | Set):
        for item in value:
            yield from tensors(item)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from tensors([getattr(value, field.name) for field in fields(value)])


class ImageBatch(NamedTuple):
    """Images as a model takes them, normalised."""

    pixels: Tensor
    """[B, 3, H, W], floating point."""
    mask: Tensor | None = None
    """[B, H, W] bool, true where a pixel belongs to the image; `None`: no image is padded."""
    frames: int | None = None
    """So many images one behind the other are the frames of a clip, in order, and B is a multiple; `None`: each is an
    image of its own. An embedder that does not look here takes each frame as an image."""


class Clips(NamedTuple):
    """What an embedder makes of the frames of a clip: one grid of tokens, or more."""

    temporal_patch: int = 1
    """Frames that it makes one grid of; where the last of an image's or clip's are fewer, it repeats the last frame."""
    frames: int | None = None
    """Of the clips that it is made for, where it takes nothing else; `None`: it takes images, and frames as well."""
    fixed: bool = False
    """Whether it takes clips of exactly so many frames."""

    def grids(self, frames: int | None, *, name: str = "the embedder") -> int:
        """Returns how many grids of tokens it makes of a clip, each a row of its output; of an image 1.

        Args:
            frames: of the clip; `None`: an image.
            name: what messages call the embedder.

        Raises:
            EmbedderError: it does not take such clips, or no images.
        """
        if self.frames is None:
            return -(-(frames or 1) // self.temporal_patch)
        if frames is None or (self.fixed and frames != self.frames):
            of = f"clips of {self.frames} frames" if self.fixed else "clips"
            raise EmbedderError(f"{name} takes {of}; give `frames` {self.frames}")
        if frames % self.temporal_patch:
            raise EmbedderError(
                f"{name} takes {self.temporal_patch} frames together; give `frames` in multiples of that, got {frames}"
            )
        return frames // self.temporal_patch


EACH_FRAME = Clips()
"""Each frame is an image."""


class TextBatch(NamedTuple):
    """Texts as a model takes them."""

    token_ids: Tensor
    """[B, L] int64"""
    mask: Tensor | None = None
    """[B, L] bool, true where a token belongs to the text; `None`: no text is padded."""


class VisualTokens(NamedTuple):
    """What every visual embedder returns."""

    embeddings: Tensor
    """[B, N, D]"""
    mask: Tensor | None = None
    """[B, N] bool, true where a token is to be attended to; `None`: all are, and attention needs no mask."""
    boxes: Tensor | None = None
    """[B, N, 4] as (x1, y1, x2, y2) in pixels, for region features."""
    grid: tuple[int, int] | None = None
    """(h, w) with N = h·w in row-major order, where the shared model is still to add V_pos, interpolated
    to that grid (equation 2); `None` where the embedder has added positions of its own."""
    cells: tuple[int, int] | None = None
    """(h, w) where the tokens are the cells of a grid in row-major order, whoever adds the positions; `None`: they
    are none, or as `grid` says."""
    images: int = 1
    """Images of a text whose tokens follow each other; N is of all, `grid` and `cells` are of each. An embedder
    returns those of one."""


class VisualFeatures(NamedTuple):
    """What a tower returns where a `Projection` follows: `VisualTokens` of the tower's own width C."""

    embeddings: Tensor
    """[B, N, C]"""
    mask: Tensor | None = None
    """[B, N] bool, as in `VisualTokens`."""
    grid: tuple[int, int] | None = None
    """As in `VisualTokens`."""
    cells: tuple[int, int] | None = None
    """As in `VisualTokens`."""


class Projection(nn.Module):
    """Projects a tower's features to tokens of width D: [B, N, C] to [B, N, D].

    As an embedder's last stage it is also the seam where `--reduce` puts a reduction of the tokens.
    """

    def __init__(self, *, channels: int, hidden_size: int) -> None:
        """Make the linear layer."""
        super().__init__()
        self.channels = channels
        self.linear = nn.Linear(channels, hidden_size)

    def forward(self, features: VisualFeatures) -> VisualTokens:
        """Returns a token a feature."""
        return VisualTokens(
            self.linear(features.embeddings), mask=features.mask, grid=features.grid, cells=features.cells
        )


class Processor(Protocol):
    """Prepares images as the library does that a tower is from."""

    @property
    def description(self) -> str:
        """Its name, and of which versions of what."""

    @property
    def is_dynamic(self) -> bool:
        """Whether the size that it makes of an image depends on the image's."""

    @property
    def packs(self) -> bool:
        """Whether it returns patches, of which `pixels` puts images together again."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the (height, width) that it makes of an image's, in pixels."""

    def __call__(self, images: Sequence[Any]) -> Any:
        """Returns what it makes of images: Pillow's, or [3, h, w] uint8."""

    def pixels(self, output: Any) -> list[Tensor]:
        """Returns the images of that, normalised, [3, h, w] each."""


ProcessorFactory = Callable[[str], Processor]
"""Returns the processor of a kind: `fast`, `slow`, or as the library chooses, empty."""


class Chain(nn.Module):
    """Named stages, run one after the other; the output of one is the input of the next.

    A profiler passes `mark`, which is called after each stage. There is one forward, marked or not.
    """

    def __init__(self, stages: Mapping[str, nn.Module]) -> None:
        """Chain the stages in the mapping's order."""
        super().__init__()
        self.stages = nn.ModuleDict(dict(stages))

    def forward(self, inputs: Any, mark: Mark | None = None) -> Any:
        """Returns the last stage's output."""
        for name, stage in self.stages.items():
            inputs = stage(inputs)
            if mark is not None:
                mark(name, inputs)
        return inputs

    def frozen(self) -> Iterator[nn.Parameter]:
        """Yields the parameters that training leaves as they are, as far as stages tell."""
        for stage in self.stages.values():
            if callable(frozen := getattr(stage, "frozen", None)):
                yield from frozen()


class VisualEmbedder(Chain):
    """A chain from `ImageBatch` to `VisualTokens`.

    A factory returns one: `def patch32(*, hidden_size: int = 768) -> VisualEmbedder`. Its keyword arguments
    are its options; `hidden_size` is the shared transformer's D and must be among them. Building must do no
    more than make modules: no network, no device (it also runs under `torch.device("meta")`).

    A stage may have a method `counts(output) -> Mapping[str, int]` that tells what it found, such as NMS
    candidates; it is called outside of timed passes. And one `frozen() -> Iterable[nn.Parameter]` that tells which
    parameters training leaves as they are.
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        *,
        kind: Kind,
        hidden_size: int,
        resolution: tuple[int, int],
        size_divisor: int = 32,
        fixed_size: bool = False,
        clips: Clips = EACH_FRAME,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
        weights: str = "random",
        notes: Mapping[str, str] | None = None,
        processor: ProcessorFactory | None = None,
    ) -> None:
        """Chain the stages.

        Args:
            stages: in order; the last one returns `VisualTokens`.
            kind: as in the paper's tables.
            hidden_size: D of the tokens.
            resolution: default (height, width): shorter edge and limit of the longer one, in pixels.
            size_divisor: both edges of the input are multiples of this many pixels.
            fixed_size: whether it takes images of exactly `resolution` only; they are then cropped to it.
            clips: what it makes of the frames of a clip; by default each frame is an image.
            mean: of the pixels' normalisation, for RGB in 0 to 1.
            std: likewise.
            weights: where the weights come from, as shown in reports: `random`, or a file's name.
            notes: by stage, what a reader must know to read its numbers right, such as planted tensors.
            processor: loads what prepares images for the tower in its own library; `None`: there is none.
        """
        super().__init__(stages)
        self.kind: Kind = kind
        self.hidden_size = hidden_size
        self.resolution = resolution
        self.size_divisor = size_divisor
        self.fixed_size = fixed_size
        self.clips = clips
        self.mean = mean
        self.std = std
        self.weights = weights
        self.notes = dict(notes or {})
        self.processor = processor

    if TYPE_CHECKING:  # nn.Module.__call__ returns Any; give callers the type back

        def __call__(self, inputs: ImageBatch, mark: Mark | None = None) -> VisualTokens:
            """Returns the visual tokens."""


EmbedderFactory = Callable[..., VisualEmbedder]


def stage_counts(stage: nn.Module, output: Any) -> dict[str, int]:
    """Returns what a stage says that it found in its output; empty where it says nothing.

    Raises:
        EmbedderError: it says something else than whole numbers by name.
    """
    counts = getattr(stage, "counts", None)
    if not callable(counts):
        return {}
    found: Any = counts(output)
    try:
        return {str(name): operator.index(count) for name, count in found.items()}
    except (TypeError, AttributeError):
        raise EmbedderError(
            f"{type(stage).__name__}.counts returned {' '.join(str(found).split())}; expected whole numbers by name"
        ) from None
