"""Names, shapes and dtypes of a model's inputs, from a ModelProto or an onnxruntime session."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from passes.arguments import require_type
from passes.errors import ModelError

__all__ = ["InputSpec", "input_specs", "static_batch"]

_RUNTIME_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class InputSpec:
    """One graph input. `shape` has None where the model takes any size. Axis 0 is the batch."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

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
    """The model's fixed batch size. None if it takes any.

    Raises:
        ModelError: The inputs have different fixed batch sizes.
    """
    sizes = {spec.shape[0] for spec in specs if spec.shape and spec.shape[0] is not None}
    if len(sizes) > 1:
        listed = ", ".join(str(spec) for spec in specs)
        raise ModelError(f"inputs with different fixed batch sizes: {listed}; export the model with one batch size")
    return next(iter(sizes), None)


def _proto_spec(value: onnx.ValueInfoProto) -> InputSpec:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.elem_type:
        raise ModelError(f"input '{value.name}' is not a tensor; only tensor inputs can be fed")
    if not tensor.HasField("shape"):
        raise ModelError(f"input '{value.name}' has no shape; export the model with the shapes of its inputs")
    shape = tuple(size.dim_value if size.dim_value > 0 else None for size in tensor.shape.dim)
    return InputSpec(value.name, shape, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))


def _runtime_spec(value: Any) -> InputSpec:
    if value.type not in _RUNTIME_TYPES:
        raise ModelError(f"input '{value.name}' is of type {value.type}; only tensors of numbers can be fed")
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in value.shape)
    return InputSpec(value.name, shape, np.dtype(_RUNTIME_TYPES[value.type]))
