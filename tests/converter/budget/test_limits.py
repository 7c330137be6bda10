import pytest

from converter.budget.limits import Budget
from passes.errors import UsageError


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "a budget needs a limit; give `max_drop=`, `max_bytes=` or `max_latency=`"),
        ({"max_drop": -0.5}, "`max_drop=-0.5` is not within 0 to 100 points"),
        ({"max_drop": 101.0}, "`max_drop=101` is not within 0 to 100 points"),
        ({"max_bytes": 0}, "`max_bytes=0` allows no file"),
        ({"max_latency": 0.0}, "`max_latency=0` is not a time"),
        ({"max_latency": float("nan")}, "`max_latency=nan` is not a time"),
    ],
)
def test_refused_limits(limits: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Budget(**limits)  # type: ignore[arg-type]


def test_exceeded_limits_are_described() -> None:
    budget = Budget(max_drop=0.5, max_bytes=1000, max_latency=2.0)
    assert budget.broken(0.5, 1000, 2.0) == ""
    assert budget.broken(0.51, 1000, 2.0) == "drops 0.51 points"
    assert budget.broken(3.0, 1001, 2.5) == "drops 3.00 points, takes 1,001 bytes, takes 2.50 ms"
    assert budget.broken(None, 10, None) == ""
    assert str(budget) == "a drop of at most 0.5 points and at most 1,000 bytes and at most 2 ms"


@pytest.mark.parametrize(
    ("limits", "smallest"),
    [({"max_drop": 1.0}, True), ({"max_drop": 1.0, "max_latency": 5.0}, True), ({"max_bytes": 9}, False)],
)
def test_the_smallest_file_is_wanted_if_only_a_drop_is_limited(limits: dict[str, float], smallest: bool) -> None:
    assert Budget(**limits).wants_smallest is smallest  # type: ignore[arg-type]
