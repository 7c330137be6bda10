"""Learned rounding over a network: block by block, each on the inputs that the blocks before really produce.

As in `converter.calibration.sequential` two streams run side by side, the float network's and the quantized network's as it will be
deployed; here a step is a block, and what solves it is `converter.learn.rounding.rounding`.

GPTQ's codes make up for what the layers before them get wrong. A block that has learned gets other things wrong, so the
layers behind it are solved again before they learn in their turn.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch

from converter.calibration.activation_cache import ActivationCache
from converter.calibration.correction import exact_model, write_exact
from converter.calibration.paired_run import FLOAT, QUANTIZED, PairedRun
from converter.calibration.segments import Segment, cut, submodel
from converter.calibration.sequential import SequentialCalibration, solve_layer
from converter.data.dataset import Dataset
from converter.learn.device import find_device
from converter.learn.graph.program import Program, unsupported
from converter.learn.graph.spatial import NoTorchForm
from converter.learn.held_out import hold_out
from converter.learn.rounding.blocks import blocks, join, sole_boundaries
from converter.learn.rounding.fake_quantize import LearnedWeight, QuantizedBlock
from converter.learn.rounding.network_check import Snapshot, network_db
from converter.learn.rounding.outcomes import BlockOutcomes
from converter.learn.rounding.rounding import Outcome, learn
from converter.learn.rounding.samples import Samples, looks_around, run_in_batches, windows
from converter.qdq.floats import float_model
from converter.qdq.writer import runs_on_integers
from converter.runtime.session import Progress, open_session
from passes.base import LayerPass
from passes.errors import QuantizationError
from passes.ir.linear import Linear
from passes.ir.model import Model
from passes.numerics.grid import Floats
from passes.report import Change, PassReport
from passes.weights.learned_rounding import LearnedRounding

__all__ = ["refine_blocks"]

_REJECTED = "blocks gained, the network did not ({:.2f} -> {:.2f} dB on held-out images)"


def refine_blocks(
    model: Model,
    settings: LearnedRounding,
    data: Dataset,
    progress: Progress,
    *,
    solver: LayerPass | None,
    budget: int,
    seed: int,
) -> PassReport:
    """Refine the codes, scales and biases of every block that gains from it; of none if the network does not gain.

    Args:
        model: quantized by a layer pass; changed in place.
        settings: the pass.
        data: calibration data.
        progress: called after every block.
        solver: the layer pass, which solves the layers behind a block that learned again. None: they stay, so what a
            block gains may be what they made up for, and the network is asked after every block.
        budget: bytes of activations held in memory before they go to files.
        seed: of the images held out, the windows and the batches.

    Raises:
        QuantizationError: nothing is quantized yet, or there is no CUDA device where one is asked for.
    """
    started = time.perf_counter()
    layers = {name: layer for name, layer in model.layers().items() if name in model.quantized}
    if not layers or not all(name in model.float_weights for name in layers):
        raise QuantizationError(f"{settings.name} refines quantized layers; put it after gptq or rtn in the recipe")
    device = find_device(settings.device, settings.name)
    start, outcomes = Snapshot(model, layers), BlockOutcomes(dict(model.float_reasons))
    judge_budget = round(budget * settings.held_out)
    with ActivationCache(budget - judge_budget) as train_cache, ActivationCache(judge_budget) as judge_cache:
        network = _Network(model, layers, data, (train_cache, judge_cache), settings.held_out, seed)
        before = best = network.decibels()
        pieces = network.pieces(settings)
        for index, piece in enumerate(pieces):
            outcomes.solved |= network.enter(piece, solver)
            inside = {name: layers[name] for name in piece.whole.nodes if name in layers}
            held = Snapshot(model, inside)
            found = network.refine(piece.whole, inside, settings, device, index) if inside else ""
            learned = isinstance(found, Outcome) and found.improved
            if learned and solver is None:
                after = network.decibels()
                if after > best:
                    best = after
                else:
                    held.restore(model)
                    learned, found = False, _REJECTED.format(best, after)
            outcomes.take(found, inside)
            network.leave(piece, learned)
            progress(settings.name, index + 1, len(pieces))
        after = best if solver is None else network.decibels()
    if outcomes.learned and not after > before:
        start.restore(model)
        outcomes.put_back(_REJECTED.format(before, after))
    notes = [
        f"{len(outcomes.learned)} of {len(layers)} layers learned; {settings.steps} steps a block on {device.type}"
    ]
    behind = len(outcomes.solved.keys() - outcomes.learned.keys())
    if behind:
        notes.append(f"{behind} more were solved again behind them")
    if outcomes.learned:
        notes.append(f"outputs of the network {before:.2f} -> {after:.2f} dB on held-out images")
    seconds = time.perf_counter() - started
    return PassReport(settings.name, outcomes.changed(), outcomes.skipped(), tuple(notes), seconds)


@dataclass(frozen=True)
class _Piece:
    """What is learned together, and the segments that it consists of."""

    whole: Segment
    parts: Sequence[Segment]


class _Network:
    """Both streams, of the images that are learned from and of those that judge, and the block that is learned."""

    def __init__(
        self,
        model: Model,
        layers: dict[str, Linear],
        data: Dataset,
        cache: tuple[ActivationCache, ActivationCache],
        held_out: float,
        seed: int,
    ) -> None:
        self.model, self.layers, self.seed = model, layers, seed
        self.exact = exact_model(model)
        split = hold_out(len(data), held_out, seed)
        self.judge_images = data.select(split.judge)
        self.calibration = SequentialCalibration(
            model, self.exact, layers, data.select(split.train), cache[0], seed=seed
        )
        self.train, self.judge = self.calibration.pair, PairedRun(model, self.exact, self.judge_images, cache[1])
        self.moved = set[str]()  # tensors that are no longer what they were in the quantized network

    def decibels(self) -> float:
        """Signal to noise of the network's outputs on the images that judge."""
        return network_db(self.model, self.exact, self.judge_images)

    def pieces(self, settings: LearnedRounding) -> list[_Piece]:
        """The network in blocks; graph outputs count as outputs of the block that writes them."""
        segments = cut(self.model.graph, self.layers)
        if settings.granularity == "network":
            found = [segments]
        elif settings.granularity == "layer":
            found = [[segment] for segment in segments]
        else:
            found = blocks(segments, self._sizes(set(sole_boundaries(segments).values())), settings.layers_per_block)
        graph_outputs = [str(tensor.name) for tensor in self.model.graph.outputs]
        written = {str(node.name): [str(tensor.name) for tensor in node.outputs] for node in self.model.graph.nodes}
        result = []
        for parts in found:
            whole = join(parts)
            makes = {name for node in whole.nodes for name in written[node]}
            outputs = dict.fromkeys([*whole.outputs, *(name for name in graph_outputs if name in makes)])
            result.append(_Piece(replace(whole, outputs=tuple(outputs)), parts))
        return result

    def enter(self, piece: _Piece, solver: LayerPass | None) -> dict[str, Change]:
        """Run a block, whose inputs are held; what a ``solver`` made of its layers behind those that learned."""
        changed = {}
        for segment in piece.parts:
            if self.moved.intersection(segment.inputs):
                self.moved.update(segment.outputs)
                if solver is not None and segment.layer is not None:
                    changed[segment.layer] = self._solve(solver, self.layers[segment.layer])
            for pair in (self.train, self.judge):
                pair.advance(segment, held=piece.whole.inputs)
        return changed

    def leave(self, piece: _Piece, learned: bool) -> None:
        """Bring the block's outputs up to what it has learned, and forget what it was the last to read."""
        if learned:
            self.moved.update(piece.whole.outputs)
        for pair in (self.train, self.judge):
            if learned:
                pair.again(piece.whole)
            pair.forget(piece.whole.released)

    def _solve(self, solver: LayerPass, layer: Linear) -> Change:
        """The layer once more, from its float weight."""
        held = self.model.quantized[layer.name]
        write_exact(self.model, layer, self.model)
        found = solve_layer(self.model, solver, layer, held.grid.bits, self.calibration.moments(layer))
        return Change(f"solved again behind layers that learned, {found.what}", held.sqnr_db, found.after_db)

    def refine(
        self, piece: Segment, inside: dict[str, Linear], settings: LearnedRounding, device: torch.device, index: int
    ) -> Outcome | str:
        """Learn one block and write what it gained into the model; a reason where that cannot be done."""
        nodes = [self.model.node(name) for name in piece.nodes]
        reason = unsupported(nodes)
        if reason:
            return reason
        first = {name: self.train.get(FLOAT, name, 0) for name in piece.inputs}
        if any(values.dtype != np.float32 for values in first.values()):
            return "the block reads tensors that are not float"
        program = Program(submodel(self.exact, piece, self.train.kinds).graph, device)
        side = settings.window if looks_around(nodes, first) else None
        seed = self.seed + index
        try:
            train, held_out = (_samples(pair, piece, program, side, seed, device) for pair in (self.train, self.judge))
        except NoTorchForm as error:
            return f"{error} has no differentiable form"
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:  # shapes that hold for one size of batch
            return f"torch cannot run the block on {sum(self.train.counts)} images: {str(error).splitlines()[0]}"
        if any(len(value) != len(train) for value in train.target.values()):
            return "the block's outputs do not have one entry for every image"
        block = self._block(piece, inside, program, train, device)
        outcome = learn(block, train, held_out, settings, seed)
        if outcome.improved:
            for weight in block.learned():
                weight.write(self.model)
        return outcome

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
            step = (
                float(self.model.activation_qparams[layer.input].scale) if runs_on_integers(self.model, layer) else None
            )
            bias = self.model.bias(layer)
            weights.append(LearnedWeight(layer, held.codes, held.grid, bias, unit, step).to(device))
        made = {str(tensor.name) for name in piece.nodes for tensor in self.model.node(name).outputs}
        ranges = {name: grid for name, grid in self.model.activation_qparams.items() if name in made}
        return QuantizedBlock(program, weights, ranges)

    def _sizes(self, names: set[str]) -> dict[str, int]:
        """Elements per image of tensors of the float network."""
        proto = float_model(self.exact.graph)
        inputs = [value.name for value in proto.graph.input]
        feeds = {name: self.train.cache.get(FLOAT, name, 0) for name in inputs}
        wanted = sorted(names - set(inputs))
        del proto.graph.output[:]
        proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)
        found = open_session(proto).run(wanted, feeds) if wanted else []
        return {name: values.size // len(values) for name, values in [*feeds.items(), *zip(wanted, found, strict=True)]}


def _samples(
    pair: PairedRun, piece: Segment, program: Program, side: int | None, seed: int, device: torch.device
) -> Samples:
    """A block's inputs in both streams, and what the float block makes of them."""
    quantized, exact = (
        windows({name: _all(pair, stream, name) for name in piece.inputs}, side, device, seed)
        for stream in (QUANTIZED, FLOAT)
    )
    return Samples(quantized, exact, run_in_batches(program, exact))


def _all(pair: PairedRun, stream: str, name: str) -> Floats:
    """A tensor for all images."""
    whole: Floats = np.concatenate([pair.get(stream, name, batch) for batch in range(len(pair.counts))])
    return whole
