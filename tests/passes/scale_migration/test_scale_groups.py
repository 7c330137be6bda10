"""Scale groups: layers that share scales, the scale of each channel, and reasons for fixed scales."""

import re
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from passes.errors import QuantizationError
from passes.ir.model import Model, Quantized
from passes.numerics.grid import ActivationGrid
from passes.numerics.weight_scale_search import absmax_grid
from passes.scale_migration.scale_groups import ScaleGroups, scale_groups
from tests.support.graphs import array, build, node
from tests.support.integer_rules import RULES
from tests.support.networks import prepared, resnet

Constants = dict[str, np.ndarray]
ZERO, ONE = np.array(0, np.float32), np.array(1, np.float32)


def analysed(proto: onnx.ModelProto) -> ScaleGroups:
    return scale_groups(Model(gs.import_onnx(proto), RULES))


def chain(nodes: list[onnx.NodeProto], constants: Constants | None = None, **options: Any) -> onnx.ModelProto:
    """Make conv1 -> h -> nodes -> k -> conv2 with six channels."""
    weights = {"conv1.w": array(6, 3, 3, 3), "conv2.w": array(4, 6, 1, 1)}
    first = node("Conv", ["x", "conv1.w"], ["h"], name="conv1")
    second = node("Conv", ["k", "conv2.w"], ["y"], name="conv2")
    return build([first, *nodes, second], weights | (constants or {}), ("N", 3, 8, 8), opset=18, **options)


def op(kind: str, *more: str, **attributes: Any) -> onnx.NodeProto:
    return node(kind, ["h", *more], ["k"], name="op", **attributes)


SILU = [node("Sigmoid", ["h"], ["g"], name="gate"), node("Mul", ["h", "g"], ["k"], name="op")]
GELU = [node("Erf", ["h"], ["g"], name="erf"), node("Mul", ["h", "g"], ["k"], name="op")]
REFUSED = {
    "silu": (SILU, {}, r"gate \(Sigmoid\) does not pass a channel's scale on"),
    "gelu": (GELU, {}, r"erf \(Erf\) does not pass a channel's scale on"),
    "hard_swish": ([op("HardSwish")], {}, r"op \(HardSwish\) does not pass a channel's scale on"),
    "sigmoid": ([op("Sigmoid")], {}, r"op \(Sigmoid\) does not pass a channel's scale on"),
    "elu": ([op("Elu")], {}, r"op \(Elu\) does not pass a channel's scale on"),
    "lrn": ([op("LRN", size=3)], {}, r"op \(LRN\) does not pass a channel's scale on"),
    "relu6": (
        [op("Clip", "zero", "six")],
        {"zero": ZERO, "six": np.float32(6)},
        r"op \(Clip\) clips every channel at the same bound: 0 to 6",
    ),
    "constant_pad": (
        [op("Pad", "pads", "one")],
        {"pads": np.array([0, 0, 1, 1] * 2), "one": ONE},
        r"op \(Pad\) pads with 1",
    ),
    "channels_repeated": (
        [
            node("Slice", ["h", "0", "3", "1"], ["s"], name="slice"),
            node("Pad", ["s", "pads"], ["k"], name="op", mode="edge"),
        ],
        {"0": np.array([0]), "3": np.array([3]), "1": np.array([1]), "pads": np.array([0, 3] + [0] * 6)},
        r"op \(Pad\) repeats channels",
    ),
    "power_of_an_activation": ([op("Mul", "h")], {}, r"op \(Mul\) multiplies two scaled tensors"),
    "divided_by_it": ([node("Div", ["c", "h"], ["k"], name="op")], {"c": ONE}, r"op \(Div\) divides by an activation"),
    "slopes_computed": (
        [node("Relu", ["h"], ["r"], name="relu"), op("PRelu", "r")],
        {},
        r"op \(PRelu\) has slopes that are not constants",
    ),
    "crop_and_resize": (
        [op("Resize", "roi", "scales", coordinate_transformation_mode="tf_crop_and_resize", mode="linear")],
        {"roi": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32), "scales": np.array([1, 1, 2, 2], np.float32)},
        r"op \(Resize\) fills what lies outside with a number",
    ),
    "resized_channels": (
        [
            node("Slice", ["h", "0", "3", "1"], ["s"], name="slice"),
            node("Resize", ["s", "", "scales"], ["k"], name="op"),
        ],
        {
            "0": np.array([0]),
            "3": np.array([3]),
            "1": np.array([1]),
            "scales": np.array([1, 2, 1, 1], np.float32),
        },
        r"op \(Resize\) may resize the channels",
    ),
    "reshape": (
        [op("Reshape", "shape")],
        {"shape": np.array([0, 6, 9, 4])},
        r"op \(Reshape\) does not pass a channel's scale on",
    ),
    "residual_of_the_input": (
        [
            node("Concat", ["x", "x"], ["xx"], name="twice", axis=1),
            node("AveragePool", ["xx"], ["p"], name="pool", kernel_shape=[3, 3]),
            op("MaxPool", kernel_shape=[1, 1]),
            node("Add", ["k", "p"], ["k2"], name="add"),
            node("Conv", ["k2", "c3.w"], ["y2"], name="conv3"),
        ],
        {"c3.w": array(2, 6, 1, 1)},
        "x is an input of the model",
    ),
    "layer_norm_over_several_axes": (
        [op("LayerNormalization", "gamma", axis=1)],
        {"gamma": array(6, 6, 6)},
        r"op \(LayerNormalization\): it normalizes over several axes",
    ),
    "training": (
        [node("BatchNormalization", ["h", *"abcd"], ["k", "m", "v"], name="op", training_mode=1)],
        {name: np.abs(array(6)) for name in "abcd"},
        r"op \(BatchNormalization\): it is in training mode",
    ),
}


@pytest.mark.parametrize(("nodes", "constants", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_scale_does_not_pass(nodes: list[onnx.NodeProto], constants: Constants, reason: str) -> None:
    analysis = analysed(chain(nodes, constants))
    assert not analysis.groups
    assert "conv1" in analysis.outputs
    assert re.search(reason, analysis.inputs["conv2"]), analysis.inputs["conv2"]


def test_an_output_without_readers_is_in_no_group() -> None:
    analysis = analysed(
        chain([op("Relu"), node("Conv", ["k", "c3.w"], ["dead"], name="conv3")], {"c3.w": array(2, 6, 1, 1)})
    )
    assert len(analysis.groups) == 1
    assert analysis.outputs["conv3"] == "no layer reads its channels one by one"


def test_a_group_knows_its_activations() -> None:
    (group,) = analysed(chain([op("Relu")])).groups
    assert set(group.tensors) == {"h", "k"}
    for wires in group.tensors.values():
        assert wires.ids.tolist() == list(range(6))
        assert (wires.axis, wires.rank) == (1, 4)


def test_outputs_of_the_model_keep_their_scale() -> None:
    analysis = analysed(chain([op("Relu")], outputs=("y", "h")))
    assert not analysis.groups
    assert analysis.outputs == {"conv1": "h is an output of the model", "conv2": "y is an output of the model"}
    assert analysis.inputs["conv2"] == "h is an output of the model"
    assert analysis.inputs["conv1"] == "x is an input of the model"


def test_a_shared_weight_is_refused() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="first"),
        node("Relu", ["a"], ["r"], name="relu"),
        node("Conv", ["r", "w"], ["y"], name="second"),
    ]
    analysis = analysed(build(nodes, {"w": array(3, 3, 1, 1)}, ("N", 3, 4, 4)))
    assert not analysis.groups
    assert analysis.outputs["first"] == "first (Conv): it shares w with another node"
    assert analysis.inputs["second"] == "second (Conv): it shares w with another node"


def test_a_layer_whose_weight_is_an_activation_fixes_its_scales() -> None:
    nodes = [
        node("Gemm", ["x", "w"], ["a"], name="first"),
        node("Transpose", ["a"], ["t"], name="turn"),
        node("MatMul", ["a", "t"], ["y"], name="product"),
    ]
    analysis = analysed(build(nodes, {"w": array(3, 3)}, ("N", 3)))
    assert not analysis.groups
    assert analysis.outputs == {"first": "product (MatMul): both operands are activations"}


def test_a_quantized_layer_keeps_its_weight() -> None:
    model = Model(gs.import_onnx(chain([op("Relu")])), RULES)
    layer = model.layers()["conv2"]
    grid = absmax_grid(model.weight(layer), 8)
    model.quantized["conv2"] = Quantized(grid.codes(model.weight(layer)), grid, 40.0)
    analysis = scale_groups(model)
    assert not analysis.groups
    assert analysis.inputs["conv2"] == analysis.outputs["conv1"] == "conv2 (Conv): it is quantized already"


def test_scales_do_not_move_once_activations_have_grids() -> None:
    model = Model(gs.import_onnx(chain([op("Relu")])), RULES)
    model.activation_qparams["h"] = ActivationGrid.of(0, 1)
    with pytest.raises(QuantizationError, match="put the pass before activation_ranges"):
        scale_groups(model)


def test_residual_adds_make_one_component() -> None:
    analysis = scale_groups(prepared(resnet()))
    residual, inner, last = analysis.groups
    assert set(residual.producers) == {"stem", "block.conv2"}
    assert set(residual.consumers) == {"block.conv1", "silu.conv"}
    assert (set(inner.producers), set(inner.consumers)) == ({"block.conv1"}, {"block.conv2"})
    assert (set(last.producers), set(last.consumers)) == ({"last"}, {"fc"})
    assert [group.size for group in analysis.groups] == [8, 8, 16]
    assert analysis.inputs == {
        "stem": "x is an input of the model",
        "depthwise": "silu_sigmoid (Sigmoid) does not pass a channel's scale on",
        "last": "clip6 (Clip) clips every channel at the same bound: 0 to 6",
    }
    assert set(analysis.outputs) == {"silu.conv", "depthwise", "fc"}


def test_free_channels_beside_fixed_channels() -> None:
    """Half of the inputs of a Concat come from a Clip. The other half is still free."""
    nodes = [
        node("Clip", ["h", "zero", "one"], ["c"], name="clip"),
        node("Conv", ["x", "free.w"], ["f"], name="free"),
        node("Concat", ["c", "f"], ["j"], name="join", axis=1),
        node("Conv", ["j", "wide.w"], ["k"], name="wide"),
    ]
    constants = {"zero": ZERO, "one": ONE, "free.w": array(2, 3, 3, 3), "wide.w": array(6, 8, 1, 1)}
    analysis = analysed(chain(nodes, constants))
    group = next(group for group in analysis.groups if "wide" in group.consumers)
    np.testing.assert_array_equal(group.consumers["wide"], [-1] * 6 + [0, 1])
    np.testing.assert_array_equal(group.producers["free"], [0, 1])
    assert analysis.outputs["conv1"].startswith("clip (Clip) clips every channel at the same bound")


def test_channels_of_an_option_a_shortcut() -> None:
    """CIFAR ResNets (He et al. 2016, §4.2): the shortcut is padded with zero channels, which may have any scale."""
    nodes = [
        node("Relu", ["h"], ["r"], name="relu"),
        node("Conv", ["r", "c.w"], ["c"], name="c"),
        node("Pad", ["r", "pads"], ["p"], name="pad"),
        node("Add", ["c", "p"], ["s"], name="add"),
        node("Conv", ["s", "d.w"], ["k"], name="d"),
    ]
    constants = {"c.w": array(9, 6, 1, 1), "d.w": array(6, 9, 1, 1), "pads": np.array([0, 1, 0, 0, 0, 2, 0, 0])}
    group = next(group for group in analysed(chain(nodes, constants)).groups if "d" in group.consumers)
    assert group.size == 9
    np.testing.assert_array_equal(group.consumers["d"], group.producers["c"])
    np.testing.assert_array_equal(group.producers["conv1"], group.consumers["d"][1:7])


def test_a_depthwise_layer_separates_two_groups() -> None:
    nodes = [node("Conv", ["h", "dw.w"], ["d"], name="dw", group=6), node("Relu", ["d"], ["k"], name="relu")]
    before, behind = analysed(chain(nodes, {"dw.w": array(6, 1, 3, 3)})).groups
    assert (set(before.producers), set(before.consumers)) == ({"conv1"}, {"dw"})
    assert (set(behind.producers), set(behind.consumers)) == ({"dw"}, {"conv2"})
