import pytest

from vilt_bench.ask.effort import parse_size_bytes
from vilt_bench.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "size"),
    [("6GB", 6 * 10**9), ("6 GiB", 6 * 2**30), ("500MB", 500 * 10**6), ("1.5kib", 1536), ("2TB", 2 * 10**12), ("7", 7)],
)
def test_sizes_have_the_units_of_the_international_system_and_of_powers_of_two(text: str, size: int) -> None:
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "6 potatoes", "-1GB", "1e9", "0", "nan", "6GB6"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_size_bytes(text)
