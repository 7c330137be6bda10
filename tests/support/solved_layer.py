"""A single layer, its inputs, and the problem that a layer pass gets."""

from typing import Any

import numpy as np
import onnx

from passes.base import Problem
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.numerics.grid import Floats
from passes.numerics.moments import Moments, MomentsAccumulator
from tests.support.graphs import array, build, node

__all__ = ["LAYERS", "moments_of", "one_layer", "problem_of", "smooth"]

LAYERS: dict[str, tuple[str, tuple[int, ...], int, dict[str, Any], tuple[int, ...]]] = {
    # op, weight, outputs, attributes, input
    "conv": ("Conv", (8, 3, 3, 3), 8, {"pads": [1, 1, 1, 1]}, (6, 3, 9, 9)),
    "conv_strided_group": ("Conv", (8, 2, 3, 3), 8, {"group": 2, "strides": [2, 1]}, (6, 4, 9, 9)),
    "depthwise": ("Conv", (6, 1, 3, 3), 6, {"group": 6, "auto_pad": "SAME_UPPER"}, (6, 6, 9, 9)),
    "conv_transpose": ("ConvTranspose", (4, 8, 3, 3), 16, {"group": 2, "strides": [2, 2]}, (6, 4, 6, 6)),
    "gemm": ("Gemm", (30, 8), 8, {}, (200, 30)),
    "gemm_trans_b": ("Gemm", (8, 30), 8, {"transB": 1}, (200, 30)),
}


def smooth(*shape: int) -> Floats:
    """Return inputs that are not centred, and correlated along every axis except the first."""
    x = array(*shape, seed=5)
    for axis in range(1, x.ndim):
        x = (x + np.roll(x, 1, axis) + np.roll(x, 2, axis)) / np.float32(np.sqrt(3))
    return np.asarray(x + np.float32(0.7), np.float32)


def one_layer(
    case: tuple[str, tuple[int, ...], int, dict[str, Any], tuple[int, ...]], bias: bool, seed: int = 0
) -> onnx.ModelProto:
    op, weight, outputs, attributes, shape = case
    constants = {"w": array(*weight, seed=seed)} | ({"b": array(outputs, seed=1)} if bias else {})
    return build([node(op, ["x", *constants], ["y"], name="layer", **attributes)], constants, shape)


def moments_of(layer: Linear, quantized: Floats, float_rows: Floats | None = None) -> Moments:
    g, _, k = layer.matrix_shape
    total = MomentsAccumulator(g, k, cross=float_rows is not None)
    total.update(layer.rows(quantized), None if float_rows is None else layer.rows(float_rows - quantized))
    return total.moments()


def problem_of(model: Model, moments: Moments | None, bits: int = 3, block_size: int | None = None) -> Problem:
    layer = model.layers()["layer"]
    return Problem(layer, model.weight(layer), model.bias(layer), bits, block_size, None, moments)
