"""What quantizers clamp: a Relu or Clip before QuantizeLinear is left out of a file where saturation does its work.

The float model has to say it again, or a ReLU network would be read as a linear one. Each quantized result of an
operator behind which one may have been gets a Clip to the ends of its grid, which on the same grid changes nothing:
the writer leaves it out as the one did who made the file.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto

from passes.numerics.grid import ActivationGrid

__all__ = ["with_clamps"]

_BEFORE_CLAMPS = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Sum", "Mul", "Concat", "BatchNormalization"}
)


def with_clamps(
    nodes: Sequence[NodeProto],
    ranges: Mapping[str, ActivationGrid],
    outputs: Collection[str],
    constant: Callable[[str, NDArray[np.float32]], str],
) -> list[NodeProto]:
    """The nodes, each quantized result clamped to what its codes can say.

    Args:
        nodes: in order; those that get a clamp write another tensor afterwards, and the clamp writes theirs.
        ranges: grids by tensor; what is read in float as well must not be among them.
        outputs: of the graph; one that is never negative is clamped, as behind a Relu, others are left alone.
        constant: adds a constant and returns its name.
    """
    result: list[NodeProto] = []
    for node in nodes:
        result.append(node)
        name = node.output[0]
        grid = ranges.get(name)
        if grid is None or node.op_type not in _BEFORE_CLAMPS or (name in outputs and grid.ends[0] < 0):
            continue
        bounds = [
            constant(f"{name}_{which}", np.array(np.float32(code - grid.zero_point) * grid.scale, np.float32))
            for which, code in zip(("low", "high"), grid.code_range, strict=True)
        ]
        node.output[0] = f"{name}_unclamped"
        result.append(onnx.helper.make_node("Clip", [node.output[0], *bounds], [name], name=f"{name}_clamp"))
    return result
