import dataclasses
from collections.abc import Callable, Iterator

import pytest
from matplotlib.figure import Figure

from vilt_bench.ask.case import Case
from vilt_bench.errors import ConfigError
from vilt_bench.judge.summary import summaries
from vilt_bench.record.run import Run
from vilt_bench.report import page, render_map
from vilt_bench.report.labels import Labels
from vilt_bench.report.page.data import columns
from vilt_bench.report.pictures import style, tokens

CACHE = "bytes_of_keys_and_values"
EDGES = {None: (64, 128, 192), "pixel-shuffle:2": (64, 128, 192)}


@pytest.fixture(autouse=True)
def style_() -> Iterator[None]:
    with style.styled():
        yield


def count(edge: int, reduce: str | None) -> int:
    return (edge // 16) ** 2 // (4 if reduce else 1)


@pytest.fixture
def runs(make_run: Callable[..., Run]) -> list[Run]:
    """Towers in time with pixels, prefills with tokens: 4 ms a 64×64, 1 ms a token; a kibibyte a token."""
    made = []
    for reduce, edges in EDGES.items():
        for edge in edges:
            number = count(edge, reduce)
            latencies = {
                "textual_embedder": 0.0, "visual_embedder.backbone": 0.004 * (edge / 64) ** 2,
                "modality_interaction.prefill": 0.001 * number, "modality_interaction.first_token": 0.001,
            }  # fmt: skip
            del latencies["textual_embedder"]
            case = Case("patch16", resolution=(edge, edge), reduce=reduce, interaction="lm:SmolLM2-135M")
            run = make_run("patch16", case=case, latencies_s=latencies, noise=0, run_id=f"{reduce}-{edge}")
            assert run.model is not None
            model = dataclasses.replace(run.model, visual_tokens=number, interaction=case.interaction)
            stages = [
                dataclasses.replace(stage, counts={CACHE: 1024 * number}) if stage.name.endswith("prefill") else stage
                for stage in run.stages
            ]
            made.append(dataclasses.replace(run, model=model, stages=tuple(stages)))
    return made


def drawn(figure: Figure, panel: int) -> dict[str, list[tuple[float, float]]]:
    lines = figure.axes[1 + panel].lines
    return {
        str(line.get_gid()): [*zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True)]
        for line in lines
    }


def test_panels_have_first_token_prefill_keys_and_values_and_share_along_tokens(runs: list[Run]) -> None:
    figure = tokens.tokens(summaries(runs), labels=Labels())
    panels = [drawn(figure, panel) for panel in range(4)]
    for name, reduce in (("none", None), ("pixel-shuffle:2", "pixel-shuffle:2")):
        towers = {count(edge, reduce): 4 * (edge / 64) ** 2 for edge in EDGES[reduce]}
        firsts = {number: tower + number + 1 for number, tower in towers.items()}
        assert panels[0][name] == [pytest.approx(each) for each in firsts.items()]
        assert panels[1][name] == [pytest.approx((number, number)) for number in towers]
        assert panels[2][name] == [pytest.approx((number, number / 1024)) for number in towers]
        shares = {number: 100 * tower / firsts[number] for number, tower in towers.items()}
        assert panels[3][name] == [pytest.approx(each) for each in shares.items()]
    titles = " ".join(" ".join(text.get_text() for text in figure.axes[0].texts).split())
    for title in ("Time to first token (ms", "Prefill (ms", "Keys and values (MiB", "Share of visual embedder (%"):
        assert title in titles


def test_runs_without_a_language_model_are_left_out_and_said(runs: list[Run]) -> None:
    alone = dataclasses.replace(runs[0], case=dataclasses.replace(runs[0].case, interaction="vilt"), run_id="other")
    figure = tokens.tokens(summaries([*runs, alone]), labels=Labels())
    words = " ".join(" ".join(text.get_text() for text in figure.axes[0].texts).split())
    assert "Left out, as no language model is behind them: 1 run." in words


def test_runs_that_have_no_first_token_are_refused_with_what_to_measure(runs: list[Run]) -> None:
    plain = [dataclasses.replace(run, case=dataclasses.replace(run.case, interaction="vilt")) for run in runs]
    with pytest.raises(ConfigError, match=r"no run has one.*--preset tokens-curve"):
        tokens.tokens(summaries(plain), labels=Labels())
    with pytest.raises(ConfigError, match="which does not vary"):
        tokens.tokens(summaries(runs[:1]), labels=Labels())


def test_what_belongs_to_other_figures_is_refused(runs: list[Run]) -> None:
    for name in ("x", "y", "z", "facet"):
        with pytest.raises(ConfigError, match="leave it out for tokens") as caught:
            render_map(runs, "svg", figure="tokens", **{name: "batch-size"})
        assert caught.value.field == name


def test_a_page_draws_prefill_and_keys_and_values_along_tokens(runs: list[Run]) -> None:
    told = {each.key: each for each in columns(summaries(runs))}
    assert [value[0] for value in told["prefill"].values] == [
        pytest.approx(count(e, r)) for r in EDGES for e in EDGES[r]
    ]
    assert told["keys-and-values"].values == [
        pytest.approx(count(e, r) / 1024, rel=1e-3) for r in EDGES for e in EDGES[r]
    ]
    assert (told["prefill"].kind, told["keys-and-values"].kind) == ("quantity", "quantity")
    assert b"Prefill" in page.page(summaries(runs), [])
