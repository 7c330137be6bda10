"""Parts of an output that are of different kinds, such as the boxes and the scores of a detector in one tensor.

The error of the whole follows the large values: boxes in pixels hide scores between 0 and 1. So an output that a Concat
makes is divided along an axis where all values on one side are much larger than all values on the other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

__all__ = ["OutputPart", "joined_outputs", "parts_of"]

_APART = 100.0  # ratio of the mean squares of every slice of one part to those of the other
_MOST_SLICES, _FEWEST_VALUES = 1024, 16  # of an axis, and of a slice
_PASSING_ON = frozenset({"Transpose", "Reshape", "Identity", "Cast", "Squeeze", "Unsqueeze", "Flatten", "Slice"})


@dataclass(frozen=True)
class OutputPart:
    """A range of an output along one axis. The whole output has axis -1.

    Attributes:
        output: Name of the output.
        axis: The axis.
        start, stop: The range. None: up to the end.
    """

    output: str
    axis: int = -1
    start: int = 0
    stop: int | None = None

    @property
    def name(self) -> str:
        """Name of the output, with the range as an index.

        >>> OutputPart("output0", 1, 4, None).name
        'output0[:, 4:]'
        """
        if self.axis < 0:
            return self.output
        start, stop = self.start or "", "" if self.stop is None else self.stop
        return f"{self.output}[{':, ' * self.axis}{start}:{stop}]"

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the part of an output."""
        if self.axis < 0:
            return values
        return values[(slice(None),) * self.axis + (slice(self.start, self.stop),)]


def joined_outputs(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the outputs that a Concat makes, directly or through operators that only move values."""
    makers = {name: node for node in graph.node for name in node.output}
    joined = set()
    for value in graph.output:
        node = makers.get(value.name)
        while node is not None and node.op_type in _PASSING_ON:
            node = makers.get(node.input[0]) if node.input else None
        if node is not None and node.op_type == "Concat":
            joined.add(value.name)
    return frozenset(joined)


def parts_of(output: str, runs: Iterable[Any], joined: Iterable[str]) -> tuple[OutputPart, ...]:
    """Divide an output into parts of different magnitude.

    Args:
        output: Name of the output.
        runs: Its values in the reference, one array for each run.
        joined: Outputs that may have parts, see `joined_outputs`.

    Returns:
        The parts, in order. The whole output if it has none.
    """
    whole = (OutputPart(output),)
    arrays = [np.asarray(run) for run in runs] if output in set(joined) else []
    if not arrays or any(array.dtype.kind != "f" or array.ndim < 2 for array in arrays):
        return whole
    best: tuple[float, int, list[int]] = (_APART, -1, [])
    for axis in range(1, arrays[0].ndim):
        powers = _powers(arrays, axis)
        if powers is None:
            continue
        ratio, place = _widest_gap(powers)
        if ratio > best[0]:
            cuts = [place]
            for start, stop in ((0, place), (place, len(powers))):
                inner, at = _widest_gap(powers[start:stop])
                cuts += [start + at] if inner > _APART else []
            best = (ratio, axis, sorted(cuts))
    _, axis, cuts = best
    if not cuts:
        return whole
    ends = [*cuts, None]
    return tuple(OutputPart(output, axis, start, stop) for start, stop in zip([0, *cuts], ends, strict=True))


def _powers(arrays: Sequence[NDArray[Any]], axis: int) -> NDArray[np.float64] | None:
    """Return the mean square of every slice along an axis. None if the axis is unsuitable."""
    count = arrays[0].shape[axis]
    if not 2 <= count <= _MOST_SLICES or any(array.ndim != arrays[0].ndim for array in arrays):
        return None
    if (
        any(array.shape[axis] != count for array in arrays)
        or sum(array.size for array in arrays) < count * _FEWEST_VALUES
    ):
        return None
    others = tuple(place for place in range(arrays[0].ndim) if place != axis)
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.sum([np.square(array, dtype=np.float64).sum(axis=others) for array in arrays], axis=0)
    powers: NDArray[np.float64] = total / (sum(array.size for array in arrays) / count)
    return powers if np.isfinite(powers).all() else None


def _widest_gap(powers: NDArray[np.float64]) -> tuple[float, int]:
    """Return the largest ratio of the least power on one side of a place to the largest on its other side."""
    best, place = 0.0, 0
    for index in range(1, len(powers)):
        first, second = powers[:index], powers[index:]
        for small, large in ((first, second), (second, first)):
            most, least = float(small.max()), float(large.min())
            ratio = least / most if most > 0 else 0.0  # zeros have no SQNR of their own
            if ratio > best:
                best, place = ratio, index
    return best, place
