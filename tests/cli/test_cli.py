"""The command line, as a user meets it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from vilt_bench import load
from vilt_bench.cli import main

TINY = [
    "--hidden-size",
    "32",
    "--layers",
    "1",
    "--heads",
    "2",
    "--mlp-size",
    "64",
    "--text-length",
    "8",
    "--threads",
    "1",
    "--device",
    "cpu",
]
QUICK = ["--resolution", "64x64", "--trials", "1", "--max-time", "1"]


@pytest.fixture
def complaint(capsys, tmp_path):
    """Runs a command that must be refused; returns the one line that it says."""

    def run(*arguments, output=True):
        runs = bool(arguments) and arguments[0] == "run"
        more = ["--quiet"] if runs else []  # what goes on is told besides
        if runs and output:
            more += ["--output", str(tmp_path / "results")]
        try:
            code = main([*map(str, arguments), *more])
        except SystemExit as error:
            code = error.code
        captured = capsys.readouterr()
        assert code == 2
        assert captured.out == ""
        assert captured.err.startswith("vilt-bench: ")
        assert captured.err.count("\n") == 1
        return captured.err

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--embedder", "patch3"], "did you mean 'patch32'"),
        (["--embedder", "patch32,patch_size"], "not KEY=VALUE"),
        (["--embedder", "patch32", "--resolution", "384"], "is not HEIGHTxWIDTH"),
        (["--embedder", "patch32", "--resolution=-3x5"], "is not HEIGHTxWIDTH"),
        (["--embedder", "patch32", "--resolution", "0x640"], "out of range"),
        (["--embedder", "patch32", "--resolution", "99999x99999"], "out of range"),
        (["--embedder", "patch32", "--batch-size", "0"], "--batch-size must be between 1"),
        (["--embedder", "patch32", "--batch-size", "-1"], "--batch-size must be between 1"),
        (["--embedder", "patch32", "--batch-size", "two"], "invalid int value: 'two'"),
        (["--embedder", "patch32", "--text-length", "41"], "longer than the position table of 40"),
        (["--embedder", "patch32", "--device", "GPU 0"], "no device is called 'GPU 0'"),
        (["--embedder", "patch32", "--device", "tpu"], "--device 'tpu' is no device that torch knows; expected one of"),
        (["--embedder", "patch32", "--dtype", "int8"], "must be one of float32, bfloat16, float16"),
        (["--embedder", "patch32", "--hidden-size", "30"], "multiple of --heads"),
        (["--embedder", "patch32", "--precision", "0"], "--precision must be between 0 and 1"),
        (["--embedder", "patch32", "--max-time", "nan"], "--max-time must be between"),
        (["--embedder", "patch32", "--trials", "0"], "--trials must be between 1"),
        (["--embedder", "patch32", "--seed", "-1"], "--seed must be between"),
        (["--embedder", "patch32", "--image", "no-such-photo.jpg"], "no-such-photo.jpg"),
        (["--embedder", "patch32", "--embedder", "patch16", "--weights", "x"], "--weights is of one embedder"),
        ([], "give --embedder NAME, --preset NAME or --plan FILE"),
        (["--preset", "papr"], "did you mean 'paper'"),
        (["--embedder", "patch32", "--reduce", "shrink:2"], "--reduce 'shrink:2' is not NAME:N"),
        (["--embedder", "patch32,reduce=avg-pool"], "--reduce 'avg-pool' is not NAME:N"),
        (["--embedder", "patch32,resolution=8"], "is not HEIGHTxWIDTH"),
        (["--embedder", "patch32", "--resolution", "native", "--image", "synthetic"], "no size of its own"),
        (["--embedder", "patch32", "--fit", "native", "--resolution", "64x64"], "leave --resolution out"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(complaint, arguments, said):
    assert said in complaint("run", *arguments)


def test_a_file_that_is_no_image_is_refused(complaint, tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("not an image")
    assert "notes.jpg" in complaint("run", "--embedder", "patch32", "--image", path)


def test_an_output_that_can_not_be_written_is_refused_before_measuring(complaint, tmp_path):
    (tmp_path / "file").write_text("")
    said = complaint("run", "--embedder", "patch32", "--output", tmp_path / "file" / "results", output=False)
    assert "can't be written" in said


# These need a worker, which imports torch: one process a case.
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--embedder", "patch32", "--resolution", "16x16"], "smaller than the embedder's stride or patch of 32"),
        (["--embedder", "patch,patch_size=4096"], "4096"),
        (["--embedder", "patch32,colour=red"], "no option 'colour'"),
        (["--embedder", "patch32", "--checkpoint", "no-such-folder"], "no weights at no-such-folder"),
    ],
)
def test_what_only_the_model_can_tell_is_refused_in_one_line(complaint, arguments, said):
    assert said in complaint("run", *arguments)


def test_cuda_without_cuda_is_refused(complaint):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is CUDA")
    assert "sees no cuda device" in complaint("run", "--embedder", "patch32", "--device", "cuda")


def test_a_checkpoint_of_another_model_is_refused(complaint, tmp_path):
    import torch

    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "resnet.pth")
    said = complaint("run", "--embedder", "patch32", "--checkpoint", tmp_path / "resnet.pth")
    assert "resnet.pth" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("{", "not a whole record"),
        ("[1, 2]", "no vilt-bench record"),
        ('{"schema_version": 999}', "newer than this program"),
        ('{"schema_version": 1}', "no valid record"),
    ],
)
def test_a_bad_record_is_refused(complaint, tmp_path, content, said):
    path = tmp_path / "run.json"
    path.write_text(content)
    assert said in complaint("report", path)


def test_columns_that_nothing_is_known_of_are_refused_before_anything_is_read_or_measured(complaint):
    for command in (["report", "nowhere"], ["run", "patch32"]):
        assert "nothing is known of 'p98'; did you mean 'p90'?" in complaint(*command, "--columns", "p98")
        assert "that a picture of 'report' spans: --span 2" in complaint(*command, "--columns", "2")


def test_columns_are_listed_and_chosen(capsys, tmp_path, make_run):
    assert main(["report", "--columns", "help"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert "images-per-second  Images/s [95% interval]" in listed
    from vilt_bench.record import store

    store.save(make_run(), tmp_path)
    assert main(["report", str(tmp_path), "--columns", ",".join(line.split()[0] for line in listed)]) == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path), "--columns", "Time_per_image,p50"]) == 0
    shown = capsys.readouterr().out
    assert "An image" in shown
    assert "GFLOPs" not in shown


def test_a_report_that_can_not_be_written_is_refused(complaint, tmp_path, make_run):
    from vilt_bench.record import store

    path = store.save(make_run(), tmp_path)
    said = complaint("report", path, "--format", "csv", "--output", tmp_path / "no" / "such" / "folder.csv")
    assert "can't be written" in said


def test_a_query_or_a_name_without_a_hit_is_refused(complaint):
    assert "no embedder fits 'zzz'" in complaint("list", "zzz")
    assert "no embedder fits 'timm/zzz'" in complaint("list", "timm/zzz")
    assert "no embedder fits 'timm/resnet5O'; did you mean 'timm/resnet50'?" in complaint("list", "timm/resnet5O")
    assert "no model fits 'zzz'" in complaint("list", "--vlm", "zzz")
    assert "did you mean" in complaint("show", "patch3")


def test_a_run_prints_stages_and_saves_a_record_that_report_reads(capsys, tmp_path):
    image = tmp_path / "grey.png"
    Image.linear_gradient("L").resize((200, 150)).save(image)
    code = main(
        ["run", "--embedder", "patch32", *TINY, *QUICK, "--image", str(image), "--output", str(tmp_path / "out")]
    )
    printed = " ".join(capsys.readouterr().out.split())  # a line may be broken between any words
    assert code == 0
    for expected in (
        "projection",
        "transformer",
        "whole",
        "random weights",
        "grey.png",
        "synthetic token ids",
        "saved",
    ):
        assert expected in printed
    (record,) = (tmp_path / "out").iterdir()
    run = load(record)
    assert run.model.images == ("grey.png",)
    assert {"wall_time", "cpu_time"} == set(run.to_frame()["quantity"])

    assert main(["report", str(record), "--format", "json"]) == 0
    (summary,) = json.loads(capsys.readouterr().out)
    assert summary["embedder"] == "patch32"


def test_several_embedders_are_shown_side_by_side(capsys, tmp_path):
    names = ["--embedder", "patch32", "--embedder", "patch,patch_size=16"]
    code = main(["run", *names, *TINY, *QUICK, "--image", "synthetic", "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert code == 0
    assert printed.index("patch,patch_size=16") < printed.index("saved")
    assert len(list(tmp_path.iterdir())) == 2
    assert len({load(path).group for path in tmp_path.iterdir()}) == 1


def test_a_reduction_is_a_stage_of_the_run_and_native_size_is_the_photographs(capsys, tmp_path):
    image = tmp_path / "grey.png"
    Image.linear_gradient("L").resize((150, 200)).save(image)
    options = [*TINY, "--trials", "1", "--max-time", "1", "--image", str(image), "--resolution", "native"]
    code = main(
        ["run", "--embedder", "patch,patch_size=25,reduce=avg-pool:2", *options, "--output", str(tmp_path / "out")]
    )
    assert code == 0
    assert "reduction" in capsys.readouterr().out
    (record,) = (tmp_path / "out").iterdir()
    run = load(record)
    assert run.model.resolution == (200, 150)
    assert run.model.visual_tokens == 4 * 3
    assert run.case.reduce == "avg-pool:2"


def test_a_preset_of_a_file_is_run(capsys, tmp_path):
    preset = tmp_path / "mine.toml"
    preset.write_text('[presets.mine]\nembedders = ["patch32", "patch,patch_size=8,resolution=32x32"]\n')
    code = main(
        ["run", "--preset", str(preset), *TINY, *QUICK, "--image", "synthetic", "--output", str(tmp_path / "out")]
    )
    assert code == 0
    runs = {run.model.visual_tokens for run in map(load, (tmp_path / "out").iterdir())}
    assert runs == {4, 16}


def test_show_says_how_long_each_stage_takes_at_least(capsys):
    arguments = ["show", "patch32", *TINY, "--resolution", "64x64", "--reduce", "avg-pool:2"]
    assert main(arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for expected in ("At least", "(ms)", "estimated lower bound", "GFLOP/s", "on 1 thread", "reduction"):
        assert expected in shown
    assert main([*arguments, "--no-peak"]) == 0
    assert "At least" not in capsys.readouterr().out


def test_show_tells_least_times_on_machines_that_are_not_here_and_measures_none(capsys, monkeypatch):
    from vilt_bench.director import limits

    monkeypatch.setattr(limits, "measure_peak", lambda *_, **__: pytest.fail("the peak of this machine was measured"))
    arguments = ["show", "patch32", "--text-length", "8", "--image", "synthetic", "--resolution", "64x64"]
    assert main([*arguments, "--on", "H100,P40", "--dtype", "bfloat16"]) == 0
    shown = capsys.readouterr().out
    for expected in (
        "At least",
        "H100",
        "P40",
        "estimated lower bound from datasheets",
        "nothing was measured",
        "989.4",
    ):
        assert expected in shown
    assert "P40 – NVIDIA Tesla P40 has no stated peak in bfloat16" in shown
    whole = next(line for line in shown.splitlines() if line.startswith("all"))
    assert whole.split()[-1] == "–"
    assert float(whole.split()[-2]) > 0
    assert main([*arguments, "--on", "H100", "--threads", "1"]) == 2
    assert "--threads is of this machine" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "code"), [("H10", 2), ("help", 0)])
def test_machines_are_listed_and_misspelt_ones_guessed(capsys, given, code):
    assert main(["show", "patch32", "--on", given]) == code
    said = capsys.readouterr()
    if code:
        assert "--on knows no machine 'H10'; did you mean 'H100'?" in said.err
    else:
        assert "https://" in said.out


def test_list_shows_what_models_use_and_where_that_is_said(capsys):
    assert main(["list", "--vlm", "fastvlm"]) == 0
    shown = capsys.readouterr().out
    assert "timm/fastvit_mci3" in shown
    assert "github:apple/ml-fastvlm" in shown
    assert main(["list", "--presets"]) == 0
    assert "vlm-2026" in capsys.readouterr().out


PLUGIN = """
import torch
from torch import nn
from vilt_bench.embedding import VisualEmbedder, VisualTokens

class Pixels(nn.Module):
    def forward(self, images):
        return images.pixels

class Projection(nn.Module):
    def __init__(self, hidden_size, elements):
        super().__init__()
        self.linear = nn.Linear(3, hidden_size)
        self.elements = elements

    def forward(self, pixels):
        print("a library that chats")
        if self.elements and not pixels.is_meta:
            torch.empty(self.elements)
        return VisualTokens(self.linear(pixels.mean((2, 3)))[:, None])

def build(*, hidden_size=768, elements=0):
    stages = {"backbone": Pixels(), "projection": Projection(hidden_size, elements)}
    return VisualEmbedder(stages, kind="grid", hidden_size=hidden_size, resolution=(64, 64))
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "acme.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    return "acme:build"


def test_an_embedder_of_the_users_own_needs_no_packaging(capsys, plugin):
    assert main(["run", "--embedder", plugin, *TINY, *QUICK, "--output", "out"]) == 0
    assert "backbone" in capsys.readouterr().out


def test_running_out_of_memory_is_a_record_and_the_other_embedder_is_measured(capsys, plugin):
    names = ["--embedder", f"{plugin},elements={2**50}", "--embedder", "patch32"]
    code = main(["run", *names, *TINY, *QUICK, "--output", "out"])
    captured = capsys.readouterr()
    assert code == 2
    assert "out-of-memory" in captured.err
    assert "--batch-size" in captured.err
    runs = {run.case.embedder: run for run in map(load, Path("out").iterdir())}
    assert runs[plugin].failure.stage == "visual_embedder.projection"
    assert runs["patch32"].failure is None
    assert runs["patch32"].trials


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_was_measured(tmp_path, ending):
    # A pseudo-terminal, so that progress tells when samples are there.
    import pty

    reader, terminal = pty.openpty()
    command = [sys.executable, "-m", "vilt_bench.cli", "run", "--embedder", "patch32", *TINY]
    with subprocess.Popen(
        [*command, "--resolution", "64x64", "--max-time", "600", "--precision", "1e-9", "--output", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=terminal,
        start_new_session=True,
    ) as process:
        told = b""
        deadline = time.monotonic() + 120
        while b"sampling (" not in told or b"(0 passes" in told.rpartition(b"\r")[2]:
            assert time.monotonic() < deadline
            told += os.read(reader, 1000)
        os.killpg(process.pid, ending)
        printed, _ = process.communicate(timeout=60)
    os.close(reader)
    os.close(terminal)
    assert process.returncode == 130
    assert b"Interrupted" in printed
    (record,) = tmp_path.iterdir()
    run = load(record)
    assert run.interrupted
    assert run.trials[0].samples.whole.wall_time_s


def imported(*arguments):
    program = f"""
import sys
from vilt_bench.cli import main
try:
    main({[str(argument) for argument in arguments]})
finally:
    print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "vilt_bench.cli" in done.stderr
    return set(done.stderr.split())


def test_help_list_and_report_import_nothing_heavy(tmp_path, make_run):
    from vilt_bench.record import store

    record = store.save(make_run(), tmp_path)
    heavy = {"torch", "numpy", "pandas", "timm", "torchvision", "sklearn", "PIL", "matplotlib"}
    for arguments in (
        ["--help"],
        ["run", "--help"],
        ["list"],
        ["list", "timm/resnet"],
        ["list", "--vlm"],
        ["report", record],
        ["report", record, "--format", "csv"],
        ["history", tmp_path],
    ):
        assert not imported(*arguments) & heavy


def test_a_reader_that_has_had_enough_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m vilt_bench.cli list | head -1", shell=True, capture_output=True, text=True
    )
    assert done.stderr == ""


def test_a_row_of_the_paper_that_is_misspelt_gets_the_nearest(complaint):
    assert "did you mean 'ViLT-B/32'" in complaint("paper", "--rows", "vilt-b32")


def test_a_study_is_printed_kept_with_its_plot_and_taken_up_in_a_later_report(capsys, tmp_path):
    assert main(["paper", "--nms", "--study-time", "0.1", "--quiet", "--output", str(tmp_path)]) == 0
    assert "no threshold" in capsys.readouterr().out
    assert {path.suffix for path in (tmp_path / "records").iterdir()} == {".json", ".svg"}
    page = (tmp_path / "README.md").read_text()
    assert "nms.svg" in page
    # All rows are in the report, whatever is printed.
    assert main(["paper", "--rows", "ViLT-B/32", "--rows", "vilt-b/32", "--output", str(tmp_path)]) == 0
    assert (tmp_path / "README.md").read_text() == page
    printed = capsys.readouterr().out
    assert "LXMERT" not in printed
    assert "ViLT-B/32, ViLT-B/32" not in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nms", "--study-time", "-1"], "--study-time must be between"),
        (["--study-time", "3"], "add --nms or --sequence"),
        (["--trials", "3"], "--trials is for timing the rows; add --measure"),
        (["--sequence", "--dtype", "bfloat16"], "the studies are in float32"),
        (["--measure", "--trials", "0", "--rows", "ViLT-B/32", "--quiet"], "--trials must be at least 1"),
    ],
)
def test_an_option_of_the_paper_that_can_do_nothing_is_refused(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["paper", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_show_answers_for_the_input_that_run_would_get(capsys):
    # A photograph of 427×640 pixels within 336×336, edges floored to 32: by ViLT's image processor 224×320.
    assert main(["show", "patch32", *TINY, "--resolution", "336x336", "--no-peak"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "224×320 pixels (hopper-upper.jpg, hopper-lower.jpg, --fit aspect)" in shown
    assert "70 visual and 8 text tokens" in shown
    assert main(["show", "patch32", *TINY, "--resolution", "336x336", "--no-peak", "--fit", "crop"]) == 0
    assert "320×320 pixels (hopper-upper.jpg, hopper-lower.jpg, --fit crop)" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main(["show", "patch32", *TINY, "--resolution", "64x96", "--no-peak", "--image", "synthetic"]) == 0
    assert "64×96 pixels (synthetic)" in " ".join(capsys.readouterr().out.split())


def test_frames_of_a_clip_are_decoded_embedded_and_joined_within_a_pass(capsys, tmp_path, clip):
    arguments = [
        "run",
        "patch32",
        "--frames",
        "3@5",
        "--image",
        clip(6),
        "--with-preprocessing",
        "--interaction",
        "none",
    ]
    folder = tmp_path / "results"
    assert main([*arguments, *QUICK, "--fit", "crop", "--threads", "1", "--quiet", "--output", str(folder)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for said in (" frames/s ", " ms a frame ", "3 frames a clip, 5 a second", "clips: clip.mp4", "by PyAV"):
        assert said in shown
    (run,) = map(load, folder.iterdir())
    assert (run.case.frames, run.case.frame_rate) == (3, 5.0)
    assert run.model.visual_tokens == 3 * 4
    names = [stage.name for stage in run.stages]
    assert names == [
        *(f"preprocessing.{name}" for name in ("decode", "resize", "normalise")),
        *(f"visual_embedder.{name}" for name in ("projection", "assembly")),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--frames", "x"], "--frames: 'x' is not N[@FPS], as in 8 or 8@2"),
        (["--frames", "0"], "--frames must be between 1 and 4096, got 0"),
        (["--frames", "8@0", "--image", "a.mp4"], "--frames N@FPS must be between 0.001 and 1000 a second, got 0"),
        (["--frames", "8@2"], "is of clips, and synthetic frames have no time; give --image CLIP"),
        (["--frames", "8", "--with-preprocessing"], "synthetic frames are none; give --image CLIP"),
        (["--frames", "8", "--image", "a.mp4"], "no clip 'a.mp4'; give the path of a clip file"),
        (["--frames", "8", "--image", __file__], "can't be decoded"),
        (["--frames", "8", "--tiles", "internvl:4"], "--frames of clips; give one or the other"),
        (["--frames", "8", "--interaction", "vilt"], "give --interaction none, or lm:NAME"),
    ],
)
def test_frames_that_can_not_be_are_one_line(complaint, arguments, said):
    assert said in complaint("run", "patch32", "--interaction", "none", *arguments)
