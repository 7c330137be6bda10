"""Values that belong together: what cannot be meant is refused by its name, when it is given."""

from typing import Any

import pytest

from converter import ExportOptions, Settings
from passes.errors import UsageError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"limit": 0}, "`limit=0` leaves no samples; use at least 1"),
        ({"seed": -1}, "`seed=-1` is negative; use 0 or more"),
        ({"device": "tpu"}, "`device='tpu'` is none of auto, cpu, cuda"),
        ({"memory_budget": 0}, "`memory_budget=0` leaves no memory; give bytes, at least 1"),
    ],
)
def test_settings_that_cannot_be_meant(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Settings(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize("shape", [(), (1, 0, 3), [1, 3, -1, 4]])
def test_a_shape_without_a_size(shape: Any) -> None:
    with pytest.raises(
        UsageError, match=r"^`input_shape=\(.*\)` has a size below 1; give sizes such as 1, 3, 224, 224$"
    ):
        ExportOptions(input_shape=shape)


def test_a_shape_may_be_a_list() -> None:
    assert ExportOptions(input_shape=[1, 3, 8, 8]) == ExportOptions(input_shape=(1, 3, 8, 8))
