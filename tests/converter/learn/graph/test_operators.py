"""Operators in torch against the same node in onnxruntime."""

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

from converter.learn.graph.operators import OPERATORS  # noqa: E402
from converter.learn.graph.program import Program, unsupported  # noqa: E402
from converter.learn.graph.spatial import NoTorchForm  # noqa: E402
from tests.support.networks import LAYERS, branches, images, random, relative_error, resnet, run, shape_branch  # noqa: E402

EQUAL = 1e-5  # of max|y|: float32 sums in another order


def alone(
    op: str, x: NDArray[np.float32], operands: tuple[NDArray[Any] | None, ...] = (), **attributes: Any
) -> onnx.ModelProto:
    """One node with constants for all but its first operand."""
    names = ["x", *("" if value is None else f"c{index}" for index, value in enumerate(operands))]
    node = helper.make_node(op, names, ["y"], "node", **attributes)
    given = zip(names[1:], operands, strict=True)
    constants = [numpy_helper.from_array(value, name) for name, value in given if value is not None]
    graph = helper.make_graph(
        [node],
        "alone",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_empty_tensor_value_info("y")],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def computed(proto: onnx.ModelProto, feeds: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    program = Program(gs.import_onnx(proto))
    actual = program({name: torch.from_numpy(value) for name, value in feeds.items()})
    return {name: value.numpy() for name, value in actual.items()}


def agrees(proto: onnx.ModelProto, x: NDArray[np.float32]) -> bool:
    return relative_error(computed(proto, {"x": x})["y"], run(proto, {"x": x})[0]) < EQUAL


X = images(2, 6, 9, 8)
CASES: dict[str, tuple[str, tuple[NDArray[Any] | None, ...], dict[str, Any]]] = {
    "abs": ("Abs", (), {}),
    "add": ("Add", (random(6, 1, 1),), {}),
    "celu": ("Celu", (), {"alpha": 0.7}),
    "clip": ("Clip", (np.array(-0.1, np.float32), np.array(0.7, np.float32)), {}),
    "clip_above": ("Clip", (None, np.array(0.7, np.float32)), {}),
    "cos": ("Cos", (), {}),
    "div": ("Div", (np.abs(random(6, 1, 1)) + np.float32(1),), {}),
    "einsum": ("Einsum", (random(6, 5),), {"equation": "nchw,cd->ndhw"}),
    "elu": ("Elu", (), {"alpha": 0.7}),
    "erf": ("Erf", (), {}),
    "exp": ("Exp", (), {}),
    "expand": ("Expand", (np.array([3, 1, 6, 1, 1]),), {}),
    "expand_less": ("Expand", (np.array([9, 1]),), {}),
    "gather": ("Gather", (np.array([[2, 0], [-1, 1]]),), {"axis": 1}),
    "flatten": ("Flatten", (), {"axis": 2}),
    "flatten_from_behind": ("Flatten", (), {"axis": -2}),
    "gelu": ("Gelu", (), {}),
    "gelu_tanh": ("Gelu", (), {"approximate": "tanh"}),
    "group_normalization": ("GroupNormalization", (random(6), random(6, seed=1)), {"num_groups": 3, "epsilon": 1e-3}),
    "hard_sigmoid": ("HardSigmoid", (), {"alpha": 0.3, "beta": 0.4}),
    "hard_swish": ("HardSwish", (), {}),
    "instance_normalization": ("InstanceNormalization", (random(6), random(6, seed=1)), {"epsilon": 1e-3}),
    "layer_normalization": ("LayerNormalization", (random(8), random(8, seed=1)), {"epsilon": 1e-3}),
    "layer_normalization_of_axes": ("LayerNormalization", (random(9, 8),), {"axis": 2}),
    "leaky_relu": ("LeakyRelu", (), {"alpha": 0.2}),
    "local_response": ("LRN", (), {"size": 3, "alpha": 0.2, "beta": 0.6, "bias": 1.5}),
    "log_softmax": ("LogSoftmax", (), {"axis": 1}),
    "max": ("Max", (random(6, 1, 1), random(8)), {}),
    "mean": ("Mean", (random(6, 1, 1), random(8)), {}),
    "min": ("Min", (random(6, 1, 1),), {}),
    "mish": ("Mish", (), {}),
    "mul": ("Mul", (random(6, 1, 1),), {}),
    "neg": ("Neg", (), {}),
    "pow": ("Pow", (np.array(2, np.float32),), {}),
    "prelu": ("PRelu", (random(6, 1, 1),), {}),
    "reduce_l2": ("ReduceL2", (np.array([1]),), {}),
    "reduce_l2_of_nothing": ("ReduceL2", (), {"noop_with_empty_axes": 1}),
    "reduce_max": ("ReduceMax", (np.array([2, -1]),), {}),
    "reduce_mean_of_nothing": ("ReduceMean", (), {"noop_with_empty_axes": 1}),
    "reduce_min": ("ReduceMin", (np.array([2]),), {}),
    "reduce_sum": ("ReduceSum", (np.array([1, 3]),), {"keepdims": 0}),
    "reduce_mean": ("ReduceMean", (np.array([2, 3]),), {"keepdims": 0}),
    "reduce_mean_all": ("ReduceMean", (), {}),
    "reshape": ("Reshape", (np.array([0, 3, -1]),), {}),
    "selu": ("Selu", (), {}),
    "selu_of_ones_own": ("Selu", (), {"alpha": 1.2, "gamma": 0.9}),
    "sigmoid": ("Sigmoid", (), {}),
    "slice": ("Slice", (np.array([1, 0]), np.array([9, -1]), np.array([2, 3]), np.array([2, 1])), {}),
    "sin": ("Sin", (), {}),
    "softsign": ("Softsign", (), {}),
    "softmax": ("Softmax", (), {"axis": 1}),
    "softplus": ("Softplus", (), {}),
    "squeeze_unsqueeze": ("Unsqueeze", (np.array([0, -1]),), {}),
    "sub": ("Sub", (random(6, 1, 1),), {}),
    "sum": ("Sum", (random(6, 1, 1), random(8)), {}),
    "tile": ("Tile", (np.array([1, 2, 1, 3]),), {}),
    "tanh": ("Tanh", (), {}),
    "transpose": ("Transpose", (), {"perm": [0, 2, 3, 1]}),
    "transpose_reversed": ("Transpose", (), {}),
    "batch_normalization": (
        "BatchNormalization",
        (random(6), random(6, seed=1), random(6, seed=2), np.abs(random(6, seed=3)) + np.float32(0.1)),
        {"epsilon": 1e-3},
    ),
    "global_average": ("GlobalAveragePool", (), {}),
    "global_max": ("GlobalMaxPool", (), {}),
    "max_pool": ("MaxPool", (), {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    "max_pool_ceil": ("MaxPool", (), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    "average_pool": ("AveragePool", (), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "average_pool_uneven": ("AveragePool", (), {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0]}),
    "average_pool_counted": (
        "AveragePool",
        (),
        {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0], "count_include_pad": 1},
    ),
    "average_pool_same": ("AveragePool", (), {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    "pad": ("Pad", (np.array([0, 0, 1, 2, 0, 0, 0, 1]), np.array(0.3, np.float32)), {}),
    "resize": (
        "Resize",
        (None, np.array([1, 1, 2, 3], np.float32)),
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    "resize_linear": ("Resize", (None, np.array([1, 1, 2, 3], np.float32)), {"mode": "linear"}),
    "resize_linear_by_a_half": ("Resize", (None, np.array([1, 1, 1, 0.5], np.float32)), {"mode": "linear"}),
    "resize_nearest_default": ("Resize", (None, np.array([1, 1, 3, 2], np.float32)), {}),
    "resize_linear_to_sizes": (
        "Resize",
        (None, None, np.array([*X.shape[:2], 9, 5])),
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_what_onnxruntime_does(name: str) -> None:
    op, operands, attributes = CASES[name]
    assert agrees(alone(op, X, operands, **attributes), X)


@pytest.mark.parametrize(
    ("operands", "attributes", "widths"),
    [
        ((), {"num_outputs": 3, "axis": 1}, (2, 2, 2)),
        ((), {"num_outputs": 2, "axis": 2}, (5, 4)),  # the last is smaller
        ((np.array([1, 5]),), {"axis": 1}, (1, 5)),
    ],
)
def test_a_split_writes_every_part(
    operands: tuple[NDArray[Any], ...], attributes: dict[str, Any], widths: tuple[int, ...]
) -> None:
    proto = alone("Split", X, operands, **attributes)
    names = [f"y{index}" for index in range(len(widths))]
    del proto.graph.node[0].output[:], proto.graph.output[:]
    proto.graph.node[0].output.extend(names)
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    actual, expected = computed(proto, {"x": X}), run(proto, {"x": X})
    assert tuple(value.shape[attributes["axis"]] for value in actual.values()) == widths
    for name, value in zip(names, expected, strict=True):
        np.testing.assert_array_equal(actual[name], value)


def test_a_part_of_a_split_that_nobody_reads_needs_no_name() -> None:
    proto = alone("Split", X, (np.array([1, 5]),), axis=1)
    del proto.graph.node[0].output[:]
    proto.graph.node[0].output.extend(["", "part"])
    proto.graph.node.append(helper.make_node("Clip", ["part", "", "most"], ["y"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "most"))
    np.testing.assert_array_equal(computed(proto, {"x": X})["y"], np.minimum(X[:, 1:], np.float32(0.5)))


def test_shapes_and_masks() -> None:
    """Shape -> ConstantOfShape, Range, Cast, comparisons and Where: y is x in some columns, and -2 in the others."""
    node = helper.make_node
    constants = {
        "zero": np.array(0),
        "one": np.array(1),
        "half": np.array(4.0, np.float32),
        "channels": np.array(1),
        "least": np.array(1, np.float32),
    }
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["empty"], value=numpy_helper.from_array(np.array([-2], np.float32))),
        node("Shape", ["x"], ["tail"], start=3),
        node("Squeeze", ["tail"], ["width"]),
        node("Range", ["zero", "width", "one"], ["columns"]),
        node("Cast", ["columns"], ["numbers"], to=TensorProto.FLOAT),
        node("Less", ["numbers", "half"], ["left"]),
        node("GreaterOrEqual", ["numbers", "least"], ["inner"]),
        node("Not", ["inner"], ["outer"]),
        node("Where", ["left", "x", "empty"], ["some"]),
        node("Where", ["outer", "empty", "some"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "masks",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    assert agrees(proto, X)


@pytest.mark.parametrize(
    ("op", "attributes"), [("DepthToSpace", {}), ("DepthToSpace", {"mode": "CRD"}), ("SpaceToDepth", {})]
)
def test_channels_become_pixels_and_back(op: str, attributes: dict[str, Any]) -> None:
    x = images(2, 12, 4, 6)
    assert agrees(alone(op, x, blocksize=2, **attributes), x)


@pytest.mark.parametrize("name", LAYERS)
def test_a_linear_layer_computes_what_onnxruntime_does(name: str) -> None:
    assert agrees(LAYERS[name].model(), LAYERS[name].images())


@settings(max_examples=60)
@given(
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    strides=st.tuples(*[st.integers(1, 3)] * 2),
    dilations=st.tuples(*[st.integers(1, 2)] * 2),
    kernel=st.tuples(*[st.integers(1, 3)] * 2),
    group=st.sampled_from([1, 2, 6]),
    automatic=st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]),
)
def test_convolutions_of_any_geometry(
    pads: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    kernel: tuple[int, ...],
    group: int,
    automatic: str,
) -> None:
    if automatic == "NOTSET":
        geometry: dict[str, Any] = {"pads": pads, "dilations": dilations}
    else:
        geometry = {"auto_pad": automatic}  # with dilations, onnxruntime refuses it
    weight = random(6, 6 // group, *kernel)
    assert agrees(alone("Conv", X, (weight, random(6)), group=group, strides=strides, **geometry), X)


@pytest.mark.parametrize("proto", [resnet(), branches(), shape_branch()], ids=["resnet", "branches", "shapes"])
def test_a_whole_network_computes_what_onnxruntime_does(proto: onnx.ModelProto) -> None:
    feeds = {value.name: images(4, *_sizes(value)) for value in proto.graph.input}
    actual = computed(proto, feeds)
    for name, expected in zip([output.name for output in proto.graph.output], run(proto, feeds), strict=True):
        assert relative_error(actual[name], expected) < EQUAL


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value or 12 for dim in value.type.tensor_type.shape.dim][1:]


@pytest.mark.parametrize("op", ["InstanceNormalization", "GroupNormalization"])
def test_normalisation_of_a_single_pixel(op: str) -> None:
    x = images(1, 6, 1, 1)
    attributes = {"num_groups": 6} if op == "GroupNormalization" else {}
    assert agrees(alone(op, x, (random(6), random(6, seed=1)), **attributes), x)


def test_a_shape_is_where_its_tensor_is() -> None:
    x = torch.empty(2, 3, device="meta")
    actual = OPERATORS["Shape"]({}, x)
    assert isinstance(actual, torch.Tensor)
    assert actual.device == x.device


def test_weights_and_tensors_can_be_replaced() -> None:
    program = Program(gs.import_onnx(LAYERS["conv2d"].model()))
    x = torch.from_numpy(LAYERS["conv2d"].images())
    weights = {"w": torch.zeros_like(program.constants["w"]), "b": torch.arange(8.0)}
    y = program({"x": x}, weights, lambda name, value: value + 1 if name == "y" else value)["y"]
    assert torch.equal(y, (torch.arange(8.0) + 1).reshape(1, 8, 1, 1).expand_as(y))


def test_operators_without_a_form_are_named() -> None:
    assert unsupported(gs.import_onnx(resnet()).nodes) is None
    graph = gs.import_onnx(alone("Ceil", X))
    assert "Ceil" not in OPERATORS
    assert unsupported(graph.nodes) == "Ceil (node) has no differentiable form"


@pytest.mark.parametrize(
    ("op", "operands", "attributes", "message"),
    [
        ("Slice", (np.array([5]), np.array([0]), np.array([2]), np.array([-1])), {}, "negative step"),
        ("Resize", (None, np.array([1, 1, 2, 2], np.float32)), {"mode": "cubic"}, "nearest by a whole factor"),
        ("Resize", (None, np.array([1, 1, 2, 2], np.float32)), {"nearest_mode": "ceil"}, "nearest by a whole factor"),
        ("Resize", (None, np.array([1, 2, 2, 2], np.float32)), {"mode": "linear"}, "other than spatial axes"),
        ("Resize", (None, np.array([1, 1, 1.7, 2], np.float32)), {"mode": "linear"}, "does not give whole sizes"),
        ("Resize", (None, np.array([1, 1], np.float32)), {"mode": "linear", "axes": [2, 3]}, "Resize with axes"),
        (
            "Resize",
            (None, None, np.array([*X.shape[:2], 16, 40])),
            {"mode": "linear", "keep_aspect_ratio_policy": "not_larger"},
            "keep_aspect_ratio_policy",
        ),
        ("Pad", (np.array([0, 0, 1, 1, 0, 0, 1, 1]),), {"mode": "reflect"}, "other than constant"),
        ("AveragePool", (), {"kernel_shape": [2, 2], "dilations": [2, 2]}, "dilations"),
        ("Cast", (), {"to": TensorProto.INT64}, "Cast of floats to integers"),
        ("Cast", (), {"to": TensorProto.BFLOAT16}, "Cast to BFLOAT16"),
        ("ConvTranspose", (random(6, 4, 3, 3),), {"auto_pad": "SAME_UPPER"}, "auto_pad"),
    ],
)
def test_attributes_without_a_form_are_named(
    op: str, operands: tuple[NDArray[Any] | None, ...], attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(NoTorchForm, match=message):
        computed(alone(op, X, operands, **attributes), {"x": X})
