"""Sizes that the times of kernels depend on. Those that are not known are guessed."""

import math
from collections.abc import Iterable, Sequence

from passes.graph.normalise.shapes import Dim, Shapes
from passes.ir.linear import Linear
from passes.numerics.kernel_times import Convolution

__all__ = ["convolution", "pixels", "size"]

_UNKNOWN = 56  # size of a dimension that is not known
_SIGNAL = _UNKNOWN**2  # length of a signal, if it is not known


def convolution(layer: Linear, shapes: Shapes) -> Convolution:
    """Return what the times of a Conv depend on."""
    groups, outputs, inputs = layer.matrix_shape
    taps = math.prod(layer.kernel)
    rows = taps // layer.kernel[-1]
    number = pixels(shapes.get(layer.output, (None,) * (2 + len(layer.kernel)))[2:])
    return Convolution(groups, inputs // taps, outputs, taps, rows, number, len(layer.kernel))


def pixels(dims: Sequence[Dim]) -> int:
    """Return the number of positions. A single unknown axis beside axes of length 1 is that of a signal."""
    unknown = [length for length in dims if not isinstance(length, int)]
    return _SIGNAL if len(unknown) == 1 and size(dims) == _UNKNOWN else size(dims)


def size(dims: Iterable[Dim]) -> int:
    """Return the product of the sizes."""
    return math.prod(length if isinstance(length, int) else _UNKNOWN for length in dims)
