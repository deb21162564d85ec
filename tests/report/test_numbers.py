import pytest

from vilt_bench.judge.remarks import SumOfStages
from vilt_bench.report.numbers import signed_percent
from vilt_bench.report.remarks import sentence


@pytest.mark.parametrize(
    ("share", "told"),
    [(0.0131, "+1.3%"), (-0.0131, "-1.3%"), (0.0004, "0.0%"), (-0.0004, "0.0%"), (-0.0, "0.0%"), (-0.1, "-10.0%")],
)
def test_a_change_that_rounds_to_nothing_has_no_sign(share: float, told: str) -> None:
    assert signed_percent(share) == told
    assert told in sentence(SumOfStages(share, "small")).split()
