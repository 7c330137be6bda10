"""Layers as matrices: rows(x) @ weightᵀ + bias equals the output of onnxruntime, for every geometry."""

import math
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from passes.ir.linear import Linear
from tests.support.graphs import array, build, node, run
from tests.support.one_layer import convolution, layer_of

TOLERANCE = 1e-5  # of float32 sums in another order, relative to max|y|
AUTO_PADS = ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]


def output(layer: Linear, weight: np.ndarray, bias: np.ndarray | None, x: np.ndarray) -> np.ndarray:
    """Return rows(x) @ weightᵀ + bias of every group as ``[n, g * o, positions]``."""
    g, o, _ = layer.matrix_shape
    y: np.ndarray = layer.rows(x) @ layer.matrix(weight).transpose(0, 2, 1)  # [g, n * p, o]
    if bias is not None:
        y += bias.reshape(g, 1, o)
    split = y.reshape(g, x.shape[0], -1, o)  # [g, n, p, o]
    return np.asarray(split.transpose(1, 0, 3, 2).reshape(x.shape[0], g * o, -1))


def assert_is_onnxruntimes(model: onnx.ModelProto, x: np.ndarray) -> None:
    layer, weight, bias = layer_of(model)
    expected = run(model, x)[0]
    assert layer.matrix(weight).shape == layer.matrix_shape
    g, o, _ = layer.matrix_shape
    assert layer.outputs == g * o
    np.testing.assert_array_equal(layer.stored(layer.matrix(weight)), weight)
    assert layer.stored(layer.matrix(weight)).shape == weight.shape
    assert layer.output_shape(x.shape) == expected.shape
    actual = output(layer, weight, bias, x)
    rows = np.moveaxis(expected.reshape(*expected.shape[:2], -1), 1, 2) if layer.kernel else expected
    np.testing.assert_array_equal(layer.output_rows(expected), rows.reshape(-1, g, o).transpose(1, 0, 2))
    if layer.kernel:
        assert layer.outputs == expected.shape[1]
        assert actual.size == expected.size
        actual = actual.reshape(expected.shape)
    else:
        assert layer.outputs == expected.shape[-1]
        actual = actual.transpose(0, 2, 1).reshape(expected.shape)
    assert np.abs(actual - expected).max() <= TOLERANCE * max(np.abs(expected).max(), 1e-6)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    spatial, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    per_axis = st.lists(st.integers(1, 3), min_size=spatial, max_size=spatial)
    kernel, strides, dilations = draw(per_axis), draw(per_axis), draw(per_axis)
    auto_pad = draw(st.sampled_from(AUTO_PADS))
    pads = draw(st.lists(st.integers(0, 2), min_size=2 * spatial, max_size=2 * spatial))
    if auto_pad != "NOTSET":
        pads = [0] * 2 * spatial
    if auto_pad.startswith("SAME"):
        dilations = [1] * spatial  # onnxruntime supports no others
    size = []
    for axis in range(spatial):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        padding = pads[axis] + pads[spatial + axis]
        least = 1 if auto_pad.startswith("SAME") else max(reach - padding, 1)
        size.append(least + draw(st.integers(0, 4)))
    inputs, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    attributes: dict[str, Any] = {"group": groups, "strides": strides, "dilations": dilations}
    attributes |= {"pads": pads} if auto_pad == "NOTSET" else {"auto_pad": auto_pad}
    if draw(st.booleans()):  # omit defaults
        attributes = {key: value for key, value in attributes.items() if value != [1] * spatial and any_set(value)}
    x = (draw(st.integers(1, 3)), groups * inputs, *size)
    bias = groups * outputs if draw(st.booleans()) else None
    return convolution("Conv", (groups * outputs, inputs, *kernel), x, bias, **attributes), x


def any_set(value: Any) -> bool:
    return value != 1 and value != "NOTSET" and not (isinstance(value, list) and not any(value))


@settings(max_examples=150)
@given(convolutions())
def test_conv(drawn: tuple[onnx.ModelProto, tuple[int, ...]]) -> None:
    model, shape = drawn
    assert_is_onnxruntimes(model, array(*shape, seed=2))


@st.composite
def transposed_convolutions(draw: st.DrawFn) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    spatial, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    per_axis = st.lists(st.integers(1, 3), min_size=spatial, max_size=spatial)
    kernel, strides, dilations, size = (draw(per_axis) for _ in range(4))
    padding = [draw(st.integers(0, stride - 1)) for stride in strides]
    auto_pad = draw(st.sampled_from(AUTO_PADS))
    attributes: dict[str, Any] = {
        "group": groups,
        "strides": strides,
        "dilations": dilations,
        "output_padding": padding,
    }
    if auto_pad == "NOTSET":
        pads = draw(st.lists(st.integers(0, 3), min_size=2 * spatial, max_size=2 * spatial))
        for axis in range(spatial):
            full = (size[axis] - 1) * strides[axis] + dilations[axis] * (kernel[axis] - 1) + 1 + padding[axis]
            assume(full - pads[axis] - pads[spatial + axis] >= 1)
        attributes["pads"] = pads
    else:
        attributes["auto_pad"] = auto_pad
    inputs, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    x = (draw(st.integers(1, 2)), groups * inputs, *size)
    bias = groups * outputs if draw(st.booleans()) else None
    return convolution("ConvTranspose", (groups * inputs, outputs, *kernel), x, bias, **attributes), x


@settings(max_examples=150)
@given(transposed_convolutions())
def test_conv_transpose(drawn: tuple[onnx.ModelProto, tuple[int, ...]]) -> None:
    model, shape = drawn
    assert_is_onnxruntimes(model, array(*shape, seed=2))


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_conv_transpose_output_padding_with_auto_pad(auto_pad: str, kernel: int) -> None:
    attributes = {"strides": [2], "output_padding": [1], "auto_pad": auto_pad}
    model = convolution("ConvTranspose", (2, 3, kernel), (1, 2, 5), 3, **attributes)
    assert_is_onnxruntimes(model, array(1, 2, 5, seed=2))


CONVOLUTIONS = {
    "depthwise": ("Conv", (6, 1, 3, 3), (2, 6, 7, 7), {"group": 6, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "depthwise_multiplier": ("Conv", (12, 1, 3, 3), (2, 6, 7, 7), {"group": 6}),
    "asymmetric_pads": ("Conv", (4, 3, 3, 3), (2, 3, 6, 8), {"pads": [0, 2, 1, 0]}),
    "pads_wider_than_the_kernel": ("Conv", (4, 3, 1, 1), (2, 3, 4, 4), {"pads": [2, 1, 3, 0]}),
    "one_by_one_strided": ("Conv", (4, 3, 1, 1), (2, 3, 7, 7), {"strides": [2, 3]}),
    "one_dimension": ("Conv", (4, 3, 5), (2, 3, 12), {"dilations": [2], "pads": [3, 1]}),
    "three_dimensions": ("Conv", (4, 2, 2, 3, 1), (1, 4, 5, 4, 3), {"group": 2, "pads": [1, 0, 0, 0, 1, 2]}),
    "same_upper_even_kernel": ("Conv", (4, 3, 4, 2), (1, 3, 7, 6), {"auto_pad": "SAME_UPPER", "strides": [2, 1]}),
    "same_lower_even_kernel": ("Conv", (4, 3, 4, 2), (1, 3, 7, 6), {"auto_pad": "SAME_LOWER", "strides": [2, 1]}),
    "stride_past_the_kernel": ("Conv", (4, 3, 2, 2), (1, 3, 9, 9), {"strides": [4, 3]}),
    "transpose_2x_upsampling": ("ConvTranspose", (3, 5, 4, 4), (2, 3, 5, 5), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "transpose_groups": ("ConvTranspose", (6, 2, 3, 3), (2, 6, 4, 4), {"group": 3, "dilations": [2, 1]}),
    "transpose_depthwise": ("ConvTranspose", (4, 1, 3, 3), (2, 4, 4, 4), {"group": 4, "strides": [2, 2]}),
    "transpose_crop": ("ConvTranspose", (3, 2, 2, 2), (1, 3, 6, 6), {"pads": [3, 0, 2, 3]}),
    "transpose_crop_past_the_input": (
        "ConvTranspose",
        (2, 3, 1),
        (2, 2, 1),
        {"strides": [3], "output_padding": [2], "pads": [2, 0]},
    ),
    "transpose_stride_past_the_kernel": ("ConvTranspose", (3, 2, 1, 1), (1, 3, 4, 4), {"strides": [3, 2]}),
    "transpose_output_padding": (
        "ConvTranspose",
        (3, 2, 3, 3),
        (1, 3, 4, 4),
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 0]},
    ),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_named_convolutions(case: tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]], bias: bool) -> None:
    op, weight, x, attributes = case
    channels = weight[0] if op == "Conv" else weight[1] * attributes.get("group", 1)
    model = convolution(op, weight, x, channels if bias else None, **attributes)
    assert_is_onnxruntimes(model, array(*x, seed=2))


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_gemm(trans_b: int, bias: bool) -> None:
    constants = {"w": array(4, 7) if trans_b else array(7, 4)} | ({"b": array(4)} if bias else {})
    model = build([node("Gemm", ["x", *constants], ["y"], name="layer", transB=trans_b)], constants, (5, 7))
    assert_is_onnxruntimes(model, array(5, 7, seed=2))
    layer, weight, _ = layer_of(model)
    assert layer.channel_axis == 1 - trans_b
    assert weight.shape[layer.channel_axis] == 4


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 5, 7), (2, 3, 5, 7)], ids=str)
def test_matmul(shape: tuple[int, ...]) -> None:
    model = build([node("MatMul", ["x", "w"], ["y"], name="layer")], {"w": array(7, 4)}, shape)
    x = array(*shape, seed=2)
    layer, weight, _ = layer_of(model)
    assert (layer.matrix_shape, layer.channel_axis, layer.bias) == ((1, 4, 7), 1, None)
    actual = layer.rows(x) @ layer.matrix(weight).transpose(0, 2, 1)
    expected = run(model, x)[0]
    assert np.abs(actual.reshape(expected.shape) - expected).max() <= TOLERANCE * np.abs(expected).max()


@settings(max_examples=100)
@given(
    op=st.sampled_from(["Conv", "ConvTranspose", "Gemm", "MatMul"]),
    spatial=st.integers(1, 3),
    sizes=st.lists(st.integers(1, 4), min_size=6, max_size=6),
    transposed=st.booleans(),
    dtype=st.sampled_from([np.float32, np.int8]),
)
def test_stored_is_the_inverse_of_matrix(
    op: str, spatial: int, sizes: list[int], transposed: bool, dtype: type[np.float32] | type[np.int8]
) -> None:
    groups, inputs, outputs = sizes[:3]
    if op in {"Conv", "ConvTranspose"}:
        first, second = (groups * outputs, inputs) if op == "Conv" else (groups * inputs, outputs)
        shape: tuple[int, ...] = (first, second, *sizes[3 : 3 + spatial])
    else:
        shape, groups = (inputs, outputs), 1
    layer = Linear("layer", op, "x", "y", "w", shape, None, groups, transposed=op == "Gemm" and transposed)
    weight = np.arange(math.prod(shape)).astype(dtype).reshape(shape)
    matrix = layer.matrix(weight)
    assert matrix.shape == layer.matrix_shape
    np.testing.assert_array_equal(layer.stored(matrix), weight)
    assert layer.stored(matrix).dtype == matrix.dtype == dtype
    back = np.arange(weight.size).astype(dtype).reshape(matrix.shape)
    np.testing.assert_array_equal(layer.matrix(layer.stored(back)), back)


def test_channel_axis_runs_over_output_channels() -> None:
    """Scales per output channel along that axis multiply rows of the matrix."""
    for op, shape, groups, outputs in (
        ("Conv", (6, 2, 3, 3), 3, 6),
        ("ConvTranspose", (2, 4, 3, 3), 1, 4),
        ("MatMul", (5, 4), 1, 4),
    ):
        layer = Linear("layer", op, "x", "y", "w", shape, None, groups)
        scale = np.arange(1, outputs + 1)
        shaped = scale.reshape([-1 if axis == layer.channel_axis else 1 for axis in range(len(shape))])
        matrix = layer.matrix(np.ones(shape) * shaped)
        g, o, _ = layer.matrix_shape
        np.testing.assert_array_equal(matrix, np.broadcast_to(scale.reshape(g, o, 1), matrix.shape))
