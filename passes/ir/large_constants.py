"""Constants of large weights: their values are read or computed when somebody asks for them, and not kept.

So a large weight is in memory once: in the model that was read, or as its codes.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, cast

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

__all__ = [
    "LARGE",
    "ComputedValues",
    "LargeConstant",
    "TransposedValues",
    "Values",
    "assign",
    "copied",
    "is_large",
    "loaded",
    "proto_without_data",
]

LARGE = 1 << 20
"""Bytes from which on a constant is large."""


class ComputedValues(LazyValues):  # type: ignore[misc]  # graphsurgeon has no types
    """Values of a constant that are computed when they are read.

    Args:
        compute: Function that returns the values.
        shape: Their shape.
        dtype: Their type.
    """

    def __init__(self, compute: Callable[[], NDArray[Any]], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.compute, self.shape, self.dtype = compute, shape, dtype
        self.nbytes = int(np.prod(shape)) * dtype.itemsize

    def load(self) -> NDArray[Any]:
        """Compute the values."""
        return self.compute()

    @property
    def tensor(self) -> onnx.TensorProto:
        """The values as graphsurgeon exports them."""
        return onnx.numpy_helper.from_array(self.compute())


class TransposedValues(ComputedValues):
    """Values of a matrix that are those of another one, transposed.

    Args:
        source: Values of the other matrix.
    """

    def __init__(self, source: LazyValues) -> None:
        self.source = source
        super().__init__(lambda: np.ascontiguousarray(source.load().T), tuple(source.shape[::-1]), source.dtype)


Values: TypeAlias = NDArray[Any] | LazyValues
"""Values of a constant: an array, or values that are loaded when they are read."""


class LargeConstant(gs.Constant):  # type: ignore[misc]
    """A constant whose lazy values are not kept. Every reader gets an array of its own, which is read-only."""

    @property
    def values(self) -> NDArray[Any]:
        """The values."""
        values = loaded(self._values)
        if values is not self._values:
            values.setflags(write=False)
        return values

    @values.setter
    def values(self, values: Values) -> None:
        self._values = values

    def copy(self) -> "LargeConstant":
        """Return a constant with the same values and no readers."""
        return LargeConstant(self.name, self._values, export_dtype=self.export_dtype)


def assign(constant: gs.Constant, values: Values) -> None:
    """Give a constant new values."""
    if isinstance(values, LazyValues):
        constant.__class__ = LargeConstant
    constant.values = values


def copied(constant: gs.Constant, name: str) -> gs.Constant:
    """Return a constant of another name with the same values. Values that are loaded when they are read stay so."""
    if isinstance(constant, LargeConstant):
        return LargeConstant(name, constant._values, export_dtype=constant.export_dtype)
    return gs.Constant(name, np.array(constant.values))


def loaded(values: Values) -> NDArray[Any]:
    """Return values as an array."""
    return cast(NDArray[Any], values.load()) if isinstance(values, LazyValues) else values


def is_large(tensor: gs.Tensor) -> bool:
    """Whether a tensor is a constant of `LARGE` bytes or more that is exported in the type in which it is stored."""
    if not isinstance(tensor, gs.Constant) or isinstance(tensor._values, SparseValues):
        return False
    return bool(tensor._values.nbytes >= LARGE and tensor.export_dtype == tensor.dtype)


def proto_without_data(constant: gs.Constant) -> onnx.TensorProto:
    """Return a tensor of this name, shape and type without data."""
    values = constant._values
    read = isinstance(values, LazyValues) and not isinstance(values, ComputedValues)
    data_type = values.tensor.data_type if read else onnx.helper.np_dtype_to_tensor_dtype(constant.dtype)
    return onnx.TensorProto(name=constant.name, dims=constant.shape, data_type=data_type)
