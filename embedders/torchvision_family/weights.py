"""Weights of torchvision's models in its own layout: from a file, as torchvision publishes them, or random."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models import EfficientNet, GoogLeNet, Inception3, ShuffleNetV2, get_model_weights
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet
from torchvision.models.efficientnet import FusedMBConv, MBConv

from embedders.resnet import dampen_residuals
from vilt_bench.embedding.weights import read_state_dict
from vilt_bench.errors import CheckpointError

FADING = (ShuffleNetV2, EfficientNet, GoogLeNet, Inception3, SSDLiteFeatureExtractorMobileNet)
"""Models whose random weights leave hardly anything of the image at the end."""

_SHOWN = 3


def load_asked_weights(model: nn.Module, name: str, *, pretrained: bool, weights: str) -> str:
    """Loads the weights that were asked for; returns where they come from, as shown in reports.

    Args:
        model: torchvision's, whole, with all its heads.
        name: torchvision's name of it.
        pretrained: fetch the weights that torchvision publishes; nothing is fetched on the meta device.
        weights: a file of torchvision's layout; empty: none.

    Raises:
        CheckpointError: both are asked for, or weights can't be fetched, read, or are of another model.
    """
    if pretrained and weights:
        raise CheckpointError(f"torchvision/{name}: pretrained=true and weights={weights} exclude each other; give one")
    if weights:
        state = read_state_dict(weights).fitted(model.state_dict())
        _load(model, state, weights)
        return f"{state.origin}, projection random"
    if pretrained:
        published = get_model_weights(name).DEFAULT
        if not next(model.parameters()).is_meta:
            _load(model, _fetch(published, name), str(published))
        return f"torchvision {published}, projection random"
    return "random"


def redraw_fading_weights(model: nn.Module) -> None:
    """Draw random weights anew where activations would fade or grow out of range from layer to layer.

    torchvision divides the variance of a depthwise convolution's weights by its channels, and draws all of some
    models' too small; untrained normalisation does not make up for it.
    """
    everywhere = isinstance(model, FADING)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and (everywhere or module.groups == module.in_channels > 1):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if isinstance(module, MBConv | FusedMBConv) and module.use_res_connect:
            # Else each block amplifies, until rounding decides what an image's features are.
            *_, last = (each for each in module.modules() if isinstance(each, nn.BatchNorm2d))
            nn.init.constant_(last.weight, 0.2)
    dampen_residuals(model)


def rgb(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns a preset's mean or deviation, as `VisualEmbedder` takes it."""
    red, green, blue = map(float, values)
    return red, green, blue


def _fetch(published: object, name: str) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = published.get_state_dict(progress=False, check_hash=True)  # type: ignore[attr-defined]
    except (OSError, RuntimeError) as error:
        url = getattr(published, "url", "torchvision's site")
        raise CheckpointError(
            f"torchvision/{name}: no weights from {url} ({' '.join(str(error).split())}); "
            "allow the network, or fetch that file elsewhere and give weights=FILE"
        ) from None
    return state


def _load(model: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Loads all of the state dict, older names of torchvision's own included, or refuses it."""
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes differ
        lines = [" ".join(line.split()) for line in str(error).splitlines()[1:]]
        raise _misfit(name, [f"{len(lines)} of the wrong shape: {_some(lines)}"]) from None
    problems = [
        f"{len(keys)} {what}: {_some(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if problems:
        raise _misfit(name, problems)


def _misfit(name: str, problems: list[str]) -> CheckpointError:
    return CheckpointError(f"{name} does not fit the model; {'; '.join(problems)}; give torchvision's file for it")


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", …" if len(keys) > _SHOWN else "")
