"""The convolutional backbones of grid and region embedders: ResNet and ResNeXt of torchvision, cut where asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from vilt_bench.embedding import ImageBatch

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Residual blocks in res2 to res5, by depth."""
CHANNELS = (256, 512, 1024, 2048)
"""Of the feature maps C2 to C5."""
STRIDES = (4, 8, 16, 32)
"""Likewise, in pixels."""


class FeatureMaps(NamedTuple):
    """A backbone's output."""

    maps: tuple[Tensor, ...]
    """Each [B, C, h, w], from the finest to the coarsest."""
    size: tuple[int, int]
    """(H, W) of the images, in pixels."""
    mask: Tensor | None
    """[B, H, W] bool, as in `ImageBatch`."""


class ResNetBackbone(nn.Module):
    """A ResNet or ResNeXt up to C4 or C5: [B, 3, H, W] to the feature maps asked for.

    Batch normalisation keeps its parameters; in eval mode it does what a detector's frozen one does.
    """

    def __init__(self, *, depth: int, groups: int = 1, last: int = 5, every: bool = False, caffe: bool = False) -> None:
        """Build the layers with random weights.

        Args:
            depth: 50, 101 or 152.
            groups: 1 for a ResNet; 32 for a ResNeXt 32×4d.
            last: 5 for C5 at stride 32, 4 for C4 at stride 16.
            every: return C2 and all after it, not the last alone.
            caffe: stride in a block's first 1×1 convolution, as in the first ResNets, not in its 3×3.
        """
        super().__init__()
        resnet = ResNet(Bottleneck, list(BLOCKS[depth]), groups=groups, width_per_group=64 if groups == 1 else 4)
        dampen_residuals(resnet)
        self.every = every
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
        layers = [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4][: last - 1]
        if caffe:
            for layer in layers[1:]:
                stride_first(layer)
        self.layers = nn.ModuleList(layers)

    def forward(self, images: ImageBatch) -> FeatureMaps:
        """Returns the feature maps, finest first."""
        x = self.stem(images.pixels)
        maps = []
        for layer in self.layers:
            x = layer(x)
            if self.every:
                maps.append(x)
        height, width = images.pixels.shape[-2:]
        return FeatureMaps(tuple(maps) if self.every else (x,), (height, width), images.mask)

    def frozen(self) -> Iterator[nn.Parameter]:
        """Yields the parameters that detectors leave as ImageNet's: those of stem and first layer.

        Source: MMDetection's `frozen_stages=1` and detectron2's `FREEZE_AT: 2`, the defaults of their ResNets.
        """
        yield from self.stem.parameters()
        yield from self.layers[0].parameters()


def res5(*, caffe: bool) -> nn.Module:
    """Returns the last layer of a plain ResNet, [K, 1024, 14, 14] to [K, 2048, 7, 7], with random weights."""
    resnet = ResNet(Bottleneck, [1, 1, 1, BLOCKS[101][3]])
    dampen_residuals(resnet)
    if caffe:
        stride_first(resnet.layer4)
    return cast("nn.Module", resnet.layer4)


def dampen_residuals(module: nn.Module) -> None:
    """Sets the last normalisation's gain of each residual block to 0.2.

    With a gain of 1, normalisation with untrained statistics lets activations grow from block to block, by
    four orders of magnitude at res4 of a ResNet-101.
    """
    for block in module.modules():
        if isinstance(block, Bottleneck):
            nn.init.constant_(block.bn3.weight, 0.2)


def stride_first(layer: nn.Module) -> None:
    """Move the stride of a layer's first block from its 3×3 to its first 1×1 convolution."""
    block = next(iter(layer.children()))
    first, second = cast("nn.Conv2d", block.conv1), cast("nn.Conv2d", block.conv2)
    first.stride, second.stride = second.stride, first.stride
