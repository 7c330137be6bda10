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

from converter.learn.operators import OPERATORS, Program, unsupported  # noqa: E402
from converter.learn.spatial import NoTorchForm  # noqa: E402
from tests.converter.networks import LAYERS, branches, images, random, relative_error, resnet, run, shape_branch  # noqa: E402

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
    found = program({name: torch.from_numpy(value) for name, value in feeds.items()})
    return {name: value.numpy() for name, value in found.items()}


def agrees(proto: onnx.ModelProto, x: NDArray[np.float32]) -> bool:
    return relative_error(computed(proto, {"x": x})["y"], run(proto, {"x": x})[0]) < EQUAL


X = images(2, 6, 9, 8)
CASES: dict[str, tuple[str, tuple[NDArray[Any] | None, ...], dict[str, Any]]] = {
    "abs": ("Abs", (), {}),
    "add": ("Add", (random(6, 1, 1),), {}),
    "clip": ("Clip", (np.array(-0.1, np.float32), np.array(0.7, np.float32)), {}),
    "clip_above": ("Clip", (None, np.array(0.7, np.float32)), {}),
    "div": ("Div", (np.abs(random(6, 1, 1)) + np.float32(1),), {}),
    "elu": ("Elu", (), {"alpha": 0.7}),
    "erf": ("Erf", (), {}),
    "exp": ("Exp", (), {}),
    "gather": ("Gather", (np.array([[2, 0], [-1, 1]]),), {"axis": 1}),
    "flatten": ("Flatten", (), {"axis": 2}),
    "gelu": ("Gelu", (), {}),
    "gelu_tanh": ("Gelu", (), {"approximate": "tanh"}),
    "hard_sigmoid": ("HardSigmoid", (), {"alpha": 0.3, "beta": 0.4}),
    "hard_swish": ("HardSwish", (), {}),
    "leaky_relu": ("LeakyRelu", (), {"alpha": 0.2}),
    "mul": ("Mul", (random(6, 1, 1),), {}),
    "neg": ("Neg", (), {}),
    "prelu": ("PRelu", (random(6, 1, 1),), {}),
    "reduce_mean": ("ReduceMean", (np.array([2, 3]),), {"keepdims": 0}),
    "reduce_mean_all": ("ReduceMean", (), {}),
    "reshape": ("Reshape", (np.array([0, 3, -1]),), {}),
    "sigmoid": ("Sigmoid", (), {}),
    "slice": ("Slice", (np.array([1, 0]), np.array([9, -1]), np.array([2, 3]), np.array([2, 1])), {}),
    "softmax": ("Softmax", (), {"axis": 1}),
    "softplus": ("Softplus", (), {}),
    "squeeze_unsqueeze": ("Unsqueeze", (np.array([0, -1]),), {}),
    "sub": ("Sub", (random(6, 1, 1),), {}),
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
    "resize_nearest_as_it_is_if_nothing_is_said": ("Resize", (None, np.array([1, 1, 3, 2], np.float32)), {}),
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


@pytest.mark.parametrize("name", LAYERS)
def test_a_linear_layer_computes_what_onnxruntime_does(name: str) -> None:
    assert agrees(LAYERS[name].model(), LAYERS[name].images())


@settings(max_examples=60, deadline=None)
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
    found = computed(proto, feeds)
    for name, expected in zip([output.name for output in proto.graph.output], run(proto, feeds), strict=True):
        assert relative_error(found[name], expected) < EQUAL


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value or 12 for dim in value.type.tensor_type.shape.dim][1:]


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
        ("ConvTranspose", (random(6, 4, 3, 3),), {"auto_pad": "SAME_UPPER"}, "auto_pad"),
    ],
)
def test_attributes_without_a_form_are_named(
    op: str, operands: tuple[NDArray[Any] | None, ...], attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(NoTorchForm, match=message):
        computed(alone(op, X, operands, **attributes), {"x": X})
