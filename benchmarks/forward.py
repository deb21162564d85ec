"""Times the shared ViLT's forward against transformers' ViltModel and timm's blocks, interleaved in one process.

384×640 pixels and 40 text tokens, batch 1, float32, the same random weights in all. Prints Markdown.

    python benchmarks/forward.py --threads 1 2 --rounds 30
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from embedders.patch import patch32
from vilt_bench.ask.case import ViltConfig
from vilt_bench.embedding import ImageBatch, TextBatch
from vilt_bench.judge.estimate import estimate
from vilt_bench.machine.environment import collect
from vilt_bench.model import Vilt, VisionLanguageModel, load_checkpoint
from vilt_bench.worker.backends import _packed_linear, onednn

HEIGHT, WIDTH, TEXT_LENGTH = 384, 640, 40
OURS, ONEDNN, PEER, TIMM = "ours, eager", "ours, oneDNN", "transformers ViltModel", "timm blocks"
WARMUP_ROUNDS, BLOCK_ROUNDS = 2, 3
GEMM_SIZE = 2048

Forward = Callable[[ImageBatch, TextBatch], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=30, help="each times every model twice, forth and back")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(compare(threads=options.threads[0], rounds=options.rounds))
        return
    for threads in options.threads:  # a process each: OpenMP reads its settings once
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, "--worker", "--threads", str(threads), "--rounds", str(options.rounds)]
        subprocess.run(command, env=environment, check=True)


@torch.inference_mode()
def compare(*, threads: int, rounds: int) -> str:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    models, linear = build()
    inputs = [
        (ImageBatch(torch.randn(1, 3, HEIGHT, WIDTH)), TextBatch(torch.randint(1000, 30_000, (1, TEXT_LENGTH))))
        for _ in range(4)
    ]
    differences = {
        name: float((run(*inputs[0]) - models[PEER](*inputs[0])).abs().max()) for name, run in models.items()
    }
    if max(differences.values()) > 1e-5:
        raise SystemExit(f"the models do not compute the same: {differences}")
    times = time_all(models, inputs, rounds)
    fastest_peer = min((PEER, TIMM), key=lambda name: median_ratio(times[name], times[PEER])[0])
    machine = collect(torch.device("cpu"), threads=threads).machine
    rows = [
        f"### {threads} thread{'s' if threads > 1 else ''}, {machine}, torch {torch.__version__}",
        "",
        f"oneDNN: {linear}. Pooled outputs differ from ViltModel's by at most {max(differences.values()):.1e}. "
        f"Peak of a {GEMM_SIZE}³ product: MKL {peak(mkl()):.0f} GFLOP/s, oneDNN {peak(onednn_product()):.0f} GFLOP/s.",
        "",
        f"| forward | median, ms | ratio to ViltModel, 95% | ratio to the fastest peer ({fastest_peer}), 95% |",
        "|---|--:|--:|--:|",
    ]
    for name, samples in times.items():
        ratios = [median_ratio(samples, times[other]) for other in (PEER, fastest_peer)]
        shown = [f"{middle:.3f} ({low:.3f} to {high:.3f})" for middle, low, high in ratios]
        rows.append(f"| {name} | {1e3 * sorted(samples)[len(samples) // 2]:.1f} | {shown[0]} | {shown[1]} |")
    return "\n".join(rows) + "\n"


def build() -> tuple[dict[str, Forward], str]:
    import transformers

    theirs = transformers.ViltModel(transformers.ViltConfig()).eval()  # type: ignore[no-untyped-call]
    ours = VisionLanguageModel(Vilt(ViltConfig()), patch32()).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(Path(folder))
        load_checkpoint(ours, folder)
    packed = copy.deepcopy(ours)
    _packed_linear.pack(packed.shared)
    timm = with_timm_blocks(ours)
    text_mask = torch.ones(1, TEXT_LENGTH, dtype=torch.long)
    pixel_mask = torch.ones(1, HEIGHT, WIDTH, dtype=torch.long)

    def run_theirs(images: ImageBatch, text: TextBatch) -> Tensor:
        output: Tensor = theirs(
            input_ids=text.token_ids, attention_mask=text_mask, pixel_values=images.pixels, pixel_mask=pixel_mask
        ).pooler_output
        return output

    return {
        OURS: lambda images, text: ours(images, text).pooled,
        ONEDNN: lambda images, text: packed(images, text).pooled,
        PEER: run_theirs,
        TIMM: lambda images, text: timm(images, text).pooled,
    }, onednn.PACKED


def with_timm_blocks(model: VisionLanguageModel) -> VisionLanguageModel:
    """Returns a copy of the model with timm's blocks instead of ours, and the same weights."""
    from timm.models.vision_transformer import Block

    names = {
        "attention_norm": "norm1",
        "attention.qkv": "attn.qkv",
        "attention.projection": "attn.proj",
        "mlp_norm": "norm2",
        "mlp.0": "mlp.fc1",
        "mlp.2": "mlp.fc2",
    }
    model = copy.deepcopy(model)
    config = model.shared.config

    class Blocks(nn.Module):
        def __init__(self, ours: nn.Module) -> None:
            super().__init__()
            norm = partial(nn.LayerNorm, eps=config.layer_norm_eps)
            self.norm = ours.get_submodule("norm")
            self.blocks = nn.Sequential()
            for block in ours.get_submodule("blocks").children():
                twin = Block(config.hidden_size, config.heads, qkv_bias=True, norm_layer=norm)  # type: ignore[arg-type]
                for our_name, their_name in names.items():
                    twin.get_submodule(their_name).load_state_dict(block.get_submodule(our_name).state_dict())
                self.blocks.append(twin.eval())

        def forward(self, joint: tuple[Tensor, Tensor | None]) -> Tensor:
            return self.norm(self.blocks(joint[0]))  # type: ignore[no-any-return]

    stages = model.shared.modality_interaction.stages
    stages["transformer"] = Blocks(stages["transformer"])
    return model


def time_all(
    models: dict[str, Forward], inputs: list[tuple[ImageBatch, TextBatch]], rounds: int
) -> dict[str, list[float]]:
    """Returns seconds by model: each round runs all forth and back, so that drift hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + WARMUP_ROUNDS):
        for name in [*models, *reversed(models)]:
            start = time.perf_counter()
            models[name](*inputs[turn % len(inputs)])
            if turn >= WARMUP_ROUNDS:
                times[name].append(time.perf_counter() - start)
    return times


def median_ratio(candidate: list[float], baseline: list[float]) -> tuple[float, float, float]:
    """Returns the median of the paired ratios and its 95% interval."""
    # Samples 2n and 2n + 1 are a round's forth and back: the geometric mean of both cancels linear drift.
    ratios = [ours / theirs for ours, theirs in zip(candidate, baseline, strict=True)]
    pairs = [math.sqrt(forth * back) for forth, back in zip(ratios[::2], ratios[1::2], strict=True)]
    result = estimate([[pairs[start : start + BLOCK_ROUNDS] for start in range(0, len(pairs), BLOCK_ROUNDS)]])
    assert result is not None
    low, high = (math.nan if edge is None else edge for edge in (result.low, result.high))
    return result.value, low, high


def mkl() -> Callable[[], Tensor]:
    left, right = torch.randn(GEMM_SIZE, GEMM_SIZE), torch.randn(GEMM_SIZE, GEMM_SIZE)
    return lambda: left @ right


def onednn_product() -> Callable[[], Tensor]:
    layer = _packed_linear.pack(nn.Linear(GEMM_SIZE, GEMM_SIZE, bias=False))
    inputs = torch.randn(GEMM_SIZE, GEMM_SIZE)
    return lambda: layer(inputs)


def peak(product: Callable[[], Tensor]) -> float:
    """Returns GFLOP/s of the fastest of ten products."""
    times = []
    for _ in range(10):
        start = time.perf_counter()
        product()
        times.append(time.perf_counter() - start)
    return 2 * GEMM_SIZE**3 / min(times) / 1e9


if __name__ == "__main__":
    main()
