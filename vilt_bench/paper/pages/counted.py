"""Shows Tables 6 and 7 counted again, as a terminal's tables, Markdown or CSV; without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vilt_bench.machine import datasheets
from vilt_bench.paper.tables import ABSENT, CountedRow, CountedTable
from vilt_bench.report import tables
from vilt_bench.report.numbers import digits, milliseconds_of
from vilt_bench.report.tables import Column, Table, lines, text_column

if TYPE_CHECKING:
    from rich.console import Console

RATIO = ("UNITER-Base", "ViLT-B/32")
"""The two rows whose ratio is the paper's headline."""

MACHINE = "P40"
"""What the paper measured its times on."""
SCALAR_BYTES = 4

_TABLE6 = (
    text_column("Model"),
    Column("Parameters (M): printed", screen="Params\n(M)\nprinted"),
    Column("as the paper counted", screen="paper's\ncount"),
    Column("to print", screen="to\nprint"),
    Column("every one", screen="every\none"),
    Column("to print", screen="to\nprint"),
    Column("GFLOPs: printed", screen="GFLOPs\n\nprinted"),
    Column("as the paper counted", screen="paper's\ncount"),
    Column("to print", screen="to\nprint"),
    Column("2 per multiply-add", screen="2 per\nmult.-\nadd"),
    Column("to print", screen="to\nprint"),
)
_TABLE7 = (
    *map(text_column, ("Model", "Backbone", "RoI head", "NMS", "Layers", "As built")),
    text_column("Interaction", long="fold"),
    text_column("Tokens"),
)
_TIMES = (
    text_column("Model"),
    Column("Time, printed", "ms"),
    Column(f"At least on a {MACHINE}", "ms", screen=f"At least\non a {MACHINE}"),
    Column("printed to least", screen="printed\nto least"),
)


def show(table: CountedTable, console: Console) -> None:
    """Print both tables, then their notes."""
    from rich.text import Text

    for each in (sizes(table), components(table), times(table)):
        tables.show(each, console)
        console.print()
    for note in notes(table):
        console.print(Text(f"• {note}"))


def markdown(table: CountedTable) -> str:
    """Returns both tables and the notes, as GitHub shows them."""
    sums = lines([row.printed.model, row.recipe] for row in table.rows)
    return (
        "### Table 6: parameters and FLOPs\n\n"
        f"{tables.markdown(sizes(table))}\n\n"
        "### Table 7: components\n\n"
        "As printed; then embedder, interaction, visual + text tokens as built.\n\n"
        f"{tables.markdown(components(table))}\n\n"
        f"### Table 6: times, and the least that a {MACHINE} needs\n\n"
        f"{tables.markdown(times(table))}\n\n"
        f"{tables.markdown_list(notes(table))}\n\n"
        "The paper's FLOPs are the sum of, with e(layers, tokens, hidden size) for the transformer:\n\n"
        f"{tables.markdown(Table([text_column('Model'), text_column('Sum')], sums))}\n"
    )


def render_csv(table: CountedTable) -> str:
    """Returns a line a row; plain counts, empty where the paper has nothing."""
    return tables.csv([_fields(row) for row in table.rows])


def notes(table: CountedTable) -> list[str]:
    """Returns what a reader must know to read the numbers, computed from the table."""
    said = [
        "Parameters, the paper's count: those that are trained. A detector's stem and first layer are frozen, its "
        "batch normalisation counts with a feature pyramid or Pixel-BERT's X152 only; 1600 classes, no attribute "
        "head, transformer layers without embeddings and pooler. Every one: all of the visual embedder and the "
        "modality interaction as built.",
        "FLOPs, the paper's count mixes two conventions: 1 per multiply-add for the detector at 1000 RoIs (2 an "
        "element for batch normalisation, 1 for ReLU and pooling), 2 per multiply-add for the transformer, as the "
        f"script of ELECTRA has it, which multiplies each token with the whole vocabulary{_one_hot(table)}.",
        "2 per multiply-add: the model as built, by torch's formulas on the meta device; RoIAlign, NMS, normalisation "
        "and elementwise operations count 0. The detectors and conventions of the paper's count are inferred: they "
        "reproduce the printed digits, and the paper names none.",
        f"At least on a {MACHINE}: an estimated lower bound, nothing was measured: FLOPs at 2 per multiply-add over "
        "the datasheet's peak, or the weights over its bandwidth; "
        f"{datasheets.find(MACHINE)[0].described('float32')}. Printed times are longer by NMS, RoIAlign, everything "
        "elementwise, and kernels that do not reach the peak.",
        *_headline(table),
    ]
    models: dict[str, list[str]] = {}  # by note
    for row in table.rows:
        if row.note:
            models.setdefault(row.note, []).append(row.printed.model)
    return said + [f"{', '.join(names)}: {note}." for note, names in models.items()]


def _headline(table: CountedTable) -> list[str]:
    rows = _by_model(table)
    if not all(model in rows for model in RATIO):
        return []
    region, linear = (rows[model] for model in RATIO)
    printed = region.printed.flops / linear.printed.flops
    honest = region.flops_printed_tokens / linear.flops_printed_tokens
    built = region.flops_built / linear.flops_built
    return [
        f"{region.printed.model} : {linear.printed.model} is {printed:.1f}× in FLOPs as printed, and {honest:.0f}× in "
        f"one convention at the printed tokens ({built:.0f}× with all {linear.visual_tokens} patches of "
        f"{linear.printed.model}): the print counts a multiply-add of the detector once and of the transformer twice, "
        "which halves the region model, while the product with the vocabulary weighs on the small one."
    ]


def _one_hot(table: CountedTable) -> str:
    rows = _by_model(table)
    if RATIO[1] not in rows:
        return ""
    row = rows[RATIO[1]]
    return f" ({row.flops_one_hot / 1e9:.2f} of {row.printed.model}'s {row.flops_paper / 1e9:.1f} G)"


def _by_model(table: CountedTable) -> Mapping[str, CountedRow]:
    return {row.printed.model: row for row in table.rows}


def sizes(table: CountedTable) -> Table:
    """Returns parameters and FLOPs: as printed, as the paper counted, and as they are."""
    rows = [
        [
            row.printed.model,
            f"{row.printed.parameters / 1e6:.1f}",
            f"{row.parameters_paper / 1e6:.2f}",
            _difference(row.parameters_paper, row.printed.parameters),
            f"{row.parameters_built / 1e6:.2f}",
            _difference(row.parameters_built, row.printed.parameters),
            f"{row.printed.flops / 1e9:.1f}",
            f"{row.flops_paper / 1e9:.2f}",
            _difference(row.flops_paper, row.printed.flops),
            f"{row.flops_built / 1e9:.1f}",
            _difference(row.flops_built, row.printed.flops),
        ]
        for row in table.rows
    ]
    return Table(_TABLE6, lines(rows), "Table 6: parameters and FLOPs, the textual embedder left out")


def components(table: CountedTable) -> Table:
    """Returns the components: as printed, and as built."""
    rows = [
        [
            row.printed.model,
            *(part or ABSENT for part in (row.components.backbone, row.components.roi_head, row.components.nms)),
            row.components.transformer_layers,
            row.embedder.partition(",")[0],
            f"{row.interaction}: {row.layers}",
            f"{row.visual_tokens} + {row.printed.text_tokens}",
        ]
        for row in table.rows
    ]
    return Table(
        _TABLE7,
        lines(rows),
        "Table 7: components; as printed, then embedder, interaction, visual + text tokens as built",
    )


def times(table: CountedTable) -> Table:
    """Returns the printed times beside the least that the paper's machine needs by its datasheet."""
    rows = []
    for row in table.rows:
        least_s = least_on_paper_machine_s(row)
        ratio = f"{digits(row.printed.latency_s / least_s)}×"
        rows.append([row.printed.model, f"{row.printed.latency_s * 1e3:.0f}", milliseconds_of(least_s), ratio])
    return Table(_TIMES, lines(rows), f"Table 6: times as printed, and an estimated lower bound on a {MACHINE}")


def least_on_paper_machine_s(row: CountedRow) -> float:
    """Returns the seconds that the row takes at least on the machine that the paper measured on, in float32."""
    (machine,) = datasheets.find(MACHINE)
    least_s = machine.bound_s(row.flops_built, SCALAR_BYTES * row.parameters_built, dtype="float32")
    assert least_s is not None, f"the datasheet of the {MACHINE} has float32"
    return least_s


def _fields(row: CountedRow) -> dict[str, object]:
    printed, components = row.printed, row.components
    return {
        "model": printed.model,
        "visual_embed": printed.visual_embed,
        "image_height": printed.resolution[0],
        "image_width": printed.resolution[1],
        "image_tokens_printed": printed.image_tokens,
        "visual_tokens_built": row.visual_tokens,
        "text_tokens": printed.text_tokens,
        "parameters_printed": printed.parameters,
        "parameters_paper": row.parameters_paper,
        "parameters_built": row.parameters_built,
        "flops_printed": printed.flops,
        "flops_paper": row.flops_paper,
        "flops_paper_one_hot": row.flops_one_hot,
        "flops_built": row.flops_built,
        "macs_built": row.macs_built,
        "flops_built_printed_tokens": round(row.flops_printed_tokens),
        "latency_printed_s": printed.latency_s,
        "latency_least_p40_s": round(least_on_paper_machine_s(row), 6),
        "recipe_paper": row.recipe,
        "backbone": components.backbone or "",
        "roi_head": components.roi_head or "",
        "nms": components.nms or "",
        "layers_printed": components.transformer_layers,
        "layers_built": row.layers,
        "embedder": row.embedder,
        "interaction": row.interaction,
        "note": row.note,
    }


def _difference(value: float, printed: int) -> str:
    share = value / printed - 1
    if abs(share) < 0.00005:
        return "0.00%"
    return f"{share:+.2%}" if abs(share) < 0.1 else f"{share:+.0%}"
