"""What is asked: `Case` (one point to measure) and `Sampling` (how hard to look); frozen, checked, inert."""

from __future__ import annotations

import math
import operator
import re
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Literal, get_args

from vilt_bench.ask.tiles import Scheme, parse_tiles
from vilt_bench.errors import ConfigError
from vilt_bench.words import joined

Option = bool | int | float | str
"""The value of an embedder's option, as given on the command line or in Python."""

Fit = Literal["aspect", "crop", "exact", "native"]
Interaction = Literal["vilt", "bert", "lxmert", "vilbert", "none"]
"""`vilt`: pre-norm single stream; `bert`: post-norm single stream; `lxmert`, `vilbert`: two streams; `none`: none."""
ALONE = "none"
"""The interaction that is none: the visual embedder without text and without shared model."""
LANGUAGE_MODEL = "lm:"
"""Prefix of an interaction that is a decoder-only language model, up to its first token, as in `lm:SmolLM2-135M`."""
Dtype = Literal["float32", "bfloat16", "float16"]

# Far above any camera's or model's need, far below what would exhaust a machine before a message could be shown.
LARGEST_EDGE_PIXELS = 16_384
LARGEST_BATCH = 65_536
TEXT_LENGTH = 40
"""Tokens of the paper's texts."""
MOST_FRAMES = 4096
"""Of a clip; the longest contexts hold fewer."""
MOST_IMAGES_PER_VILT = 2
"""ViLT's checkpoints have a modality type for a first image and one for a second."""
SYNTHETIC = "synthetic"
"""As an image's path: seeded noise instead of a photograph."""

REDUCTIONS = {"pixel-shuffle": 2, "avg-pool": 2, "bilinear-pool": 2, "perceiver": 64, "qformer": 32, "tome": 98}
"""Ways to reduce visual tokens, each with an example of its number: the edge of the squares of cells that become one
token; the tokens left; for `tome`, the tokens merged away."""

_BY_CELLS = ("pixel-shuffle", "avg-pool", "bilinear-pool")
"""Those after which tokens are the cells of a smaller grid."""

QUANTIZATIONS = ("int8", "fp8")
"""Types that weights and activations of products may be brought to."""
EAGER = "torch"
"""The backend that computes stages as they are built: torch's own modules, one operator after the other."""
WHOLE, STRICT = "whole", "strict"
"""Options that every backend has: to prepare the visual embedder and the interaction as one stage each; to refuse a
stage that it can't prepare, which eager torch computes otherwise."""

PILLOW, TORCHVISION, PROCESSOR = PREPROCESSORS = ("pillow", "torchvision", "processor")
"""Who resizes and normalises images: Pillow and torch, torchvision's transforms, or the tower's own processor in
transformers."""
PROCESSOR_KINDS = ("fast", "slow")
"""What computes in a processor: torchvision or Pillow; as in `processor:slow`."""
DECODERS = ("pillow", "torchvision", "pyav")
MOST_WORKERS = 256
"""Processes that prepare images; far above the cores that a batch's images are shared among."""

ALL = "all"
"""Among the names of what may differ: everything."""

_DTYPES = {"float32": ("fp32", "f32", "float"), "bfloat16": ("bf16",), "float16": ("fp16", "f16", "half")}
"""By a dtype: how people write it as well."""

_DEVICE = re.compile(r"auto|cpu|mps|(?!(?:auto|cpu|mps)\b)[a-z]\w*(:\d+)?")
"""Which kinds there are, torch says where it is loaded, as packages of others add theirs."""


@dataclass(frozen=True)
class ViltConfig:
    """Sizes of the shared ViLT; the defaults are ViLT-B/32's.

    Source: ViLT paper, section 3.1 and 4.2; BERT's vocabulary.
    """

    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    mlp_size: int = 3072
    vocabulary: int = 30_522
    text_positions: int = 40
    """Rows of the text's position table: the longest text."""
    image_positions: tuple[int, int] = (12, 12)
    """(h, w) of the image's position table, interpolated to other grids: 384 / 32 = 12."""
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: a size is impossible.
        """
        _check_count("hidden_size", self.hidden_size, least=1, most=65_536)
        _check_count("layers", self.layers, least=1, most=1000)
        _check_count("heads", self.heads, least=1, most=1024)
        _check_count("mlp_size", self.mlp_size, least=1, most=1_048_576)
        _check_count("vocabulary", self.vocabulary, least=200, most=10_000_000)
        _check_count("text_positions", self.text_positions, least=2, most=1_000_000)

    def check_heads(self) -> None:
        """Refuse a width that does not go into heads, as every model but an embedder alone has them.

        Raises:
            ConfigError: it does not.
        """
        if self.hidden_size % self.heads:
            raise ConfigError(f"{self.hidden_size} must be a multiple of `heads` {self.heads}", field="hidden_size")


SIZES = ("hidden_size", "layers", "heads", "mlp_size", "text_positions")
"""Fields of `ViltConfig` that are options; the others are Python's."""


@dataclass(frozen=True)
class Case:
    """One point to measure: an embedder, its input, and where to run it.

    `None` means "what fits": the embedder's default resolution, the machine's number of threads.
    """

    embedder: str
    options: Mapping[str, Option] = field(default_factory=dict)
    """Keyword arguments of the embedder's factory."""
    resolution: tuple[int, int] | None = None
    """(height, width) in pixels; the shorter edge is the target, the longer one the limit."""
    fit: Fit = "aspect"
    """`aspect`: keep the photograph's aspect, as the paper does; `crop`: the resolution, cut to multiples of the
    embedder's stride; `exact`: the resolution to the pixel, for embedders that take any size; `native`: the
    photograph's own size, as the tower's own processor has it, floored to the multiples that the embedder asks for."""
    tiles: str | None = None
    """How each image is cut into tiles that the tower takes one by one: a scheme of `vilt_bench.ask.tiles`, as in
    `internvl:12`; `None`: it is not. The resolution is then the whole image's; `None`: its own."""
    reduce: str | None = None
    """A reduction of the visual tokens, `NAME:N` of `REDUCTIONS`; `None`: as many as the embedder makes."""
    images: tuple[str, ...] = ()
    """Paths of images; none: the photographs that come with an installed package; `synthetic`: noise. With `frames`,
    paths of clips; none: noise."""
    frames: int | None = None
    """Frames of a clip that stand in an image's place; `None`: images."""
    frame_rate: float | None = None
    """Frames a second at which they are taken from a clip's beginning; `None`: evenly from all of it."""
    preprocessing: bool = False
    """Whether decoding, resizing and normalising the images, from files in memory, are a part of the pass."""
    preprocessor: str = PILLOW
    """Who resizes and normalises, one of `PREPROCESSORS`; `processor:slow` and `processor:fast` say which of two."""
    decoder: str | None = None
    """Who decodes, one of `DECODERS`; `None`: what belongs to the preprocessor."""
    preprocessing_workers: int | None = None
    """Processes that prepare batches while the model runs, which is measured as well; 0: the model's own; `None`: it is
    not measured."""
    pin_memory: bool = False
    """Whether they put batches where an accelerator copies from while the host works."""
    text_length: int = TEXT_LENGTH
    """Text tokens, [CLS] and [SEP] included."""
    images_per_text: int = 1
    """Images that each text is about; a pass sees `batch_size` times as many."""
    batch_size: int = 1
    device: str = "auto"
    dtype: Dtype = "float32"
    threads: int | None = None
    backend: str = EAGER
    """Who computes the stages, and how: `NAME[:KEY=VALUE,…]`, as in `torch:channels_last`; see docs/backends.md."""
    quantize: str | None = None
    """Brings weights and activations of products to one of `QUANTIZATIONS`, by the backend's means; `None`: to none."""
    checkpoint: str | None = None
    """Weights of the shared ViLT: a folder, a file, or `hub:ORGANISATION/NAME`; `None`: random."""
    interaction: str = "vilt"
    """What joins the modalities: an `Interaction`, those of the paper's Table 6; or `lm:NAME`."""
    vilt: ViltConfig = field(default_factory=ViltConfig)
    """Sizes of the shared ViLT, or of the text's layers of another interaction."""
    seed: int = 0
    linear: str = field(default=EAGER, init=False, repr=False)
    """The backend under its older name, which records have had and older versions of this package read: they know
    `onednn`, and refuse what they do not know."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: a value is impossible.
        """
        # Only what is read has a name of its own there: a record, or the request of a director, of an older version.
        for name in (
            "frames", "text_length", "images_per_text", "batch_size", "threads", "seed", "preprocessing_workers",
        ):  # fmt: skip
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _whole(name, value))
        if self.resolution is not None:
            object.__setattr__(self, "resolution", read_resolution(self.resolution))
        object.__setattr__(self, "device", str(self.device))  # torch has a type of its own for it
        if isinstance(self.images, str):
            object.__setattr__(self, "images", (self.images,))
        backend = self.linear if self.backend == EAGER and self.quantize is None else self.backend
        object.__setattr__(self, "backend", write_backend(*parse_backend(backend)))
        # An older version would leave out what it does not know, and measure another thing: this it refuses.
        object.__setattr__(self, "linear", f"{self.backend}{'' if self.quantize is None else f' in {self.quantize}'}")
        if self.quantize is not None:
            _check_choice("quantize", self.quantize, QUANTIZATIONS)
        for text in (self.embedder, *map(str, self.options.values()), *self.images, self.checkpoint or ""):
            if not text.isascii() and text != text.encode(errors="replace").decode():
                raise ConfigError(f"{text!r} is no UTF-8, which records are in; give it another name")
        if not self.embedder:
            raise ConfigError("an embedder's name can't be empty; 'vilt-bench list' shows all")
        _check_choice("fit", self.fit, get_args(Fit))
        if self.fit == "native" and self.resolution is not None:
            raise ConfigError("native takes each image at its own size; leave `resolution` out", field="fit")
        if self.fit == "native" and SYNTHETIC in self.images:
            raise ConfigError(
                f"{SYNTHETIC} has no size of its own; give `resolution` HxW instead of native", field="images"
            )
        if self.tiles is not None:
            scheme = parse_tiles(self.tiles)
            object.__setattr__(self, "tiles", scheme.name)
            self._check_tiles(scheme)
        if self.reduce is not None:
            parse_reduction(self.reduce)
        self._check_frames()
        for name in ("preprocessing", "preprocessing_workers"):
            if _is_asked(getattr(self, name)) and SYNTHETIC in self.images:
                raise ConfigError(f"decodes files, and `images` {SYNTHETIC} is none; give photographs", field=name)
        self._check_preprocessor()
        for key, value in self.options.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(
                    f"option {key}={value} of {self.embedder!r} is no finite number, as records hold them"
                )
        if self.interaction == ALONE:
            self._check_alone()
        else:
            self._check_interaction()
        if self.checkpoint is not None and self.interaction != "vilt":
            raise ConfigError(f"is of a ViLT, for `interaction` vilt, got {self.interaction!r}", field="checkpoint")
        _check_choice("dtype", self.dtype, get_args(Dtype))
        _check_count("text_length", self.text_length, least=2, most=1_000_000)
        _check_count("images_per_text", self.images_per_text, least=1, most=LARGEST_BATCH)
        _check_count("batch_size", self.batch_size, least=1, most=LARGEST_BATCH)
        self._check_images_per_text()
        if self.threads is not None:
            _check_count("threads", self.threads, least=1, most=4096)
        if self.language_model is None and self.interaction != ALONE and self.text_length > self.vilt.text_positions:
            raise ConfigError(
                f"`text_length` {self.text_length} is longer than the position table of {self.vilt.text_positions} "
                f"tokens; shorten the text or give `text_positions` {self.text_length}"
            )
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"must be between 0 and 2**63 - 1, got {self.seed}", field="seed")
        if not _DEVICE.fullmatch(self.device):
            raise ConfigError(
                f"no device is called {self.device!r}; expected auto, cpu, cuda, cuda:N, mps, xpu or another of "
                "torch's, as in `device` cuda:0"
            )

    @property
    def language_model(self) -> str | None:
        """The name of the language model that is the interaction; `None`: it is none."""
        return self.interaction.removeprefix(LANGUAGE_MODEL) if self.interaction.startswith(LANGUAGE_MODEL) else None

    @property
    def images_per_pass(self) -> int:
        """How many images a pass sees."""
        return self.batch_size * self.images_per_text

    @property
    def processor_kind(self) -> str | None:
        """The kind of the tower's own processor that prepares images, empty for the usual; `None`: it does not."""
        name, _, kind = self.preprocessor.partition(":")
        return kind if name == PROCESSOR else None

    def _check_preprocessor(self) -> None:
        """Refuse what is none, or means nothing where images are prepared beforehand."""
        kinds = tuple(f"{PROCESSOR}:{kind}" for kind in PROCESSOR_KINDS)
        _check_choice("preprocessor", self.preprocessor, (*PREPROCESSORS, *kinds))
        if self.decoder is not None:
            _check_choice("decoder", self.decoder, DECODERS)
        for name, usual in (("preprocessor", PILLOW), ("decoder", None)):
            if getattr(self, name) != usual and not self.preprocessing and self.preprocessing_workers is None:
                raise ConfigError(
                    "prepares photographs within the pass, which `preprocessing` asks for, or beside it, as "
                    "`preprocessing_workers` asks for; give one of them as well",
                    field=name,
                )
        if self.preprocessing_workers is not None:
            _check_count("preprocessing_workers", self.preprocessing_workers, least=0, most=MOST_WORKERS)
        if self.pin_memory and not self.preprocessing_workers:
            found = "none is asked for" if self.preprocessing_workers is None else "there are 0"
            raise ConfigError(
                f"is for batches that other processes prepare, and {found}; give `preprocessing_workers` 1 or more",
                field="pin_memory",
            )

    def _check_frames(self) -> None:
        """Refuse frames that no clip has, or that nothing joins."""
        if self.frame_rate is not None:
            if isinstance(self.frame_rate, bool) or not isinstance(self.frame_rate, int | float):
                raise ConfigError(f"must be a number, got {self.frame_rate!r}", field="frame_rate")
            object.__setattr__(self, "frame_rate", float(self.frame_rate))
            if not 0.001 <= self.frame_rate <= 1000:
                raise ConfigError(
                    f"must be between 0.001 and 1000 a second, got {self.frame_rate:g}", field="frame_rate"
                )
            if self.frames is None:
                raise ConfigError("is of `frames`; give them as well", field="frame_rate")
        if self.frames is None:
            return
        _check_count("frames", self.frames, least=1, most=MOST_FRAMES)
        if self.fit == "native" and not self.images:
            raise ConfigError(
                "synthetic frames have no size of their own; give `resolution` HxW instead of native, or `images` with "
                "clips",
                field="frames",
            )
        for name in ("preprocessing", "preprocessing_workers"):
            if _is_asked(getattr(self, name)) and not self.images:
                raise ConfigError("decodes files, and synthetic frames are none; give `images` CLIP", field=name)
        if self.processor_kind is not None:
            raise ConfigError(
                "is of images, and `frames` are of clips; give pillow or torchvision", field="preprocessor"
            )
        if self.decoder not in (None, "pyav"):
            raise ConfigError("decodes no clips, which PyAV does; leave it out", field="decoder")
        if self.frame_rate is not None and (not self.images or SYNTHETIC in self.images):
            raise ConfigError("is of clips, and synthetic frames have no time; give `images` CLIP", field="frame_rate")
        if self.language_model is None and self.interaction != ALONE:
            raise ConfigError(
                f"`frames` of a clip are none that `interaction` {self.interaction} joins; give `interaction` {ALONE}, "
                f"or {LANGUAGE_MODEL}NAME"
            )

    def _check_tiles(self, scheme: Scheme) -> None:
        """Refuse tiles of images without a size, and tokens of tiles that can't be joined, or that nothing takes."""
        if self.frames is not None:
            raise ConfigError("are of images, and `frames` of clips; give one or the other", field="tiles")
        if self.preprocessor != PILLOW:
            raise ConfigError(
                f"are cut by Pillow, not by `preprocessor` {self.preprocessor}; leave it out", field="tiles"
            )
        if SYNTHETIC in self.images and self.resolution is None:
            raise ConfigError(f"{SYNTHETIC} has no size of its own to be cut; give `resolution` HxW", field="images")
        if self.resolution is None and self.fit in ("crop", "exact"):
            raise ConfigError(
                f"{self.fit} is for `resolution` HxW, which is missing; without it each image is cut at its own size",
                field="fit",
            )
        if self.reduce is not None and scheme.mosaic is not None and self.reduce.partition(":")[0] not in _BY_CELLS:
            raise ConfigError(
                f"{self.reduce} leaves no grid of cells, which `tiles` {self.tiles} puts together; expected "
                f"{' or '.join(_BY_CELLS)}",
                field="reduce",
            )
        if self.interaction != ALONE and self.language_model is None:
            raise ConfigError(
                f"{self.tiles} cuts an image into several, whose tokens `interaction` {self.interaction} does not "
                f"take; give {LANGUAGE_MODEL}NAME, or {ALONE} for the visual embedder alone",
                field="tiles",
            )

    def _check_images_per_text(self) -> None:
        """Refuse more images than the interaction joins with a text, or than a batch may have."""
        if self.frames is not None and self.images_per_pass * self.frames > LARGEST_BATCH:
            raise ConfigError(
                f"{self.frames} frames of each of {self.images_per_pass} clips are "
                f"{self.images_per_pass * self.frames:,} a pass; expected {LARGEST_BATCH:,} at most",
                field="frames",
            )
        if self.images_per_pass > LARGEST_BATCH:
            raise ConfigError(
                f"`batch_size` {self.batch_size} with `images_per_text` {self.images_per_text} are "
                f"{self.images_per_pass:,} images a pass; expected {LARGEST_BATCH:,} at most"
            )
        if self.images_per_text == 1 or self.language_model is not None:
            return
        if self.interaction != "vilt":
            raise ConfigError(
                f"must be 1 for `interaction` {self.interaction}, got {self.images_per_text}; vilt takes "
                f"{MOST_IMAGES_PER_VILT}, and {LANGUAGE_MODEL}NAME as many as fit",
                field="images_per_text",
            )
        if self.images_per_text > MOST_IMAGES_PER_VILT:
            raise ConfigError(
                f"must be {MOST_IMAGES_PER_VILT} at most for ViLT, which has no more modality types for images, got "
                f"{self.images_per_text}; `interaction` {LANGUAGE_MODEL}NAME takes as many as fit",
                field="images_per_text",
            )

    def _check_alone(self) -> None:
        """Refuse what is of a text or of a shared model, where there is none; the tokens' width is the embedder's."""
        for name, usual in (("text_length", TEXT_LENGTH), ("images_per_text", 1)):
            if getattr(self, name) != usual:
                raise ConfigError(
                    f"{ALONE} has no text and no shared model, which `{name}` would be for; leave it out",
                    field="interaction",
                )
        if self.vilt != ViltConfig(hidden_size=self.vilt.hidden_size):
            raise ConfigError(
                f"{ALONE} has no shared model, which `layers`, `heads`, `mlp_size` and `text_positions` would be for; "
                "of the sizes give `hidden_size` alone",
                field="interaction",
            )

    def _check_interaction(self) -> None:
        if self.language_model is None:
            choices = (*get_args(Interaction), f"{LANGUAGE_MODEL}NAME")
            _check_choice("interaction", self.interaction, choices)
            self.vilt.check_heads()
        elif not self.language_model:
            raise ConfigError(
                f"{LANGUAGE_MODEL}NAME needs a name, as in {LANGUAGE_MODEL}SmolLM2-135M", field="interaction"
            )
        elif self.vilt != ViltConfig():
            raise ConfigError(
                f"`hidden_size`, `layers`, `heads`, `mlp_size` and `text_positions` are of the shared ViLT; "
                f"{self.interaction} has sizes of its own, leave them out"
            )


@dataclass(frozen=True)
class Sampling:
    """How hard to look: when to stop, and in how many processes."""

    precision: float = 0.01
    """Stop when the 95% interval of the median is within ± this share of it."""
    max_time_s: float = 60.0
    """Measuring time for one embedder over all its trials, loading and building left out."""
    trials: int = 3
    """Fresh processes; the process is the unit of evidence."""
    least_samples: int = 30
    """Passes of each kind in a trial, unless the time is over."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: a value is impossible.
        """
        for name in ("trials", "least_samples"):
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        for name in ("precision", "max_time_s"):
            if isinstance(value := getattr(self, name), bool) or not isinstance(value, int | float):
                raise ConfigError(f"must be a number, got {value!r}", field=name)
        if not (math.isfinite(self.precision) and 0 < self.precision < 1):
            raise ConfigError(f"must be between 0 and 1 (0.01 is 1%), got {self.precision}", field="precision")
        if not (math.isfinite(self.max_time_s) and 0 < self.max_time_s <= 7 * 86_400):
            raise ConfigError(f"must be between 0 and 604800 seconds, got {self.max_time_s:g}", field="max_time_s")
        _check_count("trials", self.trials, least=1, most=1000)
        _check_count("least_samples", self.least_samples, least=1, most=1_000_000)


def read_resolution(value: object) -> tuple[int, int]:
    """Returns (height, width) of what people give for one: an edge of a square, a text, or a sequence of two.

    Raises:
        ConfigError: it is none of them, or absurd.
    """
    if isinstance(value, str):
        return parse_resolution(value if not value.strip().isdecimal() else f"{value}x{value}")
    if isinstance(value, int):
        value = (value, value)
    if isinstance(value, Sequence) and len(value) == 2:
        height, width = (_whole("resolution", edge) for edge in value)
        check_resolution(height, width)
        return height, width
    raise ConfigError(
        f"{value!r} is no size in pixels; expected an edge, (height, width) or a text such as '384x640'",
        field="resolution",
    )


def _whole(field: str, value: object) -> int:
    """Returns a whole number that may have been given as a text."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,18}\s*", value):
        return int(value)
    if not isinstance(value, bool) and hasattr(value, "__index__"):  # of numpy as well
        return operator.index(value)
    raise ConfigError(f"must be a whole number, got {value!r}", field=field)


def parse_resolution(text: str) -> tuple[int, int]:
    """Returns (height, width) of a text like `384x640`.

    Raises:
        ConfigError: the text is not HEIGHTxWIDTH in pixels, or is absurd.
    """
    match = re.fullmatch(r"(\d{1,9})[xX×](\d{1,9})", text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not HEIGHTxWIDTH in pixels, as in `resolution` 384x640", field="resolution")
    height, width = int(match[1]), int(match[2])
    check_resolution(height, width)
    return height, width


def parse_dtype(text: str) -> Dtype:
    """Returns the dtype of a text such as `bfloat16`, `bf16`, `fp32`, `half` or `torch.float16`.

    Raises:
        ConfigError: it is none of those that are measured.
    """
    name = text.strip().lower().removeprefix("torch.")
    for known in get_args(Dtype):
        if name == known or name in _DTYPES[known]:
            return known  # type: ignore[no-any-return]
    also = ", ".join(others[0] for others in _DTYPES.values())
    raise ConfigError(f"must be one of {', '.join(get_args(Dtype))} (or {also}); got {text!r}", field="dtype")


def parse_device(text: str) -> str:
    """Returns the device of a text such as `cuda:1`; `gpu` is the kind of accelerator that such machines have."""
    found = re.fullmatch(r"([a-z]\w*)((?::\d+)?)", text.strip().lower())
    if found is None:
        return text  # which no case takes
    if found[1] != "gpu":
        return found[0]
    return "mps" if sys.platform == "darwin" else f"cuda{found[2]}"


def check_resolution(height: int, width: int) -> None:
    """Refuse what no image has.

    Raises:
        ConfigError: an edge is below 1 or above `LARGEST_EDGE_PIXELS`.
    """
    if not (1 <= height <= LARGEST_EDGE_PIXELS and 1 <= width <= LARGEST_EDGE_PIXELS):
        raise ConfigError(
            f"{height}x{width} is out of range; each edge must be 1 to {LARGEST_EDGE_PIXELS} pixels", field="resolution"
        )


def parse_embedder(text: str) -> tuple[str, dict[str, Option]]:
    """Returns name and options of a text like `region-r101-c4,proposals=300,nms=class-agnostic`.

    Values read as the narrowest of bool, int, float, str.

    Raises:
        ConfigError: an option is not KEY=VALUE, or is given twice.
    """
    name, *parts = text.split(",")
    options: dict[str, Option] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier():
            raise ConfigError(f"in `embedder` {text!r}: {part!r} is not KEY=VALUE, as in 'patch,patch_size=48'")
        if key in options:
            raise ConfigError(f"in `embedder` {text!r}: option {key!r} is given twice")
        options[key] = parse_option(value.strip())
    return name.strip(), options


def parse_backend(text: str) -> tuple[str, dict[str, Option]]:
    """Returns name and options of a text like `torch:channels_last,attention=math`; one without a value is true.

    Raises:
        ConfigError: there is no name, or an option is not KEY or KEY=VALUE, or is given twice.
    """
    name, colon, rest = text.partition(":")
    if not re.fullmatch(r"[\w.-]+", name.strip()):
        raise ConfigError(f"{text!r} is not NAME[:KEY=VALUE,…], as in torch:channels_last", field="backend")
    options: dict[str, Option] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = part.partition("=")
        key = key.strip().replace("-", "_")
        if not key.isidentifier() or (equals and not re.fullmatch(r"[\w./:+-]+", value.strip())):
            raise ConfigError(
                f"{text!r}: {part!r} is not KEY or KEY=VALUE, as in torch:channels_last,attention=math",
                field="backend",
            )
        if key in options:
            raise ConfigError(f"{text!r}: option {key!r} is given twice", field="backend")
        options[key] = parse_option(value.strip()) if equals else True
    return name.strip(), options


def write_backend(name: str, options: Mapping[str, Option]) -> str:
    """Returns a backend as a text, the same for the same options: in the order of their names."""
    told = [
        key if value is True else f"{key}={str(value).lower() if value is False else value}"
        for key, value in sorted(options.items())
        if value is not False or key not in (WHOLE, STRICT)
    ]
    return f"{name}:{','.join(told)}" if told else name


def parse_frames(text: str) -> tuple[int, float | None]:
    """Returns how many frames a text like `8` or `8@2` asks for, and at how many a second.

    Raises:
        ConfigError: it is not N or N@FPS.
    """
    match = re.fullmatch(r"(\d{1,9})(?:@(\d{1,9}(?:\.\d{1,9})?))?", text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not N[@FPS], as in 8 or 8@2 for two a second", field="frames")
    return int(match[1]), None if match[2] is None else float(match[2])


def write_frames(frames: int | None, rate: float | None) -> str | None:
    """Returns how `frames` are asked for, as `parse_frames` reads it; `None`: none are."""
    return None if frames is None else f"{frames}" if rate is None else f"{frames}@{rate:.12g}"


def parse_reduction(text: str) -> tuple[str, int]:
    """Returns name and number of a text like `pixel-shuffle:2`.

    Raises:
        ConfigError: there is no such reduction, or its number is out of range.
    """
    name, _, number = text.partition(":")
    known = ", ".join(f"{known}:{example}" for known, example in REDUCTIONS.items())
    if name not in REDUCTIONS or not re.fullmatch(r"\d{1,6}", number):
        raise ConfigError(f"{text!r} is not NAME:N; expected one of {known}", field="reduce")
    least = 2 if REDUCTIONS[name] == 2 else 1
    if not least <= int(number) <= 65_536:
        raise ConfigError(f"{text}: the number must be between {least} and 65536", field="reduce")
    return name, int(number)


def parse_option(value: str) -> Option:
    """Returns the narrowest of bool, int, float, str that the text reads as; NaN and infinity are texts."""
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for read in (int, float):
        try:
            number = read(value)
        except ValueError:
            continue
        if isinstance(number, int) or math.isfinite(number):
            return number
    return value


def written_options(case: Case) -> str:
    """Returns the options by name, `key=value,…`; equal for equal options only."""
    return ",".join(f"{key}={_unmistakable(value)}" for key, value in sorted(case.options.items()))


def label(case: Case) -> str:
    """Returns how a case's embedder is written on the command line: its name, options, tiles and reduction.

    It names the embedder, to choose by or to complain of; what names a case is `case_name`.
    """
    own = [f"{name}={value}" for name in ("tiles", "reduce") if (value := getattr(case, name)) is not None]
    return ",".join([case.embedder, *(f"{key}={value}" for key, value in case.options.items()), *own])


def case_name(case: Case, *, without: Collection[str] = ()) -> str:
    """Returns the embedder with all that was asked otherwise than usual: `patch32 (384×640, batch_size 8, cuda)`.

    Equal for equal cases only, so that it can name a row of a table, a bar, or a line of a chart.

    Args:
        case: any.
        without: what of `unusual` is told elsewhere.
    """
    told = {key: _unmistakable(value) for key, value in case.options.items()}
    named = label(replace(case, options=told) if told else case)
    said = [text for name, text in unusual(case).items() if name not in without]
    return f"{named} ({', '.join(said)})" if said else named


def names_apart(cases: Sequence[Case]) -> list[str]:
    """Returns the cases' names side by side: what all have alike is left out."""
    alike = in_common(cases)
    return [case_name(case, without=alike) for case in cases]


def in_common(cases: Sequence[Case]) -> dict[str, str]:
    """Returns what `unusual` says of all cases alike."""
    shared = unusual(cases[0]) if cases else {}
    for case in cases[1:]:
        if not shared:
            break
        other = unusual(case)
        shared = {field: text for field, text in shared.items() if other.get(field) == text}
    return shared


def unusual(case: Case) -> dict[str, str]:
    """Returns what was asked otherwise than usual, but for the embedder and its options, by field as a text."""
    said = {}
    for part, plain in ((case, _usual()), (case.vilt, _usual().vilt)):
        if part == plain:
            continue
        for each in fields(part):
            value = getattr(part, each.name)
            if each.name in _TOLD_ELSEWHERE or value == getattr(plain, each.name):
                continue
            text = "×".join(map(str, value)) if each.name == "resolution" else joined(value)
            said[each.name] = (
                text if each.name in ("resolution", "device", "dtype", "backend", "quantize") else f"{each.name} {text}"
            )
    return said


_TOLD_ELSEWHERE = ("embedder", "options", "tiles", "reduce", "vilt", "linear")
"""Fields that the label or other fields tell."""


@cache
def _usual() -> Case:
    """Returns a case of which nothing but the embedder was asked."""
    return Case("patch32")


def _unmistakable(value: Option) -> Option:
    """Returns a text that reads as another value, or as another option, in quotes."""
    mistakable = isinstance(value, str) and ("," in value or "'" in value or parse_option(value) != value)
    return repr(value) if mistakable else value


def command_line(case: Case, command: str) -> str:
    """Returns how a case is asked for on the command line; defaults, and what it does not take, are left out.

    Args:
        case: as it was asked for.
        command: `run`, or another that takes cases.
    """
    usual = Case(case.embedder)
    words = ["vilt-bench", command, "--embedder", label(case)]
    for part, plain in ((case, usual), (case.vilt, usual.vilt)):
        for each in fields(part):
            value = getattr(part, each.name)
            if each.name in _NO_FLAGS or value == getattr(plain, each.name):
                continue
            match each.name:
                case "images":
                    words += ["--image", *value]
                case "frames":
                    words += ["--frames", str(write_frames(case.frames, case.frame_rate))]
                case "preprocessing":
                    words.append("--with-preprocessing")
                case "pin_memory":
                    words.append("--pin-memory")
                case "resolution":
                    words += ["--resolution", "x".join(map(str, value))]
                case name:
                    words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


_NO_FLAGS = frozenset({*_TOLD_ELSEWHERE, "frame_rate", "vocabulary", "image_positions", "layer_norm_eps"})
"""Fields that a case's label or another field tells, and those of Python only."""


def _is_asked(value: object) -> bool:
    """Returns whether something is asked for that is neither a number that is not given nor a flag that is not set."""
    return value is not None and value is not False


def without_preprocessing(case: Case) -> Case:
    """Returns a case whose passes see images of the same sizes, and that has nothing to prepare of its own.

    Where the tower's processor decides of sizes, it does so still.
    """
    decides = case.processor_kind is not None
    return replace(
        case,
        preprocessing=decides,
        preprocessor=case.preprocessor if decides else PILLOW,
        preprocessing_workers=None,
        pin_memory=False,
        decoder=None,
    )


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"must be one of {', '.join(choices)}; got {value!r}", field=field)


def _check_count(field: str, value: int, *, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigError(f"must be between {least} and {most}, got {value}", field=field)
