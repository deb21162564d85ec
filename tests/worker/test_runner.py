"""The runner, on workloads of known cost and on small models."""

import time
from dataclasses import dataclass
from statistics import median

import pytest
import torch
from torch import nn

from embedders.patch import patch
from vilt_bench.ask.case import Case, ViltConfig
from vilt_bench.errors import CheckpointError, EmbedderError, InputError
from vilt_bench.protocol import PeakMeasured
from vilt_bench.record.peak import Peak
from vilt_bench.worker.backends import onednn
from vilt_bench.worker.build import check_memory
from vilt_bench.worker.count import inspect
from vilt_bench.worker.failures import StageError, failure_of, is_out_of_memory
from vilt_bench.worker.inputs import least_bytes
from vilt_bench.worker.limit import peak_here
from vilt_bench.worker.meters.fake import FakeTime, scripted_forward
from vilt_bench.worker.meters.latency import HostTimer
from vilt_bench.worker.meters.meta import building
from vilt_bench.worker.observe import check_tokens, describe
from vilt_bench.worker.runner import prepare, time_block

TINY = ViltConfig(hidden_size=32, layers=2, heads=4, mlp_size=64)
COSTS_S = {"textual_embedder": 0.002, "visual_embedder.projection": 0.001, "modality_interaction.transformer": 0.005}


def tiny_case(**changes):
    fields = {"embedder": "patch32", "vilt": TINY, "resolution": (64, 96), "text_length": 8, "device": "cpu"}
    return Case(**{**fields, **changes})


def timed(costs_s, *, seconds=1.0, first=0):
    now = FakeTime()
    timer = HostTimer(now.clock_ns, now.clock_ns)
    order = []

    def forward(index):
        def run(mark):
            order.append((index, mark is not None))
            scripted_forward(costs_s, now.advance)(mark)

        return run

    series = time_block(forward, timer, seconds=seconds, first=first, clock=lambda: now.now_ns * 1e-9)
    return series, order


def test_samples_of_a_block_are_what_the_stages_cost():
    series, _ = timed(COSTS_S)
    assert {name: set(map(round_ns, times.wall_time_s)) for name, times in series.stages.items()} == {
        name: {cost_s} for name, cost_s in COSTS_S.items()
    }
    assert set(map(round_ns, series.whole.wall_time_s)) == {sum(COSTS_S.values())}


def round_ns(seconds):
    return round(seconds, 9)


def test_a_block_alternates_instrumented_and_uninstrumented_passes_and_which_is_first():
    _, order = timed(COSTS_S, seconds=0.06)
    assert order[:4] == [(0, True), (0, False), (1, False), (1, True)]


def test_a_block_has_as_many_passes_of_each_kind_as_it_says():
    series, order = timed(COSTS_S, seconds=0.1)
    instrumented = [index for index, marked in order if marked]
    assert series.blocks == (len(instrumented),) == (len(series.whole.wall_time_s),)
    assert len(order) == 2 * len(instrumented)


def test_a_block_has_one_pair_however_long_it_takes():
    series, _ = timed({"visual_embedder.backbone": 30.0}, seconds=0.5)
    assert series.blocks == (1,)


def test_inputs_rotate_from_where_the_last_block_ended():
    _, order = timed(COSTS_S, seconds=0.04, first=6)
    assert order[0][0] == 6


@pytest.mark.slow
def test_real_stages_of_known_cost_are_measured_within_one_percent():
    def spin(seconds):
        end = time.perf_counter_ns() + round(seconds * 1e9)
        while time.perf_counter_ns() < end:
            pass

    series = time_block(lambda _: scripted_forward(COSTS_S, spin), HostTimer(), seconds=2.0)
    for name, cost_s in COSTS_S.items():
        assert median(series.stages[name].wall_time_s) == pytest.approx(cost_s, rel=0.01)
    assert median(series.whole.wall_time_s) == pytest.approx(sum(COSTS_S.values()), rel=0.01)


def test_a_case_runs_and_says_what_was_built():
    runner = prepare(tiny_case(batch_size=2, images=("synthetic",)), torch.device("cpu"), HostTimer())
    assert runner.first_call() > 0
    facts = runner.facts()
    assert (facts.kind, facts.resolution, facts.visual_tokens, facts.text_tokens) == ("linear", (64, 96), 6, 8)
    assert (facts.visual_weights, facts.shared_weights, facts.linear) == ("random", "random", "torch")
    assert facts.images == ("synthetic",)


def test_stages_are_counted_in_order_with_closed_form_numbers():
    runner = prepare(tiny_case(images=("synthetic",)), torch.device("cpu"), HostTimer())
    runner.first_call()
    stages, method, warnings = runner.count()
    by_name = {stage.name: stage for stage in stages}
    assert list(by_name) == [
        "textual_embedder",
        "visual_embedder.projection",
        "modality_interaction.concatenation",
        "modality_interaction.transformer",
        "modality_interaction.pooler",
    ]
    projection = by_name["visual_embedder.projection"]
    assert projection.parameters == 3 * 32 * 32 * 32 + 32
    assert projection.flops == 2 * 6 * (3 * 32 * 32) * 32
    assert projection.output == "embeddings [1, 6, 32]"
    tokens, width, mlp = 1 + 6 + 8, 32, 64
    per_layer = 2 * tokens * (4 * width * width + 2 * width * mlp) + 4 * tokens * tokens * width
    assert by_name["modality_interaction.transformer"].flops == 2 * per_layer
    assert all(stage.memory is not None and stage.memory.peak_bytes > 0 for stage in stages)
    assert method is not None
    assert warnings == ()


def test_parameters_of_all_stages_are_those_of_the_model():
    runner = prepare(tiny_case(images=("synthetic",)), torch.device("cpu"), HostTimer())
    runner.first_call()
    stages, _, _ = runner.count()
    assert sum(stage.parameters for stage in stages) == sum(each.numel() for each in runner.model.parameters())


def test_the_same_seed_builds_the_same_model():
    first, second = (prepare(tiny_case(seed=3), torch.device("cpu"), HostTimer()) for _ in range(2))
    images, text = first.inputs.batches[0]
    with torch.inference_mode():
        assert torch.equal(first.model(images, text).pooled, second.model(images, text).pooled)


def test_inspecting_counts_what_running_counts():
    case = tiny_case(images=("synthetic",))
    runner = prepare(case, torch.device("cpu"), HostTimer())
    runner.first_call()
    model, stages = inspect(case)
    assert model == runner.facts()
    assert [(each.name, each.output, each.parameters, each.flops) for each in stages] == [
        (each.name, each.output, each.parameters, each.flops) for each in runner.count()[0]
    ]


def test_inspecting_does_not_load_weights_but_tells_whether_they_are_there(tmp_path):
    case = tiny_case(options={"weights": str(tmp_path / "w.pth")}, images=("synthetic",))
    with pytest.raises(CheckpointError, match="there is no such file"):
        inspect(case)
    (tmp_path / "w.pth").touch()
    assert inspect(case)[0].visual_weights == f"{tmp_path / 'w.pth'}, not loaded"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_least_times_are_by_the_kernels_that_backend_onednn_has_as_well(dtype, monkeypatch):
    tried = {}

    def measure(device, dtype, *, packed):
        weight = torch.rand(8, 4).to(dtype)
        rows = torch.rand(3, 4).to(dtype)
        for name, pack in packed.items():
            if (product := pack(weight)) is not None:
                tried[name] = (product(rows), rows @ weight.t())
        return Peak(100e9, ((2**28, 10e9),), "the best", 1.0, str(dtype))

    monkeypatch.setattr("vilt_bench.worker.limit.measure_peak", measure)
    assert peak_here(tiny_case(images=("synthetic",), dtype=dtype, threads=1)) == PeakMeasured(
        Peak(100e9, ((2**28, 10e9),), "the best", 1.0, f"torch.{dtype}"), "cpu", 1
    )
    if onednn.pack_linear(torch.rand(4, 4).to(getattr(torch, dtype))) is not None:
        assert tried
    for found, expected in tried.values():
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("compares", [True, False])
def test_outputs_are_compared_with_eager_float32_only_where_that_is_asked_for(compares):
    case = tiny_case(images=("synthetic",), dtype="bfloat16", threads=1)
    runner = prepare(case, torch.device("cpu"), HostTimer(), compares=compares)
    runner.first_call()
    runner.compare()
    assert (runner.facts().computation is not None) == compares


def test_tokens_of_another_width_are_refused():
    from vilt_bench.embedding import VisualTokens

    with pytest.raises(EmbedderError, match=r"'acme'.*\[1, 5, 16\].*\[1, N, 32\]"):
        check_tokens(VisualTokens(torch.zeros(1, 5, 16)), name="acme", batch_size=1, hidden_size=32)


def test_running_out_of_memory_in_a_stage_is_told_with_the_stage():
    runner = prepare(tiny_case(), torch.device("cpu"), HostTimer())

    class Huge(nn.Module):
        def forward(self, images):
            return torch.empty(2**50)

    runner.model.visual_embedder.stages["projection"] = Huge()
    with pytest.raises(StageError) as caught:
        runner.first_call()
    failure = failure_of(caught.value)
    assert (failure.kind, failure.stage) == ("out-of-memory", "visual_embedder.projection")


def test_a_gpu_out_of_memory_is_recognised_and_other_errors_are_not():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@dataclass
class Boxes:
    corners: torch.Tensor
    labels: torch.Tensor | None
    scores: dict[str, list[torch.Tensor]]


def test_shapes_are_described_by_field():
    from vilt_bench.embedding import VisualTokens

    tokens = VisualTokens(torch.zeros(1, 4, 8), boxes=torch.zeros(1, 4, 4))
    assert describe(tokens) == "embeddings [1, 4, 8], boxes [1, 4, 4]"
    assert describe(torch.zeros(2, 3)) == "[2, 3]"
    assert describe([torch.zeros(1), torch.zeros(2)]) == "[1], [2]"
    assert describe(VisualTokens([torch.zeros(1), {"p2": torch.zeros(2)}])) == "embeddings [1], [2]"
    assert describe(Boxes(torch.zeros(4, 4), None, {"of": [torch.zeros(4)]})) == "corners [4, 4], scores [4]"


@pytest.mark.gpu
def test_a_case_on_the_gpu_has_device_times_for_each_stage():
    from vilt_bench.worker.meters.latency import timer_for

    device = torch.device("cuda:0")
    runner = prepare(tiny_case(device="cuda"), device, timer_for(device))
    runner.first_call()
    series = runner.block(0.2)
    assert all(each.device_time_s and min(each.device_time_s) > 0 for each in series.stages.values())
    assert sum(median(each.device_time_s) for each in series.stages.values()) == pytest.approx(
        median(series.instrumented.device_time_s), rel=0.1
    )


@pytest.mark.parametrize("fit", ["aspect", "crop"])
@pytest.mark.parametrize("images", [(), ("synthetic",)])
def test_show_and_run_get_one_size_and_as_many_tokens_for_one_request(fit, images):
    case = tiny_case(resolution=(336, 336), fit=fit, images=images)
    runner = prepare(case, torch.device("cpu"), HostTimer())
    runner.first_call()
    model, _ = inspect(case)
    assert model == runner.facts()
    if not images and fit == "aspect":
        # A photograph of 427×640 pixels within 336×336, edges floored to 32: by ViLT's image processor 224×320.
        assert (model.resolution, model.visual_tokens, model.fit) == ((224, 320), 70, "aspect")


class Strange(nn.Module):
    """Noise as visual tokens, as many and of the kind that is asked for, one pass after the other."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs
        self.passes = 0

    def forward(self, images):
        self.passes += 1
        return self.outputs(self.passes, images.pixels)


def tokens_of(count, pixels, value=0.5):
    from vilt_bench.embedding import VisualTokens

    return VisualTokens(torch.full((len(pixels), count, 32), value))


def strange_runner(outputs):
    runner = prepare(tiny_case(images=("synthetic",)), torch.device("cpu"), HostTimer())
    runner.model.visual_embedder.stages["projection"] = Strange(outputs)
    return runner


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tokens_that_are_no_numbers_are_remarked(value):
    runner = strange_runner(lambda _, pixels: tokens_of(6, pixels, value))
    runner.first_call()
    assert [remark for remark in runner.remarks() if "NaN or infinite values in float32" in remark]


def test_a_number_of_tokens_that_changes_from_pass_to_pass_is_remarked():
    runner = strange_runner(lambda index, pixels: tokens_of(3 + index, pixels))
    runner.first_call()
    assert runner.remarks() == ()
    runner.block(0.0)
    (remark,) = runner.remarks()
    assert remark.startswith("The number of visual tokens changed from pass to pass, 4 to 5: ")
    runner.sample(instrumented=True)
    assert "4 to 7: " in runner.remarks()[0]  # the block had a pass of either kind


def test_sound_passes_have_no_remark():
    runner = prepare(tiny_case(images=("synthetic",)), torch.device("cpu"), HostTimer())
    runner.first_call()
    runner.block(0.0)
    runner.count()
    assert runner.remarks() == ()
    assert runner.token_counts == {6}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            lambda _, pixels: tokens_of(6, pixels)._replace(embeddings=torch.ones(1, 6, 32).long()),
            "int64, not floating",
        ),
        (lambda _, pixels: tokens_of(6, torch.cat([pixels, pixels])), r"\[2, 6, 32\], not \[1, N, 32\]"),
        (lambda _, pixels: tokens_of(6, pixels)._replace(mask=torch.ones(1, 5, dtype=torch.bool)), r"mask is \[1, 5\]"),
        (lambda _, pixels: tokens_of(6, pixels)._replace(grid=(2, 2)), r"grid is \(2, 2\) for 6 tokens"),
        (lambda _, pixels: tokens_of(6, pixels).embeddings, "returned a Tensor; expected VisualTokens"),
    ],
)
def test_tokens_that_break_the_contract_are_refused_in_the_first_call(outputs, message):
    with pytest.raises(EmbedderError, match=f"^embedder 'patch32' .*{message}"):
        strange_runner(outputs).first_call()


@pytest.fixture
def torchs_own_state():
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: torch.set_num_threads(torch.get_num_threads() + 1), r"threads from (\d+) to \d+"),
        (lambda: torch.set_default_dtype(torch.float64), r"default_dtype from torch\.float32 to torch\.float64"),
        (lambda: torch.set_default_device("meta"), "default_device from cpu to meta"),
    ],
)
def test_an_embedder_that_changes_what_was_asked_for_is_refused(change, said, torchs_own_state):
    runner = strange_runner(lambda _, pixels: (change(), tokens_of(6, torch.empty(1, device="cpu")))[1])
    with pytest.raises(EmbedderError, match=f"^embedder 'patch32' has set torch's {said}, against what was asked for"):
        runner.first_call()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: setattr(torch.backends.cudnn, "benchmark", True), "cudnn_benchmark from False to True"),
        (lambda: torch.use_deterministic_algorithms(True), "deterministic_algorithms from False to True"),
        (lambda: torch.set_grad_enabled(False), "grad_mode from True to False"),
    ],
)
def test_what_else_an_embedder_changes_in_torch_is_remarked(change, said, torchs_own_state):
    runner = prepare(tiny_case(images=("synthetic",)), torch.device("cpu"), HostTimer())
    runner.first_call()
    change()
    assert runner.remarks() == (f"Code of the embedder has set torch's {said}.",)


def test_what_importing_and_building_an_embedder_changes_is_seen(tmp_path, monkeypatch, torchs_own_state):
    (tmp_path / "doubling_embedder.py").write_text(
        "import torch\nfrom embedders.patch import patch\n"
        "def build(*, hidden_size):\n    torch.set_default_dtype(torch.float64)\n"
        "    return patch(patch_size=32, hidden_size=hidden_size)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    case = tiny_case(embedder="doubling_embedder:build", images=("synthetic",))
    with pytest.raises(EmbedderError, match="default_dtype from"):
        prepare(case, torch.device("cpu"), HostTimer())


HOST = torch.device("cpu")


def check(case, *, there=10**15, device=HOST, weights=True):
    with building():
        embedder = patch(patch_size=32, hidden_size=32)
    check_memory(case, embedder, device, weights=weights, available=lambda _: there)


def test_a_case_whose_weights_and_inputs_do_not_fit_is_refused_before_they_are_made():
    # patch32 at D = 32; ViLT of two layers as in its paper: tables of words, positions and segments, class token,
    # positions of 12×12 and one, types; per layer QKV, output, MLP of 64 and two norms; last norm and pooler.
    d, m = 32, 64
    layer = 3 * d * d + 3 * d + d * d + d + d * m + m + m * d + d + 4 * d
    text = (30_522 + 40 + 2) * d + 2 * d
    weights = 3 * 32 * 32 * d + d + text + d + 145 * d + 2 * d + 2 * layer + 2 * d + d * d + d
    case = tiny_case(images=("synthetic",), batch_size=2)
    pixels = 2 * 3 * 64 * 96
    inputs = 4 * (4 * pixels + 2 * 8 * 8) + 4 * pixels + 4 * pixels  # batches, what they are made of, one in float32
    check(case, there=4 * weights + inputs)
    with pytest.raises(MemoryError):
        check(case, there=4 * weights + inputs - 1)
    check(case, there=inputs, weights=False)


@pytest.mark.parametrize(
    ("changes", "said", "smaller"),
    [
        (  # 6 × 4 × 3 × 9984² bytes
            {"resolution": (10_000, 10_000), "images": ("synthetic",)},
            r"inputs 7\.2 GB",
            "batch or resolution",
        ),
        # 65,536 × 3 × 64 × 96 scalars, 5 × 4 bytes
        ({"batch_size": 65_536}, r"inputs 24\.2 GB", "batch or resolution"),
        (
            {"vilt": ViltConfig(hidden_size=65_536, layers=1000, heads=64, mlp_size=262_144)},
            r"weights take 206,\d+\.\d GB",
            "model",
        ),
    ],
)
def test_absurd_sizes_are_told_with_what_they_take_what_is_there_and_what_to_give(changes, said, smaller):
    told = f"{said}.*, and 2\\.0 GB of memory are available on cpu; give a smaller {smaller}$"
    with pytest.raises(MemoryError, match=told):
        check_case(tiny_case(**changes), there=2 * 10**9)


def check_case(case, *, there):
    with building():
        embedder = patch(patch_size=32, hidden_size=case.vilt.hidden_size)
    check_memory(case, embedder, HOST, available=lambda _: there)


def test_a_device_holds_the_weights_in_the_dtype_that_is_asked_for():
    case, gpu = tiny_case(images=("synthetic",), dtype="float16"), torch.device("cuda:0")
    with building():
        embedder = patch(patch_size=32, hidden_size=32)
    asked = {}

    def available(device):
        asked[device] = 10**9 if device == HOST else 2 * 10**6
        return asked[device]

    with pytest.raises(MemoryError, match=r"weights take 0\.0 GB.* available on cuda:0"):
        check_memory(case, embedder, gpu, available=available)
    assert list(asked) == [HOST, gpu]
    check_memory(case, embedder, gpu, available=lambda _: None)  # a device that does not tell


def test_showing_an_absurd_size_is_refused_in_a_line_though_nothing_would_run():
    with pytest.raises(InputError, match=r"^patch32: inputs take .* GB, and .* GB of memory are available"):
        inspect(tiny_case(resolution=(16_384, 16_384), batch_size=4096, images=("synthetic",)))


def test_a_size_that_a_fixed_model_is_built_for_is_fitted_as_asked():
    for fit, told in (("exact", "exact"), ("aspect", "crop")):
        model, _ = inspect(Case("timm/vit_tiny_patch16_224", vilt=TINY, resolution=(48, 80), fit=fit))
        assert (model.resolution, model.fit) == ((48, 80), told)


def test_the_sizes_of_photographs_are_those_that_they_are_resized_to():
    for fit in ("aspect", "crop", "exact", "native"):
        case = tiny_case(fit=fit, resolution=None if fit == "native" else (300, 500), batch_size=3)
        made = prepare(case, HOST, HostTimer()).inputs
        on_device = sum(
            tensor.nbytes for batch in made.batches for each in batch for tensor in each if tensor is not None
        )
        counted, _ = least_bytes(case, resolution=(300, 500), size_divisor=32, dtype=torch.float32)
        assert counted == on_device
