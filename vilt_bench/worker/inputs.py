"""Makes the input of a case: a few batches of photographs or noise, and of token ids, of equal shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vilt_bench import files
from vilt_bench.ask.case import ALONE, PROCESSOR, SYNTHETIC, Case, Fit
from vilt_bench.ask.clips import clip_size, input_paths, sample_clip, shortcomings
from vilt_bench.ask.images import (
    crop_size,
    cut,
    fitted_size,
    image_size,
    read_encoded,
    read_image,
    resize,
)
from vilt_bench.embedding import ImageBatch, Processor, TextBatch
from vilt_bench.worker.cutting import MOST_BATCHES, Cutting
from vilt_bench.worker.preprocessing import Encoded, Preprocessing, Target, batch_images, check_decoder, to_tensor

BATCHES = 4
"""Passes take these in turn: a single buffer would measure the cache."""

# BERT's vocabulary: below, padding, unused places and special tokens.
_CLS, _SEP, _FIRST_WORD = 101, 102, 999


@dataclass(frozen=True)
class Inputs:
    """What the passes of a case take in turn."""

    batches: tuple[tuple[ImageBatch, TextBatch], ...]
    """All of the same shapes, with different content."""
    names: tuple[str, ...]
    """Of the images' files, or `synthetic`."""
    text: str
    """What the text is."""
    resolution: tuple[int, int]
    """(height, width) of the pixels, padding included."""
    notes: tuple[str, ...] = ()
    """What a reader must know of them, one sentence each."""
    preprocessing: Preprocessing | None = None
    """Where it is a part of the pass: what makes the images of a batch from its files."""
    encoded: tuple[Encoded, ...] = ()
    """The files of each batch, then."""
    loading: Preprocessing | None = None
    """What prepares batches within the pass or beside it; `None`: nothing does."""
    fit: Fit | None = None
    """How photographs were fitted; `None`: noise has no size of its own to fit."""
    cutting: Cutting | None = None
    """Into tiles; `None`: images are whole."""


def least_bytes(
    case: Case,
    *,
    resolution: tuple[int, int],
    size_divisor: int,
    dtype: torch.dtype,
    processor: Processor | None = None,
    cutting: Cutting | None = None,
) -> tuple[int, int]:
    """Returns how many bytes `make_inputs` takes at least: of the device, and beside them of the host.

    Args:
        case: as for `make_inputs`; likewise below.
        resolution: (height, width) in pixels.
        size_divisor: what both edges are multiples of, in pixels.
        dtype: of the pixels.
        processor: whose sizes are the native ones; `None`: the images' own are.
        cutting: into tiles, of images that were fitted to the resolution; `None`: they stay whole.

    Raises:
        InputError: an image can't be read, or does not fit the resolution.
    """
    paths = input_paths(case)[: MOST_BATCHES * case.images_per_pass]
    if paths == (SYNTHETIC,):
        sizes = [crop_size(resolution, size_divisor=1 if case.fit == "exact" else size_divisor)]
        images = BATCHES * case.images_per_pass
    else:
        sizes = [
            fitted_size(
                *(image_size(path) if case.frames is None else clip_size(path)),
                resolution=resolution,
                size_divisor=size_divisor,
                fit=case.fit,
                native=None if processor is None else processor.size,
                name=_named(path, case),
            )
            for path in paths
        ]
        images = len(sizes)
    scalars = (case.frames or 1) * 3 * max(height for height, _ in sizes) * max(width for _, width in sizes)
    if cutting is not None:
        scalars = 3 * cutting.tiling.count * cutting.tiling.edge**2
    count = max(BATCHES, math.ceil(images / case.images_per_pass))
    texts = 8 * case.batch_size * text_length(case)
    on_device = count * (case.images_per_pass * scalars * dtype.itemsize + texts)
    return on_device, images * scalars + case.images_per_pass * scalars * torch.float32.itemsize


def text_length(case: Case) -> int:
    """Returns how many text tokens the passes of a case have; those of an embedder alone have none."""
    return 0 if case.interaction == ALONE else case.text_length


def make_inputs(
    case: Case,
    *,
    resolution: tuple[int, int],
    size_divisor: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    device: torch.device,
    dtype: torch.dtype,
    vocabulary: int,
    processor: Processor | None = None,
    cutting: Cutting | None = None,
) -> Inputs:
    """Returns the inputs of a case, read in full, normalised and on the device.

    The images are taken cyclically over all batches, mirrored from the second round on, so that content repeats
    late. Where their sizes differ, all are padded with zeros at the bottom and right to the largest, with a mask.

    Args:
        case: names the images, how many a pass and a text have, the text length and the seed.
        resolution: (height, width) in pixels; see `Case.resolution`.
        size_divisor: what both edges are multiples of, in pixels.
        mean: of the normalisation, for RGB in 0 to 1.
        std: likewise.
        device: where the batches are put.
        dtype: of the pixels.
        vocabulary: how many token ids there are.
        processor: whose sizes are the native ones; `None`: the images' own are.
        cutting: into tiles, of images that were fitted to the resolution; `None`: they stay whole.

    Raises:
        InputError: an image can't be read, or does not fit the resolution.
    """
    notes = []
    kind = "images" if case.frames is None else "clips"
    rule = None if processor is None else processor.size
    paths = input_paths(case)
    if len(paths) > (most := MOST_BATCHES * case.images_per_pass):
        notes.append(f"Of {len(paths)} {kind} the first {most} were used, as many as are kept on the device.")
        paths = paths[:most]
    if paths == (SYNTHETIC,):
        size = crop_size(resolution, size_divisor=1 if case.fit == "exact" else size_divisor)
        generator = torch.Generator().manual_seed(case.seed)
        shape = (3, *size) if case.frames is None else (case.frames, 3, *size)
        if cutting is not None:
            shape = (cutting.tiling.count, 3, cutting.tiling.edge, cutting.tiling.edge)
        images = [
            torch.randint(256, shape, dtype=torch.uint8, generator=generator)
            for _ in range(BATCHES * case.images_per_pass)
        ]
    else:
        if processor is not None and case.processor_kind is None:
            notes.append(f"Native sizes are those that {processor.description} makes of the images'.")

        def fitted(image: Image.Image, path: str) -> Tensor:
            name = _named(path, case)
            image = resize(
                image, resolution=resolution, size_divisor=size_divisor, fit=case.fit, native=rule, name=name
            )
            if cutting is None:
                return to_tensor(image)
            return torch.stack([to_tensor(tile) for tile in cut(image, cutting.scheme, mean=mean)])

        images = []
        for path in paths:
            if case.frames is None:
                images.append(fitted(read_image(path), path))
                continue
            sampled = sample_clip(path, case.frames, case.frame_rate)
            notes += shortcomings(path, sampled)
            images.append(torch.stack([fitted(frame, path) for frame in sampled.images]))
    texts = torch.Generator().manual_seed(case.seed)
    # More than the usual number of batches where it takes them to see every image.
    per_pass = case.images_per_pass
    count = max(BATCHES, math.ceil(len(images) / per_pass))
    batches = []
    for index in range(count):
        image_batch = _image_batch(images, first=index * per_pass, batch_size=per_pass, mean=mean, std=std)
        token_ids = _token_ids(case.batch_size, text_length(case), vocabulary=vocabulary, generator=texts)
        mask = None if image_batch.mask is None else image_batch.mask.to(device)
        pixels = image_batch.pixels.to(device, dtype)
        batches.append((ImageBatch(pixels, mask, case.frames), TextBatch(token_ids.to(device))))
    height, width = batches[0][0].pixels.shape[-2:]
    if batches[0][0].mask is not None:
        notes.append(
            f"The {kind} differ in size: padded to {height}×{width} pixels, attention masked; "
            "--fit crop, or one size for all, avoids that."
        )
    is_loaded = case.preprocessing or case.preprocessing_workers is not None
    loading = (
        _preprocessing(
            case,
            Target(
                resolution=resolution,
                size_divisor=size_divisor,
                fit=case.fit,
                native=rule,
                scheme=None if cutting is None else cutting.scheme,
                canvas=(height, width),
                masked=batches[0][0].mask is not None,
                mean=mean,
                std=std,
                frames=case.frames,
                frame_rate=case.frame_rate,
            ),
            paths,
            device=device,
            dtype=dtype,
            processor=processor,
        )
        if is_loaded
        else None
    )
    return Inputs(
        batches=tuple(batches),
        names=tuple(Path(path).name for path in paths),
        text="none" if case.interaction == ALONE else "synthetic token ids",
        resolution=(height, width),
        notes=tuple(notes),
        preprocessing=loading if case.preprocessing else None,
        encoded=() if loading is None else _encoded(paths, case, count),
        loading=loading,
        cutting=cutting,
        fit=None if paths == (SYNTHETIC,) else case.fit,
    )


def _preprocessing(
    case: Case,
    target: Target,
    paths: Sequence[str],
    *,
    device: torch.device,
    dtype: torch.dtype,
    processor: Processor | None,
) -> Preprocessing:
    """Returns what prepares the images, checked on each of the files.

    Raises:
        ConfigError: a package that it needs is not installed.
        InputError: the decoder can't read a file, or the processor makes images that the embedder does not take.
    """
    name = case.preprocessor.partition(":")[0]
    made = Preprocessing(
        target,
        paths,
        device=device,
        dtype=dtype,
        preprocessor=name,
        decoder=case.decoder,
        processor=processor if name == PROCESSOR else None,
    )
    if (decoder := made.decoder).package != "PIL" and case.frames is None:
        for path in paths:
            check_decoder(decoder, read_encoded(path), image_size(path), f"image {path!r}")
    return made


def _named(path: str, case: Case) -> str:
    return f"{'image' if case.frames is None else 'clip'} {path!r}"


def _encoded(paths: Sequence[str], case: Case, count: int) -> tuple[Encoded, ...]:
    """Returns the files of each batch: all in turn, as often as it takes."""
    contents = list(map(read_encoded if case.frames is None else files.read_bytes, paths))
    size = case.images_per_pass
    return tuple(
        Encoded(tuple(contents[(index * size + row) % len(contents)] for row in range(size))) for index in range(count)
    )


def _image_batch(
    images: list[Tensor],
    *,
    first: int,
    batch_size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> ImageBatch:
    """Returns the images `first` to `first + batch_size` of the endless cycle, as float32, in all their parts."""
    rows = (divmod(first + row, len(images)) for row in range(batch_size))
    taken = [_mirrored(images[index], cycle) for cycle, index in rows]
    return batch_images(
        [part for image in taken for part in (image.unbind() if image.ndim == 4 else (image,))],
        canvas=(max(image.shape[-2] for image in images), max(image.shape[-1] for image in images)),
        # By all images, not this batch's: with and without a mask are different work.
        masked=len({image.shape for image in images}) > 1,
        mean=mean,
        std=std,
    )


def _mirrored(image: Tensor, cycle: int) -> Tensor:
    """Returns the image [3, h, w], its tiles or a clip, mirrored left-right, top-bottom, both or not, in turn."""
    return image.flip([edge for edge, bit in ((-1, 1), (-2, 2)) if cycle & bit])


def _token_ids(batch_size: int, length: int, *, vocabulary: int, generator: torch.Generator) -> Tensor:
    """Returns random words between [CLS] and [SEP], [B, L]; in a vocabulary too small for BERT's, random ids only."""
    if not length:
        return torch.empty(batch_size, 0, dtype=torch.int64)
    if vocabulary <= _FIRST_WORD:
        return torch.randint(vocabulary, (batch_size, length), generator=generator)
    token_ids = torch.randint(_FIRST_WORD, vocabulary, (batch_size, length), generator=generator)
    token_ids[:, 0], token_ids[:, -1] = _CLS, _SEP
    return token_ids
