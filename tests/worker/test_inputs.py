import importlib.util
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageStat

from tests.conftest import STEP, MakeClip
from vilt_bench.ask.case import Case
from vilt_bench.ask.images import check_images, find_images, image_size, read_image, resize, target_size
from vilt_bench.errors import InputError
from vilt_bench.worker.inputs import Inputs, make_inputs

HALVES = (0.5, 0.5, 0.5)
HUGGING_FACE = (384, int(1333 / 800 * 384))


def inputs_of(case: Case, **changes: Any) -> Inputs:
    arguments: dict[str, Any] = {
        "resolution": (64, 128),
        "size_divisor": 32,
        "mean": HALVES,
        "std": HALVES,
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "vocabulary": 30_522,
    }
    return make_inputs(case, **arguments | changes)


def file_of(folder: Path, *, height: int, width: int, color: str = "white", name: str = "image.png") -> str:
    Image.new("RGB", (width, height), color).save(folder / name)
    return str(folder / name)


@pytest.fixture(scope="module")
def processor() -> Any:
    return pytest.importorskip("transformers").ViltImageProcessor()


def test_sizes_are_those_of_hugging_faces_processor(processor: Any) -> None:
    pick = random.Random(0)
    shapes = [(427, 640), (640, 427), (384, 384), (1, 1), (10, 17), (383, 640), (640, 383), (300, 2000)]
    shapes += [(pick.randint(40, 700), pick.randint(40, 700)) for _ in range(100)]
    for height, width in shapes:
        theirs = processor(Image.new("L", (width, height)).convert("RGB"), return_tensors="pt")["pixel_values"]
        ours = target_size(height, width, resolution=HUGGING_FACE, size_divisor=32)
        assert ours == tuple(theirs.shape[-2:]), (height, width)


def test_pixels_are_those_of_hugging_faces_processor_within_a_level(processor: Any) -> None:
    paths = find_images(())
    theirs = [processor(read_image(path), return_tensors="pt")["pixel_values"] for path in paths]
    ours = inputs_of(Case("patch32"), resolution=HUGGING_FACE).batches
    for index in range(2):
        assert (ours[index][0].pixels - theirs[index]).abs().max() <= 1.01 / 127.5


def test_the_shorter_edge_gets_the_target_and_the_longer_one_the_limit_in_either_order() -> None:
    assert target_size(427, 640, resolution=(384, 640), size_divisor=32) == (384, 576)
    assert target_size(640, 427, resolution=(384, 640), size_divisor=32) == (576, 384)
    assert target_size(427, 640, resolution=(640, 384), size_divisor=32) == (384, 576)
    assert target_size(100, 1000, resolution=(384, 640), size_divisor=32) == (64, 640)


def test_an_image_too_long_for_one_patch_is_refused() -> None:
    with pytest.raises(InputError, match=r"of 10x5000 pixels is too long.*`fit` crop"):
        target_size(10, 5000, resolution=(384, 640), size_divisor=32)


@pytest.mark.parametrize("images", [(), ("synthetic",)])
@pytest.mark.parametrize("fit", ["aspect", "crop"])
def test_a_patch_larger_than_the_resolution_is_refused(images: tuple[str, ...], fit: Any) -> None:
    with pytest.raises(InputError, match=r"`resolution` 16x128 is smaller than .* 32 pixels"):
        inputs_of(Case("patch32", images=images, fit=fit), resolution=(16, 128))


def test_without_images_two_photographs_are_read() -> None:
    inputs = inputs_of(Case("patch32"), resolution=(384, 640))
    assert inputs.names == ("hopper-upper.jpg", "hopper-lower.jpg")
    assert inputs.resolution == (384, 576)
    assert inputs.text == "synthetic token ids"


def test_finding_and_checking_photographs_imports_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys; from vilt_bench.ask.images import check_images; check_images(());"
        "print({'torch', 'sklearn'} & set(sys.modules))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "set()"


def test_the_photographs_that_come_along_are_matplotlibs_public_domain_one() -> None:
    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as whole:
        for path, top in zip(find_images(()), (0, 600 - 342), strict=True):
            theirs = whole.convert("RGB").crop((0, top, 512, top + 342)).resize((640, 427), Image.Resampling.BICUBIC)
            assert image_size(path) == (427, 640)  # as scikit-learn's, so that earlier records keep their pixels
            difference = ImageStat.Stat(ImageChops.difference(read_image(path), theirs))
            assert max(difference.mean) < 2.5  # levels of 255: JPEG's loss


def test_scikit_learns_photographs_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    china, own = find_images(("china.jpg", "own.jpg"))
    assert (Path(china).name, image_size(china), own) == ("china.jpg", (427, 640), "own.jpg")
    Image.new("RGB", (40, 50)).save("china.jpg")
    assert find_images(("china.jpg",)) == ("china.jpg",)
    assert find_images(("hopper-lower.jpg",)) == find_images(())[1:]


def test_scikit_learns_photographs_are_told_with_advice_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"china.jpg.* pip install 'vilt-bench\[photographs\]'"):
        inputs_of(Case("patch32", images=("china.jpg",)))
    assert len(inputs_of(Case("patch32")).names) == 2


@pytest.mark.parametrize("images", [(), ("synthetic",)])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batches_have_equal_shapes_and_different_content(images: tuple[str, ...], batch_size: int) -> None:
    batches = inputs_of(Case("patch32", images=images, batch_size=batch_size, text_length=7)).batches
    assert len(batches) == 4
    for index, (image, text) in enumerate(batches):
        assert image.pixels.shape == batches[0][0].pixels.shape
        assert (image.pixels.shape[0], text.token_ids.shape) == (batch_size, (batch_size, 7))
        assert image.mask is None
        assert text.mask is None
        for other_image, other_text in batches[:index]:
            assert not torch.equal(image.pixels, other_image.pixels)
            assert not torch.equal(text.token_ids, other_text.token_ids)


def test_each_text_has_as_many_images_as_asked_for(tmp_path: Path) -> None:
    colors = ("black", "white", "gray")
    files = tuple(file_of(tmp_path, height=64, width=64, color=each, name=f"{each}.png") for each in colors)
    inputs = inputs_of(Case("patch32", images=files, images_per_text=3, batch_size=2, interaction="lm:any"))
    images, text = inputs.batches[0]
    assert (len(images.pixels), len(text.token_ids)) == (6, 2)
    assert torch.equal(images.pixels[:3], images.pixels[3:])  # text by text, and within it image by image
    assert len({float(image.mean()) for image in images.pixels[:3]}) == 3


def test_frames_of_a_clip_are_rows_one_behind_the_other(clip: MakeClip) -> None:
    paths = (clip(6, name="a.mp4"), clip(6, name="b.mp4"))
    case = Case("patch32", images=paths, frames=3, batch_size=2, interaction="none", fit="crop")
    inputs = inputs_of(case, resolution=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
    images, _ = inputs.batches[0]
    assert (images.pixels.shape, images.frames, images.mask) == ((6, 3, 32, 32), 3, None)
    shades = (images.pixels.mean(dim=(1, 2, 3)) * 255 / STEP).round().tolist()
    assert shades == [0, 2, 4, 0, 2, 4]
    assert (inputs.names, inputs.notes) == (("a.mp4", "b.mp4"), ())
    short = inputs_of(replace(case, frames=8, images=paths[:1]), resolution=(32, 32))
    assert short.notes == ("a.mp4 has fewer frames than the 8 asked for: 6 are used, some of them more than once.",)


def test_frames_are_noise_where_no_clip_is_given() -> None:
    inputs = inputs_of(Case("patch32", frames=3, batch_size=2, interaction="none"), resolution=(32, 64))
    images, _ = inputs.batches[0]
    assert (images.pixels.shape, images.frames, inputs.names) == ((6, 3, 32, 64), 3, ("synthetic",))
    assert len({float(frame.sum()) for frame in images.pixels}) == 6


def test_clips_decoded_within_the_pass_are_those_decoded_before(clip: MakeClip) -> None:
    case = Case("patch32", images=(clip(6),), frames=3, interaction="none", fit="crop", preprocessing=True)
    inputs = inputs_of(case, resolution=(32, 32))
    assert inputs.preprocessing is not None
    found = inputs.preprocessing(inputs.encoded[0])
    assert found.frames == 3
    assert torch.equal(found.pixels, inputs.batches[0][0].pixels)
    assert "clip.mp4 (mpeg4, 48×64 pixels, 10 frames/s" in inputs.preprocessing.notes["decode"]


def test_a_second_round_of_photographs_is_mirrored() -> None:
    first, _, third, _ = (batch[0].pixels for batch in inputs_of(Case("patch32")).batches)
    torch.testing.assert_close(third, first.flip(3))


def test_a_batch_takes_the_images_in_turn(tmp_path: Path) -> None:
    paths = [file_of(tmp_path, height=64, width=128, color=color, name=f"{color}.png") for color in ("white", "black")]
    pixels = inputs_of(Case("patch32", images=tuple(paths), batch_size=3)).batches[0][0].pixels
    assert [row.unique().tolist() for row in pixels] == [[1.0], [-1.0], [1.0]]


def test_more_images_than_batches_are_all_used(tmp_path: Path) -> None:
    paths = [
        file_of(tmp_path, height=64, width=64, color=f"rgb({level},{level},{level})", name=f"{level}.png")
        for level in range(0, 250, 50)
    ]
    batches = inputs_of(Case("patch32", images=tuple(paths))).batches
    assert [round((batch[0].pixels.mean().item() + 1) * 127.5) for batch in batches] == [0, 50, 100, 150, 200]


def test_images_of_different_sizes_are_padded_with_zeros_and_masked_in_every_batch(tmp_path: Path) -> None:
    wide = file_of(tmp_path, height=64, width=128, name="wide.png")
    tall = file_of(tmp_path, height=128, width=64, name="tall.png")
    inputs = inputs_of(Case("patch32", images=(wide, tall)))
    assert inputs.resolution == (128, 128)
    for index, (image, _) in enumerate(inputs.batches):
        height, width = ((64, 128), (128, 64))[index % 2]
        expected = torch.zeros(1, 128, 128, dtype=torch.bool)
        expected[:, :height, :width] = True
        assert image.mask is not None
        assert torch.equal(image.mask, expected)
        assert torch.equal(image.pixels, expected.unsqueeze(1).expand(1, 3, 128, 128).float())  # white is 1


def test_noise_is_exactly_of_the_resolution_and_made_from_the_seed() -> None:
    case = Case("patch32", images=("synthetic",))
    inputs = inputs_of(case, resolution=(70, 200))
    assert inputs.resolution == (64, 192)
    assert inputs.names == ("synthetic",)
    pixels = inputs.batches[0][0].pixels
    assert (pixels.min().item(), pixels.max().item()) == (-1, 1)
    assert torch.equal(pixels, inputs_of(case, resolution=(70, 200)).batches[0][0].pixels)
    assert not torch.equal(pixels, inputs_of(replace(case, seed=1), resolution=(70, 200)).batches[0][0].pixels)


def test_noise_can_not_be_mixed_with_files() -> None:
    with pytest.raises(InputError, match="can't be mixed"):
        inputs_of(Case("patch32", images=("synthetic", "a.png")))


def test_mean_and_std_normalise_each_channel(tmp_path: Path) -> None:
    path = file_of(tmp_path, height=64, width=64, color="rgb(255,0,51)")
    pixels = (
        inputs_of(Case("patch32", images=(path,)), mean=(0.5, 0.25, 0.2), std=(0.5, 0.125, 1.0)).batches[0][0].pixels
    )
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([1.0, -2.0, 0.0]))


def test_pixels_come_in_the_asked_dtype_and_token_ids_as_integers() -> None:
    image, text = inputs_of(Case("patch32"), dtype=torch.bfloat16).batches[0]
    assert (image.pixels.dtype, text.token_ids.dtype) == (torch.bfloat16, torch.int64)


def test_cropping_covers_the_resolution_and_keeps_the_centre(tmp_path: Path) -> None:
    image = Image.new("RGB", (320, 100), "red")
    image.paste("lime", (90, 0, 230, 100))
    image.save(tmp_path / "stripes.png")
    inputs = inputs_of(Case("patch32", images=(str(tmp_path / "stripes.png"),), fit="crop"), resolution=(70, 70))
    assert inputs.resolution == (64, 64)
    lime = torch.tensor([-1.0, 1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    assert torch.equal(inputs.batches[0][0].pixels, lime)


def test_cropping_a_line_does_not_blow_it_up_first() -> None:
    cropped = resize(Image.new("RGB", (60_000, 1)), resolution=(384, 640), size_divisor=32, fit="crop")
    assert cropped.size == (640, 384)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_of_color_reads_as_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.tif" if mode in ("CMYK", "YCbCr") else "image.png")
    Image.new("RGB", (4, 3), "white").convert(mode).save(path)
    image = read_image(str(path))
    assert (image.mode, image.size) == ("RGB", (4, 3))
    assert np.asarray(image).min() >= 254


def test_a_palette_with_transparent_entries_reads_as_its_colors(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png", transparency=bytes([0, 128]))
    assert np.asarray(read_image(str(tmp_path / "palette.png"))).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_16_bit_gray_is_scaled_not_clipped(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 257 * 128, 65_535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    assert np.asarray(read_image(str(tmp_path / "deep.png")))[..., 0].tolist() == [[0, 1, 128, 255]]


def test_a_rotated_photograph_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2), "black")
    image.paste("white", (0, 0, 1, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned 90° clockwise
    image.save(tmp_path / "rotated.png", exif=exif)
    upright = np.asarray(read_image(str(tmp_path / "rotated.png")))[..., 0]
    assert upright.tolist() == [[255, 255], [0, 0], [0, 0], [0, 0]]


def test_of_an_animated_image_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("white", "black")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(read_image(str(tmp_path / "moving.gif"))).min() == 255


def test_token_ids_are_words_between_cls_and_sep() -> None:
    ids = inputs_of(Case("patch32", batch_size=64)).batches[0][1].token_ids
    assert ids.shape == (64, 40)
    assert set(ids[:, 0].tolist()) == {101}
    assert set(ids[:, -1].tolist()) == {102}
    assert ids[:, 1:-1].min() >= 999
    assert 20_000 < ids.max() < 30_522


def test_token_ids_come_from_the_seed_alone() -> None:
    case = Case("patch32")
    ids = inputs_of(case).batches[0][1].token_ids
    assert torch.equal(ids, inputs_of(replace(case, images=("synthetic",))).batches[0][1].token_ids)
    assert not torch.equal(ids, inputs_of(replace(case, seed=1)).batches[0][1].token_ids)


def test_token_ids_stay_within_a_small_vocabulary() -> None:
    assert inputs_of(Case("patch32", batch_size=64), vocabulary=200).batches[0][1].token_ids.max() < 200


def png_of_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def write_folder(path: Path) -> None:
    path.mkdir()


def write_text(path: Path) -> None:
    path.write_text("this is no image")


def write_bomb(path: Path) -> None:
    path.write_bytes(png_of_size(20_000, 20_000))


def write_nothing(path: Path) -> None:
    pass


BAD_FILES: list[tuple[Callable[[Path], object], str]] = [
    (write_nothing, "no image"),
    (write_folder, "is a folder"),
    (Path.touch, "is empty"),
    (write_text, "is not an image"),
    (write_bomb, "is too large .*400000000 pixels"),
]


@pytest.mark.parametrize("read", [read_image, lambda path: check_images([path])], ids=["read", "check"])
@pytest.mark.parametrize(("write", "message"), BAD_FILES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_file_is_one_line_with_its_name(
    read: Callable[[str], object], write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad\nname.png"
    write(path)
    with pytest.raises(InputError, match=message) as caught:
        read(str(path))
    assert "\n" not in str(caught.value)
    assert repr(str(path)) in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="not a regular file"):
        read_image(str(tmp_path / "pipe.png"))


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    path = file_of(tmp_path, height=4, width=4)
    Path(path).chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(InputError, match="permission denied"):
        read_image(path)


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.webp", "photo.gif", "photo.bmp", "photo.tif"])
def test_a_truncated_image_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError) as caught:
        read_image(str(path))
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_pixels_of_unknown_range_are_refused(tmp_path: Path) -> None:
    Image.new("F", (4, 4)).save(tmp_path / "float.tif")
    with pytest.raises(InputError, match="unknown range"):
        read_image(str(tmp_path / "float.tif"))


def test_checking_lets_photographs_files_and_noise_pass(tmp_path: Path) -> None:
    check_images(())
    check_images(("synthetic",))
    check_images((file_of(tmp_path, height=4, width=4),))
