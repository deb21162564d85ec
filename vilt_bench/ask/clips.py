"""Reads frames of clips by PyAV: files in, RGB images out; no torch, and PyAV only where a clip is read."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from vilt_bench import files
from vilt_bench.ask.case import SYNTHETIC, Case
from vilt_bench.ask.images import check_images, check_is_file, find_images
from vilt_bench.errors import InputError
from vilt_bench.words import counted

INSTALL = "install it: python -m pip install 'av>=15'"
"""Of PyAV, as the extra `video` asks for it."""
ENDINGS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
"""Of files that are likely clips."""

_SOON_S = 1e-6
"""Times of frames are fractions: what lies so close to another is meant to be that."""


class Sampled(NamedTuple):
    """Frames of a clip."""

    images: tuple[Image.Image, ...]
    """As many as were asked for, RGB and upright."""
    places: tuple[int, ...]
    """Of each among the clip's frames, from 0; one that stands for several is there as often."""
    found: int | None = None
    """How many frames the clip has, where its file says that there are more; `None`: it has as many."""


def even_places(total: int, count: int) -> list[int]:
    """Returns which of a clip's frames are taken, evenly from its first on: ⌊i · total / count⌋.

    Source: the rule of transformers' video processors, `BaseVideoProcessor.sample_frames`.
    """
    return [place * total // count for place in range(count)]


def input_paths(case: Case) -> tuple[str, ...]:
    """Returns the paths of a case's images or clips; noise where it asks for frames and names no clip.

    Raises:
        InputError: as `find_images`.
    """
    return find_images(case.images or ((SYNTHETIC,) if case.frames is not None else ()))


def check_inputs(cases: Iterable[Case]) -> None:
    """Refuse, before any process is started, images and clips that can't be opened.

    Raises:
        InputError: as `check_images`, or as `check_clips` where frames are asked for; or a clip is given without.
    """
    for clips, images in dict.fromkeys((case.frames is not None, case.images) for case in cases):
        if not clips:
            for path in images:
                if path.lower().endswith(ENDINGS) and files.is_file(path):
                    raise InputError(f"{path!r} is a clip; give `frames` N, such as 8, to take frames of it")
            check_images(images)
        elif images and find_images(images) != (SYNTHETIC,):
            check_clips(images)


def check_clips(paths: Sequence[str]) -> None:
    """Refuse, before any process is started, clips whose first frame can't be read.

    Raises:
        InputError: PyAV is missing, or a clip is missing, not a file, not readable, no clip, or without frames.
    """
    for path in paths:
        clip_size(path)


def clip_size(path: str) -> tuple[int, int]:
    """Returns the upright (height, width) of a clip's first frame.

    Raises:
        InputError: as `check_clips`.
    """
    with _opened(path) as stream:
        image = _upright(_first(stream))
        return image.height, image.width


def sample_clip(path: str, count: int, per_second: float | None) -> Sampled:
    """Returns frames of a clip.

    Args:
        path: of the clip.
        count: how many: evenly from all of the clip, see `even_places`.
        per_second: the frames that are shown at 0, 1/f, 2/f, … seconds instead; past the clip's end its last.

    Raises:
        InputError: as `check_clips`, or the clip is damaged.
    """
    check_clips([path])
    with _told(path):
        return sample_encoded(files.read_bytes(path), count, per_second)


def sample_encoded(content: bytes, count: int, per_second: float | None) -> Sampled:
    """Returns frames of a clip's file that is in memory, as `sample_clip` does of a path."""
    if per_second is not None:
        with _stream(content) as stream:
            return _by_time(stream, [place / per_second for place in range(count)])
    with _stream(content) as stream:
        # Not all formats say how many frames they have.
        total = stream.frames or sum(1 for packet in stream.container.demux(stream) if packet.size)
    found = _by_place(content, even_places(total, count))
    if isinstance(found, Sampled):
        return found
    again = _by_place(content, even_places(found, count))
    assert isinstance(again, Sampled)
    return again._replace(found=found)


def shortcomings(path: str, sampled: Sampled) -> Iterator[str]:
    """Yields a sentence on what a clip lacks: frames that its file has announced, or that were asked for."""
    name, asked, used = Path(path).name, len(sampled.places), len(set(sampled.places))
    if sampled.found is not None:
        yield f"{name} ends after {counted(sampled.found, 'frame')}, fewer than it says: frames are of those."
    if used < asked:
        yield (
            f"{name} has fewer frames than the {asked} asked for: {used} {'is' if used == 1 else 'are'} used, some of "
            "them more than once."
        )


def describe_clip(path: str) -> str:
    """Returns what a clip's file is, such as `walk.mp4 (h264, 480×640 pixels, 30 frames/s, 196,653 bytes)`.

    Raises:
        InputError: as `check_clips`.
    """
    with _opened(path) as stream:
        image = _upright(_first(stream))
        rate = f", {float(stream.average_rate):.4g} frames/s" if stream.average_rate else ""
        codec = stream.codec_context.name
    size = Path(path).stat().st_size
    return f"{Path(path).name} ({codec}, {image.height}×{image.width} pixels{rate}, {size:,} bytes)"


def _by_place(content: bytes, places: Sequence[int]) -> Sampled | int:
    """Returns the frames at those places, which rise; or how many there are, where those are too few."""
    taken: dict[int, Image.Image] = {}
    count = 0
    with _stream(content) as stream:
        for place, frame in enumerate(stream.container.decode(stream)):
            if place in places:
                taken[place] = _upright(frame)
            count = place + 1
            if count > places[-1]:
                return Sampled(tuple(taken[each] for each in places), tuple(places))
    if not count:
        raise InputError("has no frames; give another clip")
    return count


def _by_time(stream: Any, times_s: Sequence[float]) -> Sampled:
    """Returns the frames that are shown at those times, which rise."""
    rate = float(stream.average_rate or 1)
    places: list[int] = []
    images: list[Image.Image] = []
    start: float | None = None
    last: tuple[int, Any] | None = None

    def take(shown: tuple[int, Any]) -> None:
        place, frame = shown
        images.append(images[-1] if places and places[-1] == place else _upright(frame))
        places.append(place)

    for place, frame in enumerate(stream.container.decode(stream)):
        time = place / rate if frame.time is None else float(frame.time)
        start = time if start is None else start
        while last is not None and len(places) < len(times_s) and times_s[len(places)] < time - start - _SOON_S:
            take(last)
        if len(places) == len(times_s):
            break
        last = (place, frame)
    if last is None:
        raise InputError("has no frames; give another clip")
    while len(places) < len(times_s):
        take(last)
    return Sampled(tuple(images), tuple(places))


def _first(stream: Any) -> Any:
    frame = next(iter(stream.container.decode(stream)), None)
    if frame is None:
        raise InputError("has no frames; give another clip")
    return frame


def _upright(frame: Any) -> Image.Image:
    """Returns a frame as RGB, turned as players show it."""
    image: Image.Image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Yields the stream of a clip's pictures; what goes wrong with it is one line that names the file."""
    check_is_file(path, kind="clip")
    if importlib.util.find_spec("av") is None:
        raise InputError(f"clip {path!r} is read by PyAV, which is not installed; {INSTALL}")
    with _told(path), open(path, "rb") as file, _stream(file) as stream:
        yield stream


@contextmanager
def _stream(source: Any) -> Iterator[Any]:
    import av

    with av.open(BytesIO(source) if isinstance(source, bytes) else source) as container:
        found = container.streams.video
        if not found:
            raise InputError("has no frames; give another clip")
        found[0].codec_context.thread_count = 1  # of decoding: what a record says
        yield found[0]


@contextmanager
def _told(path: str) -> Iterator[None]:
    """Turns all that can go wrong with a clip into one line."""
    try:
        yield
    except MemoryError:
        raise
    except InputError as error:
        raise InputError(f"clip {path!r} {error}") from None
    except Exception as error:  # FFmpeg's errors are of many kinds
        reason = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
        raise InputError(
            f"clip {path!r} can't be decoded ({reason}); give a whole clip in a format that FFmpeg reads"
        ) from None
