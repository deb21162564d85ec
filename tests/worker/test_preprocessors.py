import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from vilt_bench.ask.case import Case
from vilt_bench.errors import ConfigError, InputError
from vilt_bench.worker.build import build_inputs, embedder_on_meta
from vilt_bench.worker.decoders import DECODERS, find_decoder
from vilt_bench.worker.inputs import Inputs
from vilt_bench.worker.pipeline import Batches
from vilt_bench.worker.preprocessing import Preprocessing

CLIP_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
CLIP_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a file without loss, of 90×132 pixels: waves and a little noise."""
    rows, columns = np.mgrid[:90, :132]
    noise = np.random.default_rng(0).integers(-20, 20, (90, 132))
    colours = [128 + 100 * np.sin(rows / a + columns / b) + noise for a, b in ((9, 17), (14, 8), (30, 5))]
    path = tmp_path_factory.mktemp("images") / "waves.png"
    Image.fromarray(np.stack(colours, axis=-1).clip(0, 255).astype(np.uint8)).save(path)
    return path


def prepared(
    path: Path, embedder: str = "patch,patch_size=16", **asked: Any
) -> tuple[Inputs, Preprocessing, torch.Tensor]:
    name, _, options = embedder.partition(",")
    case = Case(
        name,
        {key: int(value) for key, _, value in [options.partition("=")] if key},
        images=(str(path),),
        preprocessing=True,
        interaction="none",
        **asked,
    )
    inputs = build_inputs(case, embedder_on_meta(case), torch.device("cpu"))
    assert inputs.preprocessing is not None
    batch = inputs.preprocessing(inputs.encoded[0])
    assert batch.pixels.shape == inputs.batches[0][0].pixels.shape
    return inputs, inputs.preprocessing, batch.pixels[0]


def test_torchvision_resizes_and_normalises_as_an_antialiased_bicubic_interpolation_by_hand(photograph: Path) -> None:
    _, made, ours = prepared(photograph, resolution=(64, 96), preprocessor="torchvision")
    image = torch.from_numpy(np.array(Image.open(photograph))).permute(2, 0, 1)[None].float()
    by_hand = interpolate(image, size=(64, 64), mode="bicubic", antialias=True).round().clamp(0, 255)[0]
    assert ours.shape == (3, 64, 64)
    torch.testing.assert_close(ours, (by_hand / 255 - 0.5) / 0.5, atol=2 * 1.01 / 255, rtol=0)  # a level of uint8
    assert list(made.stages) == ["decode", "resize", "normalise"]
    assert made.description.startswith("torchvision 0.")


@pytest.mark.parametrize("fit", ["aspect", "crop", "exact"])
def test_torchvision_and_pillow_make_the_same_image_within_two_levels(photograph: Path, fit: Any) -> None:
    asked: dict[str, Any] = {"resolution": (48, 64), "fit": fit}
    _, _, pillow = prepared(photograph, **asked)
    _, _, torchvision = prepared(photograph, preprocessor="torchvision", **asked)
    # Where something is cut off, Pillow cuts fractions of a pixel, and torchvision whole ones.
    assert (pillow - torchvision).abs().quantile(0.5 if fit != "aspect" else 1.0) <= 2 * 2.01 / 255


def test_the_processors_pixels_are_what_it_makes_of_the_photograph(photograph: Path) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.24")
    from embedders.transformers_encoder import pack_patches

    image = Image.open(photograph)
    inputs, made, ours = prepared(photograph, "transformers/qwen2-vl-2b", preprocessor="processor:slow")
    theirs = transformers.Qwen2VLImageProcessorPil()(image, return_tensors="pt")
    assert (inputs.resolution, inputs.fit) == ((84, 140), "native")
    torch.testing.assert_close(pack_patches(torch.stack([ours, ours])[None], patch=14, merge=2), theirs["pixel_values"])
    assert list(made.stages) == ["decode", "processor", "collate"]
    assert made.description.startswith(
        f"Qwen2VLImageProcessorPil of transformers {transformers.__version__} (slow, Pillow"
    )

    _, made, ours = prepared(photograph, "transformers/clip-vit-base-patch32", preprocessor="processor:fast")
    theirs = transformers.CLIPImageProcessor()(image, return_tensors="pt")
    torch.testing.assert_close(ours, theirs["pixel_values"][0])
    # By hand: the shorter edge to 224, the middle cut out.
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    by_hand = (
        interpolate(pixels, size=(224, 328), mode="bicubic", antialias=True).round().clamp(0, 255)[0, :, :, 52:276]
    )
    torch.testing.assert_close(ours, (by_hand / 255 - CLIP_MEAN) / CLIP_STD, atol=1.01 / 255 / 0.26, rtol=0)

    _, _, ours = prepared(photograph, "timm/vit_base_patch16_siglip_224", preprocessor="processor")
    theirs = transformers.SiglipImageProcessor()(image, return_tensors="pt")
    torch.testing.assert_close(ours, theirs["pixel_values"][0])


@pytest.mark.parametrize("name", ["torchvision", "pyav"])
def test_decoders_read_the_same_pixels(name: str, photograph: Path) -> None:
    pytest.importorskip(DECODERS[name].package)
    content = photograph.read_bytes()
    expected = torch.from_numpy(np.array(Image.open(photograph))).permute(2, 0, 1)
    assert torch.equal(find_decoder(name).decode(content), expected)
    _, made, ours = prepared(photograph, resolution=(64, 96), decoder=name)
    assert torch.equal(ours, prepared(photograph, resolution=(64, 96))[2])
    assert f"decoded by {find_decoder(name).description}" in made.description
    lossy = BytesIO()
    Image.open(photograph).save(lossy, "JPEG", quality=95, subsampling=0)
    found = find_decoder(name).decode(lossy.getvalue()).float()
    assert (found - torch.from_numpy(np.array(Image.open(lossy))).permute(2, 0, 1)).abs().mean() < 2


def test_what_a_decoder_reads_otherwise_is_refused(photograph: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    Image.open(photograph).save(path := tmp_path / "turned.jpg", exif=exif)
    with pytest.raises(InputError, match=r"is 90x132 pixels to PyAV, which does not turn it upright; give `decoder`"):
        prepared(path, resolution=(64, 64), decoder="pyav")
    assert prepared(path, resolution=(64, 64), decoder="torchvision")[0].resolution == (64, 32)
    Image.open(photograph).save(path := tmp_path / "other.bmp")
    with pytest.raises(InputError, match=r"other.bmp' can't be decoded by torchvision .*; give `decoder` pillow"):
        prepared(path, resolution=(64, 64), decoder="torchvision")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"preprocessor": "opencv"}, "`preprocessor` must be one of pillow, torchvision, processor, processor:fast"),
        ({"decoder": "turbo"}, "`decoder` must be one of pillow, torchvision, pyav"),
        (
            {"preprocessor": "processor"},
            "`preprocessor` processor is none that patch has, as far as is known here; give pillow",
        ),
    ],
)
def test_preprocessors_that_are_not_there_are_refused(photograph: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepared(photograph, "patch", **asked)


def test_a_preprocessor_needs_something_to_prepare_within_the_pass() -> None:
    with pytest.raises(ConfigError, match="`preprocessor` prepares photographs within the pass, which `preprocessing`"):
        Case("patch32", preprocessor="torchvision")


def test_a_processor_and_the_tower_agree_on_the_size(photograph: Path) -> None:
    pytest.importorskip("transformers", minversion="5.24")
    for name, asked in {"resolution": {"resolution": (448, 448)}, "fit": {"fit": "crop"}}.items():
        with pytest.raises(ConfigError, match=rf"Qwen2VLImageProcessor .* decides of sizes itself; leave `{name}` out"):
            prepared(photograph, "transformers/qwen2-vl-2b", preprocessor="processor", **asked)


@pytest.mark.parametrize("preprocessor", ["pillow", "torchvision", "processor"])
def test_what_prepares_can_be_sent_to_processes_that_are_not_forked(photograph: Path, preprocessor: str) -> None:
    if preprocessor == "processor":
        pytest.importorskip("transformers", minversion="5.24")
    inputs, made, pixels = prepared(photograph, "timm/vit_tiny_patch16_224", preprocessor=preprocessor)
    sent = pickle.loads(pickle.dumps(Batches(made, inputs.encoded)))
    assert torch.equal(sent[0].pixels[0], pixels)
