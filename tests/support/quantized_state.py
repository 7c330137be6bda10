"""The parts of a model that learning may change, for comparisons."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from passes.ir.model import Model

__all__ = ["same", "state"]


def state(model: Model) -> dict[str, NDArray[Any]]:
    """Everything that learning may change."""
    found: dict[str, NDArray[Any]] = {}
    for name, layer in model.layers().items():
        held, bias = model.quantized[name], model.bias(layer)
        found |= {f"{name} codes": held.codes, f"{name} scale": held.grid.scale}
        if bias is not None:
            found[f"{name} bias"] = bias
    return found


def same(one: Model, other: Model) -> bool:
    left, right = state(one), state(other)
    return left.keys() == right.keys() and all(np.array_equal(value, right[name]) for name, value in left.items())
