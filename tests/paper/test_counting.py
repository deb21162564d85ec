import csv
import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from vilt_bench.embedding import ImageBatch, TextBatch
from vilt_bench.errors import ConfigError
from vilt_bench.model import VisionLanguageModel
from vilt_bench.paper import ROWS, CountedRow, CountedTable, PaperRow, build, downstream, find_row, table6, table7
from vilt_bench.paper.counting import DetectorFlops, Encoder, one_hot_flops, paper_table, transformer_flops
from vilt_bench.paper.pages.counted import least_on_paper_machine_s, markdown, notes, render_csv, show

# Worked out apart from this code: parameters in M, then FLOPs in G as the paper counted and at 2 a multiply-add.
COUNTS = {
    "ViLBERT": (273.382, 958.10, 1884.8),
    "VisualBERT": (170.350, 424.99, 801.0),
    "LXMERT": (239.764, 952.05, 1880.1),
    "UNITER-Base": (154.710, 949.87, 1886.3),
    "OSCAR-Base": (154.710, 956.41, 1884.4),
    "VinVL-Base": (157.349, 1023.26, 2016.5),
    "Unicoder-VL": (170.350, 419.66, 796.8),
    "ImageBERT": (170.350, 420.58, 797.5),
    "Pixel-BERT-X152": (144.315, 185.92, 318.1),
    "Pixel-BERT-R50": (94.918, 137.29, 229.8),
    "ViLT-B/32": (87.415, 55.86, 43.8),
}
POOLER_M = (768 * 768 + 768) / 1e6
EACH_INTERACTION = ("ViLBERT", "LXMERT", "Unicoder-VL", "ViLT-B/32")
FEATURES_M = (2048 - 1024) * 768 / 1e6  # that a pyramid's RoI head has fewer
# Everything in the model, poolers apart; tables of positions and LayerNorms are below the tolerance.
EVERY_M = {
    "ViLBERT": 278.4 + (768 + 1024 + 2) * 1024 / 1e6,
    "VisualBERT": 170.57 + POOLER_M - FEATURES_M,
    "LXMERT": 251.9 + POOLER_M,
    "UNITER-Base": 155.04 + POOLER_M,
    "OSCAR-Base": 155.04 + POOLER_M,
    "VinVL-Base": 157.75 + POOLER_M,
    "Unicoder-VL": 170.57 + POOLER_M - FEATURES_M,
    "ImageBERT": 170.57 + POOLER_M - FEATURES_M,
    "Pixel-BERT-X152": 144.53 + POOLER_M,
    "Pixel-BERT-R50": 110.137 + POOLER_M,
    "ViLT-B/32": 87.415 + POOLER_M + 146 * 768 / 1e6,
}


@pytest.fixture(scope="module")
def table() -> CountedTable:
    return paper_table()


@pytest.fixture(scope="module")
def counted(table: CountedTable) -> dict[str, CountedRow]:
    return {row.printed.model: row for row in table.rows}


def difference(value: float, printed: float) -> float:
    return abs(value / printed - 1)


def test_the_papers_tables_are_read_as_printed() -> None:
    uniter = table6()[3]
    assert (uniter.model, uniter.parameters, uniter.flops) == ("UNITER-Base", 154_700_000, 949_900_000_000)
    assert (uniter.latency_s, uniter.resolution, uniter.text_tokens_reported) == (0.9, (800, 1333), True)
    assert not table6()[8].text_tokens_reported
    assert table7()[5].nms == "class-agnostic"
    assert table7()[-1].backbone is None
    assert downstream()[0].nlvr2_dev is None
    assert downstream()[-1].vqav2_test_dev == 71.26


def test_all_three_kinds_of_table_name_the_same_models() -> None:
    models = [row.model for row in table6()]
    assert models == list(ROWS) == [row.model for row in table7()]
    assert {row.model for row in downstream()} - set(models) == {
        "ViLT-B/32 (RandAugment)",
        "ViLT-B/32 (RandAugment; 200K steps)",
    }


@pytest.mark.parametrize("model", COUNTS)
def test_parameters_are_those_that_the_paper_counted(model: str, counted: dict[str, CountedRow]) -> None:
    row = counted[model]
    assert row.parameters_paper / 1e6 == pytest.approx(COUNTS[model][0], abs=0.0006)
    assert difference(row.parameters_paper, row.printed.parameters) < (0.0035 if model == "ViLBERT" else 0.0005)


@pytest.mark.parametrize("model", COUNTS)
def test_flops_are_those_that_the_paper_counted(model: str, counted: dict[str, CountedRow]) -> None:
    row = counted[model]
    assert row.flops_paper / 1e9 == pytest.approx(COUNTS[model][1], abs=0.006)
    assert difference(row.flops_paper, row.printed.flops) < 0.01


def test_ten_rows_of_flops_are_within_a_thousandth_of_the_print(table: CountedTable) -> None:
    close = [row for row in table.rows if difference(row.flops_paper, row.printed.flops) < 0.001]
    assert len(close) == 10  # Pixel-BERT-R50 is not


@pytest.mark.parametrize("model", COUNTS)
def test_flops_in_one_convention_are_twice_the_multiply_adds(model: str, counted: dict[str, CountedRow]) -> None:
    # Ours has a pooler, and ViLT a class token: 0.2 G.
    assert counted[model].flops_printed_tokens / 1e9 == pytest.approx(COUNTS[model][2], abs=0.25)


def test_vilts_flops_are_its_matrix_products(counted: dict[str, CountedRow]) -> None:
    tokens, patches, dim = 40 + 1 + 240, 240, 768
    layer = 2 * tokens * 12 * dim * dim + 2 * 2 * tokens * tokens * dim
    expected = 12 * layer + 2 * dim * dim + 2 * patches * 3 * 32 * 32 * dim
    assert counted["ViLT-B/32"].flops_built == expected
    assert counted["ViLT-B/32"].macs_built == expected // 2


@pytest.mark.parametrize("model", EVERY_M)
def test_every_parameter_of_the_model_counts(model: str, counted: dict[str, CountedRow]) -> None:
    assert counted[model].parameters_built / 1e6 == pytest.approx(EVERY_M[model], abs=0.06)


def test_the_product_with_the_vocabulary_is_a_fifth_of_vilts_flops(counted: dict[str, CountedRow]) -> None:
    row = counted["ViLT-B/32"]
    assert row.flops_one_hot == 2 * 30_522 * 768 * 240
    assert row.flops_one_hot / row.flops_paper == pytest.approx(0.2, abs=0.01)


def test_the_transformers_count_is_its_products_and_little_more() -> None:
    encoder = Encoder(layers=12, tokens=96, hidden_size=768, vocabulary=30_522)
    products = 16.647e9 + 2 * 96 * 768 * 768 + one_hot_flops(encoder)  # layers, head, embedding
    assert 1 < transformer_flops(encoder) / products < 1.03


def test_detectors_count_a_multiply_add_once_and_normalisation_twice() -> None:
    with torch.device("meta"):
        convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
        layers = torch.nn.Sequential(convolution, torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
        linear = torch.nn.Linear(16, 8)
        images, features = torch.empty(2, 3, 4, 6), torch.empty(5, 16)
    layers.eval()
    cells = 2 * 8 * 4 * 6
    with torch.no_grad(), DetectorFlops() as counter:
        layers(images)
        assert counter.flops == cells * (27 + 1 + 2 + 1 + 1)
        linear(features)
    assert counter.flops == cells * 32 + 5 * 16 * 8


def test_a_misspelt_row_gets_the_nearest() -> None:
    assert find_row("vilt-b/32") is ROWS["ViLT-B/32"]
    with pytest.raises(ConfigError, match=r"no row 'unitr'; did you mean 'UNITER-Base'\?") as caught:
        find_row("unitr")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"no row 'xyzzy'\. Its rows: ViLBERT"):
        paper_table(["xyzzy"])


def test_chosen_rows_are_counted_alone() -> None:
    assert [row.printed.model for row in paper_table(["vilt-b/32"]).rows] == ["ViLT-B/32"]


def run(row: PaperRow, model: VisionLanguageModel, device: str) -> torch.Tensor:
    with torch.device(device), torch.inference_mode():
        images = ImageBatch(torch.zeros(1, 3, *row.resolution))
        return model(images, TextBatch(torch.zeros(1, row.text_tokens, dtype=torch.long))).pooled


@pytest.mark.parametrize(
    "model",
    [pytest.param(model, marks=[] if model in EACH_INTERACTION else [pytest.mark.slow]) for model in ROWS],
)
def test_every_row_takes_an_image_and_a_text_of_its_size(model: str) -> None:
    row = ROWS[model]
    with torch.device("meta"):
        pooled = run(row, build(row), "meta")
    assert pooled.shape == (1, 1024 if model == "ViLBERT" else 768)


def small(model: str) -> PaperRow:
    row = ROWS[model]
    options = {"regions": 4, "proposals": 20} if "regions" in row.options else row.options
    return replace(row, resolution=(128, 160), options=options)


@pytest.mark.slow
@pytest.mark.parametrize("model", ROWS)
def test_every_row_runs_for_real(model: str) -> None:
    assert run(small(model), build(small(model)), "cpu").isfinite().all()


@pytest.mark.slow
def test_a_seed_gives_the_same_model() -> None:
    row = ROWS["ViLT-B/32"]
    weights = [next(build(row, seed=seed).visual_embedder.parameters()) for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_notes_say_both_ratios_as_computed(table: CountedTable) -> None:
    (headline,) = (note for note in notes(table) if note.startswith("UNITER-Base : ViLT-B/32"))
    assert "17.0× in FLOPs as printed" in headline
    assert "43× in one convention" in headline
    assert any("11.25 of ViLT-B/32's 55.9 G" in note for note in notes(table))


def test_notes_of_a_part_of_the_rows_leave_the_ratio_out(table: CountedTable) -> None:
    part = CountedTable(table.rows[:2])
    assert not any("×" in note for note in notes(part))
    assert any(note.startswith("ViLBERT: ") for note in notes(part))


def test_csv_has_a_line_a_row_in_plain_counts(table: CountedTable) -> None:
    lines = list(csv.DictReader(io.StringIO(render_csv(table))))
    assert [line["model"] for line in lines] == list(ROWS)
    assert lines[3]["parameters_printed"] == "154700000"
    assert int(lines[3]["flops_built"]) == table.rows[3].flops_built
    assert lines[-1]["nms"] == ""


def table_lines(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def test_markdown_shows_every_row_with_its_difference_to_the_print(table: CountedTable) -> None:
    lines = list(table_lines(markdown(table)))
    uniter = next(line for line in lines if line[0] == "UNITER-Base")
    assert uniter[:4] == ["UNITER-Base", "154.7", "154.71", "+0.01%"]
    assert uniter[6:9] == ["949.9", "949.87", "0.00%"]
    assert uniter[-1] == "+99%"
    assert {line[0] for line in lines} >= set(ROWS)


def test_a_terminal_of_100_columns_cuts_nothing_off(table: CountedTable) -> None:
    file = io.StringIO()
    show(table, Console(file=file, width=100, color_system=None))
    shown = file.getvalue()
    assert "…" not in shown
    assert all(shown.count(model) >= 2 for model in ROWS)


def test_the_printed_tables_are_read_without_torch() -> None:
    code = "import sys, vilt_bench.paper, vilt_bench.paper.pages.counted; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_no_printed_time_lies_below_the_least_that_the_papers_machine_needs(table: CountedTable) -> None:
    for row in table.rows:
        least_s = least_on_paper_machine_s(row)
        assert least_s < row.printed.latency_s, row.printed.model
        assert least_s > 0.05 * row.printed.latency_s, row.printed.model
    assert "At least on a P40" in markdown(table)


def test_the_least_time_of_vilt_is_that_of_its_formula_over_the_p40s_peak(counted: dict[str, CountedRow]) -> None:
    tokens, width, layers = 240 + 1 + 40, 768, 12
    transformer = layers * (24 * tokens * width**2 + 4 * tokens**2 * width)
    projection = 2 * 240 * 3 * 32 * 32 * width
    least_s = least_on_paper_machine_s(counted["ViLT-B/32"])
    assert least_s == pytest.approx(0.85 * (transformer + projection) / 12e12, rel=0.001)
