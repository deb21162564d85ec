"""What runs vary by, each axis described once: its names, where its value is found, how it is written, its number.

Pictures of a map, pivoted tables and `--only` read it here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from vilt_bench.ask.axes import shown
from vilt_bench.ask.case import label, write_frames, written_options
from vilt_bench.errors import ConfigError
from vilt_bench.judge.summary import Summary
from vilt_bench.record import alike
from vilt_bench.words import did_you_mean, joined, nearest

Number = int | float

_SHOWN = 6
"""Values that an error names."""


@dataclass(frozen=True)
class Axis:
    """Something by which runs differ because they were asked to, or because of where they were measured."""

    name: str
    """As the command line has it."""
    title: str
    of: Callable[[Summary], Hashable]
    """Returns a run's value; `None` where it tells none."""
    write: Callable[[Hashable], str] = str
    number: Callable[[Summary], Number | None] | None = None
    """Returns where the run stands on an axis of a picture; `None` where it is not known. No function: nowhere."""
    number_title: str = ""
    """Of that number, where it is another than the title."""
    stands_for: tuple[str, ...] = ()
    """Other axes that the number already tells apart."""
    rank: Callable[[Summary], tuple[Number, ...]] | None = None
    """Returns what values are ordered by; no function: in the order of the runs."""
    more_is_better: bool | None = None
    """`None`: neither more nor less is better."""

    @property
    def key(self) -> str:
        """The name as data has it."""
        return self.name.replace("-", "_")


def _embedder(run: Summary) -> str:
    case = run.case
    named = label(replace(case, options={}, tiles=None, reduce=None))
    options = written_options(case)
    return f"{named},{options}" if options else named


def _resolution(run: Summary) -> str:
    return "native" if run.case.fit == "native" else shown(run.case.resolution) if run.case.resolution else "own"


def _pixels(run: Summary) -> int | None:
    return None if run.model is None else run.model.resolution[0] * run.model.resolution[1]


def _asked_pixels(run: Summary) -> tuple[Number, ...]:
    asked = run.case.resolution or (run.model.resolution if run.model is not None else (0, 0))
    return (asked[0] * asked[1], *asked)


def _tokens(run: Summary) -> int | None:
    return None if run.model is None else run.model.visual_tokens


def _threads(run: Summary) -> int | None:
    return run.case.threads if run.environment is None else run.environment.threads


def _machine(run: Summary) -> Hashable:
    return None if run.environment is None else (run.environment.machine, run.environment.fingerprint)


AXES: Mapping[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis("embedder", "Embedder", _embedder),
        Axis("machine", "Machine", _machine, lambda value: "unknown" if value is None else _first(value)),
        Axis(
            "resolution",
            "Resolution",
            _resolution,
            lambda value: str(value).replace("x", "×") if value != "own" else "embedder's own",
            number=_pixels,
            number_title="Pixels",
            stands_for=("fit",),
            rank=_asked_pixels,
            more_is_better=True,
        ),
        Axis("fit", "Fit", lambda run: "aspect" if run.case.fit == "native" else run.case.fit),
        Axis("tiles", "Tiles", lambda run: run.case.tiles or "none"),
        Axis("reduce", "Reduction", lambda run: run.case.reduce or "none"),
        Axis("preprocessing", "Preprocessing", lambda run: "within the pass" if run.case.preprocessing else "before"),
        Axis("preprocessor", "Preprocessor", lambda run: run.case.preprocessor),
        Axis("decoder", "Decoder", lambda run: run.case.decoder or "usual"),
        Axis("pin-memory", "Pinned memory", lambda run: "yes" if run.case.pin_memory else "no"),
        Axis(
            "preprocessing-workers",
            "Preprocessing workers",
            lambda run: run.case.preprocessing_workers,
            lambda value: "–" if value is None else str(value),
            number=lambda run: run.case.preprocessing_workers,
            rank=lambda run: (run.case.preprocessing_workers or 0,),
        ),
        Axis("interaction", "Interaction", lambda run: run.case.interaction),
        Axis(
            "frames",
            "Frames",
            lambda run: write_frames(run.case.frames, run.case.frame_rate) or "none",
            number=lambda run: run.case.frames,
            rank=lambda run: (run.case.frames or 0, run.case.frame_rate or 0),
        ),
        Axis(
            "text-length",
            "Text tokens",
            lambda run: run.case.text_length,
            number=lambda run: run.case.text_length,
            rank=lambda run: (run.case.text_length,),
        ),
        Axis(
            "images-per-text",
            "Images a text",
            lambda run: run.case.images_per_text,
            number=lambda run: run.case.images_per_text,
            rank=lambda run: (run.case.images_per_text,),
        ),
        Axis("dtype", "Dtype", lambda run: run.case.dtype),
        Axis("backend", "Backend", lambda run: run.case.backend),
        Axis("quantize", "Quantisation", lambda run: run.case.quantize or "none"),
        Axis(
            "device",
            "Device",
            lambda run: None if run.environment is None else run.environment.device,
        ),
        Axis(
            "threads",
            "Threads",
            _threads,
            lambda value: "–" if value is None else str(value),
            number=_threads,
            rank=lambda run: (_threads(run) or 0,),
        ),
        Axis(
            "batch-size",
            "Batch size",
            lambda run: run.case.batch_size,
            lambda value: f"{value:,}",
            number=lambda run: run.case.batch_size,
            rank=lambda run: (run.case.batch_size,),
        ),
        Axis("seed", "Seed", lambda run: run.case.seed, rank=lambda run: (run.case.seed,)),
        Axis("images", "Images", lambda run: run.case.images, lambda value: joined(value) or "usual"),
        Axis("checkpoint", "Checkpoint", lambda run: run.case.checkpoint or "none"),
        Axis("sizes", "Sizes of the shared model", lambda run: run.case.vilt, lambda value: _sizes(value)),
        Axis("side", "Side of a gate", lambda run: run.side or "none"),
        Axis(
            "visual-tokens",
            "Visual tokens",
            _tokens,
            lambda value: "–" if value is None else f"{value:,}",
            number=_tokens,
            stands_for=("resolution", "fit"),
            rank=lambda run: (_tokens(run) or 0,),
            more_is_better=True,
        ),
    )
}
"""By name, in the order in which they are told."""

EMBEDDER = AXES["embedder"]
MACHINE = AXES["machine"]
FACTS: Mapping[str, str] = {name: name for name in ("machine", "device", "threads", "dtype", "batch-size", "backend")}
"""By fact of `record.alike` that a picture asks for: the axis of it."""
DERIVED = ("visual-tokens",)
"""Axes whose value follows from others."""


def axis(name: str, field: str) -> Axis:
    """Returns the axis of that name, dashes and underscores alike.

    Raises:
        ConfigError: there is none.
    """
    found = name.strip().lower().replace("_", "-")
    if found not in AXES:
        guess = did_you_mean(nearest(found, AXES))
        raise ConfigError(f"there is no axis {name!r}{guess} known: {', '.join(AXES)}", field=field)
    return AXES[found]


def values(along: Axis, runs: Sequence[Summary]) -> list[Hashable]:
    """Returns the axis' values of the runs, each once, in order."""
    ranked = sorted(runs, key=along.rank) if along.rank is not None else runs
    return list(dict.fromkeys(map(along.of, ranked)))


def written(along: Axis, found: Iterable[Hashable]) -> dict[Hashable, str]:
    """Returns how each value is written; those that are written alike are told apart by what else they hold."""
    texts = {value: along.write(value) for value in found}
    for value, text in list(texts.items()):
        if list(texts.values()).count(text) > 1 and isinstance(value, tuple) and along.name == MACHINE.name:
            texts[value] = f"{text} {value[1]}"
    return texts


def varying(runs: Sequence[Summary]) -> list[Axis]:
    """Returns the axes by which the runs differ, without those that follow from others."""
    found = [each for each in AXES.values() if each.name not in DERIVED]
    # What was not reached by a run that failed early is none of its differences.
    return [each for each in found if len({value for run in runs if (value := each.of(run)) is not None}) > 1]


def setup(runs: Sequence[Summary]) -> Axis | None:
    """Returns an axis of what else differs between timed runs and matters, such as versions; `None`: nothing does."""
    timed = [run for run in runs if run.timed]
    names = [each.name for each in alike.differences(timed, "draw") if each.matters and each.name not in FACTS]
    if not names:
        return None

    def of(run: Summary) -> Hashable:
        told = alike.facts(run, "draw")
        return tuple((name, told.get(name, alike.UNTOLD)) for name in names) if run.environment is not None else None

    return Axis("setup", "Setup", of, lambda value: "–" if value is None else _pairs(value))


def only(runs: Sequence[Summary], asked: Sequence[str]) -> list[Summary]:
    """Returns the runs that have one of the values asked for of each axis that is named.

    Args:
        runs: in order.
        asked: such as `embedder=patch32,grid-r50,dtype=float32`: values with commas between them.

    Raises:
        ConfigError: it can't be read, there is no such axis, or no run has a value.
    """
    chosen = list(runs)
    for along, wanted in _wanted(asked).items():
        found = values(along, runs)
        texts = {value: {text.lower() for text in _names(along, value)} for value in found}
        taken: set[Hashable] = set()
        for text in wanted:
            fitting = {value for value in found if _plain(text) in texts[value]}
            if not fitting:
                known = list(written(along, found).values())
                more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
                guess = did_you_mean(nearest(text, known))
                raise ConfigError(
                    f"no run has {along.name} {text!r}{guess} there {'is' if len(known) == 1 else 'are'} "
                    f"{', '.join(known[:_SHOWN])}{more}",
                    field="only",
                )
            taken |= fitting
        chosen = [run for run in chosen if along.of(run) in taken]
    if runs and not chosen:
        raise ConfigError("no run has all of these values; give fewer", field="only")
    return chosen


def _wanted(asked: Sequence[str]) -> dict[Axis, list[str]]:
    """Returns the values by axis; a part without an axis is one more value, or an option of an embedder."""
    found: dict[Axis, list[str]] = {}
    for text in asked:
        along: Axis | None = None
        for part in text.split(","):
            name, equals, value = (each.strip() for each in part.partition("="))
            known = name.lower().replace("_", "-") in AXES
            if equals and (known or along is not EMBEDDER):
                along = axis(name, "only")
                found.setdefault(along, []).append(value)
            elif along is None:
                raise ConfigError(f"{text!r} is not AXIS=VALUE,…, as in embedder=patch32,dtype=float32", field="only")
            elif equals:
                found[along][-1] += f",{part.strip()}"
            else:
                found[along].append(part.strip())
    if any(not value for wanted in found.values() for value in wanted):
        raise ConfigError("has an empty value; expected AXIS=VALUE,…", field="only")
    return found


def _names(along: Axis, value: Hashable) -> set[str]:
    """Returns what a value may be called."""
    said = {_plain(along.write(value)), _plain(str(value))}
    if along is MACHINE and isinstance(value, tuple):
        said |= {_plain(str(part)) for part in value}
    return said


def _plain(text: str) -> str:
    return text.strip().lower().replace("×", "x").replace("embedder's own", "own")


def _first(value: Hashable) -> str:
    return str(value[0]) if isinstance(value, tuple) else str(value)


def _pairs(value: Hashable) -> str:
    return ", ".join(f"{name} {told}" for name, told in value) if isinstance(value, tuple) else str(value)


def _sizes(value: object) -> str:
    from dataclasses import fields

    return ", ".join(f"{each.name} {getattr(value, each.name)}" for each in fields(value))  # type: ignore[arg-type]


def named(axes: Collection[Axis]) -> str:
    """Returns the axes' names in a sentence."""
    found = [each.name for each in axes]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}"
