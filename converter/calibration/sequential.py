"""The walk: solve one layer after the other, each on the inputs that the network quantized so far really gives it.

Two streams of activations run side by side, segment by segment: the float network's, and the quantized network's with
weights and activations as they will be deployed (the segment is emitted and run as the file will be). Each segment runs
once; only tensors that are still to be read are kept.
"""

import time
from collections.abc import Callable, Iterator

import numpy as np

from converter.calibration.activation_cache import ActivationCache
from converter.calibration.paired_run import FLOAT, QUANTIZED, PairedRun
from converter.calibration.segments import cut
from converter.calibration.statistics import check_finite, positions_per_image
from converter.data.dataset import Dataset
from converter.runtime.session import Progress
from passes.base import LayerPass, Problem, Solution
from passes.ir.linear import Linear
from passes.ir.model import Model, Quantized
from passes.numerics.grid import Floats
from passes.numerics.moments import Moments, MomentsAccumulator
from passes.numerics.two_level import MOST_BITS, equal_block
from passes.report import Change, PassReport

__all__ = [
    "BIAS_HEADROOM",
    "DEFAULT_BUDGET",
    "SequentialCalibration",
    "min_scale_for_bias",
    "solve_layer",
    "solve_layers",
]

DEFAULT_BUDGET = 2 << 30  # bytes of activations held in memory
BIAS_HEADROOM = 2.0**29  # int32 biases use a quarter of their range, so that a later correction fits too
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
_RAISES = 4  # a larger scale moves the correction again, less each time


def solve_layers(
    model: Model,
    layer_pass: LayerPass,
    data: Dataset | None,
    progress: Progress,
    *,
    budget: int = DEFAULT_BUDGET,
    seed: int = 0,
) -> PassReport:
    """Run a layer pass over every layer that is to be quantized.

    Args:
        model: changed in place: weights become dequantized values, `Model.quantized` gets the codes.
        layer_pass: what solves a layer.
        data: calibration data; may be None for a pass that wants no moments.
        progress: called after every layer.
        budget: bytes of activations held in memory before they go to files.
        seed: of the output positions drawn from each image.

    Raises:
        QuantizationError: a layer cannot be solved.
        DataError: an activation is NaN or Inf; names the tensor.
    """
    layers = {name: layer for name, layer in model.layers().items() if name not in model.float_reasons}
    bits = layer_pass.bits_of(layers)
    changed: dict[str, Change] = {}
    started = time.perf_counter()
    if layer_pass.wants_moments and data is not None:
        with ActivationCache(budget) as cache:
            calibration = SequentialCalibration(
                model, model, layers, data, cache, seed=seed, sequential=layer_pass.sequential
            )
            for index, layer in enumerate(calibration.steps()):
                changed[layer.name] = solve_layer(
                    model, layer_pass, layer, bits[layer.name], calibration.moments(layer)
                )
                progress(layer_pass.name, index + 1, len(layers))
        notes: tuple[str, ...] = (f"{cache.spilled} activation batches went to files",) if cache.spilled else ()
    else:
        notes = ()
        for index, layer in enumerate(layers.values()):
            changed[layer.name] = solve_layer(model, layer_pass, layer, bits[layer.name], None)
            progress(layer_pass.name, index + 1, len(layers))
    return PassReport(layer_pass.name, changed, dict(model.float_reasons), notes, time.perf_counter() - started)


def solve_layer(model: Model, layer_pass: LayerPass, layer: Linear, bits: int, moments: Moments | None) -> Change:
    """Solve one layer, whose weight is in float, and write the answer into the model.

    Args:
        model: changed in place.
        layer_pass: what solves it.
        layer: its geometry.
        bits: of its codes.
        moments: of its inputs; None for a pass that wants none.
    """
    block_size, why = block_of(layer_pass, layer, bits)
    weight, bias = model.weight(layer), model.bias(layer)
    min_scale = min_scale_for_bias(model, layer, bias)
    solution: Solution = layer_pass.solve(Problem(layer, weight, bias, bits, block_size, min_scale, moments))
    raised = ""
    for _ in range(_RAISES):
        needed = min_scale_for_bias(model, layer, solution.bias)
        if min_scale is None or needed is None or (2 * solution.grid.scale.min(axis=2) >= needed).all():
            break
        min_scale, raised = np.maximum(min_scale, needed), "scale raised for the corrected bias"
        solution = layer_pass.solve(Problem(layer, weight, bias, bits, block_size, min_scale, moments))
    sqnr = solution.after_db if solution.after_db is not None else float("nan")
    model.float_weights[layer.name] = (weight, bias)
    model.quantized[layer.name] = Quantized(solution.codes, solution.grid, sqnr)
    model.write(layer, solution.grid.values(solution.codes), solution.bias)
    size = "per channel" if block_size is None else f"blocks of {block_size}"
    what = ", ".join(part for part in (f"{bits} bits {size}", why, solution.note, raised) if part)
    return Change(what, solution.before_db, solution.after_db)


def min_scale_for_bias(model: Model, layer: Linear, bias: Floats | None) -> Floats | None:
    """``[g, o]``, the weight scale below which an int32 bias leaves its headroom; None where the bias is a float.

    A product of the two scales that float32 cannot hold would be no scale at all, so there is one without a bias too.
    """
    if model.rules.bias != "int32" or not model.reads_integers(layer):
        return None
    groups, outputs, _ = layer.matrix_shape
    size = np.zeros((groups, outputs)) if bias is None else np.abs(bias.astype(np.float64))
    min_scale = np.maximum(size / BIAS_HEADROOM, _SMALLEST_SCALE) / float(model.activation_qparams[layer.input].scale)
    return np.asarray(min_scale, np.float32)


def block_of(layer_pass: LayerPass, layer: Linear, bits: int) -> tuple[int | None, str]:
    """The block size of a layer, and why it is not the one asked for."""
    if layer_pass.block_size is None or layer_pass.block_size >= layer.matrix_shape[2]:
        return None, ""
    if layer.op == "ConvTranspose":
        return None, "ConvTranspose is stored per channel"
    if layer_pass.two_level:
        groups, outputs, k = layer.matrix_shape
        block_size = (
            None
            if bits > MOST_BITS
            else equal_block(groups * outputs, k, layer_pass.block_size, layer_pass.fewest_blocks)
        )
        return (
            block_size,
            ""
            if block_size or bits > MOST_BITS
            else f"{k} inputs are no whole blocks of about {layer_pass.block_size}",
        )
    return layer_pass.block_size, ""


class SequentialCalibration:
    """The two streams and where they are.

    Args:
        model: what the quantized stream runs.
        exact: what the float stream runs: the same nodes with float weights.
        layers: to stop at.
        data: the images.
        cache: what holds the activations.
        sequential: without it there is only the float stream.
    """

    def __init__(
        self,
        model: Model,
        exact: Model,
        layers: dict[str, Linear],
        data: Dataset,
        cache: ActivationCache,
        *,
        seed: int,
        sequential: bool = True,
    ) -> None:
        self.pair = PairedRun(model, exact, data, cache, sequential=sequential)
        self.model, self.layers, self.cache, self.sequential = model, layers, cache, sequential
        self.images, self.seed = len(data), seed

    def steps(self) -> Iterator[Linear]:
        """Every layer; while it is the last, its inputs can be seen, and it must be solved before the next."""
        segments = cut(self.model.graph, self.layers)
        for segment in segments:
            before = self.pair.float_graph(segment)  # the two models may be one, which solving the layer changes
            if segment.layer is not None:
                yield self.layers[segment.layer]
            if segment is not segments[-1]:
                self.pair.advance(segment, before)

    def rows(self, layer: Linear) -> Iterator[tuple[int, Floats, Floats | None]]:
        """Batch by batch its number and the layer's inputs as rows ``[g, n, k]``: float, and quantized if there are."""
        for batch in range(len(self.pair.counts)):
            exact = self._rows(FLOAT, layer, batch)
            yield batch, exact, self._rows(QUANTIZED, layer, batch) if self.sequential else None

    def _rows(self, stream: str, layer: Linear, batch: int) -> Floats:
        values: Floats = self.pair.get(stream, layer.input, batch)
        check_finite(layer.input, values)
        return self._drawn(layer.rows, layer, values, batch)

    def _drawn(self, rows: Callable[..., Floats], layer: Linear, values: Floats, batch: int) -> Floats:
        """Rows of a batch at the output positions that are drawn for the layer."""
        positions = positions_per_image(layer.matrix_shape[2], self.images)
        return rows(values, positions=positions, seed=(self.seed, batch))

    def moments(self, layer: Linear) -> Moments:
        """The moments of the layer's inputs."""
        groups, _, k = layer.matrix_shape
        halves = (
            min(2, len(self.pair.counts)) if self.sequential else 1
        )  # what is held out judges the asymmetric target
        parts = [MomentsAccumulator(groups, k, cross=self.sequential, shifted=True) for _ in range(halves)]
        added = self._added(layer)
        for batch, exact, quantized in self.rows(layer):
            total = parts[batch % len(parts)]
            if quantized is None:
                total.update(exact)
                continue
            residual = None
            if added is not None:
                exact_sum, quantized_sum = (
                    self._drawn(layer.output_rows, layer, self.pair.get(stream, added, batch), batch)
                    for stream in (FLOAT, QUANTIZED)
                )
                residual = exact_sum - quantized_sum
            total.update(quantized, exact - quantized, residual)
        first, *second = [part.moments() for part in parts]
        return Moments.joined(first, second[0]) if second else first

    def _added(self, layer: Linear) -> str | None:
        """The tensor that an Add adds to the layer's output, and only to it, if both streams have it by now."""
        graph = self.model.graph
        readers = [node for node in graph.nodes if any(tensor.name == layer.output for tensor in node.inputs)]
        if len(readers) != 1 or readers[0].op != "Add" or any(out.name == layer.output for out in graph.outputs):
            return None
        others = [str(tensor.name) for tensor in readers[0].inputs if tensor.name != layer.output]
        if len(others) != 1 or any((stream, others[0]) not in self.cache for stream in (FLOAT, QUANTIZED)):
            return None
        read = self.cache.get(FLOAT, layer.input, 0)
        same = self.cache.get(FLOAT, others[0], 0).shape == layer.output_shape(read.shape)
        return others[0] if same else None
