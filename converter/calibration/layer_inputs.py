"""What a layer reads in both streams: rows of its inputs, and their moments.

The float stream and the quantized stream run side by side, segment by segment (`converter.calibration.paired_run`).
"""

from collections.abc import Callable, Iterator

import numpy as np

from converter.calibration.activation_cache import ActivationCache
from converter.calibration.paired_run import FLOAT, QUANTIZED, PairedRun
from converter.calibration.segments import cut
from converter.calibration.statistics import check_finite, positions_per_image
from converter.data.dataset import Dataset
from converter.runtime.batch_size import DEFAULT_MEMORY_BUDGET
from passes.errors import QuantizationError
from passes.ir.linear import Linear
from passes.ir.model import UNREACHED, Model
from passes.numerics.grid import Floats
from passes.numerics.moments import Moments, MomentsAccumulator

__all__ = ["SequentialCalibration"]


class SequentialCalibration:
    """Visit the layers in running order, with the inputs that each of them gets in both streams.

    Args:
        model: Model of the quantized stream.
        reference: Model of the float stream. It has the same nodes, with float weights. It may be ``model`` itself.
        layers: The layers to stop at.
        data: The images.
        cache: Holds the activations.
        seed: Random seed of the output positions that are sampled from each image.
        sequential: Whether to run the quantized stream too. If False, there is only the float stream.
        together: Bytes that the samples that run together may take.
    """

    def __init__(
        self,
        model: Model,
        reference: Model,
        layers: dict[str, Linear],
        data: Dataset,
        cache: ActivationCache,
        *,
        seed: int,
        sequential: bool = True,
        together: int = DEFAULT_MEMORY_BUDGET // 2,
    ) -> None:
        self.pair = PairedRun(model, reference, data, cache, sequential=sequential, together=together)
        self.model, self.layers, self.cache, self.sequential = model, layers, cache, sequential
        self.images, self.seed = len(data), seed

    def solving_order(self) -> Iterator[Linear]:
        """Yield the layers in running order.

        `rows` and `moments` can be called for the layer that was yielded last. That layer must be solved before the
        next one is requested.
        """
        segments = cut(self.model.graph, self.layers)
        for segment in segments:
            # `model` and `reference` may be the same object, which solving the layer changes.
            before = self.pair.float_graph(segment)
            if segment.layer is not None:
                yield self.layers[segment.layer]
            if segment is not segments[-1]:
                self.pair.advance(segment, before)

    def rows(self, layer: Linear) -> Iterator[tuple[int, Floats, Floats | None]]:
        """Yield for each batch its number and the layer's input rows ``[g, n, k]``: float, then quantized or None."""
        for batch in range(len(self.pair.parts)):
            float_rows = self._rows(FLOAT, layer, batch)
            yield batch, float_rows, self._rows(QUANTIZED, layer, batch) if self.sequential else None

    def _rows(self, stream: str, layer: Linear, batch: int) -> Floats:
        values: Floats = self.pair.get(stream, layer.input, batch)
        check_finite(layer.input, values)
        return self._sampled(layer.rows, layer, values, batch)

    def _sampled(self, rows: Callable[..., Floats], layer: Linear, values: Floats, batch: int) -> Floats:
        """Rows of a batch, at the output positions that are sampled for the layer."""
        positions = positions_per_image(layer.matrix_shape[2], self.images)
        group, skip = self.pair.parts[batch].place(self.pair.group)
        return rows(values, positions=positions, seed=(self.seed, group), skip=skip)

    def moments(self, layer: Linear) -> Moments:
        """Moments of the inputs of the layer that was yielded last.

        Raises:
            QuantizationError: Its input was empty in every run.
        """
        found = self.find_moments(layer)
        if found is None:
            raise QuantizationError(f"{layer.name}: {UNREACHED}; leave it in float (`exclude=`)")
        return found

    def find_moments(
        self, layer: Linear, *, halved: bool | None = None, weight: Floats | None = None
    ) -> Moments | None:
        """Moments of the layer's inputs. None if its input was empty in every run.

        Args:
            layer: The layer that was yielded last.
            halved: Whether to separate two halves of the images. The default is to do so if both streams run.
            weight: Weight of the layer, ``[g, o, k]``, to get errors of its inputs as errors of its outputs: residuals
                take fewer operations than cross moments if the layer has fewer outputs than half of its inputs. None:
                always give cross moments.
        """
        groups, outputs, k = layer.matrix_shape
        # Two halves: each is the held-out data on which the asymmetric target of the other is judged.
        halved = self.sequential if halved is None else halved
        projecting = weight is not None and 2 * outputs < k  # 4 n o k operations instead of 2 n k²
        groups_of = [part.place(self.pair.group)[0] for part in self.pair.parts]
        halves = min(2, len(set(groups_of))) if halved else 1
        cross = self.sequential and not projecting
        parts = [MomentsAccumulator(groups, k, cross=cross, shifted=True) for _ in range(halves)]
        addend = self._addend(layer)
        for batch, float_rows, quantized_rows in self.rows(layer):
            total = parts[groups_of[batch] % len(parts)]
            if quantized_rows is None:
                total.update(float_rows)
                continue
            difference = np.subtract(float_rows, quantized_rows, out=float_rows)  # rows are copies
            residual = None if addend is None else self._error_of(addend, layer, batch)
            if projecting and weight is not None:
                error = difference @ weight.transpose(0, 2, 1)
                residual = error if residual is None else residual + error
            total.update(quantized_rows, None if projecting else difference, residual)
        found = [part.moments() for part in parts if part.rows]
        if not found:
            return None
        first, *second = found
        return Moments.joined(first, second[0]) if second else first

    def _error_of(self, addend: str, layer: Linear, batch: int) -> Floats:
        """What the quantized network errs in a tensor that is added to the layer's output, as rows ``[g, n, o]``."""
        exact, found = (
            self._sampled(layer.output_rows, layer, self.pair.get(stream, addend, batch), batch)
            for stream in (FLOAT, QUANTIZED)
        )
        return exact - found

    def _addend(self, layer: Linear) -> str | None:
        """The tensor that an Add adds to the layer's output.

        None if another node reads the output too, or if the tensor is not in both streams yet.
        """
        graph = self.model.graph
        readers = [node for node in graph.nodes if any(tensor.name == layer.output for tensor in node.inputs)]
        if len(readers) != 1 or readers[0].op != "Add" or any(out.name == layer.output for out in graph.outputs):
            return None
        others = [str(tensor.name) for tensor in readers[0].inputs if tensor.name != layer.output]
        if len(others) != 1 or any((stream, others[0]) not in self.cache for stream in (FLOAT, QUANTIZED)):
            return None
        addend, layer_input = self.cache.get(FLOAT, others[0], 0), self.cache.get(FLOAT, layer.input, 0)
        assert not isinstance(addend, list)  # an Add reads tensors
        assert not isinstance(layer_input, list)
        return others[0] if addend.shape == layer.output_shape(layer_input.shape) else None
