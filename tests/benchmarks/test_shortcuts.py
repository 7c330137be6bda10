"""The simplest rounding: the number of values that are left, and the weights that share them."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import helper

from benchmarks.shortcuts import SHORTCUTS, Scales, rounded
from converter.targets.catalog import find_target
from passes.ir.model import Model
from tests.support.networks import conv, images, network, random, run


def normalized() -> onnx.ModelProto:
    """A network of a convolution, batch normalization that scales its channels, and a convolution."""
    names = ("gain", "shift", "mean", "variance")
    constants = {name: np.abs(random(6, seed=index)) + 0.1 for index, name in enumerate(names)}
    constants["gain"] *= np.logspace(0, 2, 6, dtype=np.float32)
    nodes = [
        conv(constants, "first", "x", "a", (6, 3, 3, 3)),
        helper.make_node("BatchNormalization", ["a", *names], ["b"], "norm"),
        conv(constants, "second", "b", "y", (4, 6, 3, 3)),
    ]
    return network(nodes, constants, {"x": ["N", 3, 12, 12]}, {"y": ["N", 4, 12, 12]})


@pytest.mark.parametrize(("scales", "folded"), [(scales, folded) for _, scales, folded in SHORTCUTS])
def test_a_layer_has_as_many_values_as_its_scales_allow(scales: Scales, folded: bool) -> None:
    model = Model(gs.import_onnx(rounded(normalized(), 3, scales, folded=folded)), find_target("cpu").rules)
    assert any(node.op == "BatchNormalization" for node in model.graph.nodes) is not folded
    layers = model.layers()
    assert layers.keys() == {"first", "second"}
    for layer in layers.values():
        weight = model.weight(layer)
        sharing = weight.reshape(-1, weight.shape[2]) if scales == "channel" else weight.reshape(1, -1)
        for values in sharing:
            apart = np.diff(np.unique(values))
            assert 2 < len(apart) + 1 <= 8
            assert np.allclose(apart / apart.min(), np.round(apart / apart.min()), atol=1e-3)


def test_one_scale_for_channels_scaled_by_folding_costs_most() -> None:
    x = images(4, 3, 12, 12)
    reference = run(normalized(), x)[0]
    errors = {
        (scales, folded): np.square(run(rounded(normalized(), 4, scales, folded=folded), x)[0] - reference).mean()
        for _, scales, folded in SHORTCUTS
    }
    assert max(errors, key=lambda kind: errors[kind]) == ("layer", True)
