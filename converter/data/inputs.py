"""Names, shapes and dtypes of a model's inputs, from a ModelProto or an onnxruntime session."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from passes.arguments import require_type
from passes.errors import ModelError

__all__ = ["InputSpec", "input_specs", "runtime_dtype", "sequence_first", "share_batch", "static_batch"]

_RUNTIME_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


_MOST_BYTES = 2**36

# names of sizes, as exporters and people write them
_BATCH = re.compile(r"n|b|bs|.*batch.*", re.IGNORECASE)
_SEQUENCE = re.compile(r"t|.*(time|seq|frame|step|token|len).*", re.IGNORECASE)


@dataclass(frozen=True)
class InputSpec:
    """One graph input. Axis 0 is the batch, if the inputs `share_batch`.

    Attributes:
        name: Its name.
        shape: Sizes of its axes. None where the model takes any size.
        dtype: Type of its elements.
        symbols: Names of the sizes that are open, None for the others. Empty if they are not known.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    symbols: tuple[str | None, ...] = field(default=(), compare=False)

    @property
    def channels_last(self) -> bool:
        """Whether the input is an image [n, h, w, c]: only the last axis has 1, 3 or 4 channels."""
        return len(self.shape) == 4 and self.shape[1] not in (1, 3, 4) and self.shape[3] in (1, 3, 4)

    @property
    def image(self) -> tuple[int | None, int | None, int | None]:
        """(channels, height, width) of an image input, which has rank 4."""
        _, first, second, third = self.shape
        return (third, first, second) if self.channels_last else (first, second, third)

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape fits. The batch size may differ."""
        return len(shape) == len(self.shape) and all(
            want is None or want == have for want, have in zip(self.shape[1:], shape[1:], strict=True)
        )

    def fits_run(self, array: NDArray[Any]) -> bool:
        """Whether an array is the whole input of one run. Pixels of an image are [n, h, w, c]."""
        if array.ndim != len(self.shape) or (array.ndim and self.shape[0] not in {None, len(array)}):
            return False
        return array.dtype != self.dtype or self.accepts(array.shape)

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"'{self.name}' {self.dtype} [{sizes}]"


def input_specs(model: onnx.ModelProto | ort.InferenceSession) -> tuple[InputSpec, ...]:
    """The inputs that must be fed: graph inputs that are not initializers, in graph order.

    Raises:
        ModelError: An input is not a tensor of numbers, or has no shape.
    """
    require_type("model", model, (onnx.ModelProto, ort.InferenceSession), "an onnx.ModelProto or a session")
    if isinstance(model, onnx.ModelProto):
        fixed = {tensor.name for tensor in model.graph.initializer}
        fixed |= {tensor.values.name for tensor in model.graph.sparse_initializer}
        return tuple(_proto_spec(value) for value in model.graph.input if value.name not in fixed)
    return tuple(_runtime_spec(value) for value in model.get_inputs())


def static_batch(specs: tuple[InputSpec, ...]) -> int | None:
    """The model's fixed batch size. None if it takes any, or if its inputs do not share a batch."""
    return next((spec.shape[0] for spec in specs), None) if share_batch(specs) else None


def share_batch(specs: Sequence[InputSpec]) -> bool:
    """Whether axis 0 of every input is the batch, so that rows of several samples can run together.

    It is not if an input has no axes, if the sizes of axis 0 differ, or if an input has the other inputs' axis 0 at
    another place, as a state [layers, batch, features] has.
    """
    if any(not spec.shape for spec in specs) or len({spec.shape[0] for spec in specs}) > 1:
        return False
    first = {spec.symbols[0] for spec in specs if spec.symbols and spec.symbols[0]}
    later = {symbol for spec in specs for symbol in spec.symbols[1:] if symbol}
    return len(first) < 2 or first.isdisjoint(later)


def sequence_first(specs: Sequence[InputSpec]) -> bool:
    """Whether axis 0 of an input is a sequence and no batch, by the names of its sizes: [time, batch, features]."""
    return any(_is_sequence(*spec.symbols) for spec in specs)


def _is_sequence(first: str | None = None, *later: str | None) -> bool:
    if _BATCH.fullmatch(first or ""):
        return False
    return bool(_SEQUENCE.fullmatch(first or "")) or any(_BATCH.fullmatch(name or "") for name in later)


def _proto_spec(value: onnx.ValueInfoProto) -> InputSpec:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.elem_type:
        raise ModelError(f"input '{value.name}' is not a tensor; only tensor inputs can be fed")
    if not tensor.HasField("shape"):
        raise ModelError(f"input '{value.name}' has no shape; export the model with the shapes of its inputs")
    shape = tuple(size.dim_value if size.dim_value > 0 else None for size in tensor.shape.dim)
    symbols = tuple(size.dim_param or None for size in tensor.shape.dim)
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError as error:
        raise ModelError(f"input '{value.name}' is of type {tensor.elem_type}, which ONNX does not have") from error
    return _possible(InputSpec(value.name, shape, dtype, symbols))


def runtime_dtype(name: str, kind: str) -> np.dtype[Any]:
    """Return the type of elements that onnxruntime calls ``tensor(...)``.

    Raises:
        ModelError: It is not a tensor of numbers.
    """
    if kind not in _RUNTIME_TYPES:
        raise ModelError(f"input '{name}' is of type {kind}; only tensors of numbers can be fed")
    return np.dtype(_RUNTIME_TYPES[kind])


def _runtime_spec(value: Any) -> InputSpec:
    dtype = runtime_dtype(value.name, value.type)
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in value.shape)
    symbols = tuple(size if isinstance(size, str) else None for size in value.shape)
    return _possible(InputSpec(value.name, shape, dtype, symbols))


def _possible(spec: InputSpec) -> InputSpec:
    """Refuse an input that no machine can hold."""
    size = math.prod(size or 1 for size in spec.shape) * spec.dtype.itemsize
    if size > _MOST_BYTES:
        raise ModelError(f"input {spec} takes {size:,} bytes; correct the sizes that the model declares")
    return spec
