"""A model with some of its inner tensors as further outputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.data.dataset import Batch
from converter.runtime.runner import Runner

__all__ = ["Tap"]

_FLOATS = {"tensor(float)": 1, "tensor(float16)": 10, "tensor(double)": 11}  # numbers of onnx.TensorProto


class Tap:
    """A model with some of its tensors, which may be inputs, as further outputs.

    Attributes:
        runner: The model with all of its outputs.
        batch: The only batch size that the model takes, or None.
        floats: Element types of the float tensors, as numbers of onnx.TensorProto. The keys are their names.
    """

    def __init__(self, model: onnx.ModelProto, name: str, tensors: Sequence[str]) -> None:
        tapped = onnx.ModelProto()
        tapped.CopyFrom(model)
        own = [value.name for value in tapped.graph.output]
        inputs = {value.name for value in tapped.graph.input}
        present = {value.name for value in tapped.graph.output}
        extra = [tensor for tensor in dict.fromkeys(tensors) if tensor not in present | inputs]
        tapped.graph.output.extend(onnx.helper.make_empty_tensor_value_info(tensor) for tensor in extra)
        self.runner = Runner(tapped, name, arena=False)
        self.batch = self.runner.batch
        self._inputs = inputs & set(tensors)
        types = self.runner.types
        self.floats = {
            spec.name: int(onnx.helper.np_dtype_to_tensor_dtype(spec.dtype))
            for spec in self.runner.specs
            if np.issubdtype(spec.dtype, np.floating)
        }
        self.floats |= {tensor: _FLOATS[types[tensor]] for tensor in tensors if types.get(tensor) in _FLOATS}
        self._own = own
        self.runner.outputs = list(dict.fromkeys([*own, *(tensor for tensor in tensors if tensor in types)]))

    def inputs(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Return the model's own inputs for a batch."""
        return self.runner.inputs(batch.feeds)

    def run(self, batch: Batch) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the model's own outputs, and the tensors, by name."""
        outputs = self.runner.run(batch)
        feeds = self.inputs(batch)
        tensors = dict(zip(self.runner.outputs, outputs, strict=True))
        own = {name: tensors[name] for name in self._own}
        return own, tensors | {name: batch.real(feeds[name]) for name in self._inputs}
