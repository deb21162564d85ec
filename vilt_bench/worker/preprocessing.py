"""Preprocessing as stages of a pass: from the bytes of image files to the batch that a visual embedder takes.

Decoding and resizing are Pillow's, on one thread, as in Hugging Face's and timm's preprocessing; a JPEG is decoded in
full, without its decoder's reduced sizes. Reading the files from disk is left out: their bytes are in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from vilt_bench.ask.case import Fit
from vilt_bench.ask.images import SizeRule, decode, describe_file, resize
from vilt_bench.embedding import Chain, ImageBatch, Mark
from vilt_bench.record.run import Component

PREPROCESSING: Component = "preprocessing"
"""What the names of its stages begin with."""


class Encoded(NamedTuple):
    """Image files in memory."""

    files: tuple[bytes, ...]


class Decoded(NamedTuple):
    """Images as Pillow has them, RGB and upright."""

    images: tuple[Image.Image, ...]


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


class Preprocessing(Chain):
    """A chain from `Encoded` to `ImageBatch`, without parameters."""

    def __init__(self, target: Target, paths: Sequence[str], *, device: torch.device, dtype: torch.dtype) -> None:
        """Chain the stages; with a copy to the device where it is not the host's own.

        Args:
            target: what the model takes.
            paths: of the images, for notes.
            device: where the batch is to be.
            dtype: of the pixels.
        """
        on_host = device.type == "cpu"
        stages: dict[str, nn.Module] = {
            "decode": Decode(),
            "resize": Resize(target),
            "normalise": Normalise(target, dtype=dtype if on_host else torch.float32),
        }
        if not on_host:
            stages["transfer"] = Transfer(device, dtype)
        super().__init__(stages)
        self.notes = {"decode": f"{', '.join(map(describe_file, paths))}; by Pillow, files in memory, one thread"}

    if TYPE_CHECKING:

        def __call__(self, inputs: Encoded, mark: Mark | None = None) -> ImageBatch:
            """Returns the images as the model takes them."""


class Decode(nn.Module):
    """Decodes the files to RGB, upright."""

    def forward(self, encoded: Encoded) -> Decoded:
        """Returns the images, fully decoded."""
        return Decoded(tuple(map(decode, encoded.files)))


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
        return batch._replace(pixels=batch.pixels.to(self.dtype))


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
        return ImageBatch(images.pixels.to(self.device, self.dtype), mask)


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
