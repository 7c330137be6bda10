"""Two networks run side by side over the images, segment by segment: the float one, and the quantized as deployed.

Only tensors that are still to be read are kept (`converter.calibration.activation_cache`). `converter.calibration.sequential` solves layers on them,
`converter.learn.rounding.refine` blocks.
"""

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.calibration.activation_cache import ActivationCache
from converter.calibration.segments import Segment, submodel
from converter.data.dataset import Dataset
from converter.qdq.floats import float_model
from converter.qdq.writer import emit
from converter.runtime.session import open_session
from passes.ir.model import Model

__all__ = ["FLOAT", "QUANTIZED", "PairedRun"]

FLOAT, QUANTIZED = "float", "quantized"
_BATCH = 16


class PairedRun:
    """Both networks' activations.

    Args:
        model: what the quantized stream runs.
        exact: what the float stream runs: the same nodes with float weights.
        data: the images.
        cache: what holds the activations.
        sequential: without it there is only the float stream.
    """

    def __init__(
        self, model: Model, exact: Model, data: Dataset, cache: ActivationCache, *, sequential: bool = True
    ) -> None:
        self.model, self.exact, self.cache, self.sequential = model, exact, cache, sequential
        self.counts: list[int] = []
        self.kinds: dict[str, np.dtype] = {}
        for batch in data.batches(_BATCH):
            self.counts.append(batch.count)
            for name, values in batch.feeds.items():
                self._keep(FLOAT, name, values)
                if sequential:
                    grid = model.activation_qparams.get(name)
                    self._keep(QUANTIZED, name, values if grid is None else grid.values(values))

    def get(self, stream: str, name: str, batch: int) -> NDArray[Any]:
        """A tensor of a batch, without the rows that only fill the batch up."""
        values: NDArray[Any] = self.cache.get(stream, name, batch)[: self.counts[batch]]
        return values

    def float_graph(self, segment: Segment) -> onnx.ModelProto:
        """What the float stream runs of a segment, as the model is now."""
        return float_model(submodel(self.exact, segment, self.kinds).graph)

    def quantized_graph(self, segment: Segment) -> onnx.ModelProto:
        """What the quantized stream runs of a segment, as the model is now."""
        return emit(submodel(self.model, segment, self.kinds), "int8")

    def advance(
        self, segment: Segment, float_graph: onnx.ModelProto | None = None, held: Collection[str] = frozenset()
    ) -> None:
        """Run a segment in both streams and forget what it was the last to read, unless it is ``held``."""
        if segment.outputs:
            self._run(FLOAT, segment, float_graph or self.float_graph(segment), segment.outputs)
            if self.sequential:
                self._run(QUANTIZED, segment, self.quantized_graph(segment), segment.outputs)
        self.forget(name for name in segment.released if name not in held)

    def again(self, segment: Segment) -> None:
        """Run a segment whose inputs were held once more in the quantized stream, with its layers as they are now."""
        made = [name for name in segment.outputs if (QUANTIZED, name) in self.cache]
        for name in made:
            self.cache.release(QUANTIZED, name)
        if made:
            self._run(QUANTIZED, segment, self.quantized_graph(segment), made)

    def forget(self, names: Iterable[str]) -> None:
        """Forget tensors in both streams."""
        for name in names:
            self.cache.release(FLOAT, name)
            self.cache.release(QUANTIZED, name)

    def _run(self, stream: str, segment: Segment, graph: onnx.ModelProto, outputs: Collection[str]) -> None:
        session = open_session(graph)
        for batch in range(len(self.counts)):
            feeds = {name: self.cache.get(stream, name, batch) for name in segment.inputs}
            for name, values in zip(outputs, session.run(list(outputs), feeds), strict=True):
                self._keep(stream, name, values)

    def _keep(self, stream: str, name: str, values: NDArray[Any]) -> None:
        self.kinds[name] = values.dtype
        self.cache.append(stream, name, values)
