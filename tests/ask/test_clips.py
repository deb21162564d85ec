import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")

import av

from tests.conftest import STEP, MakeClip
from vilt_bench.ask.case import Case
from vilt_bench.ask.clips import (
    check_clips,
    check_inputs,
    clip_size,
    describe_clip,
    even_places,
    sample_clip,
    shortcomings,
)
from vilt_bench.errors import InputError


def shades(images: Any) -> list[int]:
    """Returns which frames of the clip the images are."""
    return [round(float(np.asarray(image).mean()) / STEP) for image in images]


@pytest.mark.parametrize(("total", "count"), [(7, 3), (7, 7), (100, 8), (64, 16), (33, 32)])
def test_frames_are_taken_evenly_as_transformers_does(total: int, count: int) -> None:
    processing = pytest.importorskip("transformers.video_processing_utils")
    known = SimpleNamespace(total_num_frames=total, fps=10.0)
    expected = processing.BaseVideoProcessor.sample_frames(SimpleNamespace(num_frames=None, fps=None), known, count)
    assert even_places(total, count) == [int(each) for each in expected]


def test_the_frames_of_a_clip_are_those_at_the_places(clip: MakeClip) -> None:
    found = sample_clip(clip(7), 3, None)
    assert found.places == (0, 2, 4)
    assert shades(found.images) == [0, 2, 4]
    assert found.images[0].size == (64, 48)


def test_with_a_rate_the_frame_shown_at_each_time_is_taken(clip: MakeClip) -> None:
    assert sample_clip(clip(8), 3, 4.0).places == (0, 2, 5)  # at 0, 0.25 and 0.5 seconds of ten frames a second
    uneven = clip(4, name="uneven.mp4", times=[0, 1, 5, 6])
    found = sample_clip(uneven, 6, 10.0)
    assert found.places == (0, 1, 1, 1, 1, 2)
    assert shades(found.images) == list(found.places)


def test_a_clip_of_fewer_frames_says_how_many_and_repeats_them(clip: MakeClip) -> None:
    short = clip(3)
    evenly, at_a_rate, enough = (sample_clip(short, *asked) for asked in ((6, None), (5, 10.0), (3, 10.0)))
    assert evenly.places == (0, 0, 1, 1, 2, 2)
    assert at_a_rate.places == (0, 1, 2, 2, 2)
    assert list(shortcomings(short, evenly)) == [
        "clip.mp4 has fewer frames than the 6 asked for: 3 are used, some of them more than once."
    ]
    assert not list(shortcomings(short, enough))


def test_a_clip_that_ends_before_it_says_is_sampled_from_what_is_there_and_that_is_said(clip: MakeClip) -> None:
    path = Path(clip(8, options={"movflags": "faststart"}))  # which says first how many there are
    whole = path.read_bytes()
    frames = whole.index(b"mdat")
    path.write_bytes(whole[: frames + (len(whole) - frames) // 2])
    found = sample_clip(str(path), 2, None)
    assert found.found is not None
    assert 1 < found.found < 8
    assert found.places == (0, found.found // 2)
    (said,) = shortcomings(str(path), found)
    assert said.startswith(f"clip.mp4 ends after {found.found} frames, fewer than it says")


def test_formats_that_do_not_say_how_many_frames_they_have_are_counted(clip: MakeClip) -> None:
    assert sample_clip(clip(7, name="clip.mkv"), 3, None).places == (0, 2, 4)


def test_a_clip_is_described_by_its_header(clip: MakeClip) -> None:
    path = clip(3)
    assert clip_size(path) == (48, 64)
    size = f"{Path(path).stat().st_size:,}"
    assert describe_clip(path) == f"clip.mp4 (mpeg4, 48×64 pixels, 10 frames/s, {size} bytes)"


def sound() -> bytes:
    """Returns a file with sound and no pictures."""
    content = io.BytesIO()
    with av.open(content, "w", format="wav") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return content.getvalue()


def test_what_is_no_clip_is_one_line(clip: MakeClip, tmp_path: Path) -> None:
    whole = Path(clip(7)).read_bytes()
    for content, said in (
        (b"", "is empty"),
        (b"no clip" * 100, r"can't be decoded \(Invalid data"),
        (whole[:300], r"can't be decoded \(Invalid data"),
        (sound(), "has no frames"),
        (Path(clip(0, name="none.mp4")).read_bytes(), "has no frames"),
    ):
        path = tmp_path / "bad.mp4"
        path.write_bytes(content)
        with pytest.raises(InputError, match=said) as caught:
            check_clips([str(path)])
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    for missing, said in ((str(tmp_path / "none"), "no clip"), (str(tmp_path), "is a folder; give the clip files")):
        with pytest.raises(InputError, match=said):
            check_clips([missing])


def test_without_pyav_the_message_has_the_command(clip: MakeClip, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "av" else object())
    with pytest.raises(InputError, match=r"read by PyAV, which is not installed; install it: python -m pip install"):
        check_clips([path])


def test_a_clip_in_an_images_place_is_answered_with_the_option_that_takes_it(clip: MakeClip) -> None:
    path = clip(1)
    with pytest.raises(InputError, match="is a clip; give `frames` N, such as 8"):
        check_inputs([Case("patch32", images=(path,))])
    check_inputs([Case("patch32", images=(path,), frames=2, interaction="none")])
    check_inputs([Case("patch32", frames=2, interaction="none")])
