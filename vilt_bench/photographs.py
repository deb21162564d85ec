"""Reads photographs and resizes them as ViLT does: files in, RGB images out; no torch."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from vilt_bench import files
from vilt_bench.config import SYNTHETIC, Fit
from vilt_bench.errors import FileError, InputError

BUNDLED = ("china.jpg", "flower.jpg")
"""Two photographs of 427×640 pixels that come with scikit-learn."""


def find_images(images: Sequence[str]) -> tuple[str, ...]:
    """Returns the paths of the images to read: the given ones, or scikit-learn's two photographs if there are none.

    Raises:
        InputError: scikit-learn's photographs are not there, or noise is mixed with files.
    """
    if SYNTHETIC in images and len(images) > 1:
        raise InputError(f"--image {SYNTHETIC} is noise and can't be mixed with files; give one or the other")
    if images:
        return tuple(images)
    # The package's folder is looked up, not imported: importing scikit-learn takes a second.
    package = importlib.util.find_spec("sklearn")
    for location in (package.submodule_search_locations or ()) if package else ():
        paths = [Path(location) / "datasets" / "images" / name for name in BUNDLED]
        if all(map(files.is_file, paths)):
            return tuple(map(str, paths))
    raise InputError("scikit-learn's photographs are not installed; install scikit-learn, or give --image PATH")


def check_images(images: Sequence[str]) -> None:
    """Refuse, before any process is started, images that can't be opened; only their headers are read.

    Raises:
        InputError: an image is missing, not a file, not readable, not an image, or too large.
    """
    for path in find_images(images):
        if path != SYNTHETIC:
            with _opened(path):
                pass


def read_image(path: str) -> Image.Image:
    """Returns the image as RGB, upright, fully read; of an animated one the first frame.

    Transparency is dropped; 16-bit gray is scaled to 8 bits.

    Raises:
        InputError: the file is missing, not a file, not readable, not an image, truncated, or too large.
    """
    with _opened(path) as image:
        if image.mode == "F":
            raise InputError(
                f"image {path!r} has floating-point pixels of unknown range; save it with 8 bits a channel"
            )
        return upright_rgb(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Returns an opened image as RGB, upright, fully read; 16-bit gray is scaled to 8 bits."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        upright = upright.convert("I").point(lambda value: value * (1 / 257)).convert("L")  # 65535 / 255 = 257
    if "transparency" in upright.info:
        upright = upright.convert("RGBA")
    return upright.convert("RGB")


def target_size(
    height: int, width: int, *, resolution: tuple[int, int], size_divisor: int, name: str = "the image"
) -> tuple[int, int]:
    """Returns the (height, width) that an image is resized to with its aspect kept, but for rounding.

    The shorter edge becomes the resolution's shorter one; if the longer edge then exceeds the resolution's longer
    one, both shrink; both are floored to multiples of the divisor.

    Args:
        height: of the image, in pixels.
        width: likewise.
        resolution: the target of the shorter edge and the limit of the longer one, in either order.
        size_divisor: what both edges are to be multiples of, in pixels.
        name: what messages call the image.

    Raises:
        InputError: an edge would be shorter than the divisor.

    Source: ViLT paper, section 4.2; ViLT's image processor.
    """
    _check_divisor(resolution, size_divisor)
    shorter, longer = min(resolution), max(resolution)
    scale = shorter / min(height, width)
    # In this order of rounding, since the scaled edges are floored: a last-bit difference can cost a whole multiple.
    new_height, new_width = (shorter, scale * width) if height < width else (scale * height, shorter)
    if max(new_height, new_width) > longer:
        scale = longer / max(new_height, new_width)
        new_height, new_width = scale * new_height, scale * new_width
    rows, columns = int(new_height + 0.5) // size_divisor, int(new_width + 0.5) // size_divisor
    if not (rows and columns):
        raise InputError(
            f"{name} of {height}x{width} pixels is too long: at resolution {resolution[0]}x{resolution[1]} its shorter "
            f"edge falls below the embedder's stride of {size_divisor}; use --fit crop"
        )
    return rows * size_divisor, columns * size_divisor


def crop_size(resolution: tuple[int, int], *, size_divisor: int) -> tuple[int, int]:
    """Returns the (height, width) of the resolution, floored to multiples of the divisor.

    Raises:
        InputError: an edge is shorter than the divisor.
    """
    _check_divisor(resolution, size_divisor)
    height, width = resolution
    return height // size_divisor * size_divisor, width // size_divisor * size_divisor


def resize(
    image: Image.Image, *, resolution: tuple[int, int], size_divisor: int, fit: Fit, name: str = "the image"
) -> Image.Image:
    """Returns the image resized (bicubic) to fit the resolution.

    `aspect` keeps the whole image, see `target_size`; `crop` and `exact` cover the resolution, the former cut to
    multiples, see `crop_size`; what sticks out is cut off evenly at both sides. `native` keeps the image's own size,
    floored to the multiples.

    Raises:
        InputError: an edge would be shorter than the divisor.
    """
    if fit == "native":
        resolution = (image.height, image.width)
        if min(resolution) < size_divisor:
            raise InputError(
                f"{name} of {image.height}x{image.width} pixels is smaller than the embedder's stride or patch of "
                f"{size_divisor} pixels; give --resolution HxW instead of native"
            )
        height, width = crop_size(resolution, size_divisor=size_divisor)
        return image.resize((width, height), Image.Resampling.BICUBIC)
    if fit != "aspect":
        height, width = crop_size(resolution, size_divisor=size_divisor if fit == "crop" else 1)
        return ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)
    height, width = target_size(image.height, image.width, resolution=resolution, size_divisor=size_divisor, name=name)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _check_divisor(resolution: tuple[int, int], size_divisor: int) -> None:
    if min(resolution) < size_divisor:
        raise InputError(
            f"--resolution {resolution[0]}x{resolution[1]} is smaller than the embedder's stride or patch of "
            f"{size_divisor} pixels; each edge must be at least {size_divisor}"
        )


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """Opens an image, and turns all that can go wrong with it, here or in the block, into one line."""
    try:
        _check_is_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is twice that: an error
            warnings.simplefilter("ignore", UserWarning)  # damaged metadata, which nothing here uses
            with Image.open(path) as image:
                if 0 in image.size:
                    raise InputError(f"image {path!r} has no pixels ({image.height}x{image.width})")
                yield image
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        reason = str(error).partition(",")[0]
        raise InputError(f"image {path!r} is too large ({reason}); scale it below {limit} pixels") from None
    except UnidentifiedImageError:
        raise InputError(f"{path!r} is not an image in a format that Pillow reads; give a JPEG or PNG file") from None
    except Exception as error:  # Pillow's decoders raise all kinds of exceptions on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"image {path!r} is damaged or unsupported ({reason}); give a whole JPEG or PNG file"
        ) from None


def _check_is_file(path: str) -> None:
    try:
        size = files.check_regular(path)  # opening a pipe would wait for a writer
    except FileError as error:
        if error.missing:
            raise InputError(f"no image {path!r}; give the path of an image file") from None
        if files.is_folder(path):
            raise InputError(f"{path!r} is a folder; give the image files in it") from None
        raise InputError(f"image {error}; give an image file that can be read") from None
    if size == 0:
        raise InputError(f"image {path!r} is empty; give an image file")
    if size > files.LARGEST_BYTES:
        raise InputError(f"image {path!r} is larger than a GiB; give a smaller file")
