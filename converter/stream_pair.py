"""Two networks run side by side over the images, segment by segment: the float one, and the quantized as deployed.

Only tensors that are still to be read are kept (`converter.streams`). `converter.walk` solves layers on them,
`converter.learn.refine` blocks.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from converter.data import Dataset
from converter.emit.floats import float_model
from converter.emit.qdq import emit
from converter.runtime import open_session
from converter.segments import Segment, submodel
from converter.streams import Streams
from passes.base import Model

__all__ = ["FLOAT", "QUANTIZED", "StreamPair"]

FLOAT, QUANTIZED = "float", "quantized"
_BATCH = 16


class StreamPair:
    """Both networks' activations.

    Args:
        model: what the quantized stream runs.
        exact: what the float stream runs: the same nodes with float weights.
        data: the images.
        streams: what holds the activations.
        sequential: without it there is only the float stream.
    """

    def __init__(self, model: Model, exact: Model, data: Dataset, streams: Streams, *, sequential: bool = True) -> None:
        self.model, self.exact, self.streams, self.sequential = model, exact, streams, sequential
        self.counts: list[int] = []
        self.kinds: dict[str, np.dtype] = {}
        for batch in data.batches(_BATCH):
            self.counts.append(batch.count)
            for name, values in batch.feeds.items():
                self._keep(FLOAT, name, values)
                if sequential:
                    grid = model.ranges.get(name)
                    self._keep(QUANTIZED, name, values if grid is None else grid.values(values))

    def get(self, stream: str, name: str, batch: int) -> NDArray[Any]:
        """A tensor of a batch, without the rows that only fill the batch up."""
        values: NDArray[Any] = self.streams.get(stream, name, batch)[: self.counts[batch]]
        return values

    def float_graph(self, segment: Segment) -> onnx.ModelProto:
        """What the float stream runs of a segment, as the model is now."""
        return float_model(submodel(self.exact, segment, self.kinds).graph)

    def advance(self, segment: Segment, float_graph: onnx.ModelProto | None = None) -> None:
        """Run a segment in both streams and forget what it was the last to read."""
        if segment.outputs:
            self._run(FLOAT, segment, float_graph or self.float_graph(segment))
            if self.sequential:
                self._run(QUANTIZED, segment, emit(submodel(self.model, segment, self.kinds), "int8"))
        for name in segment.released:
            self.streams.release(FLOAT, name)
            self.streams.release(QUANTIZED, name)

    def _run(self, stream: str, segment: Segment, graph: onnx.ModelProto) -> None:
        session = open_session(graph)
        outputs = list(segment.outputs)
        for batch in range(len(self.counts)):
            feeds = {name: self.streams.get(stream, name, batch) for name in segment.inputs}
            for name, values in zip(outputs, session.run(outputs, feeds), strict=True):
                self._keep(stream, name, values)

    def _keep(self, stream: str, name: str, values: NDArray[Any]) -> None:
        self.kinds[name] = values.dtype
        self.streams.append(stream, name, values)
