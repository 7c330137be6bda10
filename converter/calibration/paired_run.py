"""The float and the quantized network, run side by side over the images, segment by segment.

Each network's activations are called a stream. The float stream runs the float weights. The quantized stream runs the
file as it will be deployed, with quantized weights and activations.

Only tensors that a later segment reads are held (`converter.calibration.activation_cache`).
`converter.calibration.sequential` solves layers on them, and `converter.learn.rounding.refine` solves blocks.
"""

from collections.abc import Collection, Iterable
from typing import Any

import onnx
from numpy.typing import NDArray

from converter.calibration.activation_cache import ActivationCache, Value
from converter.calibration.segments import Kind, Segment, submodel
from converter.data.dataset import Batch, Dataset, Part
from converter.qdq.floats import float_model
from converter.qdq.writer import emit
from converter.runtime.batch_size import DEFAULT_MEMORY_BUDGET, batch_size, run_bytes
from converter.runtime.session import open_session
from passes.ir.model import Model

__all__ = ["FLOAT", "QUANTIZED", "PairedRun"]

FLOAT, QUANTIZED = "float", "quantized"
_BATCH = 16  # samples that run together at most, and that draw positions together


class PairedRun:
    """Activations of both networks at the current segment.

    Args:
        model: Model of the quantized stream.
        reference: Model of the float stream. It has the same nodes, with float weights.
        data: The images.
        cache: Holds the activations.
        sequential: Whether to run the quantized stream too. If False, there is only the float stream.
        together: Bytes that the samples that run together may take.
    """

    def __init__(
        self,
        model: Model,
        reference: Model,
        data: Dataset,
        cache: ActivationCache,
        *,
        sequential: bool = True,
        together: int = DEFAULT_MEMORY_BUDGET // 2,
    ) -> None:
        self.model, self.reference, self.cache, self.sequential = model, reference, cache, sequential
        self.parts: list[Part] = []
        self.kinds: dict[str, Kind] = {}
        self.group = data.static_batch or _BATCH
        for batch in data.batches(batch_size(data, _BATCH, self._sample_bytes, together)):
            self.parts.append(batch.part)
            for name, values in batch.feeds.items():
                self._append(FLOAT, name, values)
                if sequential:
                    grid = model.activation_qparams.get(name)
                    self._append(QUANTIZED, name, values if grid is None else grid.values(values))

    def get(self, stream: str, name: str, batch: int) -> NDArray[Any]:
        """One batch of a tensor, without the rows that only pad the batch."""
        values = self.cache.get(stream, name, batch)
        assert not isinstance(values, list)  # a layer reads tensors
        return self.parts[batch].real(values)

    def float_graph(self, segment: Segment) -> onnx.ModelProto:
        """The graph that the float stream runs for a segment. It has the model's present weights."""
        return float_model(submodel(self.reference, segment, self.kinds).graph)

    def quantized_graph(self, segment: Segment) -> onnx.ModelProto:
        """The graph that the quantized stream runs for a segment. It has the model's present codes and grids."""
        return emit(submodel(self.model, segment, self.kinds), "int8")

    def advance(
        self, segment: Segment, float_graph: onnx.ModelProto | None = None, retained: Collection[str] = frozenset()
    ) -> None:
        """Run a segment in both streams, then drop the tensors that no later segment reads.

        Args:
            segment: The next segment.
            float_graph: What the float stream runs. The default is `float_graph` of the segment.
            retained: Tensors that are not dropped.
        """
        if segment.outputs:
            self._run(FLOAT, segment, float_graph or self.float_graph(segment), segment.outputs)
            if self.sequential:
                self._run(QUANTIZED, segment, self.quantized_graph(segment), segment.outputs)
        self.forget(name for name in segment.released if name not in retained)

    def rerun_quantized(self, segment: Segment) -> None:
        """Run a segment once more in the quantized stream, with the present weights of its layers.

        The segment's inputs must still be in the cache.
        """
        outputs = [name for name in segment.outputs if (QUANTIZED, name) in self.cache]
        for name in outputs:
            self.cache.release(QUANTIZED, name)
        if outputs:
            self._run(QUANTIZED, segment, self.quantized_graph(segment), outputs)

    def forget(self, names: Iterable[str]) -> None:
        """Drop tensors from both streams."""
        for name in names:
            self.cache.release(FLOAT, name)
            self.cache.release(QUANTIZED, name)

    def _run(self, stream: str, segment: Segment, graph: onnx.ModelProto, outputs: Collection[str]) -> None:
        session = open_session(graph)
        for batch in range(len(self.parts)):
            feeds = {name: self.cache.get(stream, name, batch) for name in segment.inputs}
            for name, values in zip(outputs, session.run(list(outputs), feeds), strict=True):
                self._append(stream, name, values)

    def _sample_bytes(self, sample: Batch) -> int:
        """Bytes that one sample takes in the two streams."""
        return (1 + self.sequential) * run_bytes(float_model(self.reference.graph), sample.feeds)

    def _append(self, stream: str, name: str, values: Value) -> None:
        self.kinds[name] = Kind.of(values)
        self.cache.append(stream, name, values)
