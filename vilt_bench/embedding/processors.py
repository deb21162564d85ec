"""Finds the image processor that transformers has for a tower, and calls it.

Shapes: B images, H×W pixels, N patches, P patch edge, M edge of the squares of patches that become one token, T frames.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from vilt_bench.embedding.configurations import INSTALL, one_line
from vilt_bench.embedding.contract import ProcessorFactory
from vilt_bench.errors import ConfigError, InputError

Size = tuple[int, int]

BACKENDS = {"fast": "torchvision", "slow": "pil"}
"""What computes, in transformers' words, by what users call it."""
RELATIVES = {
    "dinov2_with_registers": "dinov2",
    "dinov3_convnext": "dinov3_vit",
    "glm4v_moe": "glm4v",
    "glm_ocr": "glm46v",
    "qwen3_vl_moe": "qwen3_vl",
}
"""Families without a processor of their own, by whose they use."""
WHOLE = {"do_image_splitting": False, "crop_to_patches": False, "do_pan_and_scan": False, "max_patches": 1}
"""What makes one image of one, in processors that can cut tiles."""
PATCHES = {"patch_size": "patch_size", "merge_size": "spatial_merge_size", "temporal_patch_size": "temporal_patch_size"}
"""Attributes of processors, by what configurations of towers call them."""
BY_ROWS = ("HunYuanVLImageProcessor",)
"""Processors that return flat patches row by row, whatever their squares."""
POSITIONS = "image_position_ids"
"""Of an output's patches, (column, row) of each, -1 where they are padding."""
_PROBES = ((120, 360), (360, 120))


def find_processor(
    families: Sequence[str],
    *,
    resolution: Size,
    mean: Sequence[float],
    std: Sequence[float],
    config: object = None,
    given: Mapping[str, Any] | None = None,
) -> ProcessorFactory:
    """Returns what loads the processor of a family of models; nothing is imported before.

    Args:
        families: as transformers names them, such as `qwen2_5_vl`: of the tower, and of the model around it.
        resolution: (height, width) of the images, where the processor makes all of one size.
        mean: of the pixels' normalisation, for RGB in 0 to 1.
        std: likewise.
        config: of the tower, for what its patches are.
        given: what comes with a checkpoint, as in a preprocessor_config.json; the rest is the class's default.
    """
    return partial(
        ImageProcessor,
        tuple(families),
        resolution=resolution,
        options={"image_mean": list(mean), "image_std": list(std), **_patches(config)},
        given=dict(given or {}),
    )


def _patches(config: object) -> dict[str, int]:
    found = {name: getattr(config, key, None) for name, key in PATCHES.items()}
    pairs = {name: value[0] if isinstance(value, list | tuple) else value for name, value in found.items()}
    return {name: value for name, value in pairs.items() if isinstance(value, int)}


class ImageProcessor:
    """An image processor of transformers, as users of a model run it; one image in, one image out."""

    def __init__(
        self,
        families: Sequence[str],
        kind: str = "",
        *,
        resolution: Size,
        options: Mapping[str, Any],
        given: Mapping[str, Any],
    ) -> None:
        """Build it from its class's defaults, and what is said of the tower.

        Args:
            families: whose it is, the tower's first.
            kind: a key of `BACKENDS`; empty: as transformers chooses.
            resolution: (height, width), where it makes all images of one size.
            options: by attribute; those that the class does not have are left out.
            given: what comes with a checkpoint, which goes first.

        Raises:
            ConfigError: there is none of the family or the kind, or it can't be built of what is given.
        """
        if importlib.util.find_spec("transformers") is None:
            raise ConfigError(f"processor is transformers', which is not installed; {INSTALL}", field="preprocessor")
        own = _class_of(families, kind, given.get("image_processor_type"))
        asked = {key: value for key, value in options.items() if hasattr(own, key)}
        asked |= {key: value for key, value in given.items() if key != "image_processor_type"}
        whole = WHOLE.keys() - ({"max_patches"} if hasattr(own, "merge_size") else set())  # Kimi's are no tiles
        asked |= {key: WHOLE[key] for key in whole if hasattr(own, key)}
        if isinstance(getattr(own, "patch_size", None), dict) and isinstance(asked.get("patch_size"), int):
            asked["patch_size"] = {"height": asked["patch_size"], "width": asked["patch_size"]}
        if "size" not in given:
            asked |= _sizes(own, resolution)
            if hasattr(own, "tile_size"):  # that of the one image, where none is cut
                asked["tile_size"] = given.get("tile_size", max(resolution))
        self.name = own.__name__
        self._known: dict[Size, Size] = {}
        try:
            self._processor: Any = own(**asked)
        except Exception as error:  # whatever a class objects to
            raise ConfigError(
                f"{own.__name__} can't be built of the tower's configuration: {one_line([error])}", field="preprocessor"
            ) from error

    @property
    def description(self) -> str:
        """Its class, what computes, and their versions."""
        backend = getattr(self._processor, "backend", "")
        library = "torchvision" if backend == "torchvision" else "Pillow"
        kind = next((name for name, value in BACKENDS.items() if value == backend), "")
        told = f"{self.name} of transformers {version('transformers')}"
        return f"{told} ({f'{kind}, ' if kind else ''}{library} {version(library)})"

    @cached_property
    def is_dynamic(self) -> bool:
        """Whether the size that it makes of an image depends on the image's."""
        first, second = (self.size(*probe) for probe in _PROBES)
        return first != second

    def size(self, height: int, width: int) -> Size:
        """Returns the (height, width) that it makes of an image's.

        Raises:
            InputError: it refuses images of that shape.
            ConfigError: its output is not known here.
        """
        if (height, width) not in self._known:
            # On the meta device there is nothing to compute; Pillow's kind does not take it, nor has it positions.
            on_meta = getattr(self._processor, "backend", "") == "torchvision" and POSITIONS not in self._names
            device = "meta" if on_meta else "cpu"
            image = torch.zeros(3, height, width, dtype=torch.uint8, device=device)
            try:
                output = self([image])
            except InputError:  # perhaps only because it looks at values
                output = self([torch.zeros_like(image, device="cpu")])
            (pixels,) = self.pixels(output)
            self._known[height, width] = (pixels.shape[1], pixels.shape[2])
        return self._known[height, width]

    def __call__(self, images: Sequence[Any]) -> Mapping[str, Any]:
        """Returns what it makes of images, as the model in transformers takes it.

        Raises:
            InputError: it refuses them.
        """
        try:
            with torch.device("cpu"):  # where sizes and grids are to be, whatever is built around it
                output: Mapping[str, Any] = self._processor(images=list(images), return_tensors="pt")
        except Exception as error:  # whatever a processor objects to, such as aspects beyond 200
            raise InputError(f"{self.name} refuses such images ({one_line([error])}); give others") from error
        return output

    @property
    def packs(self) -> bool:
        """Whether it returns patches, of which `pixels` puts images together again."""
        return not {"image_grid_thw", "spatial_shapes", POSITIONS}.isdisjoint(self._names)

    @property
    def _names(self) -> Sequence[str]:
        return getattr(self._processor, "model_input_names", ())

    def pixels(self, output: Mapping[str, Any]) -> list[Tensor]:
        """Returns the images of an output, [3, h, w] each.

        Raises:
            ConfigError: it is no known kind of output.
        """
        pixels = output["pixel_values"]
        if (grids := output.get("image_grid_thw")) is not None and pixels.ndim in (2, 4):
            by_rows = pixels.ndim == 4 or _plain(self.name) in BY_ROWS  # (N, 3, P, P) are not in squares
            merge, edge = 1 if by_rows else self._processor.merge_size, self._processor.patch_size
            shapes = [(rows, columns) for _, rows, columns in grids.tolist()]
            each = pixels.split([rows * columns for rows, columns in shapes])
            return [
                unpack_patches(patches.flatten(1), shape, patch=edge, merge=merge)
                for patches, shape in zip(each, shapes, strict=True)
            ]
        if (cells := output.get("spatial_shapes")) is not None:
            edge = round((pixels.shape[2] // 3) ** 0.5)
            return [
                unflatten_patches(patches, (rows, columns), patch=edge)
                for patches, (rows, columns) in zip(pixels, cells.tolist(), strict=True)
            ]
        if (positions := output.get(POSITIONS)) is not None:
            edge = round((pixels.shape[2] // 3) ** 0.5)
            shapes = [(rows + 1, columns + 1) for columns, rows in positions.amax(1).tolist()]
            return [
                unflatten_patches(patches, shape, patch=edge) for patches, shape in zip(pixels, shapes, strict=True)
            ]
        if isinstance(pixels, Tensor) and pixels.ndim == 5 and pixels.shape[1] == 1:
            pixels = pixels[:, 0]
        if isinstance(pixels, Tensor) and pixels.ndim == 4 and pixels.shape[1] == 3 and grids is None:
            return _cut(pixels, output)
        raise ConfigError(f"what {self.name} returns is not known here; give another", field="preprocessor")


def unpack_patches(patches: Tensor, shape: Size, *, patch: int, merge: int) -> Tensor:
    """Returns the image of its patches, square by square of M×M: [N, 3·T·P²] to [3, H, W]; of equal frames the first.

    Args:
        patches: as the Qwen-VL and GLM-V processors make them.
        shape: (h, w) in patches.
        patch: P in pixels.
        merge: M in patches.
    """
    rows, columns = shape[0] // merge, shape[1] // merge
    cut = patches.view(rows, columns, merge, merge, 3, -1, patch, patch)[:, :, :, :, :, 0]
    return cut.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, shape[0] * patch, shape[1] * patch)


def unflatten_patches(patches: Tensor, shape: Size, *, patch: int) -> Tensor:
    """Returns the image of its patches, row by row with colours last: [N, P²·3] to [3, H, W]; padding is left out.

    Args:
        patches: as the processors of SigLIP 2 (NaFlex) and Gemma 4 make them.
        shape: (h, w) in patches.
        patch: P in pixels.
    """
    rows, columns = shape
    cut = patches[: rows * columns].view(rows, columns, patch, patch, 3)
    return cut.permute(4, 0, 2, 1, 3).reshape(3, rows * patch, columns * patch)


def _cut(pixels: Tensor, output: Mapping[str, Any]) -> list[Tensor]:
    """Returns each image without the padding at its bottom and right."""
    if (sizes := output.get("image_sizes")) is not None:
        shapes = [(height, width) for height, width in torch.as_tensor(sizes).tolist()]
    elif (mask := output.get("pixel_attention_mask")) is not None and not mask.is_meta:
        mask = mask.view(-1, *mask.shape[-2:]) > 0
        shapes = [(int(each[:, 0].sum()), int(each[0].sum())) for each in mask]
    else:
        return list(pixels)
    return [image[:, :height, :width] for image, (height, width) in zip(pixels, shapes, strict=True)]


def _class_of(families: Sequence[str], kind: str, named: object) -> type[Any]:
    """Returns the class of a processor.

    Args:
        families: the tower's first.
        kind: a key of `BACKENDS`; empty: as transformers chooses.
        named: what a checkpoint calls it, of whatever kind; `None`: it does not.

    Raises:
        ConfigError: there is none, or the checkpoint's is of another family.
    """
    from transformers.models.auto import image_processing_auto

    auto: Any = image_processing_auto
    known: Mapping[str, Mapping[str, str | None]] = auto.IMAGE_PROCESSOR_MAPPING_NAMES
    keys = [RELATIVES.get(family, family) for family in families]
    found = [known[each] for key in keys for each in (key, key.replace("_", "-")) if each in known]
    if not found:
        raise ConfigError(
            f"processor: transformers {version('transformers')} has none for {families[0]}; give pillow or torchvision",
            field="preprocessor",
        )
    classes = found[-1]  # of the model around the tower, where there is one
    if isinstance(named, str):
        plain = named.removesuffix("Fast").removesuffix("Pil")
        classes = next((each for each in found if plain in [_plain(name) for name in each.values()]), {})
        if not classes:
            expected = " or ".join(sorted({_plain(name) for each in found for name in each.values() if name}))
            raise ConfigError(
                f"processor: the checkpoint's is {named}, of another family than {families[0]}, whose is {expected}; "
                "take the files of one model",
                field="preprocessor",
            )
    backend = BACKENDS.get(kind) or ("torchvision" if importlib.util.find_spec("torchvision") else "pil")
    order = [backend] if kind else [backend, *(each for each in BACKENDS.values() if each != backend)]
    for each in order:
        if (name := classes.get(each)) is None:
            continue
        own: type[Any] | None = auto.get_image_processor_class_from_name(name)
        if own is not None and not getattr(own, "is_dummy", False):
            return own
    has = ", ".join(kind for kind, each in BACKENDS.items() if classes.get(each))
    raise ConfigError(
        f"processor:{kind or 'fast'} of {families[0]} is not there; transformers {version('transformers')} has {has} "
        "(fast needs torchvision)",
        field="preprocessor",
    )


def _plain(name: str | None) -> str:
    return (name or "").removesuffix("Pil")


def _sizes(own: type[Any], resolution: Size) -> dict[str, Any]:
    """Returns the sizes of a processor that makes all images of one, in the class's own terms; none of others."""
    height, width = resolution
    size, crop = getattr(own, "size", None), getattr(own, "crop_size", None)
    exact = {"height": height, "width": width}
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return {"size": exact}
    if isinstance(crop, Mapping) and isinstance(size, Mapping) and size.keys() == {"shortest_edge"}:
        scale = size["shortest_edge"] / min(crop.values())  # such as 256 of 224: what sticks out is cut off
        return {"size": {"shortest_edge": round(scale * max(resolution))}, "crop_size": exact}
    return {}
