"""Checks of argument types: what is accepted, and that the message names the parameter."""

import numpy as np
import pytest

from passes.arguments import require_names, require_number, require_type, whole
from passes.errors import UsageError


def test_what_fits_is_accepted() -> None:
    require_type("target", "cpu", str, "a name")
    require_number("max_drop", 1)
    require_number("max_drop", np.float32(0.5))
    require_names("exclude", ("stem",))
    require_names("bits", {"stem": 4})
    limit = whole("limit", np.int64(8))
    assert (limit, type(limit)) == (8, int)


@pytest.mark.parametrize("value", ["8", 8.0, True, None, [8]])
def test_only_integers_are_integers(value: object) -> None:
    with pytest.raises(UsageError, match=r"`limit=.*` is not an integer"):
        whole("limit", value)


@pytest.mark.parametrize("value", ["0.5", True, None, [0.5]])
def test_only_numbers_are_numbers(value: object) -> None:
    with pytest.raises(UsageError, match=r"`max_drop=.*` is not a number"):
        require_number("max_drop", value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("stem", r"`exclude='stem'` is a single text; give a list: `exclude=\['stem'\]`"),
        (None, "`exclude=None` is not a list of layers"),
        ([1], "`exclude=1`: a layer is named by a text, not by int"),
    ],
)
def test_names_are_a_list_of_texts(value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        require_names("exclude", value)
