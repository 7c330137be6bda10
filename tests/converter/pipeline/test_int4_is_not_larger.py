"""`int4` is at most as large as `int8`, whole file against whole file, for every graph of the zoo."""

import pytest

from converter.model_io.sizes import serialized_bytes
from converter.pipeline.convert import convert
from converter.pipeline.settings import Settings
from models.zoo import ZOO, feeds_of

QUICK = ("conv", "conv 3-D", "conv depthwise", "conv transpose", "gemm", "attention", "average pool", "shared weight")
"""Layers of each kind, and those to which a bias would be added. The others take two minutes."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ZOO])
def test_int4_is_at_most_as_large_as_int8(name: str) -> None:
    model = ZOO[name]()
    feeds, settings = feeds_of(model, 2), Settings(timing=False)
    eight, four = (
        serialized_bytes(convert(model, feeds, recipe=recipe, settings=settings).model) for recipe in ("int8", "int4")
    )
    assert four <= eight
