"""Clamps that a quantized file leaves out. A Relu or Clip before QuantizeLinear is left out if saturation has its
effect.

The float model needs the clamp back: without it, a ReLU network would become a linear one. So each quantized result of
an operator that may have had a clamp behind it gets a Clip to the ends of its grid. On the same grid this Clip changes
nothing. The writer leaves it out again, as the author of the file did.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto

from converter.qdq.leaky_relu import slope
from passes.numerics.grid import ActivationGrid

__all__ = ["with_clamps"]

_BEFORE_CLAMPS = frozenset(
    {
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Sum", "Mul", "Concat", "BatchNormalization"),
        "LeakyRelu",
    }
)


def with_clamps(
    nodes: Sequence[NodeProto],
    ranges: Mapping[str, ActivationGrid],
    outputs: Collection[str],
    constant: Callable[[str, NDArray[np.float32]], str],
) -> list[NodeProto]:
    """Clamp each quantized result to the range of its codes.

    Args:
        nodes: Nodes in order. A node that gets a clamp writes a new tensor, and the clamp writes the old one.
        ranges: Grids by tensor. They must not include tensors that are read in float too.
        outputs: Outputs of the graph. An output that is never negative is clamped, as behind a Relu. Others are not.
        constant: Adds a constant and returns its name.

    Returns:
        The nodes with the clamps.
    """
    result: list[NodeProto] = []
    for node in nodes:
        result.append(node)
        name = node.output[0]
        grid = ranges.get(name)
        if grid is None or node.op_type not in _BEFORE_CLAMPS or (name in outputs and grid.ends[0] < 0):
            continue
        if node.op_type == "LeakyRelu" and _holds(grid, node, ranges.get(node.input[0])):
            continue
        bounds = [
            constant(f"{name}_{which}", np.array(np.float32(code - grid.zero_point) * grid.scale, np.float32))
            for which, code in zip(("low", "high"), grid.code_range, strict=True)
        ]
        node.output[0] = f"{name}_unclamped"
        result.append(onnx.helper.make_node("Clip", [node.output[0], *bounds], [name], name=f"{name}_clamp"))
    return result


def _holds(grid: ActivationGrid, node: NodeProto, source: ActivationGrid | None) -> bool:
    """Whether a LeakyRelu of values on ``source`` stays within half a step of ``grid``."""
    if source is None:
        return False
    half, (low, high), (least, most) = float(grid.scale) / 2, source.ends, grid.ends
    results = slope(node) * low, high  # 0 is on every grid
    return min(results) >= least - half and max(results) <= most + half
