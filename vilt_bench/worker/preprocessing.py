"""Preprocessing as stages of a pass: from the bytes of image files to the batch that a visual embedder takes.

Who resizes and normalises is the case's preprocessor, who decodes its decoder; all on one process, as the libraries do
it by default. A JPEG is decoded in full, without its decoder's reduced sizes. Reading the files from disk is left out:
their bytes are in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from vilt_bench.ask.case import PILLOW, PROCESSOR, TORCHVISION, Fit
from vilt_bench.ask.clips import describe_clip, sample_encoded
from vilt_bench.ask.images import SizeRule, cut, describe_file, fitted_size, resize
from vilt_bench.ask.tiles import Scheme
from vilt_bench.embedding import Chain, ImageBatch, Mark, Processor
from vilt_bench.errors import InputError
from vilt_bench.record.run import Component
from vilt_bench.worker.decoders import Decoder, find_decoder

PREPROCESSING: Component = "preprocessing"
"""What the names of its stages begin with."""
OWN_DECODER = {PILLOW: "pillow", TORCHVISION: "torchvision", PROCESSOR: "pillow"}
"""By preprocessor: who decodes where nobody else is asked for, as the libraries' own documentation has it."""

OF_CLIPS = "pyav"
"""Who decodes clips."""


class Encoded(NamedTuple):
    """Image files in memory."""

    files: tuple[bytes, ...]


class Decoded(NamedTuple):
    """Images, RGB and upright: Pillow's, or [3, h, w] uint8."""

    images: tuple[Any, ...]


class Processed(NamedTuple):
    """What a processor made of images, as the model in its library takes it."""

    output: Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """What a model takes."""

    resolution: tuple[int, int]
    """(height, width) in pixels, as of `Case.resolution`."""
    size_divisor: int
    fit: Fit
    canvas: tuple[int, int]
    """(height, width) of the batch, padding included, in pixels."""
    masked: bool
    """Whether images differ in size, and batches have a mask."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    native: SizeRule | None = None
    """Of sizes where the fit is native; `None`: the images' own."""
    frames: int | None = None
    """Of each clip; `None`: the files are images."""
    frame_rate: float | None = None
    """At which they are taken; `None`: evenly."""
    scheme: Scheme | None = None
    """By which images are cut into tiles; `None`: they stay whole."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the (height, width) that it takes of an image's."""
        return fitted_size(
            height,
            width,
            resolution=self.resolution,
            size_divisor=self.size_divisor,
            fit=self.fit,
            native=self.native,
        )


class Preprocessing(Chain):
    """A chain from `Encoded` to `ImageBatch`, without parameters."""

    def __init__(
        self,
        target: Target,
        paths: Sequence[str],
        *,
        device: torch.device,
        dtype: torch.dtype,
        preprocessor: str = PILLOW,
        decoder: str | None = None,
        processor: Processor | None = None,
    ) -> None:
        """Chain the stages; with a copy to the device where it is not the host's own.

        Args:
            target: what the model takes.
            paths: of the images, for notes.
            device: where the batch is to be.
            dtype: of the pixels.
            preprocessor: one of `ask.case.PREPROCESSORS`.
            decoder: one of `ask.case.DECODERS`; `None`: the preprocessor's own.
            processor: the tower's own, where that is the preprocessor.

        Raises:
            ConfigError: the decoder's package is not installed.
        """
        on_host = device.type == "cpu"
        decodes = find_decoder(decoder or (OWN_DECODER[preprocessor] if target.frames is None else OF_CLIPS))
        on_cpu = dtype if on_host else torch.float32
        stages: dict[str, nn.Module] = {
            "decode": Decode(decodes, to=preprocessor)
            if target.frames is None
            else DecodeClips(target, to=preprocessor)
        }
        if preprocessor == PROCESSOR:
            assert processor is not None
            stages |= {"processor": Process(processor), "collate": Collate(processor, target, dtype=on_cpu)}
            who = processor.description
        elif preprocessor == TORCHVISION:
            stages |= {"resize": TorchvisionResize(target), "normalise": TorchvisionNormalise(target, dtype=on_cpu)}
            who = f"torchvision {version('torchvision')}"
        else:
            if target.scheme is None or target.fit != "native":
                stages["resize"] = Resize(target)
            if target.scheme is not None:
                stages["tile"] = Tile(target.scheme, mean=target.mean)
            stages["normalise"] = Normalise(target, dtype=on_cpu)
            who = f"Pillow {version('pillow')}"
        if not on_host:
            stages["transfer"] = Transfer(device, dtype)
        super().__init__(stages)
        self.decoder = decodes
        self.description = who if decodes.description in who else f"{who}, decoded by {decodes.description}"
        """Who prepares the images, with versions."""
        described = ", ".join(map(describe_file if target.frames is None else describe_clip, paths))
        self.notes = {"decode": f"{described}; by {decodes.description}, files in memory, one thread"}
        if processor is not None and processor.packs:
            self.notes["collate"] = (
                "puts the processor's patches together to images again, which the tower here cuts itself"
            )

    def on_host(self) -> list[nn.Module]:
        """Returns the stages up to the batch in the CPU's memory."""
        return [stage for name, stage in self.stages.items() if name != "transfer"]

    if TYPE_CHECKING:

        def __call__(self, inputs: Encoded, mark: Mark | None = None) -> ImageBatch:
            """Returns the images as the model takes them."""


def check_decoder(decoder: Decoder, content: bytes, size: tuple[int, int], name: str) -> None:
    """Refuse a file that a decoder can't read, or reads as another image.

    Args:
        decoder: any.
        content: of the file.
        size: upright (height, width) in pixels.
        name: what messages call the image.

    Raises:
        InputError: it can't.
    """
    try:
        found = _size(decoder.decode(content))
    except Exception as error:  # whatever a library objects to
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{name} can't be decoded by {decoder.title} ({reason}); give `decoder` pillow") from error
    if found != size:
        raise InputError(
            f"{name} is {found[0]}x{found[1]} pixels to {decoder.title}, which does not turn it upright; give "
            "`decoder` pillow"
        )


def _size(image: Any) -> tuple[int, int]:
    return (image.height, image.width) if isinstance(image, Image.Image) else (image.shape[1], image.shape[2])


class Decode(nn.Module):
    """Decodes the files to RGB, upright."""

    def __init__(self, decoder: Decoder, *, to: str = PILLOW) -> None:
        """Remember who decodes, and whose images are wanted; a processor takes any."""
        super().__init__()
        self.decoder = decoder
        self.to_image, self.to_tensor = to == PILLOW, to == TORCHVISION

    def forward(self, encoded: Encoded) -> Decoded:
        """Returns the images, fully decoded."""
        images = map(self.decoder.decode, encoded.files)
        if self.to_image:
            return Decoded(tuple(map(_as_image, images)))
        return Decoded(tuple(map(_as_tensor, images) if self.to_tensor else images))


def _as_image(image: Any) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def _as_tensor(image: Any) -> Tensor:
    return to_tensor(image) if isinstance(image, Image.Image) else image


class DecodeClips(nn.Module):
    """Decodes the frames of clips that are asked for, and what they need of others, to RGB, upright."""

    def __init__(self, target: Target, *, to: str = PILLOW) -> None:
        """Remember which, and whose images are wanted."""
        super().__init__()
        self.target = target
        self.to_tensor = to == TORCHVISION

    def forward(self, encoded: Encoded) -> Decoded:
        """Returns the frames, clip by clip."""
        assert self.target.frames is not None
        frames: list[Any] = []
        for file in encoded.files:
            frames += sample_encoded(file, self.target.frames, self.target.frame_rate).images
        return Decoded(tuple(map(to_tensor, frames) if self.to_tensor else frames))


class Resize(nn.Module):
    """Resizes to the size that the model takes, bicubic."""

    def __init__(self, target: Target) -> None:
        """Remember the size."""
        super().__init__()
        self.target = target

    def forward(self, decoded: Decoded) -> Decoded:
        """Returns the resized images."""
        target = self.target
        return Decoded(
            tuple(
                resize(
                    image,
                    resolution=target.resolution,
                    size_divisor=target.size_divisor,
                    fit=target.fit,
                    native=target.native,
                )
                for image in decoded.images
            )
        )


class Tile(nn.Module):
    """Cuts images into tiles: resizes and pads them as the scheme has it, bilinear, bicubic or Lanczos."""

    def __init__(self, scheme: Scheme, *, mean: tuple[float, float, float]) -> None:
        """Remember the scheme, and the colour of padding."""
        super().__init__()
        self.scheme = scheme
        self.mean = mean

    def forward(self, decoded: Decoded) -> Decoded:
        """Returns the tiles of all images."""
        return Decoded(tuple(tile for image in decoded.images for tile in cut(image, self.scheme, mean=self.mean)))


class Normalise(nn.Module):
    """Makes normalised tensors of the images and pads them to a batch."""

    def __init__(self, target: Target, *, dtype: torch.dtype) -> None:
        """Remember mean, deviation and size."""
        super().__init__()
        self.target = target
        self.dtype = dtype

    def forward(self, decoded: Decoded) -> ImageBatch:
        """Returns the batch, on the CPU."""
        target = self.target
        images = [to_tensor(image) for image in decoded.images]
        batch = batch_images(images, canvas=target.canvas, masked=target.masked, mean=target.mean, std=target.std)
        return batch._replace(pixels=batch.pixels.to(self.dtype), frames=target.frames)


class TorchvisionResize(nn.Module):
    """Resizes to the size that the model takes by torchvision's transforms: bicubic, antialiased, on uint8."""

    def __init__(self, target: Target) -> None:
        """Remember the size."""
        super().__init__()
        self.target = target

    def forward(self, decoded: Decoded) -> Decoded:
        """Returns the resized images."""
        return Decoded(tuple(map(self._resized, decoded.images)))

    def _resized(self, image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        height, width = image.shape[-2:]
        goal = size = self.target.size(height, width)
        if self.target.fit in ("crop", "exact"):  # what sticks out is cut off, evenly at both sides
            scale = max(goal[0] / height, goal[1] / width)
            size = (max(goal[0], round(scale * height)), max(goal[1], round(scale * width)))
        resized: Tensor = functional.resize(
            image, list(size), interpolation=functional.InterpolationMode.BICUBIC, antialias=True
        )
        return resized if size == goal else functional.center_crop(resized, list(goal))


class TorchvisionNormalise(nn.Module):
    """Makes normalised tensors by torchvision's transforms and pads them to a batch."""

    def __init__(self, target: Target, *, dtype: torch.dtype) -> None:
        """Remember mean, deviation and size."""
        super().__init__()
        self.target = target
        self.dtype = dtype

    def forward(self, decoded: Decoded) -> ImageBatch:
        """Returns the batch, on the CPU."""
        from torchvision.transforms.v2 import functional

        target = self.target
        images = [
            functional.normalize(
                functional.to_dtype(image, torch.float32, scale=True), list(target.mean), list(target.std), inplace=True
            )
            for image in decoded.images
        ]
        return padded(images, target, dtype=self.dtype)


class Process(nn.Module):
    """Runs the tower's own processor: it resizes, normalises, and may cut images to patches."""

    def __init__(self, processor: Processor) -> None:
        """Remember the processor."""
        super().__init__()
        self.processor = processor

    def forward(self, decoded: Decoded) -> Processed:
        """Returns what it makes of the images."""
        return Processed(dict(self.processor(decoded.images)))


class Collate(nn.Module):
    """Makes a batch of what a processor returns."""

    def __init__(self, processor: Processor, target: Target, *, dtype: torch.dtype) -> None:
        """Remember whose output it is, and what the model takes."""
        super().__init__()
        self.processor = processor
        self.target = target
        self.dtype = dtype

    def forward(self, processed: Processed) -> ImageBatch:
        """Returns the batch; what no whole stride of the embedder is left of is cut off, as convolutions do."""
        divisor = self.target.size_divisor
        images = [
            image[:, : image.shape[1] // divisor * divisor, : image.shape[2] // divisor * divisor]
            for image in self.processor.pixels(processed.output)
        ]
        return padded(images, self.target, dtype=self.dtype)


def padded(images: Sequence[Tensor], target: Target, *, dtype: torch.dtype) -> ImageBatch:
    """Returns normalised images [3, h, w] as a batch, padded at the bottom and right with zeros."""
    if not target.masked:
        return ImageBatch(torch.stack(list(images)).to(dtype), frames=target.frames)
    pixels = torch.zeros(len(images), 3, *target.canvas, dtype=dtype)
    mask = torch.zeros(len(images), *target.canvas, dtype=torch.bool)
    for row, image in enumerate(images):
        height, width = image.shape[-2:]
        pixels[row, :, :height, :width] = image
        mask[row, :height, :width] = True
    return ImageBatch(pixels, mask, target.frames)


class Transfer(nn.Module):
    """Copies the batch to the device, in the model's precision."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """Remember where to."""
        super().__init__()
        self.device = device
        self.dtype = dtype

    def forward(self, images: ImageBatch) -> ImageBatch:
        """Returns the batch there."""
        mask = None if images.mask is None else images.mask.to(self.device)
        return images._replace(pixels=images.pixels.to(self.device, self.dtype), mask=mask)


def to_tensor(image: Image.Image) -> Tensor:
    """Returns an RGB image as [3, h, w] uint8."""
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, 3).permute(2, 0, 1)


def batch_images(
    images: Sequence[Tensor],
    *,
    canvas: tuple[int, int],
    masked: bool,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> ImageBatch:
    """Returns the images, each [3, h, w] uint8, normalised and padded at the bottom and right with zeros, as float32.

    Args:
        images: of the batch.
        canvas: (height, width) of the batch.
        masked: whether to make a mask.
        mean: of the normalisation, for RGB in 0 to 1.
        std: likewise.
    """
    pixels = torch.zeros(len(images), 3, *canvas)
    mask = torch.zeros(len(images), *canvas, dtype=torch.bool) if masked else None
    shift, scale = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    for row, image in enumerate(images):
        _, h, w = image.shape
        pixels[row, :, :h, :w] = (image / 255 - shift) / scale
        if mask is not None:
            mask[row, :h, :w] = True
    return ImageBatch(pixels, mask)
