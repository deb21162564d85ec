"""Decoders of image files in memory: to RGB, upright, by the libraries that are there."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from io import BytesIO
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vilt_bench.ask.images import decode as by_pillow
from vilt_bench.errors import ConfigError


class Decoder(NamedTuple):
    """What decodes a file."""

    package: str
    """As it is imported."""
    distribution: str
    """As it is installed."""
    title: str
    decode: Callable[[bytes], Any]
    """Returns a Pillow image, or [3, h, w] uint8."""

    @property
    def description(self) -> str:
        """Its title and version."""
        return f"{self.title} {version(self.distribution)}"


def by_torchvision(content: bytes) -> Tensor:
    """Returns [3, h, w] uint8."""
    from torchvision.io import ImageReadMode, decode_image

    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    decoded: Tensor = decode_image(data, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    return decoded


def by_pyav(content: bytes) -> Tensor:
    """Returns [3, h, w] uint8; metadata that turns an image is not used."""
    import av

    with av.open(BytesIO(content), "r") as container:
        frame = next(container.decode(video=0))
        return torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1).contiguous()


DECODERS: Mapping[str, Decoder] = {
    "pillow": Decoder("PIL", "pillow", "Pillow", by_pillow),
    "torchvision": Decoder("torchvision", "torchvision", "torchvision", by_torchvision),
    "pyav": Decoder("av", "av", "PyAV", by_pyav),
}
"""By their names in a case."""


def find_decoder(name: str) -> Decoder:
    """Returns the decoder of a name in `ask.case.DECODERS`.

    Raises:
        ConfigError: its package is not installed.
    """
    found = DECODERS[name]
    if importlib.util.find_spec(found.package) is None:
        raise ConfigError(
            f"{name} needs {found.distribution}, which is not installed; install it: python -m pip install "
            f"{found.distribution}",
            field="decoder",
        )
    if found.package == "torchvision":  # told once in docs/requests.md, not in each measuring process
        warnings.filterwarnings("ignore", message="The image decoding and encoding capabilities")
    return found
