import functools
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, features

from vilt_bench.ask.images import check_images, decode, describe_file, image_size, read_encoded, read_image
from vilt_bench.errors import InputError

Pixels = NDArray[np.uint8]

# Exif 2.32, tag 274: which visual edges the 0th row and the 0th column of the stored pixels are.
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],  # top, right
    3: lambda stored: stored[::-1, ::-1],  # bottom, right
    4: lambda stored: stored[::-1],  # bottom, left
    5: lambda stored: stored.swapaxes(0, 1),  # left, top
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],  # right, top
    7: lambda stored: stored.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda stored: stored.swapaxes(0, 1)[::-1],  # left, bottom
}
MODES = {
    "photo.jpg": ("L", "RGB", "CMYK"),
    "photo.png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "photo.webp": ("RGB", "RGBA"),
    "photo.avif": ("RGB", "RGBA"),
    "photo.tif": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I;16B"),
}


def odd_exif(orientation: int) -> bytes:
    """An orientation, a horizontal resolution of -1/0, and a vertical one that is a text."""
    entries = [
        struct.pack("<HHIHH", 274, 3, 1, orientation, 0),
        struct.pack("<HHII", 282, 10, 1, 8 + 2 + 3 * 12 + 4),
        struct.pack("<HHI4s", 283, 2, 3, b"72\0\0"),
    ]
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 3) + b"".join(entries) + struct.pack("<Iii", 0, -1, 0)


def corners(mode: str) -> Image.Image:
    """Four blocks of 16×16 pixels in six levels, no two orientations of which are alike."""
    levels = np.kron(np.array([[0, 255, 255], [255, 0, 0]], dtype=np.uint8), np.ones((16, 16), dtype=np.uint8))
    gray = Image.fromarray(levels)
    if mode.startswith("I;16"):
        kind = ">u2" if mode == "I;16B" else "<u2"
        return Image.frombytes(mode, gray.size, (levels.astype(np.uint16) * 257).astype(kind).tobytes())
    return gray.convert("RGB").convert(mode)


def save(image: Image.Image, path: Path, orientation: int) -> None:
    if path.suffix == ".avif":  # its writer in Pillow can't write what is odd
        plain = Image.Exif()
        plain[274] = orientation
        image.save(path, exif=plain, quality=100)
        return
    if path.suffix == ".webp":
        image.save(path, exif=odd_exif(orientation), lossless=True)
        return
    if path.suffix != ".tif":
        image.save(path, exif=odd_exif(orientation))
        return
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = orientation
    tags[305] = "odd"
    tags.tagtype[283], tags[283] = 2, "72"
    image.save(path, tiffinfo=tags)


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, modes in MODES.items() for mode in modes])
def test_every_orientation_is_turned_upright_by_path_and_by_bytes_whatever_else_the_exif_says(
    name: str, mode: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if path.suffix in (".webp", ".avif") and not features.check(path.suffix[1:]):
        pytest.skip(f"Pillow was built without {path.suffix[1:]}")
    image = corners(mode)
    seen = np.asarray(corners("L"))
    for orientation, turned in UPRIGHT.items():
        save(image, path, orientation)
        found = read_image(str(path))
        assert found.mode == "RGB"
        middles = np.asarray(found)[8::16, 8::16]
        assert np.abs(middles.astype(int) - turned(seen)[8::16, 8::16, None]).max() <= 3, orientation
        assert decode(read_encoded(str(path))).tobytes() == found.tobytes()
        check_images([str(path)])
        assert image_size(str(path)) == found.size[::-1]


def test_the_orientation_of_xmp_counts_where_there_is_no_exif(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    text = chunk(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + xmp)
    path.write_bytes(png([text, chunk(b"tEXt", b"Comment\0odd")[:-1] + b"?"]))
    assert read_image(str(path)).size == (2, 3)


@pytest.mark.parametrize("exif", [b"Exif\0\0nothing of the kind", b"Exif\0\0II*\0", b"Exif\0\0"])
def test_damaged_exif_leaves_the_image_as_it_is(exif: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (4, 2)).save(path, exif=exif)
    assert read_image(str(path)).size == (4, 2)


def tiff(values: bytes, *, bits: int, sample_format: int, photometric: int, width: int, order: str = "<") -> bytes:
    """A gray image of one row; see TIFF 6.0, sections 2 and 19."""
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 1)]
    tags += [(279, len(values)), (339, sample_format)]
    place = 8 + len(values) + len(values) % 2
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, place)
    body = values + bytes(len(values) % 2)
    return head + body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def written(folder: Path, content: bytes, name: str) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


def levels(path: str) -> list[int]:
    found = np.asarray(read_image(path))
    assert decode(read_encoded(path)).tobytes() == found.tobytes()
    assert (found[..., :1] == found).all()
    return [int(level) for level in found[0, :, 0]]


def rounded(values: list[int], most: int) -> list[int]:
    """PNG specification, section 13.12: floor(input · 255 / most + 0.5), in whole numbers."""
    return [(2 * value * 255 + most) // (2 * most) for value in values]


DEEP = [0, 1, 128, 129, 257, 1000, 32_767, 32_768, 40_000, 65_406, 65_407, 65_535]


def test_16_bit_gray_is_scaled_by_its_formats_largest_number_and_rounded(tmp_path: Path) -> None:
    little, big = (np.array(DEEP, dtype=kind).tobytes() for kind in ("<u2", ">u2"))
    expected = rounded(DEEP, 65_535)
    gray = functools.partial(tiff, bits=16, sample_format=1, width=len(DEEP))
    assert levels(written(tmp_path, gray(little, photometric=1), "little.tif")) == expected
    assert levels(written(tmp_path, gray(big, photometric=1, order=">"), "big.tif")) == expected
    white_is_zero = gray(little, photometric=0)
    assert levels(written(tmp_path, white_is_zero, "white.tif")) == rounded([65_535 - each for each in DEEP], 65_535)
    pgm = f"P5 {len(DEEP)} 1 65535\n".encode() + big
    assert levels(written(tmp_path, pgm, "deep.pgm")) == expected
    Image.frombytes("I;16", (len(DEEP), 1), little).save(tmp_path / "deep.png")
    assert levels(str(tmp_path / "deep.png")) == expected


def test_12_bit_gray_is_scaled_by_its_formats_largest_number(tmp_path: Path) -> None:
    values = [0, 8, 9, 2048, 4000, 4095]
    packed = b"".join(((a << 12) | b).to_bytes(3, "big") for a, b in zip(values[::2], values[1::2], strict=True))
    path = written(tmp_path, tiff(packed, bits=12, sample_format=1, photometric=1, width=6), "twelve.tif")
    assert levels(path) == rounded(values, 4095)


@pytest.mark.parametrize(
    ("kind", "sample_format", "message"),
    [
        ("<i2", 2, "signed 16-bit integer pixels of unknown range; save it with 8 bits"),
        (">i2", 2, "signed 16-bit integer pixels"),
        ("<i4", 2, "signed 32-bit integer pixels"),
        (">i4", 2, "signed 32-bit integer pixels"),
        ("<u4", 1, "32-bit integer pixels of unknown range"),
        ("<f4", 3, "floating-point pixels of unknown range"),
    ],
)
def test_numbers_whose_white_the_format_does_not_tell_are_refused(
    kind: str, sample_format: int, message: str, tmp_path: Path
) -> None:
    values = np.array([0, 100, 255], dtype=kind)
    order = ">" if kind.startswith(">") else "<"
    content = tiff(
        values.tobytes(), bits=8 * values.itemsize, sample_format=sample_format, photometric=1, width=3, order=order
    )
    path = written(tmp_path, content, "wide.tif")
    for read in (read_image, read_encoded, describe_file, lambda name: check_images([name])):
        with pytest.raises(InputError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"image {path!r} has ")


def test_signed_numbers_of_astronomers_are_refused(tmp_path: Path) -> None:
    # FITS 4.0, table 8: BITPIX 16 is a signed integer.
    cards = ["SIMPLE  = T", "BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 3", "NAXIS2  = 1", "END"]
    header = "".join(card.ljust(80) for card in cards).ljust(2880).encode()
    path = written(tmp_path, header + np.array([0, 1, 2], dtype=">i2").tobytes().ljust(2880, b"\0"), "sky.fits")
    with pytest.raises(InputError, match="integer pixels of unknown range"):
        read_image(path)


def test_the_colors_of_cielab_are_turned_into_rgb(tmp_path: Path) -> None:
    # L* = 0, 53.6 (half of sRGB's range: luminance 0.2159, 116 ∛0.2159 - 16) and 100, without hue.
    image = Image.new("LAB", (3, 1), (0, 128, 128))
    image.putpixel((1, 0), (round(53.6 * 2.55), 128, 128))
    image.putpixel((2, 0), (255, 128, 128))
    image.save(tmp_path / "lab.tif")
    found = np.asarray(read_image(str(tmp_path / "lab.tif"))).astype(int)
    assert np.abs(found[0] - np.array([[0], [128], [255]])).max() <= 2


def test_a_transparent_color_of_16_bits_is_dropped(tmp_path: Path) -> None:
    values = np.array([0, 0x8080, 0xFFFF], dtype="<u2")
    Image.frombytes("I;16", (3, 1), values.tobytes()).save(tmp_path / "deep.png", transparency=0x8080)
    assert levels(str(tmp_path / "deep.png")) == [0, 128, 255]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(before: list[bytes], after: list[bytes] | None = None) -> bytes:
    """Three by two white pixels, with chunks before and after them."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + b"\xff" * 9) * 2))
    return b"".join([b"\x89PNG\r\n\x1a\n", head, *before, pixels, *(after or []), chunk(b"IEND", b"")])


MANY = 3 * 2**20
METADATA = {
    "packed text": chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a" * MANY)),
    "packed international text": chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"a" * MANY)),
    "color profile": chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"a" * MANY)),
    "text of another checksum": chunk(b"tEXt", b"Comment\0text")[:-4] + b"\0\0\0\0",
    "packing that is unknown": chunk(b"zTXt", b"Comment\0\7text"),
    "density that is cut": chunk(b"gAMA", b"\0"),
}


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
def test_a_whole_png_is_read_whatever_its_metadata(metadata: bytes, place: str, tmp_path: Path) -> None:
    exif = chunk(b"eXIf", odd_exif(6).removeprefix(b"Exif\0\0"))
    content = png([exif, metadata]) if place == "before" else png([exif], [metadata])
    path = written(tmp_path, content, "photo.png")
    check_images([path])
    found = read_image(path)
    assert (found.size, found.getextrema()) == ((2, 3), ((255, 255),) * 3)
    assert decode(read_encoded(path)).tobytes() == found.tobytes()
    assert describe_file(path) == f"photo.png (PNG, 2×3 pixels, {len(content):,} bytes)"


def test_metadata_of_many_texts_is_no_obstacle(tmp_path: Path) -> None:
    text = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a" * 2**20))
    assert read_image(written(tmp_path, png([text] * 80), "photo.png")).size == (3, 2)


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
def test_metadata_hides_neither_a_bomb_nor_a_missing_end(metadata: bytes, tmp_path: Path) -> None:
    whole = png([metadata])
    cut = whole[: whole.index(b"IDAT") + 8]
    with pytest.raises(InputError, match=r"photo\.png"):
        read_image(written(tmp_path, cut, "photo.png"))
    large = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    bomb = whole.replace(chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 8, 2, 0, 0, 0)), large)
    with pytest.raises(InputError, match="is too large"):
        read_image(written(tmp_path, bomb, "photo.png"))


@pytest.mark.parametrize("where", [b"IHDR", b"PLTE"])
def test_a_checksum_that_counts_is_not_overlooked(where: bytes, tmp_path: Path) -> None:
    content = bytearray(png([chunk(b"PLTE", bytes(6))]))
    place = content.index(where)
    length = int.from_bytes(content[place - 4 : place], "big")
    content[place + 4 + length] ^= 1
    with pytest.raises(InputError):
        read_image(written(tmp_path, bytes(content), "photo.png"))
