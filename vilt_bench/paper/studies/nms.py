"""What drives the latency of NMS over classes: its three modes over proposals and classes, on planted tensors.

Source: ViLT paper, caption of Table 6: NMS over 1,600 classes takes "more than 500 ms".
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vilt_bench.ask import registry
from vilt_bench.ask.case import Option
from vilt_bench.judge.estimate import Estimate
from vilt_bench.paper.studies import rounds as shared
from vilt_bench.record.run import Environment, Series
from vilt_bench.report import tables
from vilt_bench.report.tables import Column, Table, lines, text_column

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from vilt_bench.worker.meters.latency import Timer

DETECTOR, STAGE = "region-r101-c4", "class_nms"
"""What is timed: a stage of this embedder."""
PLANTED, FEEDING = "embedders.region.planted:region_planted", ("proposals", "predictor")
"""What feeds it: these stages of this embedder, which takes the detector's options and those of what is planted."""
MODES = ("per-class-unthresholded", "per-class", "class-agnostic")
TITLES = {
    "per-class-unthresholded": "no threshold",
    "per-class": "per class",
    "class-agnostic": "class-agnostic",
}
"""By mode: as tables show it."""
DETECTOR_CLASSES = 1600
PROPOSALS = (36, 100, 300, 1000)
POOLS = (4, 18, 80, 400)
"""Classes that the planted objects belong to."""
OBJECTS = (10, 40, 160, 640)
"""Objects that the proposals crowd around: the more, the smaller they are and the less the proposals overlap."""
PAPER_PROPOSALS, PAPER_POOL, PAPER_OBJECTS = 300, 18, 40
"""Held while another is swept: the proposals of the code that the paper timed; classes and objects as of an image."""
HELD = {"proposals": PAPER_PROPOSALS, "pool": PAPER_POOL, "objects": PAPER_OBJECTS}
PAPER_S = 0.5
"""The paper's "more than 500 ms"."""
IMAGE = (800, 1333)
"""(height, width) in pixels that the planted boxes lie in."""
MOST_OBJECTS = 6000
"""As many as planted boxes."""
MOST_PROPOSALS = 1000
"""Planted boxes that survive the proposals' NMS are some 1200."""


@dataclass(frozen=True)
class NmsPoint:
    """One mode on one set of planted tensors; counted by the stage."""

    mode: str
    proposals: int
    pool: int
    """Classes that the planted objects belong to."""
    candidates: int
    """Pairs of region and class that entered NMS."""
    classes: int
    """Of the candidates."""
    kept: int
    """Regions."""
    samples: Series
    objects: int = PAPER_OBJECTS
    """That the proposals crowd around."""

    @property
    def latency(self) -> Estimate:
        """The median latency in seconds."""
        return shared.latency(self.samples)


@dataclass(frozen=True)
class NmsStudy:
    """The study as measured; immutable."""

    started_at: str
    """UTC, ISO 8601."""
    environment: Environment
    points: tuple[NmsPoint, ...]
    detector_classes: int
    """That the detector knows, and the loop without a threshold runs over."""
    score_threshold: float
    seed: int
    stage: str = f"{DETECTOR}: {STAGE}"
    input: str = "planted tensors"
    schema_version: int = 1

    def by_proposals(self, mode: str) -> list[NmsPoint]:
        """Returns the mode's points over proposals, classes and objects held."""
        return self._over("proposals", mode)

    def by_classes(self, mode: str) -> list[NmsPoint]:
        """Returns the mode's points over planted classes, proposals and objects held."""
        return self._over("pool", mode)

    def by_objects(self, mode: str) -> list[NmsPoint]:
        """Returns the mode's points over objects, proposals and classes held."""
        return self._over("objects", mode)

    def _over(self, swept: str, mode: str) -> list[NmsPoint]:
        held = {
            name: _held([getattr(point, name) for point in self.points], wanted)
            for name, wanted in HELD.items()
            if name != swept
        }
        some = [
            point
            for point in self.points
            if point.mode == mode and all(getattr(point, name) == value for name, value in held.items())
        ]
        return sorted(some, key=lambda point: int(getattr(point, swept)))


def run_nms_study(
    *,
    proposals: Sequence[int] = PROPOSALS,
    classes: Sequence[int] = POOLS,
    objects: Sequence[int] = OBJECTS,
    max_time_s: float = 60.0,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    detector_classes: int = DETECTOR_CLASSES,
    score_threshold: float = 0.2,
    planted: str = PLANTED,
    timer: Timer | None = None,
    seconds: Callable[[], float] = time.perf_counter,
    progress: shared.Progress | None = None,
) -> NmsStudy:
    """Returns the latency of NMS over classes in its three modes, all points interleaved in this process.

    Each of proposals, classes and objects is swept while the others are held at 300, 18 and 40, or at the nearest
    that is asked for.

    Args:
        proposals: that enter the stage.
        classes: that the planted objects belong to.
        objects: that the proposals crowd around.
        max_time_s: of all rounds; building comes on top.
        seed: of what is planted.
        device: as of a case.
        threads: that torch computes with; `None`: what fits the machine.
        detector_classes: that the detector knows.
        score_threshold: lower scores never enter NMS, where the mode has a threshold.
        planted: the embedder whose stages make what enters; as `PLANTED`.
        timer: times a pass; `None`: what fits the device.
        seconds: the budget's clock.
        progress: told after each round.

    Raises:
        ConfigError: a list or the budget is impossible.
        DeviceError: the device is not there.
        EmbedderError: an option of the detector is impossible.
    """
    shared.check_counts("proposals", proposals, least=1, most=MOST_PROPOSALS)
    shared.check_counts("classes", classes, least=1, most=detector_classes)
    shared.check_counts("objects", objects, least=1, most=MOST_OBJECTS)
    shared.check_time(max_time_s)

    import torch

    from vilt_bench.embedding import stage_counts
    from vilt_bench.machine.device import prepare_threads, resolve_device
    from vilt_bench.machine.environment import collect
    from vilt_bench.worker.meters.latency import timer_for

    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    where = resolve_device(device)
    environment = collect(where, threads=prepare_threads(threads))
    options: dict[str, Option] = {"classes": detector_classes, "score_threshold": score_threshold, "seed": seed}
    stages = {mode: _class_nms(mode, options) for mode in MODES}
    asked = {"proposals": proposals, "pool": classes, "objects": objects}
    held = {name: _nearest(asked[name], wanted) for name, wanted in HELD.items()}
    cells = dict.fromkeys(
        tuple({**held, name: value}.values()) for name, values in asked.items() for value in sorted(values)
    )
    work: list[tuple[Callable[[], object], dict[str, Any]]] = []
    for cell in cells:
        swept = dict(zip(asked, cell, strict=True))
        predictions = _predictions(planted, {**options, **swept}, where)
        for mode, stage in stages.items():
            with torch.inference_mode():
                found = stage_counts(stage, stage(predictions))
            given = {**swept, "mode": mode, "proposals": len(predictions.scores)}
            work.append((lambda stage=stage, predictions=predictions: stage(predictions), given | found))  # type: ignore[misc]
    series = shared.time_in_rounds(
        [run for run, _ in work],
        timer or timer_for(where),
        max_time_s=max_time_s,
        seconds=seconds,
        progress=progress,
    )
    return NmsStudy(
        started_at=started_at,
        environment=environment,
        points=tuple(NmsPoint(**facts, samples=samples) for (_, facts), samples in zip(work, series, strict=True)),
        detector_classes=detector_classes,
        score_threshold=score_threshold,
        seed=seed,
    )


def findings(study: NmsStudy) -> list[str]:
    """Returns what the study shows, in sentences computed from its points."""
    of_mode = {mode: study.by_proposals(mode) for mode in MODES}
    count = _held([point.proposals for point in study.points], PAPER_PROPOSALS)
    loop, thresholded, agnostic = (next(p for p in of_mode[mode] if p.proposals == count) for mode in MODES)
    said = [
        f"NMS of {study.detector_classes:,} classes one after the other on the host, without a threshold, over "
        f"{count:,} proposals takes {_said(loop)} where they crowd around {loop.objects} objects"
        f"{_spread(study, loop)}; the paper: more than {1000 * PAPER_S:.0f} ms on its machine{_against_paper(study)}. "
        f"At the same {count:,} proposals and {loop.objects} objects NMS per class of scores above "
        f"{study.score_threshold:g} takes {_said(thresholded)}, class-agnostic NMS {_said(agnostic)}: "
        f"{_ratio(loop, thresholded)} and {_ratio(loop, agnostic)} less."
    ]
    if len(of_mode[MODES[0]]) > 1:
        pool = of_mode[MODES[0]][0].pool
        low, high = of_mode[MODES[0]][0].proposals, of_mode[MODES[0]][-1].proposals
        grown = "; ".join(f"{TITLES[mode]} {_times(points)}{_rising(points)}" for mode, points in of_mode.items())
        said.append(f"From {low:,} to {high:,} proposals, objects of {pool:,} classes planted: {grown}.")
    over = {mode: study.by_classes(mode) for mode in MODES}
    if len(over[MODES[0]]) > 1:
        low, high = over[MODES[0]][0].pool, over[MODES[0]][-1].pool
        grown = "; ".join(
            f"{TITLES[mode]} {_times(points)} ({points[0].classes:,} to {points[-1].classes:,} classes entered)"
            for mode, points in over.items()
        )
        said.append(f"From {low:,} to {high:,} classes planted, {count:,} proposals: {grown}.")
    crowds = {mode: study.by_objects(mode) for mode in MODES}
    if len(crowds[MODES[0]]) > 1:
        low, high = crowds[MODES[0]][0].objects, crowds[MODES[0]][-1].objects
        grown = "; ".join(f"{TITLES[mode]} {_times(points)}" for mode, points in crowds.items())
        said.append(
            f"From proposals that crowd around {low:,} objects to proposals spread over {high:,}, {count:,} of them: "
            f"{grown}. The less they overlap, the fewer a survivor removes, and the more there are to compare."
        )
    return said


def render_table(study: NmsStudy, console: Console) -> None:
    """Print a row a point, then the findings and conditions."""
    tables.show(_table(study), console)


def markdown(study: NmsStudy) -> str:
    """Returns the table, findings and conditions, as GitHub shows them."""
    return tables.markdown(_table(study)) + "\n"


def render_csv(study: NmsStudy) -> str:
    """Returns a line a point; seconds."""
    return tables.csv(
        [
            {
                "mode": point.mode,
                "proposals": point.proposals,
                "planted_classes": point.pool,
                "objects": point.objects,
                "candidates": point.candidates,
                "classes": point.classes,
                "kept": point.kept,
                **shared.latency_fields(point.samples),
                "detector_classes": study.detector_classes,
                "score_threshold": study.score_threshold,
                "seed": study.seed,
                "input": study.input,
                **shared.environment_fields(study.environment),
            }
            for point in study.points
        ]
    )


def notes(study: NmsStudy) -> list[str]:
    """Returns the findings, and what a reader must know to read the numbers."""
    return [
        *findings(study),
        "No threshold: per class, one class after the other on the host, all proposals, as the paper timed. "
        f"Per class: the scores above {study.score_threshold:g}, in one call. Class-agnostic: each region "
        "in its best class.",
        f"{study.input.capitalize()} (seed {study.seed}), no backbone is run: {study.stage} of a detector of "
        f"{study.detector_classes:,} classes. Candidates are pairs of "
        "region and class that entered NMS; kept are regions.",
        f"{shared.conditions(study.environment)}. Median with 95% interval over rounds of one process, "
        "all points interleaved.",
    ]


_TITLE = "The final NMS: latency by mode, proposals and classes (planted tensors)"
_COLUMNS = (
    text_column("NMS"),
    Column("Proposals", screen="Propo-\nsals"),
    Column("Objects", screen="Ob-\njects"),
    Column("Planted classes", screen="Plant-\ned cl."),
    Column("Candidates", screen="Candi-\ndates"),
    Column("Classes", screen="Clas-\nses"),
    Column("Kept"),
    Column("Latency", "ms", "95% interval"),
)


def _table(study: NmsStudy) -> Table:
    rows = [
        [
            TITLES[point.mode],
            *(
                f"{n:,}"
                for n in (point.proposals, point.objects, point.pool, point.candidates, point.classes, point.kept)
            ),
            shared.milliseconds(point.latency),
        ]
        for mode in MODES
        for point in sorted(study.points, key=lambda point: (point.proposals, point.objects, point.pool))
        if point.mode == mode
    ]
    return Table(_COLUMNS, lines(rows), _TITLE, notes=notes(study))


def _class_nms(mode: str, options: dict[str, Option]) -> torch.nn.Module:
    """Returns the detector's stage; on meta, as all that it holds is its options."""
    import torch

    with torch.device("meta"):
        return registry.build(DETECTOR, {**options, "nms": mode}, hidden_size=768).stages[STAGE]


def _predictions(planted: str, options: dict[str, Option], device: torch.device) -> Any:
    """Returns what enters the stage, for one image."""
    import torch

    from vilt_bench.embedding import ImageBatch

    torch.manual_seed(int(options["seed"]))  # the predictor's own weights
    embedder = registry.build(planted, options, hidden_size=768).to(device).eval()
    inputs: Any = ImageBatch(torch.zeros(1, 3, *IMAGE, device=device))
    with torch.inference_mode():
        for stage in FEEDING:
            inputs = embedder.stages[stage](inputs)
    return inputs


def _nearest(values: Sequence[int], wanted: int) -> int:
    return min(values, key=lambda value: abs(math.log(value / wanted)))


def _held(values: Sequence[int], wanted: int) -> int:
    """Returns the value that was held while the other was swept."""
    return _nearest(sorted(set(values)), wanted)


def _said(point: NmsPoint) -> str:
    classes = f"{point.classes:,} class{'es' if point.classes != 1 else ''}"
    return f"{shared.milliseconds(point.latency)} ms ({point.candidates:,} candidates in {classes}, {point.kept} kept)"


def _spread(study: NmsStudy, loop: NmsPoint) -> str:
    """Returns the latency of the most spread proposals, where they were swept."""
    most = study.by_objects(MODES[0])[-1]
    if most.objects <= loop.objects:
        return ""
    return f", {shared.milliseconds(most.latency)} ms where they spread over {most.objects:,}"


def _against_paper(study: NmsStudy) -> str:
    """Returns whether the paper's claim holds here; nothing where other numbers were measured than it is about."""
    points = study.by_objects(MODES[0])
    if (points[0].proposals, study.detector_classes) != (PAPER_PROPOSALS, DETECTOR_CLASSES):
        return ""
    # Its images are not known, so neither is how their proposals overlap: the claim holds from some spread on.
    holds = [point for point in points if point.latency.ends[0] > PAPER_S]
    if holds:
        return (
            ", and so it is here"
            if holds[0].objects <= PAPER_OBJECTS
            else (f", reached here where they spread over {holds[0].objects:,}")
        )
    within = any(point.latency.ends[1] >= PAPER_S for point in points)
    return ", within the interval here" if within else ", here less"


def _ratio(loop: NmsPoint, other: NmsPoint) -> str:
    return f"{shared.digits(loop.latency.value / other.latency.value)} times"


def _times(points: Sequence[NmsPoint]) -> str:
    """Returns by how much the latency grows from the first point to the last."""
    first, last = points[0].latency, points[-1].latency
    grown = f"×{shared.digits(last.value / first.value)}"
    return grown if _apart(first, last) else f"no clear change ({grown})"


def _apart(one: Estimate, other: Estimate) -> bool:
    (one_low, one_high), (other_low, other_high) = one.ends, other.ends
    return one_high < other_low or other_high < one_low


def _rising(points: Sequence[NmsPoint]) -> str:
    """Returns the exponent between the last two points: the first ones are the calls' own fixed cost."""
    before, last = points[-2:]
    if not _apart(before.latency, last.latency):
        return ""
    exponent = math.log(last.latency.value / before.latency.value) / math.log(last.proposals / before.proposals)
    return f" (from {before.proposals:,} on as proposals^{exponent:.2f})"
