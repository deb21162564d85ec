import pytest

from vilt_bench.ask.case import Case
from vilt_bench.worker.interaction import count_interaction

NUMBERS = (49, 64, 100, 196, 256, 576, 1024)


def transformer_flops(tokens: int, width: int, layers: int) -> int:
    """Of queries, keys, values, output, and an MLP of four times the width; 2 a multiply-add."""
    return layers * (24 * tokens * width**2 + 4 * tokens**2 * width)


def test_flops_of_the_shared_vilt_are_those_of_its_formula_at_every_number_of_visual_tokens() -> None:
    found = count_interaction(Case("NAME", text_length=40, dtype="bfloat16"), NUMBERS)
    assert set(found) == set(NUMBERS)
    for visual, works in found.items():
        tokens = 40 + 1 + visual
        assert sum(work.flops for work in works) == transformer_flops(tokens, 768, 12) + 2 * 768**2
        # 85 M weights of two bytes, and what goes in and out of the layers.
        assert sum(work.moved_bytes for work in works) == pytest.approx(2 * 85.6e6, rel=0.05)


def test_what_three_numbers_tell_of_another_is_what_it_counts() -> None:
    case = Case("NAME", interaction="lxmert")
    told = count_interaction(case, NUMBERS)
    for number in (49, 256):
        assert told[number] == count_interaction(case, [number])[number]


def test_flops_of_a_language_model_are_those_of_its_configuration() -> None:
    # Qwen2.5-0.5B: 24 layers, width 896, keys and values of 2 heads of 64, MLP of 4864 gated, 151,936 words.
    width, groups, hidden, layers, words = 896, 128, 4864, 24, 151_936
    found = count_interaction(Case("NAME", interaction="lm:Qwen2.5-0.5B", text_length=40), [64, 256])
    for visual, works in found.items():
        tokens = visual + 40
        linear = 2 * width**2 + 2 * width * groups + 3 * width * hidden
        layer = 2 * tokens * linear + 4 * tokens**2 * width
        connector, head = 2 * visual * width**2, 2 * width * words
        assert sum(work.flops for work in works) == pytest.approx(layers * layer + connector + head, rel=1e-3)


def test_an_embedder_alone_has_nothing_behind_it() -> None:
    assert count_interaction(Case("NAME", interaction="none"), [64, 256]) == {64: (), 256: ()}


def test_more_visual_tokens_than_a_language_model_has_positions_for_have_no_count() -> None:
    found = count_interaction(Case("NAME", interaction="lm:Vicuna-7B"), [64, 4900])  # it has 4096
    assert set(found) == {64}
