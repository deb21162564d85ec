"""Reads weights of bottom-up attention's detector in the layouts of detectron2 and of LXMERT's `frcnn-vg`.

They name their tensors alike. Where they compute otherwise the tensors are changed, so that the same comes out: images
in BGR and 0 to 255, anchors with the ratio changing fastest, two objectness logits an anchor, the background last.

Source of the names: MILVLG/bottom-up-attention.pytorch, `bua/caffe/modeling`; huggingface/transformers,
`research_projects/lxmert/modeling_frcnn.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from embedders.grid import IMAGENET_MEAN, IMAGENET_STD
from embedders.region.proposals import RATIOS
from vilt_bench.embedding.weights import load_strictly, read_state_dict
from vilt_bench.errors import CheckpointError

MARK = "proposal_generator.rpn_head."
"""What the names of such weights begin with, some of them."""
CAFFE_MEAN_BGR = (102.9801, 115.9465, 122.7717)
"""Of the images, where the file does not say."""

STEM, STEM_NORM = "stages.backbone.stem.0.weight", "stages.backbone.stem.1.running_mean"
OBJECTNESS, DELTAS = "stages.rpn.head.cls_logits", "stages.rpn.head.bbox_pred"
CLASSES, BOXES = "stages.predictor.classes", "stages.predictor.boxes"

_NAMES = {
    "backbone.stem.conv1": "stages.backbone.stem",
    f"{MARK}conv": "stages.rpn.head.conv.0.0",
    f"{MARK}objectness_logits": OBJECTNESS,
    f"{MARK}anchor_deltas": DELTAS,
    "roi_heads.box_predictor.cls_score": CLASSES,
    "roi_heads.box_predictor.bbox_pred": BOXES,
}
_BLOCK = re.compile(r"(backbone\.res[234]|roi_heads\.res5)\.(\d+)\.(conv[123]|shortcut)")
_ATTRIBUTES = re.compile(r"roi_heads\.(.*\.)?(cls_embed|attr|fc_attr)")
_IGNORED = re.compile(r"pixel_(mean|std)$|proposal_generator\.anchor_generator\.|.*\.num_batches_tracked$")


def load_detector(embedder: nn.Module, path: str) -> tuple[str, str]:
    """Loads a file of weights in our layout or one of the others.

    Returns where the weights come from, as shown in reports, and what of the file was left out.

    Raises:
        CheckpointError: the file can't be read, or does not fit; the embedder is unchanged.
    """
    state = read_state_dict(path)
    if not any(name.startswith(MARK) for name in state):
        load_strictly(embedder, state, name=path)
        return state.origin, ""
    own = embedder.state_dict()
    _check_sizes(state, own, path)
    translated = dict(_translated(state))
    _convert(translated, state, own, path)
    # Not of the detector: a projection they have not, and counters of training.
    kept = {name: own[name] for name in own if ".projection." in name or name.endswith("num_batches_tracked")}
    load_strictly(embedder, translated | kept, name=path)
    attributes = sorted({name.rpartition(".")[0] for name in state if _ATTRIBUTES.match(name)})
    left_out = f"the file's attribute head was left out: {', '.join(attributes)}" if attributes else ""
    return f"{state.origin}, projection random", left_out


def _translated(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yields tensors by our names; what has no name here keeps its own, and is refused later."""
    for name, tensor in state.items():
        if not (_IGNORED.match(name) or _ATTRIBUTES.match(name)):
            yield _renamed(name), tensor


def _renamed(name: str) -> str:
    module, _, kind = name.rpartition(".")
    normed = module.endswith(".norm")
    module = module.removesuffix(".norm")
    if block := _BLOCK.fullmatch(module):
        layer = block[1].removeprefix("backbone.res")
        place = "stages.roi_head.head.0" if layer == block[1] else f"stages.backbone.layers.{int(layer) - 2}"
        if block[3] == "shortcut":
            part = f"downsample.{int(normed)}"
        else:
            part = block[3].replace("conv", "bn") if normed else block[3]
        return f"{place}.{block[2]}.{part}.{kind}"
    if module not in _NAMES:
        return name
    return f"{_NAMES[module]}.{int(normed)}.{kind}" if module == "backbone.stem.conv1" else f"{_NAMES[module]}.{kind}"


def _check_sizes(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str) -> None:
    """Refuse a proposal network of another size with the options that fit it."""
    hidden, deltas = state.get(f"{MARK}conv.weight"), state.get(f"{MARK}anchor_deltas.weight")
    if hidden is None or deltas is None:
        return
    found = (len(hidden), len(deltas) // 4)
    if found != (len(own["stages.rpn.head.conv.0.0.weight"]), len(own[f"{OBJECTNESS}.weight"])):
        raise CheckpointError(
            f"{path} has a proposal network of {found[0]} channels and {found[1]} anchors; "
            f"build the embedder with rpn_channels={found[0]},anchors={found[1]}"
        )


def _convert(ours: dict[str, Tensor], theirs: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str) -> None:
    """Change the tensors that mean something else there; what is missing is left to the strict load."""
    if STEM in ours and STEM_NORM in ours:
        mean = theirs.get("pixel_mean", torch.tensor(CAFFE_MEAN_BGR)).flatten().flip(0)
        std = theirs.get("pixel_std", torch.ones(3)).flatten().flip(0)
        ours[STEM], offset = _rgb(ours[STEM].float(), mean.float(), std.float())
        ours[STEM_NORM] = ours[STEM_NORM] - offset
    anchors = len(own[f"{OBJECTNESS}.weight"])
    for kind in ("weight", "bias"):
        if (logits := ours.get(f"{OBJECTNESS}.{kind}")) is not None:
            if len(logits) == 2 * anchors:  # softmax of background and foreground: a sigmoid of the difference
                logits = logits[anchors:] - logits[:anchors]
            if len(logits) == anchors:
                ours[f"{OBJECTNESS}.{kind}"] = _ratios_slowest(logits, 1)
        deltas = ours.get(f"{DELTAS}.{kind}")
        if deltas is not None and len(deltas) == 4 * anchors:
            ours[f"{DELTAS}.{kind}"] = _ratios_slowest(deltas, 4)
        classes, boxes = ours.get(f"{CLASSES}.{kind}"), ours.get(f"{BOXES}.{kind}")
        if classes is None or boxes is None:
            continue
        if len(boxes) == 4 * len(classes):  # the background comes first, with a box
            ours[f"{BOXES}.{kind}"] = boxes[4:]
        elif len(boxes) == 4 * (len(classes) - 1):
            ours[f"{CLASSES}.{kind}"] = classes.roll(1, dims=0)
        else:
            raise CheckpointError(
                f"{path} has {len(classes)} class logits and {len(boxes)} box outputs; expected a box for each class"
            )


def _rgb(weight: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the first convolution for our images, and what its output lacks then.

    Args:
        weight: [64, 3, 7, 7], for BGR images in 0 to 255.
        mean: RGB, that it expects subtracted.
        std: RGB, that it expects divided by.
    """
    flipped = weight.flip(1)
    ours_mean, ours_std = 255 * torch.tensor(IMAGENET_MEAN), 255 * torch.tensor(IMAGENET_STD)
    offset = (flipped.sum(dim=(2, 3)) * ((ours_mean - mean) / std)).sum(dim=1)
    return flipped * (ours_std / std).view(1, 3, 1, 1), offset


def _ratios_slowest(rows: Tensor, width: int) -> Tensor:
    """Returns the rows of all anchors of a cell, by size and ratio there, in our order by ratio and size."""
    by_size = rows.view(-1, len(RATIOS), width, *rows.shape[1:])
    return by_size.transpose(0, 1).reshape(rows.shape)
