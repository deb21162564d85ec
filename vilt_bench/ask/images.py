"""Reads photographs and resizes them as ViLT does: files in, RGB images out; no torch."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vilt_bench import files
from vilt_bench.ask.case import SYNTHETIC, Fit
from vilt_bench.ask.png import essential_png
from vilt_bench.ask.tiles import Picture, Scheme
from vilt_bench.errors import FileError, InputError

T = TypeVar("T")

BUNDLED = ("hopper-upper.jpg", "hopper-lower.jpg")
"""Two photographs of 427×640 pixels that come with this package.

They are the upper and the lower 342 rows of `grace_hopper.jpg` in matplotlib's sample data, a photograph by the United
States Navy in the public domain, enlarged to the size of scikit-learn's, which earlier records were measured on.
"""
SCIKIT_LEARNS = ("china.jpg", "flower.jpg")
"""Two photographs of 427×640 pixels that come with scikit-learn, and were the usual ones of earlier records."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the value of EXIF's orientation: what turns the image upright.

Source: Exif 2.32, tag 274, "Orientation".
"""
_ON_ITS_SIDE = (5, 6, 7, 8)
_UNSIGNED_16_BITS = ("PNG", "TIFF", "PPM", "JPEG2000")
"""Formats of gray images whose white is known to be the largest number of 16 bits, or Pillow scales it to that."""

# Of TIFF: tags, and what their values mean (TIFF 6.0, sections 4 and 19).
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2


def find_images(images: Sequence[str]) -> tuple[str, ...]:
    """Returns the paths of the images to read: the given ones, or the two that come along if there are none.

    A photograph that comes along, or with scikit-learn, is known by its name where no file in the folder has it.

    Raises:
        InputError: one of scikit-learn's photographs is asked for and not there, or noise is mixed with files.
    """
    if SYNTHETIC in images and len(images) > 1:
        raise InputError(f"`images` {SYNTHETIC} is noise and can't be mixed with files; give one or the other")
    return tuple(_found(image) for image in images or BUNDLED)


def _found(image: str) -> str:
    """Returns the path of an image that may be a known photograph's name."""
    if image not in (*BUNDLED, *SCIKIT_LEARNS) or files.is_file(Path(image)):
        return image
    if image in BUNDLED:
        return str(Path(__file__).with_name("photographs") / image)
    # The package's folder is looked up, not imported: importing scikit-learn takes a second.
    package = importlib.util.find_spec("sklearn")
    for location in (package.submodule_search_locations or ()) if package else ():
        path = Path(location) / "datasets" / "images" / image
        if files.is_file(path):
            return str(path)
    raise InputError(
        f"`images` {image} is no file here, and scikit-learn, which has a photograph of that name, is not installed; "
        "pip install 'vilt-bench[photographs]', or leave out `images`"
    )


def image_size(path: str) -> tuple[int, int]:
    """Returns the upright (height, width) of an image; only its header is read.

    Raises:
        InputError: as `read_image`, as far as the header tells.
    """

    def size(_content: bytes | None, image: Image.Image) -> tuple[int, int]:
        on_its_side = image.format != "TIFF" and (_orientation(image) or 1) in _ON_ITS_SIDE
        return (image.width, image.height) if on_its_side else (image.height, image.width)

    return _read(path, size)


def check_images(images: Sequence[str]) -> None:
    """Refuse, before any process is started, images that can't be opened; only their headers are read.

    Raises:
        InputError: an image is missing, not a file, not readable, not an image, too large, or has pixels whose range
            is not known.
    """
    for path in find_images(images):
        if path != SYNTHETIC:
            _read(path, lambda _content, image: _scaling(image) if _is_deep(image) else None)


def read_image(path: str) -> Image.Image:
    """Returns the image as RGB, upright, fully read; of an animated one the first frame.

    Transparency is dropped; 12-bit and 16-bit gray is scaled to 8 bits. Metadata but for the orientation is not used,
    and may be damaged.

    Raises:
        InputError: the file is missing, not a file, not readable, not an image, truncated, too large, or has pixels
            whose range or colours are not known.
    """
    return _read(path, lambda _content, image: _upright_rgb(image))


def read_encoded(path: str) -> bytes:
    """Returns the image's file as `decode` takes it: a PNG without the metadata for which Pillow would refuse it.

    Raises:
        InputError: as `read_image`.
    """

    def content(essential: bytes | None, image: Image.Image) -> bytes:
        _upright_rgb(image)
        return files.read_bytes(path) if essential is None else essential

    return _read(path, content)


def decode(content: bytes) -> Image.Image:
    """Returns the image of a file that was read by `read_encoded`, as `read_image` does."""
    with _unwarned(), Image.open(BytesIO(content)) as image:
        return _upright_rgb(image)


def describe_file(path: str) -> str:
    """Returns what an image file is, such as `hopper-upper.jpg (JPEG, 427×640 pixels, 73,897 bytes)`.

    Raises:
        InputError: as `read_image`.
    """

    def described(_content: bytes | None, image: Image.Image) -> str:
        kind, height, width = image.format, image.height, image.width
        _upright_rgb(image)  # refuses in one line what can't be decoded
        return f"{Path(path).name} ({kind}, {height}×{width} pixels, {Path(path).stat().st_size:,} bytes)"

    return _read(path, described)


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Returns an opened image as RGB, upright, fully read.

    Raises:
        InputError: the format does not say what the pixels' numbers mean.
    """
    image.load()
    # After loading: Pillow turns a TIFF upright by itself, and a PNG's orientation may follow its pixels.
    method = _UPRIGHT.get(_orientation(image) or 1)
    if _is_deep(image):
        scale, shift = _scaling(image)
        image = image.convert("I").point(lambda value: value * scale + shift).convert("L")
    image.info.pop("transparency", None)  # would make a conversion look for a color to be transparent
    rgb = image.convert("RGB")
    return rgb if method is None else rgb.transpose(method)


def _orientation(image: Image.Image) -> Any:
    """Returns the value of the orientation's tag; `None` where there is none, or the metadata is damaged.

    No other tag is looked at: `ImageOps.exif_transpose` writes them all anew, and fails where one is odd.
    """
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # whatever Pillow's parser raises on bytes that are no EXIF
        return None


def _is_deep(image: Image.Image) -> bool:
    """Returns whether it is a gray image of more than 8 bits, or of floating point."""
    return image.mode.startswith(("I", "F"))


def _scaling(image: Image.Image) -> tuple[float, float]:
    """Returns factor and summand that make 8 bits, rounded, of a deep gray image's numbers.

    Raises:
        InputError: the format does not say which number is white: signed and 32-bit integers, and floating point.

    Source: PNG specification, section 13.12, linear equation.
    """
    if image.mode == "F":
        raise InputError("has floating-point pixels of unknown range; save it with 8 bits a channel")
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    bits, signed, inverted = 16, False, False
    if tags:
        bits = _first(tags.get(_BITS_PER_SAMPLE, 16))
        signed = _first(tags.get(_SAMPLE_FORMAT, 1)) == _SIGNED
        inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    if image.format not in _UNSIGNED_16_BITS or bits > 16 or signed:
        kind = f"signed {bits}-bit" if signed else f"{bits}-bit" if bits > 16 else "wide"
        raise InputError(f"has {kind} integer pixels of unknown range; save it with 8 bits a channel")
    scale = 255 / (2**bits - 1)
    scale, shift = (-scale, 255.5) if inverted else (scale, 0.5)  # conversion truncates
    return scale, shift


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


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
            f"edge falls below the embedder's stride of {size_divisor}; use `fit` crop"
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


SizeRule = Callable[[int, int], tuple[int, int]]
"""What a tower's own processor makes of an image's height and width, in pixels."""


def fitted_size(
    height: int,
    width: int,
    *,
    resolution: tuple[int, int],
    size_divisor: int,
    fit: Fit,
    native: SizeRule | None = None,
    name: str = "the image",
) -> tuple[int, int]:
    """Returns the (height, width) that an image is resized to, see `resize`.

    Raises:
        InputError: an edge would be shorter than the divisor, or the rule refuses the image.
    """
    if fit == "native":
        if native is not None:
            try:
                height, width = native(height, width)
            except InputError as error:
                raise InputError(f"{name} of {height}x{width} pixels: {error}") from None
        if min(height, width) < size_divisor:
            raise InputError(
                f"{name} of {height}x{width} pixels is smaller than the embedder's stride or patch of "
                f"{size_divisor} pixels; give `resolution` HxW instead of native"
            )
        return crop_size((height, width), size_divisor=size_divisor)
    if fit != "aspect":
        return crop_size(resolution, size_divisor=size_divisor if fit == "crop" else 1)
    return target_size(height, width, resolution=resolution, size_divisor=size_divisor, name=name)


def resize(
    image: Image.Image,
    *,
    resolution: tuple[int, int],
    size_divisor: int,
    fit: Fit,
    native: SizeRule | None = None,
    name: str = "the image",
) -> Image.Image:
    """Returns the image resized (bicubic) to fit the resolution.

    `aspect` keeps the whole image, see `target_size`; `crop` and `exact` cover the resolution, the former cut to
    multiples, see `crop_size`; what sticks out is cut off evenly at both sides. `native` has the size that the tower's
    own processor makes of the image's; where there is no such rule, the image's own size; floored to the multiples.

    Raises:
        InputError: an edge would be shorter than the divisor.
    """
    height, width = fitted_size(
        image.height,
        image.width,
        resolution=resolution,
        size_divisor=size_divisor,
        fit=fit,
        native=native,
        name=name,
    )
    if fit in ("crop", "exact"):
        return ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def cut(image: Image.Image, scheme: Scheme, *, mean: tuple[float, float, float]) -> list[Image.Image]:
    """Returns the image's tiles in the order in which the tower takes them.

    Args:
        image: RGB.
        scheme: how to cut it.
        mean: colour of the padding, in 0 to 1, where the scheme pads with it.

    Raises:
        InputError: the image is too long to be cut.
    """
    tiling = scheme.tiling((image.height, image.width))
    colour = tuple(int(255 * value) for value in mean) if scheme.pads_with_mean else (0, 0, 0)
    method = Image.Resampling[scheme.resampling.upper()]

    def placed(source: Image.Image, on: Picture) -> Image.Image:
        resized = source.resize(on.resized[::-1], method)
        if not on.padded:
            return resized
        canvas = Image.new("RGB", on.canvas[::-1], colour)
        canvas.paste(resized, on.offset[::-1])
        return canvas

    if tiling.first_to is not None:
        image = image.resize(tiling.first_to[::-1], method)
    picture = placed(image, tiling.picture)
    tiles = [picture.crop(box) for box in tiling.boxes]
    if tiling.thumbnail is None:
        return tiles
    thumbnail = placed(picture if tiling.thumbnail_of == "picture" else image, tiling.thumbnail)
    return [thumbnail, *tiles] if tiling.thumbnail_first else [*tiles, thumbnail]


def _check_divisor(resolution: tuple[int, int], size_divisor: int) -> None:
    if min(resolution) < size_divisor:
        raise InputError(
            f"`resolution` {resolution[0]}x{resolution[1]} is smaller than the embedder's stride or patch of "
            f"{size_divisor} pixels; each edge must be at least {size_divisor}"
        )


def _read(path: str, use: Callable[[bytes | None, Image.Image], T]) -> T:
    """Returns what a function makes of an image that was opened, and of the bytes that it was opened from.

    Args:
        path: of the image.
        use: gets the bytes, `None` where they are the file's own, and the image; may be called a second time.

    Raises:
        InputError: the file can't be used, or the function can't use the image; one line that names the file.
    """
    check_is_file(path)
    with _told(path), _unwarned():
        try:
            # Not by its name: Pillow then maps a TIFF to memory, and does not turn it where it lies on its side.
            with open(path, "rb") as file, _opened(file) as image:
                return use(None, image)
        except (ValueError, SyntaxError, UnidentifiedImageError):
            content = essential_png(files.read_bytes(path))
            if content is None:
                raise
            try:
                with _opened(BytesIO(content)) as image:
                    return use(content, image)
            except (ValueError, SyntaxError, OSError):
                pass  # it was not the metadata: what was said first holds
            raise


@contextmanager
def _opened(file: IO[bytes]) -> Iterator[Image.Image]:
    with Image.open(file) as image:
        if 0 in image.size:
            raise InputError(f"has no pixels ({image.height}x{image.width})")
        yield image


@contextmanager
def _unwarned() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is twice that: an error
        warnings.simplefilter("ignore", UserWarning)  # damaged metadata, which nothing here uses
        yield


@contextmanager
def _told(path: str) -> Iterator[None]:
    """Turns all that can go wrong with an image into one line."""
    try:
        yield
    except MemoryError:
        raise
    except InputError as error:
        raise InputError(f"image {path!r} {error}") from None
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


def check_is_file(path: str, *, kind: str = "image") -> None:
    """Refuse what is no file that could be an image; `kind` is what messages call it.

    Raises:
        InputError: it is missing, no file, empty, or absurdly large.
    """
    try:
        size = files.check_regular(path)  # opening a pipe would wait for a writer
    except FileError as error:
        if error.missing:
            raise InputError(f"no {kind} {path!r}; give the path of {_a(kind)} file") from None
        if files.is_folder(path):
            raise InputError(f"{path!r} is a folder; give the {kind} files in it") from None
        raise InputError(f"{kind} {error}; give {_a(kind)} file that can be read") from None
    if size == 0:
        raise InputError(f"{kind} {path!r} is empty; give {_a(kind)} file")
    if size > files.LARGEST_BYTES:
        raise InputError(f"{kind} {path!r} is larger than a GiB; give a smaller file")


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
