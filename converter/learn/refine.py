"""Learned rounding over a network: block by block, each on the inputs that the blocks before really produce.

As in `converter.walk` two streams run side by side, the float network's and the quantized network's as it will be
deployed; here a step is a block, and what solves it is `converter.learn.rounding`.
"""

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from converter.correct import exact_model
from converter.data import Dataset
from converter.emit.floats import float_model
from converter.emit.qdq import runs_on_integers
from converter.learn.blocks import blocks, join, sole_boundaries
from converter.learn.device import find_device
from converter.learn.fake_quantize import LearnedWeight, QuantizedBlock
from converter.learn.held_out import hold_out
from converter.learn.judge import Snapshot, network_db
from converter.learn.program import Program, unsupported
from converter.learn.rounding import Outcome, learn
from converter.learn.samples import Samples, looks_around, run_in_batches, windows
from converter.learn.spatial import NoTorchForm
from converter.runtime import Progress, open_session
from converter.segments import Segment, cut, submodel
from converter.stream_pair import FLOAT, QUANTIZED, StreamPair
from converter.streams import Streams
from passes.base import Change, Model, PassReport
from passes.errors import QuantizationError
from passes.learned_rounding import LearnedRounding
from passes.linear import Linear
from passes.numerics.grid import Floats

__all__ = ["refine_blocks"]

_REJECTED = "its block gained, the network did not ({:.2f} -> {:.2f} dB on held-out images)"


def refine_blocks(
    model: Model, settings: LearnedRounding, data: Dataset, progress: Progress, *, budget: int, seed: int
) -> PassReport:
    """Refine the codes, scales and biases of every block that gains from it.

    Args:
        model: quantized by a layer pass; changed in place.
        settings: the pass.
        data: calibration data.
        progress: called after every block.
        budget: bytes of activations held in memory before they go to files.
        seed: of the images held out, the windows and the batches.

    Raises:
        QuantizationError: nothing is quantized yet, or there is no CUDA device where one is asked for.
    """
    started = time.perf_counter()
    layers = {name: layer for name, layer in model.layers().items() if name in model.quantized}
    if not layers or not all(name in model.exact for name in layers):
        raise QuantizationError(f"{settings.name} refines quantized layers; put it after gptq or rtn in the recipe")
    device = find_device(settings.device, settings.name)
    changed: dict[str, Change] = {}
    skipped = dict(model.kept)
    with Streams(budget) as streams:
        network = _Network(model, layers, data, streams, settings.held_out, seed)
        before = best = network_db(model, network.exact, data, network.split.judge)
        pieces = network.pieces(settings)
        for index, piece in enumerate(pieces):
            inside = {name: layers[name] for name in piece.nodes if name in layers}
            if inside:
                snapshot = Snapshot(model, inside)
                found = network.refine(piece, inside, settings, device, index)
                if not isinstance(found, str) and found.improved:
                    after = network_db(model, network.exact, data, network.split.judge)
                    if after > best:
                        best = after
                    else:
                        snapshot.restore(model)
                        found = _REJECTED.format(best, after)
                _report(found, inside, changed, skipped)
            progress(settings.name, index + 1, len(pieces))
            if piece is not pieces[-1]:
                network.pair.advance(piece)
    gained = sum(1 for name in layers if name in changed)
    notes = [f"{gained} of {len(layers)} layers gained; {settings.steps} steps a block on {device.type}"]
    if changed:
        notes.append(f"outputs of the network {before:.2f} -> {best:.2f} dB on held-out images")
    return PassReport(settings.name, changed, skipped, tuple(notes), time.perf_counter() - started)


def _report(
    outcome: Outcome | str, inside: Mapping[str, Linear], changed: dict[str, Change], skipped: dict[str, str]
) -> None:
    if isinstance(outcome, str):
        skipped.update(dict.fromkeys(inside, outcome))
        return
    size = "" if len(inside) == 1 else f" with {len(inside) - 1} more"
    text = f"{outcome.moved} codes moved, {outcome.before_db:.2f} -> {outcome.after_db:.2f} dB on held-out images"
    for name in inside:
        if outcome.improved:
            changed[name] = Change(f"learned{size}, {text}", outcome.before_db, outcome.after_db)
        else:
            skipped[name] = f"learning gained nothing ({outcome.before_db:.2f} dB on held-out images)"


class _Network:
    """Both streams, and the block that is being learned."""

    def __init__(
        self, model: Model, layers: dict[str, Linear], data: Dataset, streams: Streams, held_out: float, seed: int
    ) -> None:
        self.model, self.layers, self.seed = model, layers, seed
        self.exact = exact_model(model)
        self.pair = StreamPair(model, self.exact, data, streams)
        self.split = hold_out(len(data), held_out, seed)

    def pieces(self, settings: LearnedRounding) -> list[Segment]:
        """The network in blocks; graph outputs count as outputs of the block that writes them."""
        segments = cut(self.model.graph, self.layers)
        if settings.granularity == "network":
            found = [join(segments)]
        elif settings.granularity == "layer":
            found = [join([segment]) for segment in segments]
        else:
            found = blocks(segments, self._sizes(set(sole_boundaries(segments).values())), settings.layers_per_block)
        graph_outputs = [str(tensor.name) for tensor in self.model.graph.outputs]
        written = {str(node.name): [str(tensor.name) for tensor in node.outputs] for node in self.model.graph.nodes}
        result = []
        for piece in found:
            makes = {name for node in piece.nodes for name in written[node]}
            outputs = dict.fromkeys([*piece.outputs, *(name for name in graph_outputs if name in makes)])
            result.append(replace(piece, outputs=tuple(outputs)))
        return result

    def refine(
        self, piece: Segment, inside: dict[str, Linear], settings: LearnedRounding, device: torch.device, index: int
    ) -> Outcome | str:
        """Learn one block and write what it gained into the model; a reason where that cannot be done."""
        nodes = [self.model.node(name) for name in piece.nodes]
        reason = unsupported(nodes)
        if reason:
            return reason
        exact = {name: self._all(FLOAT, name) for name in piece.inputs}
        quantized = {name: self._all(QUANTIZED, name) for name in piece.inputs}
        if any(values.dtype != np.float32 for values in exact.values()):
            return "the block reads tensors that are not float"
        program = Program(submodel(self.exact, piece, self.pair.kinds).graph, device)
        side = settings.window if looks_around(nodes, exact) else None
        seed = self.seed + index
        split = self.split
        try:
            train, held_out = (
                self._samples(program, exact, quantized, part, side, seed, device)
                for part in (split.train, split.judge)
            )
        except NoTorchForm as error:
            return f"{error} has no differentiable form"
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:  # shapes that hold for one size of batch
            return f"torch cannot run the block on {len(split.train)} images: {str(error).splitlines()[0]}"
        if any(len(value) != len(train) for value in train.target.values()):
            return "the block's outputs do not have one entry for every image"
        block = self._block(piece, inside, program, train, device)
        outcome = learn(block, train, held_out, settings, seed)
        if outcome.improved:
            for weight in block.learned():
                weight.write(self.model)
        return outcome

    def _samples(
        self,
        program: Program,
        exact: dict[str, Floats],
        quantized: dict[str, Floats],
        images: NDArray[np.intp],
        side: int | None,
        seed: int,
        device: torch.device,
    ) -> Samples:
        parts = [
            windows({name: values[images] for name, values in stream.items()}, side, device, seed)
            for stream in (quantized, exact)
        ]
        return Samples(parts[0], parts[1], run_in_batches(program, parts[1]))

    def _block(
        self, piece: Segment, inside: dict[str, Linear], program: Program, train: Samples, device: torch.device
    ) -> QuantizedBlock:
        writers, spread = {layer.output: layer for layer in inside.values()}, dict[str, Floats]()

        def measure(name: str, value: torch.Tensor) -> torch.Tensor:
            if name in writers:
                axis = 1 if writers[name].kernel else value.ndim - 1  # of the channels
                axes = [other for other in range(value.ndim) if other != axis]
                spread[name] = value.std(dim=axes, unbiased=False).cpu().numpy()
            return value

        with torch.no_grad():
            program({name: value[:32] for name, value in train.exact.items()}, after=measure)
        weights = []
        for name, layer in inside.items():
            held = self.model.quantized[name]
            unit = spread[layer.output].reshape(layer.matrix_shape[:2])
            step = float(self.model.ranges[layer.input].scale) if runs_on_integers(self.model, layer) else None
            bias = self.model.bias(layer)
            weights.append(LearnedWeight(layer, held.codes, held.grid, bias, unit, step).to(device))
        made = {str(tensor.name) for name in piece.nodes for tensor in self.model.node(name).outputs}
        ranges = {name: grid for name, grid in self.model.ranges.items() if name in made}
        return QuantizedBlock(program, weights, ranges)

    def _sizes(self, names: set[str]) -> dict[str, int]:
        """Elements per image of tensors of the float network."""
        proto = float_model(self.exact.graph)
        inputs = [value.name for value in proto.graph.input]
        feeds = {name: self.pair.streams.get(FLOAT, name, 0) for name in inputs}
        wanted = sorted(names - set(inputs))
        del proto.graph.output[:]
        proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)
        found = open_session(proto).run(wanted, feeds) if wanted else []
        return {name: values.size // len(values) for name, values in [*feeds.items(), *zip(wanted, found, strict=True)]}

    def _all(self, stream: str, name: str) -> Floats:
        parts = [self.pair.get(stream, name, batch) for batch in range(len(self.pair.counts))]
        whole: Floats = np.concatenate(parts)
        return whole
