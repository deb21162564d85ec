"""Measuring what a program has in hand."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

import vilt_bench
from vilt_bench.ask.case import Case, Sampling
from vilt_bench.director import rerun
from vilt_bench.errors import ConfigError, RecordError, ViltBenchError
from vilt_bench.notebook import measuring, sending
from vilt_bench.record.alike import alike

PROGRAM = """
import torch, vilt_bench
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(3, 8, 8, stride=8), nn.Conv2d(8, 8, 1), nn.Linear(8, 10)

    def forward(self, images):
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))

run = vilt_bench.measure(Net(), image_size=32, trials=1, max_time_s=0.2)
print(vilt_bench.save(run, "results"))
"""


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (done.stderr, list(folder.glob("vilt-bench-*"))) == ("", [])  # no progress in a pipe, no file that stays
    return vilt_bench.load(folder / done.stdout.strip())


def test_a_module_of_a_program_is_measured_by_its_children_in_a_process_of_its_own(record):
    assert record.failure is None
    # Weights and biases by hand.
    counts = {stage.name.removeprefix("visual_embedder."): stage.parameters for stage in record.stages}
    assert counts == {"stem": 3 * 8 * 64 + 8, "blocks": 8 * 8 + 8, "head": 8 * 10 + 10}
    assert (record.model.visual_weights, record.model.resolution) == ("own (sent by cloudpickle)", (32, 32))
    assert record.case.embedder == "module/Net"


def test_a_module_can_not_be_measured_again_from_its_record(record):
    with pytest.raises(RecordError, match="is of a module of somebody's program or notebook"):
        rerun.check_repeatable([record])


def test_a_run_is_shown_by_a_notebook_and_printed_elsewhere(record):
    assert "<td> blocks</td>".replace(" ", "\u2003") in record._repr_html_()
    assert "module/Net" in str(vilt_bench.table(record))
    assert vilt_bench.figure(record)._repr_svg_().startswith("<?xml")
    with pytest.raises(ConfigError, match="says no format of pictures"):
        vilt_bench.figure(record).save("picture.doc")


def net(width=8):
    return nn.Sequential(nn.Conv2d(3, width, 8, stride=8), nn.ReLU())


def test_modules_are_one_case_if_they_are_alike_but_for_their_weights():
    found = [sending.subject(each, size=(32, 32)).structure for each in (net(), net(), net(16))]
    assert found[0] == found[1] != found[2]
    told = [Case("module/Sequential", {"structure": each}) for each in found]
    assert told[0] == told[1]
    run = vilt_bench.Run("a", "", told[0], Sampling(), "g")
    assert not alike(run, vilt_bench.Run("b", "", told[2], Sampling(), "g"), "case")


def test_a_module_that_takes_no_images_is_told_in_one_line():
    with pytest.raises(ConfigError, match=r"Linear can't be called with \[1, 3, 32, 32\]: RuntimeError.*`example`"):
        vilt_bench.measure(nn.Linear(8, 8), image_size=32)
    with pytest.raises(ConfigError, match="Sequential does not say which images it takes; give `image_size`"):
        vilt_bench.measure(net())


def test_a_model_says_itself_which_images_it_takes():
    module = net()
    module.default_cfg = {"input_size": (3, 48, 32)}
    assert sending.subject(module, size=None).sent.resolution == (48, 32)


def test_the_mode_of_a_module_stays_as_it_was():
    module = net().train()
    sending.subject(module, size=(32, 32))
    assert module.training


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"resolutoin": 224}, "measure takes no 'resolutoin'; did you mean 'resolution'?"),
        ({"image_size": 224, "resolution": 224}, "`image_size` and `resolution` are the same"),
        ({"image_size": (224,)}, "`image_size` (224,) is no size in pixels; expected an edge"),
        ({"image_size": 0}, "`image_size` 0x0 is out of range"),
        ({"resolution": 2.5}, "2.5 is no size in pixels; expected an edge"),
        ({"batch_size": "four"}, "must be a whole number, got 'four'"),
        ({"stages": ["stem"]}, "`stages` is for a module"),
        ({"trials": 0}, "must be between 1 and 1000"),
        ({"trials": "three"}, "must be a whole number, got 'three'"),
        ({"max_time_s": "1m"}, "must be a number, got '1m'"),
        ({"dtype": torch.float32}, "must be one of float32, bfloat16, float16; got torch.float32"),
    ],
)
def test_natural_mistakes_are_answered_in_one_line(asked, told):
    with pytest.raises(ViltBenchError) as caught:
        vilt_bench.measure("patch32", **asked)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_nothing_to_measure_is_refused():
    with pytest.raises(ConfigError, match="a Case, an embedder's name, a module or a callable is measured; got int"):
        vilt_bench.measure(32)
    with pytest.raises(
        ConfigError, match=r"got list; vilt_bench.measure_together\(\[Case\(…\), …\]\) measures several"
    ):
        vilt_bench.measure(["patch32", "grid-r50"])
    with pytest.raises(ConfigError, match=r"Conv2d is a class; give one that is made, such as Conv2d\(\)"):
        vilt_bench.measure(torch.nn.Conv2d, image_size=224)


@pytest.mark.parametrize(
    ("given", "asked", "case"),
    [
        ("patch32", {}, Case("patch32")),
        ("patch,patch_size=48", {"resolution": 384}, Case("patch", {"patch_size": 48}, resolution=(384, 384))),
        ("patch32", {"resolution": "384x640", "batch_size": "4"}, Case("patch32", resolution=(384, 640), batch_size=4)),
        (Case("patch32"), {"resolution": [384, 640]}, Case("patch32", resolution=(384, 640))),
        ("patch32,resolution=96x96", {}, Case("patch32", resolution=(96, 96))),
        ("patch32", {"device": torch.device("cpu"), "trials": "3"}, Case("patch32", device="cpu")),
    ],
)
def test_natural_ways_to_say_it_are_understood(monkeypatch, given, asked, case):
    seen = []
    monkeypatch.setattr(measuring, "measure_together", lambda cases, **_: seen.extend(cases) or [None])
    vilt_bench.measure(given, quiet=True, **asked)
    assert seen == [case]


def test_what_can_not_be_pickled_is_exported(tmp_path):
    from vilt_bench.embedding import modules

    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 8)
            self.lock = threading.Lock()  # which no pickle takes

        def forward(self, images):
            return self.layer(images)

    module = Stubborn().eval()
    found = sending.subject(module, size=(16, 16))
    sending.write(found.sent, tmp_path)
    loaded = modules.load(tmp_path / modules.FILE)
    images = torch.randn(1, 3, 16, 16)
    assert loaded.way == "torch.export"
    torch.testing.assert_close(loaded.module.eval()(images), module(images))


def test_embedders_are_listed_by_name():
    assert "patch32" in vilt_bench.embedders("linear")


def test_the_package_starts_without_torch():
    program = "import sys, vilt_bench; vilt_bench.measure, vilt_bench.table; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
