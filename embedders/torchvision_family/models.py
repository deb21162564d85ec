"""Any model of torchvision as a visual embedder: its detectors as regions, its classifiers as grids."""

from __future__ import annotations

from torchvision import models

from embedders.torchvision_family.detectors import detector
from embedders.torchvision_family.grid import grid
from embedders.torchvision_family.parts import DetectorOptions
from vilt_bench.embedding import VisualEmbedder
from vilt_bench.embedding.configurations import explained
from vilt_bench.errors import EmbedderError
from vilt_bench.words import did_you_mean, nearest


def torchvision_model(
    *,
    model: str,
    hidden_size: int = 768,
    resolution: tuple[int, int] | None = None,
    regions: int = 36,
    proposals: int = 0,
    classes: int = 90,
    score_threshold: float = -1.0,
    plant: bool = True,
    seed: int = 0,
    pretrained: bool = False,
    weights: str = "",
) -> VisualEmbedder:
    """Returns a detector of torchvision by stage, or a classifier's last feature map, and a projection to D.

    The options from `regions` to `seed` are the detectors'.

    Args:
        model: torchvision's name, such as `fasterrcnn_resnet50_fpn` or `convnext_base`.
        hidden_size: D of the tokens.
        resolution: (height, width) that was asked for, for classifiers whose layers depend on it; `None`: their own.
        regions: detections kept of each image, one token each.
        proposals: kept by the proposals' NMS of a two-stage detector; 0: the model's own.
        classes: without the background; 90 as in COCO.
        score_threshold: lower scores never enter the last NMS; negative: the model's own.
        plant: with random weights, replace what enters NMS by planted boxes and logits.
        seed: of what is planted.
        pretrained: fetch torchvision's own weights; the projection stays random.
        weights: a file of weights in torchvision's layout; the projection stays random; empty: random.

    Raises:
        EmbedderError: torchvision has no such model, it has no grid of features, or an option is impossible.
        CheckpointError: weights can't be fetched, read, or are of another model.
    """
    options = DetectorOptions(
        regions=regions,
        proposals=proposals,
        classes=classes,
        score_threshold=score_threshold,
        plant=plant,
        seed=seed,
    )
    if model in models.list_models(module=models.detection):
        with explained(f"torchvision/{model}", library="torchvision"):
            return detector(model, options, hidden_size=hidden_size, pretrained=pretrained, weights=weights)
    classifiers = models.list_models(module=models)
    if model not in classifiers:
        names = [*models.list_models(module=models.detection), *classifiers]
        close = nearest(model, names)
        guess = did_you_mean(close and f"torchvision/{close}")
        raise EmbedderError(
            f"torchvision has no detector or classifier {model!r}{guess} 'vilt-bench list torchvision/' shows all"
        )
    if options != DetectorOptions():
        changed = [name for name in vars(options) if getattr(options, name) != getattr(DetectorOptions(), name)]
        raise EmbedderError(f"torchvision/{model} is a classifier; {', '.join(changed)} are options of detectors")
    with explained(f"torchvision/{model}", library="torchvision"):
        return grid(model, hidden_size=hidden_size, resolution=resolution, pretrained=pretrained, weights=weights)
