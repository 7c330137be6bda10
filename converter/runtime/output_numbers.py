"""Outputs of a model as arrays of numbers. An output may be a tensor, a sequence or a map."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["numbers", "row_numbers"]


def numbers(output: Any) -> NDArray[Any]:
    """Return the numbers of an output.

    A tensor is returned as it is. A sequence of maps with the same keys, as a classifier of scikit-learn gives, becomes
    [rows, keys]. Any other sequence or map becomes one axis with all its numbers. Text counts as no numbers.
    """
    if isinstance(output, np.ndarray):
        return output if output.dtype.kind in "fiub" else np.zeros(0)
    if isinstance(output, Mapping):
        return np.asarray([output[key] for key in sorted(output)])
    if not isinstance(output, list):
        return np.zeros(0) if output is None or isinstance(output, str) else np.asarray(output)
    parts = [numbers(part) for part in output]
    maps = all(isinstance(part, Mapping) for part in output)
    if maps and len({part.shape for part in parts}) == 1:
        return np.stack(parts)
    return np.concatenate([part.reshape(-1) for part in parts]) if parts else np.zeros(0)


def row_numbers(output: NDArray[Any], row: int, count: int) -> NDArray[Any] | None:
    """Return the part of an output that belongs to one of ``count`` samples. None if the output has no batch axis."""
    if count == 1:
        return output
    return output[row] if output.ndim and len(output) == count else None
