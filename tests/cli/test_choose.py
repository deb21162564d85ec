import csv
import io
import json

import pytest

from vilt_bench.cli import main
from vilt_bench.record import load

ON_H100 = ["choose", "--on", "H100", "--dtype", "bfloat16"]


def test_the_least_time_of_a_vision_transformer_is_its_formula_over_the_datasheets_peak(capsys):
    arguments = ["--embedder", "timm/vit_base_patch16_224", "--interaction", "none", "--format", "json"]
    assert main([*ON_H100, *arguments]) == 0
    told = json.loads(capsys.readouterr().out)
    (found,) = told["candidates"]
    tokens, width = 197, 768
    blocks = 12 * (24 * tokens * width**2 + 4 * tokens**2 * width)
    patches, projection = 2 * 196 * 3 * 16 * 16 * width, 2 * 196 * width**2
    assert found["flops"] == pytest.approx(blocks + patches + projection, rel=0.001)
    assert found["visual_embedder_least_s"] == pytest.approx(0.85 * found["flops"] / 989.4e12)
    assert found["least_s"] == found["visual_embedder_least_s"]
    assert told["estimated"] is True
    assert (told["text_tokens"], found["interaction_least_s"]) == (None, None)


def test_what_a_narrower_language_model_changes_is_told(capsys):
    assert main([*ON_H100, "--embedder", "patch32", "--interaction", "lm:SmolLM2-135M"]) == 0
    assert "lm:SmolLM2-135M takes have 576" in " ".join(capsys.readouterr().out.split())


def test_a_ranked_list_is_labelled_as_estimates_with_the_rule_and_the_machine(capsys):
    wished = ["--budget", "0.2ms", "--tokens", "64..1024", "--parameters", "400M", "--limit", "3"]
    assert main([*ON_H100, *wished]) == 0
    shown = capsys.readouterr().out
    for expected in (
        "Estimated lower bounds; nothing was measured",
        "NVIDIA H100 80GB SXM: 989.4 TFLOP/s in bfloat16",
        "may meet 0.2 ms",
        "can't, on this machine",
        "Ranked: the frontier",
        "Size and tokens are no accuracy",
        "--limit, or --format csv",
    ):
        assert expected in " ".join(shown.split()), expected


def test_data_have_all_rows_and_keep_what_was_wished(capsys):
    wished = ["--embedder", "timm/*siglip*", "--budget", "0.5ms", "--tokens", "64..1024", "--parameters", "20M..400M"]
    assert main([*ON_H100, *wished, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) > 5
    assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        assert "siglip" in row["embedder"]
        assert 64 <= int(row["visual_tokens"]) <= 1024
        assert 20e6 <= int(row["parameters"]) <= 400e6
        assert float(row["least_s"]) <= 0.0005
        assert float(row["least_s"]) == pytest.approx(
            float(row["visual_embedder_least_s"]) + float(row["interaction_least_s"])
        )
    assert main([*ON_H100, *wished, "--format", "markdown", "--frontier"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("| Frontier | Embedder | Pixels | Visual tokens |")
    on_frontier = sum(row["on_frontier"] == "True" for row in rows)
    assert sum(line.startswith("| ●") for line in page.splitlines()) == min(20, on_frontier)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--interaction", "vlit"], "--interaction must be one of vilt"),
        (["--budget", "200"], "'200' has no unit; write 200ms or 200s"),
        (["--budget", "200us"], "'200us' is no time; expected such as 200ms"),
        (["--budget", "0ms"], "'0ms' is no time above 0"),
        (["--budget", "0.001ms"], "--budget 0.001 ms is below what each of"),
        (["--tokens", "1024..64"], "'1024..64' begins above its end; expected 64..1024"),
        (["--tokens", "some"], "'some' is no number"),
        (["--tokens", ".."], "'..' is no range"),
        (["--parameters", "400X"], "'400X' is no number; expected such as 576, 86M or 1.2B"),
        (["--parameters", "1"], "--parameters ..1 leaves none of"),
        (["--resolution", "224x224"], "'224x224' is a size; expected the shorter edge"),
        (["--embedder", "timm/*sigllip*"], "--embedder 'timm/*sigllip*' fits none of"),
        (["--embedder", ""], "an empty text names no tower"),
        (["--on", "H100,L4"], "--on takes one machine; got H100, L4"),
        (["--on", "P40"], "Tesla P40 has no stated peak in bfloat16"),
        (["--measure", "2"], "--measure measures on this machine, not on H100"),
        (["--trials", "2"], "--trials is for measuring; add --measure N"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
    ],
)
def test_what_can_not_be_is_refused_in_one_line(capsys, arguments, said):
    assert main([*ON_H100, *arguments]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert complaint.count("\n") == 1


def test_finalists_are_measured_as_run_does_and_stand_beside_their_estimates(capsys, tmp_path):
    arguments = ["--embedder", "timm/mobilenetv4_conv_small_035", "--interaction", "none", "--threads", "1"]
    effort = ["--measure", "1", "--max-time", "1", "--trials", "1", "--quiet", "--output", str(tmp_path / "out")]
    assert main(["choose", *arguments, *effort]) == 0
    shown = capsys.readouterr()
    (record,) = (tmp_path / "out").glob("*.json")
    run = load.load(record)
    assert (run.model.resolution, run.model.visual_tokens, run.case.fit) == ((224, 224), 49, "crop")
    assert "Estimated lower bounds beside what was measured" in shown.out
    assert "vilt-bench run timm/mobilenetv4_conv_small_035,resolution=224x224 --fit crop" in shown.err
    (row,) = (line for line in shown.out.splitlines() if line.endswith("×") and line.startswith("timm/"))
    assert float(row.split()[-1].removesuffix("×").replace(",", "")) > 1  # no measured time is below its bound
