"""torchvision's classifiers as grid embedders: the last feature map's cells become the tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision import models
from torchvision.models import get_model, get_model_weights

from embedders.torchvision_family.weights import load_asked_weights, redraw_fading_weights, rgb
from vilt_bench.embedding import ImageBatch, Projection, VisualEmbedder, VisualFeatures
from vilt_bench.embedding.cells import cells_with_image
from vilt_bench.errors import EmbedderError

CELL = 32
"""Stride of most models' last feature map, in pixels."""
ATTENDING = ("vit_", "swin", "maxvit")
"""How the names of models with attention begin: encoders, which know where a cell is."""
MAXVIT_PARTITION = 7
"""Cells along an edge of MaxViT's windows, on its coarsest feature map."""


class WidthsOnHost(TorchFunctionMode):
    """Lets RegNet compute its widths on the CPU while its layers are built on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function."""
        given = dict(kwargs or {})
        if func is torch.arange or (func is torch.tensor and isinstance(args[0], list)):
            given.setdefault("device", "cpu")
        return func(*args, **given)


class Trunk(NamedTuple):
    """What is left of a classifier."""

    layers: nn.Module
    """[B, 3, H, W] to [B, C, h, w]"""
    channels: int
    """C"""


def grid(
    name: str, *, hidden_size: int, resolution: tuple[int, int] | None, pretrained: bool, weights: str
) -> VisualEmbedder:
    """Returns the classifier's trunk, and a projection of its cells to D.

    Raises:
        EmbedderError: the model has no grid of features, or refuses the resolution.
        CheckpointError: weights can't be fetched, read, or are of another model.
    """
    preset = get_model_weights(name).DEFAULT.transforms()
    edge = int(preset.crop_size[0])
    size = resolution or (edge, edge)
    fixed = name.startswith(("vit_", "maxvit"))
    with WidthsOnHost() if name.startswith("regnet") else nullcontext():
        model = get_model(name, weights=None, **_arguments(name, size))
    redraw_fading_weights(model)
    origin = load_asked_weights(model, name, pretrained=pretrained, weights=weights)
    trunk = _trunk(name, model)
    attends = name.startswith(ATTENDING)
    return VisualEmbedder(
        {
            "backbone": TorchvisionTrunk(trunk.layers, name=name, attends=attends),
            "projection": Projection(channels=trunk.channels, hidden_size=hidden_size),
        },
        kind="encoder" if attends else "grid",
        hidden_size=hidden_size,
        resolution=size,
        size_divisor=math.gcd(CELL, edge) if not fixed else 1,
        fixed_size=fixed,
        mean=rgb(preset.mean),
        std=rgb(preset.std),
        weights=origin,
    )


def _arguments(name: str, size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": False}
    if name.startswith("maxvit"):
        step = CELL * MAXVIT_PARTITION
        if height % step or width % step:
            raise EmbedderError(
                f"torchvision/{name} takes edges that are multiples of {step} pixels, got {height}x{width}"
            )
        return {"input_size": size}
    if name.startswith("vit_"):
        patch = int(name.rpartition("_")[2])
        if height != width or height % patch:
            raise EmbedderError(
                f"torchvision/{name} takes squares that are multiples of {patch} pixels, got {height}x{width}"
            )
        return {"image_size": height}
    return {}


class TorchvisionTrunk(nn.Module):
    """Runs a classifier up to its last feature map, whose cells are the features: [B, 3, H, W] to [B, h·w, C]."""

    def __init__(self, layers: nn.Module, *, name: str, attends: bool) -> None:
        """Take the layers.

        Args:
            layers: [B, 3, H, W] to [B, C, h, w].
            name: torchvision's, for messages.
            attends: whether they know where a cell is; else the shared model adds positions.
        """
        super().__init__()
        self.layers = layers
        self.name = name
        self.attends = attends

    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Returns a feature a cell, in row-major order.

        Raises:
            EmbedderError: the image is too small for the layers.
        """
        height, width = images.pixels.shape[-2:]
        try:
            cells = self.layers(images.pixels)
        except RuntimeError as error:
            if "too small" not in str(error) and "greater than actual input size" not in str(error):
                raise
            raise EmbedderError(
                f"an image of {height}x{width} pixels is too small for torchvision/{self.name}; raise `resolution`"
            ) from None
        grid = (cells.shape[2], cells.shape[3])
        return VisualFeatures(
            embeddings=cells.flatten(2).transpose(1, 2),  # (B, C, h, w) → (B, N, C)
            mask=cells_with_image(images.mask, grid),
            grid=None if self.attends else grid,
            cells=grid,
        )


class PatchTokens(nn.Module):
    """Runs torchvision's vision transformer and puts its patch tokens back in place, without the class token."""

    def __init__(self, model: models.VisionTransformer) -> None:
        """Take the layers."""
        super().__init__()
        self.conv_proj = model.conv_proj
        self.encoder = model.encoder
        self.class_token = model.class_token

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns the last layer's tokens, normalised, as a map."""
        patches = self.conv_proj(pixels)  # (B, C, h, w)
        class_token = self.class_token.expand(len(pixels), -1, -1)
        tokens = self.encoder(torch.cat([class_token, patches.flatten(2).transpose(1, 2)], dim=1))
        cells: Tensor = tokens[:, 1:].transpose(1, 2).unflatten(2, patches.shape[-2:])  # (B, N, C) → (B, C, h, w)
        return cells


def _until(model: nn.Module, end: str) -> nn.Module:
    """Returns the model's children in order, up to the one of that name, auxiliary classifiers left out."""
    layers: list[nn.Module] = []
    for name, child in model.named_children():
        if name == end:
            break
        if not name.lower().startswith("aux"):
            layers.append(child)
    return nn.Sequential(*layers)


TRUNKS: dict[str, Callable[[Any], Trunk]] = {
    "ResNet": lambda model: Trunk(_until(model, "avgpool"), model.fc.in_features),
    "RegNet": lambda model: Trunk(_until(model, "avgpool"), model.fc.in_features),
    "GoogLeNet": lambda model: Trunk(_until(model, "avgpool"), model.fc.in_features),
    "Inception3": lambda model: Trunk(_until(model, "avgpool"), model.fc.in_features),
    "ShuffleNetV2": lambda model: Trunk(_until(model, "fc"), model.fc.in_features),
    "AlexNet": lambda model: Trunk(model.features, 256),
    "VGG": lambda model: Trunk(model.features, 512),
    "SqueezeNet": lambda model: Trunk(model.features, 512),
    "DenseNet": lambda model: Trunk(nn.Sequential(model.features, nn.ReLU()), model.classifier.in_features),
    "MNASNet": lambda model: Trunk(model.layers, model.classifier[-1].in_features),
    "MobileNetV2": lambda model: Trunk(model.features, model.classifier[-1].in_features),
    "MobileNetV3": lambda model: Trunk(model.features, model.classifier[0].in_features),
    "EfficientNet": lambda model: Trunk(model.features, model.classifier[-1].in_features),
    "ConvNeXt": lambda model: Trunk(model.features, model.classifier[-1].in_features),
    "SwinTransformer": lambda model: Trunk(_until(model, "avgpool"), model.head.in_features),
    "MaxVit": lambda model: Trunk(nn.Sequential(model.stem, *model.blocks), model.classifier[-1].in_features),
    "VisionTransformer": lambda model: Trunk(PatchTokens(model), model.hidden_dim),
}
"""By the model's class: what comes before its pooling."""


def _trunk(name: str, model: nn.Module) -> Trunk:
    family = type(model).__name__
    if family not in TRUNKS:
        raise EmbedderError(f"torchvision/{name} is a {family}, of which no grid of features is known here")
    return TRUNKS[family](model)
