"""Floats that are pixels on a grid of their own: an image of uint8 is its own codes.

    value = (float(pixel) - zero) * step,  zero an integer of 0..255

The grid of scale ``step`` and zero point ``zero`` holds each such value exactly, and its codes are the pixels.
"""

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.ir.surgery import is_default_domain
from passes.numerics.grid import ActivationGrid

__all__ = ["pixel_codes", "pixel_grid"]

_MOVES = frozenset({"Concat", "Gather", "Identity", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
_DATA = 2  # inputs of a Concat that show its type: an image and its border


def pixel_grid(tensor: gs.Tensor) -> tuple[gs.Tensor, ActivationGrid] | None:
    """Return the uint8 tensor that a tensor is computed from by Cast, Sub and Mul, and the grid. None: it is no such.

    An Identity in between does not matter.
    """
    node = _maker(tensor, "Identity")
    tensor = tensor if node is None else node.inputs[0]
    multiply = _maker(tensor, "Mul")
    step = None if multiply is None else _scalar(multiply)
    if multiply is None or step is None or not step > 0:
        return None
    subtract = _maker(multiply.inputs[0], "Sub")
    zero = 0.0 if subtract is None else _scalar(subtract)
    cast = _maker((multiply if subtract is None else subtract).inputs[0], "Cast")
    if cast is None or zero is None or zero != round(zero) or not 0 <= zero <= 255:
        return None
    pixels = cast.inputs[0]
    if cast.attrs.get("to") not in {onnx.TensorProto.FLOAT, np.float32} or not _is_uint8(pixels):
        return None
    scale = np.float32(step)
    low, high = float(-zero * scale), float((255 - zero) * scale)
    return pixels, ActivationGrid(scale, int(zero), signed=False, low=low, high=high)


def pixel_codes(graph: gs.Graph, grids: dict[str, ActivationGrid]) -> dict[str, str]:
    """Return the uint8 tensor with the codes of every activation whose grid is that of its pixels, by its name."""
    found = {}
    for name, tensor in graph.tensors().items():
        grid, pixels = grids.get(name), pixel_grid(tensor) if name in grids else None
        if grid is None or pixels is None:
            continue
        if (grid.scale, grid.zero_point, grid.signed) == (pixels[1].scale, pixels[1].zero_point, False):
            found[name] = str(pixels[0].name)
    return found


def _is_uint8(tensor: gs.Tensor) -> bool:
    """Whether a tensor holds uint8, by its own type or by that of what it was moved from."""
    if tensor.dtype is not None or not tensor.inputs:
        return bool(tensor.dtype == np.uint8)
    return tensor.inputs[0].op in _MOVES and any(map(_is_uint8, tensor.inputs[0].inputs[:_DATA]))


def _maker(tensor: gs.Tensor, op: str) -> gs.Node | None:
    """The node that writes a tensor, if it is ONNX's own operator of that name."""
    if isinstance(tensor, gs.Constant) or len(tensor.inputs) != 1:
        return None
    node = tensor.inputs[0]
    return node if node.op == op and is_default_domain(node) else None


def _scalar(node: gs.Node) -> float | None:
    """The single number that is the second operand of a node."""
    constant = node.inputs[1]
    if not isinstance(constant, gs.Constant) or np.size(constant.values) != 1:
        return None
    return float(np.reshape(constant.values, -1)[0])
