"""Machines are chosen by what they tell of themselves."""

import pytest

from vilt_bench.engines.placement import described, fits, read_wish
from vilt_bench.errors import ConfigError

FACTS = {
    "name": "node-a",
    "host": "gpu-17",
    "cpu": "AMD EPYC 7B13",
    "cores": 64,
    "memory": "126 GiB",
    "gpu": "NVIDIA H100 80GB HBM3",
    "gpus": 8,
}


@pytest.mark.parametrize(
    ("wish", "is_as_wished"),
    [
        (None, True),
        ("gpu=H100", True),
        ("gpu=h100, cpu=epyc,cores=64", True),
        ("gpu=A100", False),
        ("gpu=H100,host=gpu-18", False),
        ("cores=6", False),  # a number is no text
        ("memory=126", True),
        ("torch=2.6", False),  # not told
    ],
)
def test_a_machine_fits_if_all_that_is_wished_is_told_by_it(wish, is_as_wished):
    assert fits(FACTS, read_wish(wish)) is is_as_wished


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ("H100", r"`on` 'H100' is not KEY=TEXT,…, as in gpu=H100"),
        ("gpu=", "is not KEY=TEXT"),
        ("gpu=H100,", "is not KEY=TEXT"),
        ("gpuu=H100", r"'gpuu' is nothing that a machine tells; did you mean 'gpus?'\? known: name, host"),
    ],
)
def test_a_wish_that_is_none_is_told_in_a_line(wish, said):
    with pytest.raises(ConfigError, match=said):
        read_wish(wish)


def test_a_machine_is_described_by_what_it_tells():
    assert described(FACTS) == "node-a (AMD EPYC 7B13, 64 cores, 126 GiB, 8 × NVIDIA H100 80GB HBM3)"
    assert described({"name": "node-b"}) == "node-b"
