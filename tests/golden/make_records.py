"""Writes the records that the golden files are reports of: made numbers, none of them measured.

`python tests/golden/make_records.py` writes them anew, into the folder `records` beside it. It imports nothing of
vilt-bench: the format of records outlives the package's layout.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RECORDS = HERE / "records"

NOISE = (0.997, 1.001, 0.9985, 1.004, 1.0, 0.9995, 1.002, 0.996, 1.003, 0.9992, 1.0007)
"""What each time is multiplied by, in turn: as many as share no factor with the numbers of passes and stages."""

VILT = {
    "hidden_size": 768,
    "layers": 12,
    "heads": 12,
    "mlp_size": 3072,
    "vocabulary": 30522,
    "text_positions": 40,
    "image_positions": [12, 12],
    "layer_norm_eps": 1e-12,
}
TEXT = ("textual_embedder", 0.0003, 23_470_848, 0, "embeddings [1, 40, 768]")
SINGLE_STREAM = (
    ("modality_interaction.concatenation", 0.0008, 113_664, 0, "embeddings [1, 281, 768]"),
    ("modality_interaction.transformer", 0.3481, 85_056_000, 50_640_000_000, "[1, 281, 768]"),
    ("modality_interaction.pooler", 0.0004, 590_592, 1_180_000, "tokens [1, 281, 768], pooled [1, 768]"),
)
PATCH = (
    TEXT,
    ("visual_embedder.projection", 0.0091, 2_360_064, 1_132_462_080, "embeddings [1, 240, 768]"),
    *SINGLE_STREAM,
)
GRID = (
    TEXT,
    ("visual_embedder.backbone", 1.2287, 23_454_912, 170_990_000_000, "maps [1, 2048, 25, 41]"),
    ("visual_embedder.pooling", 0.0021, 0, 0, "maps [1, 2048, 12, 20]"),
    ("visual_embedder.projection", 0.0052, 1_573_632, 755_000_000, "embeddings [1, 240, 768]"),
    ("modality_interaction", 0.3328, 85_760_256, 50_650_000_000, "tokens [1, 281, 768], pooled [1, 768]"),
)
REGION = (
    TEXT,
    ("visual_embedder.backbone", 2.0437, 27_540_000, 286_000_000_000, "maps [1, 1024, 50, 82]"),
    ("visual_embedder.rpn", 0.5102, 9_520_000, 78_010_000_000, "boxes [1, 6000, 4], objectness [1, 6000]"),
    ("visual_embedder.proposal_nms", 0.0333, 0, 0, "boxes [1000, 4]"),
    ("visual_embedder.roi_align", 0.4127, 0, 0, "cells [1000, 1024, 14, 14]"),
    ("visual_embedder.roi_head", 10.8322, 14_960_000, 1_464_300_000_000, "features [1000, 2048]"),
    ("visual_embedder.predictor", 0.2011, 16_390_000, 32_770_000_000, "scores [1000, 1600]"),
    ("visual_embedder.class_nms", 0.0153, 0, 0, "features [1, 36, 2048]"),
    ("visual_embedder.projection", 0.0019, 1_580_000, 114_000_000, "embeddings [1, 36, 768]"),
    ("modality_interaction", 0.1906, 85_760_256, 13_300_000_000, "tokens [1, 77, 768], pooled [1, 768]"),
)
NOTES = {
    "visual_embedder.class_nms": "planted logits (seed 0): 40 objects of 18 classes, 4 near-synonyms each",
}

Parts = Sequence[tuple[str, float, int, int, str]]


def case(embedder: str, **fields: Any) -> dict[str, Any]:
    """Returns what is asked, as a record has it."""
    usual = {
        "embedder": embedder,
        "options": {},
        "resolution": None,
        "fit": "aspect",
        "reduce": None,
        "images": [],
        "preprocessing": False,
        "text_length": 40,
        "batch_size": 1,
        "device": "auto",
        "dtype": "float32",
        "threads": None,
        "linear": "torch",
        "checkpoint": None,
        "interaction": "vilt",
        "vilt": VILT,
        "seed": 0,
    }
    return usual | fields


def environment(**fields: Any) -> dict[str, Any]:
    """Returns a processor, as a record has it."""
    usual = {
        "machine": "AMD EPYC 7B13",
        "fingerprint": "f00df00df00d",
        "device": "cpu",
        "device_name": "AMD EPYC 7B13",
        "threads": 2,
        "omp_wait_policy": "PASSIVE",
        "versions": {
            "python": "3.12.3",
            "system": "Linux 6.8",
            "torch": "2.9.0",
            "torchvision": "0.24.0",
            "vilt-bench": "0.1.0",
        },
        "settings": {"governor": "performance", "turbo": "off", "OMP_WAIT_POLICY": "PASSIVE"},
        "hardware": {"processor": "AMD EPYC 7B13", "physical_cores": "2", "memory_bytes": "17179869184"},
    }
    return usual | fields


GPU = environment(
    machine="NVIDIA H100",
    fingerprint="cafecafecafe",
    device="cuda:0",
    device_name="NVIDIA H100",
    versions={"python": "3.12.3", "torch": "2.9.0", "cuda": "12.8", "driver": "570.86", "vilt-bench": "0.1.0"},
    settings={"tf32_matmul": "False"},
    hardware={"gpu": "NVIDIA H100", "processor": "AMD EPYC 7B13"},
)


class Noise:
    """Gives the factors of `NOISE` in turn."""

    def __init__(self) -> None:
        """Begin with the first."""
        self._factors = itertools.cycle(NOISE)

    def times(self, seconds: float, count: int, *, device: bool = False, whole: bool = False) -> dict[str, Any]:
        """Returns the times of one stage, or of the whole."""
        wall = [round(seconds * next(self._factors), 9) for _ in range(count)]
        if device:
            host = None if whole else [round(0.2 * second, 9) for second in wall]
            return {
                "wall_time_s": wall if whole else None,
                "cpu_time_s": None,
                "device_time_s": wall,
                "host_time_s": host,
            }
        cpu = [round(1.97 * second, 9) for second in wall]
        return {"wall_time_s": wall, "cpu_time_s": cpu, "device_time_s": None, "host_time_s": None}

    def series(self, parts: Parts, blocks: Sequence[int], *, slower: float = 1.0, device: bool = False) -> Any:
        """Returns the passes of one process."""
        count = sum(blocks)
        total = slower * sum(part[1] for part in parts)
        return {
            "whole": self.times(total, count, device=device, whole=True),
            "stages": {part[0]: self.times(slower * part[1], count, device=device) for part in parts},
            "instrumented": self.times(1.004 * total, count, device=device, whole=True),
            "blocks": list(blocks),
        }


NOTHING: dict[str, Any] = {
    "whole": {"wall_time_s": None, "cpu_time_s": None, "device_time_s": None, "host_time_s": None},
    "stages": {},
    "instrumented": {"wall_time_s": None, "cpu_time_s": None, "device_time_s": None, "host_time_s": None},
    "blocks": [],
}


def conditions(**fields: Any) -> dict[str, Any]:
    """Returns what went on around a quiet measurement."""
    return {"cpu_share": 0.985, "involuntary_context_switches": 12, "watched_s": 9.5} | fields


def run(
    name: str,
    parts: Parts,
    *,
    asked: Mapping[str, Any] | None = None,
    trials: int = 3,
    blocks: Sequence[int] = (3, 3),
    slower: float = 1.0,
    day: int = 24,
    hour: int = 3,
    group: str = "sitting",
    where: Mapping[str, Any] | None = None,
    kind: str = "linear",
    resolution: tuple[int, int] = (384, 640),
    tokens: int = 240,
    around: Mapping[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Returns a run, as a record has it."""
    noise = Noise()
    where = where or environment()
    device = where["device"] != "cpu"
    started = f"2026-11-{day:02}T{hour:02}:55:00+00:00"
    stages = [
        {
            "name": stage,
            "component": stage.partition(".")[0],
            "output": output,
            "parameters": parameters,
            "flops": flops,
            "moved_bytes": 1_000_000
            + (0 if stage == "textual_embedder" else 4 * parameters),  # tables are read in part
            "memory": {
                "live_before_bytes": 450_000_000,
                "peak_bytes": 470_000_000 + 4 * parameters,
                "live_after_bytes": 455_000_000,
            },
            "counts": {"candidates": 211} if stage == "visual_embedder.class_nms" else {},
            "note": NOTES.get(stage, ""),
        }
        for stage, _, parameters, flops, output in parts
    ]
    usual = {
        "run_id": name,
        "started_at": started,
        "case": asked or case(name),
        "sampling": {"precision": 0.02, "max_time_s": 60.0, "trials": trials or 1, "least_samples": 6},
        "group": group,
        "environment": where,
        "model": {
            "kind": kind,
            "hidden_size": 768,
            "layers": 12,
            "heads": 12,
            "resolution": list(resolution),
            "visual_tokens": tokens,
            "text_tokens": 40,
            "visual_weights": "random",
            "shared_weights": "random",
            "linear": "torch",
            "images": ["china.jpg"],
            "text": "synthetic token ids",
            "memory_method": "every tensor that torch allocates, in a pass of its own",
        },
        "stages": stages,
        "trials": [
            {
                "index": index,
                "started_at": started,
                "build_time_s": 1.25,
                "first_call_s": 0.41,
                "warmup": NOTHING,
                "samples": noise.series(parts, blocks, slower=slower, device=device),
                "settled": True,
                "conditions": around or conditions(),
            }
            for index in range(trials)
        ],
        "schema_version": 1,
    }
    return usual | fields


def sitting() -> dict[str, Any]:
    """Returns runs of three schemes, measured together; two took turns enough to be ranked.

    The machine's peak was measured too low: the region scheme's predictor beats its least time.
    """
    peak = {
        "flops_per_s": 150e9,
        "bandwidths": [[65536, 35e9], [1048576, 110e9], [67108864, 40e9]],
        "kernel": "a matrix product",
        "cpu_share": 0.99,
        "dtype": "float32",
        "took_s": 0.8,
    }
    square = {"resolution": (800, 1312), "peak": peak}
    turns = (2, 2, 2)
    return {
        "patch32": run("patch32", PATCH, blocks=turns, peak=peak),
        "grid-r50": run("grid-r50", GRID, kind="grid", blocks=turns, **square),
        "region-r101-c4": run("region-r101-c4", REGION, kind="region", tokens=36, trials=1, blocks=(2,), **square),
    }


def others() -> dict[str, Any]:
    """Returns runs that a report must bear: of another case, of a GPU, one that failed, one that was interrupted."""
    state = {"sm_clock_hz": 1.98e9, "temperature_c": 61.0, "power_w": 310.0, "throttle_reasons": []}
    hot = conditions(
        cpu_share=None, gpu_before=state, gpu_after=state | {"sm_clock_hz": 1.2e9}, throttle_reasons=["hw_slowdown"]
    )
    large = case("patch32", options={"stride": 16}, resolution=[384, 640], batch_size=8, reduce="avg-pool:2")
    return {
        "gpu": run(
            "gpu",
            [(name, seconds / 80, *rest) for name, seconds, *rest in PATCH],  # type: ignore[misc]
            asked=case("patch32", device="cuda", dtype="bfloat16"),
            where=GPU,
            around=hot,
            energy={
                "joules_per_pass": [1.31, 1.29, 1.30],
                "window_s": [2.0, 2.0, 2.0],
                "passes": [450, 452, 451],
                "idle_power_w": 71.5,
                "method": "the GPU's own counter",
            },
        ),
        "failed": run(
            "failed",
            (),
            asked=large,
            trials=0,
            model=None,
            failure={
                "kind": "out-of-memory",
                "message": "the model and a pass take more than 16.0 GiB",
                "stage": "modality_interaction.transformer",
            },
        ),
        "interrupted": run(
            "interrupted",
            PATCH,
            asked=large | {"batch_size": 2},
            trials=1,
            interrupted=True,
            around=conditions(cpu_share=0.61, involuntary_context_switches=4_000),
            warnings=["the host's clock went back during a pass, which was left out"],
        ),
    }


def history() -> dict[str, Any]:
    """Returns runs over commits: one embedder that got slower by 12% with the sixth, one measured too seldom."""
    found = {}
    for day in range(1, 11):
        source = {
            "commit": f"{day:02}" * 20,
            "branch": "main",
            "dirty": False,
            "committed_at": f"2026-11-{day:02}T01:00:00+00:00",
        }
        factor = (1.12 if day >= 6 else 1.0) * (1 + 0.002 * (day % 3))
        fields = {"day": day, "blocks": (3,), "source": source}
        found[f"patch32-{day:02}"] = run(
            f"{day:02}", PATCH, asked=case("patch32"), slower=factor, group=f"day {day}", **fields
        )
        if day % 5 == 0:
            found[f"grid-r50-{day:02}"] = run(
                f"grid {day:02}", GRID, asked=case("grid-r50"), kind="grid", group=f"day {day}", **fields
            )
    return found


def candidate() -> dict[str, Any]:
    """Returns a run of the code that is to be judged, after the history's last; it has fewer parameters."""
    narrower = [*PATCH[:-1], (PATCH[-1][0], PATCH[-1][1], 295_296, 590_000, PATCH[-1][4])]
    return {
        "patch32": run("candidate", narrower, asked=case("patch32"), slower=2.5, trials=6, blocks=(3,), day=14),
        "grid-r50": run(
            "grid candidate", GRID, asked=case("grid-r50"), kind="grid", trials=3, blocks=(2,), day=14, slower=0.6
        ),
    }


def paper() -> dict[str, Any]:
    """Returns measured rows of the ViLT paper's Table 6, and both studies."""
    bert = {"interaction": "bert", "vilt": VILT | {"text_positions": 512}, "fit": "exact"}
    found: dict[str, Any] = {
        "patch32": run("patch32", PATCH, asked=case("patch32", resolution=[384, 640], fit="exact"), trials=1),
        "grid-r50": run(
            "grid-r50", GRID, asked=case("grid-r50", resolution=[800, 1333], **bert), kind="grid", trials=1, tokens=252
        ),
        "region-r101-c4": run(
            "region-r101-c4",
            REGION,
            asked=case(
                "region-r101-c4",
                options={"regions": 36, "proposals": 1000},
                resolution=[800, 1333],
                text_length=60,
                **bert,
            ),
            kind="region",
            tokens=36,
            trials=1,
            blocks=(2,),
        ),
    }
    noise = Noise()

    def series(seconds: float) -> dict[str, Any]:
        return NOTHING | {"whole": noise.times(seconds, 6), "blocks": [2, 2, 2]}

    points = []
    for proposals, pool, objects in (
        *((count, 18, 40) for count in (36, 100, 300, 1000)),
        *((300, count, 40) for count in (4, 80, 400)),
        *((300, 18, count) for count in (5, 100, 300)),
    ):
        for mode, classes, slope in (
            ("per-class-unthresholded", 1600, 9e-6),
            ("per-class", min(pool, 36), 2e-6),
            ("class-agnostic", min(pool, 36), 1e-6),
        ):
            candidates = proposals * 1600 if classes == 1600 else 2 * objects + proposals // 10
            point = {
                "mode": mode,
                "proposals": proposals,
                "pool": pool,
                "candidates": candidates,
                "classes": classes,
                "kept": min(36, candidates),
                "samples": series(0.0003 + slope * (classes * 4 + proposals / 10)),
                "objects": objects,
            }
            points.append(point)
    began = "2026-11-24T06:00:00+00:00"
    found["nms-2026-11-24T060000Z"] = {
        "started_at": began,
        "environment": environment(),
        "points": points,
        "detector_classes": 1600,
        "score_threshold": 0.2,
        "seed": 0,
        "schema_version": 1,
    }
    found["sequence-2026-11-24T060000Z"] = {
        "started_at": began,
        "environment": environment(),
        "points": [
            {"length": length, "samples": series(0.02 + 0.0011 * length + 6e-7 * length**2)}
            for length in (40, 80, 160, 320, 640)
        ],
        "seed": 0,
        "schema_version": 1,
    }
    return found


def verdict(
    name: str, verdict: str, baseline_s: float | None, value: float | None, reason: str, **fields: Any
) -> dict[str, Any]:
    """Returns the comparison of one stage, or of the whole, as the gate's JSON has it."""
    ratio = None if value is None else {"value": value, "low": value - 0.009, "high": value + 0.009, "units": 12}
    candidate_s = None if value is None or baseline_s is None else round(baseline_s * value, 9)
    usual = {
        "name": name,
        "verdict": verdict,
        "baseline_s": baseline_s,
        "candidate_s": candidate_s,
        "ratio": ratio,
        "channel": "wall_time",
        "reason": reason,
    }
    return usual | fields


def comparisons() -> list[dict[str, Any]]:
    """Returns one comparison of each verdict, as the gate makes them."""
    within = "within the tolerance of 2.5%"

    def compared(asked: dict[str, Any], total: Any, *stages: Any, **fields: Any) -> dict[str, Any]:
        usual = {
            "case": asked,
            "method": "lockstep",
            "baseline": {"name": "main", "runs": ["0123"], "processes": 12, "versions": ["commit 3f2c1ab"]},
            "candidate": {"name": "this branch", "runs": ["4567"], "processes": 12, "versions": ["commit 9ab77de"]},
            "environment": environment(),
            "total": total,
            "stages": stages,
            "counts": [],
            "tolerance": 0.025,
            "error": 0.01,
            "gate": "total",
            "detectable": 0.038,
            "spent_s": 254.0,
            "notes": ["Random weights: visual embedder, shared model."],
        }
        return usual | fields

    slower = "slower by 6.4%, beyond the tolerance of 2.5%"
    transformer = "modality_interaction.transformer"
    return [
        compared(
            case("patch32", resolution=[384, 640], batch_size=8),
            verdict("whole", "unchanged", 0.3587, 0.998, within),
            verdict("visual_embedder.projection", "unchanged", 0.0091, 0.998, within),
            verdict(transformer, "unchanged", 0.3496, 0.998, within),
        ),
        compared(
            case("patch32"),
            verdict("whole", "regressed", 0.3587, 1.062, slower.replace("6.4", "6.2")),
            verdict("textual_embedder", "unchanged", 0.00024, 0.998, within),
            verdict("visual_embedder.projection", "unchanged", 0.0091, 0.998, within),
            verdict(transformer, "regressed", 0.3481, 1.064, slower),
            counts=[
                {"stage": transformer, "quantity": "parameters", "baseline": 85_054_464, "candidate": 85_645_056},
                {"stage": transformer, "quantity": "flops", "baseline": 46_090_000_000, "candidate": 46_480_000_000},
                {
                    "stage": "visual_embedder.projection",
                    "quantity": "peak_bytes",
                    "baseline": 467_000_000,
                    "candidate": None,
                },
            ],
            gate="stages",
        ),
        compared(
            case("grid-r50"),
            verdict("whole", "improved", 2.0618, 0.924, "faster by 7.6%"),
            verdict("visual_embedder.backbone", "improved", 1.7287, 0.91, "faster by 9.0%"),
            verdict("modality_interaction", "unchanged", 0.3328, 0.998, within),
        ),
        compared(
            case("region-r101-c4"),
            verdict(
                "whole", "inconclusive", 13.1, 1.019, "the interval holds the tolerance of 2.5% when the time was over"
            ),
            verdict("visual_embedder.roi_head", "inconclusive", 10.8, 1.02, "the interval holds the tolerance of 2.5%"),
            verdict("visual_embedder.class_nms", "regressed", 0.015, 1.31, slower.replace("6.4", "31.0")),
            detectable=0.14,
            notes=[
                "Random weights: visual embedder, shared model.",
                "class_nms: planted logits (seed 0): 40 objects of 18 classes, 4 near-synonyms each.",
            ],
        ),
        compared(
            case("patch64"),
            verdict(
                "whole",
                "missing",
                None,
                None,
                "no baseline: main has no such embedder",
                candidate_s=0.0123,
                missing_from="baseline",
            ),
            detectable=None,
        ),
    ]


def examination() -> dict[str, Any]:
    """Returns what the doctor finds on a machine that is shared, and not quite quiet."""
    noise = Noise()
    pairs = []
    for index in range(12):
        first, second = (0.005 * (1 + 0.004 * ((index * step) % 7 - 3)) for step in (3, 5))
        pair = {
            "first_s": noise.times(first, 10)["wall_time_s"],
            "second_s": noise.times(second, 10)["wall_time_s"],
            "cpu_share": 0.97,
            "start_s": 3.1,
        }
        pairs.append(pair)
    return {
        "environment": environment(
            settings={"governor": "powersave", "turbo": "on", "smt": "on"},
            hardware={"usable_cores": "2", "logical_cores": "4", "virtual_machine": "yes"},
        ),
        "fitness": {
            "timer_resolution_s": 4e-08,
            "steal_share": 0.03,
            "others_share": 0.12,
            "quota_held_s": 0.0,
            "thermal_throttles": None,
            "memory_available_bytes": 12_000_000_000,
            "swap_used_bytes": 0,
        },
        "clocks": [
            {"name": "perf_counter", "resolution_s": 4e-08, "read_s": 7e-08},
            {"name": "process_time", "resolution_s": 1e-06, "read_s": 3e-07},
        ],
        "pairs": pairs,
        "neighbours": [{"name": "compiler", "share": 0.45}],
        "load_average": 0.6,
        "frequency_hz": 2.45e9,
        "highest_frequency_hz": 3.5e9,
        "clock_source": "tsc",
        "memory_bytes": 17_179_869_184,
        "gpus": [],
        "took_s": 41.0,
    }


def stamp(record: Mapping[str, Any]) -> str:
    """Returns what a record's file name begins with; nothing for a study, whose name ends so."""
    return record["started_at"][:19].replace(":", "") + "Z-" if "case" in record else ""


def documents() -> dict[str, Any]:
    """Returns each file's content by its path."""
    folders = {"sitting": sitting(), "others": others(), "history": history(), "candidate": candidate()}
    found = {
        f"{folder}/{stamp(record)}{name}.json": record
        for folder, records in (*folders.items(), ("paper", paper()))
        for name, record in records.items()
    }
    return found | {"comparisons.json": comparisons(), "examination.json": examination()}


def write(folder: Path) -> None:
    """Write all files into the folder."""
    for name, document in documents().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDS)
