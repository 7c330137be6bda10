"""Channels that fill blocks are left out of a comparison, which names every layer."""

import numpy as np
import pytest

from converter import compare, convert
from converter.comparison.filled import without_filled_channels
from tests.passes.graph.test_channel_routes import stage
from tests.support.graphs import array, build, node


@pytest.mark.parametrize(
    ("reference", "other", "expected"),
    [
        ((2, 58, 3, 3), (2, 64, 3, 3), (2, 58, 3, 3)),
        ((2, 64, 3, 3), (2, 64, 3, 3), (2, 64, 3, 3)),
        ((2, 58, 3, 3), (2, 80, 3, 3), (2, 80, 3, 3)),  # more than a block
        ((2, 58, 3, 3), (2, 60, 3, 3), (2, 60, 3, 3)),
        ((2, 58, 3, 3), (2, 64, 4, 3), (2, 64, 4, 3)),
        ((58,), (64,), (64,)),
    ],
)
def test_shapes(reference: tuple[int, ...], other: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert without_filled_channels(np.zeros(reference), np.zeros(other)).shape == expected


def test_a_routed_tensor_of_the_filled_size_is_not_compared() -> None:
    """Its channels are in another order, so that the first of them are not those of the reference."""
    model, images = stage(3, 20, 10, 2), array(8, 8, 6, 6)
    file = convert(model, images, recipe="int8", target="cpu-avx2").model
    deep = next(each for each in file.graph.node if "t37_0" in each.output)
    assert deep.op_type == "Concat"  # the depthwise layer behind it has 32 channels instead of 20
    assert any(list(each.dims[:2]) == [32, 1] for each in file.graph.initializer)
    found = compare(model, file, images)
    assert "t37_0" in found.transformed
    assert all(entry.introduced_db > 25 for entry in found.layers)


def test_every_layer_of_a_filled_network_is_compared() -> None:
    nodes = [
        node("Conv", ["x", "w0"], ["a"], name="widen"),
        node("Relu", ["a"], ["b"], name="act"),
        node("Conv", ["b", "w1"], ["c"], name="deep", group=58, pads=[1, 1, 1, 1]),
        node("Conv", ["c", "w2"], ["y"], name="narrow"),
    ]
    weights = {"w0": array(58, 12, 1, 1), "w1": array(58, 1, 3, 3), "w2": array(20, 58, 1, 1)}
    model, images = build(nodes, weights, (1, 12, 24, 24)), array(4, 12, 24, 24)
    file = convert(model, images, recipe="int8").model
    assert any(each.dims[0] == 64 for each in file.graph.initializer if each.dims)  # it is filled
    found = compare(model, file, images)
    assert not found.unmatched or found.unmatched == ("a",)
    assert [layer for entry in found.layers for layer in entry.layers] == ["widen", "deep", "narrow"]
    assert all(entry.introduced_db > 25 for entry in found.layers if entry.layers)
