from collections.abc import Callable
from itertools import chain

from torch import Tensor, nn

from vilt_bench.worker.hint import ROUNDS, ROWS, faster_products


def clock_of(*times_s: float) -> Callable[[], float]:
    """Returns a clock by which products take these times in turn."""
    return chain.from_iterable((0.0, each) for each in times_s * ROUNDS).__next__


def product_of(weight: Tensor) -> Callable[[Tensor], Tensor]:
    def product(rows: Tensor) -> Tensor:
        assert rows.shape == (ROWS, 1024)
        return rows[:, :1]

    assert weight.shape == (512, 1024)
    return product


def test_a_product_that_takes_half_the_time_is_told_of_and_one_that_takes_nine_tenths_is_not() -> None:
    model = nn.Sequential(nn.Linear(1024, 512), nn.Linear(512, 8))
    products = {"fast": product_of, "slow": product_of, "not here": lambda _weight: None}
    assert faster_products(model, products, clock_of(2.0, 1.0, 1.8)) == {"fast": 0.5}


def test_models_that_linear_layers_say_little_of_are_not_tried() -> None:
    small = nn.Linear(16, 16)
    convolutional = nn.Sequential(nn.Conv2d(512, 512, 3), nn.Linear(512, 512))
    for model in (small, convolutional, nn.ReLU()):
        assert faster_products(model, {"any": product_of}, clock_of()) == {}
