"""Strips PNG files of metadata that keeps Pillow from reading their pixels."""

from __future__ import annotations

import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LARGEST_TEXT = 2**20
"""Bytes of unpacked text that Pillow takes at most."""
_ORIENTING = (b"XML:com.adobe.xmp", b"Raw profile type exif")
"""Keywords of text that may tell the image's orientation."""


def essential_png(content: bytes) -> bytes | None:
    """Returns a PNG file without what its pixels and their orientation don't come from; `None`: it is no PNG.

    Pillow refuses files for metadata that nothing here uses, such as text that unpacks to more than 1 MiB or whose
    checksum does not fit. A file that is truncated stays so.

    Source: PNG specification, section 5.4: the name of a chunk that is not critical begins with a small letter.
    """
    if not content.startswith(_SIGNATURE):
        return None
    kept, start = [_SIGNATURE], len(_SIGNATURE)
    while start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")  # length, name, data, checksum
        chunk = content[start:end]
        if chunk[4:5].isupper() or (_is_whole(chunk) and _may_orient(chunk[4:8], chunk[8:-4])):
            kept.append(chunk)
        start = end
    return b"".join(kept)


def _is_whole(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _may_orient(name: bytes, data: bytes) -> bool:
    """Returns whether a chunk may tell the orientation, and Pillow takes it."""
    keyword, _, rest = data.partition(b"\0")
    match name:
        case b"eXIf":
            return True
        case b"tEXt":
            packed = b""
        case b"zTXt":
            packed = rest[1:]  # behind the method
        case b"iTXt":
            # Behind whether it is packed, the method, the language and the translated keyword.
            packed = rest[2:].split(b"\0", 2)[-1] if rest[:1] == b"\1" else b""
        case _:
            return False
    if keyword not in _ORIENTING or len(rest) > _LARGEST_TEXT:
        return False
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed, _LARGEST_TEXT)
    except zlib.error:
        return False
    return not unpacking.unconsumed_tail
