import difflib

import pytest

from vilt_bench.words import counted, did_you_mean, nearest


def test_a_count_agrees_with_its_noun() -> None:
    assert [counted(count, "thread") for count in (0, 1, 2)] == ["0 threads", "1 thread", "2 threads"]
    assert [counted(count, "pass", "passes") for count in (1, 2)] == ["1 pass", "2 passes"]


@pytest.mark.parametrize("given", ["ptach32", "grid-r5", "patch", "zzz"])
def test_the_nearest_name_is_the_one_that_difflib_finds(given: str) -> None:
    known = ["patch32", "grid-r50", "region-r101-c4"]
    assert nearest(given, known) == next(iter(difflib.get_close_matches(given, known, cutoff=0.5)), None)


def test_upper_and_lower_case_are_one_name_and_the_guess_is_written_as_it_is_known() -> None:
    assert did_you_mean(nearest("smollm2-135m", ["SmolLM2-135M", "Qwen2.5-0.5B"])) == "; did you mean 'SmolLM2-135M'?"
    assert did_you_mean(nearest("zzz", ["SmolLM2-135M"]), otherwise=".") == "."


def test_of_names_that_are_equally_close_the_first_is_the_guess() -> None:
    known = ["SmolLM2-135M", "SmolLM2-360M"]
    assert nearest("smollm", known) == known[0]
    assert nearest("smollm", known[::-1]) == known[1]
